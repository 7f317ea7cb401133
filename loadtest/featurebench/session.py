"""One call of the benchmark: environments, broker, the workloads asked for, the report, and all of it stopped."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from featurebench import arguments, contestants, environments, fraudrun, latencyrun, machinefacts
from featurebench.arguments import Options
from featurebench.contest import WARM_UP, Contest
from featurebench.feeding import Feeder
from featurebench.measuring import Bench, say
from featurebench.report import show
from featurebench.stream import draw
from featurebench.usage import require_proc
from tidemill.errors import EnvironmentUnusable, TidemillError
from tidemill.features.kernel_cache import prepare_cache
from tidemill.local.kafka import LocalKafka

_INTERRUPTED = 130


def main(given: Sequence[str], doc: str | None = None) -> int:
    """The exit code: 0 where every output of every run was right, 1 where one was not."""
    options = arguments.parse(given, doc)
    # The `finally` of whatever runs stops what it started. Said for SIGINT too: a shell may have it ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="tidemill-features-"))
    kept = options.keep
    try:
        results = run(options, folder)
    except TidemillError as error:
        kept = True
        say(f"error: {error.message}\nhint: {error.hint}\nlogs: {folder / 'logs'}")
        return error.exit_code
    except KeyboardInterrupt:
        say("stopped")
        return _INTERRUPTED
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps(results) if options.as_json else show(results))
    return 0 if results["all_right"] else 1


def run(options: Options, folder: Path) -> dict[str, Any]:
    """Everything that was asked for. Raises TidemillError, or KeyboardInterrupt; nothing runs on after either."""
    require_proc()
    contests = [workload for workload in options.workloads if workload in ("b1", "b2")]
    peers = [contestants.PEERS[name] for name in (options.peers if contests else ())]
    places = {peer.name: environments.prepare(peer, options.environments, say) for peer in peers}
    _compile_kernels()
    results: dict[str, Any] = {
        "machine": machinefacts.facts(),
        "peers": {
            name: {"requirements": contestants.PEERS[name].requirements, "installed": environments.installed(place)}
            for name, place in places.items()
        },
        "options": {"rounds": options.rounds, "events": options.events, "seed": options.seed},
        "ratios": {},
        "workloads": {},
    }
    with LocalKafka(folder / "kafka", report=say, heap_mb=1024) as broker:
        assert broker.pid is not None
        feeder = Feeder(broker.bootstrap_servers, "features-benchmark", options.compression)
        bench = Bench(broker.bootstrap_servers, broker.pid, folder, feeder, options.seconds)
        for workload in options.workloads:
            found = _WORKLOADS[workload](options, bench, places)
            if "ratios" in found:
                results["ratios"][workload] = found.pop("ratios")
            results["workloads"][workload] = found
    results["machine"]["load_average_after"] = machinefacts.load_average()
    results["all_right"] = all(found.get("all_right", True) for found in results["workloads"].values())
    return results


_TAKEOVER_KEYS = 50_000


def _contest(workload: str) -> Callable[[Options, Bench, dict[str, Path]], dict[str, Any]]:
    def run_contest(options: Options, bench: Bench, places: dict[str, Path]) -> dict[str, Any]:
        events = draw(WARM_UP + options.events, options.keys, options.seed)
        return Contest(workload, events, places, options.rounds, options.compression).run(bench)

    return run_contest


def _fraud(options: Options, bench: Bench, _: dict[str, Path]) -> dict[str, Any]:
    return fraudrun.run(bench, options.events, options.rounds, options.seed, options.compression)


def _engine(options: Options, bench: Bench, _: dict[str, Path]) -> dict[str, Any]:
    # numba reads where its cache is when it is imported, so that comes first.
    prepare_cache(os.environ, folder=None, seed=None, fallback=bench.folder / "kernels")
    from featurebench import enginerun, restorerun

    found = enginerun.run(options.events, options.wide_keys, options.seed)
    restore = restorerun.run(bench, options.restore_keys, options.compression)
    takeover = restorerun.take_over(bench, min(options.restore_keys, _TAKEOVER_KEYS), options.compression)
    found["figures"]["restore_seconds"] = restore["service_restore_seconds"]
    found["figures"]["takeover_seconds_from_assignment"] = takeover["seconds_from_assignment"]
    all_right = restore["all_right"] and takeover["all_right"]
    return {**found, "restore": restore, "takeover": takeover, "all_right": all_right}


def _latency(options: Options, bench: Bench, _: dict[str, Path]) -> dict[str, Any]:
    return latencyrun.run(bench, options.seconds, options.keys, options.seed, options.compression)


_WORKLOADS: dict[str, Callable[[Options, Bench, dict[str, Path]], dict[str, Any]]] = {
    "b1": _contest("b1"),
    "b2": _contest("b2"),
    "b3": _fraud,
    "engine": _engine,
    "latency": _latency,
}


def _compile_kernels() -> None:
    """Once a version and machine, so that no measured process does it."""
    result = subprocess.run([sys.executable, "-m", "tidemill.features.warmup"], capture_output=True, text=True)
    if result.returncode != 0:
        last = (result.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise EnvironmentUnusable(
            f"The feature kernels could not be compiled: {last}",
            hint="Install the extra: pip install -e '.[features]'.",
        )
