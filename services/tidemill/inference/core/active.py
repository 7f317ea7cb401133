"""Which models score an input partition: the state record `active` of the inference changelog.

It changes in the first transaction that uses the new selection and names the first offset scored by it, so who scored
what can be replayed, and a new owner scores on with what was recorded.
"""

import msgspec
import orjson

from tidemill.errors import StateCorrupt
from tidemill.runtime.service import StateEntry

ACTIVE_KEY = b"active"


class Active(msgspec.Struct, frozen=True, kw_only=True):
    """Selection `epoch` holds from `from_offset` on. Champion None: the fallback rule. Epoch 0: nothing yet."""

    v: int = 1
    champion: int | None = None
    challenger: int | None = None
    epoch: int = 0
    from_offset: int = 0


def encode_active(partition: int, active: Active) -> StateEntry:
    return StateEntry(partition, ACTIVE_KEY, orjson.dumps(msgspec.to_builtins(active)))


def decode_active(value: bytes) -> Active:
    """Raises StateCorrupt: scoring on with a guess would break the record of who scored what."""
    try:
        active = _decoder.decode(value)
    except msgspec.DecodeError as error:
        raise StateCorrupt(
            f"the recorded model selection cannot be read: {error}",
            hint="look at the inference-state topic; it is written by the inference service alone",
        ) from error
    if active.v != 1:
        raise StateCorrupt(
            f"the recorded model selection has version {active.v}, this service knows 1",
            hint="start the newer service that wrote it",
        )
    return active


_decoder = msgspec.json.Decoder(Active)
