"""Dead letters, replay markers, marks in offset metadata, client options, and the pipeline file."""

from types import SimpleNamespace

import orjson

from fuzzing.target import Target, example_values, pair, stateless, unpaired
from tidemill.cli.output import parse_kafka_options
from tidemill.errors import ConfigurationError
from tidemill.runtime.dlq import to_record
from tidemill.runtime.kafka.offsets import _check_unmarked
from tidemill.runtime.letters import read_letter
from tidemill.runtime.pipelinefile import parse_pipeline, pipeline_text, problems
from tidemill.runtime.reinjection import Ledger
from tidemill.runtime.service import DeadLetter, Record


def letters() -> Target:
    """Headers as a JSON object of texts, each text as its UTF-8."""
    return stateless(example_values("dead-letter"), _letter)


def _letter(data: bytes) -> object:
    try:
        told = orjson.loads(data)
    except orjson.JSONDecodeError:
        told = {"": data.decode("latin-1")}
    pairs = told.items() if isinstance(told, dict) else [("", str(told))]
    headers = tuple((name, str(value).encode()) for name, value in pairs)
    letter = read_letter(Record("fraud-dlq", 0, 7, 5, b"k", data, headers))
    if letter is None:
        return None
    again = to_record(DeadLetter(letter.original, letter.code, ""), "fraud-dlq", letter.service)
    back = read_letter(Record("fraud-dlq", 0, 7, again.timestamp, again.key, again.value, again.headers))
    if back is None or back.original != letter.original:
        raise AssertionError(f"{letter} does not come back")
    return letter


def markers() -> Target:
    def learn(data: bytes) -> object:
        ledger = Ledger()
        key, value = unpaired(data)
        ledger.learn(Record("fraud-dlq-replays", 0, 0, 0, key, value))
        return ledger.expired({0: 100})

    return stateless([pair(b"2:17", value) for value in example_values("dlq-replay")], learn)


def marks() -> Target:
    """What stands in the metadata of a committed offset."""

    def check(data: bytes) -> object:
        return _check_unmarked("fraud-features-customer", [SimpleNamespace(metadata=data.decode("utf-8", "replace"))])

    return stateless([b"replaced by fraud-features-customer-v2", b"", b"{}"], check, ConfigurationError)


def options() -> Target:
    seeds = [b'{"security.protocol":"SSL","ssl.ca.location":"/etc/ssl/ca.pem"}', b"{}"]
    return stateless(seeds, lambda data: parse_kafka_options(data.decode("utf-8", "replace")), ConfigurationError)


def yaml() -> Target:
    """A pipeline file without mistakes is one that can be used, and one with mistakes is refused with them."""

    def check(data: bytes) -> object:
        text = data.decode("utf-8", "replace")
        found = problems(text)
        try:
            parse_pipeline(text)
        except ConfigurationError:
            if not found:
                raise AssertionError("refused without a mistake") from None
        else:
            if found:
                raise AssertionError(f"accepted with mistakes: {found}")
        return found

    text = pipeline_text("fraud")[0].encode()
    parts = text.split(b"\n\n")
    return stateless([text, *(b"\n\n".join(parts[:at]) for at in range(2, len(parts), 2))], check)
