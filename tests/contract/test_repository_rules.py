"""Rules of this source tree that no other tool checks."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (ROOT / "services" / "tidemill", ROOT / "schemas" / "tidemill_schemas")
MODULES = [module for package in PACKAGES for module in sorted(package.rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
LONGEST_MODULE = 400
MOST_CONSTRUCTOR_ARGUMENTS = 6
CLOCK = "services/tidemill/clock.py"
LOOP = "services/tidemill/runtime/loop.py"
CLOCK_CALLS = {"time.time", "time.time_ns", "time.monotonic", "time.perf_counter", "datetime.now", "datetime.utcnow"}
TEXT_ENDINGS = {".py", ".pyi", ".md", ".yaml", ".yml", ".toml", ".json", ".sh", ".cfg", ""}


def _name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def _calls(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every call; only the last two parts of a longer name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield node.lineno, ".".join(ast.unparse(node.func).split(".")[-2:])


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_a_module_is_short_documented_and_named_for_what_it_holds(module: Path) -> None:
    text = module.read_text(encoding="utf-8")
    assert text.count("\n") <= LONGEST_MODULE
    assert module.stem not in {"utils", "util", "helpers", "common", "misc"}
    assert not text.strip() or ast.get_docstring(ast.parse(text)), "a module says what it is for"


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_only_the_clock_reads_a_clock(module: Path) -> None:
    found = [
        f"{line}: {call}" for line, call in _calls(ast.parse(module.read_text(encoding="utf-8"))) if call in CLOCK_CALLS
    ]
    assert _name(module) == CLOCK or found == []


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_only_the_loop_catches_everything_unless_to_pass_it_on(module: Path) -> None:
    caught = [
        node.lineno
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.ExceptHandler) and _catches_everything(node) and not _passes_on(node)
    ]
    assert _name(module) == LOOP or caught == []


def _catches_everything(handler: ast.ExceptHandler) -> bool:
    caught = "" if handler.type is None else ast.unparse(handler.type)
    return not caught or bool({"Exception", "BaseException"} & set(re.findall(r"\w+", caught)))


def _passes_on(handler: ast.ExceptHandler) -> bool:
    """It ends by raising again, or keeps the exception in a field for the thread that can raise it."""
    last = handler.body[-1]
    assigned = [node.value for node in ast.walk(handler) if isinstance(node, ast.Assign)]
    kept = {value.id for value in assigned if isinstance(value, ast.Name)}
    return (isinstance(last, ast.Raise) and last.exc is None) or handler.name in kept


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_constructors_take_few_arguments(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            assert len(arguments) - 1 <= MOST_CONSTRUCTOR_ARGUMENTS, f"line {node.lineno}: give it a settings object"


@pytest.mark.parametrize("module", MODULES, ids=_name)
def test_nothing_is_pickled(module: Path) -> None:
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
        source = node.module or "" if isinstance(node, ast.ImportFrom) else ""
        assert not {"pickle", "dill", "cloudpickle", "joblib"} & {source.partition(".")[0], *names}


@pytest.mark.parametrize("module", TESTS, ids=_name)
def test_no_test_sleeps(module: Path) -> None:
    """`asyncio.sleep(0)` lets another task run and takes no time."""
    calls = [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("sleep")
    ]
    assert [call for call in calls if not call.endswith("asyncio.sleep(0)")] == []


def test_no_file_names_a_package_registry_or_a_path_of_somebodys_machine() -> None:
    hosts = ["pypi" + ".org", "files.python" + "hosted", "repo1." + "maven", "registry." + "npmjs"]
    homes = ["/" + "home/", "/" + "Users/", "/" + "root/", "/" + "work/"]
    pattern = re.compile("|".join(map(re.escape, hosts)) + "|" + "|".join(rf"(?<![\w./-]){home}" for home in homes))
    found = [
        f"{_name(path)}:{number}: {line.strip()[:100]}"
        for path in _sources()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if pattern.search(line)
    ]
    assert found == []


def _sources() -> Iterator[Path]:
    """Text files of this project, wherever it was unpacked: hidden and generated folders left out."""
    kept = {".ci", ".github"}
    for folder in sorted(ROOT.iterdir()):
        if folder.is_file() and folder.suffix in TEXT_ENDINGS:
            yield folder
        elif folder.is_dir() and (folder.name in kept or folder.name in _FOLDERS):
            for path in sorted(folder.rglob("*")):
                if path.is_file() and path.suffix in TEXT_ENDINGS and "__pycache__" not in path.parts:
                    yield path


_FOLDERS = {"services", "schemas", "tests", "deploy", "loadtest"}
