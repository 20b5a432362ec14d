"""The reference backend: gather the kept columns of a tile and multiply, one GEMM a tile.

    X (cols, n)                 tile (rows, k)            product, in tile order
    ┌────────────┐  take    ┌──────┐   ┌────────────┐     ┌────────────┐
    │ row c0     │ ───────> │      │ @ │ row c0     │  =  │ rows of t  │
    │ ...        │  k rows  └──────┘   │ row c7 ... │     ├────────────┤ ──take──> A @ X
    │ row c7     │                     └────────────┘     │ rows of t+1│   (only where rows
    └────────────┘                                        └────────────┘    are out of order)

It runs on every library that follows the array API: NumPy, CuPy and array-api-strict use this very
code. Packing expands the 2:4 groups, so the engine skips the columns that a tile dropped but
multiplies the zeros inside its groups.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np

from tvwarray._dtypes import (
    EIGHT_BIT_INTEGERS,
    DType,
    Precision,
    accumulate_dtype,
    product_dtype,
    promote,
)
from tvwarray._epilogue import IDENTITY, Epilogue, finish
from tvwarray._namespace import (
    Array,
    Namespace,
    array_namespace,
    as_dtype,
    device_of,
    dtype_of,
    from_host,
    to_host,
)
from tvwarray._storage import HostArray, TVWStorage
from tvwarray._two_four import expand_24

_PANEL_BYTES: Final = 1 << 20
"""A gathered panel of X takes about this much, to stay in a core's cache until it is multiplied."""

_STACK_BYTES: Final = 1 << 26
"""The slot products of ``A.T @ Y`` take about this much: larger batches are cut along n."""

_FLOAT64: Final = np.dtype(np.float64)
_BOOL: Final = np.dtype(np.bool_)


@dataclass(frozen=True, eq=False)
class DenseTile:
    """One tile, expanded and without its padding slots."""

    start: int
    """Where its rows begin in the product in tile order."""
    block: Array
    """(rows, k) values, in the type they are summed in, Fortran-ordered where the library has
    memory orders: OpenBLAS multiplies a flat block a tenth faster so."""
    cols: slice | Array
    """The k columns: a slice where they count up by one, else an int64 index."""


@dataclass(frozen=True, eq=False)
class ArrayPacked:
    """A matrix ready to multiply."""

    shape: tuple[int, int]
    dtype: DType
    kept_rows: int
    tiles: tuple[DenseTile, ...]
    row_place: Array | None
    """int64 (rows,): the place of each row in tile order, `kept_rows` if it is in no tile; None if
    tile order is row order."""
    row_index: slice | Array
    """The row of each place: the inverse of `row_place`."""
    scatter: ColumnScatter


@dataclass(frozen=True, eq=False)
class ColumnScatter:
    """How products of single slots are added up to columns, by gathers alone.

    Columns are sorted by how many slots hold them, most first, so that pass r, which adds the r-th
    slot of every column that has one, adds to a prefix::

        column   9   4   7   2
        pass 0   s   s   s   s
        pass 1   s   s   s
        pass 2   s
    """

    passes: tuple[Array, ...]
    place: Array
    """int64 (cols,): where each column stands in sorted order."""


