"""Exchange of rows between tiles: sums by the definition, heights kept, no pair left that gains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_paths import needs_native, on, on_both, paths
from strategies import seeds

from tvwarray._layouts.exchange import exchange_rows, kept_sums, whole_scores
from tvwarray._native import native


@given(st.integers(0, 12), st.integers(0, 20), st.sampled_from([1e-300, 1.0, 1e30]), seeds)
def test_whole_scores_are_the_scores_on_another_scale(rows, cols, scale, seed):
    scores = scale * np.random.default_rng(seed).exponential(1, (rows, cols))
    whole = whole_scores(scores)
    assert whole.dtype == np.float32
    np.testing.assert_array_equal(whole, np.rint(whole))
    if scores.size:
        assert whole.max() == 2**24 - 1
        # Half a unit of rounding, and the rounding of the scale.
        error = np.abs(whole / np.float64(2**24 - 1) - scores / scores.max())
        assert error.max() <= 0.5001 / (2**24 - 1)
    np.testing.assert_array_equal(whole_scores(np.zeros((2, 3))), np.zeros((2, 3)))


@given(st.integers(0, 12), st.integers(1, 20), st.integers(0, 4), seeds)
def test_sums_by_the_definition(rows, cols, lists, seed):
    rng = np.random.default_rng(seed)
    whole = rng.integers(0, 2**24, (rows, cols)).astype(np.float32)
    chosen = rng.permutation(rows)[: rng.integers(0, rows + 1)]
    columns = [np.flatnonzero(rng.random(cols) < 0.5) for _ in range(lists)]
    sums = kept_sums(whole, chosen, columns)
    assert sums.shape == (chosen.size, lists)
    for i, r in enumerate(chosen):
        for t, cols_of in enumerate(columns):
            assert sums[i, t] == sum(int(whole[r, c]) for c in cols_of)


@paths
@given(st.integers(0, 40), st.integers(1, 6), seeds)
def test_exchanges_keep_heights_and_lose_nothing(path, rows, tiles, seed):
    rng = np.random.default_rng(seed)
    worth = rng.integers(0, 50, (rows, tiles)).astype(np.float64)
    tile_of = rng.integers(0, tiles, rows)
    before = tile_of.copy()
    with on(path):
        moved = exchange_rows(worth, tile_of)
    np.testing.assert_array_equal(tile_of, before)
    np.testing.assert_array_equal(
        np.bincount(moved, minlength=tiles), np.bincount(tile_of, minlength=tiles)
    )
    everyone = np.arange(rows)
    assert worth[everyone, moved].sum() >= worth[everyone, tile_of].sum()
    for r in range(rows):  # so few rows settle within the sweeps
        for q in range(r):
            a, b = moved[r], moved[q]
            assert worth[r, b] + worth[q, a] <= worth[r, a] + worth[q, b]


@paths
def test_mixed_rows_are_told_apart(path):
    worth = np.zeros((96, 3))
    kind = np.random.default_rng(0).permutation(np.repeat(np.arange(3), 32))
    worth[np.arange(96), kind] = 7
    with on(path):
        moved = exchange_rows(worth, np.repeat(np.arange(3), 32))
    np.testing.assert_array_equal(moved, kind)


@needs_native
@given(st.integers(0, 60), st.integers(1, 9), st.sampled_from([1, 3, 2**40]), seeds)
def test_both_paths_find_the_same_tiles(rows, tiles, values, seed):
    rng = np.random.default_rng(seed)
    worth = rng.integers(0, values, (rows, tiles), endpoint=True).astype(np.float64)
    tile_of = rng.integers(0, tiles, rows)
    a, b = on_both(lambda: exchange_rows(worth, tile_of))
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


@needs_native
@pytest.mark.parametrize(
    ("tile_of", "part", "message"),
    [
        ([0, 3], 8, "no worths"),
        ([0, -1], 8, "no worths"),
        ([0], 8, "no tile"),
        ([0, 1], 0, "no tile"),
    ],
)
def test_the_extension_refuses_what_it_would_run_over(tile_of, part, message):
    with pytest.raises(ValueError, match=message):
        native().exchange_rows(np.zeros((2, 3)), np.array(tile_of, np.int64), 1, part)
