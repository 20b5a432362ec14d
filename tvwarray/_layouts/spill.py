"""Hybrid layouts: which entries stay beside the tiles, in CSR.

A column that holds one entry of a tile costs as many bytes there as one that holds all rows. The
columns with the fewest entries go first::

    entries a column of a tile holds    1 1 1 1 2 2 3 | 5 9 17 40 64 64
                                        beside          in tiles

Without a limit those go that take fewer bytes in CSR, up to `MOST_BESIDE` of all entries: beyond,
products gain nothing and only memory is saved.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._layouts.pattern import Pattern
from tvwarray._layouts.slots import Slots, lay_out
from tvwarray._layouts.tiles import RowTiles
from tvwarray._storage import HostArray, Vector

MOST_BESIDE: Final = 0.15
"""The part of all entries that goes beside the tiles where no limit asks for more."""

_STEPS: Final = 12
"""Layouts tried to keep a limit: each halves the range of what goes beside."""


def spill(
    pattern: Pattern,
    tiles: RowTiles,
    vector: Vector,
    value_bytes: int,
    memory_limit: int | None,
) -> tuple[RowTiles, Slots]:
    """Lay out the entries that pay in tiles.

    Parameters
    ----------
    pattern : Pattern
    tiles : RowTiles
        Where all entries would go.
    vector : (2, 4) or None
    value_bytes : int
        Bytes of a value.
    memory_limit : int, optional
        The most bytes of tiles and entries beside them; as few entries as possible go beside.

    Returns
    -------
    RowTiles
        Without rows that have all entries beside.
    Slots
        Entries beside the tiles have place -1.

    Raises
    ------
    FormatError
        If no layout keeps the limit.
    """
    ranked, counts = _by_count(pattern, tiles)

    def total(beside: int) -> tuple[int, tuple[RowTiles, Slots]]:
        made = _without(pattern, tiles, vector, ranked[:beside])
        return nbytes(pattern.shape[0], *made, vector, value_bytes, beside), made

    # Columns below this count take fewer bytes in CSR; with all of those beside, least is taken.
    worth = _slot_bytes(tiles, vector, value_bytes) / (value_bytes + 4)
    cheap = int(np.searchsorted(counts, worth, side="left"))
    size, found = total(0)
    if memory_limit is None:
        other = total(min(cheap, int(MOST_BESIDE * pattern.size)))
        return found if size <= other[0] else other[1]
    if size <= memory_limit:
        return found
    size, found = min(total(cheap), total(pattern.size), key=lambda made: made[0])
    if size > memory_limit:
        raise FormatError(
            f"memory_limit is {memory_limit} bytes; the smallest layout of the matrix takes {size}."
        )
    low, high = 0, cheap
    for _ in range(_STEPS):
        middle = (low + high) // 2
        size, made = total(middle)
        if size <= memory_limit:
            high, found = middle, made
        else:
            low = middle
    return found


def nbytes(
    rows: int, tiles: RowTiles, slots: Slots, vector: Vector, value_bytes: int, beside: int
) -> int:
    """Return the bytes of a storage: tiles, their lists, and entries beside them in CSR."""
    widths = np.diff(slots.indptr).astype(np.int64)
    cells = int((tiles.heights * widths).sum())
    lists = 4 * (2 * tiles.indptr.size + tiles.order.size + int(widths.sum()))
    values = cells // 2 * value_bytes + cells // 8 if vector else cells * value_bytes
    csr = beside * (value_bytes + 4) + 4 * (rows + 1) if beside else 0
    return values + lists + csr


def _slot_bytes(tiles: RowTiles, vector: Vector, value_bytes: int) -> float:
    """Return the bytes of a slot of a tile of mean height."""
    height = float(tiles.heights.mean()) if tiles.heights.size else 0.0
    return 4 + height * (value_bytes / 2 + 1 / 8 if vector else value_bytes)


def _by_count(pattern: Pattern, tiles: RowTiles) -> tuple[HostArray, HostArray]:
    """Return all entries by how many their column holds in their tile, and how many that is."""
    entries, row = pattern.entries_of(tiles.order)
    tile = np.repeat(np.arange(tiles.heights.size), tiles.heights)[row]
    pair = tile * np.int64(max(pattern.shape[1], 1)) + pattern.indices[entries]
    _, inverse, count = np.unique(pair, return_inverse=True, return_counts=True)
    held = count[inverse]
    order = np.lexsort((inverse, held))  # columns stay whole
    return entries[order], held[order]


def _without(
    pattern: Pattern, tiles: RowTiles, vector: Vector, beside: HostArray
) -> tuple[RowTiles, Slots]:
    """Lay out all but some entries."""
    if not beside.size:
        return tiles, lay_out(pattern, tiles, vector, spread=True)
    out = np.zeros(pattern.size, np.bool_)
    out[beside] = True
    rest = pattern.without(out)
    left = tiles.only(rest.held > 0)
    slots = lay_out(rest, left, vector, spread=True)
    places = np.full(pattern.size, -1, np.int32)
    places[~out] = slots.places
    return left, slots._replace(places=places)
