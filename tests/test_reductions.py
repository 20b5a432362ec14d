"""Reductions and NumPy's protocols, against NumPy on the dense matrix."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import assume, given
from hypothesis import strategies as st
from test_arithmetic import matrices

from tvwarray import TVWMatrix

REAL = ["float32", "float64", "int32"]


def same(got: object, expected: np.ndarray, size: float = 0.0) -> None:
    """Compare values, up to the rounding of sums of this `size`, and dtypes."""
    dense = got.toarray() if sp.issparse(got) else got
    np.testing.assert_allclose(dense, expected, rtol=1e-6, atol=1e-12 * size)
    assert np.asarray(dense).dtype == expected.dtype


@given(matrices(["float64", "int32", "complex128"]), st.sampled_from([None, 0, 1, -1, -2]))
def test_sums_and_means(matrix, axis):
    A, a = matrix
    same(A.sum(axis=axis), a.sum(axis=axis))
    same(np.sum(A, axis=axis), a.sum(axis=axis))
    same(A.sum(axis=axis, dtype=np.complex128), a.sum(axis=axis, dtype=np.complex128))
    np.testing.assert_array_equal(A.count_nonzero(axis=axis), np.count_nonzero(a, axis=axis))
    assume(a.size)
    same(A.mean(axis=axis), a.mean(axis=axis), abs(a).sum())
    same(np.mean(A, axis), a.mean(axis=axis), abs(a).sum())


@given(matrices(REAL), st.sampled_from([None, 0, 1, -1]))
def test_extremes(matrix, axis):
    A, a = matrix
    if not a.size:
        with pytest.raises(ValueError, match=r"zero-size|empty"):
            A.argmax()
        return
    for name in ("max", "min", "nanmax", "nanmin"):
        expected = getattr(np, name)(a, axis=axis)
        same(getattr(A, name)(axis=axis), expected)
        same(getattr(np, name)(A, axis=axis), expected)
    for name in ("argmax", "argmin"):
        place = getattr(A, name)(axis=axis)
        np.testing.assert_array_equal(place, getattr(np, name)(a, axis=axis))
        np.testing.assert_array_equal(place, getattr(np, name)(A, axis=axis))
    if A.nnz and axis is None:
        assert A.max(explicit=True) == a[a != 0].max()


@given(
    matrices(["bool", "int8", "uint16", "int64", "float32", "float64", "complex64"]),
    st.sampled_from([None, 0, 1, -1, (0,), (-1,), (0, 1), (1, -2), (0, 0), 2, True, 1.0]),
    st.sampled_from([None, np.float32, np.complex128]),
)
def test_reductions_are_those_of_csr(matrix, axis, kind):
    """Shapes, dtypes and errors: values are compared with NumPy above."""
    A, a = matrix
    csr = sp.csr_array(a)
    assume(kind != np.float32 or a.dtype.kind != "c")  # which warns
    calls = [
        lambda S: S.sum(axis=axis),
        lambda S: S.sum(axis=axis, dtype=kind),
        lambda S: S.mean(axis=axis, dtype=kind),
        lambda S: S.count_nonzero(axis=axis),
        lambda S: S.max(axis=axis),
        lambda S: S.min(axis=axis, explicit=True),
        lambda S: S.nanmin(axis=axis),
        lambda S: S.diagonal(1),
        lambda S: S.trace(),
    ]
    if type(axis) is int and axis in (0, 1):
        outs = [np.zeros(a.shape[1 - axis] + k, np.complex128) for k in (0, 1)]
        calls += [lambda S, out=out: S.sum(axis=axis, out=out) for out in outs]
        calls += [lambda S, out=out: S.mean(axis=axis, out=out) for out in outs]
    stored = A.storage.data.astype(np.complex128)
    if A.storage.remainder is not None:
        stored = np.concatenate([stored, A.storage.remainder.data])
    for call in calls:
        try:
            expected = call(csr)
        except Exception as e:
            with pytest.raises(type(e)):
                call(A)
            continue
        got = call(A)
        assert type(got) is type(expected)
        assert (got.shape, got.dtype) == (expected.shape, expected.dtype)
        dense, theirs = (x.toarray() if sp.issparse(x) else x for x in (got, expected))
        # Either adds what is stored, or the elements, in an order of its own, each addition rounded
        # in the matrix's type or the result's; a mean is rounded twice more.
        units = [np.finfo(d).eps / 2 for d in (a.dtype, dense.dtype) if d.kind in "fc"]
        bound = 2 * (len(stored) + 2) * max(units, default=0) * np.abs(stored).sum()
        np.testing.assert_allclose(dense, theirs, rtol=0, atol=bound)


@pytest.mark.parametrize("axis", [1, -1, True])
def test_sums_of_zero_do_not_change_the_dtype_of_counts(axis):
    """SciPy counts rows by another way where zeros are stored, and in int64."""
    data = np.zeros((2, 16), np.int8)
    data[:, :3] = [[5, -5, 0], [5, 0, 4]]
    A = TVWMatrix.from_components(
        shape=(2, 2),
        vector=None,
        row_indptr=np.array([0, 2], np.int32),
        row_indices=np.array([0, 1], np.int32),
        col_indptr=np.array([0, 16], np.int32),
        col_indices=np.array([1, 1, 0] + 13 * [-1], np.int32),
        data=data.ravel(),
    )
    assert (A.host_csr("test").data == 0).any()
    got = A.count_nonzero(axis=axis)
    np.testing.assert_array_equal(got, [0, 2])
    assert got.dtype == sp.csr_array(A.toarray()).count_nonzero(axis=axis).dtype


@given(matrices(["float32", "complex64"]), st.integers(-40, 40))
def test_diagonals_and_places(matrix, k):
    A, a = matrix
    np.testing.assert_array_equal(A.diagonal(k), a.diagonal(k) if -a.shape[0] <= k <= a.shape[1]
                                  else [])  # fmt: skip
    np.testing.assert_allclose(A.trace(), a.trace(), rtol=1e-6)
    for got, expected in zip(A.nonzero(), a.nonzero(), strict=True):
        np.testing.assert_array_equal(np.sort(got), np.sort(expected))
    np.testing.assert_array_equal(A.toarray()[A.nonzero()], a[A.nonzero()])


def test_reshape_and_what_has_nothing_to_do():
    a = np.arange(12).reshape(3, 4)
    A = TVWMatrix(a)
    assert A.reshape(3, 4) is A
    assert A.reshape((3, 4), copy=True) is not A
    for order in "CF":
        np.testing.assert_array_equal(
            A.reshape((2, -1), order=order).toarray(), a.reshape((2, -1), order=order)
        )
    assert A.eliminate_zeros() is A.sum_duplicates() is None
    A.check_format()
    assert A.totvw() is A
    assert A.totvw(copy=True).storage is not A.storage


def test_truth_length_and_hash():
    assert TVWMatrix([[2]])
    assert not TVWMatrix([[0]])
    with pytest.raises(ValueError, match="ambiguous"):
        bool(TVWMatrix(np.eye(2)))
    with pytest.raises(TypeError, match="unhashable"):
        hash(TVWMatrix(np.eye(2)))


def test_numpy_functions():
    a = np.array([[0.0, 1, 2], [3, 0, 0]])
    A = TVWMatrix(a)
    x, y = np.arange(3.0), np.arange(2.0)
    np.testing.assert_array_equal(np.dot(A, x), a @ x)
    np.testing.assert_array_equal(np.dot(y, A), y @ a)
    np.testing.assert_array_equal(np.dot(A, A.T).toarray(), a @ a.T)
    np.testing.assert_array_equal(np.dot(A, 2).toarray(), a * 2)
    np.testing.assert_array_equal(np.matmul(A, x), a @ x)
    np.testing.assert_array_equal(np.matmul(y, A), y @ a)
    np.testing.assert_array_equal(np.transpose(A).toarray(), a.T)
    np.testing.assert_array_equal(np.reshape(A, (3, 2)).toarray(), a.reshape(3, 2))
    np.testing.assert_array_equal(np.copy(A).toarray(), a)
    assert (np.shape(A), np.ndim(A), np.size(A)) == ((2, 3), 2, 3)
    assert (np.trace(A), np.count_nonzero(A)) == (0, 3)
    assert np.isrealobj(A)
    assert np.common_type(A, np.ones(2, np.complex64)) == np.complex128
    assert np.result_type(A, A.astype("int8"), np.float32) == np.float64
    assert not np.iscomplexobj(A)
    assert np.real(A).dtype == np.imag(A).dtype == np.float64
    np.testing.assert_array_equal(np.diagonal(A), [0, 0])
    np.testing.assert_array_equal(np.nonzero(A), a.nonzero())


def test_numpy_ufuncs():
    a = np.array([[0.0, 1, 2], [3, 0, 0]])
    A, x = TVWMatrix(a), np.ones((2, 3))
    for ufunc in (np.add, np.subtract, np.maximum, np.minimum, np.less, np.greater_equal):
        np.testing.assert_array_equal(ufunc(A, x), ufunc(a, x))
        np.testing.assert_array_equal(ufunc(x, A), ufunc(x, a))
    np.testing.assert_array_equal(np.multiply(x, A).toarray(), a)
    np.testing.assert_array_equal((np.float64(2) * A).toarray(), 2 * a)
    np.testing.assert_array_equal(np.square(A).toarray(), a * a)
    assert np.square(A).format == "tvw"
    out = np.ones((2, 3))
    assert np.add(A, x, out=out) is out
    np.testing.assert_array_equal(out, a + 1)
    x += A
    np.testing.assert_array_equal(x, a + 1)


@pytest.mark.parametrize(
    "call",
    [
        lambda A, x: np.cos(A),
        lambda A, x: np.exp(A),
        lambda A, x: np.divide(x, A),
        lambda A, x: np.floor_divide(A, x),
        lambda A, x: np.add.reduce(A),
        lambda A, x: np.add(A, x, where=x > 0),
        lambda A, x: np.multiply(x, A, out=x),
        lambda A, x: np.linalg.norm(A),
        lambda A, x: np.concatenate([A, x]),
        lambda A, x: np.sum(x, out=A),
        lambda A, x: np.einsum("ij,ij", A, x),
    ],
)
def test_what_numpy_cannot_do_is_refused(call):
    x = np.ones((2, 3))
    with pytest.raises(TypeError, match=r"toarray|x \* A"):
        call(TVWMatrix(np.ones((2, 3))), x)
    np.testing.assert_array_equal(x, np.ones((2, 3)))


def test_print_lists_entries():
    text = str(TVWMatrix(np.diag([1, 2])))
    assert text.endswith("Coords\tValues\n  (0, 0)\t1\n  (1, 1)\t2")
    assert str(TVWMatrix((2, 2))) == repr(TVWMatrix((2, 2)))
    many = str(TVWMatrix(np.arange(75).reshape(5, 15))).splitlines()
    assert "  :\t:" in many
    assert many[-1] == "  (4, 14)\t74"
    assert sum(line.startswith("  (") for line in many) == 50
