"""`TVWStorage`: every rule of the format is checked, says where, and changes nothing."""

from __future__ import annotations

import pickle
from dataclasses import replace

import array_api_strict as xp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from strategies import storages

from tvwarray import FormatError, TVWMatrix, TVWStorage
from tvwarray._two_four import (
    NIBBLE_OF_MASK,
    VALID_NIBBLES,
    compress_24,
    expand_24,
    meta_from_positions,
    positions_24,
)


def example(**changes):
    """Return a storage of two tiles: rows 4, 0, 2 with 16 slots, then rows 3, 1 with 32."""
    cols = np.arange(48) % 20
    cols[[3, 30]] = -1
    words = 3 * 1 + 2 * 2
    fields = {
        "shape": (6, 20),
        "tile_rows": 16,
        "vector": (2, 4),
        "row_indptr": np.array([0, 3, 5], np.int32),
        "row_indices": np.array([4, 0, 2, 3, 1], np.int32),
        "col_indptr": np.array([0, 16, 48], np.int32),
        "col_indices": cols.astype(np.int32),
        "data": np.arange(1, 8 * words + 1, dtype=np.float32),
        "meta": np.full(words, 0x4444, np.uint16),  # positions 0 and 1 everywhere
    }
    return TVWStorage(**{**fields, **changes})


def changed(array, index, value):
    array = array.copy()
    array[index] = value
    return array


base = example()
BROKEN = {
    "shape is a list": ({"shape": [6, 20]}, "shape is"),
    "shape is negative": ({"shape": (-1, 20)}, "shape is"),
    "shape is too large": ({"shape": (6, 2**31)}, r"2\*\*31 - 1"),
    "shape has three": ({"shape": (6, 20, 1)}, "shape is"),
    "tile_rows": ({"tile_rows": 15}, "16 to 1024"),
    "tile_rows is a float": ({"tile_rows": 16.0}, "16 to 1024"),
    "vector": ({"vector": (4, 8)}, "vector is"),
    "meta missing": ({"meta": None}, "there is no meta"),
    "meta for tile-wise": ({"vector": None}, "there is meta"),
    "two libraries": ({"data": xp.ones(56)}, "one array library"),
    "two devices": (
        {
            name: xp.asarray(x, device=xp.Device("device1" if name == "meta" else "CPU_DEVICE"))
            for name, x in vars(base).items()
            if isinstance(x, np.ndarray)
        },
        "several devices: .*CPU_DEVICE.*device1",
    ),
    "data is 2-D": ({"data": base.data.reshape(7, 8)}, "data has 2 dimensions"),
    "data dtype": ({"data": base.data.astype(np.longdouble)}, "data is"),
    "data byte order": ({"data": base.data.astype(">f4")}, "byte order"),
    "index dtype": (
        {"col_indices": base.col_indices.astype(np.int64)},
        "col_indices is int64; it must be int32",
    ),
    "meta dtype": ({"meta": base.meta.astype(np.uint32)}, "meta is uint32; it must be uint16"),
    "row_indptr empty": ({"row_indptr": np.array([], np.int32)}, "row_indptr must begin with 0"),
    "row_indptr starts late": (
        {"row_indptr": np.array([1, 3, 5], np.int32)},
        "row_indptr must begin with 0",
    ),
    "row_indptr falls": (
        {"row_indptr": np.array([0, 6, 5], np.int32)},
        "tile 1: row_indptr falls from 6 to 5",
    ),
    "row_indptr ends early": (
        {"row_indptr": np.array([0, 3, 4], np.int32)},
        "ends at 4, but there are 5",
    ),
    "tile too tall": (
        {
            "shape": (40, 20),
            "row_indptr": np.array([0, 17, 20], np.int32),
            "row_indices": np.arange(20, dtype=np.int32),
        },
        "tile 0: 17 rows; a tile has at most tile_rows = 16",
    ),
    "row outside": (
        {"row_indices": changed(base.row_indices, 4, 6)},
        r"tile 1: row 6 is outside 0\.\.5",
    ),
    "row negative": (
        {"row_indices": changed(base.row_indices, 0, -1)},
        "tile 0: row -1 is outside",
    ),
    "row twice": (
        {"row_indices": changed(base.row_indices, 4, 0)},
        "row 0 is in tile 0 and again in tile 1",
    ),
    "tile counts differ": (
        {"col_indptr": np.array([0, 48], np.int32)},
        "describes 2 tiles, col_indptr 1",
    ),
    "slots not of 16": ({"col_indptr": np.array([0, 20, 48], np.int32)}, "tile 0: 20 slots"),
    "col_indptr falls": (
        {"col_indptr": np.array([0, 64, 48], np.int32)},
        "tile 1: col_indptr falls",
    ),
    "column outside": (
        {"col_indices": changed(base.col_indices, 20, 20)},
        r"tile 1, slot 4: column 20 is outside 0\.\.19",
    ),
    "column below -1": (
        {"col_indices": changed(base.col_indices, 2, -2)},
        "tile 0, slot 2: column -2",
    ),
    "data short": ({"data": base.data[:-1]}, "data has 55 entries; .* make 56"),
    "meta long": ({"meta": np.append(base.meta, base.meta[:1])}, "meta has 8 entries; .* make 7"),
    "positions equal": (
        {"meta": changed(base.meta, 4, 0x4544)},
        "tile 1, row 0, group 6: positions 1 and 1",
    ),
    "positions fall": (
        {"meta": changed(base.meta, 0, 0x4441)},
        "tile 0, row 0, group 0: positions 1 and 0",
    ),
    "value in padding": (
        {"meta": changed(base.meta, 1, 0x444C)},
        "tile 0, row 1: stored value 1 is 10",
    ),
}

