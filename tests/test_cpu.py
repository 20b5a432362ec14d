"""The compiled engine against float64 products of matrices written out from the format.

Axes: instruction set x dtypes of A and X x every freedom of the format x right-hand sides (both
kernels, every width of a block and its ragged rest) x memory order of X and of the result. The
bound on the error is derived, not chosen: see `oracle.error_bound`.
"""

from __future__ import annotations

import os
from itertools import product

import numpy as np
import oracle
import pytest
from cpu_cases import (
    COMPILED,
    FLOATS,
    WIDTHS,
    assert_close,
    bits,
    compiled_only,
    engine,
    isas,
    multiply,
    tvw_case,
)
from hypothesis import given
from hypothesis import strategies as st
from strategies import dtype, in_memory, random_values, seeds, special_values, storages

from tvwarray import TVWMatrix
from tvwarray._backends.cpu import BACKEND
from tvwarray._kernels.cpu import threads


def test_the_extension_is_there_where_it_must_be():
    if os.environ.get("TVWARRAY_REQUIRE_NATIVE"):
        assert COMPILED is not None


@isas
@pytest.mark.parametrize("kind", [*FLOATS, "int8", "uint8"])
@pytest.mark.parametrize("vector", [(2, 4), None])
def test_every_width_and_order(isa, kind, vector):
    rng = np.random.default_rng(7)
    for rows, cols, slots, tile_rows in [
        (300, 260, 208, 128),
        (70, 500, 480, 17),
        (261, 40, 32, 256),
    ]:
        case = tvw_case(rng, rows, cols, slots, kind=kind, vector=vector, tile_rows=tile_rows)
        for n, transposed in [*product(WIDTHS, [False]), *product([1, 3, 5, 129], [True])]:
            a = case.dense.T if transposed else case.dense
            x = random_values(rng, (a.shape[1], n), dtype(kind))
            order, of_x = rng.choice(["C", "F"]), rng.choice(["C", "F", "strided", "reversed"])
            got = multiply(case.storage, in_memory(x, of_x), isa, order, transposed=transposed)
            assert_close(got, a, x, max(rows, slots))


@isas
@given(storages(dtypes=[*FLOATS, "int8", "uint8"]), st.data())
def test_every_freedom_of_the_format(isa, s, data):
    """Repeated columns, empty tiles, a remainder beside them: ``A @ X`` and ``A.T @ Y``."""
    kind = s.dtype.name
    mixed = FLOATS[:1] + FLOATS[2:] if kind in ("float32", "float16", "bfloat16") else [kind]
    of_x = dtype(data.draw(st.sampled_from([kind, *mixed])))
    rng = np.random.default_rng(data.draw(seeds))
    transposed = data.draw(st.booleans())
    a = oracle.dense(s).T if transposed else oracle.dense(s)
    x = random_values(rng, (a.shape[1], data.draw(st.sampled_from(WIDTHS[:14]))), of_x)
    memory = data.draw(st.sampled_from(["C", "F", "strided", "reversed", "read-only"]))
    order = data.draw(st.sampled_from("CF"))
    got = multiply(s, in_memory(x, memory), isa, order, transposed=transposed)
    assert_close(got, a, x, len(oracle.entries(s)))


@isas
@pytest.mark.parametrize("lanes", [4, 8, 16])
@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_rows_that_only_look_contiguous_keep_their_places(isa, lanes, kind):
    """Across two tiles, lanes may hold rows r to r + lanes - 1 and skip some in between."""
    half = lanes // 2
    first = [*range(16), 40, *range(140, 140 + half - 1)]
    second = [*range(20, 20 + half - 1), 40 + lanes - 1, *range(60, 70)]
    rng = np.random.default_rng(0)
    a = np.zeros((160, 16), kind)
    a[first + second] = random_values(rng, (len(first + second), 16), np.dtype(kind))
    s = TVWMatrix(a, vector=None).storage
    s = type(s)(
        shape=s.shape,
        tile_rows=32,
        vector=None,
        row_indptr=np.cumsum([0, len(first), len(second)]).astype(np.int32),
        row_indices=np.array(first + second, np.int32),
        col_indptr=np.array([0, 16, 32], np.int32),
        col_indices=np.tile(np.arange(16, dtype=np.int32), 2),
        data=a[first + second].ravel(),
        meta=None,
    )
    s.check()
    for n in (1, 20):
        x = random_values(rng, (16, n), np.dtype(kind))
        for order in "CF":
            assert_close(multiply(s, x, isa, order), a, x, 16)


@isas
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16", "int8"])
@pytest.mark.parametrize("count", [1, 2])
def test_results_in_row_order_are_those_of_whole_rows(isa, kind, count):
    """Where tiles hold rows of a like, sums wait for their neighbours; no bit depends on that."""
    rng = np.random.default_rng(count)
    s = tvw_case(rng, 1300, 300, 208, kind=kind, tile_rows=100).storage
    sums = np.dtype({"float64": "float64", "int8": "int32"}.get(kind, "float32"))
    bias = random_values(rng, (1300,), sums)
    for n in (20, 129, 400):
        x = random_values(rng, (300, n), dtype(kind))
        with threads.limit_threads(count):
            wanted = multiply(s, x, isa, "C", bias=bias, activation="relu")
            got = multiply(s, x, isa, "F", bias=bias, activation="relu")
        np.testing.assert_array_equal(bits(got), bits(wanted))