class ArrayBackend:
    """Products by gather and GEMM, in the library that the arrays belong to."""

    name = "array"

    def refusal(
        self,
        storage: TVWStorage,
        x: Array,
        *,
        transposed: bool = False,
        precision: Precision = "default",
    ) -> str:
        """Say why `x` cannot be multiplied here, or return an empty string."""
        try:
            array_namespace(storage.data, x)
        except TypeError:
            return (
                f"needs A and X of one array library, got {type(storage.data).__module__} and "
                f"{type(x).__module__} arrays"
            )
        if str(device_of(storage.data)) != str(device_of(x)):
            return f"needs A and X on one device, got {device_of(storage.data)} and {device_of(x)}"
        return ""

    def pack(self, storage: TVWStorage) -> ArrayPacked:
        """Expand the tiles of `storage`."""
        dtype = storage.dtype
        work = (
            dtype if dtype in EIGHT_BIT_INTEGERS else accumulate_dtype(product_dtype(dtype, dtype))
        )
        slots = [np.flatnonzero(to_host(storage.tile(t).cols) >= 0) for t in _used_tiles(storage)]
        tiles = [
            _dense_tile(storage, t, valid, work)
            for t, valid in zip(_used_tiles(storage), slots, strict=True)
        ]
        rows = to_host(storage.row_indices).astype(np.int64)
        in_order = rows.size == storage.shape[0] and bool((np.diff(rows) == 1).all())
        place = np.full(storage.shape[0], rows.size, np.int64)
        place[rows] = np.arange(rows.size)
        return ArrayPacked(
            shape=storage.shape,
            dtype=dtype,
            kept_rows=int(rows.size),
            tiles=tuple(tiles),
            row_place=None if in_order else from_host(place, like=storage.data),
            row_index=_slice_or_index(rows, storage.data),
            scatter=_column_scatter(storage, slots),
        )

    def matmul(
        self,
        packed: ArrayPacked,
        x: Array,
        out: Array | None = None,
        *,
        transposed: bool = False,
        epilogue: Epilogue = IDENTITY,
        precision: Precision = "default",
    ) -> Array:
        """Return `epilogue` of ``A @ x``, or ``A.T @ x``; (rows or cols, n).

        A Fortran-ordered `x` is multiplied as its transpose and gives a Fortran-ordered product.
        """
        xp = array_namespace(x)
        result_dtype = product_dtype(packed.dtype, dtype_of(x))
        summed = _summing_dtype(packed.dtype, dtype_of(x))
        flip = isinstance(x, np.ndarray) and x.flags.f_contiguous and not x.flags.c_contiguous
        with np.errstate(all="ignore"):  # NaN and overflow are results here, not accidents
            if transposed:
                product = _rmatmul(xp, packed, as_dtype(x, summed), flip)
            else:
                direct = epilogue.is_cast and _takes_tiles(packed, out, x, summed, flip)
                into = out if direct else None
                product = _matmul(xp, packed, as_dtype(x, summed), flip, into)
            if product is out and out is not None:
                return out
            product = _finish(xp, product, accumulate_dtype(result_dtype))
        return finish(epilogue, product, result_dtype, out)


BACKEND: Final = ArrayBackend()


def _summing_dtype(a: DType, x: DType) -> DType:
    """Return the type a GEMM runs in.

    8-bit integers run through float64: 2**37 products of 8-bit values add up exactly there, and
    array libraries have a fast float GEMM but none for integers. Booleans are counted.
    """
    both = promote(a, x)
    if both in EIGHT_BIT_INTEGERS or both == _BOOL:
        return _FLOAT64
    return accumulate_dtype(product_dtype(a, x))


def _finish(xp: Namespace, product: Array, dtype: DType) -> Array:
    if dtype == _BOOL:
        return product != 0
    if dtype.kind in "iu" and dtype_of(product) == _FLOAT64:
        product = xp.astype(
            product, xp.int64
        )  # int64 to int32 wraps; float64 to int32 is undefined
    return as_dtype(product, dtype)


def _takes_tiles(
    packed: ArrayPacked, out: Array | None, x: Array, summed: DType, flip: bool
) -> bool:
    """Say whether tiles may write their rows straight to `out`."""
    if not isinstance(out, np.ndarray) or packed.row_place is not None or out.dtype != summed:
        return False
    in_order = out.flags.f_contiguous if flip else out.flags.c_contiguous
    return in_order and not np.may_share_memory(out, x)


