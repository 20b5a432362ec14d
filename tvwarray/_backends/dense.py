"""The dense fallback: a matrix whose tiles hold nearly everything is faster multiplied dense.

It is taken only where `share_of_dense` predicts a clear gain, for matrices large enough that the
product and not its overhead counts, and a warning says so: a dense copy takes memory.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tvwarray._convert import to_dense
from tvwarray._dtypes import Precision, product_dtype
from tvwarray._epilogue import IDENTITY, Epilogue, finish
from tvwarray._namespace import Array, dtype_of, to_host
from tvwarray._storage import TVWStorage

SMALLEST: Final = 2**20
"""Elements below which overheads decide, and no copy is made."""

MARGIN: Final = 1.15
"""How many times as long as dense a product must be predicted to take."""

FEW: Final = 16
"""Up to this many right-hand sides the bytes of the matrix decide, beyond them the arithmetic."""

_BLAS: Final = frozenset(map(np.dtype, ("float32", "float64", "complex64", "complex128")))


@dataclass(frozen=True)
class _Speed:
    """Time over that of a dense product, for each share of a matrix that is read or multiplied.

    Measured on one core of an Intel Xeon (Sapphire Rapids) against OpenBLAS 0.3.31, float32.
    """

    few: float
    many: float


_SPEEDS: Final = {"cpu": _Speed(0.9, 1.22), "array": _Speed(1.3, 1.4)}


def share_of_dense(storage: TVWStorage, backend: str, n: int) -> float | None:
    """Predict the time of ``A @ X`` over that of the dense product, or None if it is not known.

    Parameters
    ----------
    storage : TVWStorage
    backend : str
        "cpu" reads stored values alone, "array" all kept slots of a tile.
    n : int
        Right-hand sides.
    """
    speed, elements = _SPEEDS.get(backend), storage.shape[0] * storage.shape[1]
    if speed is None or not elements:
        return None
    if backend == "cpu":
        read = int(storage.data.shape[0])
    else:
        valid = np.add.reduceat(
            np.append(to_host(storage.col_indices) >= 0, False), storage.host_indptr[1][:-1]
        )
        read = int((valid * (storage.slots_of > 0) * storage.rows_of).sum())
    return read / elements * (speed.few if n <= FEW else speed.many)


class DenseBackend:
    """``A.toarray() @ X``, the copy kept with the matrix."""

    name = "dense"
    takes_remainder = False

    def refusal(
        self,
        storage: TVWStorage,
        x: Array,
        *,
        transposed: bool = False,
        precision: Precision = "default",
    ) -> str:
        """Say why a dense copy would not pay, or return an empty string."""
        if not (isinstance(storage.data, np.ndarray) and isinstance(x, np.ndarray)):
            return "is for NumPy arrays"
        if product_dtype(storage.dtype, dtype_of(x)) not in _BLAS:
            return "is for types that BLAS multiplies"
        return ""

    def pack(self, storage: TVWStorage) -> Any:
        """Make the dense copy, and say so."""
        dense = to_dense(storage.without_remainder())
        warnings.warn(
            f"a {storage.shape[0]}x{storage.shape[1]} matrix keeps so much of its tiles that it "
            f"is multiplied through a dense copy of {dense.nbytes / 1e6:.3g} MB, which is "
            "predicted to be faster; tvwarray.plan(A, n) has the figures, backend=... avoids it.",
            stacklevel=2,
        )
        return dense

    def matmul(
        self,
        packed: Any,
        x: Array,
        out: Array | None = None,
        *,
        transposed: bool = False,
        epilogue: Epilogue = IDENTITY,
        precision: Precision = "default",
    ) -> Array:
        """Return `epilogue` of ``A @ x`` or ``A.T @ x``, in the memory order of `x`."""
        a = packed.T if transposed else packed
        with np.errstate(all="ignore"):
            flip = x.flags.f_contiguous and not x.flags.c_contiguous
            result = (x.T @ a.T).T if flip else a @ x
        return finish(epilogue, result, product_dtype(a.dtype, x.dtype), out)


BACKEND: Final = DenseBackend()


def pays(storage: TVWStorage, x: Array, backend: str) -> str:
    """Say by how much a dense product is predicted to be faster, or return an empty string."""
    if storage.shape[0] * storage.shape[1] < SMALLEST:
        return ""
    if BACKEND.refusal(storage, x):
        return ""
    share = share_of_dense(storage, backend, int(x.shape[1]))
    if share is None or share < MARGIN:
        return ""
    return f"a dense product is predicted to be {share:.2f} times as fast"
