"""A client that sends anything at all gets a JSON answer with a status that the contract names, and no half a batch."""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from starlette.applications import Starlette

from tidemill.ingest.core.admission import Limits
from tidemill.ingest.core.bodies import CONTENT_TYPES
from tidemill.ingest.core.intake import Accepted
from tidemill.ingest.http import EventsEndpoint
from unit.ingest.asgi import request
from unit.ingest.samples import CHARGEBACK, NOW_MS, PAYMENT, intake_of

SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=20)
GOOD = st.integers(0, 10**9).map(lambda number: PAYMENT | {"payment_id": f"p-{number}"})
RECORDS = st.one_of(GOOD, st.just(CHARGEBACK), st.tuples(GOOD, st.dictionaries(st.sampled_from([*PAYMENT]), SCALARS)))
DOCUMENTS = RECORDS.map(lambda made: made[0] | made[1] if isinstance(made, tuple) else made)
BODIES = st.one_of(
    st.binary(max_size=400),
    DOCUMENTS.map(orjson.dumps),
    st.lists(GOOD, max_size=12).map(orjson.dumps),
    st.lists(DOCUMENTS, max_size=12).map(orjson.dumps),
    st.lists(DOCUMENTS | SCALARS, max_size=12).map(lambda many: b"\n".join(map(orjson.dumps, many))),
    st.lists(GOOD, max_size=12).map(lambda many: b"\r\n".join(map(orjson.dumps, many))),
)
HEADER = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30)
STATUSES = {202, 400, 404, 405, 408, 413, 415, 429}
INTAKES = {name: intake_of(name) for name in ("card-payments", "chargebacks")}


class Keeping:
    """An appender that keeps everything, and a telemetry that remembers what is held."""

    def __init__(self) -> None:
        self.records: list[Accepted] = []
        self.held = (0, 0)

    async def append(self, records: Sequence[Accepted], timeout_s: float) -> None:
        self.records.extend(records)

    def answered(self, source: str, status: int) -> None:
        assert source in INTAKES or source == "unknown"

    def accepted(self, source: str, records: int) -> None:
        assert len(self.records) == records

    def in_flight(self, requests: int, body_bytes: int) -> None:
        self.held = (requests, body_bytes)

    def acknowledging(self) -> AbstractContextManager[None]:
        return nullcontext()


@given(
    body=BODIES,
    cuts=st.lists(st.integers(0, 400), max_size=4),
    content_type=st.sampled_from([*CONTENT_TYPES]) | HEADER,
    source=st.sampled_from([*INTAKES]) | st.from_regex(r"[a-z%\-]{1,12}", fullmatch=True),
    method=st.sampled_from(["POST"] * 6 + ["GET", "PUT", "DELETE"]),
    encoding=st.none() | HEADER,
)
def test_any_request_is_answered_by_the_contract(
    body: bytes, cuts: list[int], content_type: str, source: str, method: str, encoding: str | None
) -> None:
    keeping = Keeping()
    limits = Limits(2_000, 10, 4, 4_000, 30, 30)
    app = Starlette(routes=EventsEndpoint(INTAKES, keeping, limits, lambda: NOW_MS, keeping).routes())
    ends = sorted({min(cut, len(body)) for cut in cuts} | {0, len(body)})
    chunks = [body[low:high] for low, high in itertools.pairwise(ends)]
    reply = asyncio.run(
        request(
            app,
            f"/v1/events/{source}",
            chunks if cuts else body,
            method=method,
            content_type=content_type,
            headers={} if encoding is None else {"content-encoding": encoding},
        )
    )
    assert reply.status in STATUSES
    assert keeping.held == (0, 0)
    assert_says_why(reply.status, reply.body, len(keeping.records))


def assert_says_why(status: int, said: Any, appended: int) -> None:
    if status == 202:
        assert said == {"accepted": appended}
        return
    assert appended == 0
    assert said["error"] and said["message"]
    if status == 400:
        assert said["errors"] and all(one["code"] and one["message"] for one in said["errors"])
