"""``tvwarray convert``: matrices of a file into another file."""

from __future__ import annotations

import warnings
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
from tvwarray._dtypes import NARROW_FLOATS, DType
from tvwarray._frozen import values_of
from tvwarray._layouts.find import LayoutName
from tvwarray._matrix import TVWMatrix
from tvwarray._storage import HostArray
from tvwarray.prune import magnitude


def run_convert(args: Namespace) -> int:
    """Convert the matrices of `args.input`, without loss unless `args.dtype` narrows them."""
    source = open_source(args.input, args.only)
    check_output(args.output, len(source.matrices))
    made, notes = {}, []
    for entry in progress(source.matrices, "matrix"):
        matrix = entry.read()
        if args.dtype is not None:
            if lost := _lost(_values(matrix), args.dtype):
                notes.append(f"{entry.name or args.input}: {lost:,} values do not fit {args.dtype}")
            matrix = _cast(matrix, args.dtype)
        made[entry.name] = _convert(matrix, args.tile_rows, args.layout)
    write(args.output, made)
    print(text_table(FIGURES, [figures(name, A) for name, A in made.items()]))
    for note in notes:
        print(f"{note}: they became infinite, zero or other numbers.")
    if note := left_alone(source):
        print(note)
    print(f"Wrote {args.output}.")
    return 0


def _values(matrix: Matrix) -> HostArray:
    """Return all values of a matrix; those that are no entries are zero."""
    if isinstance(matrix, TVWMatrix):
        matrix = values_of(matrix.storage)
    values: HostArray = matrix if isinstance(matrix, np.ndarray) else matrix.tocoo().data
    return values


def _lost(values: HostArray, dtype: DType) -> int:
    """Return how many values a cast changes by more than rounding."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what a cast drops
        cast = values.astype(dtype)
        if dtype.kind in "biu":
            lost = cast.astype(values.dtype) != values
        else:
            lost = (np.isfinite(values) & ~np.isfinite(cast)) | ((values != 0) & (cast == 0))
        if np.iscomplexobj(values) and not np.iscomplexobj(cast):
            lost |= values.imag != 0
    return int(np.count_nonzero(lost))


def _cast(matrix: Matrix, dtype: DType) -> Matrix:
    """Return the matrix with its values cast; dense where scipy.sparse has no such type."""
    if not isinstance(matrix, TVWMatrix) and dtype in NARROW_FLOATS:
        matrix = as_dense(matrix)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # `_lost` has counted what is dropped
        return matrix.astype(dtype)


def _convert(matrix: Matrix, tile_rows: int | None, layout: LayoutName | None) -> TVWMatrix:
    if isinstance(matrix, TVWMatrix):
        if tile_rows is None and layout is None:
            return matrix
        matrix = matrix.toarray()
    return as_tvw(matrix, tile_rows or DEFAULT_TILE_ROWS, layout or "lossless")


def score_kept(A: TVWMatrix, W: Any) -> float:
    """Return the share of the sum of all magnitudes of `W` that `A`, pruned from it, keeps."""
    total = float(magnitude(W).sum(dtype=np.float64))
    kept = float(magnitude(A.storage.data).sum(dtype=np.float64))
    return kept / total if total else 1.0
