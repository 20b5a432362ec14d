"""Products: check the operands, choose a backend, pack once, multiply.

Three backends are tried in this order, and `select_backend` shows why each is passed over:

======  =====================================================  ===========================
name    runs                                                   needs
======  =====================================================  ===========================
cuda    tensor-core kernels                                    an NVIDIA GPU, CuPy arrays
cpu     the compiled engine                                    the extension, NumPy arrays
array   gather + one GEMM a tile (the reference)               arrays of one library
dense   the dense product, where it is predicted to be faster  NumPy arrays
======  =====================================================  ===========================
"""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

import numpy as np

from tvwarray._activations import Activation, apply_activation
from tvwarray._backends import array, cpu, csr, cuda, dense
from tvwarray._dtypes import VALUES, accumulate_dtype, product_dtype, value_dtype
from tvwarray._errors import BackendError
from tvwarray._namespace import Array, array_namespace, as_dtype, dtype_of, is_array
from tvwarray._storage import TVWStorage


class Backend(Protocol):
    """What runs products; a new one implements these three methods and joins `BACKENDS`."""

    name: str

    def refusal(self, storage: TVWStorage, x: Array, *, transposed: bool = False) -> str:
        """Return why this product cannot run here, in a sentence, or an empty string."""
        ...

    def pack(self, storage: TVWStorage) -> Any:
        """Bring a matrix into the backend's own order; done once for each matrix."""
        ...

    def matmul(
        self, packed: Any, x: Array, out: Array | None = None, *, transposed: bool = False
    ) -> Array:
        """Return ``A @ x``, or ``A.T @ x`` if `transposed`, for `x` of shape (cols, n)."""
        ...


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


BACKENDS: Final[list[Backend]] = [cuda.BACKEND, cpu.BACKEND, array.BACKEND]
"""In order of preference; the dense fallback stands behind whichever of them is taken."""


@dataclass(frozen=True)
class Selection:
    """Which backend runs a product, and why the ones before it do not."""

    backend: Backend | None
    """None if every backend refuses."""
    refusals: tuple[tuple[str, str], ...]
    """(name, reason) of each backend that was asked and refused."""

    def __str__(self) -> str:
        lines = [f"{name}: {reason}" for name, reason in self.refusals]
        return "\n".join(
            [*lines, f"{self.backend.name}: selected" if self.backend else "none fits"]
        )


def select_backend(A: Operand, X: Array, *, backend: str | None = None) -> Selection:
    """Choose the backend that would run ``A @ X``.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
    X : array, shape (cols,) or (cols, n)
    backend : {"cuda", "cpu", "array", "dense"}, optional
        Ask this one alone.

    Returns
    -------
    Selection
        Prints as one line for each backend asked.

    Raises
    ------
    ValueError
        If `backend` names none.
    """
    x = _operand(A, X)
    return _select(A, x, backend)


def matmul(A: Operand, X: Array, *, out: Array | None = None, backend: str | None = None) -> Array:
    """Return the product ``A @ X``.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
    X : array, shape (cols,) or (cols, n)
        Of the library and on the device of `A`, in any memory order; lists become NumPy arrays.
    out : array, shape (rows,) or (rows, n), optional
        Where to write the product; of the product's dtype.
    backend : {"cuda", "cpu", "array", "dense"}, optional
        By default the first that does not refuse; see `select_backend`.

    Returns
    -------
    array, shape (rows,) or (rows, n)
        16-bit floats give the same type, summed in float32; 8-bit integers give int32, 8-bit
        floats float32; mixed types promote as in NumPy. A Fortran-ordered `X` gives a
        Fortran-ordered product.

    Raises
    ------
    ValueError
        If the shapes or dtypes do not fit.
    BackendError
        If no backend runs this product; the message lists each one's reason.

    Notes
    -----
    Where `X` holds NaN or infinity, a row of the product is NaN wherever the stored nonzeros alone
    make it so, and may be NaN only where the dense product is: a backend may or may not multiply
    the zeros inside a tile. Columns that a tile does not keep are never read for it.
    """
    x = _operand(A, X)
    dtype = product_dtype(A.storage.dtype, dtype_of(x))
    flat = x.ndim == 1
    if out is not None:
        _check_out(out, (A.shape[0],) if flat else (A.shape[0], x.shape[1]), dtype, x)
    target = out[:, None] if flat and out is not None else out
    result = _multiply(A, x[:, None] if flat else x, target, backend)
    if out is not None:
        return out
    return result[:, 0] if flat else result


