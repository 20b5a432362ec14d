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
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final

import numpy as np

from tvwarray._activations import Activation
from tvwarray._backends import array, cpu, csr, cuda, dense
from tvwarray._backends.protocol import Backend
from tvwarray._batches import multiply_batch
from tvwarray._dtypes import Precision, accumulate_dtype, product_dtype
from tvwarray._epilogue import IDENTITY, Epilogue, checked, finish
from tvwarray._errors import BackendError
from tvwarray._frameworks import handler_of, native
from tvwarray._kernels.cpu.threads import engine
from tvwarray._namespace import Array, array_namespace, dtype_of, is_array
from tvwarray._operands import (
    Operand,
    check_out,
    check_precision,
    check_workspace,
    operand,
    refuse_workspace,
    rows_of,
    widened,
)
from tvwarray._prepared import PackCache, Prepared, PreparedProducts, is_cupy, signature
from tvwarray._storage import TVWStorage

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


def select_backend(
    A: Operand, X: Array, *, backend: str | None = None, precision: Precision = "default"
) -> Selection:
    """Choose the backend that would run ``A @ X``.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
    X : array, shape (cols,) or (cols, n)
    backend : {"cuda", "cpu", "array", "dense"}, optional
        Ask this one alone.
    precision : {"default", "highest", "high", "tf32"}
        See `matmul`.

    Returns
    -------
    Selection
        Prints as one line for each backend asked.

    Raises
    ------
    ValueError
        If `backend` names none.

    Examples
    --------
    >>> import numpy as np, tvwarray
    >>> A = tvwarray.sparsify(np.random.default_rng(0).standard_normal((256, 512)), 0.75)
    >>> chosen = tvwarray.select_backend(A, np.ones((512, 8)))
    >>> chosen.backend.name in ("cpu", "array")
    True
    >>> print(str(chosen).splitlines()[0])
    cuda: needs CuPy arrays on a CUDA device, got numpy arrays
    """
    x = operand(A, native(X))
    check_precision(precision)
    return _select(A, x, backend, precision)


