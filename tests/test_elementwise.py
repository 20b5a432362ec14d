"""Functions of each element: NumPy's on the dense matrix, the layout kept.

Axes: every freedom of a storage, where values that share a place must be added before a function
sees them; dtypes; libraries.
"""

from __future__ import annotations

import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import storages
from test_arithmetic import matrices

from tvwarray import TVWMatrix
from tvwarray._entries import entries, merged
from tvwarray._sparray.elementwise import ZERO_PRESERVING

REAL = ["float32", "float64", "int32"]


@given(matrices(REAL), st.sampled_from(sorted(ZERO_PRESERVING)))
def test_functions_that_keep_zeros(matrix, name):
    A, a = matrix
    ufunc = getattr(np, name)
    with np.errstate(all="ignore"):
        expected = ufunc(a)
        theirs = getattr(sp.csr_array(a), name)()
    for got in (getattr(A, name)(), ufunc(A)):
        assert isinstance(got, TVWMatrix)
        got.check_format()
        assert got.storage.col_indices is A.storage.col_indices
        assert got.dtype == theirs.dtype
        # NumPy's vector loops and its scalar ones may differ in the last places.
        eps = np.finfo(np.result_type(got.dtype, np.float32)).eps
        np.testing.assert_allclose(got.toarray(), expected, rtol=4 * eps)


@given(matrices())
def test_abs_conjugate_real_imag_round(matrix):
    A, a = matrix
    for got, expected in (
        (abs(A), abs(a)),
        (np.abs(A), abs(a)),
        (A.conj(), a.conj()),
        (np.conj(A), a.conj()),
        (A.real, a.real),
        (A.imag, a.imag),
        (-A, -a),
        (round(A, 1), np.round(a, 1)),
        (np.round(A), np.round(a)),
    ):
        assert isinstance(got, TVWMatrix)
        got.check_format()
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got.toarray(), expected, rtol=1e-6)
    assert A.real.storage is A.storage or a.dtype.kind == "c"
    assert (A.conj(copy=False) is A) == (a.dtype.kind != "c")
    assert A.conj() is not A


@given(matrices(["float32", "float64", "complex128"]), st.sampled_from([1, 2, 3, 0.5, -1, 1.5]))
def test_power(matrix, n):
    A, a = matrix
    csr = sp.csr_array(a)
    with np.errstate(all="ignore"):
        expected = np.where(a != 0, a**n, 0)
        for got in (A**n, A.power(n), np.power(A, n)):
            assert got.dtype == csr.power(n).dtype
            np.testing.assert_allclose(got.toarray(), expected, rtol=1e-6)
    assert A.power(2, dtype="complex64").dtype == np.complex64
    for zero in (0, 0.0, np.zeros(())):
        with pytest.raises(NotImplementedError, match="every element one"):
            A**zero
    with pytest.raises(NotImplementedError, match="no scalar"):
        A ** np.ones(a.shape)


def test_integer_powers():
    A = TVWMatrix(np.arange(6).reshape(2, 3))
    np.testing.assert_array_equal((A**3).toarray(), np.arange(6).reshape(2, 3) ** 3)
    with pytest.raises(ValueError, match="negative integer"):
        A**-1
    with pytest.raises(NotImplementedError, match="booleans"):
        -TVWMatrix(np.eye(2, dtype=bool))


@given(storages(dtypes=["float32", "int32", "bfloat16", "complex64"], max_side=30))
def test_merging_leaves_one_value_at_each_place(s):
    m = merged(s)
    m.check()
    assert (m is s) or m.col_indices is s.col_indices
    places = [(row, col) for row, col, value in oracle.entries(m) if value != 0]
    assert len(set(places)) == len(places)
    np.testing.assert_array_equal(oracle.dense(m), oracle.dense(s))
    assert merged(m) is m or s.remainder is not None or m.nnz < s.nnz
    found = entries(s)
    total = np.zeros(s.shape, np.clongdouble)
    np.add.at(total, (found.rows, found.cols), found.data.astype(np.complex128))
    np.testing.assert_array_equal(total, oracle.dense(s))


def test_a_cast_that_rounds_adds_first():
    twice = TVWMatrix(np.full((4, 4), 0.5), vector=None).with_remainder(
        sp.csr_array(np.full((4, 4), 0.5))
    )
    np.testing.assert_array_equal(twice.astype(np.int32).toarray(), np.ones((4, 4), np.int32))
    np.testing.assert_array_equal(twice.astype(bool).toarray(), np.ones((4, 4), bool))
    gone = TVWMatrix(np.eye(4)).with_remainder(-sp.eye_array(4))
    assert gone.astype(bool).nnz == 0
    assert abs(gone).nnz == 0


def test_functions_on_other_libraries():
    xp = pytest.importorskip("array_api_strict")
    a = np.array([[0.25, 0, 0.5, 0], [0, 0.75, 0, -0.5]])
    A = TVWMatrix(xp.asarray(a, device=xp.Device("device1")))
    for name in sorted(set(ZERO_PRESERVING) - {"deg2rad", "rad2deg"}):
        got = getattr(A, name)()
        assert got.device == A.device
        with np.errstate(all="ignore"):
            np.testing.assert_allclose(got.to_device("cpu").toarray(), getattr(np, name)(a))
    with pytest.raises(TypeError, match="has no deg2rad"):
        A.deg2rad()
    for got, expected in ((abs(A), abs(a)), (-A, -a), (A**2, a**2), (A.imag, 0 * a)):
        np.testing.assert_array_equal(got.to_device("cpu").toarray(), expected)
    doubled = (A * xp.asarray([[2.0], [3.0]], device=A.device)).to_device("cpu")
    np.testing.assert_array_equal(doubled.toarray(), a * [[2.0], [3.0]])


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
def test_what_is_stored_as_zero_stays_positive_zero(dtype):
    """Fillers of tiles are no entries, whatever factor meets them."""
    rng = np.random.default_rng(0)
    a = sp.random_array((60, 50), density=0.1, rng=rng, format="csr", dtype=dtype)
    A = TVWMatrix(a, tile_rows=16)
    zero = A.storage.data == 0
    assert zero.any()
    row, column = np.full(50, -3.0, dtype), np.full((60, 1), -np.inf, dtype)
    for made in (A * -2, -A, A / -2, A * row, A * column, A * np.inf, A * np.float64(-1)):
        found = made.storage.data[zero]
        assert (found == 0).all()
        assert not np.signbit(found.real).any()
        assert not np.signbit(found.imag).any()
