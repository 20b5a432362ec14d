"""Arithmetic and comparisons with scalars, vectors, sparse and dense matrices.

What a result is, whichever the operation:

===========================================  ==============================================
the result                                   is
===========================================  ==============================================
has its entries where the matrix has them    a storage of the same layout
(scalars, a factor for each row or column,
another matrix of the same layout)
has other entries                            a ``csr_array`` on the host
has an element everywhere                    a dense array, as scipy.sparse gives
===========================================  ==============================================

Dtypes are those of scipy.sparse, which computes all that is not laid out as before.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from typing import Any, Protocol

import numpy as np
import scipy.sparse as sp

from tvwarray._dtypes import NARROW_FLOATS
from tvwarray._entries import repeats_columns
from tvwarray._errors import BackendError
from tvwarray._namespace import Array, array_namespace, device_of, is_array
from tvwarray._operands import Operand
from tvwarray._sparray import elementwise
from tvwarray._storage import TVWStorage


class Matrix(Operand, Protocol):
    """What arithmetic asks of a matrix."""

    def host_csr(self, what: str, /) -> sp.csr_array[Any, tuple[int, int]]:
        """Return the matrix in CSR, or say that it does not lie on the host."""
        ...

    def toarray(self) -> Array:
        """Return the dense matrix."""
        ...


def check_host(storage: TVWStorage, what: str) -> None:
    """Refuse what only scipy.sparse computes to a matrix that lies elsewhere.

    Raises
    ------
    BackendError
        If the arrays are not NumPy's: nothing is copied to the host unasked.
    """
    if not isinstance(storage.data, np.ndarray):
        raise BackendError(
            f"{what} is computed by scipy.sparse, on the host, and the matrix lies on "
            f"{device_of(storage.data)}.\n"
            'Bring it there with A.to_device("cpu"), or take A.to_cupyx() for cupyx.scipy.sparse.'
        )


class Kind(Enum):
    """What stands on the other side of an operator."""

    SCALAR = auto()
    SPARSE = auto()
    """a matrix of scipy.sparse"""
    DENSE = auto()
    OTHER = auto()
    """nothing known here: Python asks the other side"""


def classify(other: Any) -> tuple[Kind, Any]:
    """Return what `other` is, and `other` as an array or a matrix of scipy.sparse."""
    if elementwise.is_scalar(other):
        return Kind.SCALAR, other
    if getattr(other, "format", None) == "tvw":
        return Kind.SPARSE, other.host_csr("the operation")
    if sp.issparse(other):
        return Kind.SPARSE, other
    if isinstance(other, np.ma.MaskedArray):
        raise ValueError("the operand is a masked array; fill it first: x.filled(0).")
    if is_array(other) and not isinstance(other, np.matrix):
        return Kind.DENSE, other
    made = np.from_dlpack(other) if hasattr(other, "__dlpack__") else np.asarray(other)
    if made.dtype.kind in "OSUMmV":  # of object dtype: what NumPy cannot read as an array
        return Kind.OTHER, other
    return (Kind.DENSE if made.ndim else Kind.SCALAR), made


def add(A: Matrix, other: Any) -> Any:
    """Return ``A + other``; None stands for A itself."""
    if (alike := _alike(A, other)) is not None:
        return elementwise.combine(A.storage, alike, "add")
    kind, other = classify(other)
    if kind is Kind.SCALAR:
        _check_zero(other, "adding a nonzero scalar to")
        return None
    if kind is Kind.SPARSE:
        return A.host_csr("+") + _same_shape(A, other)
    if kind is Kind.DENSE:
        return A.toarray() + _stretched(A, other)
    return NotImplemented


def subtract(A: Matrix, other: Any) -> Any:
    """Return ``A - other``; None stands for A itself."""
    if (alike := _alike(A, other)) is not None and alike.dtype != np.bool_:
        return elementwise.combine(A.storage, alike, "subtract")
    kind, other = classify(other)
    if kind is Kind.SCALAR:
        _check_zero(other, "subtracting a nonzero scalar from")
        return None
    if kind is Kind.SPARSE:
        return A.host_csr("-") - _same_shape(A, other)
    if kind is Kind.DENSE:
        return A.toarray() - _stretched(A, other)
    return NotImplemented


def subtract_from(A: Matrix, other: Any) -> Any:
    """Return ``other - A``; None stands for ``-A``."""
    kind, other = classify(other)
    if kind is Kind.SCALAR:
        _check_zero(other, "subtracting from a nonzero scalar")
        return None
    if kind is Kind.SPARSE:
        return _same_shape(A, other) - A.host_csr("-")
    if kind is Kind.DENSE:
        return _stretched(A, other) - A.toarray()
    return NotImplemented


def multiply(A: Matrix, other: Any) -> Any:
    """Return ``A * other``, element by element: a storage where the pattern stays."""
    if (alike := _alike(A, other)) is not None and not repeats_columns(alike):
        return elementwise.combine(A.storage, alike, "multiply")
    kind, other = classify(other)
    if kind is Kind.SCALAR:
        factor = elementwise.weak(other, A.storage.dtype)
        return elementwise.apply(
            A.storage, lambda data: data * factor, keeps_zeros=elementwise.is_finite(factor)
        )
    if kind is Kind.SPARSE:
        return _as_csr(A.host_csr("*").multiply(other))
    if kind is Kind.DENSE and other.size == 1 and other.ndim <= 2:
        return multiply(A, array_namespace(other).reshape(other, ()))
    if kind is Kind.DENSE:
        axis = _vector_axis(A, other)
        if axis is None:
            return _as_csr(A.host_csr("*").multiply(other))
        factors = array_namespace(other).reshape(other, (-1,))
        return elementwise.scale(A.storage, factors, 1 - axis if A.transposed else axis)
    return NotImplemented


def divide(A: Matrix, other: Any, *, keep_dtype: bool = False) -> Any:
    """Return ``A / other``, element by element: a storage where the pattern stays.

    With `keep_dtype`, as ``A /= other`` does, a scalar leaves floats in their dtype.
    """
    kind, other = classify(other)
    if kind is Kind.SCALAR:
        return elementwise.divide(A.storage, other, keep_dtype=keep_dtype)
    if kind is Kind.SPARSE:
        csr = A.host_csr("/")
        if csr.dtype.kind != "c" == other.dtype.kind:  # scipy would drop the imaginary parts
            csr = csr.astype(np.complex128)
        return csr / other
    if kind is Kind.DENSE:
        with np.errstate(all="ignore"):  # a factor is infinite where `other` is zero
            return multiply(A, 1 / other)
    return NotImplemented


def extremum(A: Matrix, other: Any, name: str) -> Any:
    """Return the element-wise ``maximum`` or ``minimum`` of `A` and `other`."""
    kind, other = classify(other)
    if kind is Kind.OTHER:
        raise NotImplementedError(f"{name} with a {type(other).__name__} is not supported.")
    return getattr(A.host_csr(name), name)(other)


def compare(A: Matrix, other: Any, op: Callable[[Any, Any], Any]) -> Any:
    """Return ``op(A, other)`` for a comparison of the module `operator`, as scipy.sparse does."""
    kind, other = classify(other)
    if kind is Kind.OTHER:
        return NotImplemented
    if kind is Kind.DENSE:
        return op(A.toarray(), other)
    return op(A.host_csr("a comparison"), other)


def _alike(A: Matrix, other: Any) -> TVWStorage | None:
    """Return the storage of `other` if it is a matrix with the layout of `A`, and summed as `A`.

    Sums of narrow floats have entries of float32, whatever the layout.
    """
    if getattr(other, "format", None) != "tvw" or other.transposed != A.transposed:
        return None
    storage: TVWStorage = other.storage
    if not {A.storage.dtype, storage.dtype}.isdisjoint(NARROW_FLOATS):
        return None
    return storage if elementwise.same_layout(A.storage, storage) else None


def _vector_axis(A: Matrix, other: Array) -> int | None:
    """Return 0 if `other` has a factor for each row, 1 for each column, None if it is a matrix."""
    shape = tuple(other.shape)
    if shape in ((A.shape[1],), (1, A.shape[1])):
        return 1
    return 0 if shape == (A.shape[0], 1) else None


def _as_csr(result: Any) -> Any:
    return result if isinstance(result, np.ndarray) else result.tocsr()


def _check_zero(scalar: Any, what: str) -> None:
    if scalar != 0:
        raise NotImplementedError(
            f"{what} a sparse matrix changes every element; use A.toarray() for that."
        )


def _same_shape(A: Matrix, other: Any) -> Any:
    if tuple(other.shape) != A.shape:
        raise ValueError(f"inconsistent shapes: {A.shape} and {tuple(other.shape)}.")
    return other


def _stretched(A: Matrix, other: Array) -> Array:
    return array_namespace(other).broadcast_to(other, A.shape)
