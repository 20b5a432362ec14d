"""Epilogues from the public API: every part and combination, every backend of the host, batches.

Expected values are computed here in float64 from the dense matrix, in the documented order.
"""

from __future__ import annotations

from dataclasses import replace

import array_api_strict as xp
import ml_dtypes
import numpy as np
import oracle
import pytest
from epilogue_problems import epilogues, expected, wide
from hypothesis import given
from hypothesis import strategies as st
from strategies import storages

import tvwarray
from tvwarray import Epilogue, TVWMatrix

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


@pytest.mark.parametrize("backend", ["array", "cpu"])
@given(st.data())
def test_epilogues_of_drawn_matrices(backend: str, data: st.DataObject) -> None:
    """Every combination, 16-bit to 64-bit floats, with and without a remainder and `out`."""
    s = data.draw(storages(dtypes=["float32", "float64", "float16", "bfloat16"]))
    A = TVWMatrix.from_storage(s)
    n = data.draw(st.integers(0, 5))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = rng.integers(-3, 4, (s.shape[1], n)).astype(s.dtype)
    e = data.draw(epilogues((s.shape[0], n), s.dtype))
    got = tvwarray.matmul(A, x, backend=backend, epilogue=e)
    y, size = (wide(part) for part in oracle.matmul(oracle.dense(s), x))
    want = expected(y, e)
    dtype = np.dtype(e.out_dtype or s.dtype)
    assert got.dtype == dtype
    # Slopes are below 1.13, scales at most 2; parts are small. float32 sums at the narrow types.
    u = oracle.UNIT_ROUNDOFF["float64" if s.dtype == np.float64 else "float32"]
    terms = int(s.slots_of.max(initial=0)) + 100
    slack = 8 * terms * u * (size + abs(y) + 32)
    slack += oracle.UNIT_ROUNDOFF[dtype.name] * (abs(want) + 1e-3)
    assert (abs(wide(got) - want) <= slack).all()
    out = np.empty_like(got)
    assert tvwarray.matmul(A, x, backend=backend, epilogue=e, out=out) is out
    np.testing.assert_array_equal(out, got)


@given(st.data())
def test_batches(data: st.DataObject) -> None:
    """(..., cols, n) is each matrix by itself, with all parts of the epilogue."""
    s = data.draw(storages(dtypes=["float32", "int8"]))
    A = TVWMatrix.from_storage(s)
    lead = tuple(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=2)))
    n = data.draw(st.sampled_from([0, 1, 3, 70]))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = rng.integers(-3, 4, (*lead, s.shape[1], n)).astype(s.dtype)
    if data.draw(st.booleans()):
        x = np.ascontiguousarray(x.swapaxes(-1, -2)).swapaxes(-1, -2)
    e = data.draw(epilogues((*lead, s.shape[0], n), np.float32))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tvwarray._batches._LARGE_ENOUGH", 0)  # one by one from 64 columns on
        got = tvwarray.matmul(A, x, epilogue=e)
        plain = tvwarray.matmul(A, x)
        out = np.empty_like(got)
        assert tvwarray.matmul(A, x, epilogue=e, out=out) is out
    np.testing.assert_array_equal(out, got)
    assert got.shape == plain.shape == (*lead, s.shape[0], n)
    for i in np.ndindex(*lead):
        one = replace(
            e,
            c=None if e.c is None else e.c[i],
            residual=None if e.residual is None else e.residual[i],
        )
        np.testing.assert_array_equal(plain[i], tvwarray.matmul(A, x[i]))
        # The same sums: what may differ is the rounding of the steps after them, see above.
        alone = tvwarray.matmul(A, x[i], epilogue=one)
        slack = 2 * 8 * 100 * oracle.UNIT_ROUNDOFF["float32"] * (abs(wide(plain[i])) + 32)
        if alone.dtype.kind != "i":  # integers come of integers alone, exactly
            slack += 2 * oracle.UNIT_ROUNDOFF[alone.dtype.name] * abs(wide(alone))
        assert (abs(wide(got[i]) - wide(alone)) <= slack).all()


@pytest.mark.parametrize("n", [3, 70])
def test_a_batch_may_be_written_over_what_it_reads(monkeypatch, n: int) -> None:
    monkeypatch.setattr("tvwarray._batches._LARGE_ENOUGH", 0)
    rng = np.random.default_rng(n)
    A = tvwarray.sparsify(rng.standard_normal((48, 48)), 0.5, tile_rows=16)
    x = rng.standard_normal((5, 48, n))
    for shifted in (0, 1):
        both = np.concatenate([x, x])
        expected = tvwarray.matmul(A, both[:5].copy())
        tvwarray.matmul(A, both[:5], out=both[shifted : 5 + shifted])
        np.testing.assert_array_equal(both[shifted : 5 + shifted], expected)


