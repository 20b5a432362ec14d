"""Products of a matrix and a Dask array: one task a chunk, or one a chunk and part.

    A (one piece)           x | x | x  chunks of columns    ->  y | y | y      a task each
    A = part 0, part 1      x | x                           ->  part products, put together

The columns of `x` must be whole where they are multiplied: chunks along the contracted axis are
joined first. Matrices go to the workers once; chunks of `x` are read, and chunks of the product
leave, as the scheduler has room for them.
"""

from __future__ import annotations

from typing import Any

import dask
import dask.array as da
import numpy as np

from tvwarray._activations import Activation, check_activation
from tvwarray._dtypes import product_dtype
from tvwarray._matrix import TVWMatrix
from tvwarray.dask import _workers


def matmul(
    A: TVWMatrix,
    x: da.Array,
    *,
    parts: int | None = None,
    out: Any = None,
    backend: str | None = None,
    precision: Any = "default",
    epilogue: Any = None,
) -> da.Array:
    """Return ``A @ x``, computed chunk by chunk where the chunks of `x` lie.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
        Sent to the workers once, if a client of dask.distributed is there.
    x : dask.array.Array, shape (cols,) or (cols, n)
        Of NumPy or CuPy chunks; those of CuPy are multiplied on the GPU. Chunked along n, so that
        a chunk of `x` and its product fit in memory.
    parts : int, optional
        Split A in this many parts of equal work, each multiplied by a task of its own. By default
        as many as it takes to occupy the workers where `x` has few chunks.
    out, backend, precision, epilogue
        Must be as by default: a task chooses where it runs.

    Returns
    -------
    dask.array.Array, shape (rows,) or (rows, n)
        Chunked along n as `x` is.

    Raises
    ------
    ValueError
        If the shapes do not fit, `x` has unknown chunks, or an option is given.
    """
    _refuse(out=out, backend=backend, epilogue=epilogue)
    if precision != "default":
        raise ValueError(f"precision is {precision!r}; with Dask it is the default one.")
    if x.ndim not in (1, 2) or x.shape[0] != A.shape[1]:
        raise ValueError(f"A is {A.shape} and X {x.shape}; X must have {A.shape[1]} rows.")
    _check_chunks(x)
    x = x.rechunk({0: -1})
    dtype = product_dtype(A.dtype, np.dtype(x.dtype))
    columns = x.to_delayed().ravel()
    widths = x.chunks[1] if x.ndim == 2 else (None,)
    k = _parts(A, len(columns)) if parts is None else parts
    run = _whole(A) if k == 1 or A.transposed else _split(A, k, dtype)
    meta = x._meta.astype(dtype)
    pieces = [
        da.from_delayed(
            run(block),
            shape=(A.shape[0],) if n is None else (A.shape[0], n),
            dtype=dtype,
            meta=meta,
        )
        for block, n in zip(columns, widths, strict=True)
    ]
    return pieces[0] if x.ndim == 1 else da.concatenate(pieces, axis=1)


def linear(
    x: da.Array,
    A: TVWMatrix,
    bias: Any = None,
    activation: Activation | None = None,
    *,
    residual: Any = None,
    out: Any = None,
    backend: str | None = None,
    precision: Any = "default",
) -> da.Array:
    """Return ``activation(x @ A.T + bias) + residual``, chunk by chunk.

    Parameters
    ----------
    x : dask.array.Array, shape (cols,) or (m, cols)
        Chunked along m.
    A : TVWMatrix, shape (rows, cols)
    bias : array, shape (rows,), optional
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or callable, optional
    residual : array, shape (..., rows), optional
    out, backend, precision
        As for `matmul`.

    Returns
    -------
    dask.array.Array, shape (rows,) or (m, rows)

    Raises
    ------
    ValueError
        As `matmul`.
    """
    _refuse(out=out, backend=backend)
    if precision != "default":
        raise ValueError(f"precision is {precision!r}; with Dask it is the default one.")
    if activation is not None:
        check_activation(activation)
    if x.ndim not in (1, 2) or x.shape[-1] != A.shape[1]:
        raise ValueError(
            f"x has shape {x.shape}; it must be (m, {A.shape[1]}), with the columns of A: reshape "
            "what has more axes."
        )
    _check_chunks(x)
    x = x.rechunk({x.ndim - 1: -1})
    dtype = product_dtype(A.dtype, np.dtype(x.dtype))
    held, run = _workers.placed(A, copies=True), dask.delayed(_workers.layer)
    heights = x.chunks[0] if x.ndim == 2 else (None,)
    pieces = [
        da.from_delayed(
            run(held, block, bias, activation),
            shape=(A.shape[0],) if m is None else (m, A.shape[0]),
            dtype=dtype,
            meta=x._meta.astype(dtype),
        )
        for block, m in zip(x.to_delayed().ravel(), heights, strict=True)
    ]
    y = pieces[0] if x.ndim == 1 else da.concatenate(pieces, axis=0)
    return y if residual is None else y + residual


def _whole(A: TVWMatrix) -> Any:
    held, multiply = _workers.placed(A, copies=True), dask.delayed(_workers.multiply)
    return lambda block: multiply(held, block)


def _split(A: TVWMatrix, k: int, dtype: Any) -> Any:
    """Return what multiplies a block by each part and puts the products together."""
    parts = list(A.partition(k))
    held = [_workers.placed(part.matrix, copies=2) for part in parts]
    rows = dask.delayed([(part.rows, None) for part in parts], pure=False)
    multiply, together = dask.delayed(_workers.multiply), dask.delayed(_workers.joined)
    if not parts:
        return lambda block: dask.delayed(_workers.zeros)(A.shape[0], block, dtype)
    return lambda block: together(A.shape, A.dtype, rows, [multiply(h, block) for h in held])


def _parts(A: TVWMatrix, chunks: int) -> int:
    """Return into how many parts A is split: enough to occupy the workers, each worth a task."""
    here = _workers.client()
    if here is None:
        return 1
    slots = sum(w["nthreads"] for w in here.scheduler_info()["workers"].values())
    worth = max(1, A.nbytes // (1 << 20))
    return max(1, min(slots // max(1, chunks), worth))


def _check_chunks(x: da.Array) -> None:
    if any(np.isnan(n) for axis in x.chunks for n in axis):
        raise ValueError("x has chunks of unknown size; call x.compute_chunk_sizes() first.")


def _refuse(**options: Any) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given:
        raise ValueError(f"{', '.join(given)} cannot be given with a Dask array.")
