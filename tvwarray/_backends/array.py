"""The reference backend: gather the kept columns of a tile and multiply, one GEMM a tile or so.

    X (cols, n)                 tile (rows, k)            product, in tile order
    ┌────────────┐  take    ┌──────┐   ┌────────────┐     ┌────────────┐
    │ row c0     │ ───────> │      │ @ │ row c0     │  =  │ rows of t  │
    │ ...        │  k rows  └──────┘   │ row c7 ... │     ├────────────┤ ──take──> A @ X
    │ row c7     │                     └────────────┘     │ rows of t+1│   (only where rows
    └────────────┘                                        └────────────┘    are out of order)

It runs on every library that follows the array API: NumPy, CuPy and array-api-strict use this very
code. Packing expands the 2:4 groups, so the engine skips the columns that a tile dropped but
multiplies the zeros inside its groups. Neighbouring tiles share columns, see
`tvwarray._backends.blocks`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from tvwarray._backends.blocks import ArrayPacked, Blocks, DenseBlock, pack_blocks
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
)
from tvwarray._storage import HostArray, TVWStorage

_PANEL_BYTES: Final = 3 << 18
"""A gathered panel of X takes about this much, to stay in a core's cache until it is multiplied."""

_PANEL_COLUMNS: Final = 384
"""But a panel has so many columns in any case: OpenBLAS multiplies them in one pass, and each panel
after a block's first costs a pass over its sums."""

_STACK_BYTES: Final = 7 << 20
"""The slot products of ``A.T @ Y`` take about this much, which `_scratch` keeps: larger batches
are cut along n."""

_FLOAT64: Final = np.dtype(np.float64)
_BOOL: Final = np.dtype(np.bool_)


class ArrayBackend:
    """Products by gather and GEMM, in the library that the arrays belong to."""

    name = "array"
    takes_remainder = False

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
        return pack_blocks(storage)

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
    x = np.ascontiguousarray(x) if isinstance(x, np.ndarray) else x  # gathers whole rows
    total = _empty(xp, packed.kept_rows, x, flip) if into is None else into
    row_bytes = max(1, x.shape[1] * dtype_of(x).itemsize)
    blocks = packed.blocks(x.shape[0] * row_bytes).each
    work = _Workspace(blocks, x, max(_PANEL_COLUMNS, _PANEL_BYTES // row_bytes), flip)
    for block in blocks:
        _add_block(xp, block, x, total, work)
    if packed.row_place is None:
        return total
    return _take_or_zero(xp, total, packed.row_place, flip)


class _Workspace:
    """Where NumPy gathers rows of X, and makes a product that is to be added."""

    def __init__(self, blocks: Sequence[DenseBlock], x: Array, panel: int, flip: bool) -> None:
        self.panel, self.flip = panel, flip
        shapes = [(b.adds, *b.values.shape) for b in blocks] if isinstance(x, np.ndarray) else []
        gathered = min(panel, max((k for _, _, k in shapes), default=0))
        added = max((m for adds, m, k in shapes if adds or k > panel), default=0)
        n, size = x.shape[1], gathered * x.shape[1]
        memory = _scratch(size + added * n, dtype_of(x))
        self.rows = memory[:size].reshape(gathered, n)
        sums = memory[size:]
        self.sums = sums.reshape(n, added).T if flip else sums.reshape(added, n)


_KEPT: Final = threading.local()
"""Each thread's scratch memory, kept from product to product while it is small: fresh pages cost
two percent of a product."""

_KEPT_BYTES: Final = 1 << 23


def _scratch(size: int, dtype: DType) -> HostArray:
    """Return a host array of `size` elements of any values, this thread's until it asks again."""
    count = size * dtype.itemsize
    if count > _KEPT_BYTES:
        return np.empty(size, dtype)
    kept: HostArray | None = getattr(_KEPT, "bytes", None)
    if kept is None or kept.size < count:
        kept = _KEPT.bytes = np.empty(count, np.uint8)
    return kept[:count].view(dtype)


def _add_block(xp: Namespace, block: DenseBlock, x: Array, total: Array, work: _Workspace) -> None:
    values = as_dtype(block.values, dtype_of(x))
    m, k = values.shape
    rows = slice(block.start, block.start + m)
    if k == 0:
        total[rows, :] = 0
    for i in range(0, k, work.panel):
        columns = slice(i, min(i + work.panel, k))
        gathered, part = _gather(xp, x, block.cols, columns, work.rows), values[:, columns]
        adds = block.adds or i > 0
        if not isinstance(total, np.ndarray):
            product = xp.matmul(part, gathered)
            total[rows, :] = total[rows, :] + product if adds else product
        elif adds:
            sums = work.sums[:m]
            _multiply_into(part, gathered, sums, work.flip)
            np.add(total[rows, :], sums, out=total[rows, :])
        else:
            _multiply_into(part, gathered, total[rows, :], work.flip)


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
        return x.take(cols[part], axis=0, out=buffer[: part.stop - part.start], mode="clip")
    return xp.take(x, cols[part], axis=0)


def _rmatmul(xp: Namespace, packed: ArrayPacked, x: Array, flip: bool) -> Array:
    """Return ``A.T @ x``: one product a block, its rows (the slots) added up by column."""
    n, dtype = x.shape[1], dtype_of(x)
    total = _empty(xp, packed.shape[1], x, flip)
    blocks = packed.blocks(x.shape[0] * n * dtype.itemsize)
    slots = sum(int(b.values.shape[1]) for b in blocks.each)
    room = _STACK_BYTES if isinstance(x, np.ndarray) else 8 * _STACK_BYTES  # fewer launches
    for strip in _strips(n, max(16, room // max(1, slots * dtype.itemsize))):
        index = packed.row_index
        part = x[:, strip]
        part = part[index, :] if isinstance(index, slice) else xp.take(part, index, axis=0)
        stacked = _slot_products(xp, blocks, part, slots)
        summed = xp.zeros((packed.shape[1], part.shape[1]), dtype=part.dtype, device=device_of(x))
        for chosen in blocks.scatter.passes:
            summed[: chosen.shape[0], :] += xp.take(stacked, chosen, axis=0)
        total[:, strip] = xp.take(summed, blocks.scatter.place, axis=0)
    return total


def _slot_products(xp: Namespace, blocks: Blocks, part: Array, slots: int) -> Array:
    """Return a row of zeros, and what each slot of every block gives; (1 + slots, n)."""
    n, dtype = part.shape[1], dtype_of(part)
    if not isinstance(part, np.ndarray):
        products = [xp.zeros((1, n), dtype=part.dtype, device=device_of(part))]
        for b in blocks.each:
            rows = slice(b.start, b.start + b.values.shape[0])
            products.append(xp.matmul(as_dtype(b.values, dtype).T, part[rows, :]))
        return xp.concat(products, axis=0)
    stacked = _scratch((1 + slots) * n, dtype).reshape(1 + slots, n)
    stacked[0] = 0
    first = 1
    for b in blocks.each:
        m, k = b.values.shape
        values = as_dtype(b.values, dtype)
        np.matmul(values.T, part[b.start : b.start + m], out=stacked[first : first + k])
        first += k
    return stacked


def _strips(n: int, width: int) -> Iterator[slice]:
    """Cut n right-hand sides into strips, whose slot products stay within bounds."""
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
