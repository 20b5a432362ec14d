"""What ``@`` means for each kind of operand, on either side."""

from __future__ import annotations

from typing import Any

import numpy as np

from tvwarray._frameworks import handler_of
from tvwarray._matmul import matmul
from tvwarray._namespace import Array, array_namespace
from tvwarray._prepared import is_cupy
from tvwarray._sparray.arithmetic import Kind, Matrix, classify


def product(A: Matrix, other: Any) -> Any:
    """Return ``A @ other``: of a dense operand by a backend, of a sparse one by scipy, in CSR.

    Raises
    ------
    ValueError
        If `other` is a scalar, or the shapes do not fit.
    """
    if _is_plain(other):
        return matmul(A, other)
    if framework := handler_of(other):
        _refuse_scalar(Kind.SCALAR if getattr(other, "ndim", 2) == 0 else Kind.OTHER)
        return framework.matmul(A, other)
    if is_cupy(type(other)) and other.ndim > 0:
        return matmul(A, other)
    kind, other = classify(other)
    if kind is Kind.OTHER:
        return NotImplemented
    _refuse_scalar(kind)
    if kind is Kind.SPARSE:
        _check_inner(A.shape, other.shape)
        return A.host_csr("@") @ other
    return matmul(A, other)


def reflected(At: Matrix, other: Any) -> Any:
    """Return ``other @ A``, given the transpose of `A`.

    Raises
    ------
    ValueError
        If `other` is a scalar, or the shapes do not fit.
    """
    if _is_plain(other):
        return matmul(At, other.T).T
    if framework := handler_of(other):
        _refuse_scalar(Kind.SCALAR if getattr(other, "ndim", 2) == 0 else Kind.OTHER)
        return framework.linear(other, At)
    if is_cupy(type(other)) and other.ndim > 0:
        return matmul(At, other.T).T
    kind, other = classify(other)
    if kind is Kind.OTHER:
        return NotImplemented
    _refuse_scalar(kind)
    if kind is Kind.SPARSE:
        _check_inner(other.shape, At.shape[::-1])
        return other @ At.host_csr("@").T.tocsr()
    return matmul(At, other.T).T if other.ndim > 1 else matmul(At, other)


def adjoint_product(At: Matrix, x: Array) -> Array:
    """Return ``A.conj().T @ x``, given the transpose of `A`."""
    if At.storage.dtype.kind != "c":
        return product(At, x)
    xp = array_namespace(x)
    return xp.conj(product(At, xp.conj(x)))


def _is_plain(other: Any) -> bool:
    """Say whether `other` is a NumPy array and no scalar: what is most common.

    Asked before a framework is looked for, so by nothing that ``torch.compile`` cannot trace.
    """
    return type(other) is np.ndarray and other.ndim > 0


def _refuse_scalar(kind: Kind) -> None:
    if kind is Kind.SCALAR:
        raise ValueError("a matrix product takes no scalar; use * instead.")


def _check_inner(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    if left[-1] != right[0]:
        raise ValueError(f"dimension mismatch: {tuple(left)} @ {tuple(right)}.")
