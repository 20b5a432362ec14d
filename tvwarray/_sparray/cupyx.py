"""Matrices of cupyx.scipy.sparse, made where the storage lies; nothing goes through the host.

The triples of a storage come from array functions alone (`_entries`), and both libraries make a
matrix of them in the same way, so scipy's classes prove this path where there is no GPU.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final, Literal, get_args

import numpy as np

from tvwarray._dtypes import FLOAT32, NARROW_FLOATS, DType
from tvwarray._entries import entries
from tvwarray._errors import BackendError, FormatError
from tvwarray._namespace import Namespace, array_namespace, as_dtype
from tvwarray._storage import TVWStorage

Format = Literal["csr", "csc", "coo"]

_VALUES: Final = frozenset(map(np.dtype, ("bool", "float32", "float64", "complex64", "complex128")))
"""What cupyx.scipy.sparse holds."""


def to_cupyx(storage: TVWStorage, transposed: bool, format: Format) -> Any:
    """Return the matrix as one of cupyx.scipy.sparse, on the GPU its arrays lie on.

    Parameters
    ----------
    storage : TVWStorage
        On a GPU, or on the host: then its entries are copied to the current device.
    transposed : bool
        Whether the transpose is meant.
    format : {"csr", "csc", "coo"}
        The canonical form of these: sorted, without duplicates.

    Raises
    ------
    FormatError
        If cupyx has no matrix of this dtype; it has floats, complex numbers and booleans.
    BackendError
        If CuPy is not installed.
    """
    try:
        sparse = import_module("cupyx.scipy.sparse")
        cupy = import_module("cupy")
    except ImportError as e:
        raise BackendError(
            'cupyx.scipy.sparse is part of CuPy: pip install "tvwarray[cuda13]" (or cuda12).'
        ) from e
    return assemble(storage, transposed, format, sparse, cupy)


def assemble(
    storage: TVWStorage, transposed: bool, format: Format, sparse: Any, xp: Namespace
) -> Any:
    """Return the matrix as one of the module `sparse`, whose arrays are those of `xp`."""
    if format not in get_args(Format):
        raise FormatError(f'format is {format!r}; it is "csr", "csc" or "coo".')
    dtype = _value_dtype(storage.dtype)
    found = entries(storage)
    own = array_namespace(found.data)
    rows, cols = (own.astype(x, own.int32) for x in (found.rows, found.cols))
    shape = storage.shape
    if transposed:
        rows, cols, shape = cols, rows, shape[::-1]
    data, rows, cols = (xp.asarray(x) for x in (as_dtype(found.data, dtype), rows, cols))
    coo = sparse.coo_matrix((data, (rows, cols)), shape=shape)
    coo.sum_duplicates()
    if format == "coo":
        return coo
    made = coo.tocsr() if format == "csr" else coo.tocsc()
    made.sort_indices()
    return made


def _value_dtype(dtype: DType) -> DType:
    if dtype in NARROW_FLOATS:
        return FLOAT32
    if dtype not in _VALUES:
        raise FormatError(
            f"cupyx.scipy.sparse holds no {dtype.name} values; cast first: A.astype('float64')."
        )
    return dtype