def _matmul(xp: Namespace, packed: ArrayPacked, x: Array, flip: bool, into: Array | None) -> Array:
    n, dtype = x.shape[1], dtype_of(x)
    x = np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x  # gathers whole rows
    total = _empty(xp, packed.kept_rows, x, flip) if into is None else into
    panel = max(64, _PANEL_BYTES // max(1, n * dtype.itemsize))
    buffer = _empty(xp, panel, x, False)
    for tile in packed.tiles:
        block = as_dtype(tile.block, dtype)
        rows, k = slice(tile.start, tile.start + block.shape[0]), block.shape[1]
        if k == 0:
            total[rows, :] = 0
        for i in range(0, k, panel):
            columns = slice(i, min(i + panel, k))
            gathered = _gather(xp, x, tile.cols, columns, buffer)
            part = block[:, columns]
            if i == 0 and isinstance(total, np.ndarray):
                _multiply_into(part, gathered, total[rows, :], flip)
            elif i == 0:
                total[rows, :] = xp.matmul(part, gathered)
            else:
                total[rows, :] += xp.matmul(gathered.T, part.T).T if flip else part @ gathered
    if packed.row_place is None:
        return total
    return _take_or_zero(xp, total, packed.row_place, flip)


def _multiply_into(a: HostArray, b: HostArray, out: HostArray, flip: bool) -> None:
    """Write ``a @ b``; `flip` says that `out` is Fortran-ordered, a transpose to BLAS."""
    if flip:
        np.matmul(b.T, a.T, out=out.T)
    else:
        np.matmul(a, b, out=out)


def _gather(xp: Namespace, x: Array, cols: slice | Array, part: slice, buffer: Array) -> Array:
    """Return the rows of `x` that columns `part` of a tile need; NumPy gathers into `buffer`."""
    if isinstance(cols, slice):
        return x[cols.start + part.start : cols.start + part.stop, :]
    if isinstance(x, np.ndarray):
        # "clip" is the mode that does not copy the result once more; every index is in range.
        return np.take(x, cols[part], axis=0, out=buffer[: part.stop - part.start], mode="clip")
    return xp.take(x, cols[part], axis=0)


def _rmatmul(xp: Namespace, packed: ArrayPacked, x: Array, flip: bool) -> Array:
    """Return ``A.T @ x``: one product a tile, its rows (the slots) added up by column."""
    n, dtype = x.shape[1], dtype_of(x)
    total = _empty(xp, packed.shape[1], x, flip)
    slots = sum(int(t.block.shape[1]) for t in packed.tiles)
    for strip in _strips(n, slots * dtype.itemsize):
        index = packed.row_index
        part = x[:, strip]
        part = part[index, :] if isinstance(index, slice) else xp.take(part, index, axis=0)
        products = [xp.zeros((1, part.shape[1]), dtype=part.dtype, device=device_of(x))]
        for tile in packed.tiles:
            block = as_dtype(tile.block, dtype)
            products.append(xp.matmul(block.T, part[tile.start : tile.start + block.shape[0], :]))
        stacked = xp.concat(products, axis=0)
        summed = xp.zeros((packed.shape[1], part.shape[1]), dtype=part.dtype, device=device_of(x))
        for chosen in packed.scatter.passes:
            summed[: chosen.shape[0], :] += xp.take(stacked, chosen, axis=0)
        total[:, strip] = xp.take(summed, packed.scatter.place, axis=0)
    return total


def _strips(n: int, bytes_a_column: int) -> Iterator[slice]:
    """Cut n right-hand sides into strips whose slot products stay within bounds."""
    width = max(16, _STACK_BYTES // max(1, bytes_a_column))
    return (slice(i, min(i + width, n)) for i in range(0, n, width))


def _take_or_zero(xp: Namespace, x: Array, place: Array, flip: bool) -> Array:
    """Return the rows `place` of `x`; one past the end is a row of zeros."""
    zero = xp.zeros((1, x.shape[1]), dtype=x.dtype, device=device_of(x))
    if flip:
        return xp.take(xp.concat([x, zero], axis=0).T, place, axis=1).T
    return xp.take(xp.concat([x, zero], axis=0), place, axis=0)


def _empty(xp: Namespace, rows: int, like: Array, flip: bool) -> Array:
    """Return a new (rows, n) array of the kind of `like`, Fortran-ordered if `flip`."""
    n = like.shape[1]
    if flip:
        return xp.empty((n, rows), dtype=like.dtype, device=device_of(like)).T
    return xp.empty((rows, n), dtype=like.dtype, device=device_of(like))


def _used_tiles(storage: TVWStorage) -> list[int]:
    return [t for t in range(storage.num_tiles) if storage.rows_of[t]]


def _dense_tile(storage: TVWStorage, t: int, valid: HostArray, work: DType) -> DenseTile:
    tile = storage.tile(t)
    xp = array_namespace(tile.data)
    block = as_dtype(tile.data, work)
    if tile.meta is not None:
        block = expand_24(block, tile.meta)
    if valid.size != block.shape[1]:
        block = xp.take(block, from_host(valid, like=block), axis=1)
    if isinstance(block, np.ndarray):
        block = np.asfortranarray(block)
    cols = to_host(tile.cols)[valid].astype(np.int64)
    return DenseTile(int(storage.host_indptr[0][t]), block, _slice_or_index(cols, storage.data))


def _slice_or_index(index: HostArray, like: Array) -> slice | Array:
    if index.size and bool((np.diff(index) == 1).all()):
        return slice(int(index[0]), int(index[-1]) + 1)
    return from_host(index, like=like)


def _column_scatter(storage: TVWStorage, slots: list[HostArray]) -> ColumnScatter:
    cols = np.concatenate(
        [np.empty(0, np.int64)]
        + [
            to_host(storage.tile(t).cols)[valid].astype(np.int64)
            for t, valid in zip(_used_tiles(storage), slots, strict=True)
        ]
    )
    by_column = np.argsort(cols, kind="stable")
    count = np.bincount(cols, minlength=storage.shape[1])
    first = np.cumsum(count) - count
    order = np.argsort(-count, kind="stable")
    passes = []
    for r in range(int(count.max(initial=0))):
        having = order[: int((count > r).sum())]
        passes.append(from_host(by_column[first[having] + r] + 1, like=storage.data))  # 0 is zeros
    place = np.empty_like(order)
    place[order] = np.arange(order.size)
    return ColumnScatter(tuple(passes), from_host(place, like=storage.data))