@isas
@pytest.mark.parametrize(("kind", "value"), [("int8", -128), ("int8", 127), ("uint8", 255)])
@pytest.mark.parametrize("n", [1, 5, 100])
def test_integers_are_exact_at_their_extremes(isa, kind, value, n):
    """Float32 multiplies them, and holds the sums of a panel or of a piece of a strip exactly."""
    for vector in ((2, 4), None):
        a = np.zeros((16, 3008), kind)
        a[:, :: 1 if vector is None else 2] = value
        s = TVWMatrix(a, vector=vector).storage
        x = np.full((3008, n), value, kind)
        np.testing.assert_array_equal(multiply(s, x, isa), a.astype(np.int64) @ x.astype(np.int64))


@isas
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("n", [1, 4, 16, 40, 130])
@pytest.mark.parametrize("transposed", [False, True])
def test_nan_and_infinity_spread_as_with_csr(isa, kind, n, transposed):
    """Stored zeros, fillers and padding multiply nothing: inf stays inf and NaN stays out."""
    rng = np.random.default_rng(n)
    case = tvw_case(rng, 150, 120, 96, kind=kind, zeros=0.5)
    a = case.dense.T if transposed else case.dense
    x = special_values(rng, random_values(rng, (a.shape[1], n), dtype(kind)))
    wide = oracle.wide(x)
    expected = np.zeros((a.shape[0], n), np.longdouble)
    with np.errstate(all="ignore"):
        for row, col in zip(*np.nonzero(a), strict=True):
            expected[row] += a[row, col] * wide[col]
        got = oracle.wide(multiply(case.storage, x, isa, transposed=transposed))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(got[infinite], expected[infinite])


@isas
@pytest.mark.parametrize("n", [1, 64])
def test_subnormals_are_kept_and_no_row_is_minus_zero(isa, n):
    a = np.zeros((20, 32), np.float32)
    a[0, 3] = 1
    a[1, 4] = -1
    s = TVWMatrix(a).storage
    x = np.full((32, n), 1e-42, np.float32)
    got = multiply(s, x, isa)
    np.testing.assert_array_equal(got[0], x[0])
    got = multiply(s, np.zeros((32, n), np.float32), isa)
    assert not np.signbit(got[[0, *range(2, 20)]]).any()


@isas
def test_halves_round_and_widen_exactly(isa):
    """Every finite float16 goes through unchanged, subnormals and both infinities included."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[~np.isnan(every)][:63488].reshape(-1, 256)
    unit = np.eye(16, every.shape[0] + (-every.shape[0]) % 16, dtype=np.float16)
    for start in range(0, every.shape[0], 16):
        x = np.zeros((unit.shape[1], 256), np.float16)
        rows = every[start : start + 16]
        x[: rows.shape[0]] = rows
        got = multiply(TVWMatrix(unit).storage, x, isa)
        np.testing.assert_array_equal(got[: rows.shape[0]], rows)


@isas
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_results_round_to_nearest_even(isa, kind):
    rng = np.random.default_rng(0)
    wide = (rng.standard_normal((16, 4096)) * 10.0 ** rng.integers(-9, 6, (16, 4096))).astype("f4")
    eye = TVWMatrix(np.eye(16, dtype=dtype(kind))).storage
    out = np.empty((16, 4096), dtype(kind))
    engine(eye, isa).multiply(wide, "float32", bits(out), kind)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, wide.astype(dtype(kind)))


@compiled_only
@given(
    st.sampled_from(["C", "F", "strided", "reversed"]),
    st.sampled_from(["C", "F", "strided", "reversed"]),
    st.sampled_from([1, 3, 20, 70]),
    seeds,
)
def test_backend_takes_and_fills_any_memory(of_x, of_out, n, seed):
    rng = np.random.default_rng(seed)
    case = tvw_case(rng, 60, 40, 32)
    x = in_memory(random_values(rng, (40, n), np.dtype(np.float32)), of_x)
    packed = BACKEND.pack(case.storage)
    out = in_memory(np.full((60, n), 9, np.float32), of_out)
    assert BACKEND.matmul(packed, x, out) is out
    assert_close(out, case.dense, x, 32)
    new = BACKEND.matmul(packed, x)
    if n > 1:
        assert new.flags.f_contiguous == (abs(x.strides[0]) < abs(x.strides[1]))


@compiled_only
def test_a_result_may_overlap_x():
    rng = np.random.default_rng(0)
    case = tvw_case(rng, 64, 64, 32)
    x = random_values(rng, (64, 30), np.dtype(np.float32))
    expected = multiply(case.storage, x)
    packed = BACKEND.pack(case.storage)
    np.testing.assert_array_equal(BACKEND.matmul(packed, x, x), expected)
