"""Where commands that compute features keep compiled kernels. Call before anything that imports numba."""

import os
import tempfile
from pathlib import Path

from tidemill.features.kernel_cache import prepare_cache


def use_kernel_cache() -> None:
    """A writable folder, the user's cache where there is one; NUMBA_CACHE_DIR if that is set. Processes inherit it."""
    prepare_cache(os.environ, folder=None, seed=None, fallback=Path(tempfile.gettempdir()) / "tidemill-kernels")
