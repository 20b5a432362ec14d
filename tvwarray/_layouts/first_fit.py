"""Packing: spread columns over groups of four so that no row meets a group more than twice.

`first_fit` is fast and nearly always near the bound; `pack_columns` goes on where it is not.
Both run compiled where the extension is there, with the same result. In NumPy all tiles advance in
step, one column each at a time, so that the arrays stay long however many tiles there are::

    tile 0   column q ──> first open group whose plane `two` misses all its rows
    tile 1   column q ──> ...                         │
                                                      ▼
                                     two |= one & column;  one |= column

A group has two bit planes over the tile's rows: `one`, rows met at least once, and `two`, rows met
twice. It closes with four columns, or when `two` is full.

Columns go by descending count. Past first fit, `pack_columns` tries two more ways:

- as many groups as the bound says are open from the start, and a column goes where it meets the
  fewest rows for the second time: full planes come late (`fit_open`);
- groups are filled one after the other, with parts of columns where no whole one has room: a
  column then stands in several slots, each serving some of its rows. This pays where rows are
  crowded, above some 30 % of entries (`fill_groups`).
"""

from __future__ import annotations

from itertools import groupby
from typing import Final, NamedTuple

import numpy as np

from tvwarray._native import native
from tvwarray._storage import SLOT_MULTIPLE, HostArray

_PERIOD: Final = 64
"""Columns between two compactions of the open groups: a search should pass few closed ones."""

_CHUNK_BYTES: Final = 1 << 26
"""Tiles that advance together hold at most this much in column masks."""

_GROUPS: Final = SLOT_MULTIPLE // 4
"""Groups come in this many, since slots do."""

_NEAR: Final = 8
"""Whole columns are placed anew where first fit is at most this part above the bound: further off
they never come near it."""

_CLOSE: Final = 100
"""Columns are split where whole ones stay more than this part above the bound."""

_MOST_WORK: Final = 1 << 28
"""First fit has to do where all columns against all others are more than so many words: a tile of a
graph's hubs, which it packs well anyway."""

_SECOND: Final = (0, 13, 8, 0)
"""What a row met for the second time costs each slot, in tenths of a row, where groups are filled
one after the other: it leaves less room to the slots after it. Found by trial on random tiles."""

_BITS: Final = (
    np.unpackbits(np.arange(1 << 16, dtype=np.uint16).view(np.uint8))
    .reshape(-1, 16)
    .sum(axis=1, dtype=np.uint8)
)
"""The set bits of every 16-bit integer."""

_NOTHING: Final = np.iinfo(np.int64).min


class Packed(NamedTuple):
    """The slots of a tile; a column may stand in several, and each serves rows of its own."""

    slots: HostArray
    """int32 (4 * groups,): the index of the column, or -1; columns of a group ascend."""
    planes: HostArray
    """uint64 (4 * groups, words): the rows that take their entry from this slot, as bits."""


def first_fit(tiles: list[HostArray]) -> list[HostArray]:
    """Group the columns of every tile.

    Parameters
    ----------
    tiles : list of uint64 arrays, shape (k, words)
        For every column of a tile the rows that it holds, as bits; no column is empty.

    Returns
    -------
    list of int32 arrays, shape (4 * groups,)
        For every slot the index of its column, or -1; columns of a group ascend.
    """
    if (compiled := native()) is not None:
        return [compiled.first_fit(np.ascontiguousarray(t)) for t in tiles]
    result: list[HostArray] = [np.empty(0, np.int32)] * len(tiles)
    for chunk in _chunks(tiles):
        orders = [_by_count(tiles[i]) for i in chunk]
        masks = np.zeros((len(chunk), orders[0].size, tiles[chunk[0]].shape[1]), np.uint64)
        for b, (i, order) in enumerate(zip(chunk, orders, strict=True)):
            masks[b, : order.size] = tiles[i][order]
        groups = _advance(masks, np.array([o.size for o in orders]))
        for b, (i, order) in enumerate(zip(chunk, orders, strict=True)):
            result[i] = _slots_from_groups(order, groups[b, : order.size])
    return result


