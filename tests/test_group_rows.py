"""Row orders: the greedy grouping by its definition, the bound by sets, and measured qualities.

Axes: path (NumPy, compiled), shape, density, tile rows, seed. Orders are compared exactly, since
what decides between equals is part of their definition.
"""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from native_paths import on, paths
from strategies import seeds, two_four_mask

from tvwarray import FormatError
from tvwarray._layouts.group_rows import _hashed, group_rows
from tvwarray._layouts.pattern import Pattern
from tvwarray._layouts.tiles import choose_tiles, cut, natural_tiles


def rows_and_shape(keep):
    return [set(np.flatnonzero(row).tolist()) for row in keep], keep.shape


def csr(keep):
    made = sp.csr_array(keep.astype(np.int8))
    return made.indptr, made.indices, keep.shape


@st.composite
def patterns(draw, most=40):
    rng = np.random.default_rng(draw(seeds))
    shape = draw(st.integers(0, most)), draw(st.integers(0, most))
    return rng.random(shape) < draw(st.sampled_from([0.0, 0.03, 0.1, 0.3, 1.0]))


def pattern_of(indptr, indices, shape):
    return Pattern(shape, np.arange(shape[0]), indptr.astype(np.int64), indices.astype(np.int32))


def needed_oracle(rows, order, tile_rows, vector):
    """Return what the tiles of an order need, by sets."""
    needed = []
    for start in range(0, len(order), tile_rows):
        held = [rows[r] for r in order[start : start + tile_rows]]
        needed.append(max(len(set().union(*held)), 2 * max(map(len, held)) if vector else 0))
    return needed


def grouping_oracle(rows, columns, tile_rows, tie):
    """Grow tiles by the definition, with sets and fractions."""
    popular = {c for c in range(columns) if sum(c in r for r in rows) > 128}
    left = sorted(range(len(rows)), key=lambda r: -len(rows[r]))
    order, following = [], None
    while left:
        tile = set()
        for i in range(min(tile_rows, len(left))):
            if i:
                likely = [r for r in left if (rows[r] & tile) - popular]
                following = max(
                    likely,
                    key=lambda r: (
                        Fraction(len(shared := (rows[r] & tile) - popular),
                                 len(tile) + len(rows[r]) - len(shared)),
                        -int(tie[r]),
                    ),
                    default=None,
                )  # fmt: skip
            row = left[0] if following is None else following
            left.remove(row)
            order.append(row)
            tile |= rows[row]
        shares = {r: len((rows[r] & tile) - popular) for r in left}
        following = max(
            (r for r in left if shares[r]), key=lambda r: (shares[r], -int(tie[r])), default=None
        )
    return order


@paths
@given(keep=patterns(), tile_rows=st.integers(1, 50), seed=seeds)
def test_grouping_by_the_definition(path, keep, tile_rows, seed):
    rows, shape = rows_and_shape(keep)
    with on(path):
        order = group_rows(*csr(keep), tile_rows, seed=seed)
    assert order.dtype == np.int64
    assert order.tolist() == grouping_oracle(rows, shape[1], tile_rows, _hashed(shape[0], seed))


@paths
def test_columns_with_many_rows_do_not_count(path):
    rng = np.random.default_rng(0)
    keep = rng.random((200, 30)) < 0.1
    keep[:, 7] = np.arange(200) % 50 < 40
    keep[:, 8] = np.arange(200) < 128  # the most rows that count
    keep[:, 9] = np.arange(200) >= 200 - 129
    rows, shape = rows_and_shape(keep)
    with on(path):
        order = group_rows(*csr(keep), 16)
    assert order.tolist() == grouping_oracle(rows, shape[1], 16, _hashed(200, 0))


