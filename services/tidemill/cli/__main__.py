"""`tidemill` and `python -m tidemill.cli`: run a command and turn what it raises into messages and an exit code."""

import sys
from collections.abc import Sequence

from tidemill.cli.app import app
from tidemill.cli.output import missing_extra, show_error
from tidemill.errors import TidemillError
from tidemill.runtime.logs import logs_of_command

_INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command; always ends in SystemExit. Errors without a known cause keep their traceback."""
    try:
        with logs_of_command():
            app(args=arguments, prog_name="tidemill")
    except TidemillError as error:
        show_error(error)
        sys.exit(error.exit_code)
    except ModuleNotFoundError as error:
        unusable = missing_extra(error)
        if unusable is None:
            raise
        show_error(unusable)
        sys.exit(unusable.exit_code)
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)


if __name__ == "__main__":
    main()
