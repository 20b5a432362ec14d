"""Arithmetic and comparisons against NumPy on dense arrays, dtypes against `csr_array`.

Axes: every freedom of a storage (repeated columns, remainders, transposed), what stands on the
other side, which side it stands on, dtypes. Values are small integers and halves, whose sums and
products are exact.
"""

from __future__ import annotations

import operator
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_values, seeds, storages

from tvwarray import BackendError, TVWMatrix

DTYPES = ["float32", "float64", "int32", "complex64", "complex128"]
VECTORS = ["row", "flat row", "column"]
SPARSE = ["csr", "coo", "bsr", "tvw", "tvw.T"]
COMPARISONS = [operator.eq, operator.ne, operator.lt, operator.gt, operator.le, operator.ge]


@st.composite
def matrices(draw: st.DrawFn, dtypes: list[str] = DTYPES) -> tuple[TVWMatrix, np.ndarray]:
    """Draw a matrix and what it is, dense."""
    s = draw(storages(dtypes=dtypes, max_side=30))
    A = TVWMatrix.from_storage(s, transposed=draw(st.booleans()))
    a = oracle.dense(s).astype(s.dtype)
    return A, a.T if A.transposed else a


def other_side(name: str, shape: tuple[int, int], kind: str, rng: Any) -> tuple[Any, np.ndarray]:
    """Return an operand of this name and what it is, dense."""
    if name == "scalar":
        value = random_values(rng, (), np.dtype(kind))[()]
        return value, value
    rows, cols = shape
    shapes = {"row": (1, cols), "flat row": (cols,), "column": (rows, 1)}
    b = random_values(rng, shapes.get(name, shape), np.dtype(kind))
    if name not in SPARSE:
        return b, b
    b = np.where(rng.random(shape) < 0.4, b, 0).astype(kind)
    if name.startswith("tvw"):
        return (TVWMatrix(b.T).T if name == "tvw.T" else TVWMatrix(b)), b
    return sp.coo_array(b).asformat(name), b


def check(got: Any, expected: np.ndarray, theirs: Any, kept: bool = False) -> None:
    """Compare values with NumPy's, the dtype with scipy's, and what holds the result."""
    dense = got if isinstance(got, np.ndarray) else got.toarray()
    np.testing.assert_array_equal(dense, expected)
    assert got.dtype == theirs.dtype
    if kept:
        assert isinstance(got, TVWMatrix)
        got.check_format()
    else:
        assert isinstance(got, np.ndarray) == isinstance(theirs, np.ndarray)
        assert isinstance(got, np.ndarray | sp.sparray)


@given(matrices(), st.sampled_from(["scalar", *VECTORS, "dense", *SPARSE]),
       st.sampled_from(DTYPES), seeds)  # fmt: skip
def test_multiply_and_divide(matrix, name, kind, seed):
    A, a = matrix
    other, b = other_side(name, A.shape, kind, np.random.default_rng(seed))
    theirs = other.tocsr() if name in SPARSE else other
    csr = sp.csr_array(a)
    kept = name in ("scalar", *VECTORS)
    check(A * other, a * b, csr * theirs, kept)
    check(A.multiply(other), a * b, csr.multiply(theirs), kept)
    if name not in SPARSE:
        check(other * A, b * a, theirs * csr, kept)
    with np.errstate(all="ignore"):
        if name in SPARSE:
            wide = a if a.dtype.kind == "c" else a.astype(np.result_type(a, b, np.float64))
            got = A / other
            assert isinstance(got, np.ndarray)
            if a.dtype.kind != "c" == b.dtype.kind:
                assert got.dtype == np.complex128  # scipy drops the imaginary parts
            else:
                assert got.dtype == (csr / theirs).dtype
            sure = (b != 0) | (got.dtype.kind != "c")  # complex x / 0 differs by library
            np.testing.assert_allclose(got[sure], (wide / b)[sure], rtol=1e-6)
        elif name != "scalar":
            powers = np.exp2(np.ceil(abs(b) % 4)).astype(b.dtype)  # whose inverses are exact
            check(A / powers, a * (1 / powers), csr / powers, kept)
        else:
            check(A / 4, a.astype((csr / 4).dtype) / 4, csr / 4, kept)
            got = A / other
            assert got.dtype == (csr / other).dtype
            parts = abs(A.storage.data).sum() / abs(other)  # bounds what is added up at a place
            np.testing.assert_allclose(got.toarray(), a / b, rtol=1e-6, atol=1e-6 * parts)


