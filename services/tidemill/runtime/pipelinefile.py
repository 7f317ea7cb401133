"""Reading a pipeline file: every mistake in it with its line and column, or the `Pipeline`."""

import difflib
from importlib import resources
from pathlib import Path as FilePath
from types import UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tidemill.domain.derivedrules import derived_mistakes
from tidemill.domain.featurerules import feature_mistakes
from tidemill.domain.pipeline import Pipeline
from tidemill.domain.pipelinerules import Mistake, structure_mistakes
from tidemill.domain.sourcerules import source_mistakes
from tidemill.domain.statebounds import bound_mistakes
from tidemill.domain.streamrules import stream_mistakes
from tidemill.domain.summaryrules import summary_mistakes
from tidemill.errors import ConfigurationError
from tidemill.runtime.pipelinecontracts import contract_mistakes
from tidemill.runtime.yamlsource import Path, Position, YamlSource

_SCENARIOS = resources.files("tidemill") / "scenarios"
_NO_SOURCE = "pipeline file"


class Problem(NamedTuple):
    """One mistake. `path` is dotted, with list positions from 0; empty for the file as a whole."""

    line: int
    column: int
    path: str
    message: str


def shipped_pipelines() -> tuple[str, ...]:
    """Names of the pipelines inside the package. Imports none of their code."""
    return tuple(sorted(folder.name for folder in _SCENARIOS.iterdir() if (folder / "pipeline.yaml").is_file()))


