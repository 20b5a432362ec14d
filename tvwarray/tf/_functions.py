"""`matmul` and `linear` for TensorFlow's tensors: what ``A @ x`` and ``x @ A.T`` run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import tensorflow as tf

from tvwarray import _matmul
from tvwarray._activations import Activation, check_activation
from tvwarray._epilogue import Epilogue
from tvwarray._frameworks import native
from tvwarray._frozen import frozen_pattern
from tvwarray._operands import Operand
from tvwarray.tf._products import Call, product
from tvwarray.tf._tensors import to_array, to_tensor

_ACTIVATIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "relu": tf.nn.relu,
    "gelu": tf.nn.gelu,
    "gelu_tanh": partial(tf.nn.gelu, approximate=True),
    "silu": tf.nn.silu,
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
    """Return ``A @ x`` as a tensor, eagerly or in a graph, differentiable in `x` and `values`.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
        On the device of `x`; on the host where `x` is symbolic.
    x : tf.Tensor or tf.Variable, shape (cols,) or (..., cols, n)
    values : tf.Tensor or tf.Variable, shape (stored,), optional
        Values to take instead of A's, in the order of the storage: those that are trained.
    out
        Must be None: tensors are never written to.
    backend, precision
        As for `tvwarray.matmul`.
    epilogue : Epilogue, optional
        For eager tensors, and without gradient.

    Returns
    -------
    tf.Tensor, shape (rows,) or (..., rows, n)

    Raises
    ------
    ValueError
        If shapes do not fit, or `out` is given.
    TypeError
        If `x` is sparse, or A lies on a GPU and `x` is symbolic.
    BackendError
        If no backend runs this product.
    """
    _refuse_out(out)
    if epilogue is not None:
        names = ("c", "bias", "residual", "row_scale", "col_scale")
        plain = replace(epilogue, **{name: native(getattr(epilogue, name)) for name in names})
        options: dict[str, Any] = {"backend": backend, "precision": precision}
        return to_tensor(_matmul.matmul(A, to_array(x), epilogue=plain, **options))
    x = _dense(x)
    if x.ndim == 0 or x.shape[-2 if x.ndim > 1 else 0] not in (None, A.shape[1]):
        raise ValueError(f"A is {A.shape} and X {x.shape}; X must have {A.shape[1]} rows.")
    if x.ndim == 1:
        return _linear(A, values, x, backend, precision)
    transposed = _linear(A, values, tf.linalg.matrix_transpose(x), backend, precision)
    return tf.linalg.matrix_transpose(transposed)


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
    """Return ``activation(x @ A.T + bias) + residual``, differentiable in every tensor.

    Parameters
    ----------
    x : tf.Tensor or tf.Variable, shape (..., cols)
    A : TVWMatrix, shape (rows, cols)
    bias : tf.Tensor, shape (rows,), optional
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or callable, optional
        Applied, as the bias, to the product as it is rounded to its type.
    residual : tf.Tensor, shape (..., rows), optional
    values, out, backend, precision
        As for `matmul`.

    Returns
    -------
    tf.Tensor, shape (..., rows)

    Raises
    ------
    ValueError, TypeError, BackendError
        As `matmul`.
    """
    _refuse_out(out)
    x = _dense(x)
    if x.ndim == 0 or x.shape[-1] not in (None, A.shape[1]):
        raise ValueError(
            f"x has shape {x.shape}; its last axis must be {A.shape[1]}, the columns of A."
        )
    if activation is not None:
        check_activation(activation)
    y = _linear(A, values, x, backend, precision)
    if bias is not None:
        bias = tf.convert_to_tensor(bias)
        if tuple(bias.shape) != (A.shape[0],):
            raise ValueError(f"bias has shape {bias.shape}; it must be {(A.shape[0],)}.")
        y = y + tf.cast(bias, y.dtype)
    if activation is not None:
        y = (activation if callable(activation) else _ACTIVATIONS[activation])(y)
    return y if residual is None else y + residual


def _linear(A: Operand, values: Any, x: Any, backend: str | None, precision: Any) -> Any:
    options: dict[str, Any] = {"backend": backend, "precision": precision}
    lead, (rows, cols) = tf.shape(x)[:-1], A.shape
    flat = tf.reshape(x, tf.stack([tf.reduce_prod(lead), cols]))
    if values is None:
        y = product(Call(A.storage, None, A.transposed, options), flat)
    else:
        pattern = frozen_pattern(A.storage)
        values = tf.convert_to_tensor(values)
        if tuple(values.shape) != (pattern.size,):
            raise ValueError(
                f"values has shape {values.shape}; A stores {pattern.size}, fillers included."
            )
        y = product(Call(None, pattern, A.transposed, options), flat, values)
    y = tf.reshape(y, tf.concat([lead, [rows]], 0))
    y.set_shape((*x.shape[:-1], rows))
    return y


def _dense(x: Any) -> Any:
    return to_array(x) if isinstance(x, tf.SparseTensor) else tf.convert_to_tensor(x)


def _refuse_out(out: Any) -> None:
    if out is not None:
        raise ValueError("out is given; tensors are never written to: use the result.")
