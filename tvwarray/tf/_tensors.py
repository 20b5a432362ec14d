"""TensorFlow's tensors as NumPy and CuPy arrays, and back."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
import tensorflow as tf

from tvwarray._namespace import Array


def to_array(x: Any) -> Array:
    """Return an eager tensor or variable as a NumPy array, or a CuPy array if it is on a GPU.

    Parameters
    ----------
    x : tf.Tensor or tf.Variable

    Returns
    -------
    array
        Read-only, of the memory of `x`; bfloat16 is copied, which has no buffer protocol.

    Raises
    ------
    TypeError
        If `x` is symbolic or sparse.
    """
    if isinstance(x, tf.SparseTensor):
        raise TypeError(
            "the tensor is sparse; pass tf.sparse.to_dense(x), or make a matrix of it: "
            "tvwarray.TVWMatrix(x)."
        )
    x = tf.convert_to_tensor(x)
    if tf.is_symbolic_tensor(x):
        raise TypeError("the tensor is symbolic: its values are known when the graph runs.")
    if "GPU" in x.device:
        return import_module("cupy").from_dlpack(x)
    try:
        return np.asarray(memoryview(x))
    except (BufferError, TypeError, ValueError):
        return x.numpy()


def to_tensor(x: Array) -> Any:
    """Return a NumPy or CuPy array as a tensor on its device; NumPy arrays are copied."""
    if isinstance(x, np.ndarray):
        return tf.convert_to_tensor(x.astype(x.dtype.newbyteorder("="), copy=False))
    return tf.experimental.dlpack.from_dlpack(x.__dlpack__())
