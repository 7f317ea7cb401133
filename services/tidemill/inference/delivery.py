"""Brings models from the models topic to the catalogue: verify, load, warm up, offer. A thread of its own.

Nothing here can stop the stream: whatever is wrong with a published record is a refusal with its reason, and what
serves goes on serving.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tidemill import clock
from tidemill.domain.model import Manifest, decode, join_chunks, manifest_key
from tidemill.errors import RecordError, TidemillError
from tidemill.inference.catalogue import Catalogue, Selection
from tidemill.inference.core.model import Model
from tidemill.inference.core.registry import Refusal, Registry
from tidemill.runtime.service import Record

MODELS_KEPT = 3
"""Loaded versions that do not serve but may soon: candidates, and the previous champion for a rollback."""


RETRY_S = 1.0


class ModelSource(Protocol):
    """Where published models are read from, group-less: every instance sees everything.

    A method raises TidemillError where Kafka fails it; called again, it goes on from where it was.
    """

    def poll(self) -> Sequence[Record]:
        """The next records of the models topic, in order; waits a little for the first."""
        ...

    def at_end(self) -> bool:
        """Everything that was on the models topic at this moment has been polled."""
        ...

    def chunks(self, manifest: Manifest) -> Mapping[int, bytes]:
        """The manifest's chunks that are on the chunks topic now. May take seconds."""
        ...

    def close(self) -> None: ...


class Loader(Protocol):
    """What turns a manifest and its bytes into a model; every refusal is a RecordError."""

    def check(self, manifest: Manifest) -> None: ...

    def load(self, manifest: Manifest, data: bytes) -> Model: ...


class DeliveryObserver(Protocol):
    """Told what happens, on the delivery thread."""

    def refused(self, refusal: Refusal) -> None: ...

    def loaded(self, model: Model, seconds: float) -> None: ...

    def offered(self, selection: Selection) -> None: ...

    def caught_up(self) -> None: ...


class Delivery:
    """`step` is one poll and its consequences, on one thread; tests call it, the thread repeats it."""

    def __init__(
        self,
        registry: Registry,
        loader: Loader,
        catalogue: Catalogue,
        observer: DeliveryObserver,
        read_key: Callable[[], bytes | None],
    ) -> None:
        self._registry = registry
        self._loader = loader
        self._catalogue = catalogue
        self._observer = observer
        self._read_key = read_key
        self._held: list[Record] = []
        self._news: list[int] = []
        self._unusable: set[int] = set()

    def step(self, source: ModelSource) -> None:
        """Poll once and act on it. Until the topic's end was seen once, only the newest activation matters.

        Records wait, unread, while there is no public key to verify them with: the first start of retrain makes it.
        """
        self._held += source.poll()
        if self._held:
            key = self._read_key()
            if key is None:
                return
            for record in self._held:
                self._fold(record, key)
            self._held.clear()
        live = self._catalogue.caught_up
        if not live and not source.at_end():
            return
        self._examine_news(source, live)
        self._apply_activation(source)
        self._serve_waiters(source)
        if not live:
            self._catalogue.mark_caught_up()
            self._observer.caught_up()

    def _fold(self, record: Record, key: bytes) -> None:
        name = record.key or b""
        if record.value is None:
            self._registry.forget(name)
            self._catalogue.know(set(self._registry.manifests))
            return
        try:
            decoded = decode(record.value, key)
            changed = self._registry.fold(name, decoded, live=self._catalogue.caught_up)
        except RecordError as error:
            self._refuse(name.decode("utf-8", "replace"), None, error)
            return
        # the same manifest again: its publisher repeats it, perhaps with chunks that were missing
        if isinstance(decoded, Manifest) and (changed or decoded.version in self._unusable):
            self._news.append(decoded.version)
            self._unusable.discard(decoded.version)
            self._catalogue.know(set(self._registry.manifests))

    def _examine_news(self, source: ModelSource, live: bool) -> None:
        """A version published while we run is loaded at once, so that a bad one is refused before anyone needs it."""
        if live:
            for version in self._news:
                self._load(version, source)
        self._news.clear()

    def _apply_activation(self, source: ModelSource) -> None:
        activation = self._registry.activation
        held = self._catalogue.selection
        if activation is None or activation.epoch <= held.epoch:
            return
        champion = challenger = None
        if activation.champion is not None:
            champion = self._load(activation.champion, source)
            if champion is None:
                return  # refused with its reason; the selection that holds goes on
        if activation.challenger is not None:
            challenger = self._load(activation.challenger, source)
        selection = Selection(activation.epoch, champion, challenger)
        self._catalogue.offer(selection)
        self._observer.offered(selection)

    def _serve_waiters(self, source: ModelSource) -> None:
        for version in self._catalogue.wanted():
            if self._load(version, source) is None and (version in self._unusable or source.at_end()):
                self._catalogue.give_up(version)

    def _load(self, version: int, source: ModelSource) -> Model | None:
        """The loaded model, loading it if need be; None if it was refused, now or before."""
        model = self._catalogue.find(version)
        if model is not None or version in self._unusable:
            return model
        started = clock.monotonic()
        subject = manifest_key(self._registry.name, version).decode()
        try:
            manifest = self._registry.manifests.get(version)
            if manifest is None:
                raise RecordError("not_published", f"version {version} has no manifest")
            self._loader.check(manifest)
            model = self._loader.load(manifest, join_chunks(manifest, source.chunks(manifest)))
        except RecordError as error:
            self._unusable.add(version)
            self._refuse(subject, version, error)
            return None
        self._catalogue.hold(model, MODELS_KEPT)
        self._observer.loaded(model, clock.monotonic() - started)
        return model

    def _refuse(self, subject: str, version: int | None, error: RecordError) -> None:
        refusal = Refusal(subject, version, error.code, error.message)
        self._catalogue.refuse(refusal)
        self._observer.refused(refusal)


class DeliveryThread:
    """Repeats `step` until `stop`. Kafka being away delays models and nothing else."""

    def __init__(self, delivery: Delivery, source: ModelSource, waiting: Callable[[str], None]) -> None:
        self._delivery = delivery
        self._source = source
        self._waiting = waiting
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="model-delivery", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends after the step under way; safe to call on a thread that never started."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                try:
                    self._delivery.step(self._source)
                except TidemillError as error:
                    self._waiting(error.message)
                    self._stopping.wait(RETRY_S)
        finally:
            self._source.close()
