"""What is written beside an offset is read again, and nothing else is taken for it."""

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidemill.runtime.notes import Note, commit_names, read_note, write_note


@given(st.none() | st.integers(-(2**63), 2**63))
def test_a_note_is_read_as_it_was_written(time: int | None) -> None:
    for name in islice(commit_names(), 3):
        assert read_note(write_note(Note(time, name))) == Note(time, name)


@pytest.mark.parametrize(
    "text", ["", "replaced by p-count-v2", "newest 5", "commit", "commit a b", "newest x commit a"]
)
def test_what_others_left_is_no_note(text: str) -> None:
    assert read_note(text) is None


def test_no_two_commits_have_one_name() -> None:
    names = [name for names in (commit_names(), commit_names()) for name in islice(names, 100)]
    assert len(set(names)) == 200
