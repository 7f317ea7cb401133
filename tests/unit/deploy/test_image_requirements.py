"""The requirement lists that the images install before the package."""

import runpy
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SCRIPT = runpy.run_path(str(ROOT / "deploy" / "docker" / "requirements.py"))
requirement_files: Callable[[str], dict[str, list[str]]] = SCRIPT["requirement_files"]
main: Callable[[str, str], None] = SCRIPT["main"]

EXAMPLE = """
[project]
name = "shop"
dependencies = ["a>=1", "b"]
[project.optional-dependencies]
none = []
one = ["c[x]==2"]
all = ["shop[one]"]
"""


def test_the_base_and_each_extra_have_a_list_but_not_extras_of_extras() -> None:
    assert requirement_files(EXAMPLE) == {"base": ["a>=1", "b"], "none": [], "one": ["c[x]==2"]}


def test_each_list_becomes_a_file_of_one_requirement_a_line(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(EXAMPLE)
    main(str(tmp_path / "pyproject.toml"), str(tmp_path / "out"))
    assert {file.name: file.read_text() for file in (tmp_path / "out").iterdir()} == {
        "base.txt": "a>=1\nb\n",
        "none.txt": "",
        "one.txt": "c[x]==2\n",
    }
    assert {file.stat().st_mtime for file in (tmp_path / "out").iterdir()} == {0}


@pytest.mark.parametrize(
    ("library", "extra"),
    [("torch", "retrain"), ("faust-streaming", "retrain"), ("river", "drift"), ("numba", "features")],
)
def test_a_heavy_library_is_in_one_list_of_this_project(library: str, extra: str) -> None:
    files = requirement_files((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    holding = {name for name, lines in files.items() if any(line.startswith(library) for line in lines)}
    assert holding == {extra}
