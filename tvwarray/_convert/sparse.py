"""scipy.sparse (and cupyx.scipy.sparse) matrices to storage and back, through CSR."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp

from tvwarray._convert.build import fill
from tvwarray._dtypes import FLOAT32, NARROW_FLOATS, DType, value_dtype
from tvwarray._errors import FormatError
from tvwarray._layout import LayoutName, TilePattern, find_layout, make_layout
from tvwarray._namespace import from_host, to_host
from tvwarray._storage import HostArray, TVWStorage, Vector, check_header
from tvwarray._two_four import positions_24


class CSRMatrix(NamedTuple):
    """A canonical CSR matrix without explicit zeros, as a `Pattern` and as `Values`."""

    shape: tuple[int, int]
    indptr: HostArray
    indices: HostArray
    data: HostArray

    @property
    def dtype(self) -> DType:
        """The value dtype."""
        return self.data.dtype

    def row_counts(self) -> HostArray:
        """Return the number of entries of each row."""
        return np.diff(self.indptr)

    def tile(self, rows: HostArray, /) -> TilePattern:
        """Return where `rows` hold entries."""
        entries, row = self._entries(rows)
        cols, column = np.unique(self.indices[entries], return_inverse=True)
        words = -(-rows.size // 64)
        planes = np.zeros(cols.size * words, np.uint64)
        # Bits of one word differ, since no entry stands twice: adding them up sets them all.
        np.add.at(planes, column * words + row // 64, np.uint64(1) << (row % 64).astype(np.uint64))
        longest = int(np.bincount(row).max(initial=0))
        return TilePattern(cols.astype(np.int32), planes.reshape(cols.size, words), longest)

    def block(self, rows: HostArray, cols: HostArray, /) -> tuple[HostArray, None]:
        """Return the entries at `rows` x `cols`, where no column repeats."""
        entries, row = self._entries(rows)
        order = np.argsort(cols, kind="stable")
        slot = order[np.searchsorted(cols, self.indices[entries], sorter=order)]
        block = np.zeros((rows.size, cols.size), self.dtype)
        block[row, slot] = self.data[entries]
        return block, None

    def _entries(self, rows: HostArray) -> tuple[HostArray, HostArray]:
        """Return where the entries of `rows` stand, and the place in `rows` of each one's row."""
        start = self.indptr[rows].astype(np.int64)
        count = self.indptr[rows + 1] - start
        row = np.repeat(np.arange(rows.size), count)
        before = np.concatenate([[0], np.cumsum(count)[:-1]]) if rows.size else count
        return np.arange(row.size) + (start - before)[row], row


def from_sparse(
    matrix: Any,
    *,
    tile_rows: int = 128,
    vector: Vector = (2, 4),
    layout: LayoutName = "lossless",
) -> TVWStorage:
    """Convert a matrix or array of scipy.sparse or cupyx.scipy.sparse, of any format.

    Duplicates are added up and explicit zeros dropped; `matrix` is not changed. The layout is
    searched on the host; a cupyx matrix becomes a storage on its device.

    Raises
    ------
    FormatError
        If it is not two-dimensional or of a dtype that no matrix may hold.
    """
    host = matrix if sp.issparse(matrix) else matrix.get()
    if host.ndim != 2:
        raise FormatError(f"the sparse array has {host.ndim} dimensions; a matrix has 2.")
    shape = int(host.shape[0]), int(host.shape[1])
    check_header(shape, tile_rows, vector)
    dtype = value_dtype(host.dtype, where="the sparse matrix")
    csr = sp.csr_array(host)
    if not csr.has_canonical_format or not np.all(csr.data):
        csr = csr.copy()  # its arrays may be those of `matrix`
        csr.sum_duplicates()
        csr.eliminate_zeros()
    csr_matrix = CSRMatrix(shape, csr.indptr, csr.indices, csr.data.astype(dtype, copy=False))
    found = find_layout(csr_matrix, tile_rows=tile_rows, vector=vector, layout=layout)
    storage = fill(found, csr_matrix)
    if host is matrix:
        return storage
    return storage.mapped(lambda x: from_host(x, like=matrix.data))