def linear(
    x: Array,
    A: Operand,
    bias: Array | None = None,
    activation: Activation | None = None,
    *,
    out: Array | None = None,
    backend: str | None = None,
) -> Array:
    """Return ``activation(x @ A.T + bias)``: a linear layer whose weight is `A`.

    Parameters
    ----------
    x : array, shape (..., cols)
        Activations, one row a sample, as frameworks hold them.
    A : TVWMatrix, shape (rows, cols)
        The weight as ``Linear.weight`` stores it: (out_features, in_features).
    bias : array, shape (rows,), optional
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or callable, optional
        "gelu" is the exact one, by erf; "gelu_tanh" its usual approximation.
    out : array, shape (..., rows), optional
    backend : {"cuda", "cpu", "array", "dense"}, optional

    Returns
    -------
    array, shape (..., rows)
        Bias and activation are applied in the accumulation type (float32 for 16-bit types).

    Raises
    ------
    ValueError
        If the shapes or dtypes do not fit, or `activation` is no known name.
    BackendError
        If no backend runs this product.
    """
    x = x if is_array(x) else np.asarray(x)
    if x.ndim == 0 or x.shape[-1] != A.shape[1]:
        raise ValueError(
            f"x has shape {x.shape}; its last axis must be {A.shape[1]}, the columns of A."
        )
    xp = array_namespace(x)
    lead = x.shape[:-1]
    flat = xp.reshape(x, (math.prod(lead), x.shape[-1]))
    if bias is not None:
        bias = _checked_bias(bias, A.shape[0])
    result = _fused(A, flat, bias, activation, backend)
    if result is None:
        result = matmul(A, flat.T, backend=backend).T
        if bias is not None or activation is not None:
            result = _epilogue(result, bias, activation)
    result = xp.reshape(result, (*lead, A.shape[0]))
    if out is None:
        return result
    _check_out(out, result.shape, dtype_of(result), x)
    out[...] = result
    return out


def _checked_bias(bias: Array, rows: int) -> Array:
    bias = bias if is_array(bias) else np.asarray(bias)
    if bias.ndim != 1 or bias.shape[0] != rows:
        raise ValueError(f"bias has shape {bias.shape}; it must be ({rows},), the rows of A.")
    return bias


def _fused(
    A: Operand, x: Array, bias: Array | None, activation: Activation | None, name: str | None
) -> Array | None:
    """Return the layer by a backend that fuses its epilogue, or None."""
    operand = _operand(A, x.T)
    backend = _select(A, operand, name).backend
    if not isinstance(backend, cpu.CpuBackend) or A.storage.remainder is not None:
        return None
    if not (activation is None or activation == "relu"):
        return None
    return backend.linear(_PACKS.get(A.storage, backend), operand.T, bias, activation)


def _epilogue(product: Array, bias: Array | None, activation: Activation | None) -> Array:
    dtype = dtype_of(product)
    total = as_dtype(product, accumulate_dtype(dtype))
    if bias is not None:
        total = total + as_dtype(bias, dtype_of(total))
    if activation is not None:
        total = apply_activation(activation, total)
    return as_dtype(total, dtype)


def _operand(A: Operand, X: Array) -> Array:
    """Return `X` as an array of native byte order that fits `A`."""
    x = X if is_array(X) and not isinstance(X, np.matrix | np.ma.MaskedArray) else _asarray(X)
    if x.ndim not in (1, 2):
        raise ValueError(f"X has {x.ndim} dimensions; a product takes 1 or 2.")
    if x.shape[0] != A.shape[1]:
        raise ValueError(f"A is {A.shape} and X {tuple(x.shape)}; X must have {A.shape[1]} rows.")
    if dtype_of(x) in VALUES:  # in this machine's byte order
        return x
    return x.astype(value_dtype(dtype_of(x), where="X"))


