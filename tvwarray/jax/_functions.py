"""`matmul` and `linear` for JAX arrays, and the matrix as a pytree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import jax
import numpy as np
from jax import numpy as jnp

from tvwarray import _matmul
from tvwarray._activations import Activation, check_activation
from tvwarray._epilogue import Epilogue
from tvwarray._frameworks import native
from tvwarray._frozen import FrozenPattern, frozen_pattern
from tvwarray._matrix import TVWMatrix
from tvwarray._operands import Operand
from tvwarray.jax._arrays import to_array, to_jax_array
from tvwarray.jax._products import Call, product

_ACTIVATIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "relu": jax.nn.relu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
}


def matmul(
    A: Operand,
    x: Any,
    *,
    values: Any = None,
    out: Any = None,
    backend: str | None = None,
    precision: Any = "default",
    epilogue: Epilogue | None = None,
) -> Any:
    """Return ``A @ x`` as a JAX array, under `jit`, `vmap` and `grad` too.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
        On the device of `x`; on the host where `x` is traced. Its values may be JAX arrays, as
        where the matrix is an argument of a transformed function.
    x : jax.Array, shape (cols,) or (..., cols, n)
    values : jax.Array, shape (stored,), optional
        Values to take instead of A's, in the order of the storage: those that are trained.
    out
        Must be None: JAX's arrays are never written to.
    backend, precision
        As for `tvwarray.matmul`.
    epilogue : Epilogue, optional
        For concrete arrays, and without gradient.

    Returns
    -------
    jax.Array, shape (rows,) or (..., rows, n)

    Raises
    ------
    ValueError
        If shapes do not fit, or `out` is given.
    TypeError
        If JAX would narrow the product's 64-bit type, or A lies on a GPU and `x` is traced.
    BackendError
        If no backend runs this product.
    """
    _refuse_out(out)
    if epilogue is not None:
        return _with_epilogue(A, x, values, epilogue, {"backend": backend, "precision": precision})
    x = _as_jax(x)
    if x.ndim == 0 or x.shape[-2 if x.ndim > 1 else 0] != A.shape[1]:
        raise ValueError(f"A is {A.shape} and X {x.shape}; X must have {A.shape[1]} rows.")
    if x.ndim == 1:
        return _linear(A, values, x, backend, precision)
    return _linear(A, values, x.mT, backend, precision).mT


def linear(
    x: Any,
    A: Operand,
    bias: Any = None,
    activation: Activation | None = None,
    *,
    residual: Any = None,
    values: Any = None,
    out: Any = None,
    backend: str | None = None,
    precision: Any = "default",
) -> Any:
    """Return ``activation(x @ A.T + bias) + residual``, under `jit`, `vmap` and `grad` too.

    Parameters
    ----------
    x : jax.Array, shape (..., cols)
    A : TVWMatrix, shape (rows, cols)
    bias : jax.Array, shape (rows,), optional
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or callable, optional
        Applied, as the bias, to the product as it is rounded to its type.
    residual : jax.Array, shape (..., rows), optional
    values, out, backend, precision
        As for `matmul`.

    Returns
    -------
    jax.Array, shape (..., rows)

    Raises
    ------
    ValueError, TypeError, BackendError
        As `matmul`.
    """
    _refuse_out(out)
    x = _as_jax(x)
    if x.ndim == 0 or x.shape[-1] != A.shape[1]:
        raise ValueError(
            f"x has shape {x.shape}; its last axis must be {A.shape[1]}, the columns of A."
        )
    if activation is not None:
        check_activation(activation)
    y = _linear(A, values, x, backend, precision)
    if bias is not None:
        bias = _as_jax(bias)
        if bias.shape != (A.shape[0],):
            raise ValueError(f"bias has shape {bias.shape}; it must be {(A.shape[0],)}.")
        y = (y + bias).astype(y.dtype)
    if activation is not None:
        y = (activation if callable(activation) else _ACTIVATIONS[activation])(y)
    return y if residual is None else y + residual


def _linear(A: Operand, values: Any, x: Any, backend: str | None, precision: Any) -> Any:
    storage = A.storage
    if values is None and isinstance(storage.data, jax.Array):
        beside = storage.remainder_data
        values = storage.data if beside is None else jnp.concatenate([storage.data, beside])
    if values is None:
        call = Call(storage, None, A.transposed, backend, precision)
    else:
        values, pattern = _as_jax(values), frozen_pattern(storage)
        if tuple(values.shape) != (pattern.size,):
            raise ValueError(
                f"values has shape {values.shape}; A stores {pattern.size}, fillers included."
            )
        call = Call(None, pattern, A.transposed, backend, precision)
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    return product(call, values, flat).reshape(*x.shape[:-1], A.shape[0])


def _with_epilogue(
    A: Operand, x: Any, values: Any, epilogue: Epilogue, options: dict[str, Any]
) -> Any:
    if values is not None or isinstance(x, jax.core.Tracer):
        raise ValueError(
            "an epilogue has no gradient; apply it with jax.numpy, or pass concrete x."
        )
    names = ("c", "bias", "residual", "row_scale", "col_scale")
    plain = replace(epilogue, **{name: native(getattr(epilogue, name)) for name in names})
    return to_jax_array(_matmul.matmul(A, to_array(x), epilogue=plain, **options))


def _as_jax(x: Any) -> Any:
    return x if isinstance(x, jax.Array) else to_jax_array(np.asarray(x))


def _refuse_out(out: Any) -> None:
    if out is not None:
        raise ValueError("out is given; JAX's arrays are never written to: use the result.")


# A matrix is a pytree: its values are the leaves, all else is static.


class Structure:
    """What a matrix is apart from its values; equal where the pattern is the same object."""

    def __init__(self, pattern: FrozenPattern, transposed: bool) -> None:
        self.pattern, self.transposed = pattern, transposed

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Structure) and (self.pattern, self.transposed) == (
            other.pattern,
            other.transposed,
        )

    def __hash__(self) -> int:
        return hash((self.pattern, self.transposed))


def flatten(A: TVWMatrix) -> tuple[tuple[Any, Any], Structure]:
    """Return the values of a matrix, and the rest."""
    storage = A.storage
    return (storage.data, storage.remainder_data), Structure(frozen_pattern(storage), A.transposed)


def unflatten(structure: Structure, leaves: tuple[Any, Any]) -> TVWMatrix:
    """Return the matrix of these values, which may be any objects while JAX transforms it.

    Concrete arrays come to the host, where the rest of the matrix is: it is then as any other.
    """
    concrete = (np.asarray(x) if _is_concrete(x) else x for x in leaves)
    storage = structure.pattern.holding(*concrete)
    return TVWMatrix.from_storage(storage, transposed=structure.transposed)


def _is_concrete(x: Any) -> bool:
    return isinstance(x, jax.Array) and not isinstance(x, jax.core.Tracer)


jax.tree_util.register_pytree_node(TVWMatrix, flatten, unflatten)