@paths
@given(keep=patterns(), tile_rows=st.integers(1, 50), vector=st.sampled_from([(2, 4), None]))
def test_needs_of_tiles_by_the_definition(path, keep, tile_rows, vector):
    rows, shape = rows_and_shape(keep)
    order = np.random.default_rng(0).permutation(shape[0])[: -(-3 * shape[0] // 4)]
    with on(path):
        tiles = cut(pattern_of(*csr(keep)), "degree", order, tile_rows, vector)
    assert tiles.needed.tolist() == needed_oracle(rows, order.tolist(), tile_rows, vector)
    for start in range(0, order.size, tile_rows):
        chunk = sorted(order[start : start + tile_rows].tolist())
        assert tiles.order[start : start + tile_rows].tolist() == chunk


@paths
@given(keep=patterns(), vector=st.sampled_from([(2, 4), None]))
def test_natural_tiles_hold_the_rows_with_entries(path, keep, vector):
    """Fixed tiles or tiles of what is left, whichever cost less; neither holds empty rows."""
    rows, _ = rows_and_shape(keep)
    kept = [r for r, held in enumerate(rows) if held]
    with on(path):
        tiles = natural_tiles(pattern_of(*csr(keep)), 16, vector)
    assert tiles.order.tolist() == kept
    fixed = [sum(r // 16 == t for r in kept) for t in range(-(-len(rows) // 16))]
    gathered = [min(16, len(kept) - i) for i in range(0, len(kept), 16)]
    heights = tiles.heights.tolist()
    assert heights in ([h for h in fixed if h], gathered)
    costs = []
    for listed in (fixed, gathered):
        starts = np.cumsum([0, *listed])
        parts = [kept[a:b] for a, b in pairwise(starts) if b > a]
        needed = [needed_oracle(rows, p, 16, vector)[0] for p in parts]
        costs.append(
            sum(
                -(-n // 16) * 16 * (len(p) / (2 if vector else 1) + 32)
                for n, p in zip(needed, parts, strict=True)
            )
        )
    assert tiles.cost(vector) == min(costs)


@paths
@given(keep=patterns())
def test_chosen_tiles_hold_every_row_once_and_cost_no_more(path, keep):
    pattern = pattern_of(*csr(keep))
    with on(path):
        chosen = choose_tiles(pattern, 16, (2, 4))
        natural = natural_tiles(pattern, 16, (2, 4))
    assert sorted(chosen.order) == np.flatnonzero(keep.any(axis=1)).tolist()
    assert chosen.cost((2, 4)) <= natural.cost((2, 4))
    assert (chosen.heights <= 16).all()
    assert (chosen.heights >= 1).all()


def mesh(*sides, reach):
    """Return the pattern of a grid's neighbours, `reach` "star" or "box"."""
    made = sp.csr_array(np.ones((1, 1)))
    for n in sides:
        line = sp.diags_array([np.ones(n - 1), np.ones(n), np.ones(n - 1)], offsets=[-1, 0, 1])
        if reach == "box":
            made = sp.kron(made, line, format="csr")
        else:
            made = sp.csr_array(
                sp.kron(made, sp.eye_array(n)) + sp.kron(sp.eye_array(made.shape[0]), line)
            )
    made.sort_indices()
    return made.indptr, made.indices, made.shape


@paths
@pytest.mark.parametrize(
    ("sides", "reach", "most"),
    [((50, 100), "star", 0.5), ((50, 100), "box", 0.57), ((8, 20, 50), "box", 0.5)],
)
def test_meshes(path, sides, reach, most):
    """Blobs have fewer neighbours than lines; measured 0.490, 0.557 and 0.492."""
    pattern = pattern_of(*mesh(*sides, reach=reach))
    with on(path):
        chosen = choose_tiles(pattern, 64, (2, 4))
        natural = natural_tiles(pattern, 64, (2, 4))
    assert chosen.order_name == "grouped"
    assert chosen.bounds.sum() <= most * natural.bounds.sum()


@paths
def test_shuffled_tiles_are_found_again(path):
    rng = np.random.default_rng(0)
    keep = np.zeros((256, 512), bool)
    for t in range(16):
        keep[16 * t : 16 * t + 16, 32 * t : 32 * t + 32] = rng.random((16, 32)) < 0.5
    shuffled = keep[rng.permutation(256)]
    with on(path):
        best = choose_tiles(pattern_of(*csr(shuffled)), 16, (2, 4))
        natural = natural_tiles(pattern_of(*csr(keep)), 16, (2, 4))
    assert best.order_name == "grouped"
    assert sorted(best.bounds) == sorted(natural.bounds)


def test_shuffled_tiles_with_popular_columns_are_found_again():
    """Every column of a dense matrix has many rows, and likeness shows in those alone."""
    rng = np.random.default_rng(0)
    keep = np.zeros((1024, 512), bool)
    for t in range(16):
        columns = rng.permutation(512)[:256]
        keep[64 * t : 64 * t + 64, columns] = two_four_mask(rng, 64, 256)
    shuffled = pattern_of(*csr(keep[rng.permutation(1024)]))
    assert choose_tiles(shuffled, 64, (2, 4)).bounds.tolist() == [256] * 16


@given(st.integers(0, 3000), seeds)
def test_hashes_never_meet(rows, seed):
    assert np.unique(_hashed(rows, seed)).size == rows


def test_seeds_change_the_order():
    a = mesh(30, 30, reach="star")
    assert (group_rows(*a, 16, seed=0) != group_rows(*a, 16, seed=1)).any()


@pytest.mark.parametrize(
    ("indptr", "indices", "message"),
    [
        ([0, 1], [0], "does not span"),
        ([1, 1, 1], [0], "does not span"),
        ([0, 0, 2], [0], "does not span"),
        ([0, 2, 1], [0], "falls"),
        ([0, 1, 1], [3], "outside 0..2"),
        ([0, 1, 1], [-1], "outside 0..2"),
    ],
)
def test_what_is_no_pattern(indptr, indices, message):
    arrays = np.array(indptr), np.array(indices)
    with pytest.raises(FormatError, match=message):
        group_rows(*arrays, (2, 3), 16)
