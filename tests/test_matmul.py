"""Products against long-double loops, with bounds derived from the summation type.

Axes: every freedom of the format x dtypes of A and X x memory layout of X x side (A @ X, A.T @ X,
X @ A, linear). Results are compared with the dense product of the same values; NaN and infinity by
the rule stated in `tvwarray.matmul`.
"""

from __future__ import annotations

import math
import threading
import weakref

import array_api_strict as xp
import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import erf
from strategies import (
    dense_matrices,
    in_memory,
    operands,
    random_values,
    storages,
    two_four_mask,
)

import tvwarray
from tvwarray import BackendError, TVWMatrix

FLOAT_LIKE = ["float16", "bfloat16", "float32", "float64", "complex64", "complex128"]
SUMS = {"float16": "float32", "bfloat16": "float32"}


def check(got, a, x, *, terms, twice=False):
    """Hold a product against the exact one; with a remainder, 16-bit products round twice."""
    exact, size = oracle.matmul(a, x)
    assert got.shape == exact.shape
    sums = SUMS.get(got.dtype.name, got.dtype.name)
    bound = oracle.error_bound(exact, size, terms, got.dtype, sums)
    if twice and got.dtype.name != sums:  # what tiles and remainder give, `size` at most
        bound = bound + oracle.UNIT_ROUNDOFF[got.dtype.name] * 1.01 * size
    assert (np.abs(oracle.wide(got) - exact) <= bound).all()


def terms_of(s):
    """Return the most products that one element of ``A @ X`` adds up."""
    return s.col_indices.size + s.shape[1] + 1


def expected_dtype(a, x):
    if a == x:
        return a
    try:
        return np.result_type(a, x)
    except TypeError:
        return np.dtype("float32")


@given(storages(dtypes=FLOAT_LIKE), st.data())
def test_product_error_is_bounded(s, data):
    A = TVWMatrix.from_storage(s)
    x = data.draw(operands(s.shape[1], [s.dtype.name, *FLOAT_LIKE]))
    got = A @ x
    assert got.dtype == expected_dtype(s.dtype, np.dtype(x.dtype.newbyteorder("=")))
    check(got, oracle.dense(s), x, terms=terms_of(s), twice=s.remainder is not None)


@given(storages(dtypes=FLOAT_LIKE), st.data())
def test_transposed_product_error_is_bounded(s, data):
    A = TVWMatrix.from_storage(s)
    y = data.draw(operands(s.shape[0], [s.dtype.name, "float64"]))
    terms = s.row_indices.size * 48 + s.shape[0] + 1
    twice = s.remainder is not None
    check(A.T @ y, oracle.dense(s).T, y, terms=terms, twice=twice)
    check((y.T @ A).T, oracle.dense(s).T, y, terms=terms, twice=twice)


@given(storages(dtypes=["int8", "uint8", "int16", "int32", "int64", "uint32", "bool"]), st.data())
def test_integer_products_are_exact(s, data):
    A = TVWMatrix.from_storage(s)
    x = data.draw(operands(s.shape[1], [s.dtype.name]))
    wide = {"int8": "int32", "uint8": "int32"}.get(s.dtype.name, s.dtype.name)
    exact = oracle.dense(s).astype(np.int64) @ np.asarray(x).astype(np.int64)
    got = A @ x
    assert got.dtype == wide
    np.testing.assert_array_equal(got, exact != 0 if wide == "bool" else exact.astype(wide))
    if s.dtype.kind != "b":
        y = data.draw(operands(s.shape[0], [s.dtype.name]))
        exact = oracle.dense(s).astype(np.int64).T @ np.asarray(y).astype(np.int64)
        np.testing.assert_array_equal(A.T @ y, exact.astype(wide))


def test_int8_sums_do_not_saturate():
    A = TVWMatrix(np.full((3, 5000), -128, np.int8), vector=None)
    np.testing.assert_array_equal(A @ np.full(5000, -128, np.int8), np.full(3, 5000 * 2**14))


