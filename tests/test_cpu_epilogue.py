"""What the engine does to sums before they leave its registers: remainder, bias, activation.

Activations are f(s) = s g(s) with g between 0 and 1. The engine computes g by an exponential and a
polynomial, a few roundings each, so that f errs by at most 8 u |s|.
"""

from __future__ import annotations

import numpy as np
import oracle
import pytest
from cpu_cases import bits, compiled_only, engine, isas, multiply, tvw_case
from scipy import special
from strategies import dtype, random_values

import tvwarray
from tvwarray import TVWMatrix

ACTIVATIONS = {
    "gelu": lambda x: x * special.ndtr(x),
    "gelu_tanh": lambda x: x * special.expit(2 * np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)),
    "silu": lambda x: x * special.expit(x),
}


@isas
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("n", [1, 7, 200])
def test_bias_and_relu_reach_every_row(isa, kind, n):
    """Rows in no tile get their bias too; NaN passes through relu."""
    rng = np.random.default_rng(n)
    case = tvw_case(rng, 190, 64, 48, kind=kind)
    x = random_values(rng, (64, n), dtype(kind))
    x[5, 0] = np.nan
    sums = np.dtype("float64" if kind == "float64" else "float32")
    bias = rng.standard_normal(190).astype(sums)
    for order in "CF":
        out = np.empty((190, n), dtype(kind), order=order)
        engine(case.storage, isa).multiply(bits(x), kind, bits(out), kind, bias, "relu")
        with np.errstate(invalid="ignore"):
            exact = np.zeros((190, n), np.longdouble)
            for row, col in zip(*np.nonzero(case.dense), strict=True):
                exact[row] += case.dense[row, col] * oracle.wide(x[col])
            expected = np.where(exact + bias[:, None] < 0, 0, exact + bias[:, None])
        scale = 2.0**-7 if kind == "bfloat16" else 1e-5
        np.testing.assert_array_equal(np.isnan(oracle.wide(out)), np.isnan(expected))
        np.testing.assert_allclose(
            oracle.wide(out), expected, rtol=scale, atol=scale * 100, equal_nan=True
        )


@isas
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("name", sorted(ACTIVATIONS))
def test_activations_are_exact_to_their_last_bits(isa, kind, name):
    """On sums that are exact, over all magnitudes; the reference works in float64, and in float64
    is no better than the engine."""
    rng = np.random.default_rng(0)
    x = np.concatenate(
        [np.linspace(-14, 14, 4001), rng.standard_normal(3000) * 10.0 ** rng.integers(-12, 4, 3000)]
    ).astype(kind)
    x = np.broadcast_to(x, (16, x.size)).copy()
    got = multiply(TVWMatrix(np.eye(16, dtype=kind)).storage, x, isa, activation=name)
    with np.errstate(all="ignore"):
        exact = ACTIVATIONS[name](x.astype(np.float64))
    u = oracle.UNIT_ROUNDOFF[kind] + oracle.UNIT_ROUNDOFF["float64"]
    assert (np.abs(got - exact) <= 8 * u * np.abs(x)).all()


@isas
@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("n", [1, 20])
def test_activations_of_what_is_no_number(isa, kind, n):
    """NaN stays, +inf stays, -inf times zero is NaN, and zeros keep their sign."""
    values = np.array([np.nan, np.inf, -np.inf, 0.0, -1e30, 1e30], kind)
    bias = np.resize(values, 16)
    s = TVWMatrix(np.eye(16, dtype=kind)).storage
    for name in ACTIVATIONS:
        got = multiply(s, np.zeros((16, n), kind), isa, activation=name, bias=bias)
        np.testing.assert_array_equal(
            got[:6], np.array([np.nan, np.inf, np.nan, 0, 0, 1e30], kind)[:, None].repeat(n, 1)
        )


@compiled_only
@pytest.mark.parametrize("kind", ["float32", "bfloat16", "float64"])
@pytest.mark.parametrize("name", ["relu", *sorted(ACTIVATIONS)])
def test_linear_fuses_what_the_array_backend_computes(kind, name):
    rng = np.random.default_rng(1)
    A = TVWMatrix.from_storage(tvw_case(rng, 64, 64, 32, kind=kind).storage)
    x, bias = (random_values(rng, shape, dtype(kind)) for shape in ((30, 64), (64,)))
    got = tvwarray.linear(x, A, bias, name)
    other = tvwarray.linear(x, A, bias, name, backend="array")
    assert got.flags.c_contiguous
    assert got.dtype == other.dtype == dtype(kind)
    u = oracle.UNIT_ROUNDOFF[kind]
    size = np.abs(oracle.wide(x)) @ np.abs(oracle.dense(A.storage)).T + np.abs(oracle.wide(bias))
    assert (np.abs(oracle.wide(got) - oracle.wide(other)) <= 100 * u * size).all()


@compiled_only
def test_integers_know_no_smooth_activation():
    s = TVWMatrix(np.eye(16, dtype=np.int8)).storage
    with pytest.raises(ValueError, match="activation"):
        multiply(s, np.ones((16, 2), np.int8), activation="gelu")
    A = TVWMatrix.from_storage(s)
    assert tvwarray.linear(np.ones((2, 16), np.int8), A, activation="gelu").dtype == np.float32


@compiled_only
@pytest.mark.parametrize("backend", ["cpu", "array"])
@pytest.mark.parametrize("n", [1, 40])
@pytest.mark.parametrize("transposed", [False, True])
def test_tiles_and_remainder_are_rounded_once(backend, n, transposed):
    """256 + 1 + 1 in bfloat16, whose step there is 2: rounding the tiles' 257 first loses a one."""
    kind = dtype("bfloat16")
    a = np.zeros((16, 16), kind)
    a[0, :2] = a[:2, 0] = 256, 1
    s = TVWMatrix(a).storage
    entries = np.full((2,), 1, kind)
    s = type(s)(
        **{
            **{f: getattr(s, f) for f in s.__dataclass_fields__},
            "remainder_indptr": np.array([0, 1, 1, 1] + [2] * 13, np.int32),
            "remainder_indices": np.array([3, 0], np.int32),
            "remainder_data": entries,
        }
    )
    s.check()
    A = TVWMatrix.from_storage(s)
    A = A.T if transposed else A
    got = tvwarray.matmul(A, np.ones((16, n), kind), backend=backend)
    np.testing.assert_array_equal(got[0].astype(np.float64), 258)
