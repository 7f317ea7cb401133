"""`tidemill keys`: the key pair that signs models."""

import shutil
from pathlib import Path
from typing import Annotated

import typer

from tidemill.cli.app import group
from tidemill.cli.output import say
from tidemill.domain.signing import PUBLIC_KEY_FILE, generate_key_files

app = group("The Ed25519 key pair that signs models: retrain holds the private half, the others check with the public.")


@app.command("create")
def create_keys(
    folder: Annotated[Path, typer.Argument(help="Gets signing.key and signing.pub; an existing key is kept.")],
    public: Annotated[Path | None, typer.Option(metavar="FOLDER", help="Also copy signing.pub here.")] = None,
) -> None:
    """Make the key pair, unless it is there already. Running it again changes nothing.

    Example: tidemill keys create private --public public
    """
    generate_key_files(folder)
    if public is not None:
        public.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / PUBLIC_KEY_FILE, public / PUBLIC_KEY_FILE)
    say(f"The key pair is in {folder}")
