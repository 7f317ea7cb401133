"""The `tidemill` command: which commands there are, each imported only when it is asked for.

A command is a module of this package. It has either a function of the command's name or, for a command with
subcommands, a `typer.Typer` called `app`. A module whose optional dependency is missing costs its own command only.
"""

from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from tidemill.cli.output import missing_extra
from tidemill.errors import TidemillError

COMMANDS = ("demo", "up", "status", "check", "topics", "features", "state", "simulate", "dlq", "keys")
"""In the order of the help; each is the module `tidemill.cli.<name>`."""

_SETTINGS = {"help_option_names": ["-h", "--help"]}


class LazyGroup(TyperGroup):
    """Imports a command's module when its name is used, all of them for the help and for a misspelt name."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        for name in (cmd_name,) if cmd_name in COMMANDS else COMMANDS:
            if name not in self.commands:
                self.commands[name] = _load(name)
        return self.commands.get(cmd_name)


def _load(name: str) -> Any:
    try:
        module = import_module(f"tidemill.cli.{name}")
    except ModuleNotFoundError as error:
        unusable = missing_extra(error)
        if unusable is None:
            raise
        return _placeholder(name, unusable)
    if isinstance(group := getattr(module, "app", None), typer.Typer):
        return get_group(group)
    single = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    single.command(name, context_settings=_SETTINGS)(getattr(module, name))
    return get_command(single)


def _placeholder(name: str, unusable: TidemillError) -> Any:
    def refuse() -> None:
        raise unusable

    refuse.__doc__ = f"Not available: {unusable.message}."
    stand_in = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    settings = {**_SETTINGS, "ignore_unknown_options": True, "allow_extra_args": True}
    stand_in.command(name, context_settings=settings)(refuse)
    return get_command(stand_in)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tidemill {metadata.version('tidemill')}")
        raise typer.Exit


def group(help: str) -> typer.Typer:
    """A Typer for a command with subcommands, set up as every other."""
    return typer.Typer(
        help=help,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings=_SETTINGS,
    )


app = typer.Typer(
    cls=LazyGroup,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings=_SETTINGS,
)


@app.callback()
def tidemill(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Streaming real-time inference on Kafka: features, predictions, drift, retraining.

    Data goes to standard output, messages to standard error. Exit codes: 0 done, 1 failed, 2 wrong arguments or
    pipeline file, 3 something this machine lacks, 130 interrupted.

    Example: tidemill demo fraud
    """
