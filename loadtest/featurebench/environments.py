"""A virtual environment a peer, made on first use and kept in the user's cache folder.

Its name holds a digest of the pinned requirements and of the Python that made it, so a changed pin is a new one. It is
made beside its place and marked when complete: an interrupted installation is made anew, never used.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import platformdirs

from featurebench.contestants import Peer
from tidemill.errors import EnvironmentUnusable

_INSTALL_WITHIN_S = 900.0
_COMPLETE = "complete.json"
_VERSIONS = (
    "import importlib.metadata as m, json;"
    "print(json.dumps({d.metadata['Name'].lower(): d.version for d in m.distributions()}))"
)


def default_folder() -> Path:
    """Where environments are kept unless the command line names another folder."""
    return platformdirs.user_cache_path("tidemill") / "peers"


def environment_name(requirements: Sequence[str], python: str) -> str:
    return hashlib.sha256("\n".join([python, *requirements]).encode()).hexdigest()[:16]


def interpreter(folder: Path) -> Path:
    """The environment's Python. Not resolved: a link into the base installation would leave the environment."""
    return folder / "bin" / "python"


def prepare(peer: Peer, folder: Path, report: Callable[[str], None]) -> Path:
    """The peer's environment, made if it is not there. Blocks for a download of minutes the first time.

    Raises EnvironmentUnusable with one sentence if it cannot be made.
    """
    place = folder / f"{peer.name}-{environment_name(peer.requirements, sys.version)}"
    if (place / _COMPLETE).is_file():
        return place
    report(f"Installing {', '.join(peer.requirements)} into {place}")
    shutil.rmtree(place, ignore_errors=True)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise EnvironmentUnusable(
            f"The environment of {peer.name} cannot be made in {folder}: {error.strerror or error}.",
            hint="Name a writable folder with --environments.",
        ) from None
    # It is made in its own place because the scripts of an environment hold its path.
    _run(peer, [sys.executable, "-m", "venv", str(place)])
    pip = [str(interpreter(place)), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    _run(peer, [*pip, "--only-binary", ":all:", *peer.requirements])
    (place / _COMPLETE).write_text(json.dumps(versions(place)), "utf-8")
    return place


def versions(place: Path) -> dict[str, str]:
    """Everything that is installed there."""
    answer = subprocess.run([str(interpreter(place)), "-c", _VERSIONS], capture_output=True, text=True, check=True)
    found: dict[str, str] = json.loads(answer.stdout)
    return dict(sorted(found.items()))


def installed(place: Path) -> dict[str, str]:
    """What `versions` said when the environment was completed."""
    found: dict[str, str] = json.loads((place / _COMPLETE).read_text("utf-8"))
    return found


def _run(peer: Peer, command: Sequence[str]) -> None:
    quiet = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME")}
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_INSTALL_WITHIN_S, env=quiet
        )
        detail = _last_error(result.stderr or result.stdout) if result.returncode else ""
        failed = result.returncode != 0
    except subprocess.TimeoutExpired:
        detail, failed = f"it took longer than {_INSTALL_WITHIN_S:.0f} s", True
    except OSError as error:
        detail, failed = str(error), True
    if failed:
        raise EnvironmentUnusable(
            f"The environment of {peer.name} could not be made: {detail}.",
            hint=f"Check the network and that Python {sys.version_info.major}.{sys.version_info.minor} is one that "
            f"{peer.name} has wheels for, or leave it out of --peers.",
        )


def _last_error(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith(("ERROR", "Error"))]
    return (errors or lines or ["it said nothing"])[-1].rstrip(".")