@given(storages(dtypes=["float8_e4m3fn", "float8_e5m2"]), st.data())
def test_float8_products_are_float32(s, data):
    x = data.draw(operands(s.shape[1], [s.dtype.name]))
    got = TVWMatrix.from_storage(s) @ x
    assert got.dtype == np.float32
    check(got, oracle.dense(s), x, terms=terms_of(s), twice=s.remainder is not None)


@given(storages(dtypes=["float32", "float64"], special=True, repeats=False), st.data())
def test_nan_and_infinity_stay_between_sparse_and_dense(s, data):
    """NaN where the stored nonzeros make it so, and nowhere that the dense product has none.

    Repeated columns are left out: each is a term of its own, and inf - inf is NaN where their sum
    is not.
    """
    x = data.draw(operands(s.shape[1], ["float64"], ndim=2)).astype(s.dtype)
    rng = np.random.default_rng(0)
    x = np.where(
        rng.random(x.shape) < 0.1, rng.choice([np.nan, np.inf, -np.inf], x.shape), x
    ).astype(s.dtype)
    A = TVWMatrix.from_storage(s)
    got = A @ x
    a = A.toarray()
    with np.errstate(all="ignore"):
        dense = oracle.wide(a) @ oracle.wide(x)
    sparse = np.zeros(dense.shape, np.longdouble)
    with np.errstate(all="ignore"):
        for row, col, value in oracle.entries(s):
            if value != 0:
                sparse[row] += oracle.wide(value) * oracle.wide(x[col])
    assert not (np.isnan(got) & ~np.isnan(dense)).any()
    assert (np.isnan(got) | ~np.isnan(sparse)).all()
    infinite = np.isinf(sparse) & ~np.isnan(got)
    np.testing.assert_array_equal(got[infinite], sparse[infinite].astype(s.dtype))


def test_columns_that_no_tile_keeps_are_never_read():
    a = np.zeros((40, 64), np.float32)
    a[:, 5] = 1
    x = np.full((64, 3), np.nan, np.float32)
    x[5] = 2
    A = TVWMatrix.from_dense(a, vector=None)
    np.testing.assert_array_equal(A @ x, np.full((40, 3), 2))


@given(storages(dtypes=["float32"]), st.sampled_from(["C", "F", "strided", "reversed"]), st.data())
def test_out_is_written_in_place(s, memory, data):
    A = TVWMatrix.from_storage(s)
    x = data.draw(operands(s.shape[1], ["float32"], ndim=2))
    out = in_memory(np.full((s.shape[0], x.shape[1]), 7, np.float32), memory)
    assert tvwarray.matmul(A, x, out=out) is out
    np.testing.assert_array_equal(out, A @ x)


def test_out_may_be_the_operand():
    A = TVWMatrix.from_dense(np.triu(np.ones((20, 20), np.float32)))
    x = np.arange(40, dtype=np.float32).reshape(20, 2)
    expected = A.toarray() @ x
    tvwarray.matmul(A, x, out=x)
    np.testing.assert_array_equal(x, expected)
    y = np.ones(20, np.float32)
    assert tvwarray.matmul(A, y, out=y) is y
    np.testing.assert_array_equal(y, np.arange(20, 0, -1))


def test_out_may_be_the_operand_beside_a_remainder():
    A = TVWMatrix(np.eye(16, dtype=np.float32)).with_remainder(sp.eye_array(16, k=1))
    x = np.arange(16, dtype=np.float32)
    tvwarray.matmul(A, x, out=x)
    np.testing.assert_array_equal(x, [*range(1, 30, 2), 15])


def test_a_remainder_needs_a_library_with_csr_products():
    A = TVWMatrix(np.eye(16, dtype=np.float32)).with_remainder(sp.eye_array(16, k=1))
    with pytest.raises(BackendError, match="Bring the matrix into tiles first"):
        A.to_device(xp.ones(1)) @ xp.ones(16, dtype=xp.float32)


