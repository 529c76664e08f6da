"""The `rrr` command: collects the commands and turns errors into one line and an exit code.

Exit codes: 0 fine, 1 a check failed, 2 usage, 3 bad input or artifact, 4 engine incompatible with this machine,
5 no space, 130 interrupted.
"""

import errno
import importlib
import os
import sys

import click
import typer
import typer.core

from rrrnet.errors import RRRError

# Each module of rrrserve.commands has `register(app)`; the order is the order of the help page: the way of the data.
_COMMANDS = (
    "data",
    "train",
    "evaluate",
    "describe",
    "targets",
    "build",
    "repository",
    "serve",
    "predict",
    "doctor",
)


def make_app() -> typer.Typer:
    """The typer application with every command registered."""
    app = typer.Typer(
        name="rrr",
        help="Reduce a pre-trained ResNet152 to a parallel ensemble, compile it, serve it, and measure it.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    for name in _COMMANDS:
        importlib.import_module(f"rrrserve.commands.{name}").register(app)
    return app


def main() -> None:
    """Entry point of the `rrr` console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; return its exit code. No traceback reaches the user for an error of the expected kinds."""
    try:
        result = typer.main.get_command(make_app()).main(arguments, prog_name="rrr", standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        error.show()
        return 2
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.exceptions.Abort, KeyboardInterrupt):
        _report("interrupted")
        return 130
    except RRRError as error:
        _report(str(error))
        return error.exit_code
    except BrokenPipeError:  # the reader of our output went away, e.g. `rrr targets | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            _report(
                f"no space left on the disk ({error.filename or 'while writing'}): free some space and run it again"
            )
            return 5
        if isinstance(error, PermissionError):
            _report(f"{error.filename}: permission denied")
            return 2
        raise


def _report(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"rrr: {message}\n")
