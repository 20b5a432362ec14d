"""Dense blocks of the array backend: neighbouring tiles share columns, nothing is lost by it."""

from __future__ import annotations

import array_api_strict
import numpy as np
import oracle
import pytest
from cpu_cases import tvw_case
from strategies import random_values

import tvwarray
from tvwarray import TVWMatrix
from tvwarray._backends.array import BACKEND


def matrix(rng, tiles=5, cols=200, slots=160):
    """Make a matrix whose tiles of 16 rows have well over 32 columns in common, two by two."""
    return tvw_case(rng, 16 * tiles * 9 // 8, cols, slots, tile_rows=16)


@pytest.mark.parametrize("panel", [16, 384])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("in_cache", [True, False])
def test_tiles_that_share_columns_give_the_same_product(monkeypatch, panel, order, in_cache):
    """Both directions, in panels that split a block, on NumPy and on a strict array library."""
    monkeypatch.setattr("tvwarray._backends.blocks._IN_CACHE", 1 << 30 if in_cache else 1)
    monkeypatch.setattr("tvwarray._backends.array._PANEL_BYTES", 1)
    monkeypatch.setattr("tvwarray._backends.array._PANEL_COLUMNS", panel)
    rng = np.random.default_rng(panel)
    case = matrix(rng)
    packed = BACKEND.pack(case.storage)
    assert [b.adds for b in packed.shared.each[:3]] == [False, True, True]
    assert packed.blocks(200 * 20 * 4) is (packed.tiles if in_cache else packed.shared)
    for transposed in (False, True):
        a = case.dense.T if transposed else case.dense
        x = np.asarray(random_values(rng, (a.shape[1], 20), np.dtype(np.float32)), order=order)
        exact, size = oracle.matmul(a, x)
        bound = oracle.error_bound(exact, size, a.shape[1] + 8, x.dtype, "float32")
        got = BACKEND.matmul(packed, x, transposed=transposed)
        assert (np.abs(got - exact) <= bound).all()
        out = np.full((a.shape[0], 20), np.nan, np.float32, order=order)
        assert BACKEND.matmul(packed, x, out, transposed=transposed) is out
        np.testing.assert_array_equal(out, got)
        A = TVWMatrix.from_storage(case.storage).to_device("cpu")
        strict = TVWMatrix.from_components(
            **{
                k: array_api_strict.asarray(v) if isinstance(v, np.ndarray) else v
                for k, v in A.to_components().items()
            }
        )
        other = tvwarray.matmul(strict.T if transposed else strict, array_api_strict.asarray(x))
        assert (np.abs(np.asarray(other) - exact) <= bound).all()


def test_a_column_in_one_tile_of_two_is_not_read_for_the_other(monkeypatch):
    rng = np.random.default_rng(0)
    s = matrix(rng, tiles=2).storage
    tiles = [set(c[c >= 0]) for c in np.split(s.col_indices, s.col_indptr[1:-1])]
    only = sorted(tiles[0] - tiles[1])
    assert only
    x = np.ones((200, 3), np.float32)
    x[only] = np.nan
    packed = BACKEND.pack(s)
    assert len(packed.shared.each) > len(packed.tiles.each)
    monkeypatch.setattr("tvwarray._backends.blocks._IN_CACHE", 1)
    got = BACKEND.matmul(packed, x)
    rows = np.split(s.row_indices, s.row_indptr[1:-1])
    assert np.isnan(got[rows[0]]).all()
    assert np.isfinite(got[rows[1]]).all()


def test_a_tile_with_a_repeated_column_stays_alone():
    s = matrix(np.random.default_rng(1), tiles=2).storage
    cols = s.col_indices.copy()
    cols[np.flatnonzero(cols >= 0)[:2]] = 7
    s = type(s)(**{**{f: getattr(s, f) for f in s.__dataclass_fields__}, "col_indices": cols})
    s.check()
    packed = BACKEND.pack(s)
    assert packed.shared.each == packed.tiles.each
    x = np.eye(200)
    np.testing.assert_allclose(BACKEND.matmul(packed, x), oracle.dense(s).astype(float), atol=1e-6)