SIX = {
    "remainder_indptr": np.array([0, 2, 2, 2, 3, 3, 3], np.int32),
    "remainder_indices": np.array([4, 9, 0], np.int32),
    "remainder_data": np.array([1, 2, 3], np.float32),
}
BROKEN_REMAINDERS = {
    "one array missing": ({"remainder_data": None}, "there is no remainder_data"),
    "dtype": ({"remainder_data": np.ones(3)}, "remainder_data is float64, data is float32"),
    "index dtype": ({"remainder_indices": np.arange(3)}, "remainder_indices is int64"),
    "short indptr": ({"remainder_indptr": np.array([0, 3], np.int32)}, "it has 7, from 0 to"),
    "late indptr": (
        {"remainder_indptr": changed(SIX["remainder_indptr"], 0, 1)},
        "from 0 to the number of indices, 3",
    ),
    "indptr falls": (
        {"remainder_indptr": np.array([0, 2, 1, 2, 3, 3, 3], np.int32)},
        "remainder, row 1: remainder_indptr falls",
    ),
    "data short": ({"remainder_data": np.ones(2, np.float32)}, "2 entries for 3 indices"),
    "column outside": (
        {"remainder_indices": np.array([4, 9, 20], np.int32)},
        r"remainder, row 3: column 20 is outside 0\.\.19",
    ),
    "column twice": (
        {"remainder_indices": np.array([9, 9, 0], np.int32)},
        "remainder, row 0: column 9 follows 9; columns of a row ascend",
    ),
}


def test_a_remainder_is_checked():
    example(**SIX).check()
    for changes, message in BROKEN_REMAINDERS.values():
        with pytest.raises(FormatError, match=message):
            example(**{**SIX, **changes}).check()


@pytest.mark.parametrize("name", BROKEN)
def test_check_says_what_is_broken_and_where(name):
    changes, message = BROKEN[name]
    storage = example(**changes)
    with pytest.raises(FormatError, match=message):
        storage.check()


def test_padding_of_tile_wise_storage_holds_zeros():
    data = np.ones((3 * 16 + 2 * 32), np.float32)
    with pytest.raises(FormatError, match="tile 0, row 0: stored value 3"):
        example(vector=None, meta=None, data=data).check()
    data = data[: 3 * 16].reshape(3, 16).copy()
    data[:, 3] = 0
    rest = np.ones((2, 32), np.float32)
    rest[:, 14] = 0
    example(vector=None, meta=None, data=np.concatenate([data.ravel(), rest.ravel()])).check()


@given(storages(special=True))
def test_check_accepts_every_storage_and_mutates_none(s):
    before = pickle.dumps(s)
    s.check()
    assert pickle.dumps(s) == before


