"""Plain tables, and numbers as people read them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

Row = Sequence[str]


def text_table(
    header: Row, rows: Sequence[Row], *, left: int = 1, tight: Collection[int] = ()
) -> str:
    """Return an aligned table.

    Parameters
    ----------
    header : sequence of str
        One cell a column; a cell of two lines, joined by a newline, makes a header of two rows.
    rows : sequence of rows
    left : int
        So many first columns are set flush left, the others flush right.
    tight : collection of int
        Columns that stand one space from the column before; the others, two.

    Returns
    -------
    str
        Without a newline at the end.
    """
    lines = [*_header_rows(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(header))]
    gaps = ["" if i == 0 else " " if i in tight else "  " for i in range(len(header))]
    set_lines = [
        "".join(
            gap + (cell.ljust(width) if i < left else cell.rjust(width))
            for i, (cell, width, gap) in enumerate(zip(line, widths, gaps, strict=True))
        ).rstrip()
        for line in lines
    ]
    heads = len(lines) - len(rows)
    rule = "-" * (sum(widths) + sum(map(len, gaps)))
    return "\n".join([*set_lines[:heads], rule, *set_lines[heads:]])


def markdown_table(header: Row, rows: Sequence[Row], *, left: int = 1) -> str:
    """Return the same table in Markdown; see `text_table`."""
    names = [" ".join(cell.split()) for cell in header]
    marks = [":--" if i < left else "--:" for i in range(len(header))]
    return "\n".join(f"| {' | '.join(line)} |" for line in (names, marks, *rows))


def printable(text: str) -> str:
    """Return a text without control characters, which names in a file may hold."""
    return "".join(c if c.isprintable() else "?" for c in text)


def ratio_text(ratio: float) -> str:
    """Return how many times faster something is, in two or three digits: ``"0.84x"``, ``"12x"``."""
    return f"{ratio:.2f}x" if ratio < 1 else f"{ratio:.1f}x" if ratio < 99.5 else f"{ratio:.0f}x"


def percent_text(share: float) -> str:
    """Return a share as a percentage in up to three digits: ``"87.5 %"``."""
    return f"{100 * share:.3g} %"


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape such as ``"1536x384"``."""
    return "x".join(map(str, shape)) if shape else "scalar"


def _header_rows(header: Row) -> list[Row]:
    split = [cell.split("\n") for cell in header]
    height = max(map(len, split))
    return [[cells[i] if i < len(cells) else "" for cells in split] for i in range(height)]