def matmul(
    A: Operand,
    X: Array,
    *,
    out: Array | None = None,
    backend: str | None = None,
    precision: Precision = "default",
    epilogue: Epilogue | None = None,
    workspace: Array | None = None,
) -> Array:
    """Return the product ``A @ X``.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
    X : array, shape (cols,) or (..., cols, n)
        Of the library and on the device of `A`, in any memory order; lists become NumPy arrays.
        Tensors of PyTorch, JAX, TensorFlow and Dask on that device give tensors of their kind,
        with gradients; see ``docs/interop.md``.
    out : array, shape (rows,) or (..., rows, n), optional
        Where to write the product; of the product's dtype, or the epilogue's.
    backend : {"cuda", "cpu", "array", "dense"}, optional
        By default the first that does not refuse; see `select_backend`.
    precision : {"default", "highest", "high", "tf32"}
        How precise a float32 product must be at least. Tensor cores have no float32: "default"
        and "highest" are float32 accuracy (by three bfloat16 parts), "high" 16 bits of each
        factor (two parts), "tf32" 11 bits. Only backend "cuda" makes use of the freedom. Of
        float8, Hopper's tensor cores keep sums with 14 bits ("default"); "high" and "highest" add
        them up in float32 every 128 slots, which takes up to 1.5 times as long.
    epilogue : Epilogue, optional
        What to do with the product before it is stored: scale, add, activate, cast.
    workspace : uint8 array, shape (bytes,), optional
        On a GPU, what the product writes to beside `out`: at least ``plan(A, n).workspace_bytes``
        that begin at a multiple of 256. A product that has one, and `out`, allocates nothing once
        the matrix was multiplied before, and shares nothing that it writes to with a product that
        runs at the same time. Its contents mean nothing before and after. Hosts take none.

    Returns
    -------
    array, shape (rows,) or (..., rows, n)
        16-bit floats give the same type, summed in float32; 8-bit integers give int32, 8-bit
        floats float32; mixed types promote as in NumPy. A Fortran-ordered `X` gives a
        Fortran-ordered product.

    Raises
    ------
    ValueError
        If the shapes or dtypes do not fit, or `workspace` is too small.
    BackendError
        If no backend runs this product; the message lists each one's reason. If `workspace` is
        given and the product would allocate all the same.

    Notes
    -----
    Where `X` holds NaN or infinity, a row of the product is NaN wherever the stored nonzeros alone
    make it so, and may be NaN only where the dense product is: a backend may or may not multiply
    the zeros inside a tile. Columns that a tile does not keep are never read for it.

    Examples
    --------
    >>> import numpy as np, tvwarray
    >>> W = np.random.default_rng(0).standard_normal((256, 512), dtype=np.float32)
    >>> A = tvwarray.sparsify(W, 0.75)
    >>> X = np.ones((512, 8), np.float32)
    >>> np.allclose(tvwarray.matmul(A, X), A.toarray() @ X, atol=1e-3)
    True
    >>> scaled = tvwarray.matmul(A, X, epilogue=tvwarray.Epilogue(alpha=0.5, activation="relu"))
    >>> np.allclose(scaled, np.maximum(0.5 * (A.toarray() @ X), 0), atol=1e-3)
    True
    """
    key = None
    if epilogue is None and workspace is None and precision == "default":
        key = _key(A, X, out, backend)
        if key and (prepared := _PREPARED.get(A.storage, key)):
            return prepared(X, out, A.transposed)
    if framework := handler_of(X, A.storage.data):
        refuse_workspace(workspace, X)
        options: dict[str, Any] = {"backend": backend, "precision": precision}
        return framework.matmul(A, X, out=out, epilogue=epilogue, **options)
    x = operand(A, X)
    check_precision(precision)
    flat = x.ndim == 1
    wide = x[:, None] if flat else x
    shape = (*wide.shape[:-2], A.shape[0], wide.shape[-1])
    steps = IDENTITY if epilogue is None else epilogue
    steps = checked(widened(steps) if flat and steps is not IDENTITY else steps, shape, x)
    if out is not None:
        dtype = steps.result_dtype(product_dtype(A.storage.dtype, dtype_of(x)))
        check_out(out, shape[:1] if flat else shape, dtype, x)
    if workspace is not None:
        check_workspace(workspace, x)
    target = out[:, None] if flat and out is not None else out
    run = _multiply if x.ndim <= 2 else _multiply_batch
    result = run(A, wide, target, backend, precision, steps, workspace)
    if key and x is X:
        _prepare(A, wide, key, backend)
    if out is not None:
        return out
    return result[:, 0] if flat else result


