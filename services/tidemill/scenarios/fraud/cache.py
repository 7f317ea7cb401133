"""Simulated columns kept on disk between runs, as plain `.npz` files (never a pickle)."""

import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FORMAT = 1  # raise it whenever the simulator's output changes
_KEPT_FILES = 6


def default_cache_dir() -> Path | None:
    """The per-user folder for simulations, or None without the `local` extra: then nothing is kept."""
    try:
        from platformdirs import user_cache_path
    except ImportError:
        return None
    return user_cache_path("tidemill") / "scenarios"


def load(folder: Path, key: str, count: int) -> list[NDArray[Any]] | None:
    """The `count` columns stored under `key`, or None where there is no readable file."""
    file = _file(folder, key)
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            columns = [archive[f"arr_{position}"] for position in range(count)]
        file.touch()  # the files used last are the ones kept
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    return columns


def store(folder: Path, key: str, columns: Sequence[NDArray[Any]]) -> None:
    """Keep `columns` under `key`, whole or not at all; the files unused for longest make room.

    A folder that cannot be written is no error: the next call simulates again.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".partial", delete=False) as stream:
            np.savez(stream, *columns, allow_pickle=False)
        os.replace(stream.name, _file(folder, key))
        for old in sorted(folder.glob("*.npz"), key=lambda file: -file.stat().st_mtime)[_KEPT_FILES:]:
            old.unlink(missing_ok=True)
    except OSError:
        return


def _file(folder: Path, key: str) -> Path:
    return folder / f"{key}-v{_FORMAT}.npz"