@given(matrices(), st.sampled_from([*VECTORS, "dense", *SPARSE]), st.sampled_from(DTYPES), seeds)
def test_add_and_subtract(matrix, name, kind, seed):
    A, a = matrix
    other, b = other_side(name, A.shape, kind, np.random.default_rng(seed))
    theirs = other.tocsr() if name in SPARSE else other
    csr = sp.csr_array(a)
    check(A + other, a + b, csr + theirs)
    check(A - other, a - b, csr - theirs)
    check(other + A, b + a, theirs + csr)
    check(other - A, b - a, theirs - csr)
    assert A + 0 is A
    assert 0 + A is A
    assert A - 0 is A
    np.testing.assert_array_equal((0 - A).toarray(), -a)
    for refused in (lambda: A + 1, lambda: A - 1, lambda: 2 - A):
        with pytest.raises(NotImplementedError, match="toarray"):
            refused()


@given(matrices(["float32", "float64", "int32"]), st.sampled_from(["scalar", "dense", *SPARSE]),
       st.sampled_from(COMPARISONS), seeds)  # fmt: skip
def test_comparisons_and_extrema(matrix, name, op, seed):
    A, a = matrix
    other, b = other_side(name, A.shape, "float32", np.random.default_rng(seed))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sp.SparseEfficiencyWarning)
        for got, expected in (
            (op(A, other), op(a, b)),
            (op(other, A), op(b, a)),
            (A.maximum(other), np.maximum(a, b)),
            (A.minimum(other), np.minimum(a, b)),
        ):
            dense = got if isinstance(got, np.ndarray) else got.toarray()
            np.testing.assert_array_equal(dense, expected)
            assert dense.dtype == expected.dtype
            assert isinstance(got, np.ndarray | sp.sparray)


def test_what_is_no_operand():
    A = TVWMatrix(np.eye(3, 5))
    for other in (None, "2", object(), [object()]):
        for op in (operator.mul, operator.truediv, operator.add, operator.sub, operator.matmul):
            with pytest.raises(TypeError):
                op(A, other)
            with pytest.raises(TypeError):
                op(other, A)
        assert (other == A) is False
        with pytest.raises(NotImplementedError, match="is not supported"):
            A.maximum(other)
    with pytest.raises(TypeError):
        1 / A
    with pytest.raises(ValueError, match="masked array"):
        A * np.ma.masked_array(np.ones(5), mask=[0, 1, 0, 0, 0])
    for op in (operator.add, operator.sub, operator.mul):
        with pytest.raises(ValueError, match="inconsistent shapes"):
            op(A, sp.eye_array(4, 5))
    with pytest.raises(ValueError, match="broadcast"):
        A + np.ones((2, 5))


def test_an_operand_of_one_element_is_a_scalar():
    A = TVWMatrix(np.eye(3, 5))
    for one in (np.array([2.0]), np.array([[2.0]]), [2.0], [[2.0]]):
        assert isinstance(A * one, TVWMatrix)
        np.testing.assert_array_equal((A * one).toarray(), 2 * np.eye(3, 5))
    row = TVWMatrix(np.ones((1, 4)))
    np.testing.assert_array_equal((row * np.ones((3, 1))).toarray(), np.ones((3, 4)))


def test_a_factor_multiplies_entries_alone():
    A = TVWMatrix(np.diag([1.0, 2, 3, 4]))
    factors = np.array([np.nan, np.inf, 0, 5])
    for got in (A * factors, A.T * factors, A * factors[:, None]):
        np.testing.assert_array_equal(got.toarray(), np.diag([np.nan, np.inf, 0, 20]))
        assert got.nnz == 3
    np.testing.assert_array_equal((A / factors).diagonal(), [np.nan, 0, np.inf, 0.8])


@pytest.mark.parametrize("kind", ["float32", "float64", "complex64"])
def test_in_place_operators_keep_floats(kind):
    a = np.arange(12, dtype=kind).reshape(3, 4)
    A = TVWMatrix(a)
    before = A
    A /= 3
    assert A is not before
    assert A.dtype == kind
    np.testing.assert_array_equal(A.toarray(), a / np.asarray(3, kind))
    A *= 2
    A += TVWMatrix(a)
    np.testing.assert_allclose(A.toarray(), a / 3 * 2 + a, rtol=1e-6)
    np.testing.assert_array_equal(before.toarray(), a)
    B = TVWMatrix(a.real.astype(np.int32))
    B /= 2
    assert B.dtype == np.float64