def linear(
    x: Array,
    A: Operand,
    bias: Array | None = None,
    activation: Activation | None = None,
    *,
    residual: Array | None = None,
    out: Array | None = None,
    backend: str | None = None,
    precision: Precision = "default",
    workspace: Array | None = None,
) -> Array:
    """Return ``activation(x @ A.T + bias) + residual``: a linear layer whose weight is `A`.

    Parameters
    ----------
    x : array, shape (..., cols)
        Activations, one row a sample, as frameworks hold them.
    A : TVWMatrix, shape (rows, cols)
        The weight as ``Linear.weight`` stores it: (out_features, in_features).
    bias : array, shape (rows,), optional
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or callable, optional
        "gelu" is the exact one, by erf; "gelu_tanh" its usual approximation.
    residual : array, shape (..., rows), optional
    out : array, shape (..., rows), optional
    backend : {"cuda", "cpu", "array", "dense"}, optional
    precision : {"default", "highest", "high", "tf32"}
        Of float32 products; see `matmul`.
    workspace : uint8 array, shape (bytes,), optional
        As for `matmul`: at least ``plan(A, samples, order="F").workspace_bytes``.

    Returns
    -------
    array, shape (..., rows)
        Bias, activation and residual are applied in the accumulation type (float32 for 16-bit
        types), before one rounding.

    Raises
    ------
    ValueError
        If the shapes or dtypes do not fit, or `activation` is no known name.
    BackendError
        If no backend runs this product.

    Examples
    --------
    >>> import numpy as np, tvwarray
    >>> W = np.random.default_rng(0).standard_normal((256, 512), dtype=np.float32)
    >>> A, bias = tvwarray.sparsify(W, 0.75), np.ones(256, np.float32)
    >>> x = np.ones((4, 512), np.float32)
    >>> y = tvwarray.linear(x, A, bias, "relu")
    >>> np.allclose(y, np.maximum(x @ A.toarray().T + bias, 0), atol=1e-3)
    True
    """
    given = any(part is not None for part in (bias, activation, residual, out, workspace))
    known = type(x) is np.ndarray or is_cupy(type(x))
    if not given and known and x.ndim == 2 and x.shape[1] == A.shape[1]:
        return matmul(A, x.T, backend=backend, precision=precision).T  # which may be prepared
    if framework := handler_of(x, A.storage.data):
        refuse_workspace(workspace, x)
        options: dict[str, Any] = {"backend": backend, "precision": precision}
        return framework.linear(x, A, bias, activation, residual=residual, out=out, **options)
    x = x if is_array(x) else np.asarray(x)
    if x.ndim == 0 or x.shape[-1] != A.shape[1]:
        raise ValueError(
            f"x has shape {x.shape}; its last axis must be {A.shape[1]}, the columns of A."
        )
    xp = array_namespace(x)
    shape = (*x.shape[:-1], A.shape[0])
    samples = math.prod(x.shape[:-1])
    if residual is not None:
        residual = residual if is_array(residual) else np.asarray(residual)
        if tuple(residual.shape) != shape:
            raise ValueError(f"residual has shape {tuple(residual.shape)}; it must be {shape}.")
        residual = xp.reshape(residual, (samples, A.shape[0])).T
    plain = bias is None and activation is None and residual is None
    steps = IDENTITY if plain else Epilogue(bias=bias, activation=activation, residual=residual)
    flat = (x if x.ndim == 2 else xp.reshape(x, (samples, x.shape[-1]))).T
    if out is not None:
        dtype = steps.result_dtype(product_dtype(A.storage.dtype, dtype_of(operand(A, flat))))
        check_out(out, shape, dtype, x)
    target = None if out is None else rows_of(out, samples)
    options = {"backend": backend, "precision": precision, "workspace": workspace}
    result = matmul(A, flat, out=target, epilogue=steps, **options).T
    if out is None:
        return xp.reshape(result, shape)
    if target is None:
        out[...] = xp.reshape(result, shape)
    return out


def _key(A: Operand, X: Array, out: Array | None, name: str | None) -> Hashable | None:
    """Return what the checks and the choice for a plain product depend on, beside `A.storage`."""
    operands = signature(X, out)
    if operands is None:
        return None
    return operands, A.transposed, name, tuple(BACKENDS), engine() is None


def _prepare(A: Operand, x: Array, key: Hashable, name: str | None) -> None:
    """Let products like the one that just ran go straight to their backend."""
    backend = _select(A, x, name).backend
    if backend is not None and (backend.takes_remainder or not A.storage.remainder):
        _PREPARED.keep(A.storage, key, Prepared(backend, packed_for(A.storage, backend)))


def _named(name: str) -> Backend:
    named = {b.name: b for b in (*BACKENDS, dense.BACKEND)}
    if name not in named:
        raise ValueError(f"backend is {name!r}; it is one of {', '.join(named)}.")
    return named[name]


def _select(A: Operand, x: Array, name: str | None, precision: Precision = "default") -> Selection:
    candidates = BACKENDS if name is None else [_named(name)]
    wide = x[:, None] if x.ndim == 1 else x
    refusals: list[tuple[str, str]] = []
    for backend in candidates:
        reason = backend.refusal(A.storage, wide, transposed=A.transposed, precision=precision)
        if not reason:
            slow = "" if name else dense.pays(A.storage, wide, backend.name)
            if slow:
                return Selection(dense.BACKEND, (*refusals, (backend.name, slow)))
            return Selection(backend, tuple(refusals))
        refusals.append((backend.name, reason))
    return Selection(None, tuple(refusals))