def _asarray(X: Any) -> Array:
    if isinstance(X, np.ma.MaskedArray):
        raise ValueError("X is a masked array; fill it first: X.filled(0).")
    x = np.asarray(X)
    if x.dtype == np.object_:
        raise ValueError(
            f"X is a {type(X).__name__}, not an array; pass a dense array, or use A.tocsr() @ X."
        )
    return x


def _check_out(out: Array, shape: tuple[int, ...], dtype: np.dtype[Any], x: Array) -> None:
    if not is_array(out) or array_namespace(out) is not array_namespace(x):
        raise ValueError(f"out is {type(out).__name__}; it must be an array of the library of X.")
    if tuple(out.shape) != shape or dtype_of(out) != dtype:
        raise ValueError(
            f"out is {dtype_of(out)} of shape {tuple(out.shape)}; the product is {dtype} of shape "
            f"{shape}."
        )
    if isinstance(out, np.ndarray) and not out.flags.writeable:
        raise ValueError("out is read-only.")


def _select(A: Operand, x: Array, name: str | None) -> Selection:
    named = {b.name: b for b in (*BACKENDS, dense.BACKEND)}
    if name is not None and name not in named:
        raise ValueError(f"backend is {name!r}; it is one of {', '.join(named)}.")
    candidates = BACKENDS if name is None else [named[name]]
    wide = x[:, None] if x.ndim == 1 else x
    refusals: list[tuple[str, str]] = []
    for backend in candidates:
        reason = backend.refusal(A.storage, wide, transposed=A.transposed)
        if not reason:
            slow = "" if name else dense.pays(A.storage, wide, backend.name)
            if slow:
                return Selection(dense.BACKEND, (*refusals, (backend.name, slow)))
            return Selection(backend, tuple(refusals))
        refusals.append((backend.name, reason))
    return Selection(None, tuple(refusals))


def _multiply(A: Operand, x: Array, out: Array | None, name: str | None) -> Array:
    selection = _select(A, x, name)
    backend = selection.backend
    if backend is None:
        reasons = "\n".join(f"  {n}: {reason}" for n, reason in selection.refusals)
        raise BackendError(
            f"no backend runs {A.shape} {A.storage.dtype} @ {tuple(x.shape)} {dtype_of(x)}.\n"
            f"{reasons}\n"
            "Bring A and X to one library and device (A.to_device(...)), or drop backend=."
        )
    packed = _PACKS.get(A.storage, backend)
    if A.storage.remainder and out is not None and _overlap(x, out):
        x = x.copy()  # the remainder reads it once more when the tiles have written the product
    product = backend.matmul(packed, x, out, transposed=A.transposed)
    if remainder := A.storage.remainder:
        csr.add_product(remainder, A.storage.shape, x, product, transposed=A.transposed)
    return product


def _overlap(x: Array, out: Array) -> bool:
    return not isinstance(x, np.ndarray) or np.may_share_memory(x, out)


class _PackCache:
    """What each backend made of each matrix; an entry goes when its matrix does."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._packs: WeakKeyDictionary[TVWStorage, dict[str, Any]] = WeakKeyDictionary()
        self._busy: WeakKeyDictionary[TVWStorage, threading.Lock] = WeakKeyDictionary()

    def get(self, storage: TVWStorage, backend: Backend) -> Any:
        with self._lock:
            packs = self._packs.setdefault(storage, {})
            busy = self._busy.setdefault(storage, threading.Lock())
        with busy:  # two threads that meet pack a matrix once, and other matrices do not wait
            if backend.name not in packs:
                packs[backend.name] = backend.pack(storage)
            return packs[backend.name]


_PACKS: Final = _PackCache()


def packed_for(storage: TVWStorage, backend: Backend) -> Any:
    """Return what `backend` makes of a matrix: made once, kept as long as the matrix."""
    return _PACKS.get(storage, backend)
