"""Matrices to TensorFlow and back: `tf.SparseTensor`."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from tvwarray._matrix import TVWMatrix
from tvwarray.tf._tensors import to_array, to_tensor


def to_tf(A: TVWMatrix) -> Any:
    """Return a matrix as a `tf.SparseTensor` in A's dtype, its indices in row order."""
    coo = A.tocsr().tocoo()
    indices = np.stack(coo.coords, axis=1).astype(np.int64)
    values = coo.data.astype(A.dtype)  # exact: scipy holds 16-bit values as float32
    return tf.SparseTensor(to_tensor(indices), to_tensor(values), A.shape)


def from_tf(x: Any, **options: Any) -> TVWMatrix:
    """Make a matrix of a dense or sparse tensor.

    Parameters
    ----------
    x : tf.Tensor or tf.SparseTensor, shape (rows, cols)
    **options
        Of `TVWMatrix`: dtype, tile_rows, vector.
    """
    return TVWMatrix(x, **options)


def to_coo(x: Any) -> tuple[Any, tuple[Any, Any], tuple[int, int]] | None:
    """Return values, (rows, columns) and shape of a sparse tensor, or None if it is dense.

    Raises
    ------
    TypeError
        If it has more than two axes.
    """
    if not isinstance(x, tf.SparseTensor):
        return None
    shape = tuple(int(n) for n in to_array(x.dense_shape))
    if len(shape) != 2:
        raise TypeError(f"the sparse tensor has shape {shape}; a matrix has 2 axes.")
    rows, cols = to_array(x.indices).T
    return to_array(x.values), (rows, cols), (shape[0], shape[1])
