"""Nothing but bad records for a while, until the breaker stops ingest; then an operator's remedy."""

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from chaosharness.fleet import Fleet
from chaosharness.schedule import Fault
from tidemill import clock
from tidemill.errors import BreakerOpen
from tidemill.local.supervisor import ServiceCommand
from tidemill.runtime.kafka import PlainProducer, TopicReader, group_offsets
from tidemill.runtime.pipelinefile import pipeline_text
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import OutRecord

CODE = "not_json"
_INGEST = "ingest"
_RECORDS = 8_000
_OLD_MS = 1
"""Older than everything, so that the merge in time order lets them go at once; 0 would mean now."""
_STOPS_WITHIN_S = 60.0
_GOES_ON_WITHIN_S = 60.0
_BREAKER = "breaker: {window_records: 2000, max_invalid_share: 0.5}"


class Poison:
    """`sent` counts the records, all of which must become dead letters in the end."""

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self._fleet = fleet
        self._folder = folder
        self.sent = 0

    def burst(self, fault: Fault) -> bool:
        """Returns once ingest has stopped, was started with a breaker that lets more through, has put all of it aside,
        and goes on with the breaker that it had."""
        fleet, stack = self._fleet, self._fleet.stack
        ends = self._send(stack.bootstrap_servers)
        opened = fleet.wait_for(
            lambda entries: any(entry.kind == "exit" and entry.service == _INGEST for entry in entries), _STOPS_WITHIN_S
        )
        opened = opened and fleet.exits[-1].status == BreakerOpen.exit_code
        if opened:
            fleet.journal.write("breaker")
        self._restart(self._remedied())
        past = self._comes_past(ends)
        self._restart(stack.command(_INGEST, _INGEST))
        went_on = fleet.wait_for(
            lambda entries: any(entry.kind == "first_commit" and entry.service == _INGEST for entry in entries),
            _GOES_ON_WITHIN_S,
        )
        return opened and past and went_on

    def _restart(self, command: ServiceCommand) -> None:
        self._fleet.stack.supervisor.stop([_INGEST])
        self._fleet.stack.supervisor.start([command])

    def _comes_past(self, ends: Mapping[Partition, int]) -> bool:
        """Wait until ingest has committed what lies before `ends`."""
        stack, until = self._fleet.stack, clock.monotonic() + _GOES_ON_WITHIN_S
        while clock.monotonic() < until:
            committed = group_offsets(stack.bootstrap_servers, {}, f"{stack.pipeline.name}-{_INGEST}", ends)
            if all((committed.get(at) or 0) >= end for at, end in ends.items()):
                return True
            self._fleet.wait(1.0)
        return False

    def _send(self, bootstrap_servers: str) -> Mapping[Partition, int]:
        """Where the topic's partitions end behind it."""
        topic = next(source.topic for source in self._fleet.stack.pipeline.ingest.sources if source.kind == "event")
        assert topic is not None
        producer = PlainProducer(bootstrap_servers)
        for number in range(_RECORDS):
            producer.send(OutRecord(topic, b"poison-%d" % number, b"{poison %d" % number, _OLD_MS))
        producer.flush()
        self.sent += _RECORDS
        with closing(TopicReader(bootstrap_servers, [topic])) as reader:
            return reader.end_offsets()

    def _remedied(self) -> ServiceCommand:
        """Ingest with a pipeline file whose breaker never opens; everything else of it is the same."""
        stack = self._fleet.stack
        text, _ = pipeline_text(stack.settings.pipeline)
        assert _BREAKER in text, "the pipeline's breaker is written otherwise now"
        file = self._folder / "remedied.yaml"
        file.write_text(text.replace(_BREAKER, _BREAKER.replace("0.5", "1.0")), "utf-8")
        command = stack.command(_INGEST, _INGEST)
        return ServiceCommand(command.name, command.args, {**command.env, "TIDEMILL_PIPELINE": str(file)})
