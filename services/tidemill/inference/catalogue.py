"""The models this process holds, shared by three threads: delivery fills it, the owner and HTTP threads read it."""

import threading
from collections import deque
from typing import NamedTuple

from tidemill.inference.core.active import Active
from tidemill.inference.core.model import Model, Route
from tidemill.inference.core.registry import Refusal

_REFUSALS_KEPT = 64


class Selection(NamedTuple):
    """Loaded models that serve from some batch boundary on. Champion None: the pipeline's fallback rule."""

    epoch: int
    champion: Model | None = None
    challenger: Model | None = None

    @property
    def route(self) -> Route | None:
        """None where no model has anything to do."""
        if self.champion is None and self.challenger is None:
            return None
        return Route(self.champion, self.challenger)


NOTHING = Selection(0)


class Listed(NamedTuple):
    """One version as the repository index shows it."""

    version: int
    state: str
    reason: str
    role: str | None


class Catalogue:
    """Thread-safe. Only the delivery thread writes; a model object stays alive as long as a route names it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._models: dict[int, Model] = {}
        self._known: set[int] = set()
        self._refused: dict[int, Refusal] = {}
        self._refusals: deque[Refusal] = deque(maxlen=_REFUSALS_KEPT)
        self._selection = NOTHING
        self._wanted: set[int] = set()
        self._caught_up = False

    @property
    def caught_up(self) -> bool:
        """The models topic was read to its end once, so `selection` is not merely "not read yet"."""
        return self._caught_up

    @property
    def selection(self) -> Selection:
        """What should serve now; a plain read, cheap enough for every batch."""
        return self._selection

    @property
    def refusals(self) -> list[Refusal]:
        """The latest refusals, oldest first."""
        with self._changed:
            return list(self._refusals)

    def find(self, version: int) -> Model | None:
        with self._changed:
            return self._models.get(version)

    def listing(self) -> list[Listed]:
        """Every known version, newest first."""
        with self._changed:
            versions = sorted(self._known | self._models.keys() | self._refused.keys(), reverse=True)
            return [self._listed(version) for version in versions]

    def wait_caught_up(self, timeout_s: float) -> bool:
        """Block until the models topic was read to its end."""
        with self._changed:
            return self._changed.wait_for(lambda: self._caught_up, timeout_s)

    def wait_for_recorded(self, active: Active, timeout_s: float) -> Selection | None:
        """Block until the recorded selection is loaded, ask delivery for it. None after `timeout_s`.

        What turns out not to be had (refused, or not on the topic) is left out, and that in turn is recorded: without
        a champion the rule scores.
        """
        wanted = {version for version in (active.champion, active.challenger) if version is not None}
        with self._changed:
            self._wanted |= {version for version in wanted if version not in self._models}
            if not self._changed.wait_for(lambda: not (self._wanted & wanted), timeout_s):
                return None
            return Selection(
                active.epoch, self._models.get(active.champion or 0), self._models.get(active.challenger or 0)
            )

    # Written by the delivery thread.

    def wanted(self) -> set[int]:
        """Versions that someone waits for."""
        with self._changed:
            return set(self._wanted)

    def know(self, versions: set[int]) -> None:
        """The versions that have a manifest."""
        with self._changed:
            self._known = set(versions)

    def hold(self, model: Model, keep: int) -> None:
        """A version was loaded. Of those that do not serve, the `keep` that came last stay, ready for a rollback."""
        with self._changed:
            self._models.pop(model.version, None)
            self._models[model.version] = model
            self._refused.pop(model.version, None)
            self._wanted.discard(model.version)
            serving = {self._selection.champion, self._selection.challenger}
            idle = [version for version, held in self._models.items() if held not in serving]
            for version in idle[: max(0, len(idle) - keep)]:
                del self._models[version]
            self._changed.notify_all()

    def refuse(self, refusal: Refusal) -> None:
        """Something was refused; a version already loaded stays loaded."""
        with self._changed:
            self._refusals.append(refusal)
            if refusal.version is not None and refusal.version not in self._models:
                self._refused[refusal.version] = refusal
            self._changed.notify_all()

    def give_up(self, version: int) -> None:
        """The version cannot be had: nobody should go on waiting for it."""
        with self._changed:
            self._wanted.discard(version)
            self._changed.notify_all()

    def offer(self, selection: Selection) -> None:
        """From now on the shell takes `selection` over at its next batch boundary."""
        with self._changed:
            previous = self._selection.champion
            if previous is not None and previous.version in self._models:
                self._models[previous.version] = self._models.pop(previous.version)  # the last to be let go
            self._selection = selection
            self._changed.notify_all()

    def mark_caught_up(self) -> None:
        with self._changed:
            self._caught_up = True
            self._changed.notify_all()

    def _listed(self, version: int) -> Listed:
        serving = self._selection
        roles = {"champion": serving.champion, "challenger": serving.challenger}
        role = next((name for name, model in roles.items() if model is not None and model.version == version), None)
        if version in self._models:
            return Listed(version, "READY", "", role)
        refusal = self._refused.get(version)
        if refusal is not None:
            return Listed(version, "UNAVAILABLE", f"{refusal.reason}: {refusal.message}", role)
        return Listed(version, "UNAVAILABLE", "not loaded: no activation names it", role)
