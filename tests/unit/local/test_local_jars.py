"""The jars of the local Kafka: locked, verified, and a clear word when they cannot be had."""

import hashlib
from pathlib import Path

import pytest

from tidemill.errors import EnvironmentUnusable
from tidemill.local.jars import KAFKA_VERSION, ROOTS, LockedJar, fetch_jars, read_lock

GOOD = b"the bytes that were locked"
LOCK = [LockedJar("org.example:broker:1.0", hashlib.sha256(GOOD).hexdigest())]


class FolderRepository:
    """Downloads by writing the next of `contents`, and like a real cache keeps what it has."""

    def __init__(self, folder: Path, *contents: bytes) -> None:
        self.file = folder / "broker-1.0.jar"
        self._contents = list(contents)
        self.downloads = 0

    def resolve(self, coordinate: str) -> Path:
        if not self.file.exists():
            self.file.write_bytes(self._contents[min(self.downloads, len(self._contents) - 1)])
            self.downloads += 1
        return self.file


class UnreachableRepository:
    def resolve(self, coordinate: str) -> Path:
        raise ConnectionError("no route to host")


def test_a_jar_with_the_locked_bytes_is_used_and_downloaded_only_once(tmp_path: Path) -> None:
    repository = FolderRepository(tmp_path, GOOD)
    for _ in range(2):
        assert fetch_jars(tmp_path, repository=repository, lock=LOCK) == [repository.file]
    assert repository.downloads == 1


def test_a_jar_with_other_bytes_is_refused_and_not_left_in_the_cache(tmp_path: Path) -> None:
    repository = FolderRepository(tmp_path, b"something else")
    with pytest.raises(EnvironmentUnusable, match=r"org\.example:broker:1\.0 has the wrong checksum") as refusal:
        fetch_jars(tmp_path, repository=repository, lock=LOCK)
    assert LOCK[0].sha256 in refusal.value.message and refusal.value.hint
    assert not repository.file.exists()


def test_a_download_that_was_cut_is_fetched_once_more(tmp_path: Path) -> None:
    repository = FolderRepository(tmp_path, GOOD[:5], GOOD)
    assert fetch_jars(tmp_path, repository=repository, lock=LOCK) == [repository.file]
    assert repository.downloads == 2


def test_a_cached_jar_that_was_tampered_with_is_replaced(tmp_path: Path) -> None:
    repository = FolderRepository(tmp_path, GOOD)
    fetch_jars(tmp_path, repository=repository, lock=LOCK)
    repository.file.write_bytes(b"tampered")
    fetch_jars(tmp_path, repository=repository, lock=LOCK)
    assert repository.file.read_bytes() == GOOD


def test_an_unreachable_repository_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentUnusable, match="Cannot download") as refusal:
        fetch_jars(tmp_path, repository=UnreachableRepository(), lock=LOCK)
    assert "--bootstrap-servers" in refusal.value.hint
    assert refusal.value.exit_code == 3


def test_the_download_is_announced_only_when_something_is_missing(tmp_path: Path) -> None:
    said: list[str] = []
    repository = FolderRepository(tmp_path, GOOD)
    for _ in range(2):
        fetch_jars(tmp_path, repository=repository, lock=LOCK, report=said.append)
    assert len(said) == 1 and KAFKA_VERSION in said[0]


def test_the_shipped_lock_names_every_root_once_and_nothing_twice() -> None:
    lock = read_lock()
    coordinates = [jar.coordinate for jar in lock]
    assert set(ROOTS) <= set(coordinates)
    assert len(set(coordinates)) == len(coordinates) == 46
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in lock)


def test_all_kafka_jars_of_the_lock_have_one_version() -> None:
    versions = {jar.coordinate.split(":")[2] for jar in read_lock() if jar.coordinate.startswith("org.apache.kafka:")}
    assert versions == {KAFKA_VERSION}
