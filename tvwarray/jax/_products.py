"""Products that JAX traces, batches and differentiates.

Concrete arrays are multiplied at once. Traced ones go through `jax.pure_callback` to the host, in
a function with gradients of its own::

    y  = x @ A.T                      _product(call, values, x)
    dx = dy @ A                       the same, with the transpose
    dvalues = dy.T @ x                at the stored slots alone (`tvwarray._sampled`)

JAX writes gradients without conjugation: they are products with A, not with its conjugate.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from tvwarray import _matmul
from tvwarray._dtypes import DType, product_dtype
from tvwarray._frozen import FrozenPattern
from tvwarray._namespace import Array
from tvwarray._operands import Stored
from tvwarray._storage import TVWStorage
from tvwarray.jax._arrays import check_type, to_array, to_jax_array


@dataclass(frozen=True)
class Call:
    """What a product needs beside arrays; it is hashed by identity of the matrix."""

    fixed: TVWStorage | None
    """The matrix, where its values are not traced."""
    pattern: FrozenPattern | None
    """The pattern that values fill, where they are."""
    transposed: bool
    backend: str | None
    precision: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the operand."""
        frame = self.fixed if self.pattern is None else self.pattern.frame
        assert frame is not None
        return Stored(frame, self.transposed).shape

    def multiply(self, values: Array | None, x: Array) -> Array:
        """Return ``x @ A.T`` of NumPy or CuPy arrays, x of shape (m, cols)."""
        storage = self.fixed
        if values is not None:
            assert self.pattern is not None
            storage = self.pattern.fill(values)
        assert storage is not None
        A = Stored(storage, self.transposed)
        return _matmul.linear(x, A, backend=self.backend, precision=self.precision)

    def dtype(self, values: Any, x: Any) -> DType:
        """Return the dtype of the product."""
        held = values.dtype if values is not None else self.fixed.dtype  # type: ignore[union-attr]
        return product_dtype(np.dtype(held), np.dtype(x.dtype))


def product(call: Call, values: Any, x: Any) -> Any:
    """Return ``x @ A.T`` for x of shape (m, cols), traced or not."""
    check_type(call.dtype(values, x))
    if any(isinstance(v, jax.core.Tracer) for v in (values, x)):
        _check_host(call)
        return _product(call, values, x)
    plain = None if values is None else to_array(values)
    return to_jax_array(call.multiply(plain, to_array(x)))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _product(call: Call, values: Any, x: Any) -> Any:
    shape = jax.ShapeDtypeStruct((x.shape[0], call.shape[0]), call.dtype(values, x))
    run = partial(_host_product, call)
    return jax.pure_callback(run, shape, values, x, vmap_method="expand_dims")


def _product_forward(call: Call, values: Any, x: Any) -> tuple[Any, tuple[Any, Any]]:
    return _product(call, values, x), (values, x)


def _product_backward(call: Call, kept: tuple[Any, Any], dy: Any) -> tuple[Any, Any]:
    values, x = kept
    dx = _product(replace(call, transposed=not call.transposed), values, dy).astype(x.dtype)
    if values is None:
        return None, dx
    pair = (x, dy) if call.transposed else (dy, x)
    return _sampled(call, *pair).astype(values.dtype), dx


_product.defvjp(_product_forward, _product_backward)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _sampled(call: Call, left: Any, right: Any) -> Any:
    """Return ``left.T @ right``, (m, rows) and (m, cols), at the places of the values."""
    assert call.pattern is not None
    dtype = np.result_type(left.dtype, right.dtype)
    shape = jax.ShapeDtypeStruct((call.pattern.size,), dtype)
    run = partial(_host_sampled, call.pattern, dtype)
    return jax.pure_callback(run, shape, left, right, vmap_method="expand_dims")


def _sampled_forward(call: Call, left: Any, right: Any) -> tuple[Any, tuple[Any, Any]]:
    return _sampled(call, left, right), (left, right)


def _sampled_backward(call: Call, kept: tuple[Any, Any], dv: Any) -> tuple[Any, Any]:
    left, right = kept
    plain, flipped = replace(call, transposed=False), replace(call, transposed=True)
    dleft = _product(plain, dv, right).astype(left.dtype)
    return dleft, _product(flipped, dv, left).astype(right.dtype)


_sampled.defvjp(_sampled_forward, _sampled_backward)


def _host_product(call: Call, values: Any, x: Any) -> np.ndarray[Any, Any]:
    """Multiply on the host; leading axes are those of `vmap`, of length 1 where not batched."""
    x, rows = np.asarray(x), call.shape[0]
    if values is None or math.prod(np.shape(values)[:-1]) == 1:
        plain = None if values is None else np.asarray(values).reshape(-1)
        flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
        return np.asarray(call.multiply(plain, flat)).reshape(*x.shape[:-1], rows)
    return _each(partial(call.multiply), (np.asarray(values), 1), (x, 2), (x.shape[-2], rows))


def _host_sampled(
    pattern: FrozenPattern, dtype: Any, left: Any, right: Any
) -> np.ndarray[Any, Any]:
    left, right = np.asarray(left), np.asarray(right)

    def sample(a: Array, b: Array) -> Array:
        return pattern.gradient(a.T, b.T).astype(dtype)

    return _each(sample, (left, 2), (right, 2), (pattern.size,))


def _each(
    run: Any, first: tuple[Any, int], second: tuple[Any, int], core: tuple[int, ...]
) -> np.ndarray[Any, Any]:
    """Run a function of two arrays over the leading axes of both, which are broadcast.

    Each array comes with the number of its own axes, which stand last.
    """
    (a, a_axes), (b, b_axes) = first, second
    lead = np.broadcast_shapes(a.shape[: a.ndim - a_axes], b.shape[: b.ndim - b_axes])
    a = np.broadcast_to(a, (*lead, *a.shape[a.ndim - a_axes :])).reshape(
        -1, *a.shape[a.ndim - a_axes :]
    )
    b = np.broadcast_to(b, (*lead, *b.shape[b.ndim - b_axes :])).reshape(
        -1, *b.shape[b.ndim - b_axes :]
    )
    results = [np.asarray(run(x, y)) for x, y in zip(a, b, strict=True)]
    return np.stack(results).reshape(*lead, *core)


def _check_host(call: Call) -> None:
    """Refuse a traced product of a matrix on a GPU: it would go through the host each time."""
    held = call.fixed if call.pattern is None else call.pattern.frame
    assert held is not None
    if not isinstance(held.row_indptr, np.ndarray):
        raise TypeError(
            "A lies on a GPU and x is traced; traced products run on the host: pass "
            'A.to_device("cpu"), or multiply outside of jit, vmap and grad.'
        )
