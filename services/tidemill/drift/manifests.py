"""The training references of model versions, from the verified manifests on the models topic."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from tidemill import clock
from tidemill.domain.model import decode_manifest, manifest_key
from tidemill.domain.signing import read_key
from tidemill.drift.core.features import Champion
from tidemill.errors import RecordError, StateCorrupt
from tidemill.runtime.service import Record

WAIT_S = 20.0
"""A manifest is on its topic before any prediction can name it; this is for a slow broker."""


class ModelsLog(Protocol):
    """The models topic from its beginning; `runtime.kafka.TopicReader` is one."""

    def poll(self, max_records: int = ..., timeout_s: float = ...) -> Sequence[Record]: ...

    def close(self) -> None: ...


class PublishedModels:
    """Looks versions of one model up, reading on when one is not known yet. For the owner thread only."""

    def __init__(self, model: str, public_key_file: Path, open_log: Callable[[], ModelsLog]) -> None:
        """Nothing is opened or read before the first look-up: until the first promotion neither may exist."""
        self._model = model
        self._public_key_file = public_key_file
        self._open_log = open_log
        self._log: ModelsLog | None = None
        self._values: dict[bytes, bytes] = {}

    def champion(self, version: int) -> Champion:
        """Blocks up to WAIT_S. Raises StateCorrupt where there is no manifest of `version`, or not a valid one."""
        key = manifest_key(self._model, version)
        give_up = clock.monotonic() + WAIT_S
        while key not in self._values:
            if clock.monotonic() > give_up:
                raise StateCorrupt(
                    f"predictions name version {version} of {self._model}, but its manifest is not on the models topic",
                    hint="was the models topic deleted or truncated? Publish the manifest again",
                )
            self._read_on()
        try:
            manifest = decode_manifest(self._values[key], read_key(self._public_key_file))
        except RecordError as error:
            raise StateCorrupt(
                f"the manifest of {self._model} version {version} cannot be trusted: {error}",
                hint="is TIDEMILL_PUBLIC_KEY_FILE the public half of the key that retrain signs with?",
            ) from error
        return Champion(version, manifest.feature_set, manifest.features, manifest.reference)

    def close(self) -> None:
        if self._log is not None:
            self._log.close()

    def _read_on(self) -> None:
        if self._log is None:
            self._log = self._open_log()
        for record in self._log.poll(200, 0.2):
            if record.key is not None and record.value is not None:
                self._values[record.key] = record.value
