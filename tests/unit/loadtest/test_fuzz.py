"""A short run of every target, the inputs that once broke a decoder, and defects that the campaign must find."""

import random
from collections import Counter

import orjson
import pytest

from fuzzing.campaign import BLOCK, Finding, Result, inputs, run_blocks, run_target
from fuzzing.mutation import Mutator
from fuzzing.session import shares
from fuzzing.target import pair
from fuzzing.targets import KNOWN, SELFTESTS, TARGETS
from tidemill.runtime.pipelinefile import pipeline_text

LIMIT_S = 5.0
NEVER_REFUSED = {
    *("ingest-http-lines", "ingest-http-headers", "ingest-http-request"),
    *("features-events", "features-later", "features-streams", "features-summaries", "features-outcomes"),
    *("features-watermarks", "inference-rows", "drift-service"),
    *("runtime-letters", "runtime-markers", "runtime-yaml"),
}
"""They answer with a dead letter, a fault, a status or nothing instead."""


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "runtime-yaml"])
def test_a_block_of_hostile_inputs_is_taken_or_refused_as_declared(name: str) -> None:
    told: list[tuple[int, int]] = []
    ((block, counts, findings),) = run_blocks(name, 3, range(4, 5), LIMIT_S, lambda *at: told.append(at))
    assert [(one.what, one.where, one.data) for one in findings] == []
    assert (block, counts["executions"], told[-1]) == (4, BLOCK, (4, BLOCK - 1))
    assert counts["accepted"] > 0
    assert (counts["refused"] > 0) == (name not in NEVER_REFUSED)


def test_a_few_hostile_pipeline_files_are_taken_or_refused_as_declared() -> None:
    target = TARGETS["runtime-yaml"].make("runtime-yaml")
    decode = target.fresh()
    for data in inputs(Mutator(target.seeds), 3, "runtime-yaml", 0, 40):
        decode(data)


DEEP = b'{"signature":"eA==","a":' + b"[" * 300 + b"]" * 300 + b"}"
PREDICTION = (
    b'{"v":1,"id":"p-1","event_time":%s,"fs":"f","features":[],"status":"%s","model_version":%s,"outputs":{"score":%s}}'
)
OUTCOME = PREDICTION[:-1] + b',"label":1,"label_status":"labelled"}'
REGRESSIONS = [
    ("features-watermarks", b'{"kind":"\xed\xa0\x80"}'),
    ("features-events", b'{"kind":"\xff","v":1}'),
    ("features-summaries", b'{"kind":"watermark","v":1,"stage":"cus\xfftomer","partition":0,"watermark":1}'),
    ("features-outcomes", b'{"id":"p-1","event_time":1,"model_version":1%s,"outputs":{"score":0.5}}' % (b"0" * 30)),
    ("features-open-windows", pair(b"\x00watermark\xff\xff\xff\xff", b"[3600000,0,1,1,false,7,0,null,false]")),
    ("runtime-yaml", pipeline_text("fraud")[0].encode() + b"\n: 1\n"),
    ("ingest-http-request", b"9" * 5_000 + b" application/json\n{}"),
    ("inference-models", '{"signature":"é"}'.encode()),
    ("inference-models", DEEP),
    ("inference-chunk-keys", b"m/" + b"9" * 5_000 + b"/0"),
    ("inference-chunk-keys", b"m/1/" + b"9" * 5_000),
    ("drift-predictions", PREDICTION % (b"1", b"no\xa3model", b"1", b"0.5")),
    ("drift-outcomes", OUTCOME % (b"1", b"\xff", b"1", b"0.5")),
    ("drift-service", OUTCOME % (b"-9223372036854775809", b"ok", b"1", b"0.5")),
    ("drift-service", OUTCOME % (b"1" + b"0" * 30, b"ok", b"1", b"0.5")),
    ("drift-state", pair(b"key/c-1", b"1522540831 0040831 00")),
    ("drift-state", pair(b"generation", b'{"generation":0,"offsets":{"fraud-\xb2":12},"v":1}')),
    ("retrain-drift", b'{"kind":"generation","id":"\xff"}'),
    ("retrain-decisions", b'{"v":1,"id":"\xff"}'),
    ("retrain-outcomes", b'{"id":"\xff"}'),
    ("retrain-outcomes", OUTCOME.replace(b"score", b"other") % (b"1", b"ok", b"1", b"0.5")),
    ("retrain-outcomes", OUTCOME % (b"1" + b"0" * 30, b"ok", b"1", b"0.5")),
]


@pytest.mark.parametrize(("name", "data"), REGRESSIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_what_once_broke_a_decoder_is_taken_or_refused(name: str, data: bytes) -> None:
    target = TARGETS[name].make(name)
    decode = target.fresh()
    for _ in range(3):
        try:
            decode(data)
        except target.refusals:
            continue


def test_a_graph_whose_tensor_has_a_type_without_a_name_is_refused() -> None:
    target = TARGETS["inference-artefact"].make("inference-artefact")
    (seed,) = target.seeds
    place = seed.rindex(b"features")
    refused = 0
    for at in range(place, len(seed)):
        data = bytearray(seed)
        data[at] = 89
        try:
            target.fresh()(bytes(data))
        except target.refusals:
            refused += 1
    assert refused > 5


@pytest.mark.parametrize(("name", "kind"), [("raised", "raised"), ("died", "died"), ("hung", "hung"), ("slow", "slow")])
def test_a_planted_defect_is_found_with_its_input(name: str, kind: str) -> None:
    whole = f"selftest-{name}"
    executions = BLOCK if name != "hung" else 1
    stop_after: list[Finding] = []

    class EnoughError(Exception):
        pass

    def enough(result: Result) -> None:
        stop_after.extend(result.findings.values())
        if stop_after:
            raise EnoughError

    with pytest.raises(EnoughError):
        run_target(whole, executions, 1, 1, 0.04, 1.0, enough)
    finding = stop_after[0]
    assert (finding.target, finding.kind) == (whole, kind)
    mutator = Mutator(KNOWN[whole].make(whole).seeds)
    assert list(inputs(mutator, 1, whole, finding.block))[finding.index] == finding.data
    assert sum(finding.data) % 97 == 0


def test_one_seed_makes_the_same_inputs_and_another_others() -> None:
    mutator = Mutator([b'{"a":[1,{"b":"x"}],"c":null}', b"\x00\x01raw"])
    first, again, other = (list(inputs(mutator, seed, "t", 0)) for seed in (1, 1, 2))
    assert first == again != other
    assert len(set(first)) > BLOCK // 2


def test_a_mutator_changes_members_and_bytes_and_leaves_some_as_they_are() -> None:
    seed = b'{"a":[1,{"b":"x"}],"c":null}'
    mutator, rng = Mutator([seed]), random.Random(0)
    kinds: Counter[str] = Counter()
    for _ in range(2_000):
        data = mutator.make(rng)
        try:
            kinds["same" if orjson.loads(data) == orjson.loads(seed) else "other document"] += 1
        except orjson.JSONDecodeError:
            kinds["no document"] += 1
    assert min(kinds[kind] for kind in ("same", "other document", "no document")) > 40


def test_slow_targets_get_a_smaller_share_and_none_is_left_out() -> None:
    found = shares(list(TARGETS), 1_000_000)
    assert found.keys() == TARGETS.keys()
    assert sum(found.values()) == pytest.approx(1_000_000, rel=0.001)
    assert found["runtime-yaml"] < found["features-events"] < found["ingest-payments"]
    assert not SELFTESTS.keys() & TARGETS.keys()
