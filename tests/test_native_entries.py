"""Reading a storage, compiled and by NumPy: equal bit for bit, and safe with what comes in."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import oracle
import pytest
import scipy.sparse as sp
from hypothesis import assume, given
from hypothesis import strategies as st
from native_paths import needs_native, on_both, paths
from native_paths import on as on_path
from strategies import storages

from tvwarray import TVWMatrix
from tvwarray._dtypes import VALUE_DTYPES
from tvwarray._entries import merged, repeats_columns, sorted_rows
from tvwarray._native import native
from tvwarray._reduce import diagonal_values, line_counts, line_extremes, line_sums

ORDERED = ["bool", "int8", "uint16", "int64", "uint64", "float16", "float32", "float64"]
EXTREMES = st.sampled_from(["max", "min", "nanmax", "nanmin"])


def same(a, b):
    assert a.dtype == b.dtype
    assert a.shape == b.shape
    np.testing.assert_array_equal(a, b)


@needs_native
@given(storages(dtypes=sorted(VALUE_DTYPES), special=True))
def test_rows(s):
    by_numpy, compiled = on_both(lambda: sorted_rows(s))
    for x, y in zip(by_numpy[:4], compiled[:4], strict=True):
        assert x.dtype == y.dtype
        assert x.tobytes() == y.tobytes()
    assert by_numpy.shared == compiled.shared


@needs_native
@given(storages(dtypes=sorted(VALUE_DTYPES)), st.sampled_from([0, 1]), st.integers(-40, 40))
def test_sums_and_diagonals(s, axis, k):
    same(*on_both(lambda: line_sums(s, axis)))
    same(*on_both(lambda: diagonal_values(s, k)))
    assert len({*on_both(lambda: repeats_columns(s))}) == 1


@needs_native
@given(storages(dtypes=ORDERED, special=True), st.sampled_from([0, 1]), EXTREMES)
def test_extremes_and_counts(s, axis, name):
    s = merged(s.without_remainder())
    for x, y in zip(*on_both(lambda: line_extremes(s, axis, name)), strict=True):
        same(x, y)
    same(*on_both(lambda: line_counts(s, axis)))


@paths
@given(storages(dtypes=["float64", "complex128", "int32"]))
def test_what_they_are(path, s):
    """Against a dense matrix made by other means."""
    dense = oracle.dense(s)
    with on_path(path):
        A = TVWMatrix.from_storage(s)
        np.testing.assert_array_equal(A.tocsr().toarray(), dense)
        np.testing.assert_array_equal(A.tocoo().toarray(), dense)
        np.testing.assert_array_equal(A.tocsc().toarray(), dense)
        np.testing.assert_array_equal(A.T.tocsc().toarray(), dense.T)
        for axis in (0, 1):
            np.testing.assert_allclose(A.sum(axis=axis), dense.sum(axis=axis))
            np.testing.assert_array_equal(
                A.count_nonzero(axis=axis), np.count_nonzero(dense, axis=axis)
            )
        np.testing.assert_array_equal(A.diagonal(), dense.diagonal())
        assume(dense.size and dense.dtype.kind != "c")
        np.testing.assert_array_equal(A.max(axis=0).toarray(), dense.max(axis=0))
        assert A.min() == dense.min()


def test_rows_of_a_huge_matrix_cost_what_they_hold():
    place = 2**31 - 2
    A = TVWMatrix(sp.coo_array(([2.5], ([place], [place])), shape=(2**31 - 1, 2**31 - 1)))
    assert A.tocoo().coords == ([place], [place])
    assert not repeats_columns(A.storage)
    assert (A + A).storage.data.max() == 5


def good():
    rng = np.random.default_rng(0)
    s = TVWMatrix(rng.random((40, 50)) * (rng.random((40, 50)) < 0.3), tile_rows=16).storage
    names = ("row_indptr", "row_indices", "col_indptr", "col_indices", "meta")
    arrays = {name: np.array(getattr(s, name)) for name in names}
    return {"height": 40, "width": 50, **arrays, "data": np.array(s.data), "axis": 0}


def broken(name, value, where=-1):
    def change(given_):
        given_[name][where] = value

    return change


@needs_native
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (broken("row_indices", 40), "row is outside"),
        (broken("row_indices", -1), "row is outside"),
        (broken("col_indices", 50), "column is outside"),
        (broken("col_indices", -2), "column is outside"),
        (broken("row_indptr", 41), "does not span"),
        (broken("col_indptr", 3, where=0), "does not span"),
        (broken("row_indptr", 99, where=1), "falls|length"),
        (broken("col_indptr", 17, where=1), "multiple of 16"),
        (lambda g: g.update(data=g["data"][:-1]), "data has not the length"),
        (lambda g: g.update(meta=g["meta"][:-1]), "meta has not the length"),
        (lambda g: g.update(col_indptr=g["col_indptr"][:-1]), "span|different tiles"),
        (lambda g: g.update(row_indptr=g["row_indptr"][:0]), "indptr is empty"),
        (lambda g: g.update(height=-1), "shape is out of range"),
        (lambda g: g.update(axis=2), "axes 0 and 1"),
    ],
)
def test_hostile_arrays_are_refused(change, message):
    given_ = good()
    native().line_sums(**given_)
    change(given_)
    with pytest.raises(ValueError, match=message):
        native().line_sums(**given_)


@needs_native
def test_rows_refuse_what_no_storage_has():
    rng = np.random.default_rng(0)
    s = TVWMatrix(rng.random((40, 50)), tile_rows=16).storage
    twice = np.array(s.row_indices)
    twice[1] = twice[0]
    with pytest.raises(ValueError, match="a row is in two tiles"):
        sorted_rows(replace(s, row_indices=twice))
    tall = replace(s, row_indices=twice, shape=(2**30, 50))
    with pytest.raises(ValueError, match="a row is in two tiles"):
        sorted_rows(tall)
    cols = np.full_like(s.col_indices, -1)
    for read in (sorted_rows, lambda s: line_sums(s, 0), lambda s: line_extremes(s, 1, "max")):
        with pytest.raises(ValueError, match="padding slot holds a value"):
            read(replace(s, col_indices=cols))
    parts = good()
    parts.pop("axis")
    raw = parts.pop("data").view(np.uint8)
    with pytest.raises(ValueError, match="no such size"):
        native().read_rows(**parts, data=raw, item=3, mask=1)
    with pytest.raises(ValueError, match="within a value"):
        native().read_rows(**parts, data=raw[1:], item=8, mask=1)
    with pytest.raises(ValueError, match="no such extreme"):
        native().line_extremes(**parts, data=raw.view(np.float64), axis=0, which="mean")
