"""The fraud scenario as the catalog offers it."""

import sys
from collections.abc import Iterator, Mapping
from typing import Final

from tidemill.domain.durations import DAY_MS
from tidemill.scenarios.catalog import Scenario
from tidemill.scenarios.fraud.cache import default_cache_dir
from tidemill.scenarios.fraud.simulator import EPOCH_MS, simulate
from tidemill.scenarios.fraud.stream import CHARGEBACKS, PAYMENTS, PaymentStream, StreamSettings


class FraudScenario:
    """Card payments and chargebacks of the Fraud Detection Handbook's simulator, all of them good records."""

    name: Final = "fraud"

    def events(self, days: int, seed: int) -> Iterator[bytes]:
        return self._values(days, seed, PAYMENTS)

    def labels(self, days: int, seed: int) -> Iterator[bytes]:
        return self._values(days, seed, CHARGEBACKS)

    def producer_command(self, settings: Mapping[str, str | int | float | bool]) -> list[str]:
        flags = [
            f"--{name.replace('_', '-')}={str(value).lower() if isinstance(value, bool) else value}"
            for name, value in settings.items()
        ]
        return [sys.executable, "-m", "tidemill.scenarios.fraud.producer", *flags]

    @staticmethod
    def _values(days: int, seed: int, role: str) -> Iterator[bytes]:
        transactions = simulate(days, seed=seed, cache_dir=default_cache_dir())
        settings = StreamSettings(first_day=0, from_ms=EPOCH_MS, until_day=days, seed=seed, bad_share=0.0)
        for batch in PaymentStream(transactions, settings).batches(DAY_MS):
            for record in batch:
                if record.role == role:
                    yield record.value


SCENARIO: Scenario = FraudScenario()
