"""Pruned matrices are found again, their columns permuted and their rows in any order.

Axes: path (NumPy, compiled), rows, groups, shape and height of pruned tiles.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_paths import on, paths
from strategies import seeds, two_four_mask
from test_pack_columns import longest, planes_of

import tvwarray
from tvwarray import TVWMatrix
from tvwarray._layouts.hidden import hidden_groups


def met(keep, groups):
    """Return how often each row meets each group."""
    return keep[:, groups].reshape(keep.shape[0], -1, 4).sum(axis=2)


@paths
@given(seed=seeds, rows=st.sampled_from([40, 64, 65, 130, 200]), groups=st.integers(1, 20))
def test_permuted_groups_are_found(path, seed, rows, groups):
    rng = np.random.default_rng(seed)
    keep = two_four_mask(rng, rows, 4 * groups)[:, rng.permutation(4 * groups)]
    keep = keep[:, keep.any(axis=0)]
    with on(path):
        found = hidden_groups(planes_of(keep), longest=longest(keep))
    if keep.shape[1] % 4:
        assert found is None
        return
    assert sorted(found) == list(range(keep.shape[1]))
    assert (np.diff(found.reshape(-1, 4), axis=1) > 0).all()
    assert (met(keep, found) == 2).all()


@paths
@given(seed=seeds, rows=st.integers(1, 24), groups=st.integers(1, 6))
def test_short_tiles_are_found_or_left(path, seed, rows, groups):
    """Few rows let other columns cancel out by chance: then groups may be missed, never wrong."""
    rng = np.random.default_rng(seed)
    keep = two_four_mask(rng, rows, 4 * groups)[:, rng.permutation(4 * groups)]
    keep = keep[:, keep.any(axis=0)]
    with on(path):
        found = hidden_groups(planes_of(keep), longest=longest(keep))
    if found is not None:
        assert sorted(found) == list(range(keep.shape[1]))
        assert (met(keep, found) <= 2).all()


@paths
@pytest.mark.parametrize(
    "keep",
    [
        np.ones((64, 8), bool),  # every row has all columns
        np.eye(8, dtype=bool),
        np.kron(np.eye(2, dtype=bool), np.ones((20, 3), bool)),  # groups of three
        np.ones((64, 0), bool),
    ],
)
def test_what_is_no_full_tile(path, keep):
    with on(path):
        assert hidden_groups(planes_of(keep), longest=longest(keep)) is None


@paths
def test_columns_that_are_equal_are_dealt_out(path):
    """Four equal columns cancel out too, and make no group."""
    keep = np.kron(np.eye(2, dtype=bool), np.ones((20, 4), bool))
    with on(path):
        found = hidden_groups(planes_of(keep), longest=4)
    assert (met(keep, found) == 2).all()


@pytest.mark.parametrize("tile_rows", [32, 64, 128])
@pytest.mark.parametrize("shape", [(512, 384), (384, 512)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_pruned_matrices_come_back_in_as_many_slots(shape, tile_rows, dtype):
    """Columns permuted, rows grouped: nothing stands where it stood in the dense matrix."""
    W = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    A = tvwarray.sparsify(W, 0.75, tile_rows=tile_rows)
    for matrix in (A.toarray(), A.tocsr()):
        B = TVWMatrix(matrix, tile_rows=tile_rows)
        assert B.storage.col_indices.size == A.storage.col_indices.size
        assert B.nbytes == A.nbytes
        assert B.toarray().tobytes() == A.toarray().tobytes()
