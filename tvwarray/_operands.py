"""The operands of a product: what the sparse side is, and the checks of everything else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np

from tvwarray._dtypes import VALUES, Precision, value_dtype
from tvwarray._epilogue import Epilogue
from tvwarray._errors import BackendError
from tvwarray._namespace import Array, array_namespace, device_of, dtype_of, is_array
from tvwarray._storage import TVWStorage


class Operand(Protocol):
    """The sparse side of a product: a storage, and whether it stands for its transpose."""

    @property
    def storage(self) -> TVWStorage:
        """The matrix as it is stored."""
        ...

    @property
    def transposed(self) -> bool:
        """Whether the operand is the transpose of what is stored."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the operand."""
        ...


class Stored(NamedTuple):
    """A storage as an operand, or its transpose."""

    storage: TVWStorage
    transposed: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the operand."""
        rows, cols = self.storage.shape
        return (cols, rows) if self.transposed else (rows, cols)


def operand(A: Operand, X: Array) -> Array:
    """Return `X` as an array of native byte order that fits `A`."""
    x = X if is_array(X) and not isinstance(X, np.matrix | np.ma.MaskedArray) else _asarray(X)
    if x.ndim == 0:
        raise ValueError("X is a scalar; a product takes a vector or a matrix, use * instead.")
    if x.shape[-2 if x.ndim > 1 else 0] != A.shape[1]:
        raise ValueError(f"A is {A.shape} and X {tuple(x.shape)}; X must have {A.shape[1]} rows.")
    if dtype_of(x) in VALUES:  # in this machine's byte order
        return x
    return x.astype(value_dtype(dtype_of(x), where="X"))


def _asarray(X: Any) -> Array:
    if isinstance(X, np.ma.MaskedArray):
        raise ValueError("X is a masked array; fill it first: X.filled(0).")
    x = np.from_dlpack(X) if hasattr(X, "__dlpack__") else np.asarray(X)
    if x.dtype == np.object_:
        raise ValueError(
            f"X is a {type(X).__name__}, not an array; pass a dense array, or use A.tocsr() @ X."
        )
    return x


def check_out(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any], x: Array) -> None:
    if not is_array(out) or array_namespace(out) is not array_namespace(x):
        raise ValueError(f"out is {type(out).__name__}; it must be an array of the library of X.")
    if tuple(out.shape) != shape or dtype_of(out) != dtype:
        raise ValueError(
            f"out is {dtype_of(out)} of shape {tuple(out.shape)}; the product is {dtype} of shape "
            f"{shape}."
        )
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError("out is read-only.")


def check_workspace(workspace: Array, x: Array) -> None:
    """Say what keeps an array from being a product's workspace.

    Raises
    ------
    ValueError
        If it is not flat, contiguous bytes that may be written to, of the library and on the device
        of `x`.
    """
    if not is_array(workspace) or array_namespace(workspace) is not array_namespace(x):
        raise ValueError(
            f"workspace is {type(workspace).__name__}; it must be an array of the library of X."
        )
    if dtype_of(workspace) != np.uint8 or workspace.ndim != 1:
        raise ValueError(
            f"workspace is {dtype_of(workspace)} of shape {tuple(workspace.shape)}; it must be "
            "uint8 of shape (bytes,), at least tvwarray.plan(A, n).workspace_bytes."
        )
    if device_of(workspace) != device_of(x):
        raise ValueError(
            f"workspace lies on {device_of(workspace)} and X on {device_of(x)}; both must lie on "
            "one device."
        )
    if not workspace.flags.c_contiguous or getattr(workspace.flags, "writeable", True) is False:
        raise ValueError("workspace is read-only or not contiguous; it is written to in any order.")


def refuse_workspace(workspace: Array | None, x: Any) -> None:
    """Refuse a workspace for a framework's tensor.

    Raises
    ------
    BackendError
        If one is given.
    """
    if workspace is not None:
        raise BackendError(
            f"workspace= is given with a {type(x).__module__.partition('.')[0]} tensor, whose "
            "products take memory of their framework.\nMultiply arrays of CuPy that share the "
            "tensors' memory, cupy.from_dlpack(x), or drop workspace=."
        )


def check_precision(precision: Precision) -> None:
    if precision not in get_args(Precision):
        names = ", ".join(get_args(Precision))
        raise ValueError(f"precision is {precision!r}; it is one of {names}.")


def widened(epilogue: Epilogue) -> Epilogue:
    """Return the epilogue of a vector's product as that of a matrix with one column."""

    def column(x: Array | None) -> Array | None:
        return None if x is None else (x if is_array(x) else np.asarray(x))[..., None]

    return replace(epilogue, c=column(epilogue.c), residual=column(epilogue.residual))


def rows_of(out: Array, samples: int) -> Array | None:
    """Return `out`, of shape (..., rows), as a view (rows, samples), or None if it has none."""
    if getattr(getattr(out, "flags", None), "c_contiguous", False):
        return out.reshape(samples, out.shape[-1]).T
    return None
