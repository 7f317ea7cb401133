"""Which records are watched: a matter of their id and the seed, of nothing else."""

import orjson
import pytest

from tidemill.drift.core.sampling import Sampler


def record(identifier: str) -> bytes:
    return orjson.dumps({"v": 1, "id": identifier, "event_time": 1, "note": '"id":"other"'})


@pytest.mark.parametrize("share", [0.01, 0.25, 0.5, 0.9])
def test_consecutive_ids_are_taken_in_the_asked_share_in_every_stretch(share: float) -> None:
    sampler = Sampler(share)
    for low in (0, 50_000, 1_000_000):
        taken = sum(sampler.takes(b"p-%09d" % number) for number in range(low, low + 10_000))
        assert taken == pytest.approx(10_000 * share, abs=5 * (10_000 * share * (1 - share)) ** 0.5)


def test_another_seed_takes_other_ids() -> None:
    ids = [b"p-%09d" % number for number in range(10_000)]
    first, second = ([Sampler(0.25, seed).takes(i) for i in ids] for seed in (1, 2))
    assert sum(a and b for a, b in zip(first, second, strict=True)) == pytest.approx(625, abs=125)


def test_the_choice_is_the_same_in_every_process() -> None:
    assert [number for number in range(40) if Sampler(0.25, 7).takes(b"p-%09d" % number)] == [
        3, 4, 9, 13, 15, 18, 19, 23, 27, 29, 34,
    ]  # fmt: skip


def test_the_id_in_a_record_decides_as_the_id_itself() -> None:
    sampler = Sampler(0.5)
    for number in range(200):
        assert sampler.takes_record(record(f"p-{number}")) == sampler.takes(b"p-%d" % number)


def test_a_record_without_a_readable_id_is_taken_so_that_its_decoder_judges_it() -> None:
    for value in (b"", b"not json", b'{"v":1}', b'{"v":1,"id":"unfinished'):
        assert Sampler(1e-9).takes_record(value)
    assert not Sampler(1e-9).takes_record(record("p-1"))


def test_a_share_of_one_takes_everything() -> None:
    assert all(Sampler(1.0).takes_record(record(f"p-{number}")) for number in range(1_000))
