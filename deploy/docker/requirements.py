"""Splits pyproject.toml into one pip requirements file for what every service needs and one per extra.

An image installs these before the package itself, so that a change of code does not install a library again.

python requirements.py pyproject.toml FOLDER
"""

import os
import re
import sys
import tomllib
from pathlib import Path

BASE = "base"


def requirement_files(pyproject: str) -> dict[str, list[str]]:
    """File name without its ending → requirements. Extras made of other extras of this package are left out."""
    project = tomllib.loads(pyproject)["project"]
    own = re.compile(rf"{re.escape(project['name'])}\s*\[")
    extras = project["optional-dependencies"]
    plain = {name: lines for name, lines in extras.items() if not any(own.match(line) for line in lines)}
    return {BASE: project["dependencies"], **plain}


def main(source: str, folder: str) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    for name, lines in requirement_files(Path(source).read_text(encoding="utf-8")).items():
        file = Path(folder) / f"{name}.txt"
        file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        os.utime(file, (0, 0))  # some builders take a new time for a new content, and install everything again


if __name__ == "__main__":
    main(*sys.argv[1:])