@pytest.mark.parametrize("backend", ["cpu", "array"])
@pytest.mark.parametrize(("rows", "cols"), [(1024, 64), (1500, 48), (2100, 32)])
def test_tall_tiles(backend, rows, cols):
    """A 2:4 matrix is stored in tiles of 1024 rows, more than an engine may hold at once."""
    rng = np.random.default_rng(rows)
    a = np.where(two_four_mask(rng, rows, cols), rng.standard_normal((rows, cols)), 0)
    a = a.astype(np.float32)
    A = TVWMatrix(a)
    assert A.storage.rows_of.max() == 1024
    for n in (1, 5, 40):
        for order in "CF":
            x = np.asarray(rng.standard_normal((cols, n)).astype(np.float32), order=order)
            chosen = tvwarray.select_backend(A, x, backend=backend)
            if chosen.backend is None:
                assert "without its compiled extension" in str(chosen)
                continue
            check(tvwarray.matmul(A, x, backend=backend), a, x, terms=cols + 1)


@given(storages(), st.integers(1, 40))
def test_split_rows_is_the_same_matrix(s, most):
    split = s.split_rows(most)
    assert split.rows_of.max(initial=0) <= most
    assert split.data is s.data
    assert split.meta is s.meta
    split.check()
    got, expected = (TVWMatrix.from_storage(x).toarray() for x in (split, s))
    assert got.tobytes() == expected.tobytes()


def test_a_fortran_ordered_operand_gives_a_fortran_ordered_product():
    A = TVWMatrix.from_dense(np.eye(32, 48, dtype=np.float32))
    x = np.ones((6, 48), np.float32)
    assert (A @ x.T).flags.f_contiguous
    assert (x @ A.T).flags.c_contiguous
    assert (A @ np.ascontiguousarray(x.T)).flags.c_contiguous


