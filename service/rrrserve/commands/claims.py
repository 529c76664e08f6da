"""`rrr claims`: write a claims file to begin with."""

from pathlib import Path
from typing import Annotated

import typer

from rrrbuild.repository_document import DEFAULT_REPOSITORY
from rrrnet import output
from rrrnet.errors import UsageError
from rrrnet.files import check_writable, write_atomically
from rrrserve.commands.verify import DEFAULT_ENGINES

DEFAULT_OUT = Path("my_claims.yaml")
SERVICE = "http://127.0.0.1:3000"

claims = typer.Typer(no_args_is_help=True, help="Write claims for rrr verify.")


@claims.command()
def init(
    repository: Annotated[Path, typer.Argument(help="A repository made by rrr repository.")] = DEFAULT_REPOSITORY,
    out: Annotated[Path, typer.Option(metavar="FILE", help="The claims file to write.")] = DEFAULT_OUT,
    engines: Annotated[
        Path, typer.Option(metavar="DIR", help="Where engines lie, as DIR/MODEL/TARGET; for Triton ensembles.")
    ] = DEFAULT_ENGINES,
    force: Annotated[bool, typer.Option("--force", help="Replace the file that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Write a claims file about the models of a repository, with remarks: change its bounds to what you promise.

    Beside a whole ResNet50, 101 or 152 they are ratios to it, else bounds of each model.
    """
    from rrrbuild.repository_document import read_repository
    from rrrserve.claims.claims_file import read_claims
    from rrrserve.judge.draft import draft

    check_writable(out, option="--out")
    if out.exists() and not force:
        raise UsageError(f"{out} exists: choose another --out, or replace it with --force")
    others = [("--repository", repository, DEFAULT_REPOSITORY), ("--engines", engines, DEFAULT_ENGINES)]
    given = [word for option, path, usual in others if path != usual for word in (option, path)]
    following = ("rrr", "verify", "--claims", out, *given, "--scrape", SERVICE, "--drive")
    commands = (output.quoted("rrr", "serve", repository), output.quoted(*following))
    text = draft(read_repository(repository), engines, commands=commands)
    write_atomically(out, text.encode())
    written = read_claims(out).claims
    if as_json:
        output.print_json({"path": str(out), "claims": [claim.sentence for claim in written]})
        return
    for claim in written:
        output.print_line(claim.sentence)
    output.print_line(f"claims: {out} (its bounds on time are guesses: set them)")
    output.next_step(*following)
