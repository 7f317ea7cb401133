"""SIGKILL of each service in mid-stream, one after the other: the audit of what was committed finds no difference."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from support.polling import eventually
from tidemill.local.auditor import Auditor
from tidemill.local.stack import Stack, StackSettings
from tidemill.local.supervisor import NEVER, ServiceCommand, Supervisor
from tidemill.scenarios import catalog

pytestmark = [pytest.mark.system, pytest.mark.kafka, pytest.mark.timeout(600)]

STREAM: dict[str, str | int | float | bool] = {
    "pipeline": "fraud",
    "customers": 500,
    "terminals": 1_000,
    "days": 40,
    "days_per_minute": 16,
    "bad_share": 0.02,
}


@contextmanager
def audit(stack: Stack, folder: Path) -> Iterator[Auditor]:
    auditor = Auditor(stack.bootstrap_servers, "fraud", folder / "audit.log")
    try:
        yield auditor
    finally:
        auditor.close()


def all_ready(stack: Stack) -> bool:
    """Also restarts what was killed: the supervisor acts when it is asked."""
    stack.watch()
    samples = stack.samples()
    return len(samples) == len(stack.supervisor.names) and all(sample.state == "ready" for sample in samples)


def flows_on(auditor: Auditor) -> None:
    """Wait for some more predictions, so that the next kill hits a moving stream."""
    wanted = auditor.progress()["predictions"] + 200
    eventually(lambda: auditor.progress()["predictions"] > wanted, within_s=120)


def test_a_sigkill_of_each_service_in_mid_stream_loses_and_repeats_nothing(tmp_path: Path) -> None:
    summary_file = tmp_path / "producer.json"
    with (
        Stack(StackSettings("fraud", tmp_path / "data"), lambda message: None) as stack,
        audit(stack, tmp_path) as auditor,
    ):
        stack.wait_ready()
        producer = Supervisor(tmp_path, NEVER)
        options = STREAM | {"bootstrap_servers": stack.bootstrap_servers, "summary_file": str(summary_file)}
        producer.start([ServiceCommand("producer", catalog.get("fraud").producer_command(options))])
        for name in stack.supervisor.names:
            flows_on(auditor)
            stack.supervisor.kill(name)
            eventually(lambda: all_ready(stack), within_s=120)
            assert stack.supervisor.restarts(name) == 1

        eventually(lambda: any(ended.status == 0 for ended in producer.poll()), within_s=240)
        sent = orjson.loads(summary_file.read_bytes())
        eventually(lambda: auditor.progress()["predictions"] >= sent["payments"], within_s=120)
        eventually(lambda: auditor.progress()["outcomes"] > 0, within_s=60)
        report: dict[str, Any] = auditor.report()

    assert (report["missing"], report["repeated"], report["foreign"], report["unnamed"]) == (0, 0, 0, 0), report
    assert report["events"] == report["predictions"] == sent["payments"]
    assert report["dlq"] == {code: count for code, count in sent["dead_letters"].items() if count}
    assert report["duplicates"] == sent["duplicates"]
