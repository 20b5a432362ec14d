"""Packing: every lane's registers hold what the instruction set says, and nothing is lost.

The expected place of each value is written down from the PTX ISA ("Matrix fragments for
mma.m16n8k16", "for sparse mma.m16n8k32"), element by element; it shares nothing with the package.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from kernel_problems import (
    BFLOAT16,
    FLOAT16,
    Product,
    TileSpec,
    expand,
    integers,
    products,
    storage_of,
)

from tvwarray._kernels.pack import pack, unpack


def lane_values(tile: np.ndarray, lane: int, columns: int) -> list[float]:
    """Return the eight values of `lane` of a fragment whose stored values are `tile` (16, 16)."""
    g, t = lane >> 2, lane & 3
    return [
        tile[g + 8 * (register & 1), 2 * t + half + 8 * (register >> 1)]
        for register in range(4)
        for half in range(2)
    ]


@pytest.mark.parametrize("sparse", [True, False])
def test_each_lane_holds_what_the_instruction_reads(sparse: bool) -> None:
    """One tile of 40 rows and 112 slots: 3 bricks high, 2 steps long, ragged both ways."""
    rng = np.random.default_rng(3)
    rows, slots = 40, 112
    tile = TileSpec(tuple(range(rows)), tuple(rng.permutation(slots)))
    count = iter(range(1, 10**6))

    def numbered(shape: tuple[int, int]) -> np.ndarray:
        return np.array([next(count) % 2000 for _ in range(np.prod(shape))], float).reshape(shape)

    storage = storage_of((rows, slots), [tile], FLOAT16, sparse, numbered, rng)
    packed = pack(storage)
    width = slots // 2 if sparse else slots
    stored = np.zeros((48, 64 if sparse else 128))
    stored[:rows, :width] = storage.data.astype(float).reshape(rows, width)
    fragments = 2 if sparse else 4
    values = packed.values.view(np.float16).astype(float).reshape(2, 3, fragments, 32, 8)
    for step in range(2):
        for brick in range(3):
            for f in range(fragments):
                c = 16 * (step * fragments + f)
                part = stored[16 * brick : 16 * brick + 16, c : c + 16]
                for lane in range(32):
                    assert list(values[step, brick, f, lane]) == lane_values(part, lane, 16)
    if not sparse:
        return
    words = packed.meta.view(np.uint32).reshape(2, 3, 32)
    natural = np.full((48, 8), 0x4444)
    natural[:rows, :7] = storage.meta.reshape(rows, 7)
    for step in range(2):
        for brick in range(3):
            for lane in range(32):
                # Selector 0 takes lanes t = 0, 1 of a quad: 16 slots each of the first 32; selector
                # 1 takes t = 2, 3. Row g below, row g + 8 above.
                g, t = lane >> 2, lane & 3
                low = natural[16 * brick + g, 4 * step + t]
                high = natural[16 * brick + g + 8, 4 * step + t]
                assert words[step, brick, lane] == low | high << 16


@given(products(max_tiles=6))
def test_unpacking_gives_the_tiles_back(product: Product) -> None:
    """Values, metadata, rows and columns of each tile; edges are zeros, 0x4444 and -1."""
    storage = product.storage
    packed = pack(storage)
    tiles = {tuple(t.rows): t for t in expand(storage) if t.values.size}
    found = unpack(packed)
    assert len(found) == len(tiles)
    for rows, cols, data, meta in found:
        tile = tiles.pop(tuple(rows[rows >= 0]))
        height, slots = tile.values.shape
        assert rows.size == -(-height // 16) * 16
        assert cols.size == -(-slots // 64) * 64
        np.testing.assert_array_equal(cols[:slots], tile.cols)
        assert (cols[slots:] == -1).all()
        if meta is None:
            again = data.astype(float)
        else:
            nibbles = np.stack([meta >> s & 15 for s in (0, 4, 8, 12)], axis=-1).reshape(
                len(rows), -1
            )
            assert set(np.unique(nibbles)) <= {0x4, 0x8, 0x9, 0xC, 0xD, 0xE}
            again = np.zeros((len(rows), cols.size))
            row, group = np.indices(nibbles.shape)
            pairs = data.astype(float).reshape(*nibbles.shape, 2)
            again[row, 4 * group + (nibbles & 3)] = pairs[..., 0]
            again[row, 4 * group + (nibbles >> 2)] = pairs[..., 1]
        np.testing.assert_array_equal(again[:height, :slots], tile.values)
        assert not again[height:].any()
        assert not again[:, slots:].any()


@given(products(max_tiles=6))
def test_the_work_list_covers_each_row_once(product: Product) -> None:
    """For every height of blocks: longest first, within bounds, rows of no tile with no steps."""
    storage = product.storage
    packed = pack(storage)
    in_tiles = np.concatenate(
        [np.zeros(0, int), *(t.rows for t in expand(storage) if t.values.size)]
    )
    for block_rows in (16, 32, 64, 128, 256):
        blocks = packed.work_list(block_rows)
        assert packed.work_list(block_rows) is blocks
        assert (np.diff(blocks[:, 3]) <= 0).all()
        seen = []
        for brick, stride, bricks, steps, slots, rows, *_ in blocks.tolist():
            assert 1 <= bricks <= min(stride, block_rows // 16)
            if steps:
                last = brick + (steps - 1) * stride + bricks
                assert last * 16 * 64 <= packed.values.size * (2 if packed.sparse else 1)
                assert slots + 64 * steps <= packed.cols.size
            listed = packed.rows[rows : rows + 16 * bricks]
            assert np.isin(listed[listed >= 0], in_tiles).all() == (
                steps > 0 or not (listed >= 0).any()
            )
            seen.extend(listed[listed >= 0])
        assert sorted(seen) == list(range(storage.shape[0]))


def test_packing_adds_no_more_than_the_edges() -> None:
    rng = np.random.default_rng(0)
    tiles = [TileSpec(tuple(range(r, r + 64)), tuple(range(128))) for r in range(0, 256, 64)]
    storage = storage_of((256, 128), tiles, BFLOAT16, True, integers(rng), rng)
    assert pack(storage).values.nbytes == storage.data.nbytes
    assert pack(storage).meta.nbytes == storage.meta.nbytes
    assert pack(storage).nbytes < storage.nbytes + 64
