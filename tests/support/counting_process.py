"""The counting service as a process of its own, which kills itself after the n-th time of a protocol step if told to.

Environment: TIDEMILL_* as any service, TOY_PREFIX for the topics, TOY_KILL as `step:count`.
"""

import os
import signal
import sys
from threading import Event

from support.counting import Counting
from tidemill.runtime.config import RuntimeConfig, load_config
from tidemill.runtime.health import Health, serve_http
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.kafka import KafkaClient, KafkaIdentity
from tidemill.runtime.logs import configure_logs
from tidemill.runtime.loop import Loop
from tidemill.runtime.metrics import Metrics
from tidemill.runtime.run import ServiceSpec, run_service
from tidemill.runtime.transaction import Step


def spec(prefix: str) -> ServiceSpec:
    return ServiceSpec(prefix, "count", (InputTopic(f"{prefix}-in"),), f"{prefix}-dlq", f"{prefix}-state")


def main() -> int:
    config = load_config(RuntimeConfig)
    prefix = os.environ["TOY_PREFIX"]
    health = Health("count", Metrics({"pipeline": prefix, "service": "count"}), config.instance)
    service = Counting(f"{prefix}-out")
    kill = os.environ.get("TOY_KILL")
    if kill is None:
        server = serve_http(config, health)
        code = run_service(spec(prefix), config, service, health)
        server.close()
        return code
    configure_logs(config.log_level, config.log_format)
    identity = KafkaIdentity(
        config.bootstrap_servers, spec(prefix).group, config.instance, config.group_protocol, config.kafka_options
    )
    loop = Loop(KafkaClient(identity), service, spec(prefix), config, health)
    loop.after_step = suicide(*map(int, kill.split(":")))
    return loop.run(Event())


def suicide(step: int, count: int):
    left = count

    def after(done: Step) -> None:
        nonlocal left
        left -= done == step
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return after


if __name__ == "__main__":
    sys.exit(main())
