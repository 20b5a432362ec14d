"""What a matrix says of itself: the text and HTML forms of ``repr``."""

from __future__ import annotations

from html import escape
from typing import Any, Final

from tvwarray._dtypes import FLOAT32, NARROW_FLOATS
from tvwarray._plot import tiles_svg
from tvwarray._storage import TVWStorage

_LISTED: Final = 50
"""``print`` shows this many entries, as scipy.sparse does."""


def text(storage: TVWStorage, transposed: bool) -> str:
    """Return the two lines that ``repr`` shows."""
    name = "TVWMatrix.T" if transposed else "TVWMatrix"
    head = f"{name} {_shape(storage, transposed)} {storage.dtype.name}"
    return f"<{head}: {_tiles(storage)},\n {_size(storage)}>"


def listing(head: str, coo: Any) -> str:
    """Return what ``print`` shows: `head` and the entries, the first and last of very many."""

    def lines(part: slice) -> list[str]:
        rows, cols = (x[part] for x in coo.coords)
        return [f"  ({i}, {j})\t{v}" for i, j, v in zip(rows, cols, coo.data[part], strict=True)]

    if not coo.nnz:
        return head
    half = _LISTED // 2
    shown = (
        lines(slice(None))
        if coo.nnz <= _LISTED
        else [*lines(slice(half)), "  :\t:", *lines(slice(-half, None))]
    )
    return "\n".join([head, "  Coords\tValues", *shown])


def html(storage: TVWStorage, transposed: bool) -> str:
    """Return what a notebook shows: the tiles as a picture, the figures beside it."""
    name = "TVWMatrix.T (the picture shows what is stored)" if transposed else "TVWMatrix"
    figures = (
        f"<b>{name}</b> {_shape(storage, transposed)} {escape(storage.dtype.name)}<br>"
        f"{_tiles(storage)}<br>{_size(storage)}"
    )
    return (
        '<div style="display:flex;gap:1em;align-items:center">'
        f"{tiles_svg(storage)}<div>{figures}</div></div>"
    )


def _shape(storage: TVWStorage, transposed: bool) -> str:
    rows, cols = storage.shape[::-1] if transposed else storage.shape
    return f"{rows}x{cols}"


def _tiles(storage: TVWStorage) -> str:
    pattern = "2:4" if storage.vector else "all slots"
    count = storage.num_tiles
    tiles = f"{count} tile{'s' * (count != 1)} of up to {storage.tile_rows} rows, {pattern}"
    if storage.remainder is None:
        return tiles
    return f"{tiles}, {storage.remainder.indices.shape[0]:,} entries beside them"


def _size(storage: TVWStorage) -> str:
    cells = storage.shape[0] * storage.shape[1]
    share = f" ({100 * storage.nnz / cells:.3g} %)" if cells else ""
    line = f"{storage.nnz:,} nonzeros{share}, {bytes_text(storage.nbytes)}"
    if not storage.nnz:
        return line
    dense = cells * storage.dtype.itemsize
    csr = csr_nbytes(storage)
    return f"{line}: {storage.nbytes / dense:.2g} of dense, {storage.nbytes / csr:.2g} of CSR"


def csr_nbytes(storage: TVWStorage) -> int:
    """Return the bytes of the matrix in scipy's CSR, where 16-bit and 8-bit floats are float32."""
    value = FLOAT32.itemsize if storage.dtype in NARROW_FLOATS else storage.dtype.itemsize
    return storage.nnz * (value + 4) + 4 * (storage.shape[0] + 1)


def bytes_text(n: float) -> str:
    """Return a number of bytes in three digits, such as ``"2.36 MB"`` (powers of 1000)."""
    for unit in ("B", "kB", "MB"):
        if n < 999.5:
            return f"{n:.3g} {unit}"
        n /= 1000
    return f"{n:.3g} GB"


def time_text(seconds: float) -> str:
    """Return a time in three digits, such as ``"12.3 us"``."""
    for unit in ("ns", "us", "ms"):
        scaled = seconds * {"ns": 1e9, "us": 1e6, "ms": 1e3}[unit]
        if scaled < 999.5:
            return f"{scaled:.3g} {unit}"
    return f"{seconds:.3g} s"
