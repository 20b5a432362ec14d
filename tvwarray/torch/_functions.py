"""`matmul` and `linear` for tensors: what ``A @ x`` and ``x @ A.T`` run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Final

import torch
from torch.nn import functional

from tvwarray import _matmul
from tvwarray._activations import Activation, check_activation
from tvwarray._epilogue import Epilogue
from tvwarray._frameworks import native
from tvwarray._frozen import frozen_pattern
from tvwarray._operands import Operand, Stored
from tvwarray.torch._cuda import on_current_stream
from tvwarray.torch._products import Call, Fixed, Product, Trained, Weights
from tvwarray.torch._tensors import check_tensor, to_array, to_tensor

_ACTIVATIONS: Final[dict[str, Callable[[torch.Tensor], torch.Tensor]]] = {
    "relu": functional.relu,
    "gelu": functional.gelu,
    "gelu_tanh": partial(functional.gelu, approximate="tanh"),
    "silu": functional.silu,
}

_transforms_active: Final = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)
"""Whether vmap or grad of torch.func are at work; taken for so where torch does not tell."""


@torch.compiler.disable
def matmul(
    A: Operand,
    x: torch.Tensor,
    *,
    values: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    backend: str | None = None,
    precision: Any = "default",
    epilogue: Epilogue | None = None,
) -> torch.Tensor:
    """Return ``A @ x`` as a tensor, differentiable in `x` and in `values`.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
        On the device of `x`: NumPy arrays for the CPU, CuPy arrays for a GPU.
    x : torch.Tensor, shape (cols,) or (..., cols, n)
        Of any strides.
    values : torch.Tensor, shape (stored,), optional
        Values to take instead of A's, in the order of ``A.storage.data`` (and then of the
        remainder): those that are trained.
    out : torch.Tensor, optional
        Where to write the product; no gradient goes through it.
    backend, precision
        As for `tvwarray.matmul`.
    epilogue : Epilogue, optional
        Its arrays are tensors of the device; no gradient goes through it.

    Returns
    -------
    torch.Tensor, shape (rows,) or (..., rows, n)
        Of the type that `tvwarray.matmul` gives: that of `x`, unless A's values need a wider one.

    Raises
    ------
    ValueError
        If shapes or dtypes do not fit, or `out` or `epilogue` meet a tensor that requires a
        gradient.
    TypeError
        If `x` is sparse or lies on a device that no array library shares.
    BackendError
        If no backend runs this product, as where A and `x` lie on different devices.
    """
    options = {"backend": backend, "precision": precision}
    if out is not None or epilogue is not None:
        _refuse_gradient(x, values, out)
        plain = Stored(_weights(A, values).storage(values), A.transposed)
        return _written(plain, x, out, native_parts(epilogue), options)
    if x.ndim == 0 or x.shape[-2 if x.ndim > 1 else 0] != A.shape[1]:
        shape = tuple(x.shape)
        raise ValueError(f"A is {A.shape} and X {shape}; X must have {A.shape[1]} rows.")
    if x.ndim == 1:
        return _linear(A, values, x[None, :], None, options)[0]
    return _linear(A, values, x.mT, None, options).mT


@torch.compiler.disable
def linear(
    x: torch.Tensor,
    A: Operand,
    bias: torch.Tensor | None = None,
    activation: Activation | None = None,
    *,
    residual: torch.Tensor | None = None,
    values: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    backend: str | None = None,
    precision: Any = "default",
) -> torch.Tensor:
    """Return ``activation(x @ A.T + bias) + residual``, differentiable in every tensor.

    Parameters
    ----------
    x : torch.Tensor, shape (..., cols)
    A : TVWMatrix, shape (rows, cols)
    bias : torch.Tensor, shape (rows,), optional
    activation : {"relu", "gelu", "gelu_tanh", "silu"} or callable, optional
        A callable takes and returns a tensor. It is applied to the sum as it is rounded to the
        product's type.
    residual : torch.Tensor, shape (..., rows), optional
    values, out, backend, precision
        As for `matmul`.

    Returns
    -------
    torch.Tensor, shape (..., rows)

    Raises
    ------
    ValueError, TypeError, BackendError
        As `matmul`.
    """
    if x.ndim == 0 or x.shape[-1] != A.shape[1]:
        raise ValueError(
            f"x has shape {tuple(x.shape)}; its last axis must be {A.shape[1]}, the columns of A."
        )
    if activation is not None:
        check_activation(activation)
    y = _linear(A, values, x, bias, {"backend": backend, "precision": precision})
    if activation is not None:
        y = (activation if callable(activation) else _ACTIVATIONS[activation])(y)
    if residual is not None:
        y = y + residual
    if out is None:
        return y
    _refuse_gradient(x, values, bias, residual, out)
    if out.shape != y.shape or out.dtype != y.dtype:
        raise ValueError(
            f"out is {out.dtype} of shape {tuple(out.shape)}; the result is {y.dtype} of shape "
            f"{tuple(y.shape)}."
        )
    return out.copy_(y)


def apply(
    weights: Weights,
    transposed: bool,
    values: torch.Tensor | None,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    rows: int,
    options: dict[str, Any],
) -> torch.Tensor:
    """Return ``x @ A.T + bias`` for x of shape (..., cols), by the function that has gradients."""
    check_tensor(x)
    if bias is not None and tuple(bias.shape) != (rows,):
        raise ValueError(f"bias has shape {tuple(bias.shape)}; it must be ({rows},).")
    flat = x.reshape(math.prod(x.shape[:-1]), x.shape[-1])
    # Outside of autograd and torch.func the function is called as it is: a tenth of a millisecond.
    tracked = torch.is_grad_enabled() and any(
        t is not None and t.requires_grad for t in (values, flat, bias)
    )
    run = Product.apply if tracked or _transforms_active() else Product.forward
    y: torch.Tensor = run(Call(weights, transposed, options), values, flat, bias)
    return y.reshape(*x.shape[:-1], rows)


def native_parts(epilogue: Epilogue | None) -> Epilogue | None:
    """Return `epilogue` with arrays where it holds tensors."""
    if epilogue is None:
        return None
    names = ("c", "bias", "residual", "row_scale", "col_scale")
    return replace(epilogue, **{name: native(getattr(epilogue, name)) for name in names})


def _linear(
    A: Operand,
    values: torch.Tensor | None,
    x: torch.Tensor,
    bias: torch.Tensor | None,
    options: dict[str, Any],
) -> torch.Tensor:
    weights = _weights(A, values)
    return apply(weights, A.transposed, values, x, bias, A.shape[0], options)


def _weights(A: Operand, values: torch.Tensor | None) -> Weights:
    if values is None:
        return Fixed(A.storage)
    pattern = frozen_pattern(A.storage)
    if tuple(values.shape) != (pattern.size,):
        raise ValueError(
            f"values has shape {tuple(values.shape)}; A stores {pattern.size}, fillers included."
        )
    return Trained(pattern)


def _written(
    A: Operand,
    x: torch.Tensor,
    out: torch.Tensor | None,
    epilogue: Epilogue | None,
    options: dict[str, Any],
) -> torch.Tensor:
    with on_current_stream(x):
        target = None if out is None else to_array(out)
        product = _matmul.matmul(A, to_array(x), out=target, epilogue=epilogue, **options)
        if out is None:
            return to_tensor(product)
    torch.autograd.graph.increment_version(out)  # arrays write past torch's bookkeeping
    return out


def _refuse_gradient(*tensors: torch.Tensor | None) -> None:
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise ValueError(
            "a tensor requires a gradient, which cannot go through out= or epilogue=; leave them "
            "out, or multiply under torch.no_grad()."
        )
