"""``tvwarray spy``: a picture of every matrix of a file."""

from __future__ import annotations

import os
from argparse import Namespace
from pathlib import Path
from typing import Final

from tvwarray._cli.files import Entry, as_tvw, open_source, plural
from tvwarray._cli.output import safe_name
from tvwarray._cli.progress import progress
from tvwarray._errors import FormatError
from tvwarray._matrix import TVWMatrix
from tvwarray._plot import matplotlib_modules

SUFFIXES: Final = (".png", ".svg", ".pdf")


def run(args: Namespace) -> int:
    """Draw the matrices of `args.file` into `args.output`, a picture or a folder of pictures."""
    source = open_source(args.file, args.only)
    places = _places(args.output or f"{Path(args.file).name}.png", source.matrices)
    for entry, place in progress(list(zip(source.matrices, places, strict=True)), "picture"):
        matrix = entry.read()
        A = matrix if isinstance(matrix, TVWMatrix) else as_tvw(matrix, args.tile_rows)
        _draw(A, entry.name, place, args.cells)
    listed = str(places[0]) if len(places) == 1 else f"{places[0].parent}{os.sep}"
    print(f"{listed}: {plural(len(places), 'picture', 'pictures')}")
    return 0


def _places(output: str, matrices: list[Entry]) -> list[Path]:
    """Return where each picture goes: a file for one matrix, a folder for several."""
    path = Path(output)
    if len(matrices) == 1 and not path.is_dir():
        if path.suffix.lower() not in SUFFIXES:
            raise FormatError(f"{output}: a picture is one of {' '.join(SUFFIXES)}.")
        return [path]
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        raise FormatError(
            f"{output}: there are {len(matrices)} matrices; name a folder with -o, or choose one "
            "with --only NAME."
        )
    path.mkdir(parents=True, exist_ok=True)
    return [path / f"{i:03}-{safe_name(e.name)}.png" for i, e in enumerate(matrices)]


def _draw(A: TVWMatrix, name: str, place: Path, cells: int) -> None:
    pyplot, _ = matplotlib_modules()
    figure, ax = pyplot.subplots(layout="constrained")
    A.spy(ax, cells=cells)
    if name:
        ax.set_title(f"{name}\n{ax.get_title()}", fontsize=9)
    figure.savefig(place, dpi=150)
    pyplot.close(figure)
