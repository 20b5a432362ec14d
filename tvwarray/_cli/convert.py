"""``tvwarray convert``: matrices of a file into another file."""

from __future__ import annotations

from argparse import Namespace
from typing import Any

import numpy as np

from tvwarray._cli.files import (
    DEFAULT_TILE_ROWS,
    Matrix,
    as_dense,
    as_tvw,
    left_alone,
    open_source,
)
from tvwarray._cli.output import FIGURES, check_output, figures, write
from tvwarray._cli.progress import progress
from tvwarray._cli.table import text_table
from tvwarray._dtypes import NARROW_FLOATS
from tvwarray._layouts.find import LayoutName
from tvwarray._matrix import TVWMatrix
from tvwarray.prune import magnitude


def run_convert(args: Namespace) -> int:
    """Convert the matrices of `args.input`, without loss unless `args.dtype` narrows them."""
    source = open_source(args.input, args.only)
    check_output(args.output, len(source.matrices))
    made = {}
    for entry in progress(source.matrices, "matrix"):
        made[entry.name] = _convert(entry.read(), args.dtype, args.tile_rows, args.layout)
    write(args.output, made)
    print(text_table(FIGURES, [figures(name, A) for name, A in made.items()]))
    if note := left_alone(source):
        print(note)
    print(f"Wrote {args.output}.")
    return 0


def _convert(
    matrix: Matrix, dtype: Any, tile_rows: int | None, layout: LayoutName | None
) -> TVWMatrix:
    if isinstance(matrix, TVWMatrix):
        A = matrix if dtype is None else matrix.astype(dtype)
        if tile_rows is None and layout is None:
            return A
        matrix = A.toarray()
    elif dtype in NARROW_FLOATS:
        matrix = as_dense(matrix)  # scipy.sparse cannot hold these
    if dtype is not None:
        with np.errstate(over="ignore"):  # infinity is what a narrower type has for large values
            matrix = matrix.astype(dtype)
    return as_tvw(matrix, tile_rows or DEFAULT_TILE_ROWS, layout or "lossless")


def score_kept(A: TVWMatrix, W: Any) -> float:
    """Return the share of the sum of all magnitudes of `W` that `A`, pruned from it, keeps."""
    total = float(magnitude(W).sum(dtype=np.float64))
    kept = float(magnitude(A.storage.data).sum(dtype=np.float64))
    return kept / total if total else 1.0
