"""The bricks of `pack` to the slabs that ``wgmma`` reads, once for a matrix and device.

A slab is 64 rows x 64 slots: four bricks, filled up at the lower edge of a tile with zeros and
metadata 0x4. Slabs of one step of 64 slots lie together, top to bottom, then those of the next::

               step 0   step 1
    rows 0-63  [slab 0] [slab 2]        tile after tile
       64-127  [slab 1] [slab 3]

Inside a slab stand the values as shared memory must hold them, so that a bulk copy brings them
there: row r is 32 stored values, 4 chunks of 16 bytes, chunk c kept at ``c ^ (r // 2 % 4)``::

    chunk        0 1 2 3
    rows 0, 1    0 1 2 3
    rows 2, 3    1 0 3 2        and again from row 8
    rows 4, 5    2 3 0 1
    rows 6, 7    3 2 1 0

and then the metadata: the words of its four bricks, which is a word for each of the 128 threads of
a warpgroup. Column and row lists are those of the bricks.

Of 8-bit values a slab is 64 rows x 128 slots: 64 bytes a row as well, of 64 values, and two words
for each thread.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from tvwarray._kernels.bricks import PADDING_META
from tvwarray._kernels.config import BRICK_ROWS
from tvwarray._kernels.hopper.config import SLAB_ROWS, STEP_SLOTS, HopperConfig
from tvwarray._kernels.hopper.config8 import ByteConfig
from tvwarray._kernels.hopper.cost import pass_on_steps, store_steps
from tvwarray._kernels.hopper.cut import costs_of, pieces_of
from tvwarray._kernels.pack import PackedMatrix
from tvwarray._kernels.schedule import successors
from tvwarray._kernels.streams import settled
from tvwarray._kernels.tiles import Tiles
from tvwarray._namespace import Array, array_namespace, device_of, from_host
from tvwarray._ragged import cumulate, runs

HostArray = np.ndarray[Any, Any]

BLOCK_WORDS: Final = 8
"""int32 words of an entry of the work list: struct Block of sm90_work.cuh."""

STAYS: Final = 2 / 3
"""Of the L2 cache, what A may take to stay there while X and Y pass."""

EVEN: Final = 1.25
"""Times the mean, what the longest tile of such a matrix has at most."""

_BRICKS: Final = SLAB_ROWS // BRICK_ROWS
_VALUE_WORDS: Final = SLAB_ROWS * 32
_CHUNKS: Final = 4
_CHUNK: Final = 8

_ROW: Final = np.arange(SLAB_ROWS)[:, None]
_KEPT_AT: Final = np.arange(_CHUNKS)[None, :] ^ (_ROW // 2 % _CHUNKS)
"""Which chunk of a row stands at each place of it; an involution."""


@dataclass(frozen=True, eq=False)
class SlabMatrix:
    """A matrix in the order of ``sm90_tvw_gemm``; see the picture of this module."""

    slabs: Array
    """uint16 (slabs * 2304,), or 2560 of 8-bit values: bit patterns of values, then words of
    metadata, slab after slab"""
    cols: Array
    rows: Array
    tiles: Tiles
    height: HostArray
    """int64 (tiles,): slabs of each tile in height."""
    first_slab: HostArray
    lists: dict[Hashable, Any]
    """Work lists on the device, by the rows of a block and the blocks of a cluster; schedules."""

    def work_list(self, block_rows: int, cluster: int = 1, most_steps: int = 0) -> Array:
        """Return the work list for blocks of at most `block_rows` rows, int32 (entries, 8).

        Clusters take as many entries together as they have blocks, all with the same steps.
        """
        key = block_rows, cluster, most_steps
        if key not in self.lists:
            blocks = _grouped(self.blocks(block_rows, most_steps), cluster)
            with settled(self.cols):
                self.lists[key] = from_host(blocks, self.cols)
        found: Array = self.lists[key]
        return found

    def strip(self, entries: int, at_once: int, widest: int, l2_bytes: int) -> int:
        """Return how many blocks' widths of X, at most `widest`, are worked on together.

        Where A stays in the L2 cache, `at_once` blocks cover all of it, so that each column of X
        comes from memory once (H200, tiles of 128 rows, 75 %: 10 % faster at 4096^3, 5 at 8192^3).
        Not where tiles are unequal: narrow strips end with long items, one after another.

        Parameters
        ----------
        entries : int
            Of the work list, those of a cluster one.
        """
        steps = self.tiles.steps[self.tiles.bricks > 0]
        if self.slabs.nbytes <= STAYS * l2_bytes and steps.max() <= EVEN * steps.mean():
            widest = min(widest, at_once // entries)
        return max(1, widest)

    def following(
        self,
        config: HopperConfig | ByteConfig,
        most_steps: int,
        columns: int,
        strip: int,
        at_once: int,
    ) -> Array | None:
        """Return which item each one's block takes next, on the device; None where they take turns.

        See `schedule.successors`; what items cost is in `cut`.
        """
        key = "following", config.block_rows, config.tall, most_steps, columns, strip, at_once
        if key not in self.lists:
            work = _grouped(self.blocks(config.block_rows, most_steps), config.tall)[:: config.tall]
            share = work[:, 7].view(np.uint32)
            costs = costs_of(
                work[:, 3],
                share >> 8 & 255,
                share & 255,
                store_steps(config),
                pass_on_steps(config, at_once),
            )
            found = successors(costs, columns, strip, at_once)
            with settled(self.cols):
                self.lists[key] = None if found is None else from_host(found, self.cols)
        return self.lists[key]

    def blocks(self, block_rows: int, most_steps: int = 0) -> HostArray:
        """Cut the tiles into blocks of `block_rows` rows: the work list, longest first.

        Tiles of more than `most_steps` steps, unless that is 0, are cut into pieces of as equal
        lengths as can be, whose sums are added up.
        """
        tiles, most = self.tiles, block_rows // SLAB_ROWS
        cuts = -(-self.height // most)
        tile = np.repeat(np.arange(tiles.source.size), cuts)
        above = runs(0, cuts) * most
        pieces = pieces_of(tiles.steps, most_steps)[tile]
        shared = np.where(pieces > 1, pieces, 0)
        first = np.repeat(np.cumsum(shared) - shared, pieces)
        piece = runs(0, pieces)
        tile, above, pieces = (np.repeat(x, pieces) for x in (tile, above, pieces))
        start = tiles.steps[tile] * piece // pieces
        stop = tiles.steps[tile] * (piece + 1) // pieces
        blocks = np.zeros((tile.size, BLOCK_WORDS), np.int32)
        blocks[:, 0] = self.first_slab[tile] + above + start * self.height[tile]
        blocks[:, 1] = self.height[tile]
        blocks[:, 2] = np.minimum(self.height[tile] - above, most)
        blocks[:, 3] = stop - start
        blocks[:, 4] = tiles.first_slot[tile] + start * tiles.step_slots
        blocks[:, 5] = tiles.first_row[tile] + above * SLAB_ROWS
        blocks[:, 6] = (tiles.bricks[tile] - above * _BRICKS) * BRICK_ROWS
        share = (first << 16 | pieces << 8 | piece).astype(np.uint32).view(np.int32)
        blocks[:, 7] = np.where(pieces > 1, share, 0)
        # Ties stay in order, so that blocks of a tile, which share its rows of X, are neighbours.
        return blocks[np.argsort(-blocks[:, 3], kind="stable")]


def _grouped(blocks: HostArray, cluster: int) -> HostArray:
    """Return the work list with groups of `cluster` entries that have equal steps.

    Where entries are missing, the last one is there again, and stores no rows.
    """
    groups = []
    for steps in np.unique(blocks[:, 3])[::-1]:
        same = blocks[blocks[:, 3] == steps]
        missing = np.repeat(same[-1:], -len(same) % cluster, axis=0)
        missing[:, 6] = 0
        groups += [same, missing]
    return np.concatenate([blocks[:0], *groups])


def slabs_of(packed: PackedMatrix) -> SlabMatrix:
    """Return a matrix with pattern (2, 4) in slabs; made once, and kept with `packed`.

    The cost is that of copying the matrix twice. Both forms stay: products with few columns of X
    run the other kernel.
    """
    if "slabs" not in packed.memo:
        with settled(packed.values):
            packed.memo["slabs"] = _make(packed)
    found: SlabMatrix = packed.memo["slabs"]
    return found


def _make(packed: PackedMatrix) -> SlabMatrix:
    xp, tiles = array_namespace(packed.values), packed.tiles
    device = device_of(packed.values)
    height = -(-tiles.bricks // _BRICKS)
    first_slab = cumulate(height * tiles.steps)[:-1]
    total = int((height * tiles.steps).sum())
    of_brick = 64 * tiles.step_slots // STEP_SLOTS  # halves of words of metadata
    slab_words = _VALUE_WORDS + _BRICKS * of_brick
    slabs = xp.zeros((total * slab_words,), dtype=xp.uint16, device=device)
    all_values = packed.values.view(np.uint16)  # pairs of 8-bit values
    row, kept_at = from_host(_ROW, packed.cols), from_host(_KEPT_AT, packed.cols)
    for group in tiles.groups():
        t = group.start
        count, steps, bricks = group.stop - t, int(tiles.steps[t]), int(tiles.bricks[t])
        size = count * steps * bricks
        start = int(tiles.first_brick[t])
        values = all_values[start * 512 : (start + size) * 512]
        meta = packed.meta[start * of_brick : (start + size) * of_brick]
        # Fragment, g, t, half of the chunks, half of the rows, pair; see pack.py.
        natural = xp.reshape(values, (count * steps, bricks, 2, 8, 4, 2, 2, 2))
        natural = xp.permute_dims(natural, (0, 1, 6, 3, 2, 5, 4, 7))
        full = int(height[t]) * _BRICKS
        tall = xp.zeros((count * steps, full, BRICK_ROWS * 32), dtype=xp.uint16, device=device)
        tall[:, :bricks] = xp.reshape(natural, (count * steps, bricks, BRICK_ROWS * 32))
        number = count * steps * int(height[t])
        rows = xp.reshape(tall, (number, SLAB_ROWS, _CHUNKS, _CHUNK))
        words = xp.full(
            (count * steps, full, of_brick), PADDING_META, dtype=xp.uint16, device=device
        )
        words[:, :bricks] = xp.reshape(meta, (count * steps, bricks, of_brick))
        at = int(first_slab[t])
        target = slabs[at * slab_words : (at + number) * slab_words]
        target = xp.reshape(target, (number, slab_words))
        target[:, :_VALUE_WORDS] = xp.reshape(rows[:, row, kept_at], (number, _VALUE_WORDS))
        target[:, _VALUE_WORDS:] = xp.reshape(words, (number, _BRICKS * of_brick))
    return SlabMatrix(slabs, packed.cols, packed.rows, tiles, height, first_slab, {})
