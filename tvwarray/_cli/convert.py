"""``tvwarray convert`` and ``tvwarray prune``: matrices of a file into another file."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

import tvwarray
from tvwarray._cli.files import (
    DEFAULT_TILE_ROWS,
    Entry,
    Matrix,
    as_dense,
    as_tvw,
    left_alone,
    open_source,
)
from tvwarray._cli.output import check_output, write
from tvwarray._cli.progress import progress
from tvwarray._cli.table import percent_text, shape_text, text_table
from tvwarray._describe import bytes_text
from tvwarray._dtypes import NARROW_FLOATS, value_dtype
from tvwarray._errors import FormatError
from tvwarray._layout import LayoutName
from tvwarray._matrix import TVWMatrix
from tvwarray.prune import magnitude

_INDEX_KINDS: Final = frozenset({"int32", "int64", "uint32", "uint64", "bool"})


def run_convert(args: Namespace) -> int:
    """Convert the matrices of `args.input`, without loss unless `args.dtype` narrows them."""
    dtype = None if args.dtype is None else value_dtype(args.dtype, where="--dtype")
    source = open_source(args.input, args.only)
    check_output(args.output, len(source.matrices))
    made = {}
    for entry in progress(source.matrices, "matrix"):
        made[entry.name] = _convert(entry.read(), dtype, args.tile_rows, args.layout)
    write(args.output, made)
    rows = [(_name(name), *_figures(A)) for name, A in made.items()]
    _report(args.output, _HEADER, rows, left_alone(source))
    return 0


def run_prune(args: Namespace) -> int:
    """Prune the matrices of `args.input` to `args.sparsity`, each for itself."""
    source = open_source(args.input, args.only)
    several = len(source.matrices) > 1 and not args.only
    spared = [e for e in source.matrices if several and e.dtype in _INDEX_KINDS]
    chosen = [e for e in source.matrices if e not in spared]
    if not chosen:
        raise FormatError(f"{args.input}: its matrices hold indices; choose some with --only NAME.")
    check_output(args.output, len(chosen))
    made: dict[str, TVWMatrix] = {}
    rows = []
    for entry in progress(chosen, "matrix"):
        made[entry.name], kept = _prune(entry, args)
        rows.append((_name(entry.name), *_figures(made[entry.name]), f"{kept:.3f}"))
    write(args.output, made)
    notes = [left_alone(source)]
    if spared:
        names = ", ".join(e.name for e in spared)
        notes.append(f"Left alone, being indices rather than weights: {names} (--only takes them).")
    _report(args.output, (*_HEADER, "score\nkept"), rows, *notes)
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


def _prune(entry: Entry, args: Namespace) -> tuple[TVWMatrix, float]:
    """Return the pruned matrix and which share of the sum of all magnitudes it keeps."""
    W = as_dense(entry.read())
    A = tvwarray.sparsify(W, args.sparsity, pattern=args.pattern, tile_rows=args.tile_rows)
    return A, score_kept(A, W)


def score_kept(A: TVWMatrix, W: Any) -> float:
    """Return the share of the sum of all magnitudes of `W` that `A`, pruned from it, keeps."""
    total = float(magnitude(W).sum(dtype=np.float64))
    kept = float(magnitude(A.storage.data).sum(dtype=np.float64))
    return kept / total if total else 1.0


_HEADER: Final = ("matrix", "shape", "dtype", "nonzero", "bytes", "of dense")


def _name(name: str) -> str:
    return name or "-"


def _figures(A: TVWMatrix) -> tuple[str, ...]:
    dense = A.shape[0] * A.shape[1] * A.dtype.itemsize
    share = f"{A.nbytes / dense:.2f}" if dense else "-"
    return shape_text(A.shape), A.dtype.name, percent_text(A.density), bytes_text(A.nbytes), share


def _report(path: str, header: Sequence[str], rows: Sequence[Sequence[str]], *notes: str) -> None:
    print(text_table(header, rows))
    for note in notes:
        if note:
            print(note)
    print(f"Wrote {path}.")
