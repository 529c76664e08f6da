"""Tables for people, of which no cell is cut and no word, path or command is broken."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from rrrnet.output import console

_GAP = 2  # columns of the terminal between two columns of a table


def print_table(table: Table, *, to: Console = console) -> None:
    """Write a table as wide as its cells are, and where a terminal is narrower, so that it fits.

    Text wraps between words, but not in columns of `no_wrap`. Where that is too wide, the first column's cells become
    lines of their own above their rows; where even that is, every cell becomes a line `column  cell`.

    Args:
        table: its cells are markup (escape what is not); give it no widths and no box.
        to: where it is written.
    """
    if table.title:
        to.print(table.title, style="table.title", highlight=False, soft_wrap=True)
    cells = [[Text.from_markup(str(cell), emoji=False) for cell in column.cells] for column in table.columns]
    room = to.width if to.is_terminal else None
    if (widths := _widths(table.columns, cells, room)) is not None:
        _draw(table.columns, cells, widths, to)
    elif (widths := _widths(table.columns[1:], cells[1:], room)) is not None:
        _draw_below_names(table.columns, cells, widths, to)
    else:
        titles = [str(column.header) for column in table.columns]
        for row in zip(*cells, strict=True):
            print_pairs(zip(titles, row, strict=True), to=to)
            to.print()


def print_pairs(pairs: Iterable[tuple[str, str | Text]], *, to: Console = console) -> None:
    """Write a line for each pair, `name  text`; what has no text is left out."""
    told = [(name, text) for name, text in pairs if str(text)]
    indent = max(len(name) for name, _ in told) + _GAP
    for name, text in told:
        line = Text(name.ljust(indent)).append_text(text if isinstance(text, Text) else Text(text))
        to.print(line, highlight=False, soft_wrap=True)


def _widths(columns: Sequence[Column], cells: list[list[Text]], room: int | None) -> list[int] | None:
    """The width of each column; None where words would be broken. Of what lacks, the widest column bears the most."""
    texts = [[Text(str(column.header)), *column_cells] for column, column_cells in zip(columns, cells, strict=True)]
    natural = [max(_longest(text.plain.split("\n")) for text in column) for column in texts]
    if room is None:
        return natural
    widths = [
        width if column.no_wrap else max(_longest(text.plain.split()) for text in column_texts)
        for column, column_texts, width in zip(columns, texts, natural, strict=True)
    ]
    free = room - sum(widths) - _GAP * (len(widths) - 1)
    while free > 0 and widths != natural:
        lack = [wanted - width for wanted, width in zip(natural, widths, strict=True)]
        widths[lack.index(max(lack))] += 1
        free -= 1
    return widths if free >= 0 else None


def _longest(parts: list[str]) -> int:
    return max((Text(part).cell_len for part in parts), default=0)


def _draw(
    columns: Sequence[Column], cells: list[list[Text]], widths: list[int], to: Console, *, header: bool = True
) -> None:
    """One table of rich's, of a width of ours."""
    drawn = Table(
        *(
            Column(column.header, width=width, justify=column.justify, overflow="fold")
            for column, width in zip(columns, widths, strict=True)
        ),
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1),
        collapse_padding=True,
        show_header=header,
        width=sum(widths) + _GAP * (len(widths) - 1),
    )
    for row in zip(*cells, strict=True):
        drawn.add_row(*row)
    to.print(drawn, crop=False)


def _draw_below_names(columns: Sequence[Column], cells: list[list[Text]], widths: list[int], to: Console) -> None:
    """The rows below what their first cell says, once for those that follow each other with the same."""
    rows = list(zip(*cells, strict=True))
    for index, row in enumerate(rows):
        if index == 0 or row[0] != rows[index - 1][0]:
            to.print(row[0], style="bold", highlight=False, soft_wrap=True)
        _draw(columns[1:], [[cell] for cell in row[1:]], widths, to, header=index == 0)
