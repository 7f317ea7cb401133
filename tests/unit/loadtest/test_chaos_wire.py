"""What the chaos proxy understands of Kafka's protocol, and how a transaction's outcome is judged."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaosharness.told import Told, contradictions
from chaosharness.wire import Api, Frames, MalformedFrameError, commits, correlation_of, error_code, parse_request


def frame(body: bytes) -> bytes:
    return struct.pack(">i", len(body)) + body


def string(text: str | None) -> bytes:
    return struct.pack(">h", -1) if text is None else struct.pack(">h", len(text)) + text.encode()


def compact(text: str | None) -> bytes:
    return b"\x00" if text is None else bytes([len(text) + 1]) + text.encode()


def request(api: int, version: int, body: bytes = b"", *, client: str | None = "tidemill", tags: bytes = b"") -> bytes:
    return frame(struct.pack(">hhi", api, version, 7) + string(client) + tags + body)


@given(st.lists(st.binary(max_size=60), max_size=8), st.integers(1, 20))
def test_frames_are_the_same_however_the_bytes_arrive(bodies: list[bytes], size: int) -> None:
    stream = b"".join(map(frame, bodies))
    frames = Frames()
    pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert [found for piece in pieces for found in frames.feed(piece)] == [frame(body) for body in bodies]


@pytest.mark.parametrize("length", [-1, 1 << 30])
def test_a_length_that_no_frame_has_is_refused(length: int) -> None:
    with pytest.raises(MalformedFrameError):
        Frames().feed(struct.pack(">i", length))


@pytest.mark.parametrize("committed", [True, False])
def test_an_end_of_a_transaction_is_read(committed: bool) -> None:
    body = string("fraud-count-0") + struct.pack(">qh?", 4_000, 3, committed)
    found = parse_request(request(Api.END_TXN, 1, body))
    assert (found.api, found.version, found.correlation, found.client) == (Api.END_TXN, 1, 7, "tidemill")
    assert found.transactional_id == "fraud-count-0"
    assert commits(found) is committed


def test_flexible_requests_carry_tags_and_compact_strings() -> None:
    tags = b"\x01\x05\x02ab"  # one tag, number 5, two bytes
    found = parse_request(request(Api.PRODUCE, 10, compact("fraud-count-0"), tags=tags))
    assert found.transactional_id == "fraud-count-0"
    assert parse_request(request(Api.PRODUCE, 10, compact(None), tags=b"\x00")).transactional_id is None


def test_other_requests_pass_without_a_transactional_id() -> None:
    assert parse_request(request(Api.FETCH, 16, b"\xff" * 9)).transactional_id is None
    assert parse_request(request(3, 12, client=None)).client == ""


@pytest.mark.parametrize("cut", [5, 11, 18, 20])
def test_a_request_that_is_cut_short_is_refused(cut: int) -> None:
    whole = request(Api.PRODUCE, 10, compact("fraud-count-0"), tags=b"\x00")[4:]
    with pytest.raises(MalformedFrameError):
        parse_request(frame(whole[:cut]))


def test_the_error_code_of_an_answer_is_found_in_either_form() -> None:
    plain = frame(struct.pack(">iih", 7, 0, 47))
    assert correlation_of(plain) == 7
    assert error_code(parse_request(request(Api.END_TXN, 1, string("t") + bytes(11))), plain) == 47
    flexible = frame(struct.pack(">i", 7) + b"\x00" + struct.pack(">ih", 0, 90))
    asked = parse_request(request(Api.INIT_PRODUCER_ID, 4, compact("t"), tags=b"\x00"))
    assert error_code(asked, flexible) == 90


@pytest.mark.parametrize(
    ("told", "seen", "fine"),
    [
        (Told.COMMITTED, [b"0:first", b"0:second"], True),
        (Told.COMMITTED, [b"0:first"], False),
        (Told.COMMITTED, [b"0:first", b"0:second", b"0:second"], False),
        (Told.COMMITTED, [], False),
        (Told.ABORTED, [], True),
        (Told.ABORTED, [b"0:first"], False),
        (Told.ABORTED, [b"0:first", b"0:second"], False),
        (Told.NOTHING, [], True),
        (Told.NOTHING, [b"0:second", b"0:first"], True),
        (Told.NOTHING, [b"0:second"], False),
        (Told.ABORTED, [b"5:first"], False),
    ],
)
def test_what_is_visible_is_judged_by_what_the_client_was_told(told: Told, seen: list[bytes], fine: bool) -> None:
    assert (contradictions([told], seen) == []) is fine
