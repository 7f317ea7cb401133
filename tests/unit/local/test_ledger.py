import orjson
import pytest

from tidemill.local.ledger import Ledger, percentiles

FEATURES = [1.0, 2.0, None]


def prediction(event_id: str, **changes: object) -> bytes:
    record = {
        "v": 1,
        "id": event_id,
        "event_time": 1_000,
        "fs": "abc",
        "features": FEATURES,
        "status": "ok",
        "model": "m",
        "model_version": 3,
        "outputs": {"score": 0.5},
        "provider": "CPUExecutionProvider",
    }
    return orjson.dumps(record | changes)


@pytest.fixture
def ledger() -> Ledger:
    books = Ledger("payment_id", len(FEATURES), "abc")
    for offset, name in enumerate(["a", "b", "c"]):
        books.raw(0, offset, orjson.dumps({"payment_id": name}))
    return books


def test_books_balance_when_every_input_has_one_prediction(ledger: Ledger) -> None:
    for name in "abc":
        ledger.prediction(prediction(name))
    balance = ledger.balance()
    assert (balance["events"], balance["missing"], balance["repeated"], balance["foreign"]) == (3, 0, 0, 0)


def test_a_lost_prediction_is_missing_and_named(ledger: Ledger) -> None:
    ledger.prediction(prediction("a"))
    ledger.prediction(prediction("c"))
    balance = ledger.balance()
    assert balance["missing"] == 1
    assert balance["examples"]["missing"] == ["b"]


def test_a_second_prediction_of_an_input_is_repeated(ledger: Ledger) -> None:
    for name in "aabc":
        ledger.prediction(prediction(name))
    assert ledger.balance()["repeated"] == 1


def test_a_prediction_without_an_input_comes_from_nowhere(ledger: Ledger) -> None:
    for name in "abcd":
        ledger.prediction(prediction(name))
    assert ledger.balance()["foreign"] == 1


def test_a_duplicate_input_needs_one_prediction_only(ledger: Ledger) -> None:
    ledger.raw(1, 0, orjson.dumps({"payment_id": "a"}))
    for name in "abc":
        ledger.prediction(prediction(name))
    balance = ledger.balance()
    assert (balance["duplicates"], balance["events"], balance["missing"]) == (1, 3, 0)


def test_a_refused_record_is_expected_nowhere_but_in_the_dead_letters(ledger: Ledger) -> None:
    ledger.raw(0, 3, b"{broken")
    ledger.dead_letter("not_json", (0, 3), b"{broken")
    for name in "abc":
        ledger.prediction(prediction(name))
    balance = ledger.balance()
    assert balance["missing"] == 0
    assert balance["dlq"] == {"not_json": 1}


def test_a_broken_record_that_reached_no_dead_letter_is_missing(ledger: Ledger) -> None:
    ledger.raw(0, 3, b"{broken")
    for name in "abc":
        ledger.prediction(prediction(name))
    balance = ledger.balance()
    assert balance["missing"] == 1
    assert balance["examples"]["missing"] == ["0:3"]


def test_a_late_event_is_accounted_for_by_its_dead_letter(ledger: Ledger) -> None:
    ledger.dead_letter("late", None, orjson.dumps({"id": "b"}), event=True)
    ledger.prediction(prediction("a"))
    ledger.prediction(prediction("c"))
    balance = ledger.balance()
    assert (balance["missing"], balance["late"], balance["events"]) == (0, 1, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_version": None},
        {"model": None},
        {"features": FEATURES[:2]},
        {"fs": "another"},
        {"outputs": {}},
        {"status": "no_model"},
    ],
)
def test_a_prediction_that_does_not_name_its_model_or_features_is_counted(
    ledger: Ledger, changes: dict[str, object]
) -> None:
    ledger.prediction(prediction("a", **changes))
    assert ledger.balance()["unnamed"] == 1


def test_a_prediction_of_the_rule_names_no_version(ledger: Ledger) -> None:
    ledger.prediction(prediction("a", status="no_model", model=None, model_version=None, provider="rule"))
    assert ledger.balance()["unnamed"] == 0


def test_percentiles_are_nearest_rank() -> None:
    assert percentiles([3.0, 1.0, 2.0, 4.0], (0.5, 0.99)) == [3.0, 4.0]
    assert percentiles([], (0.5,)) == [None]


def test_a_late_label_excuses_no_missing_prediction(ledger: Ledger) -> None:
    ledger.dead_letter("late", None, orjson.dumps({"id": "b"}), event=False)
    ledger.prediction(prediction("a"))
    ledger.prediction(prediction("c"))
    assert ledger.balance()["missing"] == 1


def test_a_prediction_of_a_late_event_comes_from_nowhere(ledger: Ledger) -> None:
    ledger.dead_letter("late", None, orjson.dumps({"id": "b"}), event=True)
    for name in "abc":
        ledger.prediction(prediction(name))
    assert ledger.balance()["foreign"] == 1
