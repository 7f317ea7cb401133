"""The audit's questions: right books raise none, and each kind of damage is seen by the question meant for it."""

import copy
from collections.abc import Callable

import orjson
import pytest

from chaosharness import checks
from chaosharness.books import Books
from chaosharness.recomputation import recompute
from tidemill.runtime.pipelinefile import load_pipeline

FRAUD = load_pipeline("fraud")
DAY = 86_400_000
START = 1_525_000_000_000
PAYMENTS = 60
SENT = {
    "payments": PAYMENTS,
    "duplicates": 1,
    "dead_letters": {"not_json": 1, "late": 1},
    "bad": {"broken_json": 1, "late": 1, "duplicate": 1},
}
SWITCH_AT = 25


class World:
    """A small stream as a faultless run would leave it: one partition, a bad record, a duplicate and a late event."""

    def __init__(self) -> None:
        self.books = Books(FRAUD)
        self.offsets: dict[str, int] = {}
        self.rows: dict[str, dict[str, list[tuple[int, str]]]] = {"customer": {}, "terminal": {}}
        scores: list[dict[str, object]] = []
        for number in range(PAYMENTS):
            event = self._event(f"p{number}", START + number * DAY // 2, number)
            self._raw(event)
            if number == 30:
                self._raw(event)  # a duplicate is an event as well; the first stage drops it
                self._put("raw-payments", b"c", b"{broken")
                self._letter("not_json", "ingest", "fraud-raw-payments", self.offsets["raw-payments"], b"{broken")
                late = self._event("late", START, number)
                self._raw(late)
                self._letter("late", "features-customer", "fraud-events", self.offsets["events"], orjson.dumps(late))
            scores.append(event)
        for number, event in enumerate(scores):
            self._put("by-terminal", b"t", orjson.dumps(event | {"features": []}))
            self.rows["customer"].setdefault(str(event["customer"]), []).append(self._row(event))
            self.rows["terminal"].setdefault(str(event["terminal"]), []).append(self._row(event))
            if number == 20:
                label = {"id": "p0", "event_time": START, "known_at": START + 10 * DAY, "terminal": "t0", "fraud": 1}
                raw = orjson.dumps({"payment_id": "p0"})
                self._put("raw-chargebacks", b"c", raw)
                self._put("labels", b"c", orjson.dumps(label), START + 40 * DAY)
                self._put("by-terminal", b"t", orjson.dumps(label))
        self.vectors = recompute(self.books)
        self._put("inference-state", b"active", orjson.dumps({"epoch": 1, "champion": 1, "from_offset": SWITCH_AT}))
        for event in scores:
            name = str(event["id"])
            vector = event | {"features": self.vectors[name]}
            offset = self._put("features", b"c", orjson.dumps(vector))
            version = 1 if offset >= SWITCH_AT else None
            scored = vector | {"model_version": version, "outputs": {"score": 0.002 if version else 0.0}}
            self._put("predictions", b"c", orjson.dumps(scored))
            if int(str(event["event_time"])) + FRAUD.outcomes.maturity < START + 40 * DAY:
                self._put("outcomes", b"c", orjson.dumps(scored))

    def findings(self) -> dict[str, list[str]]:
        books = self.books
        names = {f"p{number}": f"h{number}" for number in range(PAYMENTS)} | {"late": "hl"}
        return {
            "outputs": checks.every_input_has_its_output(books),
            "order": checks.order_per_key_is_kept(books),
            "dead_letters": checks.dead_letters_are_the_originals(books),
            "counters": checks.counters_are_exact(books, SENT),
            "models": checks.each_model_scored_its_part(books, 1, lambda version: 0.002),
            "outcomes": checks.outcomes_are_complete(books, FRAUD.outcomes.maturity),
            "twice": checks.nothing_was_seen_twice(books),
            "vectors": checks.vectors_equal(books, recompute(books)),
            "customer_state": checks.state_equals_inputs(books, "customer", self.rows["customer"], names, 30 * DAY),
            "terminal_state": checks.state_equals_inputs(books, "terminal", self.rows["terminal"], names, 37 * DAY),
        }

    def _event(self, name: str, time: int, number: int) -> dict[str, object]:
        return {
            "id": name, "event_time": time, "customer": f"c{number % 2}", "terminal": f"t{number % 3}",
            "amount": 10.0 + number / 100,
        }  # fmt: skip

    def _row(self, event: dict[str, object]) -> tuple[int, str]:
        return int(str(event["event_time"])), f"h{str(event['id'])[1:]}"

    def _raw(self, event: dict[str, object]) -> None:
        self._put("raw-payments", b"c", orjson.dumps(event | {"payment_id": event["id"]}))
        self._put("events", b"c", orjson.dumps(event))

    def _put(self, role: str, key: bytes, value: bytes, timestamp: int = 0) -> int:
        offset = self.offsets[role] = self.offsets.get(role, -1) + 1
        self.books.enter(f"fraud-{role}", 0, offset, timestamp, key, value, ())
        return offset

    def _letter(self, code: str, stage: str, topic: str, offset: int, value: bytes) -> None:
        story = {"topic": topic, "partition": "0", "offset": str(offset), "stage": stage}
        headers = [(f"__connect.errors.{name}", text.encode()) for name, text in story.items()]
        at = self.offsets["dlq"] = self.offsets.get("dlq", -1) + 1
        self.books.enter("fraud-dlq", 0, at, 0, b"c", value, [*headers, ("tidemill.code", code.encode())])

    def again(self, role: str) -> None:
        """The last record of a topic once more, as a second commit of the same work would leave it."""
        line = self.books.streams[role][0][-1]
        value = orjson.dumps({"id": line.id, "event_time": START + 1, "features": self.vectors[line.id],
                              "model_version": 1, "outputs": {"score": 0.002}})  # fmt: skip
        self._put({"rekeyed": "by-terminal"}.get(role, role), line.key, value)


@pytest.fixture(scope="module")
def whole() -> World:
    return World()


def test_right_books_raise_no_question(whole: World) -> None:
    assert not any(whole.findings().values())
    assert len(whole.vectors) == PAYMENTS


def lose(stream: str) -> Callable[[World], object]:
    return lambda world: world.books.streams[stream][0].pop(35)


def repeat(stream: str) -> Callable[[World], object]:
    return lambda world: world.again(stream)


def swap_neighbours(world: World, stream: str) -> None:
    lines = world.books.streams[stream][0]
    lines[40], lines[41] = lines[41], lines[40]


def flip_a_bit(world: World) -> None:
    world.books.vectors["p40"][4] = float(world.books.vectors["p40"][4] or 0) * (1 + 2**-52)


def score_by_another(world: World) -> None:
    world.books.scores["p40"] = (None, 0.0)


def score_of_another(world: World) -> None:
    world.books.scores["p40"] = (1, 0.003)


def switch_twice(world: World) -> None:
    world.books.switches[0].append(world.books.switches[0][0])


def letter_twice(world: World) -> None:
    world.books.letters.append(world.books.letters[0])


def letter_changed(world: World) -> None:
    world.books.letters[0] = world.books.letters[0]._replace(value=1)


def letter_lost(world: World) -> None:
    world.books.letters.pop(0)


def state_row_lost(world: World) -> None:
    world.rows["customer"]["c0"].pop(20)


def state_row_twice(world: World) -> None:
    world.rows["terminal"]["t0"].append(world.rows["terminal"]["t0"][-1])


def state_key_lost(world: World) -> None:
    del world.rows["terminal"]["t1"]


DAMAGE: list[tuple[Callable[[World], object], str]] = [
    (lose("events"), "outputs"),
    (lose("rekeyed"), "outputs"),
    (lose("features"), "outputs"),
    (lose("predictions"), "outputs"),
    (lose("outcomes"), "outcomes"),
    (repeat("rekeyed"), "outputs"),
    (repeat("features"), "outputs"),
    (repeat("predictions"), "outputs"),
    (repeat("outcomes"), "outcomes"),
    (lambda world: swap_neighbours(world, "events"), "order"),
    (lambda world: swap_neighbours(world, "predictions"), "order"),
    (flip_a_bit, "vectors"),
    (score_by_another, "models"),
    (score_of_another, "models"),
    (switch_twice, "models"),
    (letter_twice, "dead_letters"),
    (letter_changed, "dead_letters"),
    (letter_lost, "outputs"),
    (letter_lost, "counters"),
    (state_row_lost, "customer_state"),
    (state_row_twice, "terminal_state"),
    (state_key_lost, "terminal_state"),
]


@pytest.mark.parametrize(("damage", "seen_by"), DAMAGE)
def test_each_damage_is_seen(whole: World, damage: Callable[[World], object], seen_by: str) -> None:
    world = copy.deepcopy(whole)
    damage(world)
    assert world.findings()[seen_by] != []


def test_a_copy_that_the_producer_made_must_be_found_as_a_duplicate(whole: World) -> None:
    world = copy.deepcopy(whole)
    event = world._event("p59", START + 59 * DAY // 2, 59)
    world._raw(event)
    assert not any(world.findings().values())
    world.books.raw["fraud-raw-payments"][0, 999] = ("p58", b"c", 1)
    assert world.findings()["counters"] != []


def test_what_came_twice_shows_while_the_stream_runs(whole: World) -> None:
    world = copy.deepcopy(whole)
    for stream in ("rekeyed", "features", "predictions", "outcomes"):
        world.again(stream)
    assert world.books.progress()["repeated"] == 4
    assert len(world.findings()["twice"]) == 4
