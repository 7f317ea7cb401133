"""What the models topic says so far: the known versions and the selection that holds.

Pure; it folds verified records in log order. Only an activation chooses what serves, and only a newer epoch can
change the choice, so replaying an old record has no effect.
"""

from typing import NamedTuple

from tidemill.domain.model import Activation, Manifest, activation_key, manifest_key
from tidemill.errors import RecordError


class Refusal(NamedTuple):
    """Why something on the models topic is not used. `version` is None where no version could be told."""

    subject: str
    version: int | None
    reason: str
    message: str


class Registry:
    """Manifests by version, and the newest activation, of one model name."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.manifests: dict[int, Manifest] = {}
        self.activation: Activation | None = None

    def fold(self, key: bytes, record: Manifest | Activation, *, live: bool) -> bool:
        """Take one record; True if it changed anything. Raises RecordError where it contradicts what is known.

        `live` is False while the topic is read from its start: compaction may have left an old version, published
        again, behind a newer one, and there it is no news.
        """
        if record.name != self.name:
            raise RecordError("wrong_model", f"a record about {record.name}, the pipeline serves {self.name}")
        if isinstance(record, Activation):
            return self._fold_activation(key, record)
        return self._fold_manifest(key, record, live)

    def forget(self, key: bytes) -> None:
        """A tombstone: the version's chunks are going away. What is loaded already stays so."""
        for version in [version for version in self.manifests if manifest_key(self.name, version) == key]:
            del self.manifests[version]

    def _fold_activation(self, key: bytes, activation: Activation) -> bool:
        if key != activation_key(self.name):
            raise RecordError("wrong_key", f"an activation under the key {key!r}")
        held = self.activation
        if held is None or activation.epoch > held.epoch:
            self.activation = activation
            return True
        if activation == held:
            return False
        raise RecordError("old_epoch", f"epoch {activation.epoch} came after epoch {held.epoch}, which holds")

    def _fold_manifest(self, key: bytes, manifest: Manifest, live: bool) -> bool:
        version = manifest.version
        if key != manifest_key(self.name, version):
            raise RecordError("wrong_key", f"the manifest of version {version} under the key {key!r}")
        known = self.manifests.get(version)
        if known is not None:
            if known.sha256 != manifest.sha256:
                raise RecordError("version_reused", f"version {version} was {known.sha256}, now {manifest.sha256}")
            return False
        newest = max(self.manifests, default=0)
        if live and version < newest:
            raise RecordError("old_version", f"version {version} came after version {newest}")
        self.manifests[version] = manifest
        return True
