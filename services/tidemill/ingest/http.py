"""`POST /v1/events/{source}`: events and labels over HTTP, acknowledged only when the broker holds every one of them.

All or nothing by validation: one bad record refuses the request with every fault of every record. Records are appended
outside the transactional loop; what makes a retry safe is that an event's id is its own, and the first keyed stage
drops a second record with it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tidemill.ingest.core.admission import Admission, Limits, SaturatedError, Slot
from tidemill.ingest.core.bodies import CONTENT_TYPES, documents_of, form_of
from tidemill.ingest.core.faults import FieldError
from tidemill.ingest.core.intake import Accepted, Intake
from tidemill.ingest.core.ports import Appender, HttpTelemetry, NotAcknowledgedError

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_RECORDS_BETWEEN_YIELDS = 200
"""Records judged before other requests get the event loop again: about a millisecond."""
_MOST_DIGITS = 18
_SAFE = "a retry is safe: records are deduplicated by id"


class Answer(NamedTuple):
    """A response to be: its status and a JSON body."""

    status: int
    body: Mapping[str, object]
    headers: Mapping[str, str] = {}

    def response(self) -> Response:
        return Response(orjson.dumps(self.body), self.status, {**self.headers, "content-type": "application/json"})


class _RefusedError(Exception):
    def __init__(self, status: int, error: str, message: str, **headers: str) -> None:
        super().__init__(message)
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        self.answer = Answer(status, {"error": error, "message": message}, named)


class EventsEndpoint:
    """The endpoint of all HTTP sources of a pipeline. Lives on one event loop."""

    def __init__(
        self,
        intakes: Mapping[str, Intake],
        appender: Appender,
        limits: Limits,
        wall_ms: Callable[[], int],
        telemetry: HttpTelemetry,
    ) -> None:
        self._intakes = intakes
        self._appender = appender
        self._limits = limits
        self._wall_ms = wall_ms
        self._telemetry = telemetry
        self._admission = Admission(limits.max_requests_in_flight, limits.max_bytes_in_flight)

    def routes(self) -> list[Route]:
        """To be mounted on the service's HTTP server."""
        return [Route("/v1/events/{source}", self._answer, methods=_METHODS)]

    async def _answer(self, request: Request) -> Response:
        source = request.path_params["source"]
        try:
            answer = await self._accept(request, source)
        except _RefusedError as refused:
            answer = refused.answer
        except SaturatedError as saturated:
            answer = Answer(
                429, {"error": "busy", "message": f"{saturated}; try again in a second"}, {"retry-after": "1"}
            )
        except ClientDisconnect:
            answer = Answer(499, {"error": "disconnected", "message": "the client went away; nothing was appended"})
        self._telemetry.in_flight(self._admission.requests, self._admission.bytes)
        self._telemetry.answered(source if source in self._intakes else "unknown", answer.status)
        return answer.response()

    async def _accept(self, request: Request, source: str) -> Answer:
        intake = self._intakes.get(source)
        if intake is None:
            known = ", ".join(sorted(self._intakes)) or "none"
            raise _RefusedError(404, "unknown_source", f"no source {source!r} takes HTTP; sources that do: {known}")
        if request.method != "POST":
            raise _RefusedError(405, "method_not_allowed", "records are sent by POST", allow="POST")
        form = form_of(request.headers.get("content-type", ""))
        if form is None or request.headers.get("content-encoding", "identity") != "identity":
            accepted = ", ".join(CONTENT_TYPES)
            raise _RefusedError(
                415, "unsupported_media_type", f"send UTF-8, not compressed, as one of {accepted}", accept_post=accepted
            )
        with self._admission.enter() as slot:
            body = await self._read(request, slot)
            try:
                documents = documents_of(intake.decoder, body, form)
            except FieldError as fault:
                return _invalid([_said(None, fault)])
            if len(documents) > self._limits.max_records:
                most = self._limits.max_records
                raise _RefusedError(413, "too_many_records", f"{len(documents)} records; at most {most} a request")
            records, faults = await self._judge(intake, documents)
            if faults:
                return _invalid(faults)
            await self._append(records)
        self._telemetry.accepted(source, len(records))
        return Answer(202, {"accepted": len(records)})

    async def _read(self, request: Request, slot: Slot) -> bytes:
        """The body, or a refusal as soon as it is too large, too slow or too much beside the others."""
        most = self._limits.max_body_bytes
        announced = request.headers.get("content-length", "0")
        if announced.isdecimal() and len(announced) <= _MOST_DIGITS and int(announced) <= most:
            slot.hold(int(announced))
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(self._limits.read_timeout_s):
                async for chunk in request.stream():
                    size += len(chunk)
                    self._telemetry.in_flight(self._admission.requests, self._admission.bytes)
                    # What follows the limit is read and dropped for a while: a client that is still writing when the
                    # connection closes would see a reset instead of the answer.
                    if size > 2 * most:
                        break
                    if size > most:
                        chunks.clear()
                    else:
                        slot.hold(size)
                        chunks.append(chunk)
        except TimeoutError:
            raise _RefusedError(
                408, "slow_body", f"the body took longer than {self._limits.read_timeout_s:g} s", connection="close"
            ) from None
        if size > most:
            raise _RefusedError(
                413, "body_too_large", f"the body has more than {most} bytes; send fewer records", connection="close"
            )
        return b"".join(chunks)

    async def _judge(
        self, intake: Intake, documents: Sequence[object]
    ) -> tuple[list[Accepted], list[Mapping[str, object]]]:
        now_ms = self._wall_ms()
        records: list[Accepted] = []
        faults: list[Mapping[str, object]] = []
        for index, document in enumerate(documents):
            if index % _RECORDS_BETWEEN_YIELDS == _RECORDS_BETWEEN_YIELDS - 1:
                await asyncio.sleep(0)
            found = [document] if isinstance(document, FieldError) else intake.inspect(document, now_ms)
            if isinstance(found, Accepted):
                records.append(found)
            else:
                faults.extend(_said(index, fault) for fault in found)
        return records, faults

    async def _append(self, records: Sequence[Accepted]) -> None:
        if not records:
            return
        with self._telemetry.acknowledging():
            try:
                await self._appender.append(records, self._limits.acknowledge_timeout_s)
            except NotAcknowledgedError as error:
                raise _RefusedError(503, "not_acknowledged", f"{error}; {_SAFE}", retry_after="1") from None


def _said(index: int | None, fault: FieldError) -> Mapping[str, object]:
    return {"index": index, "field": fault.field, "code": fault.code, "message": fault.message}


def _invalid(faults: Sequence[Mapping[str, object]]) -> Answer:
    return Answer(400, {"error": "invalid_records", "message": "nothing was appended", "errors": faults})
