"""Ed25519 keys and signatures over JSON records: who published this, and is it unchanged.

A record is signed as `orjson.dumps(record without "signature", OPT_SORT_KEYS)`, so that a reader verifies exactly what
it received, unknown members included, whatever order they came in. Keys are 32 raw bytes, kept as hex text.
"""

import base64
import os
from pathlib import Path
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from tidemill.errors import ConfigurationError, RecordError

PRIVATE_KEY_FILE = "signing.key"
PUBLIC_KEY_FILE = "signing.pub"
_KEY_BYTES = 32


def sign_record(record: dict[str, Any], private_key: bytes) -> bytes:
    """The record as JSON with its `signature` (base64) added; an old one is replaced."""
    unsigned = {name: value for name, value in record.items() if name != "signature"}
    signature = Ed25519PrivateKey.from_private_bytes(private_key).sign(_signed_bytes(unsigned))
    return orjson.dumps({**unsigned, "signature": base64.b64encode(signature).decode()})


def verify_record(value: bytes, public_key: bytes) -> dict[str, Any]:
    """The record in `value` once its signature holds. Raises RecordError `not_json`, `not_an_object` or `signature`."""
    try:
        record = orjson.loads(value)
    except orjson.JSONDecodeError as error:
        raise RecordError("not_json", str(error)) from error
    if not isinstance(record, dict):
        raise RecordError("not_an_object", f"expected a JSON object, got {type(record).__name__}")
    encoded = record.pop("signature", None)
    if not isinstance(encoded, str):
        raise RecordError("signature", "the record carries no signature")
    try:
        signature = base64.b64decode(encoded, validate=True)
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, _signed_bytes(record))
    except TypeError as error:  # orjson reads deeper nesting than it writes
        raise RecordError("not_json", f"the record is nested too deeply to be signed: {error}") from error
    except (ValueError, InvalidSignature) as error:  # of base64 too: not ASCII, or padded wrongly
        raise RecordError("signature", "the signature does not match the record and this public key") from error
    return record


def public_key_of(private_key: bytes) -> bytes:
    """The 32-byte public half."""
    return Ed25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()


def generate_key_files(directory: Path) -> None:
    """Make `signing.key` (mode 0600) and `signing.pub` in `directory`, unless the key is there already.

    The private key is created exclusively, so two processes that start together end with one pair.
    """
    directory.mkdir(parents=True, exist_ok=True)
    private_path = directory / PRIVATE_KEY_FILE
    draft = directory / f"{PRIVATE_KEY_FILE}.{os.getpid()}"
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write(Ed25519PrivateKey.generate().private_bytes_raw().hex() + "\n")
    try:
        os.link(draft, private_path)
    except FileExistsError:
        pass  # another process, or an earlier run, was first: its key stands
    finally:
        draft.unlink()
    public = public_key_of(read_key(private_path))
    draft.write_text(public.hex() + "\n", encoding="ascii")
    draft.replace(directory / PUBLIC_KEY_FILE)


def read_key(path: Path) -> bytes:
    """The 32 raw bytes of a hex key file. Raises ConfigurationError."""
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"cannot read the key {path}: {error}", hint=_KEY_HINT) from error
    if len(key) != _KEY_BYTES:
        raise ConfigurationError(f"the key {path} has {len(key)} bytes, not {_KEY_BYTES}", hint=_KEY_HINT)
    return key


_KEY_HINT = "the retrain service makes signing.key and signing.pub on its first start; readers need signing.pub"


def _signed_bytes(record: dict[str, Any]) -> bytes:
    return orjson.dumps(record, option=orjson.OPT_SORT_KEYS)
