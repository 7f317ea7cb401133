"""A small stream as a faultless run of the fraud pipeline would leave it, fed to the chaos harness' books.

One partition, and in it a record that is no JSON, a duplicate, a late event, labels of every second payment, three
promotions of which one was replaced before it could take effect. `changes` alters single records on their way in.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import orjson

from chaosharness import checks, contents, modelchecks, ordering, outcomechecks, statechecks
from chaosharness.books import Books
from chaosharness.promotions import Promotions
from chaosharness.recomputation import recompute
from chaosharness.scoring import scores
from chaosharness.statechecks import Holding, Row, Waiting
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
FIRST_SWITCH, SECOND_SWITCH = 25, 45
KNOWN_AFTER = 3 * DAY
LABELS_UNTIL = START + (PAYMENTS - 2) * DAY // 2 + KNOWN_AFTER
_LABEL_OF = "label of "
_RAW_HEADERS = (("sent", b"1"),)


class Sent(NamedTuple):
    """What of a record can be changed on its way."""

    key: bytes
    value: dict[str, Any] | bytes
    timestamp: int
    headers: tuple[tuple[str, bytes], ...]


Change = Callable[[Sent], Sent]


class World:
    def __init__(self, changes: Mapping[tuple[str, str], Change] | None = None) -> None:
        self.books = Books(FRAUD)
        self.changes = dict(changes or {})
        self.offsets: dict[str, int] = {}
        self._last: dict[str, tuple[str, Sent]] = {}
        self.payments = [event(number) for number in range(PAYMENTS)]
        labels = [label(number) for number in range(0, PAYMENTS, 2)]
        for number, payment in enumerate(self.payments):
            self.raw(payment)
            if number == 30:
                self._refused(payment)
        for one in labels:
            key = one["customer"].encode()
            self._put("raw-chargebacks", one["id"], Sent(key, {"payment_id": one["id"]}, one["known_at"], ()))
            self._put("labels", one["id"], Sent(key, one, one["known_at"], ()))
        self._second_stage(labels)
        self.vectors = recompute(self.books)
        self._models()
        self._scored()
        self._state(labels)

    def findings(self) -> dict[str, list[str]]:
        books = self.books
        hashes = {payment["id"]: f"h-{payment['id']}" for payment in self.payments} | {"late": "h-late"}
        return {
            "outputs": checks.every_input_has_its_output(books),
            "order": ordering.order_is_kept(books),
            "contents": contents.records_are_carried_on(books),
            "records": contents.records_are_what_they_say(books),
            "dead_letters": checks.dead_letters_are_the_originals(books),
            "counters": checks.counters_are_exact(books, SENT),
            "models": modelchecks.each_model_scored_its_part(books),
            "promotions": modelchecks.promotions_took_effect(books, 3, self.promotions),
            "outcomes": outcomechecks.outcomes_are_complete(books),
            "truths": outcomechecks.truths_are_the_labels(books),
            "twice": checks.nothing_was_seen_twice(books),
            "vectors": contents.vectors_equal(books, recompute(books)),
            "customer_state": statechecks.state_equals_inputs(books, 0, self.held[0], hashes, 30 * DAY),
            "terminal_state": statechecks.state_equals_inputs(books, 1, self.held[1], hashes, 37 * DAY),
            "outcomes_state": statechecks.waiting_labels_are_held(books, {0: self.waiting}, 0),
        }

    def raw(self, payment: dict[str, Any]) -> None:
        """A payment from its source and out of ingest."""
        key, time = payment["customer"].encode(), payment["event_time"]
        raw = payment | {"payment_id": payment["id"]}
        self._put("raw-payments", payment["id"], Sent(key, raw, time, _RAW_HEADERS))
        self._put("events", payment["id"], Sent(key, payment, time, ()))

    def again(self, stream: str) -> None:
        """The last record of a stream, no label, once more, as a second commit of the same work would leave it."""
        role = {"rekeyed": "by-terminal"}.get(stream, stream)
        name, sent = self._last[role]
        self._put(role, name, sent)

    def _refused(self, payment: dict[str, Any]) -> None:
        self.raw(payment)  # a duplicate is an event as well; the first stage drops it
        broken = Sent(b"c0", b"{broken", payment["event_time"], _RAW_HEADERS)
        at = self._put("raw-payments", "broken", broken)
        self._letter("not_json", "ingest", "fraud-raw-payments", at, broken)
        late = payment | {"id": "late", "event_time": START}
        self.raw(late)
        sent = Sent(late["customer"].encode(), late, START, ())
        self._letter("late", "features-customer", "fraud-events", self.offsets["events"], sent)

    def _second_stage(self, labels: list[dict[str, Any]]) -> None:
        """Events and labels in the order of their time, as the first stage hands them on."""
        handed = [(one["event_time"], 1, one) for one in self.payments] + [(one["known_at"], 0, one) for one in labels]
        for time, kind, one in sorted(handed, key=lambda entry: entry[:2]):
            value = one | {"fs": "f", "features": []} if kind else one
            name = one["id"] if kind else f"{_LABEL_OF}{one['id']}"
            self._put("by-terminal", name, Sent(one["terminal"].encode(), value, time, ()))

    def _models(self) -> None:
        for epoch in (1, 2, 3):
            activation = {"kind": "activation", "epoch": epoch, "champion": epoch}
            self._put("models", f"e{epoch}", Sent(b"m", activation, 0, ()))
        for epoch, offset in ((1, FIRST_SWITCH), (3, SECOND_SWITCH)):
            active = {"epoch": epoch, "champion": epoch, "from_offset": offset}
            self._put("inference-state", f"e{epoch}", Sent(b"active", active, 0, ()))
        self.promotions = Promotions()
        self.promotions.read(0, 1, {0: 0})
        self.promotions.ends(30, {0: FIRST_SWITCH})
        for now, epoch, predicted in ((95, 1, 40), (130, 2, 44), (131, 3, 44)):
            self.promotions.read(now, epoch, {0: predicted})
        self.promotions.ends(165, {0: SECOND_SWITCH})

    def _scored(self) -> None:
        for offset, payment in enumerate(self.payments):
            name, time, key = payment["id"], payment["event_time"], payment["customer"].encode()
            vector = payment | {"fs": "f", "features": self.vectors[name]}
            self._put("features", name, Sent(key, vector, time, ()))
            version = 3 if offset >= SECOND_SWITCH else 1 if offset >= FIRST_SWITCH else None
            row = np.array([[np.nan if value is None else value for value in self.vectors[name]]])
            score = float(np.float32(scores([version], row)[0])) if version else 0.0
            scored = vector | {
                "status": "ok" if version else "no_model",
                "model_version": version,
                "outputs": {"score": score},
                "decision": "review" if score >= 0.5 else "approve",
            }
            self._put("predictions", name, Sent(key, scored, time, ()))
            if time + FRAUD.outcomes.maturity > LABELS_UNTIL:
                continue
            truth = {"label": None, "label_status": "censored", "known_at": None, "shadow": None}
            if offset % 2 == 0:
                known = label(offset)
                truth |= {"label": known["fraud"], "label_status": "labelled", "known_at": known["known_at"]}
            self._put("outcomes", name, Sent(key, scored | truth, time + FRAUD.outcomes.maturity, ()))

    def _state(self, labels: list[dict[str, Any]]) -> None:
        self.held: list[dict[str, Holding]] = [{}, {}]
        for entity, held in zip(("customer", "terminal"), self.held, strict=True):
            for one in self.payments:
                holding = held.setdefault(one[entity], Holding([], {}))
                cents = round(one["amount"] * 100) if entity == "customer" else None
                holding.rows.append(Row(one["event_time"], f"h-{one['id']}", cents))
            for one in labels:
                held[one[entity]].flags[one["event_time"], f"h-{one['id']}"] = one["fraud"]
        newest = max(self.books.events[line.id].event_time for line in self.books.streams["outcomes"][0])
        self.waiting = [
            Waiting(one["id"], one["event_time"], one["known_at"], one["fraud"])
            for one in labels
            if one["event_time"] > newest // 3_600_000 * 3_600_000 - DAY
        ]

    def _put(self, role: str, name: str, sent: Sent) -> int:
        if not name.startswith(_LABEL_OF):
            self._last[role] = (name, sent)
        sent = self.changes.get((role, name), lambda same: same)(sent)
        offset = self.offsets[role] = self.offsets.get(role, -1) + 1
        value = sent.value if isinstance(sent.value, bytes) else orjson.dumps(sent.value)
        self.books.enter(f"fraud-{role}", 0, offset, sent.timestamp, sent.key, value, sent.headers)
        return offset

    def _letter(self, code: str, stage: str, topic: str, offset: int, sent: Sent) -> None:
        story = {"topic": topic, "partition": "0", "offset": str(offset), "stage": stage}
        headers = [(f"__connect.errors.{name}", text.encode()) for name, text in story.items()]
        headers.append(("tidemill.code", code.encode()))
        self._put("dlq", code, sent._replace(headers=(*sent.headers, *headers)))


def event(number: int) -> dict[str, Any]:
    return {
        "id": f"p{number}", "event_time": START + number * DAY // 2, "customer": f"c{number % 2}",
        "terminal": f"t{number % 3}", "amount": 10.0 + number / 100,
    }  # fmt: skip


def label(number: int) -> dict[str, Any]:
    """Known three days after its payment; every second one says fraud."""
    one = event(number)
    fraud = int(number % 4 == 0)
    return {
        "id": one["id"], "event_time": one["event_time"], "known_at": one["event_time"] + KNOWN_AFTER,
        "customer": one["customer"], "terminal": one["terminal"], "fraud": fraud,
    }  # fmt: skip
