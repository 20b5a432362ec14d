"""Canonical storage to the order in which a kernel's lanes read it, once for a matrix and device.

A tile is cut into bricks of 16 rows x 64 slots (128 of 8-bit values), filled up with zeros,
metadata 0x4 and column -1 at the edges. Bricks of one step lie together, top to bottom, then those
of the next step::

              step 0    step 1
    rows 0-15 [brick 0] [brick 2]        tile after tile
        16-31 [brick 1] [brick 3]

What stands inside a brick, and in which order, is in `bricks`; the tiles' places are in `tiles`.

Rows that are zero, in no tile or in a tile without slots, become one more tile with no steps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from tvwarray._dtypes import DType
from tvwarray._errors import FormatError
from tvwarray._kernels.bricks import (
    PADDING_META,
    as_slots,
    as_stage_rows,
    join_meta,
    join_values,
    meta_axes,
    split_meta,
    split_values,
    value_axes,
)
from tvwarray._kernels.config import (
    BRICK_ROWS,
    ELEMENT_BYTES,
    Element,
    brick_meta_bytes,
    brick_value_bytes,
    step_slots,
)
from tvwarray._kernels.elements import Form, as_pairs, form_of, round_tf32, value_planes
from tvwarray._kernels.schedule import successors
from tvwarray._kernels.streams import settled
from tvwarray._kernels.tiles import Tiles, index_lists, neighbours
from tvwarray._namespace import Array, array_namespace, device_of, from_host, to_host
from tvwarray._ragged import cumulate
from tvwarray._storage import TVWStorage

HostArray = np.ndarray[Any, Any]

ITEM_STEPS: Final = 2.0
"""What an item takes beside its steps, in steps: its first stages, and storing its sums."""


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix in a kernel's order; see the picture of this module."""

    shape: tuple[int, int]
    dtype: DType
    form: Form
    sparse: bool
    """Whether it is multiplied by ``mma.sp``."""
    values: Array
    """Bit patterns, unsigned integers (parts * bricks * values of a brick,)."""
    meta: Array
    """uint16 (bricks * words of a brick,), or of one brick that is not read without 2:4"""
    cols: Array
    """int32 (steps of all tiles * slots of a step,)"""
    rows: Array
    """int32 (bricks' rows of all tiles,), -1 for padding"""
    tiles: Tiles
    """Where each tile lies, on the host."""
    every_column: bool = False
    """Whether each tile that has columns has all of them, in order, as plain 2:4 does."""
    neighbours: float = 0.0
    """Of the rows, how many stand in runs of 8 that are neighbours in the product, too."""
    memo: dict[Any, Any] = field(default_factory=dict)
    """What was worked out for this matrix: work lists, and the choice of a kernel for each n."""

    @property
    def element(self) -> Element:
        """What the values are."""
        return self.form.element

    def work_list(self, block_rows: int, most_steps: int = 0) -> Array:
        """Return the work list for blocks of at most `block_rows` rows, int32 (entries, 8).

        See `Tiles.blocks`.
        """
        key = (block_rows, most_steps)
        if key not in self.memo:
            with settled(self.cols):
                self.memo[key] = from_host(self.tiles.blocks(block_rows, most_steps), self.cols)
        return self.memo[key]

    def following(
        self, block_rows: int, most_steps: int, columns: int, strip: int, at_once: int
    ) -> Array | None:
        """Return which item each one's block takes next, on the device; None where they take turns.

        See `schedule.successors`.
        """
        key = "following", block_rows, most_steps, columns, strip, at_once
        if key not in self.memo:
            steps = self.tiles.blocks(block_rows, most_steps)[:, 3]
            found = successors(steps + ITEM_STEPS, columns, strip, at_once)
            with settled(self.cols):
                self.memo[key] = None if found is None else from_host(found, self.cols)
        found_on_device: Array | None = self.memo[key]
        return found_on_device

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together, without work lists."""
        return sum(int(x.nbytes) for x in (self.values, self.meta, self.cols, self.rows))


def pack(storage: TVWStorage, form: Form | None = None) -> PackedMatrix:
    """Put `storage` into the kernels' order, on the device where it lies.

    The cost is that of copying the matrix twice, and a few operations for each tile.

    Parameters
    ----------
    storage : TVWStorage
    form : Form, optional
        How its values are multiplied; by default as they are.

    Raises
    ------
    FormatError
        If they are to go through tf32 and a pair of slots holds two.
    """
    form = form or form_of(storage.dtype)
    assert form is not None, "refusal() was not asked"
    xp = array_namespace(storage.data)
    sparse = form.keeps_pattern(storage.vector is not None)
    step = step_slots(form.element)
    tiles = Tiles.of_storage(storage, step)
    group, meta_flat = 4, storage.meta
    if form.element == "tf32" and storage.meta is not None:
        pairs = as_pairs(storage.data, storage.meta)
        if pairs.crowded:
            raise FormatError(crowded_pairs(pairs.crowded))
        group, meta_flat = 2, pairs.meta
        planes = [round_tf32(pairs.data)]
    else:
        planes = value_planes(storage, form)
    size = brick_value_bytes(form.element, sparse) // ELEMENT_BYTES[form.element]
    of_part = tiles.total_bricks * size
    values = _zeros(xp, form.parts * of_part, planes[0].dtype, storage.data)
    meta_words = max(1, brick_meta_bytes(form.element, sparse) // 2)
    meta = _zeros(xp, tiles.total_bricks * meta_words if sparse else 64, xp.uint16, storage.data)
    stored = 2 if sparse else 1  # slots for each value
    starts = cumulate(storage.rows_of * storage.slots_of)
    for tile_group in tiles.groups():
        slots = int(tiles.slots[tile_group.start])
        for part, plane in enumerate(planes):
            raw = _gather(xp, plane, starts // stored, tiles, tile_group, slots // stored,
                          step // stored, 0)  # fmt: skip
            view = value_axes(values[part * of_part :], tiles, tile_group, form, sparse)
            view[...] = split_values(raw, form)
        if sparse and meta_flat is not None:
            words = 4 * group  # slots that a word describes
            raw = _gather(xp, meta_flat, starts // words, tiles, tile_group, slots // words,
                          step // words, PADDING_META)  # fmt: skip
            meta_axes(meta, tiles, tile_group, form)[...] = split_meta(raw, form)
    cols, rows = index_lists(storage, tiles)
    return PackedMatrix(
        storage.shape, storage.dtype, form, sparse, values, meta,
        from_host(as_stage_rows(cols, form), storage.data), from_host(rows, storage.data), tiles,
        _is_every_column(cols, tiles, storage.shape[1]), neighbours(rows),
    )  # fmt: skip


def keeps_every_column(storage: TVWStorage, tiles: Tiles) -> bool:
    """Return whether each tile that has columns has all of them, in order, as plain 2:4 does."""
    return _is_every_column(index_lists(storage, tiles)[0], tiles, storage.shape[1])


def _is_every_column(cols: HostArray, tiles: Tiles, count: int) -> bool:
    """Say it of padded column lists; what stands behind the last column is padding, too."""
    steps = tiles.steps[:-1]
    if not steps.size or (steps != -(-count // tiles.step_slots)).any():
        return False
    every = np.arange(int(steps[0]) * tiles.step_slots)
    return bool((cols.reshape(steps.size, -1) == np.where(every < count, every, -1)).all())


def crowded_pairs(count: int) -> str:
    """Return why a matrix does not go through tf32, in a sentence."""
    return (
        f"precision tf32 takes one value of every two slots, and {count} pairs hold two; "
        'use precision="high" or "highest"'
    )


def unpack(packed: PackedMatrix) -> list[tuple[HostArray, HostArray, HostArray, HostArray | None]]:
    """Return rows, cols, data and meta of each tile that has both rows and slots: `pack` undone.

    Of values in one part. What packing added is left in the arrays' shapes: rows to a multiple of
    16, slots to one of a step. Of tf32, metadata is that of pairs.
    """
    tiles, form = packed.tiles, packed.form
    values, meta = to_host(packed.values), to_host(packed.meta)
    cols, rows = as_slots(to_host(packed.cols), form), to_host(packed.rows)
    found = []
    for group in tiles.groups():
        data = join_values(value_axes(values, tiles, group, form, packed.sparse), form)
        words = join_meta(meta_axes(meta, tiles, group, form), form) if packed.sparse else None
        for i, t in enumerate(range(group.start, group.stop)):
            first_row, first_slot = int(tiles.first_row[t]), int(tiles.first_slot[t])
            found.append((
                rows[first_row : first_row + int(tiles.bricks[t]) * BRICK_ROWS],
                cols[first_slot : first_slot + int(tiles.steps[t]) * tiles.step_slots],
                data[i].view(packed.dtype),
                None if words is None else words[i],
            ))  # fmt: skip
    return found


def _gather(
    xp: Any,
    flat: Array,
    starts: HostArray,
    tiles: Tiles,
    group: slice,
    width: int,
    step_width: int,
    fill: int,
) -> Array:
    """Return the tiles of a group as (tiles, bricks, 16, steps, words a step), filled up."""
    t = group.start
    rows, bricks, steps = (int(x[t]) for x in (tiles.rows, tiles.bricks, tiles.steps))
    count = group.stop - group.start
    shape = (count, bricks * BRICK_ROWS, steps * step_width)
    raw = xp.full(shape, fill, dtype=flat.dtype, device=device_of(flat))
    for i, s in enumerate(tiles.source[group]):
        start = int(starts[s])
        tile = xp.reshape(flat[start : start + rows * width], (rows, width))
        raw[i, :rows, :width] = tile
    return xp.reshape(raw, (count, bricks, BRICK_ROWS, steps, step_width))


def _zeros(xp: Any, size: int, dtype: Any, like: Array) -> Array:
    return xp.zeros((size,), dtype=dtype, device=device_of(like))
