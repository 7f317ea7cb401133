"""A stateful service as a real process on a real Kafka: killed after every step of the protocol, stopped."""

import json
import signal
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from support.brokers import KafkaUnderTest, read_all
from support.counting import expected
from support.countingruns import Traffic, create_topics, process
from support.polling import eventually
from tidemill.runtime.transaction import Step

pytestmark = pytest.mark.kafka


def url_of(tmp_path: Path) -> str:
    return str(json.loads((tmp_path / "endpoint.json").read_bytes())["url"])


def ask(url: str) -> tuple[int, dict[str, object]]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, json.loads(answer.read())
    except urllib.error.HTTPError as refusal:
        with refusal:
            return refusal.code, json.loads(refusal.read())


def ready(tmp_path: Path) -> bool:
    return (tmp_path / "endpoint.json").exists() and ask(url_of(tmp_path) + "/readyz")[0] == 200


@pytest.mark.parametrize(
    ("protocol", "steps"),
    [("classic", list(Step)[:6]), ("consumer", [Step.PRODUCED, Step.OFFSETS_SENT])],
    ids=["classic", "consumer"],
)
def test_killed_after_any_step_it_neither_loses_nor_repeats(
    kafka: str, unique: str, tmp_path: Path, protocol: str, steps: list[Step]
) -> None:
    broker = KafkaUnderTest(kafka)
    create_topics(broker, unique)
    traffic = Traffic(broker, unique)
    for step in steps:
        traffic.send(300)
        count = "40" if step is Step.POLLED else "2"
        settings = {"TIDEMILL_GROUP_PROTOCOL": protocol, "TOY_KILL": f"{step.value}:{count}"}
        with process(tmp_path, kafka, unique, **settings) as victim:
            assert victim.wait(40) == -signal.SIGKILL, (tmp_path / "process.log").read_text()
    traffic.send(300)
    with process(tmp_path, kafka, unique, TIDEMILL_GROUP_PROTOCOL=protocol) as survivor:
        eventually(lambda: len(traffic.arrived(kafka, unique)) >= len(traffic.sent), within_s=40.0)
        survivor.terminate()
        assert survivor.wait(20) == 0, (tmp_path / "process.log").read_text()
    assert traffic.arrived(kafka, unique) == expected(traffic.sent)
    state = {record.key: record.value for record in read_all(kafka, f"{unique}-state")}
    counts = {key: sum(sent == key for sent, _ in traffic.sent) for key in {key for key, _ in traffic.sent}}
    assert state == {key: b"%d" % count for key, count in counts.items()}


def test_it_waits_for_its_topics_and_says_so(kafka: str, unique: str, tmp_path: Path) -> None:
    with process(tmp_path, kafka, unique) as waiting:
        eventually((tmp_path / "endpoint.json").exists)
        status, answer = ask(url_of(tmp_path) + "/livez")
        assert (status, answer["alive"]) == (200, True)
        eventually(lambda: f"{unique}-in" in str(ask(url_of(tmp_path) + "/readyz")[1]["reason"]))
        assert ask(url_of(tmp_path) + "/readyz")[0] == 503
        create_topics(KafkaUnderTest(kafka), unique)
        eventually(lambda: ready(tmp_path))
        waiting.terminate()
        assert waiting.wait(20) == 0


def test_a_second_process_with_the_same_instance_leaves_one_alive_and_the_result_exact(
    kafka: str, unique: str, tmp_path: Path
) -> None:
    broker = KafkaUnderTest(kafka)
    create_topics(broker, unique)
    traffic = Traffic(broker, unique)
    traffic.send(100)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with process(tmp_path / "one", kafka, unique) as first:
        eventually(lambda: len(traffic.arrived(kafka, unique)) >= 100)
        with process(tmp_path / "two", kafka, unique) as second:

            def one_has_left() -> bool:
                traffic.send(10)
                return first.poll() is not None or second.poll() is not None

            eventually(one_has_left, within_s=40.0, every_s=0.1)
            codes = {first.poll(), second.poll()} - {None}
            logs = (tmp_path / "one" / "process.log").read_text() + (tmp_path / "two" / "process.log").read_text()
            assert codes == {4}, logs
            eventually(lambda: len(traffic.arrived(kafka, unique)) >= len(traffic.sent), within_s=40.0)
    assert traffic.arrived(kafka, unique) == expected(traffic.sent)
