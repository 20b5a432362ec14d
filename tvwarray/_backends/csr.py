"""The product of a remainder: the CSR entries beside the tiles, added to what a backend made."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import array_api_compat
import numpy as np

from tvwarray._dtypes import EIGHT_BIT_INTEGERS, INT32, accumulate_dtype, product_dtype, promote
from tvwarray._errors import BackendError
from tvwarray._kernels.streams import capturing, settled
from tvwarray._namespace import Array, as_dtype, dtype_of
from tvwarray._storage import TVWStorage


@dataclass(frozen=True, eq=False)
class CsrPacked:
    """A remainder as scipy's or CuPy's CSR matrix, and its transpose, in the type of the sums."""

    matrix: Any
    transposed: Any


def summed_dtype(storage: TVWStorage, x: Array) -> np.dtype[Any]:
    """Return the type that the remainder's product with `x` is summed in."""
    assert storage.remainder is not None
    both = promote(dtype_of(storage.remainder.data), dtype_of(x))
    summed = INT32 if both in EIGHT_BIT_INTEGERS else accumulate_dtype(product_dtype(both, both))
    return INT32 if summed == np.bool_ else summed  # scipy adds booleans up as bytes, which wrap


def pack(storage: TVWStorage, summed: np.dtype[Any]) -> CsrPacked:
    """Return the remainder ready to multiply: made once, so that products ask the device nothing.

    Raises
    ------
    BackendError
        If the arrays are neither NumPy's nor CuPy's, which alone have CSR products.
    """
    remainder = storage.remainder
    assert remainder is not None
    if isinstance(remainder.data, np.ndarray):
        sparse: Any = import_module("scipy.sparse")
    elif array_api_compat.is_cupy_array(remainder.data):
        sparse = import_module("cupyx.scipy.sparse")
    else:
        raise BackendError(
            f"a remainder multiplies as CSR, which {type(remainder.data).__module__} has no "
            "product for.\nBring the matrix into tiles first: TVWMatrix(A.tocsr())."
        )
    with settled(remainder.data):
        data = as_dtype(remainder.data, summed)
        parts = data, remainder.indices, remainder.indptr
        matrix = sparse.csr_matrix(parts, shape=storage.shape)
        matrix.has_canonical_format = True  # a rule of the format; else every product looks
        return CsrPacked(matrix, matrix.T)


def check_not_captured(x: Array) -> None:
    """Refuse to go into a CUDA graph.

    Raises
    ------
    BackendError
        If the stream of `x` is being captured: cuSPARSE's workspace is CuPy's, and goes back to its
        pool at the end of the call, where a replay of the graph would still write to it.
    """
    if capturing(x):
        raise BackendError(
            "a product with a remainder cannot be captured in a CUDA graph: cuSPARSE, which adds "
            "it, would write to memory that is not the graph's.\n"
            "Bring its entries into tiles first, TVWMatrix(A.tocsr()), or run this product outside "
            "of the graph."
        )


def add_product(packed: CsrPacked, x: Array, total: Array, *, transposed: bool) -> None:
    """Add ``R @ x``, or ``R.T @ x``, to `total` in place, in the current stream.

    Both are added in the type that products are summed in, which `total` should have.
    """
    matrix = packed.transposed if transposed else packed.matrix
    summed = matrix.dtype
    with np.errstate(all="ignore"):
        product = matrix @ as_dtype(x, summed)
        total[...] = as_dtype(as_dtype(total, summed) + product, dtype_of(total))
