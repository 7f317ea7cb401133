"""As much of Kafka's wire format as a proxy needs: frames, request headers, and the first fields of some bodies.

A frame is a 4-byte length and that many bytes. A request begins with its API key, version and correlation id and the
client's id, a response with the correlation id; a "flexible" version adds tagged fields to either, and writes strings
with a variable-length prefix. Which version of which API is flexible is the protocol's, listed in its message files.
"""

import struct
from enum import IntEnum
from typing import NamedTuple


class Api(IntEnum):
    """The requests that a proxy tells apart; every other one passes by its number."""

    PRODUCE = 0
    FETCH = 1
    INIT_PRODUCER_ID = 22
    ADD_PARTITIONS_TO_TXN = 24
    ADD_OFFSETS_TO_TXN = 25
    END_TXN = 26
    TXN_OFFSET_COMMIT = 28


_FLEXIBLE_FROM: dict[int, int] = {
    Api.PRODUCE: 9,
    Api.INIT_PRODUCER_ID: 2,
    Api.ADD_PARTITIONS_TO_TXN: 3,
    Api.ADD_OFFSETS_TO_TXN: 3,
    Api.END_TXN: 3,
    Api.TXN_OFFSET_COMMIT: 3,
}
"""Their bodies all begin with the transactional id, which may be null."""

_LENGTH = struct.Struct(">i")
_REQUEST = struct.Struct(">hhih")
_INT16 = struct.Struct(">h")
_INT32 = struct.Struct(">i")
_LARGEST_FRAME = 256 << 20


class MalformedFrameError(Exception):
    """Bytes that are not Kafka's protocol, or not the part of it that is spoken here."""


class Request(NamedTuple):
    """One request. `frame` is all of it, as it came, its length included."""

    api: int
    version: int
    correlation: int
    client: str
    transactional_id: str | None
    frame: bytes
    body: int
    """Where in `frame` the body goes on behind the transactional id, or begins if there is none."""


class Frames:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Whole frames, their lengths included; the rest waits for more. Raises MalformedFrameError."""
        buffer = self._buffer
        buffer += data
        frames = []
        begin, end = 0, len(buffer)
        while end - begin >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, begin)
            if not 0 <= length <= _LARGEST_FRAME:
                raise MalformedFrameError(f"a frame of {length} bytes")
            after = begin + _LENGTH.size + length
            if after > end:
                break
            frames.append(bytes(buffer[begin:after]))
            begin = after
        del buffer[:begin]
        return frames


def parse_request(frame: bytes) -> Request:
    """Raises MalformedFrameError where the frame is too short for a header."""
    try:
        api, version, correlation, client_length = _REQUEST.unpack_from(frame, 4)
        at = 4 + _REQUEST.size
        client, at = _text(frame, at, max(client_length, 0))
        transactional_id = None
        flexible_from = _FLEXIBLE_FROM.get(api)
        if flexible_from is not None:
            if version >= flexible_from:
                transactional_id, at = _compact_string(frame, _skip_tags(frame, at))
            else:
                transactional_id, at = _string(frame, at)
    except (struct.error, IndexError, UnicodeDecodeError) as error:
        raise MalformedFrameError(f"a request of {len(frame)} bytes: {error}") from None
    return Request(api, version, correlation, client, transactional_id, frame, at)


def correlation_of(response: bytes) -> int:
    """Which request a response answers."""
    return int(_INT32.unpack_from(response, 4)[0])


def commits(end_txn: Request) -> bool:
    """Whether an EndTxn asks for a commit rather than an abort: behind the producer's id (8 bytes) and epoch (2)."""
    return end_txn.frame[end_txn.body + 10] != 0


def error_code(request: Request, response: bytes) -> int:
    """Of an answer to EndTxn or InitProducerId: behind the header and the throttle time."""
    at = 8
    if request.version >= _FLEXIBLE_FROM[request.api]:
        at = _skip_tags(response, at)
    return int(_INT16.unpack_from(response, at + 4)[0])


def _string(data: bytes, at: int) -> tuple[str | None, int]:
    (length,) = _INT16.unpack_from(data, at)
    at += _INT16.size
    return (None, at) if length < 0 else _text(data, at, length)


def _compact_string(data: bytes, at: int) -> tuple[str | None, int]:
    """Its length plus one comes first; 0 stands for null."""
    length, at = _varint(data, at)
    return (None, at) if length == 0 else _text(data, at, length - 1)


def _text(data: bytes, at: int, length: int) -> tuple[str, int]:
    if at + length > len(data):
        raise IndexError(f"a text of {length} bytes is cut short")
    return data[at : at + length].decode(), at + length


def _skip_tags(data: bytes, at: int) -> int:
    count, at = _varint(data, at)
    for _ in range(count):
        _, at = _varint(data, at)
        size, at = _varint(data, at)
        at += size
    return at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
