"""``tvwarray info``: what a file holds, and what it would take as tile-vector-wise matrices."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any, NamedTuple

import numpy as np

from tvwarray._cli.files import Entry, Matrix, Source, as_tvw, left_alone, open_source, plural
from tvwarray._cli.progress import progress
from tvwarray._cli.table import percent_text, shape_text, text_table
from tvwarray._describe import bytes_text, csr_nbytes
from tvwarray._errors import FormatError
from tvwarray._matrix import TVWMatrix
from tvwarray._namespace import to_host


class Sizes(NamedTuple):
    """Bytes of a matrix in three forms."""

    tvw: int
    dense: int
    csr: int

    def __str__(self) -> str:
        shares = [
            f"{self.tvw / size:.2g} of {name} ({bytes_text(size)})"
            for name, size in (("dense", self.dense), ("CSR", self.csr))
            if size
        ]
        return f"{bytes_text(self.tvw)}: {', '.join(shares)}" if shares else bytes_text(self.tvw)


def run(args: Namespace) -> int:
    """Describe the file `args.file`."""
    source = open_source(args.file, args.only)
    if args.json:
        print(json.dumps(_as_json(args.file, source, args.tile_rows), indent=1))
        return 0
    single = len(source.matrices) == 1
    told = _single(source.matrices[0], args.tile_rows) if single else _table(source, args.tile_rows)
    count = plural(len(source.matrices), "matrix", "matrices")
    print(f"{args.file}: {source.kind}, {count}\n{told}")
    if note := left_alone(source):
        print(note)
    return 0


class Row(NamedTuple):
    """What is known of a matrix of a file."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    density: float
    form: str
    sizes: Sizes


def _row(entry: Entry, tile_rows: int) -> Row:
    matrix = entry.read()
    is_tvw = isinstance(matrix, TVWMatrix)
    A = matrix if is_tvw else as_tvw(matrix, tile_rows)
    form = "TVW" if is_tvw else form_of(matrix, tile_rows)
    return Row(entry.name, entry.shape, entry.dtype, A.density, form, _sizes(A))


def _as_json(path: str, source: Source, tile_rows: int) -> dict[str, Any]:
    """Return the table as data; bytes as TVW, dense and CSR under "sizes"."""
    rows = [_row(entry, tile_rows) for entry in progress(source.matrices, "matrix")]
    return {
        "file": path,
        "kind": source.kind,
        "matrices": [{**r._asdict(), "sizes": r.sizes._asdict()} for r in rows],
        "left_alone": {e.name: e.refusal for e in source.others},
    }


def form_of(matrix: Matrix, tile_rows: int) -> str:
    """Return which form a matrix has as it stands: TVW, 2:4, or neither."""
    try:
        A = as_tvw(matrix, tile_rows, "exact")
    except FormatError:
        return "-"
    try:
        A.to_24()
    except FormatError:
        return "TVW"
    return "2:4"


def _sizes(A: TVWMatrix) -> Sizes:
    rows, cols = A.shape
    return Sizes(A.nbytes, rows * cols * A.dtype.itemsize, csr_nbytes(A.storage))


def _single(entry: Entry, tile_rows: int) -> str:
    matrix = entry.read()
    lines = [f"  name       {entry.name}"] if entry.name else []
    lines.append(f"  matrix     {shape_text(entry.shape)} {entry.dtype}")
    if isinstance(matrix, TVWMatrix):
        lines += _tvw_lines(matrix)
    else:
        A = as_tvw(matrix, tile_rows)
        form = form_of(matrix, tile_rows)
        lines += [
            _nonzeros(A),
            f"  form       {_FORMS[form].format(tile_rows=tile_rows)}",
            f"  as TVW     {_sizes(A)}",
        ]
    return "\n".join(lines)


_FORMS = {
    "2:4": "2:4 as it stands: at most two nonzeros in every four columns of a row",
    "TVW": "TVW as it stands, with tiles of {tile_rows} rows: the layout is exact",
    "-": "neither 2:4 nor TVW with tiles of {tile_rows} rows; pruning makes it so",
}


def _nonzeros(A: TVWMatrix) -> str:
    return f"  nonzeros   {A.nnz:,} ({percent_text(A.density)})"


def _tvw_lines(A: TVWMatrix) -> list[str]:
    storage = A.storage
    slots = to_host(storage.col_indices)
    pattern = "2:4 in every group of four slots" if A.vector else "all slots stored"
    lines = [
        f"  tiles      {storage.num_tiles} of up to {A.tile_rows} rows, {pattern}"
        + (", transposed" if A.transposed else ""),
        _nonzeros(A),
        f"  bytes      {_sizes(A)}",
    ]
    if slots.size:
        kept = storage.row_indices.shape[0]
        width = storage.slots_of
        padding = np.count_nonzero(slots < 0) / slots.size
        widths = f"{width.min():,} to {width.max():,} a tile"
        fill = percent_text(A.nnz / max(1, storage.data.shape[0]))
        lines += [
            f"  rows       {kept:,} of {storage.shape[0]:,} are in a tile",
            f"  slots      {widths}, {percent_text(padding)} padding",
            f"  slot fill  {fill} of the stored values are not zero",
        ]
    return lines


def _table(source: Source, tile_rows: int) -> str:
    rows = []
    for r in (_row(entry, tile_rows) for entry in progress(source.matrices, "matrix")):
        sizes = r.sizes
        rows.append(
            (
                r.name,
                shape_text(r.shape),
                r.dtype,
                percent_text(r.density),
                r.form,
                bytes_text(sizes.dense),
                bytes_text(sizes.tvw),
                f"{sizes.tvw / sizes.dense:.2f}" if sizes.dense else "-",
                f"{sizes.tvw / sizes.csr:.2f}",
            )
        )
    header = (
        "matrix", "shape", "dtype", "nonzero", "form", "dense\nbytes", "TVW\nbytes", "of\ndense",
        "of\nCSR",
    )  # fmt: skip
    return text_table(header, rows)
