"""Stream the simulated payments to Kafka, paced by stream time: `python -m tidemill.scenarios.fraud.producer`.

Settings are options or environment variables (`producerconfig.py`). The last line on stdout is a JSON summary of what
was sent and acknowledged; progress goes to stderr. SIGTERM ends it early, with a true summary.
"""

import json
import signal
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from threading import Event

from tidemill.domain.durations import DAY_MS
from tidemill.domain.pipeline import Pipeline
from tidemill.errors import ConfigurationError, TidemillError
from tidemill.runtime.kafka import Admin, PlainProducer, TopicReader
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.ports import Partition
from tidemill.scenarios.fraud.producerconfig import ProducerConfig, load_producer_config
from tidemill.scenarios.fraud.producerrun import SENT_HEADER, Run, Summary, start_ms, topics_of
from tidemill.scenarios.fraud.simulator import EPOCH_MS

_ASK_S, _ASK_AGAIN_S = 5.0, 0.5
_NEWEST_AMONG = 100
"""Records at the end of a partition; they stand in the order of their time, but for a few."""


def main(arguments: list[str]) -> int:
    """Exit status: 0 when everything sent was acknowledged, also after SIGTERM or SIGINT."""
    stop = Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    try:
        config = load_producer_config(arguments)
        pipeline = load_pipeline(config.pipeline)
        summary = _run(config, pipeline, stop)
    except TidemillError as error:
        print(f"{error.message}\n{error.hint}".strip(), file=sys.stderr)
        return error.exit_code
    line = json.dumps(asdict(summary))
    if config.summary_file is not None:
        config.summary_file.write_text(line + "\n", "utf-8")
    print(line)
    return 0


def _run(config: ProducerConfig, pipeline: Pipeline, stop: Event) -> Summary:
    def report(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    sender = PlainProducer(config.bootstrap_servers, config.kafka_options)
    try:
        _wait_for_topics(config, topics_of(pipeline), stop, report)
        from_ms = start_ms(config)
        if config.resume and not stop.is_set():
            from_ms = max(from_ms, _sent_until(config, pipeline, stop))
            report(f"begins at day {(from_ms - EPOCH_MS) / DAY_MS:.1f}")
        return Run(config, pipeline, sender, stop, report).send(from_ms)
    finally:
        sender.close()


def _sent_until(config: ProducerConfig, pipeline: Pipeline, stop: Event) -> int:
    """The stream time up to which every payment and chargeback is in its topic; 0 if there is none.

    Partitions end at different times, the more so if a producer was killed: the earliest end counts. What is sent once
    more has the ids that it had, and is dropped as a duplicate. Records that no producer of ours sent are passed over.
    """
    topics = sorted(topics_of(pipeline))
    with closing(TopicReader(config.bootstrap_servers, topics, options=config.kafka_options)) as reader:
        marks = reader.watermarks()
    ends = {partition: mark.high for partition, mark in marks.items() if mark.high > mark.low}
    if not ends and any(mark.high for mark in marks.values()):
        raise ConfigurationError(
            f"Everything in {' and '.join(topics)} has expired, so where the stream ended cannot be told.",
            hint="Say where to begin with --start-day, and leave out --resume.",
        )
    start = {partition: max(marks[partition].low, end - _NEWEST_AMONG) for partition, end in ends.items()}
    newest: dict[Partition, int] = {}
    with closing(TopicReader(config.bootstrap_servers, topics, options=config.kafka_options, start=start)) as reader:
        while not stop.is_set() and not reader.has_passed(ends):
            for record in reader.poll():
                if any(name == SENT_HEADER for name, _ in record.headers):
                    partition = (record.topic, record.partition)
                    newest[partition] = max(newest.get(partition, 0), record.timestamp)
    return min(newest.values(), default=0)


def _wait_for_topics(
    config: ProducerConfig, topics: frozenset[str], stop: Event, report: Callable[[str], None]
) -> None:
    """Return once all `topics` exist, or `stop` is set: who starts first, Kafka, topics or this, does not matter."""
    admin = Admin(config.bootstrap_servers, config.kafka_options)
    said = ""
    while not stop.is_set():
        try:
            missing = topics - admin.partition_counts(_ASK_S).keys()
        except TidemillError as error:
            waiting = f"waiting for Kafka at {config.bootstrap_servers}: {error.message}"
        else:
            if not missing:
                return
            waiting = f"waiting for topics {', '.join(sorted(missing))}"
        if waiting != said:
            report(waiting)
            said = waiting
        stop.wait(_ASK_AGAIN_S)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
