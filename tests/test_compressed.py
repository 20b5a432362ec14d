"""2:4-compressed forms of whole matrices, with positions and with bitmasks.

Axes: dtype x shape x tile_rows x array library; the storage is one made from such a form, any
reordering of it, or any storage at all. Equality is of bits where the form is kept as it is, of
values (after -0.0 became +0.0) where columns are put back in order.
"""

from __future__ import annotations

from dataclasses import replace

import array_api_strict
import ml_dtypes
import numpy as np
import oracle
import pytest
import strategies
from hypothesis import given
from hypothesis import strategies as st
from strategies import FLOATS, MEMORY, in_memory, random_values, storages
from two_four_forms import compressed, expand, same_bits, same_values

from tvwarray import FormatError, TVWStorage
from tvwarray._convert import (
    from_24,
    from_bitmask,
    from_cutlass,
    from_dense,
    to_24,
    to_bitmask,
    to_cutlass,
    to_dense,
)

LIBRARIES = [np, array_api_strict]
tile_heights = st.sampled_from([16, 17, 128, 256])
integer_dtypes = st.sampled_from(["u1", "i1", "i8", ">u4"])


def rearranged(s: TVWStorage, rng: np.random.Generator) -> TVWStorage:
    """Return the same matrix with its rows, groups and slots in another order, and more padding."""
    tiles = np.split(rng.permutation(s.shape[0]), range(s.tile_rows, s.shape[0], s.tile_rows))
    dense = np.asarray(to_dense(s))
    with np.errstate(invalid="ignore"):  # of signaling NaNs
        kept = dense != 0
    cols, data, meta = [], [], []
    for rows in tiles:
        groups = np.concatenate([np.arange(s.shape[1]), np.full(-s.shape[1] % 16 + 16, -1)])
        groups = rng.permuted(rng.permutation(groups.reshape(-1, 4)), axis=1)
        cols.append(groups.ravel())
        for row in rows:
            nibbles = []
            for group in groups:
                full = [p for p in range(4) if group[p] >= 0 and kept[row, group[p]]]
                first, second = sorted((full + [p for p in range(4) if p not in full])[:2])
                nibbles.append(first | second << 2)
                data += [dense[row, c] if c >= 0 else 0 for c in group[[first, second]]]
            meta += [
                n[0] | n[1] << 4 | n[2] << 8 | n[3] << 12 for n in np.reshape(nibbles, (-1, 4))
            ]
    return replace(
        s,
        row_indptr=np.cumsum([0, *map(len, tiles)], dtype=np.int32),
        row_indices=np.concatenate(tiles).astype(np.int32),
        col_indptr=np.cumsum([0, *map(len, cols)], dtype=np.int32),
        col_indices=np.concatenate(cols).astype(np.int32),
        data=np.array(data, s.dtype),
        meta=np.array(meta, np.uint16),
    )


# ---------------------------------------------------------------- values and positions


