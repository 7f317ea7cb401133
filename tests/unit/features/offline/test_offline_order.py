"""Lanes, their merging and their way over disk: the order of the loop, and nothing lost."""

from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from support.livechain import logs, released
from tidemill.features.offline.items import Item, blocks, lane, merged
from tidemill.features.offline.spill import SpillWriter, read_spill
from tidemill.runtime.inputs import InputTopic
from tidemill.runtime.ports import Partition
from tidemill.runtime.service import OutRecord, Record

INPUTS = (InputTopic("e"), InputTopic("l"))

records = st.builds(
    OutRecord,
    topic=st.sampled_from(["e", "l"]),
    key=st.none() | st.binary(max_size=3),
    value=st.none() | st.binary(max_size=3),
    timestamp=st.integers(0, 20),
    partition=st.integers(0, 2),
)


def items_of(log: list[Record], partition: Partition) -> list[Item]:
    mine = (at for at in log if (at.topic, at.partition) == partition)
    return [Item(0, 0, 0, True, at.timestamp, at.key, at.value) for at in mine]


@given(st.lists(records, max_size=60))
def test_merged_lanes_are_in_the_order_in_which_the_loop_releases(stream: list[OutRecord]) -> None:
    log = logs(stream, 3)
    expected = [(at.timestamp, at.key, at.value) for at in released(INPUTS, log)]
    lanes = [
        lane(items_of(log, (topic, number)), rank, number)
        for rank, (topic, _) in enumerate(INPUTS)
        for number in range(3)
    ]
    assert [item[4:] for item in merged(lanes)] == expected


items = st.builds(
    Item,
    effective=st.integers(-(2**63), 2**63 - 1),
    rank=st.integers(0, 255),
    partition=st.integers(0, 2**32 - 1),
    wanted=st.booleans(),
    timestamp=st.integers(-(2**63), 2**63 - 1),
    key=st.none() | st.binary(max_size=9),
    value=st.none() | st.binary(max_size=300),
)


@settings(deadline=None)
@given(st.lists(items, max_size=20))
def test_what_is_spilled_is_read_back(written: list[Item]) -> None:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "some.spill"
        with SpillWriter(path) as spill:
            for item in written:
                spill.write(item)
        assert list(read_spill(path)) == written


@given(st.lists(st.integers(), max_size=30), st.integers(1, 7))
def test_blocks_hold_everything_in_order(values: list[int], size: int) -> None:
    made = list(blocks(values, size))
    assert [value for block in made for value in block] == values
    assert all(len(block) == size for block in made[:-1])
    assert all(made)
