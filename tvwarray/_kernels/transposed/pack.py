"""Canonical storage to fragments of kept columns, range by range: the order of ``A.T @ Y``.

A's columns are cut into ranges, one for each block. An item is what a tile keeps of a range::

                 range 0        range 1           items, in the order of the kernel
    tile 0    [ a . b . . c ] [ . d . . ]         range 0   a b c of tile 0, h i of tile 1
    tile 1    [ . h . . i . ] [ j . k l ]         range 1   d of tile 0, j k l of tile 1

Within an item, slots are sorted by their columns, which are all different: of a column that stands
in several slots of a tile, each further slot goes to an item more, and so does what a step cannot
hold. 16 slots are a fragment; the last one of an item is filled up with zeros whose place is
0xffff, which the kernel adds nowhere.

A slice is 32 rows of an item, a step one slice or two. Its values are those of its fragments, slice
after slice, expanded from (2, 4) and transposed, as `mma` takes them: for each fragment two times
32 lanes x 16 bytes, for rows 0-15 and 16-31 of the slice.
Lane 4 g + t (g = 0..7, t = 0..3) holds of each::

    word     0               1               2               3
    slot     g               g + 8           g               g + 8
    rows     2t, 2t + 1      2t, 2t + 1      2t + 8, 2t + 9  2t + 8, 2t + 9

Before its values a block reads a step's header: where they are, how many, and its rows of Y. Beyond
a tile those are -1, where nothing is read, and values are zeros.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from tvwarray._dtypes import DType
from tvwarray._kernels.elements import Form
from tvwarray._kernels.transposed.config import (
    FRAGMENT_SLOTS,
    FRAGMENT_VALUES,
    SLICE_ROWS,
    RangeShape,
    range_shape,
)
from tvwarray._namespace import Array, array_namespace, device_of, from_host, to_host
from tvwarray._ragged import cumulate, runs
from tvwarray._storage import TVWStorage
from tvwarray._two_four import expand_24

HostArray = np.ndarray[Any, Any]

NO_PLACE: Final = 0xFFFF

_AT_ONCE: Final = 4096
"""Fragments that are gathered by one operation, which takes 4 KiB of indices for each."""


@dataclass(frozen=True, eq=False)
class Order:
    """Which slots stand where, on the host: all of the packed matrix but its values."""

    shape: tuple[int, int]
    range_shape: RangeShape
    tile: HostArray
    """int64 (items,): the tile of each item, range after range, tiles in their order."""
    fragments: HostArray
    """int64 (items,)"""
    item_slices: HostArray
    """int64 (items,): 32 rows of its tile each."""
    slots: HostArray
    """int64 (fragments, 16): which slot of its tile each one is, -1 for what fills up."""
    places: HostArray
    """uint16 (fragments, 16): rows of the range's sums."""
    range_items: HostArray
    """int64 (ranges + 1,): where the items of each range begin."""

    @classmethod
    def of_storage(cls, storage: TVWStorage, shape: RangeShape) -> Order:
        """Sort the slots of `storage` into ranges and items."""
        cols, slots_of = to_host(storage.col_indices), storage.slots_of
        tile = np.repeat(np.arange(slots_of.size), slots_of)
        slot = runs(0, slots_of)
        used = np.flatnonzero((cols >= 0) & (storage.rows_of[tile] > 0))
        used = used[np.lexsort((slot[used], cols[used], tile[used]))]
        tile, slot, col = tile[used], slot[used], cols[used].astype(np.int64)
        again = _count_repeats(tile, col)
        in_range, place = np.divmod(col, shape.columns)
        order = np.lexsort((place, again, tile, in_range))
        tile, slot, place, again, in_range = (
            x[order] for x in (tile, slot, place, again, in_range)
        )
        part = _parts(_run_lengths(in_range, tile, again), shape.fragments)
        first = _run_starts(in_range, tile, again, part)
        counts = np.diff(np.append(first, tile.size))
        fragments = -(-counts // FRAGMENT_SLOTS)
        at = runs(cumulate(fragments)[:-1] * FRAGMENT_SLOTS, counts)
        size = int(fragments.sum()) * FRAGMENT_SLOTS
        slots, places = np.full(size, -1, np.int64), np.full(size, NO_PLACE, np.uint16)
        slots[at], places[at] = slot, place
        ranges = -(-storage.shape[1] // shape.columns)
        return cls(
            storage.shape, shape, tile[first], fragments,
            -(-storage.rows_of[tile[first]].astype(np.int64) // SLICE_ROWS),
            slots.reshape(-1, FRAGMENT_SLOTS), places.reshape(-1, FRAGMENT_SLOTS),
            cumulate(np.bincount(in_range[first], minlength=ranges)),
        )  # fmt: skip

    @cached_property
    def item_steps(self) -> HostArray:
        """Steps of each item, int64 (items,)."""
        return np.asarray(-(-self.item_slices // self.range_shape.slices))

    @cached_property
    def range_steps(self) -> HostArray:
        """Steps of each range, int64 (ranges,)."""
        ends = cumulate(self.item_steps)[self.range_items]
        return np.asarray(np.diff(ends))

    @property
    def nbytes(self) -> int:
        """Bytes of the packed values of 16 bits."""
        return int((self.fragments * self.item_slices).sum()) * FRAGMENT_VALUES * 2

    def headers(self, storage: TVWStorage) -> HostArray:
        """Return the headers of all steps, int32 (steps, 4 + rows of a step).

        Words: where the values and the places are, in fragments; fragments, with slices in bits 8
        to 15 and whether the step is its item's last in bit 16; 0; and then the rows of Y.
        """
        slices = self.range_shape.slices
        step_rows = slices * SLICE_ROWS
        item, step = np.repeat(np.arange(self.tile.size), self.item_steps), runs(0, self.item_steps)
        first_row, row_lists = _row_lists(storage, step_rows)
        first_value = cumulate(self.fragments * self.item_slices)
        left = self.item_slices[item] - step * slices
        found = np.zeros((item.size, 4 + step_rows), np.int32)
        found[:, 0] = first_value[item] + step * slices * self.fragments[item]
        found[:, 1] = cumulate(self.fragments)[item]
        found[:, 2] = self.fragments[item] | np.minimum(left, slices) << 8 | (left <= slices) << 16
        rows = first_row[self.tile[item]] + step * step_rows
        found[:, 4:] = row_lists[rows[:, None] + np.arange(step_rows)]
        return found


def shape_for(storage: TVWStorage, architecture: str) -> RangeShape:
    """Return what to pack `storage` for on an architecture."""
    slots, rows = storage.slots_of, storage.rows_of
    tiles = max(1, int((rows > 0).sum()))
    kept = int(slots[rows > 0].sum()) / (tiles * max(1, storage.shape[1]))
    return range_shape(architecture, min(1.0, kept))


def _count_repeats(tile: HostArray, col: HostArray) -> HostArray:
    """Return how often each slot's column stood in its tile before; both are sorted."""
    return runs(0, _run_lengths(tile, col))


def _parts(lengths: HostArray, fragments: int) -> HostArray:
    """Return for each slot of runs which part of its run it is in: equal ones of whole fragments.

    Of at most `fragments` each.
    """
    needed = -(-lengths // FRAGMENT_SLOTS)
    parts = -(-needed // fragments)
    size = FRAGMENT_SLOTS * -(-needed // parts)
    return np.asarray(runs(0, lengths) // np.repeat(size, lengths))


def _run_lengths(*keys: HostArray) -> HostArray:
    """Return how long the runs of equal keys are."""
    return np.diff(np.append(_run_starts(*keys), keys[0].size))


def _run_starts(*keys: HostArray) -> HostArray:
    """Return where runs of equal keys begin."""
    if not keys[0].size:
        return np.zeros(0, np.int64)
    changes = np.any([k[1:] != k[:-1] for k in keys], axis=0)
    return np.concatenate([[0], np.flatnonzero(changes) + 1])


@dataclass(frozen=True, eq=False)
class TransposedMatrix:
    """A matrix in the order of ``sm80_tvw_transposed``; see the picture of this module."""

    order: Order
    dtype: DType
    form: Form
    values: Array
    """uint16 (fragments of all steps * 512,): bit patterns"""
    headers: Array
    """int32 (steps, 4 + rows of a step)"""
    places: Array
    """uint16 (fragments * 16,): two for each word of the kernel"""
    memo: dict[Any, Any] = field(default_factory=dict)
    """What was worked out for this matrix: work lists, the choice for each n, launches."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of A, as it is stored."""
        return self.order.shape

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together, without work lists."""
        return sum(int(x.nbytes) for x in (self.values, self.headers, self.places))


def pack_transposed(storage: TVWStorage, form: Form, shape: RangeShape) -> TransposedMatrix:
    """Put `storage` into the order of ``A.T @ Y``, on the device where it lies.

    Pattern (2, 4) is expanded: the values take twice their bytes, once for all products.

    Parameters
    ----------
    storage : TVWStorage
        Of 16-bit values.
    form : Form
        How its values are multiplied.
    shape : RangeShape
        What to pack it for.
    """
    order = Order.of_storage(storage, shape)
    xp, device = array_namespace(storage.data), device_of(storage.data)
    total = int((order.fragments * order.item_slices).sum())
    values = xp.zeros((total, FRAGMENT_VALUES), dtype=xp.uint16, device=device)
    sizes = np.stack([storage.rows_of, storage.slots_of], axis=1).astype(np.int64)
    starts = cumulate(sizes[:, 0] * sizes[:, 1])
    used = np.unique(order.tile)
    for rows, slots in np.unique(sizes[used], axis=0):
        tiles = used[(sizes[used] == (rows, slots)).all(axis=1)]
        dense = _expanded(xp, storage, tiles, starts, int(rows), int(slots))
        for part in _fragments_of(order, tiles):
            _put(xp, values, dense, part)
    places = order.places.reshape(-1, 2, 8).transpose(0, 2, 1).reshape(-1)
    return TransposedMatrix(
        order, storage.dtype, form, xp.reshape(values, (-1,)),
        from_host(order.headers(storage), storage.data),
        from_host(np.ascontiguousarray(places), storage.data),
    )  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Fragments:
    """Some fragments of tiles of one size: where they go, and what they hold."""

    to: HostArray
    """Where in the packed values."""
    tile: HostArray
    """Which of the tiles at hand."""
    row: HostArray
    """The first row."""
    slots: HostArray
    """(fragments, 16), -1 for what fills up."""


def _fragments_of(order: Order, tiles: HostArray) -> list[_Fragments]:
    """Return the fragments of `tiles`, which are sorted, a few at a time."""
    items = np.flatnonzero(np.isin(order.tile, tiles))
    fragments, slices = order.fragments[items], order.item_slices[items]
    to = runs(cumulate(order.fragments * order.item_slices)[items], fragments * slices)
    item, within = np.repeat(items, fragments * slices), runs(0, fragments * slices)
    part, fragment = np.divmod(within, order.fragments[item])
    slots = order.slots[cumulate(order.fragments)[item] + fragment]
    tile = np.searchsorted(tiles, order.tile[item])
    return [
        _Fragments(*(x[i : i + _AT_ONCE] for x in (to, tile, part * SLICE_ROWS, slots)))
        for i in range(0, to.size, _AT_ONCE)
    ]


def _expanded(
    xp: Any, storage: TVWStorage, tiles: HostArray, starts: HostArray, rows: int, slots: int
) -> Array:
    """Return tiles of one size as bit patterns, with rows to whole slices and a slot of zeros."""
    bits = storage.data.view(np.uint16)
    stored = 1 if storage.meta is None else 2
    data = xp.concat([bits[s // stored : (s + rows * slots) // stored] for s in starts[tiles]])
    data = xp.reshape(data, (tiles.size * rows, slots // stored))
    if storage.meta is not None:
        words = [storage.meta[s // 16 : (s + rows * slots) // 16] for s in starts[tiles]]
        data = expand_24(data, xp.reshape(xp.concat(words), (tiles.size * rows, slots // 16)))
    padded = -(-rows // SLICE_ROWS) * SLICE_ROWS
    whole = xp.zeros((tiles.size, padded, slots + 1), dtype=xp.uint16, device=device_of(bits))
    whole[:, :rows, :slots] = xp.reshape(data, (tiles.size, rows, slots))
    return whole


# The axes of fragments in a slice. Natural order:
#     fragment | half of the slots, g | half of the slice, half of the rows, t, row of the word
# and the order of the kernel:
#     fragment, half of the slice, g, t, half of the rows, half of the slots, row of the word
_NATURAL: Final = (2, 8, 2, 2, 4, 2)
_TO_KERNEL: Final = (0, 3, 2, 5, 4, 1, 6)


def _put(xp: Any, values: Array, dense: Array, part: _Fragments) -> None:
    """Gather fragments from expanded tiles and put them into place."""
    row = part.row[:, None, None] + np.arange(SLICE_ROWS)[None, None, :]
    to, tile, rows, slots = (
        from_host(x, values)
        for x in (part.to, part.tile[:, None, None], row, part.slots[:, :, None])
    )
    found = dense[tile, rows, slots]  # slot -1 is the one of zeros
    found = xp.permute_dims(xp.reshape(found, (part.to.size, *_NATURAL)), _TO_KERNEL)
    values[to] = xp.reshape(found, (part.to.size, FRAGMENT_VALUES))


def _row_lists(storage: TVWStorage, step_rows: int) -> tuple[HostArray, HostArray]:
    """Return where the row list of each tile begins, and all lists, of whole steps."""
    rows = storage.rows_of.astype(np.int64)
    first = cumulate(-(-rows // step_rows) * step_rows)
    lists = np.full(int(first[-1]), -1, np.int32)
    lists[runs(first[:-1], rows)] = to_host(storage.row_indices)
    return first[:-1], lists
