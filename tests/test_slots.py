"""Slots of tiles: the rules, the forms that are recognised, and the goals that packing has.

Axes: path (NumPy, compiled), class of pattern, tile rows 16 to 1024, vector, order of rows. What is
checked of `places` is the definition: an entry stands in a slot of its column, and no group of four
slots serves a row three times.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_paths import on, paths
from strategies import KINDS, pattern, seeds, two_four_mask

import tvwarray
from tvwarray import FormatError, TVWMatrix
from tvwarray._layouts import slots as slots_module
from tvwarray._layouts.pattern import pattern_of_mask
from tvwarray._layouts.slots import FORMS, lay_out
from tvwarray._layouts.tiles import choose_tiles, cut, natural_tiles

vectors = st.sampled_from([(2, 4), None])


def check(keep, tiles, slots, vector):
    """Check every entry by loops."""
    found = pattern_of_mask(keep)
    assert (np.diff(slots.indptr) % 16 == 0).all()
    for t in range(tiles.size):
        columns = slots.columns[slots.indptr[t] : slots.indptr[t + 1]]
        assert columns.size >= tiles.bounds[t]
        for row in tiles.order[tiles.indptr[t] : tiles.indptr[t + 1]]:
            held = slice(found.indptr[row], found.indptr[row + 1])
            places = slots.places[held]
            assert columns[places].tolist() == found.indices[held].tolist()
            assert len(set(places.tolist())) == places.size
            if vector:
                assert np.bincount(places // 4).max(initial=0) <= 2


@paths
@pytest.mark.parametrize("kind", KINDS)
@given(seed=seeds, tile_rows=st.sampled_from([16, 40, 128]), vector=vectors)
def test_every_entry_has_a_slot(path, kind, seed, tile_rows, vector):
    rng = np.random.default_rng(seed)
    keep = pattern(rng, kind, int(rng.integers(0, 90)), int(rng.integers(0, 90)), tile_rows)
    found = pattern_of_mask(keep)
    with on(path):
        tiles = choose_tiles(found, tile_rows, vector)
        slots = lay_out(found, tiles, vector, spread=True)
    check(keep, tiles, slots, vector)


@pytest.mark.parametrize("rows", [257, 1024])
@pytest.mark.parametrize("density", [0.01, 0.2, 0.6, 1.0])
def test_tall_tiles(rows, density):
    rng = np.random.default_rng(rows)
    keep = rng.random((rows, 90)) < density
    found = pattern_of_mask(keep)
    tiles = natural_tiles(found, 1024, (2, 4))
    check(keep, tiles, lay_out(found, tiles, (2, 4), spread=True), (2, 4))


@paths
def test_forms(path):
    rng = np.random.default_rng(0)
    two_four = two_four_mask(rng, 16, 64)
    loose = np.zeros((16, 256), bool)
    loose[:, ::4] = two_four_mask(rng, 16, 64)  # a column of every absolute group
    made = {"absolute": two_four, "compact": loose, "packed": np.ones((16, 64), bool)}
    with on(path):
        for form, keep in made.items():
            found = pattern_of_mask(keep)
            tiles = natural_tiles(found, 16, (2, 4))
            assert FORMS[lay_out(found, tiles, (2, 4), spread=True).forms[0]] == form
        slots = lay_out(found, tiles, (2, 4), spread=False)
    assert FORMS[slots.forms[0]] == "crowded"
    assert slots.indptr.tolist() == [0, 0]
    assert (slots.places == -1).all()


@paths
@pytest.mark.parametrize(
    ("shape", "density", "tile_rows", "most"),
    [
        ((256, 2048), 0.01, 64, 1.0),
        ((256, 2048), 0.05, 128, 1.0),
        ((128, 2048), 0.1, 128, 1.0),
        ((128, 2048), 0.2, 64, 1.005),
        ((128, 2048), 0.25, 128, 1.01),
    ],
)
def test_slots_reach_the_bound_below_a_quarter(path, shape, density, tile_rows, most):
    """The goal is 1.03; these are measured."""
    found = pattern_of_mask(np.random.default_rng(1).random(shape) < density)
    with on(path):
        tiles = natural_tiles(found, tile_rows, (2, 4))
        slots = lay_out(found, tiles, (2, 4), spread=True)
    assert slots.indptr[-1] <= most * tiles.bounds.sum()


def test_half_of_a_random_matrix():
    """Slots times rows over twice the dense product's: the goal is 0.62 with 64 rows."""
    found = pattern_of_mask(np.random.default_rng(1).random((256, 2048)) < 0.5)
    tiles = natural_tiles(found, 64, (2, 4))
    slots = lay_out(found, tiles, (2, 4), spread=True)
    assert slots.indptr[-1] * 64 / (2 * 256 * 2048) <= 0.62


def test_one_long_row_packs_in_linear_time():
    """Groups that the long row fills are passed over at once: 40 s where each column meets them."""
    import time

    rng = np.random.default_rng(0)
    keep = np.zeros((64, 60_000), bool)
    keep[0] = True
    keep[1:, :] = rng.random((63, 60_000)) < 1e-4
    found = pattern_of_mask(keep)
    start = time.process_time()
    slots = lay_out(found, natural_tiles(found, 64, (2, 4)), (2, 4), spread=True)
    assert time.process_time() - start < 5
    assert slots.indptr[-1] == 120_000


def test_columns_that_stand_in_several_slots_multiply_once():
    rng = np.random.default_rng(0)
    a = np.where(rng.random((64, 96)) < 0.6, rng.standard_normal((64, 96)), 0)
    A = TVWMatrix(a, tile_rows=64)
    held = A.tiles[0].cols[A.tiles[0].cols >= 0]
    assert held.size > np.unique(held).size
    x = rng.standard_normal((96, 5))
    np.testing.assert_array_equal(A.toarray(), a)
    np.testing.assert_array_equal(A.T.toarray(), a.T)
    for backend in ("array", None):
        np.testing.assert_allclose(tvwarray.matmul(A, x, backend=backend), a @ x, rtol=1e-12)
    for bad in (np.nan, np.inf):
        x[7] = bad
        lost = ~np.isfinite(a @ np.where(np.isfinite(x), x, 0)) | (a[:, 7] != 0)[:, None]
        with np.errstate(invalid="ignore"):
            assert (np.isfinite(A @ x) == ~lost).all()


def test_layouts_that_int32_cannot_count(monkeypatch):
    monkeypatch.setattr(slots_module, "INDEX_MAX", 31)
    with pytest.raises(FormatError, match=r"2\*\*31 - 1 column slots"):
        TVWMatrix.from_dense(np.ones((40, 20)), tile_rows=16)


@given(seeds, st.integers(16, 70))
def test_equal_patterns_have_equal_layouts(seed, tile_rows):
    rng = np.random.default_rng(seed)
    keep = rng.random((rng.integers(0, 90), rng.integers(0, 90))) < 0.2
    a, b = (TVWMatrix.from_dense(keep, tile_rows=tile_rows).storage for _ in range(2))
    np.testing.assert_array_equal(a.col_indices, b.col_indices)
    np.testing.assert_array_equal(a.row_indices, b.row_indices)
    assert a.data.tobytes() == b.data.tobytes()


@given(seeds, vectors)
def test_any_rows_in_any_tiles(seed, vector):
    rng = np.random.default_rng(seed)
    keep = rng.random((70, 50)) < rng.choice([0.05, 0.3, 0.8])
    found = pattern_of_mask(keep)
    tiles = cut(found, "grouped", rng.permutation(70)[:50], 20, vector)
    check(keep, tiles, lay_out(found, tiles, vector, spread=True), vector)