def from_coo(
    data: Any,
    coords: tuple[Any, Any],
    shape: tuple[int, int] | None = None,
    *,
    tile_rows: int = 128,
    vector: Vector = (2, 4),
) -> TVWStorage:
    """Convert values and their (row, column) indices; duplicates add up.

    Values of the 16-bit and 8-bit floats are added in float32 and rounded once.

    Raises
    ------
    FormatError
        If the coordinates do not fit the values or the shape.
    """
    values = to_host(data) if hasattr(data, "dtype") else np.asarray(data)
    dtype = value_dtype(values.dtype, where="data")
    wide = values.astype(FLOAT32 if dtype in NARROW_FLOATS else dtype, copy=False)
    try:
        coo = sp.coo_array((wide, tuple(map(np.asarray, coords))), shape=shape)
    except (ValueError, TypeError) as e:
        raise FormatError(f"(data, (row, col)) is no matrix: {e}") from e
    storage = from_sparse(coo, tile_rows=tile_rows, vector=vector)
    return storage if storage.dtype == dtype else _with_data(storage, storage.data.astype(dtype))


def empty(
    shape: tuple[int, int], dtype: DType, *, tile_rows: int = 128, vector: Vector = (2, 4)
) -> TVWStorage:
    """Return a matrix of zeros: no tiles at all."""
    check_header(shape, tile_rows, vector)
    nothing = CSRMatrix(shape, np.zeros(1, np.int32), np.empty(0, np.int32), np.empty(0, dtype))
    return fill(make_layout(shape, tile_rows, vector, [], []), nothing)


def to_csr(storage: TVWStorage) -> sp.csr_array[Any, tuple[int, int]]:
    """Return the matrix as a canonical CSR array on the host.

    Stored zeros are left out; 16-bit and 8-bit floats become float32, which scipy.sparse has.
    """
    host = storage.mapped(to_host)
    dtype = FLOAT32 if host.dtype in NARROW_FLOATS else host.dtype
    tiles = [_entries_of(host, t) for t in range(host.num_tiles)]
    counts = np.concatenate([np.empty(0, np.int64), *(c for c, _, _ in tiles)])
    indices = np.concatenate([np.empty(0, np.int32), *(c for _, c, _ in tiles)])
    data = np.concatenate([np.empty(0, dtype), *(v.astype(dtype, copy=False) for _, _, v in tiles)])

    order = np.argsort(host.row_indices, kind="stable")
    if bool((np.diff(order) != 1).any()):  # rows are stored out of order
        start = np.cumsum(counts) - counts
        moved = np.repeat(start[order] - (np.cumsum(counts[order]) - counts[order]), counts[order])
        source = np.arange(indices.size) + moved
        indices, data = indices[source], data[source]
    per_row = np.zeros(host.shape[0] + 1, np.int64)
    per_row[host.row_indices.astype(np.int64) + 1] = counts
    csr = sp.csr_array((data, indices, np.cumsum(per_row)), shape=host.shape)
    csr.sum_duplicates()
    return csr


def to_coo(storage: TVWStorage) -> sp.coo_array[Any, tuple[int, int]]:
    """Return the matrix as a canonical COO array on the host; see `to_csr`."""
    return to_csr(storage).tocoo(copy=False)


def _entries_of(storage: TVWStorage, t: int) -> tuple[HostArray, HostArray, HostArray]:
    """Return the entries of each row of tile `t`, and the column and value of each entry."""
    tile = storage.tile(t)
    stored = tile.data != 0
    place = np.flatnonzero(stored)
    values = tile.data.reshape(-1)[place]
    half = tile.data.shape[1]
    slot = place % half if half else place
    if tile.meta is not None:
        slot = slot // 2 * 4 + positions_24(tile.meta).reshape(-1)[place]
    return np.count_nonzero(stored, axis=1), tile.cols[slot], values


def _with_data(storage: TVWStorage, data: HostArray) -> TVWStorage:
    return storage.mapped(lambda x: data if x is storage.data else x)
