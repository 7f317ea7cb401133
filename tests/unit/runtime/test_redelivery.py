"""Dead letters go back where they came from, each once: whatever is cut off, run twice, or expired meanwhile."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lettertopics import MARKERS, CutOffError, LetterTopics, Producer
from tidemill import clock
from tidemill.errors import TidemillError
from tidemill.runtime import redelivery
from tidemill.runtime.dlq import ADDRESSEE, ATTEMPT, to_record
from tidemill.runtime.letters import Letter, Position, Selection, parse_positions, read_letter
from tidemill.runtime.pipelinefile import load_pipeline
from tidemill.runtime.redelivery import Order, Tally, deliver, look
from tidemill.runtime.reinjection import Fate, Places
from tidemill.runtime.service import DeadLetter, Record

AT = 1_522_540_831_000
PLACES = Places("p", {"raw": frozenset({"ingest"}), "labels": frozenset({"ingest", "drift"})}, {"raw": 4, "labels": 4})


def record(number: int, *headers: tuple[str, bytes], topic: str = "raw", partition: int = 3) -> Record:
    return Record(topic, partition, number, AT + number, b"k%d" % number, b"\x00\xff%d" % number, headers)


def order(selection: Selection | None = None, **options: object) -> Order:
    return Order(selection or Selection(), PLACES, **options)


def full(count: int) -> LetterTopics:
    topics = LetterTopics()
    for number in range(count):
        topics.die(record(number, partition=number % 4))
    return topics


def run(topics: LetterTopics, wanted: Order | None = None, **producer: object) -> Tally:
    return deliver(topics, Producer(topics, **producer), wanted or order(), lambda _: None)


def keys(topics: LetterTopics) -> Counter[bytes | None]:
    return Counter(out.key for out in topics.put_back)


originals = st.builds(
    Record,
    st.just("raw"),
    st.integers(0, 3),
    st.integers(0, 2**40),
    st.integers(1, 2**42),
    st.none() | st.binary(max_size=20),
    st.none() | st.binary(max_size=50),
    st.lists(st.tuples(st.sampled_from(["trace", "x"]), st.binary(max_size=8)), max_size=3).map(tuple),
)


@given(originals, st.integers(1, 4))
def test_a_record_goes_back_byte_for_byte_however_often_it_dies(original: Record, deaths: int) -> None:
    topics = LetterTopics()
    dying = original
    for attempt in range(1, deaths + 1):
        topics.die(dying)
        run(topics, order(max_attempts=9))
        back = topics.put_back[-1]
        assert back[:5] == (*(original.topic, original.key, original.value, original.timestamp), original.partition)
        assert back.headers == (*original.headers, (ATTEMPT, b"%d" % attempt), (ADDRESSEE, b"p-ingest"))
        dying = original._replace(offset=original.offset + attempt, headers=back.headers)
    assert len(topics.put_back) == deaths


@given(st.integers(0, 12), st.lists(st.tuples(st.integers(1, 6), st.sampled_from(["before", "after"])), max_size=5))
@settings(deadline=None)
def test_whatever_is_cut_off_each_letter_goes_back_once(count: int, cuts: list[tuple[int, str]]) -> None:
    topics = full(count)
    for cut in cuts:
        try:
            run(topics, order(rate=2_000_000.0), cut_off=cut)
        except CutOffError:
            continue
    run(topics)
    run(topics)
    assert keys(topics) == Counter({b"k%d" % number: 1 for number in range(count)})


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redelivery, "BATCH_RECORDS", 3)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("write", [1, 2, 4])
def test_cut_off_between_batches_the_next_run_does_the_rest(small_batches: None, write: int, moment: str) -> None:
    topics = full(11)
    with pytest.raises(CutOffError):
        run(topics, cut_off=(write, moment))
    done = 3 * (write - (moment == "before"))
    assert len(topics.put_back) == min(done, 11)
    tally = run(topics)
    assert (tally.replayed, tally.fates[Fate.REPLAYED_BEFORE]) == (11 - min(done, 11), min(done, 11))
    assert set(keys(topics).values()) == {1} and len(keys(topics)) == 11


def test_a_later_run_fences_the_one_before_which_stops(small_batches: None) -> None:
    topics = full(9)
    batches = 0

    def second(_: int) -> None:
        nonlocal batches
        batches += 1
        if batches == 1:
            run(topics)

    with pytest.raises(TidemillError, match="fenced"):
        deliver(topics, Producer(topics), order(), second)
    assert set(keys(topics).values()) == {1} and len(keys(topics)) == 9


def test_what_an_earlier_run_commits_until_it_is_fenced_counts() -> None:
    topics = full(4)

    class Late(Producer):
        def start(self) -> None:
            run(topics)
            super().start()

    assert deliver(topics, Late(topics), order(), lambda _: None).replayed == 0
    assert set(keys(topics).values()) == {1}


def test_a_run_whose_producer_is_renewed_trusts_the_markers_alone(small_batches: None) -> None:
    topics = full(9)
    first = Producer(topics, renew=[2])

    def second(_: int) -> None:
        if topics.holder == 1:
            run(topics)

    tally = deliver(topics, first, order(), second)
    assert set(keys(topics).values()) == {1} and len(keys(topics)) == 9
    assert tally.fates == {Fate.REPLAY: 3, Fate.REPLAYED_BEFORE: 6}
    assert +tally.codes == {"out_of_range": 3}


def test_a_look_writes_nothing_and_fences_nobody() -> None:
    topics = full(5)
    tally = look(topics, order(limit=4))
    assert (tally.replayed, topics.written, topics.holder) == (4, [], 0)


def test_the_marker_stands_in_the_transaction_of_its_record() -> None:
    topics = full(1)
    producer = Producer(topics)
    deliver(topics, producer, order(), lambda _: None)
    assert producer.sizes == [2]
    assert topics.written[-1].topic == MARKERS
    assert topics.written[-1].key == b"0:0"


def test_a_record_that_died_after_each_of_so_many_replays_is_left_and_told() -> None:
    topics = LetterTopics()
    dying = record(7)
    for _ in range(4):
        topics.die(dying)
        run(topics, order(max_attempts=2))
        dying = dying._replace(headers=topics.put_back[-1].headers)
    assert len(topics.put_back) == 2
    tally = look(topics, order(max_attempts=2))
    assert tally.fates[Fate.TOO_MANY_ATTEMPTS] == tally.in_need == 2
    assert tally.held_back[0] == (Position(1, 2), Fate.TOO_MANY_ATTEMPTS)


def test_a_letter_that_nobody_would_take_is_left_and_told() -> None:
    topics = LetterTopics()
    topics.die(record(1, topic="gone"))
    topics.die(record(2, partition=4))
    topics.die(record(3), service="features-customer")
    topics.dlq[0].append(Record("p-dlq", 0, 1, AT, b"stray", b"no story"))
    tally = run(topics)
    assert tally.fates == {Fate.NO_READER: 2, Fate.NO_PARTITION: 1}
    assert (tally.unreadable, tally.in_need, topics.put_back) == (1, 3, [])


def test_a_later_version_of_a_stage_takes_what_an_earlier_one_refused() -> None:
    pipeline = load_pipeline("fraud")
    places = Places.of(pipeline, {"fraud-events": 4})
    dead = DeadLetter(record(1, topic="fraud-events"), "late", "is late")
    letter = read_letter(as_read(to_record(dead, "fraud-dlq", "features-customer-v2")))
    assert letter is not None
    assert places.fate(letter, LetterTopics().ledger(), 1) is Fate.REPLAY
    assert dict(places.record(letter).headers)[ADDRESSEE] == b"fraud-features-customer"


def as_read(out: object) -> Record:
    return Record("p-dlq", 0, 0, out.timestamp, out.key, out.value, out.headers)


def test_a_letter_of_a_topic_that_was_made_anew_is_another_one_at_the_same_position() -> None:
    topics = full(1)
    run(topics)
    topics.dlq[0].clear()
    topics.die(record(0, partition=2))
    run(topics)
    assert len(topics.put_back) == 2


def test_markers_of_letters_that_have_expired_are_removed() -> None:
    topics = full(8)
    run(topics)
    topics.lows = {0: 3, 1: 0}
    run(topics)
    assert sorted(topics.ledger().done) == [(0, 3), (1, 0), (1, 1), (1, 2), (1, 3)]
    assert len(topics.put_back) == 8


@pytest.mark.parametrize(
    ("selection", "found"),
    [
        (Selection(codes=frozenset({"late"})), {b"k1"}),
        (Selection(stages=frozenset({"drift"})), {b"k2"}),
        (Selection(topics=frozenset({"labels"})), {b"k2"}),
        (Selection(positions=parse_positions(["1:0", "0:9"])), {b"k1"}),
        (Selection(since=AT + 1, until=AT + 2), {b"k1"}),
        (Selection(codes=frozenset({"late"}), topics=frozenset({"labels"})), set()),
        (Selection(), {b"k0", b"k1", b"k2"}),
    ],
)
def test_only_what_is_asked_for_goes_back(selection: Selection, found: set[bytes]) -> None:
    topics = LetterTopics()
    topics.die(record(0, partition=0))
    topics.die(record(1, partition=1), code="late")
    topics.die(record(2, topic="labels", partition=2), code="schema", service="drift")
    run(topics, order(selection))
    assert keys(topics).keys() == found


def test_a_limit_takes_the_oldest_and_the_next_run_goes_on_behind_them() -> None:
    topics = full(5)
    for _ in range(3):
        run(topics, order(limit=2))
    assert list(keys(topics)) == [b"k0", b"k2", b"k4", b"k1", b"k3"]


def test_a_repaired_value_goes_back_under_the_old_key_and_is_done() -> None:
    topics = full(1)
    run(topics, order(repaired=b"good"))
    run(topics)
    (back,) = topics.put_back
    assert (back.key, back.value, back.partition, back.timestamp) == (b"k0", b"good", 0, AT)


def test_a_rate_makes_small_batches_and_waits_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    moment, waits = [100.0], []

    def pause(seconds: float) -> None:
        waits.append(seconds)
        moment[0] += seconds

    monkeypatch.setattr(clock, "monotonic", lambda: moment[0])
    monkeypatch.setattr(clock, "pause", pause)
    topics = full(10)
    producer = Producer(topics)
    deliver(topics, producer, order(rate=4.0), lambda _: None)
    assert producer.sizes == [8, 8, 4], "records and their markers"
    assert waits == [1.0, 1.0, 0.5]


@pytest.mark.parametrize(
    ("header", "attempts"), [(b"2", 2), (b"x", 0), (b"", 0), (b"\xff", 0), (b"-1", 0), (b"9" * 40, 0)]
)
def test_a_counter_that_is_no_number_counts_nothing(header: bytes, attempts: int) -> None:
    dead = DeadLetter(record(1, (ATTEMPT, header)), "late", "is late")
    letter = read_letter(as_read(to_record(dead, "p-dlq", "ingest")))
    assert isinstance(letter, Letter) and letter.attempts == attempts


@pytest.mark.parametrize("text", ["", "1", "1:", ":1", "a:1", "1:-2", "1:²", "1:2:3"])
def test_what_is_no_position_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no position"):
        parse_positions([text])


def test_the_stages_of_the_fraud_pipeline_read_what_they_refuse() -> None:
    readers = Places.of(load_pipeline("fraud"), {}).readers
    assert readers["fraud-raw-payments"] == {"ingest"}
    assert readers["fraud-labels"] == {"features-customer", "features-outcomes"}
    assert readers["fraud-predictions"] == {"features-outcomes", "drift"}
