"""Indexing against NumPy on the dense matrix; slices of whole tiles stay tile-vector-wise."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from strategies import storages
from test_arithmetic import matrices

from tvwarray import TVWMatrix
from tvwarray._sparray.indexing import take_rows


def parts(draw: st.DrawFn, length: int) -> Any:
    """Draw an index of one axis: an integer, a slice of any step, a list, or a mask."""
    slices = st.builds(
        slice,
        st.none() | st.integers(-length - 2, length + 2),
        st.none() | st.integers(-length - 2, length + 2),
        st.sampled_from([None, 1, 2, -1, -3]),
    )
    if not length:
        return draw(slices)
    integers = st.integers(-length, length - 1)
    kind = draw(st.sampled_from(["integer", "slice", "slice", "list", "mask"]))
    if kind == "list":
        return draw(st.lists(integers, min_size=1, max_size=5))
    if kind == "mask":
        return np.array(draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    return draw(integers if kind == "integer" else slices)


@given(matrices(["float32", "int32"]), st.data())
def test_any_index_reads_what_numpy_reads(matrix, data):
    A, a = matrix
    row, col = parts(data.draw, A.shape[0]), parts(data.draw, A.shape[1])
    csr = sp.csr_array(a)
    for key in (row, (row, col), (slice(None), col)):
        try:
            theirs = csr[key]
        except Exception as e:  # what scipy cannot do, lists beside strides at times, is as it is
            with pytest.raises(type(e)):
                A[key]
            continue
        got = A[key]
        assert got.dtype == a.dtype
        if not sp.issparse(theirs):
            np.testing.assert_array_equal(got, theirs)
            continue
        assert isinstance(got, TVWMatrix | sp.sparray)
        if isinstance(got, TVWMatrix):
            got.check_format()
        np.testing.assert_array_equal(got.toarray(), theirs.toarray())
        if not isinstance(row, list) and not isinstance(col, list):
            np.testing.assert_array_equal(got.toarray(), a[key])


@given(storages(dtypes=["float32", "bfloat16", "int8"]), st.data())
def test_rows_are_taken_as_they_are(s, data):
    start = data.draw(st.integers(0, s.shape[0]))
    stop = data.draw(st.integers(start, s.shape[0]))
    part, whole = take_rows(s, start, stop)
    part.check()
    assert part.shape == (stop - start, s.shape[1])
    assert part.dtype == s.dtype
    inside = (s.row_indices >= start) & (s.row_indices < stop)
    tiles = np.repeat(np.arange(s.num_tiles), s.rows_of)
    assert whole == all(inside[tiles == t].all() for t in set(tiles[inside]))
    np.testing.assert_array_equal(oracle.dense(part), oracle.dense(s)[start:stop])


def test_slices_of_whole_tiles_stay_and_share():
    rng = np.random.default_rng(0)
    a = rng.random((100, 64)) * (rng.random((100, 64)) < 0.3)
    A = TVWMatrix(a, tile_rows=32)
    for got, expected in (
        (A[32:64], a[32:64]),
        (A[:64], a[:64]),
        (A[64:], a[64:]),
        (A[96:, :], a[96:]),
        (A[:], a),
        (A[-4:, ...], a[-4:]),
        (A.T[:, 32:64], a.T[:, 32:64]),
        (A.T[...], a.T),
    ):
        np.testing.assert_array_equal(got.toarray(), expected)
    for kept in (A[32:64], A[:64], A[64:], A[96:, :], A[:], A.T[:, 32:64], A.T[:]):
        assert isinstance(kept, TVWMatrix)
        assert np.shares_memory(kept.storage.data, A.storage.data)
        assert np.shares_memory(kept.storage.meta, A.storage.meta)
    for cut in (A[31:64], A[32:63], A[32:64, 1:], A[32:64:2], A[5], A.T[:, 1:64], A.T[1:]):
        assert isinstance(cut, sp.sparray)
        assert cut.format in ("csr", "coo")
    rows = A[32:64] @ np.ones(64)
    np.testing.assert_allclose(rows, a[32:64].sum(axis=1))


def test_a_row_of_a_huge_matrix_costs_what_it_holds():
    n = 2**31 - 1
    A = TVWMatrix((np.ones(3), ([0, 5, n - 1], [7, n - 1, 0])), shape=(n, n))
    assert A[5, n - 1] == A[-1, 0] == A.T[7, 0] == 1
    assert A[5, 0] == 0
    assert A[5].nnz == 1
    assert A[n - 2 :].nnz == 1
    assert A[:10].shape == (10, n)


@pytest.mark.parametrize(
    "key", [3, -4, (0, 5), (0, -6), (1, 2, 3), "a", 1.5, (0, 1.5), (slice(None), 9)]
)
def test_what_is_no_index(key):
    A = TVWMatrix(np.eye(3, 5))
    with pytest.raises((IndexError, TypeError)):
        A[key]
    with pytest.raises((IndexError, TypeError)):
        A.T[key[::-1] if isinstance(key, tuple) else (slice(None), key)]


def test_masks_and_iteration():
    rng = np.random.default_rng(1)
    a = rng.integers(-2, 3, (6, 9))
    A = TVWMatrix(a)
    np.testing.assert_array_equal(A[A > 0], a[a > 0])
    np.testing.assert_array_equal(A[TVWMatrix(a > 0)], a[a > 0])
    np.testing.assert_array_equal(A[a > 0], a[a > 0])
    for row, expected in zip(A, a, strict=True):
        np.testing.assert_array_equal(row.toarray(), expected)


def test_nothing_is_assigned():
    A = TVWMatrix(np.eye(3, 5))
    for change in (
        lambda: A.__setitem__((0, 0), 1),
        lambda: A.setdiag(1),
        lambda: A.setdiag([1, 2], k=1),
        lambda: A.resize(2, 2),
    ):
        with pytest.raises(TypeError, match=r"immutable.*tolil"):
            change()
    with pytest.raises(AttributeError):
        A.shape = (5, 3)
    np.testing.assert_array_equal(A.toarray(), np.eye(3, 5))
