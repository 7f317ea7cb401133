"""Every file with a compiled kernel decides the name of the cache folder."""

from pathlib import Path

from tidemill.features import kernel_cache


def test_the_digest_covers_every_file_that_numba_compiles() -> None:
    core = Path(kernel_cache.__file__).parent / "core"
    compiled = {path.name for path in core.glob("*.py") if "@njit" in path.read_text(encoding="utf-8")}
    assert compiled == set(kernel_cache._SOURCES)
