"""First fit: spread columns over groups of four so that no row meets a group more than twice.

All tiles advance in step, one column each at a time, so that the arrays stay long however many
tiles there are::

    tile 0   column q ──> first open group whose plane `two` misses all its rows
    tile 1   column q ──> ...                         │
                                                      ▼
                                     two |= one & column;  one |= column

A group has two bit planes over the tile's rows: `one`, rows met at least once, and `two`, rows met
twice. It closes with four columns, or when `two` is full.
"""

from __future__ import annotations

from itertools import groupby
from typing import Final

import numpy as np

from tvwarray._storage import HostArray

_PERIOD: Final = 64
"""Columns between two compactions of the open groups: a search should pass few closed ones."""

_CHUNK_BYTES: Final = 1 << 26
"""Tiles that advance together hold at most this much in column masks."""


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
    counts = np.unpackbits(planes.view(np.uint8), axis=1).sum(1, dtype=np.int64)
    return np.argsort(-counts, kind="stable")


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