ACTIVATIONS = {
    None: lambda y: y,
    "relu": lambda y: np.maximum(y, 0),
    "gelu": lambda y: y * 0.5 * (1 + erf(y / np.sqrt(2))),
    "gelu_tanh": lambda y: 0.5 * y * (1 + np.tanh(np.sqrt(2 / np.pi) * (y + 0.044715 * y**3))),
    "silu": lambda y: y / (1 + np.exp(-y)),
    np.tanh: np.tanh,
}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@given(st.data())
def test_linear(activation, data):
    s = data.draw(storages(dtypes=["float32", "float64", "float16"]))
    lead = tuple(data.draw(st.lists(st.integers(0, 4), max_size=3)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    x = random_values(rng, (*lead, s.shape[1]), s.dtype)
    rows_of_x = x.reshape(math.prod(lead), s.shape[1])
    bias = random_values(rng, (s.shape[0],), s.dtype) if data.draw(st.booleans()) else None
    A = TVWMatrix.from_storage(s)
    got = tvwarray.linear(x, A, bias, activation)
    y = rows_of_x.astype(np.float64) @ oracle.dense(s).astype(np.float64).T
    with np.errstate(over="ignore"):
        expected = ACTIVATIONS[activation](y + (0 if bias is None else bias.astype(np.float64)))
    assert got.dtype == s.dtype
    assert got.shape == (*lead, s.shape[0])
    # The activations have slopes below 1.13: the error of the product bounds theirs.
    _, size = oracle.matmul(oracle.dense(s), rows_of_x.T)
    u = oracle.UNIT_ROUNDOFF[s.dtype.name]
    slack = (terms_of(s) + 40) * oracle.UNIT_ROUNDOFF[SUMS.get(s.dtype.name, s.dtype.name)]
    rounded = np.abs(y) + (0 if s.remainder is None else size.T)
    bound = 1.2 * (slack * (size.T + 16) + 2 * u * (rounded + 16)) + 1e-7
    assert (np.abs(got.astype(np.float64).reshape(bound.shape) - expected) <= bound).all()
    out = np.empty_like(got)
    assert tvwarray.linear(x, A, bias, activation, out=out) is out
    np.testing.assert_array_equal(out, got)


def test_linear_keeps_nan_and_infinity():
    A = TVWMatrix.from_dense(np.eye(16, dtype=np.float32))
    x = np.zeros((1, 16), np.float32)
    x[0, :3] = np.nan, np.inf, -np.inf
    for name in ("relu", "silu", "gelu", "gelu_tanh"):
        with np.errstate(all="ignore"):
            y = tvwarray.linear(x[:, :1] * np.eye(1, 16, dtype=np.float32), A, activation=name)
        assert np.isnan(y[0, 0])
    dense = TVWMatrix.from_dense(np.diag(np.ones(16, np.float32)), vector=None, tile_rows=16)
    biased = tvwarray.linear(np.zeros((1, 16), np.float32), dense, x[0], "relu")
    np.testing.assert_array_equal(biased[0, :3], [np.nan, np.inf, 0])


@given(storages(dtypes=["float32", "float64", "int32"], remainders=False), st.data())
def test_any_array_library_runs_the_same_code(s, data):
    """array-api-strict stands for CuPy: another library, on a device that NumPy cannot touch."""
    device = xp.Device("device1")
    x = np.array(data.draw(operands(s.shape[1], [s.dtype.name])))
    x = np.ascontiguousarray(x.astype(s.dtype))
    A = TVWMatrix.from_storage(s)
    B = A.to_device(xp.asarray([0], device=device))
    assert B.device == device
    B.storage.check()
    got = B @ xp.asarray(x, device=device)
    assert got.device == device
    got = got.to_device(xp.Device("CPU_DEVICE"))
    if s.dtype.kind == "f":
        check(np.asarray(got), oracle.dense(s), x, terms=s.col_indices.size + 1)
    else:
        np.testing.assert_array_equal(np.asarray(got), A @ x)
    np.testing.assert_array_equal(np.asarray(B.to_device("cpu").toarray()), A.toarray())
    dense = B.toarray()
    assert dense.device == device
    y = np.ascontiguousarray(np.ones((s.shape[0], 2), s.dtype))
    back = (B.T @ xp.asarray(y, device=device)).to_device(xp.Device("CPU_DEVICE"))
    if s.dtype.kind == "f":
        check(np.asarray(back), oracle.dense(s).T, y, terms=s.row_indices.size * 48 + 1)
    else:
        np.testing.assert_array_equal(np.asarray(back), A.T @ y)


def test_mixed_libraries_and_devices_are_refused_with_reasons():
    A = TVWMatrix.from_dense(np.eye(16, dtype=np.float32))
    x = xp.ones((16, 2), dtype=xp.float32)
    with pytest.raises(BackendError, match="array: needs A and X of one array library"):
        A @ x
    B = A.to_device(x)
    far = xp.ones((16, 2), dtype=xp.float32, device=xp.Device("device1"))
    with pytest.raises(BackendError, match="on one device"):
        B @ far


def test_selection_says_why():
    A = TVWMatrix.from_dense(np.eye(16, dtype=np.float32))
    selection = tvwarray.select_backend(A, np.ones(16, np.float32), backend="array")
    assert str(selection) == "array: selected"
    none = tvwarray.select_backend(A, xp.ones(16), backend="array")
    assert none.backend is None
    assert "none fits" in str(none)
    assert "one array library" in str(none)
    with pytest.raises(ValueError, match=r"backend is 'gpu'; it is one of .*array"):
        tvwarray.matmul(A, np.ones(16), backend="gpu")


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.ones(15), r"A is \(8, 16\) and X \(15,\); X must have 16 rows"),
        (np.ones((16, 2, 2)), r"X \(16, 2, 2\); X must have 16 rows"),
        (np.array(["a"] * 16), "str"),
        (np.array([None] * 16), "object"),
        (np.ma.masked_array(np.ones(16)), "masked"),
    ],
)
def test_bad_operands(x, message):
    A = TVWMatrix.from_dense(np.eye(8, 16))
    with pytest.raises(ValueError, match=message):
        A @ x


