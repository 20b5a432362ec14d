"""Patterns apart from values, and the product sampled at them."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import oracle
from hypothesis import given
from hypothesis import strategies as st
from strategies import random_values, seeds, storages

from tvwarray._dtypes import accumulate_dtype
from tvwarray._frozen import frozen_pattern, make_pattern, values_of
from tvwarray._sampled import sampled_product

SAMPLED = ["float32", "float64", "float16", "bfloat16", "complex64", "complex128"]


def places(storage):
    """Return (row, column) of every stored value in order, None where it is padding."""
    found, at = [], 0
    for t in range(storage.num_tiles):
        rows = storage.row_indices[storage.row_indptr[t] : storage.row_indptr[t + 1]]
        cols = storage.col_indices[storage.col_indptr[t] : storage.col_indptr[t + 1]]
        for row in rows:
            slots = range(cols.size)
            if storage.vector:
                words = storage.meta[at : at + cols.size // 16]
                at += cols.size // 16
                slots = []
                for g in range(cols.size // 4):
                    nibble = int(words[g // 4]) >> 4 * (g % 4) & 15
                    slots += [4 * g + (nibble & 3), 4 * g + (nibble >> 2)]
            found += [(int(row), int(cols[s])) if cols[s] >= 0 else None for s in slots]
    if storage.remainder_indptr is not None:
        rows = np.repeat(np.arange(storage.shape[0]), np.diff(storage.remainder_indptr))
        found += [(int(r), int(c)) for r, c in zip(rows, storage.remainder_indices, strict=True)]
    return found


@given(storages(dtypes=SAMPLED), st.integers(0, 9), seeds)
def test_the_sampled_product_is_the_dense_one_at_the_stored_places(storage, n, seed):
    """Every type, with and without 2:4, remainders, repeated and padding slots, n = 0."""
    rng = np.random.default_rng(seed)
    left = random_values(rng, (storage.shape[0], n), storage.dtype)
    right = random_values(rng, (storage.shape[1], n), storage.dtype)
    got = sampled_product(storage, left, right)
    sums = accumulate_dtype(storage.dtype)
    assert got.dtype == sums
    exact, size = oracle.matmul(left, right.T)
    bound = oracle.error_bound(exact, size, n, sums, sums.name)
    expected = places(storage)
    assert got.shape == (len(expected),)
    for value, place in zip(got, expected, strict=True):
        if place is not None:
            assert abs(oracle.wide(value) - exact[place]) <= bound[place]


@given(storages(dtypes=["float64"]), seeds)
def test_wide_batches_are_taken_strip_by_strip(storage, seed):
    rng = np.random.default_rng(seed)
    from tvwarray import _sampled

    left, right = (rng.integers(-4, 5, (side, 150)).astype(float) for side in storage.shape)
    whole = sampled_product(storage, left, right)
    kept = _sampled._GATHER_BYTES
    try:
        _sampled._GATHER_BYTES = 1  # 64 columns, or entries of a remainder, at a time
        np.testing.assert_array_equal(sampled_product(storage, left, right), whole)
    finally:
        _sampled._GATHER_BYTES = kept


@given(storages(dtypes=["float32", "bfloat16", "int8"]), seeds)
def test_filling_puts_values_where_entries_are_and_zeros_elsewhere(storage, seed):
    pattern = frozen_pattern(storage)
    entries = values_of(storage) != 0
    np.testing.assert_array_equal(pattern.entries, entries)
    values = random_values(np.random.default_rng(seed), pattern.size, storage.dtype)
    filled = pattern.fill(values)
    filled.check()
    np.testing.assert_array_equal(values_of(filled), np.where(entries, values, 0))


def test_a_filled_matrix_keeps_its_pattern_whatever_becomes_zero():
    storage = make_dense_storage()
    pattern = frozen_pattern(storage)
    filled = pattern.fill(np.zeros(pattern.size, np.float32))
    assert frozen_pattern(filled) is pattern
    assert frozen_pattern(storage) is pattern


def test_a_pattern_keeps_no_values_alive():
    storage = make_dense_storage()
    pattern = frozen_pattern(storage)
    values = weakref.ref(storage.data.base)
    del storage
    gc.collect()
    assert pattern.frame.data.size == 0
    assert values() is None


def test_the_gradient_is_zero_where_no_entry_is():
    storage = make_dense_storage()
    entries = np.zeros(storage.data.shape, bool)
    entries[::3] = True
    gradient = make_pattern(storage, entries).gradient(
        np.ones((32, 2), np.float32), np.ones((32, 2), np.float32)
    )
    np.testing.assert_array_equal(gradient, np.where(entries, 2, 0))


def make_dense_storage():
    import tvwarray

    W = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    return tvwarray.sparsify(W, 0.5).storage
