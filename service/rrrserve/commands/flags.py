"""Flags that several commands have: how a running service is asked."""

from pathlib import Path
from typing import Annotated

import typer

TokenFile = Annotated[
    Path | None, typer.Option(metavar="FILE", envvar="RRR_TOKEN_FILE", help="The service's token (else RRR_TOKEN).")
]
Authorities = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="PEM certificates to trust for https (else those of the machine)."),
]
