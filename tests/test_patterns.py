"""Every pattern: masks of its form, the sparsity asked for, the best regions by plain loops.

Scores are random, tied, zero, and of one column that matters; shapes are ragged.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from strategies import seeds

import tvwarray
from tvwarray import FormatError, _convert, prune

PLAIN = {"permute": False, "group_rows": False}
ANY = {  # patterns that reach any sparsity from `least` on
    "EW": (prune.ElementWise(), 0.0),
    "VW m=4": (prune.VectorWise(), 0.0),
    "VW m=16": (prune.VectorWise(None, 16), 0.0),
    "BW 8": (prune.BlockWise(8), 0.0),
    "BW 16x4": (prune.BlockWise((16, 4)), 0.0),
    "TW-1D": (prune.TileWise(64, rows_too=False, group_rows=False), 0.0),
    "TW-2D": (prune.TileWise(128, group_rows=False), 0.0),
    "TW-2D grouped": (prune.TileWise(64), 0.0),
    "TEW": (prune.TileElementWise(64, 0.03), 0.0),
    "TVW": (prune.TileVectorWise(64, **PLAIN), 0.5),
    "TVW both": (prune.TileVectorWise(128), 0.5),
    "TVW capped": (prune.TileVectorWise(64, count_range=(0.5, 1.5)), 0.5),
    "TVW-16": (prune.TileVectorWise(64, None, 16), 0.0),
}
each = pytest.mark.parametrize("name", ANY)


def scores_of(kind, shape, seed):
    rng = np.random.default_rng(seed)
    S = rng.exponential(1, shape) * rng.gamma(1, 1, (1, shape[1]))
    if kind == "ties":
        S = np.ones(shape)
    elif kind == "few values":
        S = rng.integers(0, 3, shape).astype(np.float32)
    elif kind == "zeros":
        S = np.zeros(shape)
    elif kind == "one column":
        S = np.ones(shape)
        S[:, rng.integers(shape[1])] = 1e6
    return S


kinds = st.sampled_from(["random", "ties", "few values", "zeros", "one column"])
targets = st.sampled_from([0.0, 0.1, 0.5, 0.6, 0.75, 0.8, 0.9, 0.97, 0.99, 1.0])


@each
@given(st.integers(256, 330), st.integers(256, 330), kinds, targets, seeds)
@example(320, 320, "random", 0.97, 0)
@example(311, 330, "random", 0.97, 0)  # counts in range, but of a finer step
def test_realised_sparsity_is_within_half_a_point(name, rows, cols, kind, target, seed):
    pattern, least = ANY[name]
    sparsity = max(target, least)
    S = scores_of(kind, (rows, cols), seed)
    before = S.copy()
    selection = pattern.select(S, sparsity)
    np.testing.assert_array_equal(S, before)
    assert selection.mask.shape == S.shape
    assert selection.mask.dtype == np.bool_
    pruned = 1 - Fraction(int(selection.mask.sum()), S.size)
    assert abs(pruned - Fraction(str(sparsity))) <= Fraction("0.005")
    assert selection.sparsity == pytest.approx(float(pruned), rel=2**-50)
    assert selection.mask.any() == (sparsity < 1)


@each
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (1, 1), (1, 300), (300, 1), (17, 3), (70, 90)])
@pytest.mark.parametrize("sparsity", [0.5, 0.9, 1.0])
def test_any_shape_makes_a_matrix_of_the_kept_entries(name, shape, sparsity):
    pattern = ANY[name][0]
    W = np.random.default_rng(0).standard_normal(shape)
    selection = pattern.select(np.abs(W), sparsity)
    storage = _convert.from_selection(W, selection.mask, selection.layout)
    storage.check()
    np.testing.assert_array_equal(_convert.to_dense(storage), np.where(selection.mask, W, 0))
    # A region is the least there is; no matrix is emptied unless that is asked for.
    assert selection.mask.any() == (sparsity < 1 and W.size > 0)


@each
def test_the_same_scores_make_the_same_masks(name):
    pattern, _ = ANY[name]
    S = np.random.default_rng(0).exponential(1, (300, 280))
    a = pattern.select(S, 0.7)
    for other in (
        np.asfortranarray(S),
        S.astype(">f8"),
        np.repeat(S, 2, axis=1)[:, ::2],
        S * 2.0**700,
    ):
        b = pattern.select(other, 0.7)
        np.testing.assert_array_equal(a.mask, b.mask)
        if a.layout is not None:
            np.testing.assert_array_equal(a.layout.col_indices, b.layout.col_indices)
            np.testing.assert_array_equal(a.layout.row_indices, b.layout.row_indices)
    assert hash(pattern) == hash(type(pattern)(**vars(pattern)))


@given(st.integers(1, 20), st.integers(1, 20), targets, seeds)
def test_element_wise_keeps_the_largest(rows, cols, sparsity, seed):
    S = np.random.default_rng(seed).random((rows, cols))
    mask = prune.mask(S, sparsity, "ew")
    least = 1 if sparsity < 1 else 0
    assert mask.sum() == max(least, round((1 - sparsity) * S.size))
    assert S[mask].min(initial=2) >= S[~mask].max(initial=-1)


@given(
    st.integers(1, 9), st.integers(1, 40), st.sampled_from([(2, 4), (1, 4), (4, 16), (3, 5)]), seeds
)
def test_vector_wise_keeps_n_of_every_m(rows, cols, nm, seed):
    n, m = nm
    S = np.random.default_rng(seed).integers(0, 6, (rows, cols)).astype(float)
    mask = prune.VectorWise(n, m).select(S, 1 - n / m).mask
    for r in range(rows):
        for start in range(0, cols, m):
            group = range(start, min(start + m, cols))
            wanted = n if len(group) == m else math.ceil(n * len(group) / m)
            best = sorted(group, key=lambda c: -S[r, c])[:wanted]
            assert set(np.flatnonzero(mask[r, start : start + m]) + start) == set(best)


@given(st.integers(1, 9), st.integers(1, 60), st.floats(0, 1), st.sampled_from([4, 16]), seeds)
def test_vector_wise_of_any_sparsity_is_even(rows, cols, sparsity, m, seed):
    """Groups keep n or n + 1, and those that keep one more have the best next entry."""
    S = np.random.default_rng(seed).random((rows, cols))
    mask = prune.VectorWise(None, m).select(S, sparsity).mask
    taken, refused, emptiest = [], [], False
    for r in range(rows):
        for start in range(0, cols, m):
            group = sorted(range(start, min(start + m, cols)), key=lambda c: -S[r, c])
            kept = int(mask[r, start : start + m].sum())
            n = math.floor(len(group) * (1 - sparsity) + 1e-9)
            assert n <= kept <= n + 1
            assert mask[r, group[:kept]].all()
            if n < len(group):
                (taken if kept > n else refused).append(S[r, group[n]])
            if n == 0:
                emptiest = True
    if not emptiest:  # else every kind of group keeps an entry somewhere
        assert min(taken, default=2) >= max(refused, default=-1)


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 9), st.integers(1, 9), targets, seeds)
def test_block_wise_keeps_the_best_blocks(rows, cols, high, wide, sparsity, seed):
    S = np.random.default_rng(seed).random((rows, cols))
    mask = prune.BlockWise((high, wide)).select(S, sparsity).mask
    kept, dropped, sizes = [], [], []
    for i in range(0, rows, high):
        for j in range(0, cols, wide):
            block, inside = S[i : i + high, j : j + wide], mask[i : i + high, j : j + wide]
            assert inside.all() or not inside.any()
            (kept if inside.any() else dropped).append(block.mean())
            sizes.append(block.size)
    assert min(kept, default=2) >= max(dropped, default=-1) - 1e-12
    # Half a block, or what a quarter of the budget, at least one block, asks for.
    assert abs(mask.sum() - (1 - sparsity) * S.size) <= max(sizes)


@given(
    st.integers(1, 20),
    st.integers(1, 50),
    st.sampled_from([(4, 8), (8, 16), (3, 4), (5, 10)]),
    seeds,
)
def test_vnm_keeps_four_columns_of_each_block(rows, cols, vm, seed):
    v, m = vm
    S = np.random.default_rng(seed).random((rows, cols))
    mask = prune.VNM(v, 2, m).select(S, 1 - 2 / m).mask
    for i in range(0, rows, v):
        for j in range(0, cols, m):
            block, inside = S[i : i + v, j : j + m], mask[i : i + v, j : j + m]
            width = block.shape[1]
            columns = 4 if width == m else math.ceil(4 * width / m)
            entries = 2 if width == m else math.ceil(2 * width / m)
            best = sorted(sorted(range(width), key=lambda c: -block[:, c].sum())[:columns])
            for row, kept in zip(block, inside, strict=True):
                wanted = sorted(best, key=lambda c: -row[c])[:entries]
                assert set(np.flatnonzero(kept)) == set(wanted)


@pytest.mark.parametrize("rows_too", [True, False])
def test_tile_wise_of_iid_scores_meets_its_target(rows_too):
    """Ranking rows and then columns, each at 1 - sqrt(1 - s), does not overshoot."""
    S = np.random.default_rng(0).random((768, 768), dtype=np.float32)
    for sparsity in (0.5, 0.75, 0.9):
        mask = prune.TileWise(128, rows_too=rows_too).select(S, sparsity).mask
        assert abs(1 - mask.mean() - sparsity) <= 0.005
        dropped = 1 - mask.any(axis=1).mean()
        assert dropped == pytest.approx(1 - math.sqrt(1 - sparsity) if rows_too else 0, abs=0.002)


@given(st.integers(1, 80), st.integers(1, 60), targets, st.booleans(), seeds)
def test_tile_wise_keeps_whole_columns_of_its_tiles(rows, cols, sparsity, grouped, seed):
    S = np.random.default_rng(seed).random((rows, cols))
    selection = prune.TileWise(16, group_rows=grouped).select(S, sparsity)
    layout, held = selection.layout, np.zeros((rows, cols), bool)
    for t in range(layout.num_tiles):
        tile, slots = layout.tile(t)
        assert tile.size <= 16
        assert not grouped or (np.diff(tile) > 0).all()
        kept = slots[slots >= 0]
        held[np.ix_(tile, kept)] = True
        worth, rest = S[tile].mean(axis=0), np.setdiff1d(np.arange(cols), kept)
        assert worth[kept].min(initial=2) >= worth[rest].max(initial=-1) - 1e-12
    np.testing.assert_array_equal(selection.mask, held)
    assert np.unique(layout.row_indices).size == layout.row_indices.size


@given(targets, st.sampled_from([0.0, 0.02, 0.1]), seeds)
def test_tile_element_wise_restores_the_best_of_the_rest(sparsity, delta, seed):
    S = np.random.default_rng(seed).integers(0, 50, (96, 80)).astype(float)
    pattern = prune.TileElementWise(32, delta, group_rows=False)
    selection = pattern.select(S, sparsity)
    tiles = prune.TileWise(32, group_rows=False).select(S, min(1.0, sparsity + delta)).mask
    assert (selection.mask | ~tiles).all()
    single, rest = selection.mask & ~tiles, ~selection.mask
    assert S[single].min(initial=99) >= S[rest].max(initial=-1)
    assert selection.mask.sum() == max(tiles.sum(), round((1 - sparsity) * S.size))
    W = np.where(S > 0, S, -1.0)
    A = tvwarray.sparsify(W, sparsity, scores=S, pattern=pattern)
    assert (A.remainder is None) == (not single.any())
    np.testing.assert_array_equal(A.toarray(), np.where(selection.mask, W, 0))


@given(
    st.integers(1, 70), st.integers(1, 70), st.sampled_from([0.5, 0.75, 0.9]), st.booleans(), seeds
)
def test_layouts_are_two_of_four_in_the_slots_they_name(rows, cols, sparsity, capped, seed):
    """What each row keeps are the two best of the four columns that share a group."""
    S = np.random.default_rng(seed).random((rows, cols))
    limits = (0.5, 1.5) if capped else None
    selection = prune.TileVectorWise(16, count_range=limits).select(S, sparsity)
    held = np.zeros((rows, cols), bool)
    for t in range(selection.layout.num_tiles):
        tile, slots = selection.layout.tile(t)
        assert slots.size % 16 == 0
        assert np.unique(slots[slots >= 0]).size == (slots >= 0).sum()
        for r in tile:
            for start in range(0, slots.size, 4):
                group = [c for c in slots[start : start + 4] if c >= 0]
                held[r, sorted(group, key=lambda c: -S[r, c])[:2]] = True
    np.testing.assert_array_equal(selection.mask, held)


def test_both_layouts_keep_more_than_one_and_one_more_than_none():
    """On weights with structure; and grouped rows in equal tiles keep more than plain ones."""
    rng = np.random.default_rng(0)
    kinds_of_rows = rng.gamma(0.7, 1, (6, 256))
    S = kinds_of_rows[rng.integers(0, 6, 512)] * rng.exponential(1, (512, 256))

    def kept(sparsity, permute, grouped, limits=None):
        pattern = prune.TileVectorWise(64, permute=permute, group_rows=grouped, count_range=limits)
        return S[pattern.select(S, sparsity).mask].sum()

    for sparsity in (0.75, 0.875):
        plain, both = kept(sparsity, False, False), kept(sparsity, True, True)
        permuted, grouped = kept(sparsity, True, False), kept(sparsity, False, True)
        assert both > 1.01 * max(permuted, grouped)
        assert min(permuted, grouped) > 1.01 * plain
        assert grouped >= kept(sparsity, False, True, (1, 1)) > plain
    assert kept(0.5, True, True) > 1.02 * kept(0.5, False, True)


@pytest.mark.parametrize("limits", [(0.5, 1.5), (0.9, 1.1), (1, 1), (0, 2)])
def test_column_counts_stay_in_range(limits):
    rng = np.random.default_rng(0)
    S = rng.exponential(1, (512, 640)) * rng.gamma(1, 1, (512, 1))
    selection = prune.TileVectorWise(64, count_range=limits).select(S, 0.8)
    counts = np.diff(selection.layout.col_indptr)
    mean = selection.mask.sum() * 2 / 512
    assert abs(selection.sparsity - 0.8) <= 0.005
    assert (counts >= limits[0] * mean - 16).all()
    assert (counts <= limits[1] * mean + 16).all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("sparsity", [0.7, 0.9])
@pytest.mark.parametrize("tile_rows", [32, 64, 128])
def test_rounding_counts_never_drops_the_one_column_that_matters(tile_rows, sparsity, seed):
    """Counts are whole groups; a tile whose share is a single column keeps that column's group."""
    S = np.ones((256, 320))
    column = int(np.random.default_rng(seed).integers(320))
    S[:, column] = 1e6
    for options in (PLAIN, {}):
        mask = prune.TileVectorWise(tile_rows, **options).select(S, sparsity).mask
        assert mask[:, column].all()
        assert abs(1 - mask.mean() - sparsity) <= 0.005