def _chunks(tiles: list[HostArray]) -> list[list[int]]:
    """Split the tiles, widest first and of one word count, into chunks of bounded memory."""
    order = sorted(range(len(tiles)), key=lambda i: (tiles[i].shape[1], tiles[i].shape[0]))[::-1]
    chunks: list[list[int]] = []
    for _, same in groupby(order, key=lambda i: tiles[i].shape[1]):
        members = list(same)
        while members:
            count = max(1, _CHUNK_BYTES // max(1, tiles[members[0]].nbytes))
            chunks.append(members[:count])
            members = members[count:]
    return chunks


def _by_count(planes: HostArray) -> HostArray:
    """Return the columns by descending number of rows, ties in column order."""
    return np.argsort(-_count_bits(np.ascontiguousarray(planes)), kind="stable")


def _count_bits(planes: HostArray) -> HostArray:
    """Return the set bits along the last axis, int64; NumPy 1 has no ``bitwise_count``."""
    counts: HostArray = _BITS[planes.view(np.uint16)].sum(-1, dtype=np.int64)
    return counts


def _advance(masks: HostArray, widths: HostArray) -> HostArray:
    """Place column after column; return the group of each, int32 (tiles, columns).

    `masks` is (tiles, columns, words); `widths`, the columns of each tile, descends.
    """
    tiles, columns, words = masks.shape
    group_of = np.zeros((tiles, columns), np.int32)
    all_rows = np.bitwise_or.reduce(masks, axis=1)[:, None, :]
    one = np.zeros((tiles, 0, words), np.uint64)
    two, count, name = one.copy(), np.zeros((tiles, 0), np.int8), np.zeros((tiles, 0), np.int32)
    filled = np.zeros(tiles, np.int64)  # open groups of each tile: its window is [0, filled)
    used = np.zeros(tiles, np.int32)  # groups named so far
    for start in range(0, columns, _PERIOD):
        live = int(np.searchsorted(-widths, -start))
        one, two, count, name, filled = _compact(
            one[:live], two[:live], count[:live], name[:live], filled[:live], all_rows[:live]
        )
        for q in range(start, min(start + _PERIOD, columns)):
            n = int(np.searchsorted(-widths, -q))
            mask, tile = masks[:n, q], np.arange(n)
            window = int(filled[:n].max()) + 1  # past its open groups every tile has an empty one
            clash = (two[:n, :window] & mask[:, None]).any(axis=2)
            place = clash.argmin(axis=1)
            fresh = place == filled[:n]
            name[tile[fresh], place[fresh]] = used[:n][fresh]
            used[:n] += fresh
            filled[:n] += fresh
            met = one[tile, place]
            two[tile, place] |= met & mask
            one[tile, place] = met | mask
            count[tile, place] += 1
            group_of[:n, q] = name[tile, place]
            full = count[tile, place] == 4
            two[tile[full], place[full]] = all_rows[:n][full, 0]
    return group_of


def _compact(
    one: HostArray,
    two: HostArray,
    count: HostArray,
    name: HostArray,
    filled: HostArray,
    all_rows: HostArray,
) -> tuple[HostArray, HostArray, HostArray, HostArray, HostArray]:
    """Drop closed groups, and leave room for the groups that one period may open."""
    tiles, width, _ = one.shape
    is_open = (two != all_rows).any(axis=2) & (np.arange(width) < filled[:, None])
    filled = is_open.sum(axis=1)
    keep = np.argsort(~is_open, axis=1, kind="stable")
    room = int(filled.max(initial=0)) + _PERIOD + 1
    valid = np.arange(width) < filled[:, None]

    def moved(x: HostArray) -> HostArray:
        grown = np.zeros((tiles, room, *x.shape[2:]), x.dtype)
        index = keep.reshape(keep.shape + (1,) * (x.ndim - 2))
        held = valid.reshape(valid.shape + (1,) * (x.ndim - 2))
        kept = np.where(held, np.take_along_axis(x, index, axis=1), x.dtype.type(0))
        grown[:, : min(width, room)] = kept[:, :room]
        return grown

    return moved(one), moved(two), moved(count), moved(name), filled


def _slots_from_groups(order: HostArray, groups: HostArray) -> HostArray:
    """Return the column of each slot, given the group of each column in placing order."""
    slots = np.full(4 * (int(groups.max(initial=-1)) + 1), -1, np.int32)
    by_group = np.lexsort((order, groups))
    sorted_groups = groups[by_group]
    first = np.searchsorted(sorted_groups, sorted_groups)
    slots[4 * sorted_groups + np.arange(groups.size) - first] = order[by_group]
    return slots


def pack_columns(planes: HostArray, *, longest: int, fitted: HostArray | None = None) -> Packed:
    """Group the columns of one tile in as few slots as any of three ways finds.

    The ways are tried in turn, until the slots meet the bound ``max(columns, 2 * longest)``.

    Parameters
    ----------
    planes : uint64 array, shape (k, words)
        For every column the rows that it holds, as bits; no column is empty.
    longest : int
        The most columns that hold one row.
    fitted : int32 array, optional
        What `first_fit` found for this tile, if it is known.

    Returns
    -------
    Packed
        The set bits of a column are spread over its slots, each in one of them.
    """
    planes = np.ascontiguousarray(planes)
    if fitted is None and (compiled := native()) is not None:
        return Packed(*compiled.pack_columns(planes, longest))
    slots = first_fit([planes])[0] if fitted is None else fitted
    best = Packed(slots, np.where(slots[:, None] < 0, np.uint64(0), planes[slots]))
    if planes.shape[0] * planes.size > _MOST_WORK:
        return best
    least = -(-max(planes.shape[0], 2 * longest) // SLOT_MULTIPLE)
    if least < _units(best) <= least + 1 + least // _NEAR:
        best = min(best, fit_open(planes, least * _GROUPS), key=_units)
    if _units(best) - least > least // _CLOSE:
        best = min(best, fill_groups(planes), key=_units)
    return best


def _units(packed: Packed) -> int:
    return -(-packed.slots.size // SLOT_MULTIPLE)


def fit_open(planes: HostArray, opened: int) -> Packed:
    """Put each column where it meets the fewest rows for the second time, ties in group order.

    Parameters
    ----------
    planes : uint64 array, shape (k, words)
        The columns of a tile; see `pack_columns`.
    opened : int
        How many groups are open from the start; a column without room anywhere opens one more.
    """
    if (compiled := native()) is not None:
        return Packed(*compiled.fit_open(planes, opened))
    k, words = planes.shape
    one = np.zeros((opened + k, words), np.uint64)  # past the open groups one is always empty
    two, count = one.copy(), np.zeros(opened + k, np.int64)
    placed, used = [], opened
    for column in _by_count(planes):
        mask = planes[column]
        window = slice(0, used + 1)
        room = (count[window] < 4) & ~(two[window] & mask).any(axis=1)
        room[used] = False
        twos = np.where(room, _count_bits(one[window] & mask), mask.size * 64 + 1)
        group = int(twos.argmin()) if room.any() else used
        used += group == used
        two[group] |= one[group] & mask
        one[group] |= mask
        count[group] += 1
        placed.append((group, int(column), mask))
    return _packed(placed, used, words)


def fill_groups(planes: HostArray) -> Packed:
    """Fill group after group with the columns, or parts of columns, that suit it best.

    A group takes what it can serve of one column after the other. The best is one that it can
    finish; then each row counts ten, less what `_SECOND` says if the row is met for the second
    time. Equals go in column order. On random tiles with half of the entries this needs 9 % fewer
    slots than to place columns, in parts, where most of their rows find room.

    Parameters
    ----------
    planes : uint64 array, shape (k, words)
        The columns of a tile; see `pack_columns`.
    """
    if (compiled := native()) is not None:
        return Packed(*compiled.fill_groups(planes))
    left, columns = planes.copy(), np.arange(planes.shape[0])
    placed, groups = [], 0
    while (unfinished := left.any(axis=1)).any():
        left, columns = left[unfinished], columns[unfinished]
        one = np.zeros(planes.shape[1], np.uint64)
        two = one.copy()
        for second in _SECOND:
            parts = left & ~two
            taken, met = _count_bits(parts), _count_bits(parts & one)
            worth = 10 * taken - second * met
            worth += (parts == left).all(axis=1) << np.int64(30)
            best = int(np.where(taken > 0, worth, _NOTHING).argmax())
            if not taken[best]:
                break
            part = parts[best]
            two |= one & part
            one |= part
            left[best] &= ~part
            placed.append((groups, int(columns[best]), part))
        groups += 1
    return _packed(placed, groups, planes.shape[1])


def _packed(placed: list[tuple[int, int, HostArray]], groups: int, words: int) -> Packed:
    """Return the slots of columns that were placed, by group, then by column."""
    slots = np.full((groups, 4), -1, np.int32)
    planes = np.zeros((groups, 4, words), np.uint64)
    filled = [0] * groups
    for group, column, rows in sorted(placed, key=lambda p: p[:2]):
        slots[group, filled[group]] = column
        planes[group, filled[group]] = rows
        filled[group] += 1
    return Packed(slots.reshape(-1), planes.reshape(-1, words))
