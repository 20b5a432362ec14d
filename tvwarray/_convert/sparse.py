"""scipy.sparse (and cupyx.scipy.sparse) matrices to storage and back, through CSR."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp

from tvwarray._convert.build import fill
from tvwarray._dtypes import FLOAT32, NARROW_FLOATS, DType, value_dtype
from tvwarray._entries import SortedRows, sorted_rows
from tvwarray._errors import FormatError
from tvwarray._layouts.find import LayoutName, find_layout, make_layout
from tvwarray._layouts.pattern import Pattern
from tvwarray._layouts.tiles import TileRows
from tvwarray._namespace import Array, from_host, nonzero_mask, to_host
from tvwarray._storage import (
    DEFAULT_TILE_ROWS,
    INDEX_MAX,
    REMAINDER_FIELDS,
    HostArray,
    TVWStorage,
    Vector,
    check_header,
)


def from_sparse(
    matrix: Any,
    *,
    tile_rows: TileRows = "auto",
    vector: Vector = (2, 4),
    layout: LayoutName = "lossless",
    memory_limit: int | None = None,
) -> TVWStorage:
    """Convert a matrix or array of scipy.sparse or cupyx.scipy.sparse, of any format.

    Duplicates are added up and explicit zeros dropped; `matrix` is not changed. The layout is
    searched on the host (`find_layout` has the options); a cupyx matrix becomes a storage on its
    device.

    Raises
    ------
    FormatError
        If it is no sparse matrix, not two-dimensional or of a dtype that no matrix may hold, or if
        there is no such layout.
    """
    host, like = _on_host(matrix)
    if host.ndim != 2:
        raise FormatError(f"the sparse array has {host.ndim} dimensions; a matrix has 2.")
    shape = int(host.shape[0]), int(host.shape[1])
    check_header(shape, DEFAULT_TILE_ROWS, vector)  # before memory goes with the shape
    dtype = value_dtype(host.dtype, where="the sparse matrix")
    pattern, values = canonical(host, shape, dtype)
    found = find_layout(
        pattern,
        tile_rows=tile_rows,
        vector=vector,
        layout=layout,
        memory_limit=memory_limit,
        value_bytes=dtype.itemsize,
    )
    storage = fill(found, pattern, values)
    return storage if like is None else storage.mapped(lambda x: from_host(x, like=like))


def _on_host(matrix: Any) -> tuple[Any, Array | None]:
    """Return a scipy matrix, and the array it lay beside if cupyx copied it to the host."""
    if sp.issparse(matrix):
        return matrix, None
    if getattr(matrix, "format", None) == "tvw":  # where scipy has no register
        return matrix.tocsr(), None
    if not (hasattr(matrix, "get") and hasattr(matrix, "data")):
        raise FormatError(
            f"a {type(matrix).__name__} is no sparse matrix of scipy or cupyx.\n"
            "Dense matrices go to TVWMatrix.from_dense, anything else to TVWMatrix(...)."
        )
    return matrix.get(), matrix.data


def canonical(matrix: Any, shape: tuple[int, int], dtype: DType) -> tuple[Pattern, HostArray]:
    """Return the pattern and the values of a scipy matrix, without duplicates and zeros.

    Memory goes with the entries, not with the shape.
    """
    coo = matrix.tocoo(copy=False) if matrix.format in ("coo", "dok") else None
    if coo is None:
        csr, rows = sp.csr_array(matrix), None
    else:
        rows, row = np.unique(coo.coords[0], return_inverse=True)
        csr = sp.csr_array((coo.data, (row, coo.coords[1])), shape=(rows.size, shape[1]))
    if not csr.has_canonical_format or not nonzero_mask(csr.data).all():
        csr = csr.copy()  # its arrays may be those of `matrix`
        csr.sum_duplicates()
        csr.eliminate_zeros()
    held = np.flatnonzero(np.diff(csr.indptr))
    indptr = np.append(csr.indptr[held], csr.indptr[-1:]).astype(np.int64)
    values = csr.data.astype(dtype, copy=False)
    kept = (held if rows is None else rows[held]).astype(np.int64)
    return Pattern(shape, kept, indptr, csr.indices.astype(np.int32, copy=False)), values


def from_coo(
    data: Any,
    coords: tuple[Any, Any],
    shape: tuple[int, int] | None = None,
    *,
    tile_rows: TileRows = "auto",
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
    shape: tuple[int, int],
    dtype: DType,
    *,
    tile_rows: TileRows = "auto",
    vector: Vector = (2, 4),
) -> TVWStorage:
    """Return a matrix of zeros: no tiles at all."""
    tile_rows = DEFAULT_TILE_ROWS if tile_rows == "auto" else tile_rows
    check_header(shape, tile_rows, vector)
    none = np.empty(0, np.int32)
    nothing = Pattern(shape, np.empty(0, np.int64), np.zeros(1, np.int64), none)
    return fill(make_layout(shape, tile_rows, vector, [], []), nothing, np.empty(0, dtype))


def to_csr(storage: TVWStorage) -> sp.csr_array[Any, tuple[int, int]]:
    """Return the matrix as a canonical CSR array on the host.

    Stored zeros are left out; 16-bit and 8-bit floats become float32, which scipy.sparse has.
    """
    remainder = remainder_csr(storage)
    if remainder is not None:
        both: sp.csr_array[Any, tuple[int, int]] = to_csr(storage.without_remainder()) + remainder
        return both
    found = sorted_rows(storage)
    counts = np.zeros(storage.shape[0] + 1, np.int64)
    counts[found.rows + 1] = np.diff(found.indptr)
    return _canonical_csr(found, np.cumsum(counts), storage.shape)


def remainder_csr(storage: TVWStorage) -> sp.csr_array[Any, tuple[int, int]] | None:
    """Return the remainder of `storage` on the host, its narrow floats as float32, or None."""
    if storage.remainder is None:
        return None
    indptr, indices, data = (to_host(x) for x in storage.remainder)
    wide = data.astype(FLOAT32) if data.dtype in NARROW_FLOATS else data
    return sp.csr_array((wide, indices, indptr), shape=storage.shape)


def with_remainder(storage: TVWStorage, matrix: Any) -> TVWStorage:
    """Add a sparse matrix to a storage, as its remainder (and to the one it has).

    Raises
    ------
    FormatError
        If the shapes differ, or a value has no exact counterpart in the dtype of the storage.
    """
    host, _ = _on_host(matrix)
    if tuple(host.shape) != storage.shape:
        raise FormatError(f"the remainder is {host.shape}, the matrix {storage.shape}.")
    added = sp.csr_array(host, copy=True)
    added.sum_duplicates()
    held = remainder_csr(storage)
    total = added if held is None else (added + held).tocsr()
    total.eliminate_zeros()
    with np.errstate(all="ignore"):
        data = total.data.astype(storage.dtype)
        same = (data.astype(total.dtype) == total.data) | (total.data != total.data)
    if not same.all():
        lost = total.data[np.flatnonzero(~same)[0]]
        raise FormatError(
            f"{lost!s} has no exact {storage.dtype.name} value, the dtype of the matrix.\n"
            "Cast the matrix with astype(...), or round the remainder to its dtype first."
        )
    parts = total.indptr.astype(np.int32), total.indices.astype(np.int32), data
    on_device = (from_host(x, like=storage.data) for x in parts)
    return replace(storage, **dict(zip(REMAINDER_FIELDS, on_device, strict=True)))


def to_coo(storage: TVWStorage) -> sp.coo_array[Any, tuple[int, int]]:
    """Return the matrix as a canonical COO array on the host; see `to_csr`.

    Memory goes with the entries, however many rows the matrix has.
    """
    if storage.remainder is not None:
        return to_csr(storage).tocoo(copy=False)
    found = sorted_rows(storage)
    if found.shared:
        kept = _canonical_csr(found, found.indptr, (found.rows.size, storage.shape[1]))
        found = found._replace(indptr=kept.indptr, indices=kept.indices, data=kept.data)
    rows = np.repeat(found.rows.astype(np.int32), np.diff(found.indptr))
    made = sp.coo_array((found.data, (rows, found.indices)), shape=storage.shape)
    made.has_canonical_format = True
    return made


def _canonical_csr(
    found: SortedRows, indptr: HostArray, shape: tuple[int, int]
) -> sp.csr_array[Any, tuple[int, int]]:
    if found.indices.size <= INDEX_MAX:
        indptr = indptr.astype(np.int32)  # scipy keeps both index arrays in the wider type
    csr = sp.csr_array((found.data, found.indices, indptr), shape=shape)
    csr.has_sorted_indices = True
    csr.has_canonical_format = not found.shared
    csr.sum_duplicates()
    return csr


def _with_data(storage: TVWStorage, data: HostArray) -> TVWStorage:
    return storage.mapped(lambda x: data if x is storage.data else x)