def test_narrow_floats_keep_their_type_with_their_layout():
    A = TVWMatrix(np.eye(4)).astype("bfloat16")
    for kept in (A * 2, A / 2, -A, abs(A), A.sin(), A**2, A * np.ones(4, np.float16).astype("i1")):
        assert kept.dtype.name == "bfloat16"
    assert (A + A).dtype == A.tocsr().dtype == A.max(axis=0).dtype == np.float32
    assert (A != A).nnz == 0
    assert A.sum().dtype == np.float32


def test_nothing_is_copied_to_the_host_unasked():
    xp = pytest.importorskip("array_api_strict")
    A = TVWMatrix(xp.asarray(np.eye(4), device=xp.Device("device1")))
    assert (A * 2).device == A.device
    assert (A * xp.ones(4, device=A.device)).device == A.device
    assert (A - A * 2).device == A.device  # of one layout
    np.testing.assert_array_equal(A.to_device("cpu").toarray(), np.eye(4))
    for refused in (
        lambda: A + A.T, lambda: A @ A, lambda: A == A, lambda: A.sum(), lambda: A[0],
        lambda: A.maximum(0), lambda: A.nonzero(), lambda: list(A),
    ):  # fmt: skip
        with pytest.raises(BackendError, match="to_device"):
            refused()


def test_ufuncs_of_other_libraries_arrive_by_numpy():
    """``x @ A`` of CuPy is ``numpy.matmul(x, A)``, which comes here when CuPy knows no answer."""
    xp = pytest.importorskip("array_api_strict")
    a = np.arange(12.0).reshape(3, 4)
    A = TVWMatrix(xp.asarray(a))
    x = xp.ones((2, 3), dtype=xp.float64)
    got = A.__array_ufunc__(np.matmul, "__call__", x, A)
    np.testing.assert_array_equal(np.from_dlpack(got), np.ones((2, 3)) @ a)
    got = A.__array_ufunc__(np.add, "__call__", xp.asarray(a), A)
    np.testing.assert_array_equal(np.from_dlpack(got), 2 * a)


@given(matrices(["float32", "float64", "int32", "complex64", "bool"]), seeds)
def test_matrices_of_one_layout_keep_it(matrix, seed):
    """Values are computed where they stand; dtypes are scipy's."""
    A, a = matrix
    rng = np.random.default_rng(seed)
    data = A.storage.data * np.asarray(rng.integers(0, 3, A.storage.data.shape), A.dtype)
    B = A.from_storage(replace(A.storage, data=data), transposed=A.transposed)
    b, csr_a, csr_b = B.toarray(), A.tocsr(), B.tocsr()
    for op in (operator.add, operator.sub, operator.mul):
        if op is operator.sub and a.dtype == bool:
            continue
        got = op(A, B)
        np.testing.assert_array_equal(got.toarray(), op(a, b))
        assert got.dtype == op(csr_a, csr_b).dtype
        if A.storage.remainder is None and op is not operator.mul:
            assert got.format == "tvw"
            assert got.storage.row_indices is A.storage.row_indices
        if got.format == "tvw":
            got.storage.check()


def test_infinity_times_no_entry_is_what_scipy_makes_of_it():
    a = np.array([[np.inf, np.nan, 1, 0]])
    A = TVWMatrix(a)
    data = np.where(np.isinf(A.storage.data), 0, 2 * (A.storage.data != 0))  # none beside infinity
    B = A.from_storage(replace(A.storage, data=data.astype(A.dtype)))
    assert (A * B).format == "tvw"
    expected = A.tocsr().multiply(B.tocsr()).toarray()
    np.testing.assert_array_equal((A * B).toarray(), expected)


def test_layouts_that_only_look_alike():
    a = np.eye(40)
    A = TVWMatrix(a, tile_rows=16)
    B = TVWMatrix(np.roll(a, 1, axis=1), tile_rows=16)
    for C in (B, A.T, A.with_remainder(sp.csr_array(a)), A.astype("float16"), A[:20]):
        if C.shape == A.shape:
            assert (A + C).format == "csr"
            np.testing.assert_array_equal((A + C).toarray(), a + C.toarray())
        else:
            with pytest.raises(ValueError, match="inconsistent shapes"):
                A + C
    assert (A.astype("float16") + A.astype("float16")).dtype == np.float32  # as CSR has it
