"""Epilogues to run, and what they must give: in float64, in the documented order."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st
from kernel_problems import Product, exact, rounding
from scipy.special import erf

from tvwarray import Epilogue

FLOAT32 = np.dtype(np.float32)

ACTIVATIONS: dict[Any, Any] = {
    None: lambda y: y,
    "relu": lambda y: np.maximum(y, 0),
    "gelu": lambda y: y * 0.5 * (1 + erf(y / np.sqrt(2))),
    "gelu_tanh": lambda y: 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))),
    "silu": lambda y: y / (1 + np.exp(-y)),
}


def wide(x: Any) -> np.ndarray:
    """Return `x` in float64."""
    return np.asarray(x).astype(np.float64)


def expected(product: np.ndarray, e: Epilogue) -> np.ndarray:
    """Return the epilogue of an exact product, by its definition, in float64."""
    y = e.alpha * product
    if e.row_scale is not None:
        y = y * wide(e.row_scale)[:, None]
    if e.col_scale is not None:
        y = y * wide(e.col_scale)
    if e.beta != 0:
        y = y + e.beta * wide(e.c)
    if e.bias is not None:
        y = y + (wide(e.bias)[:, None] if e.bias_axis == 0 else wide(e.bias))
    with np.errstate(over="ignore"):
        y = ACTIVATIONS[e.activation](y)
    return y if e.residual is None else y + wide(e.residual)


@st.composite
def epilogues(draw: st.DrawFn, shape: tuple[int, ...], dtype: Any) -> Epilogue:
    """Draw an epilogue for a product of `shape`, with small values that 16 bits hold exactly."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, n = shape[-2:]

    def part(size: Any) -> Any:
        return (rng.integers(-8, 9, size) / 4).astype(dtype) if draw(st.booleans()) else None

    axis = draw(st.sampled_from([0, 1]))
    c = part(shape)
    return Epilogue(
        alpha=draw(st.sampled_from([1.0, -0.5])),
        beta=0.0 if c is None else draw(st.sampled_from([0.0, 1.0, 0.25])),
        c=c,
        bias=part((rows, n)[axis]),
        bias_axis=axis,
        activation=draw(st.sampled_from(list(ACTIVATIONS))),
        residual=part(shape),
        out_dtype=draw(st.sampled_from([None, np.float32])),
        row_scale=part(rows),
        col_scale=part(n),
    )


def near(got: np.ndarray, product: Product, e: Epilogue) -> None:
    """Assert that `got` is the epilogue of the product: the float32 bound, and one rounding."""
    y, size, terms = exact(product)
    want = expected(y, e)
    scale = 1.0
    for part in (e.row_scale, e.col_scale):
        scale *= 1.0 if part is None else float(abs(wide(part)).max(initial=0))
    slack = 2.0**-24 * (1.2 * terms[:, None] + 40) * (abs(e.alpha) * scale * size + abs(want) + 32)
    if got.dtype != FLOAT32:
        slack = slack + rounding(abs(want) + slack, got.dtype)
    assert (abs(got.astype(np.float64) - want) <= slack).all()