@given(compressed(), tile_heights, st.sampled_from(MEMORY), integer_dtypes)
def test_from_24_and_back_is_exact(matrix, tile_rows, memory, integer):
    values, positions = matrix
    given_positions = in_memory(positions.astype(integer), memory)
    s = from_24(in_memory(values, memory), given_positions, tile_rows=tile_rows)
    s.check()
    rows, cols = s.shape
    assert s.num_tiles == -(-rows // tile_rows)
    assert (s.row_indices == np.arange(rows)).all()
    for t in range(s.num_tiles):
        slots = s.tile(t).cols
        assert slots.size == -(-cols // 16) * 16
        assert (slots[:cols] == np.arange(cols)).all()
        assert (slots[cols:] == -1).all()
    same_bits(to_24(s)[0], values)
    same_bits(to_24(s)[1], positions)
    dense, _ = expand(values, positions)
    same_values(to_dense(s), dense)


@given(compressed(dtypes=[*FLOATS, "int8", "complex64"]), tile_heights)
def test_every_array_library_gives_the_same(matrix, tile_rows):
    values, positions = (array_api_strict.asarray(x) for x in matrix)
    s = from_24(values, positions, tile_rows=tile_rows)
    s.check()
    expected = from_24(*matrix, tile_rows=tile_rows)
    for field in ("row_indptr", "row_indices", "col_indptr", "col_indices", "data", "meta"):
        assert isinstance(getattr(s, field), type(values))
        same_bits(getattr(s, field), getattr(expected, field))
    on_host = *to_24(expected), *to_bitmask(expected)
    for got, array in zip((*to_24(s), *to_bitmask(s)), on_host, strict=True):
        assert isinstance(got, type(values))
        same_bits(got, array)
    again = from_bitmask(*to_bitmask(s), s.shape, tile_rows=tile_rows)
    same_bits(again.data, expected.data)
    same_bits(again.meta, expected.meta)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", ["float16", "float32", "int8"])
def test_on_a_gpu(dtype):
    import cupy as cp

    rng = np.random.default_rng(0)
    values = random_values(rng, (64, 64), strategies.dtype(dtype))
    positions = np.tile(np.array([0, 2, 1, 3], np.uint8), (64, 16))
    s = from_24(cp.asarray(values), cp.asarray(positions), tile_rows=17)
    s.check()
    again = from_bitmask(*to_bitmask(s), s.shape)
    for storage in (s, again, from_24(cp.asarray(values), meta=s.meta.reshape(64, 8))):
        for got, expected in zip(to_24(storage), (values, positions), strict=True):
            assert isinstance(got, cp.ndarray)
            same_bits(got.get(), expected)
    if dtype != "float32":
        for got, expected in zip(to_24(from_cutlass(*to_cutlass(s))), to_24(s), strict=True):
            same_bits(got.get(), expected.get())


@given(compressed(cols=16))
def test_meta_in_place_of_positions(matrix):
    values, positions = matrix
    eights = positions.reshape(len(values), values.shape[1] // 8, 8).astype(int)
    words = (eights << 2 * np.arange(8)).sum(axis=2).astype(np.uint16)
    s = from_24(values, meta=words)
    same_bits(s.meta, words.ravel())
    same_bits(to_24(s)[1], positions)


def test_the_values_are_copied():
    """Packed forms of a storage are cached: the caller's array must not change under them."""
    values, positions = np.ones((16, 8), np.float32), np.tile(np.array([1, 3], np.uint8), (16, 4))
    for columns in (8, 6):
        s = from_24(values[:, :columns], positions[:, :columns])
        values[0, 0] += 1
        assert (to_24(s)[0][0, 0], values[0, 0]) == (values[0, 0] - 1, s.data[0] + 1)


@given(compressed(), st.sampled_from([16, 32]), strategies.seeds)
def test_to_24_of_a_rearranged_matrix(matrix, tile_rows, seed):
    """Rows of zeros may be in no tile, slots in any order: the matrix is the same."""
    s = from_24(*matrix, tile_rows=tile_rows)
    dense, _ = expand(*matrix)
    for other in (
        rearranged(s, np.random.default_rng(seed)),
        from_dense(dense, tile_rows=tile_rows),
        from_dense(dense, tile_rows=tile_rows, vector=None),
    ):
        other.check()
        same_values(expand(*to_24(other))[0], dense)


@given(storages(special=True, repeats=False) | storages(dtypes=FLOATS, remainders=False))
def test_to_24_of_any_storage(s):
    """It gives the matrix if that is 2:4, and else says where it is not."""
    dense = oracle.dense(s)
    if s.shape[1] % 4:
        with pytest.raises(FormatError, match=f"{s.shape[1]} columns; .* multiple of 4"):
            to_24(s)
    elif not oracle.crowded(dense):
        values, positions = to_24(s)
        assert (positions[:, 0::2] < positions[:, 1::2]).all()
        np.testing.assert_array_equal(oracle.wide(expand(values, positions)[0]), dense)
    else:
        with pytest.raises(FormatError, match=r"at most 2.\nPrune") as e:
            to_24(s)
        words = str(e.value).replace("-", " ").replace(",", "").split()
        row, first, last, held = (int(words[i]) for i in (1, 3, 4, 6))
        assert (first % 4, last) == (0, first + 3)
        assert np.count_nonzero(dense[row, first : last + 1]) == held > 2


def test_rows_in_no_tile_are_stored_zeros():
    dense = np.zeros((300, 1040), np.float32)
    dense[7, 1039] = 5
    s = from_dense(dense)
    assert s.row_indices.tolist() == [7]
    values, positions = to_24(s)
    same_bits(expand(values, positions)[0], dense)
    assert positions[7, -2:].tolist() == [0, 3]
    assert (np.delete(positions, 7, axis=0).reshape(-1, 2) == [0, 1]).all()
    same_bits(np.asarray(to_dense(from_24(values, positions))), dense)


def test_groups_of_stored_zeros_keep_their_places():
    positions = np.array([[2, 3, 1, 2]], np.uint8)
    s = from_24(np.array([[0.0, -0.0, 0.0, 4.0]]), positions)
    same_bits(to_24(s)[0], np.array([[0.0, -0.0, 0.0, 4.0]]))
    same_bits(to_24(s)[1], positions)


def test_signaling_nans_are_values():
    signaling = np.array([[0x7F81, 0xFFBF, 1, 2]], np.uint16).view(ml_dtypes.bfloat16)
    s = from_24(signaling, np.array([[0, 1, 2, 3]], np.uint8))
    for other in (s, rearranged(s, np.random.default_rng(0))):
        same_bits(to_24(other)[0], signaling)


ONE = np.ones((2, 4), np.float32)
AT = np.array([[0, 1, 2, 3], [0, 1, 2, 3]])


@pytest.mark.parametrize(
    ("values", "positions", "message"),
    [
        (ONE[:, :3], AT[:, :3], r"shape \(2, 3\)"),
        (ONE[0], AT[0], r"shape \(4,\)"),
        (ONE, AT[:1], r"shape \(2, 4\), as the values"),
        (ONE, AT.astype(float), "must be integers"),
        (ONE, AT.astype(bool), "must be integers"),
        (ONE, [[0, 1, 2, 3], [0, 1, 2, 2]], "row 1, columns 4-7: positions 2 and 2"),
        (ONE, [[0, 1, 3, 2], [0, 1, 2, 3]], "row 0, columns 4-7: positions 3 and 2"),
        (ONE, [[0, 4, 2, 3], [0, 1, 2, 3]], "row 0, columns 0-3: positions 0 and 4"),
        (ONE, [[0, 1, 2, 3], [-1, 1, 2, 3]], "row 1, columns 0-3: positions -1 and 1"),
        (ONE, [[0, 257, 2, 3], [0, 1, 2, 3]], "positions 0 and 257"),
    ],
)
@pytest.mark.parametrize("xp", LIBRARIES)
def test_what_from_24_refuses(xp, values, positions, message):
    with pytest.raises(FormatError, match=message):
        from_24(xp.asarray(values), xp.asarray(np.asarray(positions)))


@pytest.mark.parametrize("dtype", [np.longdouble, object])
def test_from_24_refuses_dtypes_that_no_matrix_holds(dtype):
    with pytest.raises(FormatError, match="values: a matrix cannot hold"):
        from_24(ONE.astype(dtype), AT)


@pytest.mark.parametrize(
    ("cols", "meta", "message"),
    [
        (20, np.zeros((2, 1), np.uint16), "multiples of 16; the values make 20"),
        (32, np.full((2, 1), 0x4444, np.uint16), r"must be uint16 of shape \(2, 2\)"),
        (32, np.full((2, 2), 0x4444, np.int16), "meta is int16"),
        (32, np.array([[0x4444, 0x4444], [0x4444, 0x4404]], np.uint16), "row 1, columns 20-23"),
    ],
)
def test_what_from_24_refuses_of_meta(cols, meta, message):
    with pytest.raises(FormatError, match=message):
        from_24(np.ones((2, cols // 2), np.float32), meta=meta)


def test_from_24_takes_either_positions_or_meta():
    with pytest.raises(TypeError, match="either positions or meta"):
        from_24(ONE)
    with pytest.raises(TypeError, match="either positions or meta"):
        from_24(ONE, AT, meta=AT)
    with pytest.raises(FormatError, match="tile_rows is 8"):
        from_24(ONE, AT, tile_rows=8)


# ---------------------------------------------------------------- bitmasks


@given(compressed(), tile_heights)
def test_bitmask_round_trip(matrix, tile_rows):
    """The definition: bits of a row in column order, the lowest bit of a byte first."""
    values, positions = matrix
    dense, stored = expand(values, positions)
    bitmask = np.packbits(stored, axis=1, bitorder="little")
    s = from_bitmask(values, bitmask, dense.shape, tile_rows=tile_rows)
    s.check()
    assert s.tile_rows == tile_rows
    same_bits(to_24(s)[1], positions)
    same_values(to_dense(s), dense)
    for got, expected in zip(to_bitmask(s), (values, bitmask), strict=True):
        same_bits(got, expected)


def test_the_picture_of_the_module():
    values = np.array([[1.0, 2.0, 3.0, 4.0]])
    s = from_24(values, np.array([[1, 3, 0, 3]]))
    assert np.asarray(to_dense(s)).tolist() == [[0, 1, 0, 2, 3, 0, 0, 4]]
    assert to_bitmask(s)[1].tolist() == [[0x9A]]


@pytest.mark.parametrize(
    "shape",
    [[4, 12], np.array([[4], [12]]), array_api_strict.asarray([[4], [12]]), np.int64([4, 12])],
)
def test_the_shape_may_be_that_of_a_file(shape):
    bitmask = np.full((4, 2), [0x33, 0x03], np.uint8)
    assert from_bitmask(np.ones((4, 6)), bitmask, shape).shape == (4, 12)


@pytest.mark.parametrize(
    ("bitmask", "shape", "message"),
    [
        ([[0x33, 0x03], [0x33, 0x01]], (2, 12), "row 1, columns 8-11: 1 bits are set"),
        ([[0x3F, 0x03], [0x33, 0x03]], (2, 12), "row 0, columns 0-3: 4 bits are set"),
        ([[0x33, 0x03], [0x03, 0x03]], (2, 12), "row 1, columns 4-7: 0 bits are set"),
        ([[0x33, 0x03], [0x33, 0x13]], (2, 12), "row 1: bits beyond column 11"),
        ([[0x33], [0x33]], (2, 12), r"must be uint8 of shape \(2, 2\)"),
        ([[0x33, 0x03], [0x33, 0x03]], (2, 16), r"shape \(2, 16\) has \(2, 8\) stored values"),
        ([[0x33, 0x03], [0x33, 0x03]], (3, 12), r"shape \(3, 12\)"),
        ([[0x33, 0x03], [0x33, 0x03]], (2, 12, 1), "two integers"),
        ([[0x33, 0x03], [0x33, 0x03]], (2.0, 12), "two integers"),
        ([[0x33, 0x03], [0x33, 0x03]], "ab", "two integers"),
    ],
)
def test_what_from_bitmask_refuses(bitmask, shape, message):
    with pytest.raises(FormatError, match=message):
        from_bitmask(np.ones((2, 6)), np.array(bitmask, np.uint8), shape)
    with pytest.raises(FormatError):
        from_bitmask(np.ones((2, 6)), np.array(bitmask, np.int8), shape)