@pytest.mark.parametrize(
    ("pattern", "sparsity", "message"),
    [
        (prune.TileVectorWise(), 0.49, "reaches 0.5 to 1, since 2:4 alone prunes 0.5"),
        (prune.TileVectorWise(n=1), 0.7, "reaches 0.75 to 1, since 1:4"),
        (prune.VectorWise(2, 4), 0.6, "2:4 reaches 0.5 and nothing else"),
        (prune.VectorWise(4, 16), 0.9, "4:16 reaches 0.75"),
        (prune.VNM(64), 0.76, r"reaches 0\.7143 \(m = 7\), 0\.75 \(m = 8\), 0\.7778 \(m = 9\)"),
        (prune.VNM(64, 2, 8), 0.8, r"reaches 0\.75 \(m = 8\)"),
        (prune.VNM(64), 0.3, "reaches 0.5 to 1"),
        (prune.ElementWise(), -0.01, "reaches 0 to 1"),
        (prune.BlockWise(), 1.01, "reaches 0 to 1"),
        (prune.TileWise(), float("nan"), "reaches 0 to 1"),
        (prune.TileElementWise(), 2, "reaches 0 to 1"),
    ],
)
def test_a_sparsity_out_of_reach_is_refused_with_the_range(pattern, sparsity, message):
    with pytest.raises(FormatError, match=message):
        pattern.select(np.ones((64, 64)), sparsity)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: prune.VectorWise(5, 4), "n is 5; 1 to 4 of every 4"),
        (lambda: prune.VectorWise(0, 4), "n is 0"),
        (lambda: prune.VectorWise(1, 1), "m is 1"),
        (lambda: prune.BlockWise(0), "shape is 0"),
        (lambda: prune.BlockWise((4, 2.5)), "shape is"),
        (lambda: prune.VNM(0), "v is 0"),
        (lambda: prune.VNM(4, 5), "n is 5"),
        (lambda: prune.VNM(4, 2, 3), "m is 3"),
        (lambda: prune.TileWise(8), "16 to 1024"),
        (lambda: prune.TileElementWise(delta=1.5), "delta is 1.5"),
        (lambda: prune.TileVectorWise(count_range=(1.2, 2)), "count_range is"),
        (lambda: prune.TileVectorWise(n=9, m=16, count_range=(0.5,)), "count_range is"),
        (lambda: prune.make_pattern("2:4"), "pattern is '2:4'; it is \"ew\", "),
    ],
)
def test_bad_parameters(make, message):
    with pytest.raises(FormatError, match=message):
        make()


def test_patterns_have_names():
    names = ["ew", "vw", "bw", "vnm", "tw", "tew", "tvw"]
    made = [type(prune.make_pattern(name)).__name__ for name in names]
    assert made == [
        "ElementWise",
        "VectorWise",
        "BlockWise",
        "VNM",
        "TileWise",
        "TileElementWise",
        "TileVectorWise",
    ]
    S = np.random.default_rng(0).random((64, 64))
    for name in names:
        options = {"tile_rows": 16, "permute": False, "group_rows": False}
        W = tvwarray.sparsify(S, 0.75, pattern=name, **options)
        np.testing.assert_array_equal(W.toarray() != 0, prune.mask(S, 0.75, name, **options))
