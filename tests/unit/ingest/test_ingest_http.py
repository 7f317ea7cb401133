"""What a client of `POST /v1/events/{source}` gets, for everything it may send and for a broker in any mood."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import orjson
import pytest
from starlette.applications import Starlette

from tidemill.ingest.core.admission import Limits
from tidemill.ingest.core.bodies import form_of
from tidemill.ingest.core.intake import Accepted
from tidemill.ingest.core.ports import NotAcknowledgedError
from tidemill.ingest.http import EventsEndpoint
from unit.ingest.asgi import Reply, request
from unit.ingest.samples import CHARGEBACK, EVENT_BYTES, LABEL_BYTES, NOW_MS, PAYMENT, intake_of

PATH = "/v1/events/card-payments"
LIMITS = Limits(
    max_body_bytes=40_000,
    max_records=50,
    max_requests_in_flight=2,
    max_bytes_in_flight=60_000,
    read_timeout_s=30,
    acknowledge_timeout_s=30,
)


class FakeBroker:
    """An `Appender` that keeps what it is given; it may be down, or make its callers wait."""

    def __init__(self) -> None:
        self.records: list[Accepted] = []
        self.down = False
        self.open = asyncio.Event()
        self.open.set()
        self.asked = asyncio.Event()

    async def append(self, records: Sequence[Accepted], timeout_s: float) -> None:
        self.asked.set()
        await self.open.wait()
        if self.down:
            raise NotAcknowledgedError("the broker has not acknowledged within 30 s")
        self.records.extend(records)


class Counts:
    """An `HttpTelemetry` that remembers."""

    def __init__(self) -> None:
        self.answers: list[tuple[str, int]] = []
        self.records = 0
        self.held = (0, 0)

    def answered(self, source: str, status: int) -> None:
        self.answers.append((source, status))

    def accepted(self, source: str, records: int) -> None:
        self.records += records

    def in_flight(self, requests: int, body_bytes: int) -> None:
        self.held = (requests, body_bytes)

    def acknowledging(self) -> AbstractContextManager[None]:
        return nullcontext()


class Site:
    """An endpoint on fakes."""

    def __init__(self, limits: Limits = LIMITS, *, refuse_duplicate_keys: bool = False) -> None:
        self.broker = FakeBroker()
        self.counts = Counts()
        intakes = {
            name: intake_of(name, refuse_duplicate_keys=refuse_duplicate_keys)
            for name in ("card-payments", "chargebacks")
        }
        endpoint = EventsEndpoint(intakes, self.broker, limits, lambda: NOW_MS, self.counts)
        self.app = Starlette(routes=endpoint.routes())

    async def post(self, body: Any, path: str = PATH, **options: Any) -> Reply:
        raw = orjson.dumps(body) if isinstance(body, (dict, list)) and not _chunked(body) else body
        reply = await request(self.app, path, raw, **options)
        assert reply.headers["content-type"] == "application/json"
        return reply


def _chunked(body: Any) -> bool:
    return isinstance(body, list) and bool(body) and isinstance(body[0], bytes)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(test)


def payments(count: int) -> list[dict[str, Any]]:
    return [PAYMENT | {"payment_id": f"p-{index}"} for index in range(count)]


def test_one_event_is_appended_keyed_and_stamped_and_then_accepted() -> None:
    async def scenario() -> None:
        site = Site()
        assert await site.post(PAYMENT) == (202, {"content-type": "application/json"} | _length(14), {"accepted": 1})
        assert site.broker.records == [("fraud-events", b"c-00042", EVENT_BYTES, 1522540831000)]
        assert site.counts.answers == [("card-payments", 202)] and site.counts.records == 1

    run(scenario())


def _length(size: int) -> dict[str, str]:
    return {"content-length": str(size)}


def test_a_label_goes_to_the_topic_of_labels() -> None:
    async def scenario() -> None:
        site = Site()
        assert (await site.post(CHARGEBACK, "/v1/events/chargebacks")).status == 202
        assert site.broker.records == [("fraud-labels", b"c-00042", LABEL_BYTES, 1522590000000)]

    run(scenario())


@pytest.mark.parametrize(
    ("content_type", "separator"),
    [
        ("application/x-ndjson", b"\n"),
        ("application/x-ndjson; charset=UTF-8", b"\r\n"),
        ("application/jsonl", b"\n\n  \n"),
        ("Application/JSON", None),
    ],
)
def test_many_events_come_as_an_array_or_one_a_line(content_type: str, separator: bytes | None) -> None:
    async def scenario() -> None:
        site = Site()
        sent = payments(7)
        body = orjson.dumps(sent) if separator is None else separator.join(orjson.dumps(one) for one in sent)
        reply = await site.post(body, content_type=content_type)
        assert (reply.status, reply.body) == (202, {"accepted": 7})
        assert [orjson.loads(record.value)["id"] for record in site.broker.records] == [f"p-{i}" for i in range(7)]

    run(scenario())


def test_an_empty_array_is_accepted_and_appends_nothing() -> None:
    async def scenario() -> None:
        site = Site()
        assert (await site.post(b" [] ")).body == {"accepted": 0}
        assert site.broker.records == []

    run(scenario())


def test_one_bad_record_refuses_all_and_every_fault_is_told() -> None:
    async def scenario() -> None:
        site = Site()
        bad = {"v": 1, "paid_at_ms": "soon", "card": "c-1", "terminal": "t-1", "amount": "12abc"}
        reply = await site.post([PAYMENT, bad, [1], PAYMENT | {"v": 3}, PAYMENT | {"card": "c" * 300}])
        assert reply.status == 400 and reply.body["error"] == "invalid_records"
        told = [(one["index"], one["field"], one["code"]) for one in reply.body["errors"]]
        assert told == [
            (1, "payment_id", "missing_id"),
            (1, "paid_at_ms", "wrong_type"),
            (1, "amount", "wrong_type"),
            (2, None, "not_an_object"),
            (3, "v", "unknown_version"),
            (4, "card", "schema"),
        ]
        assert all(one["message"] for one in reply.body["errors"])
        assert site.broker.records == []

    run(scenario())


def test_bad_lines_are_told_by_their_index_among_the_records() -> None:
    async def scenario() -> None:
        site = Site()
        good = orjson.dumps(PAYMENT)
        lines = [good, b"", b"{", b'{"a":NaN}', b"\xff", good, orjson.dumps(PAYMENT | {"x": "y" * 17_000})]
        reply = await site.post(b"\n".join(lines), content_type="application/x-ndjson")
        assert reply.status == 400
        told = [(one["index"], one["code"]) for one in reply.body["errors"]]
        assert told == [(1, "not_json"), (2, "non_finite"), (3, "not_json"), (5, "oversize")]

    run(scenario())


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "not_json"),
        (b"  \n", "not_json"),
        (b"{", "not_json"),
        (b'[{"v":1},{]', "not_json"),
        (b'[{"a":NaN}]', "non_finite"),
        (b'{"a":1e999}', "non_finite"),
        (b"[" * 600 + b"]" * 600, "not_an_object"),
        (b"3", "not_an_object"),
        (b'{"v":1,"x":"' + b"y" * 17_000 + b'"}', "oversize"),
        (b'[{"v":1,"x":"' + b"y" * 17_000 + b'"}]', "oversize"),
        (b"[" * 600 + b" " * 17_000 + b"]" * 600, "not_json"),
    ],
)
def test_a_body_that_holds_no_record_is_refused_with_its_code(body: bytes, code: str) -> None:
    async def scenario() -> None:
        site = Site()
        reply = await site.post(body)
        assert reply.status == 400
        assert [one["code"] for one in reply.body["errors"]] == [code]
        assert site.broker.records == []

    run(scenario())


def test_names_given_twice_are_refused_when_asked() -> None:
    async def scenario() -> None:
        site = Site(refuse_duplicate_keys=True)
        doubled = orjson.dumps(PAYMENT)[:-1] + b',"amount":1}'
        for body, kind in ((doubled, "application/json"), (doubled, "application/x-ndjson")):
            reply = await site.post(body, content_type=kind)
            assert [one["code"] for one in reply.body["errors"]] == ["duplicate_keys"]

    run(scenario())


def test_a_retry_appends_the_same_bytes_so_that_the_first_keyed_stage_drops_them() -> None:
    async def scenario() -> None:
        site = Site()
        site.broker.down = True
        refused = await site.post(PAYMENT)
        assert refused.status == 503 and refused.headers["retry-after"] == "1"
        assert "a retry is safe" in refused.body["message"]
        site.broker.down = False
        assert [(await site.post(PAYMENT)).status for _ in range(2)] == [202, 202]
        first, second = site.broker.records
        assert first == second
        assert site.counts.held == (0, 0)

    run(scenario())


def test_an_unknown_source_is_told_the_known_ones() -> None:
    async def scenario() -> None:
        site = Site()
        reply = await site.post(PAYMENT, "/v1/events/payments")
        assert reply.status == 404
        assert "'payments'" in reply.body["message"] and "card-payments, chargebacks" in reply.body["message"]
        assert site.counts.answers == [("unknown", 404)]

    run(scenario())


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH", "DELETE", "OPTIONS"])
def test_another_method_is_not_allowed(method: str) -> None:
    async def scenario() -> None:
        reply = await Site().post(b"", method=method)
        assert (reply.status, reply.headers["allow"]) == (405, "POST")

    run(scenario())


@pytest.mark.parametrize(
    ("content_type", "headers"),
    [
        (None, {}),
        ("text/plain", {}),
        ("application/x-www-form-urlencoded", {}),
        ("application/json; charset=latin-1", {}),
        ("application/json", {"content-encoding": "gzip"}),
    ],
)
def test_another_media_type_is_refused_before_the_body_is_read(
    content_type: str | None, headers: dict[str, str]
) -> None:
    async def scenario() -> None:
        reply = await Site().post(PAYMENT, content_type=content_type, headers=headers)
        assert reply.status == 415 and "application/json" in reply.headers["accept-post"]

    run(scenario())


def test_charsets_that_are_utf8_are_taken() -> None:
    assert form_of('application/json; charset="utf-8"; v=1') == "json"
    assert form_of("application/json;charset=utf-16") is None


def test_a_body_of_exactly_the_limit_is_read() -> None:
    async def scenario() -> None:
        site = Site()
        body = orjson.dumps(payments(3))
        assert (await site.post(body + b" " * (40_000 - len(body)))).status == 202
        assert (await site.post(body + b" " * (40_001 - len(body)))).status == 413

    run(scenario())


def test_a_chunked_body_is_refused_while_it_streams_and_never_held_whole() -> None:
    async def scenario() -> None:
        site = Site()
        pulled = 0

        async def endless() -> AsyncIterator[bytes]:
            nonlocal pulled
            while True:
                pulled += 1
                assert site.counts.held[1] <= 40_000
                yield b"x" * 1_000

        reply = await site.post(endless())
        assert (reply.status, reply.headers["connection"]) == (413, "close")
        assert pulled < 100
        assert site.counts.held == (0, 0)

    run(scenario())


def test_too_many_records_are_refused_before_they_are_judged() -> None:
    async def scenario() -> None:
        reply = await Site().post(b"[" + b"1," * 5_000 + b"1]")
        assert reply.status == 413 and "5001 records; at most 50" in reply.body["message"]

    run(scenario())


def test_more_requests_than_the_limit_are_told_to_come_back() -> None:
    async def scenario() -> None:
        site = Site()
        site.broker.open.clear()
        waiting = [asyncio.create_task(site.post(PAYMENT)) for _ in range(2)]
        await site.broker.asked.wait()
        while site.counts.held[0] < 2:
            await asyncio.sleep(0)
        busy = await site.post(PAYMENT)
        assert (busy.status, busy.headers["retry-after"], busy.body["error"]) == (429, "1", "busy")
        site.broker.open.set()
        assert [(await one).status for one in waiting] == [202, 202]
        assert (await site.post(PAYMENT)).status == 202

    run(scenario())


@pytest.mark.parametrize("announce", [True, False])
def test_more_bytes_than_the_limit_are_told_to_come_back(announce: bool) -> None:
    async def scenario() -> None:
        site = Site()
        site.broker.open.clear()
        large = orjson.dumps(PAYMENT) + b" " * 35_000
        small = orjson.dumps(PAYMENT)
        waiting = asyncio.create_task(site.post(orjson.dumps(payments(2)) + b" " * 35_000))
        await site.broker.asked.wait()
        assert (await site.post(large, announce=announce)).status == 429
        assert site.counts.held[0] == 1
        second = asyncio.create_task(site.post(small, announce=announce))
        site.broker.open.set()
        assert [(await waiting).status, (await second).status] == [202, 202]
        assert site.counts.held == (0, 0)

    run(scenario())


def test_a_body_that_never_ends_is_given_up() -> None:
    async def scenario() -> None:
        site = Site(LIMITS._replace(read_timeout_s=0.01))

        async def stalled() -> AsyncIterator[bytes]:
            yield b"{"
            await asyncio.Event().wait()

        reply = await site.post(stalled())
        assert (reply.status, reply.headers["connection"]) == (408, "close")
        assert site.counts.held == (0, 0)

    run(scenario())


def test_a_client_that_goes_away_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        site = Site()

        async def gone() -> AsyncIterator[Any]:
            yield orjson.dumps(PAYMENT)
            yield None

        await site.post(gone())
        assert site.broker.records == [] and site.counts.held == (0, 0)

    run(scenario())


def test_other_requests_are_served_while_a_large_one_is_judged() -> None:
    async def scenario() -> None:
        site = Site(LIMITS._replace(max_body_bytes=10_000_000, max_bytes_in_flight=20_000_000, max_records=100_000))
        large = asyncio.create_task(site.post(payments(2_000)))
        small = asyncio.create_task(site.post(CHARGEBACK, "/v1/events/chargebacks"))
        done, _ = await asyncio.wait([large, small], return_when=asyncio.FIRST_COMPLETED)
        assert done == {small}
        assert (await large).body == {"accepted": 2_000}

    run(scenario())
