"""Faust's consumer, reading committed records only.

Faust asks for `read_committed` only with its own `exactly_once`, which is not used here. But drift writes its topic in
transactions: without this an alarm of an aborted one would be acted on, and again once it is written for good.
"""

from typing import Any, cast

import faust
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer, Transport


class _CommittedThread(AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Transport) -> Any:
        consumer: Any = super()._create_worker_consumer(transport)
        # Read when the consumer starts; Faust offers no setting for the constructor's argument.
        consumer._isolation_level = "read_committed"
        return consumer

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Only recovery reads a table's changelog: without this, Faust reports it as a stuck stream for ever."""
        if tp.topic not in cast(Consumer, self.consumer).app.tables.changelog_topics:
            super().verify_event_path(now, tp)


class _CommittedConsumer(Consumer):
    def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
        return _CommittedThread(self, loop=self.loop, beacon=self.beacon)


class _CommittedTransport(Transport):
    Consumer = _CommittedConsumer


def read_committed(app: faust.App) -> faust.App:
    """The same app; call it before it starts."""
    app.transport = _CommittedTransport(app.transport.url, app)
    return app