def test_operands_that_are_no_arrays():
    A = TVWMatrix.from_dense(np.eye(3, 4))
    np.testing.assert_array_equal(A @ [1, 2, 3, 4], [1, 2, 3])
    np.testing.assert_array_equal([1, 2, 3] @ A, [1, 2, 3, 0])
    np.testing.assert_array_equal(tvwarray.linear([1.0, 2, 3, 4], A, [1.0, 1, 1]), [2, 3, 4])
    for bad in (2, 2.0, np.array(3)):
        with pytest.raises(ValueError, match="no scalar"):
            A @ bad
        with pytest.raises(ValueError, match="no scalar"):
            bad @ A
    with pytest.raises(ValueError, match="tocsr"):
        tvwarray.matmul(A, sp.eye_array(4))


def test_bad_out_bias_and_activation():
    A = TVWMatrix.from_dense(np.eye(8, 16, dtype=np.float32))
    x = np.ones((16, 2), np.float32)
    read_only = np.empty((8, 2), np.float32)
    read_only.flags.writeable = False
    for out, message in (
        (np.empty((8, 3), np.float32), "of shape"),
        (np.empty((8, 2)), "float64"),
        (read_only, "read-only"),
        ([[0, 0]] * 8, "array"),
        (xp.empty((8, 2), dtype=xp.float32), "library of X"),
    ):
        with pytest.raises(ValueError, match=message):
            tvwarray.matmul(A, x, out=out)
    with pytest.raises(ValueError, match=r"bias has shape \(3,\)"):
        tvwarray.linear(x.T, A, np.ones(3))
    with pytest.raises(ValueError, match="relu, gelu"):
        tvwarray.linear(x.T, A, activation="swish")
    with pytest.raises(ValueError, match="last axis must be 16"):
        tvwarray.linear(x, A)
    with pytest.raises(ValueError, match="gelu_tanh"):
        tvwarray.linear(
            xp.ones((2, 16), dtype=xp.float32), A.to_device(xp.ones(1)), activation="gelu"
        )
    y = tvwarray.linear(
        xp.ones((2, 16), dtype=xp.float32), A.to_device(xp.ones(1)), activation="silu"
    )
    np.testing.assert_allclose(np.asarray(y), np.full((2, 8), 1 / (1 + np.exp(-1))), rtol=1e-6)


@given(dense_matrices(dtypes=["float32"], max_side=40))
def test_a_read_only_operand_is_left_alone(a):
    A = TVWMatrix(np.where(a != 0, np.float32(1), np.float32(0)))
    x = np.ones((a.shape[1], 2), np.float32)
    x.flags.writeable = False
    A @ x
    assert (x == 1).all()


def test_a_matrix_is_packed_once_and_forgotten_with_it(monkeypatch):
    from tvwarray._backends import array

    packs = []
    pack = array.ArrayBackend.pack
    monkeypatch.setattr(
        array.ArrayBackend, "pack", lambda self, s: packs.append(1) or pack(self, s)
    )
    A = TVWMatrix.from_dense(np.eye(64))

    def product(A=A):
        return tvwarray.matmul(A, np.ones(64), backend="array")

    threads = [threading.Thread(target=product) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    product()
    tvwarray.matmul(A.T, np.ones(64), backend="array")
    assert len(packs) == 1
    storage = weakref.ref(A.storage)
    del A, product, threads, thread
    assert storage() is None


def test_large_batches_are_cut(monkeypatch):
    """Bounds on the gathered panel and on the slot products change no result."""
    from tvwarray._backends import array

    rng = np.random.default_rng(1)
    A = tvwarray.sparsify(rng.standard_normal((200, 300)), 0.6, tile_rows=64)
    x, y = rng.standard_normal((300, 70)), rng.standard_normal((200, 70))
    expected = A.toarray() @ x, A.toarray().T @ y
    monkeypatch.setattr(array, "_PANEL_BYTES", 1)
    monkeypatch.setattr(array, "_PANEL_COLUMNS", 64)
    monkeypatch.setattr(array, "_STACK_BYTES", 1)
    for order in "CF":
        np.testing.assert_allclose(A @ np.asarray(x, order=order), expected[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(
            A.T @ np.asarray(y, order=order), expected[1], rtol=0, atol=1e-12
        )
