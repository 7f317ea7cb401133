"""Signed records: what is written is read back, and nothing that was changed is."""

from pathlib import Path

import orjson
import pytest

from tidemill.domain.model import (
    CHUNK_BYTES,
    Activation,
    GateResult,
    Golden,
    Manifest,
    Reference,
    TensorSpec,
    Training,
    activation_key,
    chunk_key,
    decode,
    decode_activation,
    decode_manifest,
    digest,
    encode,
    join_chunks,
    manifest_key,
    parse_chunk_key,
    split_chunks,
)
from tidemill.domain.signing import generate_key_files, public_key_of, read_key
from tidemill.errors import ConfigurationError, RecordError
from tidemill_schemas import load_schema

PRIVATE = bytes(range(32))
PUBLIC = public_key_of(PRIVATE)
ARTEFACT = bytes(range(256)) * 5_000


def manifest(data: bytes = ARTEFACT) -> Manifest:
    return Manifest(
        name="fraud-mlp",
        version=3,
        sha256=digest(data),
        size=len(data),
        chunks=len(split_chunks(data)),
        opset=20,
        inputs=(TensorSpec("features", "float32", (-1, 2)),),
        outputs=(TensorSpec("score", "float32", (-1,)),),
        feature_set="0123456789ab",
        features=("amount", "night"),
        training=Training(0, 10, 100, 7, "a" * 64, {"fraud-outcomes/0": (0, 99)}, 7, "initial", "statistics/1"),
        metrics={"holdout": {"average_precision": 0.5}},
        gates=(GateResult("finite", True, None, None),),
        reference=Reference({"amount": (0.0,) * 101, "night": (0.0,) * 101}, ((1.5, None),)),
        golden=Golden(((1.5, None),), (0.25,), 1e-4),
        created_at=1_522_540_800_000,
    )


ACTIVATION = Activation(
    name="fraud-mlp", epoch=2, champion=None, challenger=3, at=5, reason="why", decision="candidate/3"
)


def test_a_manifest_and_an_activation_come_back_as_they_were() -> None:
    assert decode_manifest(encode(manifest(), PRIVATE), PUBLIC) == manifest()
    assert decode_activation(encode(ACTIVATION, PRIVATE), PUBLIC) == ACTIVATION
    assert decode(encode(ACTIVATION, PRIVATE), PUBLIC) == ACTIVATION


def test_what_is_written_satisfies_the_published_schemas() -> None:
    for record, schema in ((manifest(), "model-manifest"), (ACTIVATION, "model-activation")):
        required = set(load_schema(schema, 1)["required"])
        assert set(orjson.loads(encode(record, PRIVATE))) == required


def test_any_changed_member_breaks_the_signature() -> None:
    record = orjson.loads(encode(manifest(), PRIVATE))
    for name in record:
        if name == "signature":
            continue
        changed = orjson.dumps({**record, name: "other"})
        with pytest.raises(RecordError, match="signature"):
            decode(changed, PUBLIC)


def test_an_added_member_breaks_the_signature_although_readers_tolerate_signed_ones() -> None:
    record = orjson.loads(encode(ACTIVATION, PRIVATE))
    with pytest.raises(RecordError, match="signature"):
        decode(orjson.dumps({**record, "extra": 1}), PUBLIC)


def test_another_key_is_refused() -> None:
    with pytest.raises(RecordError) as refused:
        decode(encode(ACTIVATION, bytes(32)), PUBLIC)
    assert refused.value.code == "signature"


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b"{", "not_json"),
        (b"[]", "not_an_object"),
        (b"{}", "signature"),
        (b'{"signature":"%%%"}', "signature"),
        (b'{"signature":"AAAA"}', "signature"),
    ],
)
def test_what_is_no_signed_record_is_refused_with_its_reason(value: bytes, code: str) -> None:
    with pytest.raises(RecordError) as refused:
        decode(value, PUBLIC)
    assert refused.value.code == code


def test_the_order_of_members_does_not_matter() -> None:
    record = orjson.loads(encode(manifest(), PRIVATE))
    turned = orjson.dumps(dict(reversed(list(record.items()))))
    assert decode(turned, PUBLIC) == manifest()


def test_a_manifest_is_no_activation() -> None:
    with pytest.raises(RecordError, match="expected an activation"):
        decode_activation(encode(manifest(), PRIVATE), PUBLIC)
    with pytest.raises(RecordError, match="expected a manifest"):
        decode_manifest(encode(ACTIVATION, PRIVATE), PUBLIC)


def test_chunks_join_to_the_bytes_they_were_split_from() -> None:
    chunks = split_chunks(ARTEFACT)
    assert [len(chunk) <= CHUNK_BYTES for chunk in chunks] == [True] * 3
    assert join_chunks(manifest(), dict(enumerate(chunks))) == ARTEFACT


def test_missing_shortened_and_exchanged_chunks_are_told_apart() -> None:
    chunks = dict(enumerate(split_chunks(ARTEFACT)))
    for wrong, code in (
        ({0: chunks[0], 2: chunks[2]}, "chunks"),
        ({**chunks, 2: chunks[2][:-1]}, "size"),
        ({**chunks, 0: chunks[1], 1: chunks[0]}, "digest"),
    ):
        data = manifest()
        if code == "digest":
            wrong = {**wrong, 0: b"\xff" + chunks[0][1:]}
        with pytest.raises(RecordError) as refused:
            join_chunks(data, wrong)
        assert refused.value.code == code


def test_keys_name_model_version_and_index() -> None:
    assert manifest_key("m", 4) == b"m/4"
    assert activation_key("m") == b"m/activation"
    assert parse_chunk_key(chunk_key("m", 4, 1)) == ("m", 4, 1)
    for wrong in (b"m/4", b"m/x/1", b"/4/1", b"m/4/1/2", b"\xff"):
        with pytest.raises(RecordError):
            parse_chunk_key(wrong)


def test_key_files_are_made_once_and_the_private_one_is_for_its_owner_only(tmp_path: Path) -> None:
    generate_key_files(tmp_path / "keys")
    private = read_key(tmp_path / "keys" / "signing.key")
    generate_key_files(tmp_path / "keys")
    assert read_key(tmp_path / "keys" / "signing.key") == private
    assert read_key(tmp_path / "keys" / "signing.pub") == public_key_of(private)
    assert (tmp_path / "keys" / "signing.key").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in (tmp_path / "keys").iterdir()) == ["signing.key", "signing.pub"]


@pytest.mark.parametrize("text", ["", "zz", "00" * 31])
def test_a_key_file_that_is_no_key_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "signing.key"
    path.write_text(text)
    with pytest.raises(ConfigurationError):
        read_key(path)