def pipeline_text(name_or_path: str) -> tuple[str, str]:
    """Text and display name of a shipped pipeline (by name) or of a file (by path).

    Anything with a separator or a `.yaml`/`.yml` ending is a path. Raises ConfigurationError if it cannot be read.
    """
    path = FilePath(name_or_path)
    if len(path.parts) == 1 and path.suffix not in (".yaml", ".yml"):
        shipped = _SCENARIOS / name_or_path / "pipeline.yaml"
        if shipped.is_file():
            return shipped.read_text(encoding="utf-8"), f"{name_or_path} (shipped)"
        if not path.is_file():
            raise ConfigurationError(
                f"there is no pipeline called {name_or_path!r}",
                hint=f"Name a shipped one ({', '.join(shipped_pipelines())}) or give the path of a pipeline file.",
            )
    try:
        return path.read_text(encoding="utf-8"), name_or_path
    except OSError as error:
        raise ConfigurationError(
            f"cannot read the pipeline file {name_or_path}: {error.strerror or error}",
            hint="Check the path, or name a shipped pipeline: " + ", ".join(shipped_pipelines()) + ".",
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigurationError(
            f"cannot read the pipeline file {name_or_path}: byte {error.start} is not UTF-8",
            hint="Save the file as UTF-8 text.",
        ) from None


def load_pipeline(name_or_path: str) -> Pipeline:
    """The pipeline of a shipped name or of a file. Raises ConfigurationError that lists every mistake."""
    text, source = pipeline_text(name_or_path)
    return parse_pipeline(text, source)


def parse_pipeline(text: str, source: str = _NO_SOURCE) -> Pipeline:
    """The pipeline written in `text`. Raises ConfigurationError that lists every mistake."""
    pipeline, found = _read(text)
    if pipeline is None or found:
        lines = "\n".join(
            f"  {source}:{at.line}:{at.column}: {at.path + ': ' if at.path else ''}{at.message}" for at in found
        )
        raise ConfigurationError(
            f"{source} has {len(found)} mistake{'s' if len(found) > 1 else ''}:\n{lines}",
            hint="Correct the file; `tidemill check FILE` looks again without starting anything.",
        )
    return pipeline


def problems(text: str) -> list[Problem]:
    """Every mistake in the pipeline file `text`, by position; empty if it can be used."""
    return _read(text)[1]


def _read(text: str) -> tuple[Pipeline | None, list[Problem]]:
    document = YamlSource(text)
    found = [Problem(*fault.position, "", fault.message) for fault in document.faults]
    if document.data is None or not isinstance(document.data, dict):
        if not found:
            what = "is empty" if document.data is None else f"holds {_shown(document.data)}, not a mapping"
            found.append(Problem(1, 1, "", f"the pipeline file {what}; it begins with version, name, event and label"))
        return None, found
    pipeline: Pipeline | None = None
    usable: Pipeline | None
    wrong: list[Path] = []
    try:
        pipeline = usable = Pipeline.model_validate(document.data)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
        found += [_structural(document, detail) for detail in details]
        wrong = [_in_document(document.data, detail) for detail in details]
        usable = _without(document.data, wrong)
    if usable is not None:
        for path, message in _mistakes(usable):
            # Where a part was left out to get this far, what is said about the part around it means nothing.
            if not any(path == bad[: len(path)] or bad == path[: len(bad)] for bad in wrong):
                found.append(_problem(document.value_at(path), path, message))
    return pipeline, sorted(set(found))


def _mistakes(pipeline: Pipeline) -> list[Mistake]:
    return [
        *structure_mistakes(pipeline),
        *feature_mistakes(pipeline),
        *bound_mistakes(pipeline),
        *derived_mistakes(pipeline),
        *summary_mistakes(pipeline),
        *source_mistakes(pipeline),
        *stream_mistakes(pipeline),
        *contract_mistakes(pipeline),
    ]


def _in_document(data: Any, detail: ErrorDetails) -> Path:
    """Where the mistake is in the file: the location without the names of a union's members, which pydantic adds."""
    path: list[str | int] = []
    *_, last = detail["loc"] or ("",)
    for key in detail["loc"]:
        inside = (isinstance(data, dict) and key in data) or _item(data, key) is not None
        absent = key == last and detail["type"] == "missing"
        if inside or absent or key == "[key]":
            path.append(key)
            data = data[key] if inside else None
    return tuple(path)


def _without(data: dict[str, Any], wrong: list[Path]) -> Pipeline | None:
    """`data` without its malformed parts, so that the rules between the others can be looked at too, if possible."""
    pruned = _copy(data)
    for path in wrong:
        if not path:
            return None  # it is nowhere in the file: nothing can be left out for it
        *above, last = path
        parent: Any = pruned
        for key in above:
            parent = parent.get(key) if isinstance(parent, dict) else _item(parent, key)
        if isinstance(parent, dict):
            parent.pop(last, None)
    try:
        return Pipeline.model_validate(pruned)
    except ValidationError:
        return None


def _copy(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _copy(value) for key, value in data.items()}
    return [_copy(value) for value in data] if isinstance(data, list) else data


def _item(parent: Any, key: str | int) -> Any:
    return parent[key] if isinstance(parent, list) and isinstance(key, int) and key < len(parent) else None


def _structural(document: YamlSource, detail: ErrorDetails) -> Problem:
    path = _in_document(document.data, detail)
    kind, message = detail["type"], detail["msg"]
    if kind == "missing":
        *above, name = path
        return _problem(document.key_at(tuple(above)), tuple(above), f"{name} is missing")
    if kind == "extra_forbidden":
        known = _fields(Pipeline, tuple(detail["loc"])[:-1])
        near = difflib.get_close_matches(str(path[-1]), known, n=1)
        advice = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        return _problem(document.key_at(path), path[:-1], f"unknown key {str(path[-1])!r}; {advice}")
    if path and path[-1] == "[key]":
        return _problem(document.key_at(path[:-1]), path[:-2], f"{path[-2]!r} is not a name: {_sentence(message)}")
    if kind == "value_error":
        return _problem(document.value_at(path), path, message.removeprefix("Value error, "))
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        message = "must be a mapping of keys to values"
    elif kind == "tuple_type":
        message = "must be a list"
    advice = ""
    if kind == "literal_error":
        choices = _choices(detail)
        message = f"must be {'one of ' if len(choices) > 1 else ''}{', '.join(choices)}"
        near = difflib.get_close_matches(str(detail["input"]), choices, n=1)
        advice = f"; did you mean {near[0]!r}?" if near else ""
    return _problem(document.value_at(path), path, f"{_sentence(message)}, not {_shown(detail['input'])}{advice}")


def _choices(detail: ErrorDetails) -> list[str]:
    """`'a', 'b' or 'c'` → a, b, c."""
    expected = str(detail.get("ctx", {}).get("expected", ""))
    return [choice.strip("' ") for choice in expected.replace(" or ", ",").split(",")]


def _sentence(message: str) -> str:
    message = message.partition(", unable to parse")[0].replace("Input should", "must")
    return message.replace("must be a valid integer", "must be an integer")


def _shown(value: object) -> str:
    text = {True: "true", False: "false", None: "nothing"}.get(value) if isinstance(value, bool | None) else None
    text = text or (value if isinstance(value, str) else None) or repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _problem(position: Position, path: Path, message: str) -> Problem:
    return Problem(position.line, position.column, ".".join(map(str, path)), message)


def _fields(model: type[BaseModel], path: Path) -> list[str]:
    """Names, as written in the file, of the keys allowed at `path`, which may name the members of unions."""
    current: Any = model
    for key in path:
        if isinstance(current, type) and issubclass(current, BaseModel):
            names = {field.alias or name: field.annotation for name, field in current.model_fields.items()}
            current = names.get(str(key))
        elif get_origin(current) in (Union, UnionType):
            current = next((kind for kind in get_args(current) if _is_called(kind, key)), None)
        else:
            current = next((kind for kind in reversed(get_args(current)) if kind is not Ellipsis), None)
        current = _bare(current)
    if isinstance(current, type) and issubclass(current, BaseModel):
        return [field.alias or name for name, field in current.model_fields.items()]
    return []


def _bare(kind: Any) -> Any:
    """Without what is only said about it, and without None beside it."""
    if get_origin(kind) is Annotated:
        return _bare(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        members = [member for member in get_args(kind) if member is not type(None)]
        return _bare(members[0]) if len(members) == 1 else kind
    return kind


def _is_called(member: Any, tag: str | int) -> bool:
    """Whether the union's member is the model whose `type` is `tag`."""
    bare = _bare(member)
    field = bare.model_fields.get("type") if isinstance(bare, type) and issubclass(bare, BaseModel) else None
    return field is not None and get_origin(field.annotation) is Literal and tag in get_args(field.annotation)
