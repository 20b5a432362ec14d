"""Pruning to tile-vector-wise sparsity: the mask, the layout, and what is kept.

The oracle ranks and keeps by plain loops over tiles, columns and groups.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tvwarray
from tvwarray import FormatError, prune

ratios = st.sampled_from([0.5, 0.6, 0.75, 0.875, 0.95, 1.0])
seeds = st.integers(0, 2**32 - 1)


@given(st.integers(256, 400), st.integers(256, 400), ratios, st.sampled_from([16, 64, 128]), seeds)
def test_realised_sparsity_is_within_half_a_point(rows, cols, sparsity, tile_rows, seed):
    rng = np.random.default_rng(seed)
    W = rng.standard_normal((rows, cols)) * rng.gamma(1, 1, (1, cols))
    A = tvwarray.sparsify(W, sparsity, tile_rows=tile_rows)
    A.storage.check()
    assert abs((1 - A.nnz / W.size) - sparsity) <= 0.005
    dense = A.toarray()
    np.testing.assert_array_equal(dense[dense != 0], W[dense != 0])


@pytest.mark.parametrize("scores", ["ties", "zeros", "one column matters"])
@pytest.mark.parametrize("sparsity", [0.5, 0.7, 0.9])
def test_realised_sparsity_with_degenerate_scores(scores, sparsity):
    S = np.zeros((256, 320)) if scores == "zeros" else np.ones((256, 320))
    if scores == "one column matters":
        S[:, 7] = 1e6
    selection = prune.TileVectorWise(64).select(S, sparsity)
    assert abs(selection.sparsity - sparsity) <= 0.005
    if scores == "one column matters":
        held = selection.mask.any(axis=1)
        assert selection.mask[held, 7].all()


@given(st.integers(1, 60), st.integers(1, 90), ratios, seeds)
def test_mask_is_what_plain_loops_keep(rows, cols, sparsity, seed):
    rng = np.random.default_rng(seed)
    S = rng.random((rows, cols))
    selection = prune.TileVectorWise(16, permute=False, group_rows=False).select(S, sparsity)
    kept = np.zeros((rows, cols), bool)
    tiles = {}
    for t in range(selection.layout.num_tiles):
        tile_rows, slots = selection.layout.tile(t)
        columns = [int(c) for c in slots if c >= 0]
        assert columns == sorted(set(columns))
        tiles[int(tile_rows[0])] = (tile_rows, columns)
        for row in tile_rows:
            for start in range(0, len(columns), 4):
                group = columns[start : start + 4]
                for c in sorted(group, key=lambda c: -S[row, c])[:2]:
                    kept[row, c] = True
    np.testing.assert_array_equal(selection.mask, kept)
    # Within a tile no dropped column is worth more than a kept one.
    for first, (tile_rows, columns) in tiles.items():
        worth = S[tile_rows].mean(axis=0)
        dropped = [c for c in range(cols) if c not in columns]
        assert first % 16 == 0
        if columns and dropped:
            assert min(worth[columns]) >= max(worth[dropped])


def test_columns_compete_across_tiles():
    """A tile that matters ten times as much keeps more columns."""
    S = np.random.default_rng(0).random((256, 512))
    S[:128] *= 10
    layout = prune.TileVectorWise(128).select(S, 0.75).layout
    slots = np.diff(layout.col_indptr)
    assert slots[0] == 512
    assert layout.num_tiles == 1 or slots[1] < 64


@pytest.mark.parametrize("value", [0.49, -0.1, 1.01, float("nan")])
def test_sparsity_out_of_range(value):
    with pytest.raises(FormatError, match=r"reaches 0\.5 to 1"):
        tvwarray.sparsify(np.ones((32, 32)), value)


@pytest.mark.parametrize(
    ("W", "options", "message"),
    [
        (np.ones(4), {}, "1 dimensions"),
        (np.array([[1.0, np.nan]]), {}, "row 0, column 1 is nan"),
        (np.array([[1.0, np.inf]]), {}, "row 0, column 1 is inf"),
        (np.ones((4, 4)), {"scores": -np.ones((4, 4))}, "row 0, column 0 is -1"),
        (np.ones((4, 4)), {"scores": np.ones((4, 5))}, r"scores have shape \(4, 5\)"),
        (np.ones((4, 4)), {"scores": np.ones((4, 4), complex)}, "real numbers"),
        (np.ones((4, 4)), {"pattern": "nm"}, "pattern is 'nm'"),
        (np.ones((4, 4)), {"tile_rows": 3}, "16 to 1024"),
        (np.ones((4, 4), "M8[s]"), {"scores": np.ones((4, 4))}, "datetime"),
    ],
)
def test_bad_input(W, options, message):
    with pytest.raises(FormatError, match=message):
        tvwarray.sparsify(W, 0.5, **options)


def test_scores_decide():
    W = np.ones((16, 16), np.float32)
    scores = np.zeros((16, 16))
    scores[:, ::2] = 1
    A = tvwarray.sparsify(W, 0.5, scores=scores, tile_rows=16)
    np.testing.assert_array_equal(A.toarray(), np.tile([1, 0], (16, 8)))
    with pytest.raises(FormatError, match="3 dimensions"):
        prune.mask(np.ones((2, 2, 2)), 0.5)


@pytest.mark.parametrize(
    "name",
    [
        "float16",
        "bfloat16",
        "float8_e4m3fn",
        "int8",
        "uint8",
        "bool",
        "int64",
        "float64",
        "complex64",
    ],
)
def test_magnitude(name):
    kind = np.dtype(getattr(ml_dtypes, name, name))
    W = (
        np.array([[-3, 2, 0, 1]]).astype(kind)
        if name not in ("uint8", "bool")
        else np.array([[3, 2, 0, 1]]).astype(kind)
    )
    got = prune.magnitude(W)
    np.testing.assert_array_equal(
        got, np.abs(np.array([[3, 2, 0, 1]]).astype(kind).astype(np.complex128))
    )
    assert prune.magnitude(np.array([[-128]], np.int8))[0, 0] == 128
    assert prune.magnitude(np.array([[-(2**63)]], np.int64))[0, 0] == 2.0**63
    A = tvwarray.sparsify(np.tile(W, (16, 8)), 0.5, tile_rows=16)
    assert A.dtype == kind


def test_one_column_and_empty_matrices():
    for shape in ((5, 1), (1, 5), (0, 4), (4, 0), (1, 1)):
        for sparsity in (0.5, 1.0):
            A = tvwarray.sparsify(np.ones(shape), sparsity)
            A.storage.check()
            assert A.shape == shape
            assert A.nnz <= A.shape[0] * A.shape[1]
    assert tvwarray.sparsify(np.ones((64, 64)), 1.0).nnz == 0


def test_a_pattern_of_ones_own():
    class Everything:
        def select(self, scores, sparsity):
            return prune.TileVectorWise(32).select(scores, 0.5)

    W = np.random.default_rng(0).standard_normal((64, 64))
    A = tvwarray.sparsify(W, 0.9, pattern=Everything())
    assert A.nnz == W.size // 2
    np.testing.assert_array_equal(prune.mask(np.abs(W), 0.5, Everything()), A.toarray() != 0)
