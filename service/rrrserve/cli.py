"""The `rrr` command: collects the commands and turns errors into one line and an exit code.

Exit codes: 0 fine, 1 a check failed, 2 usage, 3 bad input or artifact, 4 engine incompatible with this machine,
5 no space, 130 interrupted.
"""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer

from rrrnet import __version__
from rrrnet.errors import FULL_DISK, ArtifactError, IncompatibleError, NoSpaceError, RRRError, UsageError
from rrrnet.installing import missing, reinstall_line
from rrrserve.process.environment import do_not_track

# The help page: the commands in the order of the work. What another package registers comes last.
PANELS = {
    "Train": ("data", "advise", "train", "sweep", "adapt", "evaluate"),
    "Examine": ("describe", "audit", "robust"),
    "Build": ("targets", "build", "export", "repository", "tune"),
    "Serve": ("serve", "reload", "promote", "predict"),
    "Measure": ("bench", "claims", "verify", "report", "doctor"),
}
_OTHERS = "Others"
# The extra without which a command lacks packages; without any it is the client.
EXTRAS = {
    **dict.fromkeys(("data", "train", "adapt", "evaluate", "audit", "robust"), "train"),
    "sweep": "sweep",
    **dict.fromkeys(("advise", "build", "export", "repository"), "build"),
    **dict.fromkeys(("serve", "reload", "promote", "tune"), "serve"),
    **dict.fromkeys(("bench", "claims", "verify", "report"), "bench"),
}
# What `rrr` alone says before the help page; within 80 columns.
WAY = """
From images to a service; each command ends with the next one:

  rrr train --data my_images --out artifacts/models/mine   learn from images
  rrr build artifacts/models/mine                          compile and verify
  rrr repository artifacts/engines/mine                    for Triton
  rrr serve artifacts/repository                           HTTP at port 3000
  curl -T cat.jpg http://127.0.0.1:3000/v1/predict         ask it

my_images holds a folder of images for each class. rrr doctor tells what works
on this machine, rrr COMMAND --help what a command takes.
"""


def make_app() -> typer.Typer:
    """The typer application: each entry point of the group `rrr.commands` is a command or a group of them."""
    app = typer.Typer(
        name="rrr",
        help="Reduce a pre-trained ResNet to a parallel ensemble, compile it, serve it, and measure it.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    found = {entry.name: entry for entry in entry_points(group="rrr.commands")}
    known = {name: panel for panel, names in PANELS.items() for name in names}
    for name in (*known, *sorted(found.keys() - known.keys())):
        panel = known.get(name, _OTHERS)
        try:
            command = _load(name, found.get(name))
        except (RRRError, ModuleNotFoundError) as error:
            takes_anything = {"ignore_unknown_options": True, "allow_extra_args": True}
            text = "Not available: run it to see why."
            app.command(name, rich_help_panel=panel, help=text, context_settings=takes_anything)(_raising(error))
            continue
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=name, rich_help_panel=panel)
        else:
            app.command(name, rich_help_panel=panel)(command)
    return app


def _show_version(asked: bool) -> None:
    if asked:
        sys.stdout.write(f"rrr {__version__}\n")
        raise typer.Exit


def _global_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _load(name: str, entry: EntryPoint | None) -> Any:
    """A command, or a group of them.

    Raises:
        IncompatibleError: the list of commands, which is written when the package is installed, lacks it, or names
            what is not there.
        ModuleNotFoundError: a package that the command needs is not installed.
    """
    reason = f"is not in the list that was made when rrr was installed (this is rrr {__version__})"
    if entry is not None:
        try:
            return entry.load()
        except (ImportError, AttributeError) as error:
            if isinstance(error, ModuleNotFoundError) and name in EXTRAS and not str(error.name).startswith("rrr"):
                raise
            reason = f"cannot be loaded: {error}"
    raise IncompatibleError(f"the command {name} {reason}; install it again: {reinstall_line()}")


def _raising(error: Exception) -> Callable[[], None]:
    """A command that says why there is none."""

    def command() -> None:
        raise error

    return command


def main() -> None:
    """Entry point of the `rrr` console script."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command line; return its exit code. No traceback reaches the user for an error of the expected kinds."""
    do_not_track()
    if not arguments:
        sys.stdout.write(WAY)
    try:
        ended = typer.main.get_command(make_app()).main(arguments, prog_name="rrr", standalone_mode=False)
    except SystemExit as done:
        return done.code if isinstance(done.code, int) else 0
    except typer.TyperException as error:  # typer's own report takes a box of five lines
        if text := " ".join(error.format_message().split()):  # empty where the help page was shown
            command = getattr(getattr(error, "ctx", None), "command_path", "rrr")
            _report(f"{text.rstrip('.')}; {command} --help tells what is allowed")
        return error.exit_code
    except RRRError as error:
        _report(str(error))
        return error.exit_code
    except ModuleNotFoundError as error:
        extra = EXTRAS.get(next(iter(arguments), ""))
        if extra is None or (told := missing(error, extra)) is None:
            raise
        _report(told)
        return IncompatibleError.exit_code
    except OSError as error:
        if error.errno in FULL_DISK:
            _report(
                f"no space left on the disk ({error.filename or 'while writing'}): free some space and run it again"
            )
            return NoSpaceError.exit_code
        _report(f"{error.filename}: {error.strerror}" if error.filename else str(error))
        return UsageError.exit_code if isinstance(error, PermissionError) else ArtifactError.exit_code
    except KeyboardInterrupt:  # while packages are loaded, for seconds on a busy machine
        _report("interrupted before it began")
        return 130
    return ended if isinstance(ended, int) else 0  # typer.Exit gives its code, Ctrl-C 130


def _report(message: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"rrr: {message}\n")
