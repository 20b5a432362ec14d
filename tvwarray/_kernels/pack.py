"""Canonical storage to the order in which a kernel's lanes read it, once for a matrix and device.

A tile is cut into bricks of 16 rows x 64 slots, filled up with zeros, metadata 0x4 and column -1 at
the edges. Bricks of one step of 64 slots lie together, top to bottom, then those of the next step::

              step 0    step 1
    rows 0-15 [brick 0] [brick 2]        tile after tile
        16-31 [brick 1] [brick 3]

Inside a brick stand fragments of 32 lanes x 16 bytes. Lane 4 g + t (g = 0..7, t = 0..3) holds of
the 16 x 16 values of a fragment, which are 32 slots with 2:4 and 16 slots without::

    word     0               1               2               3
    row      g               g + 8           g               g + 8
    columns  2t, 2t + 1      2t, 2t + 1      2t + 8, 2t + 9  2t + 8, 2t + 9

and one word of metadata for the whole brick: slots 16 t .. 16 t + 15 of row g in its lower half, of
row g + 8 in its upper half. All of this is an exchange of axes, of one array for all tiles of equal
size.

Rows that are zero, in no tile or in a tile without slots, become one more tile with no steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np

from tvwarray._dtypes import DType
from tvwarray._kernels.config import BRICK_ROWS, STEP_SLOTS
from tvwarray._namespace import Array, array_namespace, device_of, from_host, to_host
from tvwarray._storage import SLOT_MULTIPLE, TVWStorage

HostArray = np.ndarray[Any, Any]

PADDING_META: Final = 0x4444
"""Metadata of four groups in which nothing is stored: positions 0 and 1, the least valid nibble."""

BLOCK_WORDS: Final = 8
"""int32 words of an entry of the work list: struct Block of layout.cuh, and two unused."""

_HALVES, _LANES_G, _LANES_T = 2, 8, 4  # rows g and g + 8 of a brick; g and t of a lane


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix in a kernel's order; see the picture of this module."""

    shape: tuple[int, int]
    dtype: DType
    sparse: bool
    values: Array
    """uint16 (bricks * 512) bit patterns, or (bricks * 1024) without 2:4"""
    meta: Array
    """uint16 (bricks * 64), or of one brick that is not read without 2:4"""
    cols: Array
    """int32 (steps of all tiles * 64,)"""
    rows: Array
    """int32 (bricks' rows of all tiles,), -1 for padding"""
    tiles: Tiles
    """Where each tile lies, on the host."""
    memo: dict[Any, Any] = field(default_factory=dict)
    """What was worked out for this matrix: work lists, and the choice of a kernel for each n."""

    def work_list(self, block_rows: int) -> Array:
        """Return the work list for blocks of at most `block_rows` rows, int32 (entries, 8)."""
        if block_rows not in self.memo:
            self.memo[block_rows] = from_host(self.tiles.blocks(block_rows), self.cols)
        return self.memo[block_rows]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together, without work lists."""
        return sum(int(x.nbytes) for x in (self.values, self.meta, self.cols, self.rows))


@dataclass(frozen=True, eq=False)
class Tiles:
    """Where the packed tiles lie; int64 (tiles,) each. The last one is the rows that are zero."""

    source: HostArray
    """Which tile of the storage this is; -1 for the rows that are zero."""
    rows: HostArray
    slots: HostArray
    bricks: HostArray
    """Bricks in height."""
    steps: HostArray
    first_brick: HostArray
    first_slot: HostArray
    first_row: HostArray

    @classmethod
    def of_storage(cls, storage: TVWStorage) -> Tiles:
        """Lay the tiles of `storage` out, those of equal size side by side."""
        rows, slots = storage.rows_of, storage.slots_of
        source = np.flatnonzero((rows > 0) & (slots > 0))
        source = source[np.lexsort((source, slots[source], rows[source]))]
        zero_rows = storage.shape[0] - int(rows[source].sum())
        source = np.append(source, -1)
        rows = np.append(rows[source[:-1]], zero_rows)
        slots = np.append(slots[source[:-1]], 0)
        bricks, steps = -(-rows // BRICK_ROWS), -(-slots // STEP_SLOTS)
        return cls(
            source, rows, slots, bricks, steps,
            _starts(bricks * steps), _starts(steps * STEP_SLOTS), _starts(bricks * BRICK_ROWS),
        )  # fmt: skip

    @property
    def total_bricks(self) -> int:
        """Bricks of all tiles."""
        return int((self.bricks * self.steps).sum())

    def groups(self) -> Iterator[slice]:
        """Yield the runs of tiles that have equal rows and slots, without the zero rows."""
        last = self.source.size - 1
        size = np.stack([self.rows[:last], self.slots[:last]])
        ends = np.flatnonzero(np.any(size[:, 1:] != size[:, :-1], axis=0)) + 1
        bounds = [0, *map(int, ends), last]
        for start, stop in pairwise(bounds):
            if start < stop:
                yield slice(start, stop)

    def blocks(self, block_rows: int) -> HostArray:
        """Cut the tiles into blocks of `block_rows` rows: the work list, longest first."""
        height = block_rows // BRICK_ROWS
        cuts = -(-self.bricks // height)
        tile = np.repeat(np.arange(self.source.size), cuts)
        above = (np.arange(tile.size) - np.repeat(_starts(cuts), cuts)) * height
        blocks = np.zeros((tile.size, BLOCK_WORDS), np.int32)
        blocks[:, 0] = self.first_brick[tile] + above
        blocks[:, 1] = self.bricks[tile]
        blocks[:, 2] = np.minimum(self.bricks[tile] - above, height)
        blocks[:, 3] = self.steps[tile]
        blocks[:, 4] = self.first_slot[tile]
        blocks[:, 5] = self.first_row[tile] + above * BRICK_ROWS
        # Ties stay in order, so that blocks of a tile, which share its rows of X, are neighbours.
        return blocks[np.argsort(-blocks[:, 3], kind="stable")]


def pack(storage: TVWStorage) -> PackedMatrix:
    """Put `storage`, of a 16-bit dtype, into the kernels' order, on the device where it lies.

    The cost is that of copying the matrix twice, and a few operations for each tile.
    """
    xp = array_namespace(storage.data)
    tiles = Tiles.of_storage(storage)
    sparse = storage.vector is not None
    values = _zeros(xp, tiles.total_bricks * _brick_values(sparse), xp.uint16, storage.data)
    meta = _zeros(xp, (tiles.total_bricks if sparse else 1) * 2 * 32, xp.uint16, storage.data)
    data = storage.data.view(xp.uint16)
    for group in tiles.groups():
        width = int(tiles.slots[group.start]) // (2 if sparse else 1)
        raw = _gather(xp, data, storage.data_indptr, tiles, group, width, 0)
        _value_axes(values, tiles, group, sparse)[...] = _split_values(raw)
        if storage.meta is not None:
            words = int(tiles.slots[group.start]) // SLOT_MULTIPLE
            raw = _gather(xp, storage.meta, storage.meta_indptr, tiles, group, words, PADDING_META)
            _meta_axes(meta, tiles, group)[...] = _split_meta(raw)
    cols, rows = _lists(storage, tiles)
    return PackedMatrix(
        storage.shape, storage.dtype, sparse, values, meta,
        from_host(cols, storage.data), from_host(rows, storage.data), tiles,
    )  # fmt: skip


def unpack(packed: PackedMatrix) -> list[tuple[HostArray, HostArray, HostArray, HostArray | None]]:
    """Return rows, cols, data and meta of each tile that has both rows and slots: `pack` undone.

    What packing added is left in the arrays' shapes: rows to a multiple of 16, slots of 64.
    """
    tiles = packed.tiles
    values, meta = to_host(packed.values), to_host(packed.meta)
    cols, rows = to_host(packed.cols), to_host(packed.rows)
    found = []
    for group in tiles.groups():
        data = _join_values(_value_axes(values, tiles, group, packed.sparse)).view(packed.dtype)
        words = _join_meta(_meta_axes(meta, tiles, group)) if packed.sparse else None
        for i, t in enumerate(range(group.start, group.stop)):
            first_row, first_slot = int(tiles.first_row[t]), int(tiles.first_slot[t])
            found.append((
                rows[first_row : first_row + int(tiles.bricks[t]) * BRICK_ROWS],
                cols[first_slot : first_slot + int(tiles.steps[t]) * STEP_SLOTS],
                data[i],
                None if words is None else words[i],
            ))  # fmt: skip
    return found


def _brick_values(sparse: bool) -> int:
    return BRICK_ROWS * STEP_SLOTS // (2 if sparse else 1)


def _gather(
    xp: Any, flat: Array, indptr: HostArray, tiles: Tiles, group: slice, width: int, fill: int
) -> Array:
    """Return the tiles of a group as (tiles, bricks, 16, steps, words a step), filled up."""
    t = group.start
    rows, bricks, steps = (int(x[t]) for x in (tiles.rows, tiles.bricks, tiles.steps))
    step_words = width * STEP_SLOTS // int(tiles.slots[t])
    count = group.stop - group.start
    shape = (count, bricks * BRICK_ROWS, steps * step_words)
    raw = xp.full(shape, fill, dtype=xp.uint16, device=device_of(flat))
    for i, s in enumerate(tiles.source[group]):
        start = int(indptr[s])
        tile = xp.reshape(flat[start : start + rows * width], (rows, width))
        raw[i, :rows, :width] = tile
    return xp.reshape(raw, (count, bricks, BRICK_ROWS, steps, step_words))


# The axes of a group of tiles. Natural order, values:
#     tile, brick, half of the rows, g | step, fragment, half of the columns, t, value of the pair
# and the order of the kernel:
#     tile, step, brick, fragment, g, t, half of the columns, half of the rows, value of the pair
_VALUES_TO_KERNEL: Final = (0, 4, 1, 5, 3, 7, 6, 2, 8)
# Metadata, naturally:  tile, brick, half of the rows, g | step, t
# and in the kernel:    tile, step, brick, g, t, half of the rows
_META_TO_KERNEL: Final = (0, 4, 1, 3, 5, 2)


def _split_values(raw: Array) -> Array:
    xp = array_namespace(raw)
    count, bricks, _, steps, words = raw.shape
    axes = (count, bricks, _HALVES, _LANES_G, steps, words // 16, 2, _LANES_T, 2)
    return xp.permute_dims(xp.reshape(raw, axes), _VALUES_TO_KERNEL)


def _join_values(packed: HostArray) -> HostArray:
    natural = packed.transpose(np.argsort(_VALUES_TO_KERNEL))
    count, bricks, _, _, steps, fragments = natural.shape[:6]
    return np.ascontiguousarray(natural).reshape(count, bricks * 16, steps * fragments * 16)


def _split_meta(raw: Array) -> Array:
    xp = array_namespace(raw)
    count, bricks, _, steps, _ = raw.shape
    axes = (count, bricks, _HALVES, _LANES_G, steps, _LANES_T)
    return xp.permute_dims(xp.reshape(raw, axes), _META_TO_KERNEL)


def _join_meta(packed: HostArray) -> HostArray:
    natural = packed.transpose(np.argsort(_META_TO_KERNEL))
    count, bricks, _, _, steps, _ = natural.shape
    return np.ascontiguousarray(natural).reshape(count, bricks * 16, steps * 4)


def _value_axes(values: Array, tiles: Tiles, group: slice, sparse: bool) -> Array:
    """Return a view of the packed values of a group, in the order of the kernel."""
    axes = (2 if sparse else 4, _LANES_G, _LANES_T, 2, _HALVES, 2)
    return _axes(values, tiles, group, axes)


def _meta_axes(meta: Array, tiles: Tiles, group: slice) -> Array:
    return _axes(meta, tiles, group, (_LANES_G, _LANES_T, _HALVES))


def _axes(flat: Array, tiles: Tiles, group: slice, axes: tuple[int, ...]) -> Array:
    t = group.start
    count, steps, bricks = group.stop - t, int(tiles.steps[t]), int(tiles.bricks[t])
    brick = int(np.prod(axes))
    start = int(tiles.first_brick[t]) * brick
    part = flat[start : start + count * steps * bricks * brick]
    return part.reshape((count, steps, bricks, *axes))


def _lists(storage: TVWStorage, tiles: Tiles) -> tuple[HostArray, HostArray]:
    """Return the padded column and row lists of all tiles."""
    row_indptr, col_indptr = storage.host_indptr
    row_indices, col_indices = to_host(storage.row_indices), to_host(storage.col_indices)
    cols = np.full(int(tiles.steps.sum()) * STEP_SLOTS, -1, np.int32)
    rows = np.full(int(tiles.bricks.sum()) * BRICK_ROWS, -1, np.int32)
    zero = np.ones(storage.shape[0], bool)
    for t, s in enumerate(tiles.source[:-1]):
        at, slots = int(tiles.first_slot[t]), int(tiles.slots[t])
        cols[at : at + slots] = col_indices[col_indptr[s] : col_indptr[s] + slots]
        at, count = int(tiles.first_row[t]), int(tiles.rows[t])
        of_tile = row_indices[row_indptr[s] : row_indptr[s] + count]
        rows[at : at + count] = of_tile
        zero[of_tile] = False
    at = int(tiles.first_row[-1])
    rows[at : at + int(tiles.rows[-1])] = np.flatnonzero(zero)
    return cols, rows


def _starts(counts: HostArray) -> HostArray:
    """Return where each of consecutive runs of `counts` begins."""
    return np.concatenate([[0], np.cumsum(counts[:-1], dtype=np.int64)])


def _zeros(xp: Any, size: int, dtype: Any, like: Array) -> Array:
    return xp.zeros((size,), dtype=dtype, device=device_of(like))
