"""Matrices to JAX and back: BCSR, BCOO."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax.experimental import sparse

from tvwarray._matrix import TVWMatrix
from tvwarray.jax._arrays import to_array, to_jax_array


def to_jax(A: TVWMatrix) -> sparse.BCSR:
    """Return a matrix as a BCSR array on JAX's default device, in A's dtype.

    Raises
    ------
    TypeError
        If JAX would narrow A's 64-bit type.
    """
    csr = A.tocsr()
    values = to_jax_array(csr.data.astype(A.dtype))  # exact: scipy holds 16-bit values as float32
    index = (to_jax_array(x.astype(np.int32)) for x in (csr.indices, csr.indptr))
    return sparse.BCSR((values, *index), shape=A.shape)


def from_jax(x: Any, **options: Any) -> TVWMatrix:
    """Make a matrix of a JAX array, BCSR or BCOO.

    Parameters
    ----------
    x : jax.Array, BCSR or BCOO, shape (rows, cols)
    **options
        Of `TVWMatrix`: dtype, tile_rows, vector.
    """
    return TVWMatrix(x, **options)


def to_coo(x: Any) -> tuple[Any, tuple[Any, Any], tuple[int, int]] | None:
    """Return values, (rows, columns) and shape of a sparse array, or None if it is dense.

    Raises
    ------
    TypeError
        If it has batch or dense axes, or more than two.
    """
    if not isinstance(x, sparse.BCSR | sparse.BCOO):
        return None
    if x.n_batch or x.n_dense or x.ndim != 2:
        raise TypeError(
            f"the sparse array has {x.n_batch} batch and {x.n_dense} dense axes of {x.ndim}; a "
            "matrix has 2 sparse axes."
        )
    coo = x.to_bcoo() if isinstance(x, sparse.BCSR) else x
    rows, cols = to_array(coo.indices).T
    inside = (rows < x.shape[0]) & (cols < x.shape[1])  # others are padding, by BCOO's rule
    values = to_array(coo.data)
    return values[inside], (rows[inside], cols[inside]), (int(x.shape[0]), int(x.shape[1]))
