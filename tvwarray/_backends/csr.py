"""The product of a remainder: the CSR entries beside the tiles, added to what a backend made."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import array_api_compat
import numpy as np

from tvwarray._dtypes import EIGHT_BIT_INTEGERS, INT32, accumulate_dtype, product_dtype, promote
from tvwarray._errors import BackendError
from tvwarray._namespace import Array, as_dtype, dtype_of
from tvwarray._remainder import Remainder


def add_product(
    remainder: Remainder, shape: tuple[int, int], x: Array, total: Array, *, transposed: bool
) -> None:
    """Add ``R @ x``, or ``R.T @ x``, to `total` in place; `R` has the shape `shape`.

    Both are added in the type that products are summed in, which `total` should have.

    Raises
    ------
    BackendError
        If the arrays are neither NumPy's nor CuPy's, which alone have CSR products.
    """
    if isinstance(x, np.ndarray):
        sparse: Any = import_module("scipy.sparse")
    elif array_api_compat.is_cupy_array(x):
        sparse = import_module("cupyx.scipy.sparse")
    else:
        raise BackendError(
            f"a remainder multiplies as CSR, which {type(x).__module__} has no product for.\n"
            "Bring the matrix into tiles first: TVWMatrix(A.tocsr())."
        )
    both = promote(dtype_of(remainder.data), dtype_of(x))
    summed = INT32 if both in EIGHT_BIT_INTEGERS else accumulate_dtype(product_dtype(both, both))
    if summed == np.bool_:
        summed = INT32  # scipy adds booleans up as bytes, which wrap
    data = as_dtype(remainder.data, summed)
    csr = sparse.csr_matrix((data, remainder.indices, remainder.indptr), shape=shape)
    with np.errstate(all="ignore"):
        product = (csr.T if transposed else csr) @ as_dtype(x, summed)
        total[...] = as_dtype(as_dtype(total, summed) + product, dtype_of(total))