def _multiply(
    A: Operand,
    x: Array,
    out: Array | None,
    name: str | None,
    precision: Precision,
    epilogue: Epilogue,
    workspace: Array | None = None,
) -> Array:
    selection = _select(A, x, name, precision)
    backend = selection.backend
    if backend is None:
        reasons = "\n".join(f"  {n}: {reason}" for n, reason in selection.refusals)
        raise BackendError(
            f"no backend runs {A.shape} {A.storage.dtype} @ {tuple(x.shape)} {dtype_of(x)}.\n"
            f"{reasons}\n"
            "Bring A and X to one library and device (A.to_device(...)), or drop backend=."
        )
    packed = packed_for(A.storage, backend)
    if workspace is not None and isinstance(backend, cuda.CudaBackend) and not A.storage.remainder:
        return backend.matmul(
            packed, x, out, transposed=A.transposed, epilogue=epilogue, precision=precision,
            workspace=workspace,
        )  # fmt: skip
    if workspace is not None and not isinstance(x, np.ndarray):
        why = (
            "its remainder is added by cuSPARSE"
            if A.storage.remainder
            else "backend " + backend.name
        )
        raise BackendError(
            f"workspace= is given, and this product allocates memory of the array library: {why}.\n"
            "Drop workspace=; plan(A, n) says what would run."
        )
    run = partial(backend.matmul, packed, transposed=A.transposed, precision=precision)
    remainder = A.storage.remainder
    if not remainder or backend.takes_remainder:
        return run(x, out, epilogue=epilogue)
    csr.check_not_captured(x)
    # Both parts of the product are added up before anything else is done to it, in the type that
    # products are summed in.
    dtype = product_dtype(A.storage.dtype, dtype_of(x))
    product = run(x, epilogue=Epilogue(out_dtype=accumulate_dtype(dtype)))
    summed = csr.summed_dtype(A.storage, x)
    beside = _PACKS.get(A.storage, f"csr {summed}", lambda storage: csr.pack(storage, summed))
    csr.add_product(beside, x, product, transposed=A.transposed)
    return finish(epilogue, product, dtype, out)


def _multiply_batch(
    A: Operand,
    x: Array,
    out: Array | None,
    name: str | None,
    precision: Precision,
    epilogue: Epilogue,
    workspace: Array | None = None,
) -> Array:
    """Multiply (..., cols, n): the kernels of a GPU as it is, others by `multiply_batch`."""
    xp, n = array_namespace(x), x.shape[-1]
    lead = x.shape[:-2]
    count = math.prod(lead)
    selection = _select(A, x, name, precision)
    if isinstance(selection.backend, cuda.CudaBackend) and not A.storage.remainder:

        def joined(part: Array | None) -> Array | None:
            return None if part is None else xp.reshape(part, (count, *part.shape[-2:]))

        steps = replace(epilogue, c=joined(epilogue.c), residual=joined(epilogue.residual))
        packed = packed_for(A.storage, selection.backend)
        # What is written to in place must not be a copy.
        target = out if len(lead) == 1 else None
        product = selection.backend.matmul(
            packed, joined(x), target, epilogue=steps, precision=precision,
            transposed=A.transposed, workspace=workspace,
        )  # fmt: skip
        product = xp.reshape(product, (*lead, A.shape[0], n))
        if out is None or target is not None:
            return product
        out[...] = product
        return out

    def multiply(one: Array, into: Array | None, steps: Epilogue) -> Array:
        return _multiply(A, one, into, name, precision, steps, workspace)

    dtype = epilogue.result_dtype(product_dtype(A.storage.dtype, dtype_of(x)))
    return multiply_batch(multiply, A.shape[0], x, out, epilogue, dtype)


_PACKS: Final = PackCache()
_PREPARED: Final = PreparedProducts()


def packed_for(storage: TVWStorage, backend: Backend) -> Any:
    """Return what `backend` makes of a matrix: made once, kept as long as the matrix."""
    return _PACKS.get(storage, backend.name, backend.pack)