@given(storages(), st.data())
def test_any_broken_index_is_found(s, data):
    """One index set at random is either still in the rules, by an independent check, or refused."""
    name = data.draw(st.sampled_from(["row_indices", "col_indices"]))
    array = getattr(s, name).copy()
    assume(array.size)
    at = data.draw(st.integers(0, array.size - 1))
    array[at] = data.draw(st.integers(-3, 100))
    limit = s.shape[0 if name == "row_indices" else 1]
    lowest = 0 if name == "row_indices" else -1
    legal = all(lowest <= i < limit for i in array)
    if name == "row_indices":
        legal &= len(set(array.tolist())) == array.size
        if not legal:
            with pytest.raises(FormatError):
                replace(s, row_indices=array).check()
        else:
            replace(s, row_indices=array).check()
    elif not legal:
        with pytest.raises(FormatError):
            replace(s, col_indices=array).check()


def test_arrays_are_read_only_and_the_callers_stay_writable():
    data = base.data.copy()
    s = example(data=data)
    with pytest.raises(ValueError, match="read-only"):
        s.data[0] = 1
    data[0] = 5
    assert s.data[0] == 5  # held, not copied
    for tile in TVWMatrix.from_storage(s).tiles:
        for view in tile:
            assert not view.flags.writeable


def test_tiles_are_views():
    s = example()
    tiles = TVWMatrix.from_storage(s).tiles
    assert len(tiles) == 2
    assert [t.data.shape for t in tiles] == [(3, 8), (2, 16)]
    assert [t.meta.shape for t in tiles] == [(3, 1), (2, 2)]
    assert np.shares_memory(tiles[1].data, s.data)
    assert tiles[-1].rows.tolist() == [3, 1]
    assert len(tiles[:1]) == 1
    assert "2 tiles" in repr(tiles)
    with pytest.raises(IndexError):
        tiles[2]


def test_nibbles_hold_every_pair_and_fill_up():
    for mask in range(16):
        kept = [p for p in range(4) if mask >> p & 1]
        nibble = int(NIBBLE_OF_MASK[mask])
        if len(kept) > 2:
            assert nibble == 0xFF
            continue
        assert nibble in VALID_NIBBLES
        assert set(kept) <= {nibble & 3, nibble >> 2}


@pytest.mark.parametrize("library", [np, xp])
@given(st.integers(0, 9), st.integers(0, 4), st.integers(0, 2**32 - 1))
def test_compress_and_expand(library, rows, words, seed):
    rng = np.random.default_rng(seed)
    rank = rng.random((rows, 4 * words, 4)).argsort(axis=-1)
    keep = (rank < rng.integers(0, 3, (rows, 4 * words, 1))).reshape(rows, 16 * words)
    tile = np.where(keep, rng.standard_normal(keep.shape), 0)
    values, meta = compress_24(library.asarray(tile))
    assert values.shape == (rows, 8 * words)
    assert meta.shape == (rows, words)
    np.testing.assert_array_equal(np.asarray(expand_24(values, meta)), tile)
    positions = positions_24(meta)
    np.testing.assert_array_equal(np.asarray(meta_from_positions(positions)), np.asarray(meta))
    for row in range(rows):  # the definition, one stored value at a time
        for i in range(8 * words):
            slot = 4 * (i // 2) + int(positions[row, i])
            assert tile[row, slot] == values[row, i]


def test_compress_refuses_three_in_a_group():
    tile = np.zeros((2, 16))
    tile[1, 4:7] = 1
    with pytest.raises(FormatError, match="row 1, slots 4-7 of the tile hold 3 values"):
        compress_24(tile)
    with pytest.raises(FormatError, match="row 0, group 1: positions 2 and 2"):
        meta_from_positions(np.array([[0, 1, 2, 2, 0, 1, 0, 1]], np.uint8))
    with pytest.raises(FormatError, match="positions 3 and 4"):
        meta_from_positions(np.array([[3, 4, 0, 1, 0, 1, 0, 1]], np.uint8))


def test_bytes_of_a_24_float16_matrix():
    a = np.zeros((1024, 1024), np.float16)
    a[:, ::2] = 1
    A = TVWMatrix(a)
    assert A.tile_rows == 1024
    assert A.nbytes <= 0.57 * a.nbytes
    assert A.nbytes == sum(
        np.asarray(v).nbytes for v in A.to_components().values() if isinstance(v, np.ndarray)
    )
