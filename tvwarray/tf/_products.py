"""Products that TensorFlow differentiates, eagerly and in graphs.

Eager tensors are multiplied at once, symbolic ones by `tf.numpy_function` when the graph runs.
With ``Y = x @ A.T``, both gradients are products of the same kind::

    dx      = dY @ conj(A)            a product with the transpose
    dvalues = dY.T @ conj(x)          at the stored slots alone (`tvwarray._sampled`)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from tvwarray import _matmul
from tvwarray._dtypes import product_dtype
from tvwarray._frozen import FrozenPattern
from tvwarray._namespace import Array
from tvwarray._operands import Stored
from tvwarray._storage import TVWStorage
from tvwarray.tf._tensors import to_array, to_tensor


@dataclass(frozen=True)
class Call:
    """What a product needs beside tensors."""

    fixed: TVWStorage | None
    """The matrix, where it has values of its own."""
    pattern: FrozenPattern | None
    """The pattern that values fill, where they are a tensor."""
    transposed: bool
    options: dict[str, Any]

    @property
    def frame(self) -> TVWStorage:
        """The matrix, whatever its values are."""
        held = self.fixed if self.pattern is None else self.pattern.frame
        assert held is not None
        return held

    @property
    def flipped(self) -> Call:
        """The same with the transpose."""
        return replace(self, transposed=not self.transposed)

    def multiply(self, x: Array, values: Array | None = None) -> Array:
        """Return ``x @ A.T`` of NumPy or CuPy arrays, x of shape (m, cols)."""
        storage = self.frame if self.pattern is None else self.pattern.fill(values)
        return _matmul.linear(x, Stored(storage, self.transposed), **self.options)


def product(call: Call, x: Any, values: Any = None) -> Any:
    """Return ``x @ A.T`` for x of shape (m, cols)."""
    tensors = (x,) if values is None else (x, values)

    @tf.custom_gradient
    def run(*tensors: Any) -> tuple[Any, Any]:
        x, *rest = tensors
        held = np.dtype(rest[0].dtype.as_numpy_dtype) if rest else call.frame.dtype
        dtype = product_dtype(held, np.dtype(x.dtype.as_numpy_dtype))
        y = _evaluate(call.multiply, tensors, dtype, call)
        y.set_shape((x.shape[0], Stored(call.frame, call.transposed).shape[0]))

        def gradient(dy: Any) -> Any:
            dx = _conj(product(call.flipped, _conj(dy), *rest))
            if not rest:
                return tf.cast(dx, x.dtype)
            pair = (_conj(x), dy) if call.transposed else (dy, _conj(x))
            return tf.cast(dx, x.dtype), tf.cast(sampled(call, *pair), rest[0].dtype)

        return y, gradient

    return run(*tensors)


def sampled(call: Call, left: Any, right: Any) -> Any:
    """Return ``left.T @ right``, (m, rows) and (m, cols), at the places of the values."""
    pattern = call.pattern
    assert pattern is not None

    def sample(left: Array, right: Array) -> Array:
        return pattern.gradient(left.T, right.T)

    @tf.custom_gradient
    def run(left: Any, right: Any) -> tuple[Any, Any]:
        dtype = np.dtype(left.dtype.as_numpy_dtype)
        wide = np.dtype(np.float32) if dtype.itemsize == 2 else dtype
        values = _evaluate(sample, (left, right), wide, call)
        values.set_shape((pattern.size,))

        def gradient(dv: Any) -> Any:
            plain = replace(call, transposed=False)
            dleft = product(plain, _conj(right), dv)
            dright = product(plain.flipped, _conj(left), dv)
            return tf.cast(dleft, left.dtype), tf.cast(dright, right.dtype)

        return values, gradient

    return run(left, right)


def _evaluate(function: Any, tensors: tuple[Any, ...], dtype: np.dtype[Any], call: Call) -> Any:
    """Return what a function of arrays makes of tensors, now or when the graph runs."""
    if not any(tf.is_symbolic_tensor(x) for x in tensors):
        return to_tensor(function(*map(to_array, tensors)))
    if not isinstance(call.frame.row_indptr, np.ndarray):
        raise TypeError(
            "A lies on a GPU and x is symbolic; graphs multiply on the host: pass "
            'A.to_device("cpu"), or call it eagerly.'
        )

    def on_host(*arrays: Array) -> np.ndarray[Any, Any]:
        return np.ascontiguousarray(function(*arrays))

    return tf.numpy_function(on_host, tensors, tf.as_dtype(dtype), stateful=False)


def _conj(x: Any) -> Any:
    return tf.math.conj(x) if x.dtype.is_complex else x
