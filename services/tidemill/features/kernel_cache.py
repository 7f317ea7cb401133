"""Where numba keeps compiled kernels. Imports no numba: the folder must be settled before numba is first imported.

numba recompiles a kernel when its own file changed, not when one that it calls did, so the folder carries the digest
of all kernel sources. Left to itself numba writes beside the source, and fails at import where that is read-only.
"""

import hashlib
import shutil
import tempfile
from collections.abc import Iterable, MutableMapping
from pathlib import Path

_VARIABLE = "NUMBA_CACHE_DIR"
_SOURCES = (
    *("rings.py", "merging.py", "exact.py", "sketches.py", "scan.py"),
    *("intake.py", "kernels.py", "chunks.py", "chunkreader.py"),
)


def prepare_cache(
    environment: MutableMapping[str, str], *, folder: Path | None, seed: Path | None, fallback: Path
) -> Path:
    """Point numba at the first writable of: `folder`, the user's cache, `fallback`, a new temporary folder.

    Kernels found in `seed` (compiled when an image was built) are copied there first. Returns the folder.
    """
    if folder is None and environment.get(_VARIABLE):
        return Path(environment[_VARIABLE])
    home = environment.get("XDG_CACHE_HOME") or (environment.get("HOME", "") and environment["HOME"] + "/.cache")
    candidates = [path for path in (folder, home and Path(home) / "tidemill" / "kernels", fallback) if path]
    chosen = _first_writable(candidates) / _digest()
    if seed is not None and (seed / _digest()).is_dir():
        shutil.copytree(seed / _digest(), chosen, dirs_exist_ok=True)
    environment[_VARIABLE] = str(chosen)
    return chosen


def _first_writable(candidates: Iterable[Path]) -> Path:
    for path in candidates:
        try:
            path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=path):
                return path
        except OSError:
            continue
    return Path(tempfile.mkdtemp(prefix="tidemill-kernels-"))


def _digest() -> str:
    core = Path(__file__).parent / "core"
    return hashlib.sha256(b"".join((core / name).read_bytes() for name in _SOURCES)).hexdigest()[:16]
