"""The scenarios that can be simulated, by the name that a pipeline file gives in `scenario`."""

from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Protocol

from tidemill.errors import ConfigurationError

_MODULES = {"fraud": "tidemill.scenarios.fraud.scenario"}


class Scenario(Protocol):
    """A seeded source of events and their truth. The same arguments give the same bytes on every machine."""

    @property
    def name(self) -> str: ...

    def events(self, days: int, seed: int) -> Iterator[bytes]:
        """Raw events of the first `days` days in order of time, one JSON object each, without line ends."""
        ...

    def labels(self, days: int, seed: int) -> Iterator[bytes]:
        """Raw labels that become known within the first `days` days, in the order in which they do."""
        ...

    def producer_command(self, settings: Mapping[str, str | int | float | bool]) -> list[str]:
        """Command line of the process that streams the scenario to Kafka; `settings` are its options by name."""
        ...


def names() -> tuple[str, ...]:
    return tuple(sorted(_MODULES))


def get(name: str) -> Scenario:
    """The scenario called `name`. Raises ConfigurationError if there is none."""
    if name not in _MODULES:
        raise ConfigurationError(
            f"There is no scenario called {name!r}.", hint=f"Scenarios that ship with Tidemill: {', '.join(names())}."
        )
    scenario: Scenario = import_module(_MODULES[name]).SCENARIO
    return scenario