def test_integers_stay_integers_unless_a_part_is_not() -> None:
    A = TVWMatrix.from_dense(np.eye(16, dtype=np.int8) * 3)
    x = np.ones((16, 2), np.int8)
    doubled = tvwarray.matmul(A, x, epilogue=Epilogue(alpha=2, activation="relu"))
    assert doubled.dtype == np.int32
    assert (doubled == 6).all()
    scale = np.full(16, 0.5, np.float32)
    scaled = tvwarray.matmul(A, x, epilogue=Epilogue(row_scale=scale, col_scale=[2.0, 4.0]))
    assert scaled.dtype == np.float32
    np.testing.assert_array_equal(scaled, np.broadcast_to([3.0, 6.0], (16, 2)))
    small = tvwarray.matmul(A, x, epilogue=Epilogue(row_scale=scale, out_dtype="bfloat16"))
    assert small.dtype == BFLOAT16
    # Wider integers than the sums of 8-bit ones go through float64.
    wide_a = TVWMatrix.from_dense(np.eye(16, dtype=np.int64) * (2**30 + 1))
    halved = tvwarray.matmul(wide_a, np.ones((16, 1), np.int64), epilogue=Epilogue(alpha=0.5))
    assert halved.dtype == np.float64
    assert halved[0, 0] == 2**29 + 0.5


def test_beta_of_zero_does_not_read_c() -> None:
    A = TVWMatrix.from_dense(np.eye(16, dtype=np.float32))
    c = np.full((16, 1), np.nan, np.float32)
    y = tvwarray.matmul(A, np.ones((16, 1), np.float32), epilogue=Epilogue(c=c))
    assert (y == 1).all()
    added = Epilogue(c=np.full((16, 1), 2, np.float32), beta=0.5)
    out = added.c
    assert tvwarray.matmul(A, np.ones((16, 1), np.float32), out=out, epilogue=added) is out
    assert (out == 2).all()


def test_vectors_and_functions() -> None:
    A = TVWMatrix.from_dense(np.diag(np.arange(1.0, 17)))
    e = Epilogue(c=[1.0] * 16, beta=2, residual=np.ones(16), activation=np.negative)
    np.testing.assert_array_equal(tvwarray.matmul(A, np.ones(16), epilogue=e), -np.arange(2.0, 18))


def test_linear_adds_the_residual_last() -> None:
    A = TVWMatrix.from_dense(-np.eye(16, dtype=np.float32))
    x = np.ones((2, 3, 16), np.float32)
    y = tvwarray.linear(x, A, np.zeros(16, np.float32), "relu", residual=2 * x)
    np.testing.assert_array_equal(y, 2 * x)
    out = np.empty((2, 3, 32), np.float32)[..., ::2]
    assert tvwarray.linear(x, A, residual=2 * x, out=out) is out
    np.testing.assert_array_equal(out, x)
    with pytest.raises(ValueError, match=r"residual has shape \(3,\); it must be \(2, 3, 16\)"):
        tvwarray.linear(x, A, residual=np.ones(3))


@pytest.mark.parametrize(
    ("epilogue", "message"),
    [
        (Epilogue(beta=1.0), "c is missing"),
        (Epilogue(c=np.ones(3)), r"c has shape \(3,\); it must be \(16, 2\)"),
        (Epilogue(residual=np.ones((2, 16))), r"residual has shape \(2, 16\)"),
        (Epilogue(bias=np.ones(3)), r"bias has shape \(3,\); it must be \(16,\), the rows of A"),
        (Epilogue(bias=np.ones(16), bias_axis=1), r"must be \(2,\), the columns of X"),
        (Epilogue(bias_axis=2), "bias_axis is 2"),  # type: ignore[arg-type]
        (Epilogue(row_scale=np.ones(2)), "row_scale has shape"),
        (Epilogue(activation="swish"), "relu, gelu"),  # type: ignore[arg-type]
        (Epilogue(out_dtype="U3"), "out_dtype"),  # type: ignore[arg-type]
        (Epilogue(bias=xp.ones(16)), "library of X"),
    ],
)
def test_parts_that_do_not_fit(epilogue: Epilogue, message: str) -> None:
    A = TVWMatrix.from_dense(np.eye(16, dtype=np.float32))
    with pytest.raises(ValueError, match=message):
        tvwarray.matmul(A, np.ones((16, 2), np.float32), epilogue=epilogue)


def test_an_unknown_precision_is_refused() -> None:
    A = TVWMatrix.from_dense(np.eye(16, dtype=np.float32))
    with pytest.raises(ValueError, match="precision is 'double'; it is one of default, highest"):
        tvwarray.matmul(A, np.ones(16, np.float32), precision="double")
    assert (tvwarray.matmul(A, np.ones(16, np.float32), precision="tf32") == 1).all()
