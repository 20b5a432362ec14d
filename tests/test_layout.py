"""Slot packing: every column placed, no row more than twice in a group, and near the bound."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvwarray import TVWMatrix
from tvwarray._layouts.first_fit import first_fit


def planes(keep):
    """Return the rows of every column as bits of 64-bit words, by loops."""
    rows, cols = keep.shape
    words = np.zeros((cols, -(-rows // 64)), np.uint64)
    for r, c in np.argwhere(keep):
        words[c, r // 64] |= np.uint64(1 << int(r % 64))
    return words


def greedy(keep):
    """First fit by the definition, one tile, Python sets: the group of every column."""
    order = sorted(range(keep.shape[1]), key=lambda c: -keep[:, c].sum())
    groups = []
    for c in order:
        rows = set(np.flatnonzero(keep[:, c]))
        for group in groups:
            meets = {r for r in rows if sum(keep[r, o] for o in group) >= 2}
            if len(group) < 4 and not meets:
                group.append(c)
                break
        else:
            groups.append([c])
    return groups


@st.composite
def tile_lists(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    made = []
    for _ in range(draw(st.integers(0, 4))):
        keep = rng.random((draw(st.integers(1, 130)), draw(st.integers(0, 150)))) < draw(
            st.sampled_from([0.01, 0.1, 0.3, 0.6, 1.0])
        )
        made.append(keep[:, keep.any(axis=0)])
    return made


@given(tile_lists())
def test_first_fit_is_the_greedy_one(tiles):
    for keep, slots in zip(tiles, first_fit([planes(k) for k in tiles]), strict=True):
        got = [[int(c) for c in slots[i : i + 4] if c >= 0] for i in range(0, slots.size, 4)]
        assert got == [sorted(group) for group in greedy(keep)]


def test_first_fit_in_chunks(monkeypatch):
    from tvwarray._layouts import first_fit as first_fit_module

    rng = np.random.default_rng(0)
    tiles = [
        planes(k[:, k.any(axis=0)]) for k in (rng.random((64, n)) < 0.2 for n in (30, 200, 7, 90))
    ]
    whole = first_fit(tiles)
    monkeypatch.setattr(first_fit_module, "_CHUNK_BYTES", 1000)
    for a, b in zip(whole, first_fit(tiles), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("density", "most"), [(0.001, 1.0), (0.01, 1.01), (0.1, 1.03), (0.25, 1.1)]
)
def test_slots_are_near_the_bound(density, most):
    """Measured on random matrices; a looser packer would show here."""
    rng = np.random.default_rng(1)
    a = rng.random((512, 1024)) < density
    A = TVWMatrix.from_dense(a, tile_rows=64)
    bound = 0
    for t in A.tiles:
        block = a[t.rows]
        least = max(block.any(axis=0).sum(), 2 * block.sum(axis=1).max())
        bound += -(-int(least) // 16) * 16
    assert A.storage.col_indices.size <= most * bound + 16


def test_rows_that_were_dropped_before_tiling_are_found():
    """Two tiles of 16 kept rows, their rows spread over 64, each with columns of its own."""
    rng = np.random.default_rng(2)
    kept = np.sort(rng.choice(64, 32, replace=False))
    a = np.zeros((64, 64))
    a[np.ix_(kept[:16], np.arange(0, 32))] = np.tile([1, 0, 2, 0], (16, 8)) + 0
    a[np.ix_(kept[16:], np.arange(32, 64))] = np.tile([0, 1, 0, 2], (16, 8)) + 0
    A = TVWMatrix.from_dense(a, tile_rows=16)
    assert [t.rows.tolist() for t in A.tiles] == [kept[:16].tolist(), kept[16:].tolist()]
    np.testing.assert_array_equal(A.toarray(), a)
