"""The slots of every tile, and the slot of every entry.

The first form that meets the tile's bound ``max(distinct columns, 2 * longest row)`` is taken:

1. the columns in their absolute groups ``column // 4`` (recognises a 2:4 matrix as it is);
2. the kept columns, ascending, in fours (recognises a TVW matrix as it is);
3. the same, found again where a permutation of the columns hides it (`_layouts.hidden`);
4. packed: spread over groups with padding, crowded ones over several slots (`_layouts.first_fit`).

All tiles are laid out in the compiled extension where it is there; the code here is its twin.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._layouts.first_fit import first_fit, pack_columns
from tvwarray._layouts.hidden import hidden_groups
from tvwarray._layouts.pattern import Pattern
from tvwarray._layouts.tiles import RowTiles
from tvwarray._native import native
from tvwarray._storage import INDEX_MAX, SLOT_MULTIPLE, HostArray, Vector

FORMS: Final = ("crowded", "absolute", "compact", "hidden", "packed")
"""The forms of a tile by their numbers; a crowded tile is one that "exact" layouts lack."""


class Slots(NamedTuple):
    """The slots of all tiles."""

    indptr: HostArray
    """int32 (tiles + 1,): where the slots of each tile begin; multiples of 16."""
    columns: HostArray
    """int32: the column of each slot, or -1."""
    places: HostArray
    """int32 (entries,): for each entry of the pattern its slot in its tile; -1 if it has none."""
    forms: HostArray
    """uint8 (tiles,): places in `FORMS`."""


class TilePattern(NamedTuple):
    """Where the rows of one tile hold entries, a bit for every row."""

    cols: HostArray
    """int32 (k,): the columns with an entry, ascending."""
    planes: HostArray
    """uint64 (k, words): bit r of a column is set where row r of the tile holds an entry."""
    longest: int
    """The most entries a row holds."""
    entries: HostArray
    """int64: which entries of the whole pattern these are, row after row."""
    row: HostArray
    """The row of each entry, counted in the tile."""
    column: HostArray
    """The column of each entry, as its place in `cols`."""


def lay_out(pattern: Pattern, tiles: RowTiles, vector: Vector, *, spread: bool) -> Slots:
    """Find the slots of every tile.

    Parameters
    ----------
    pattern : Pattern
    tiles : RowTiles
    vector : (2, 4) or None
        Without 2:4 the slots are the columns.
    spread : bool
        Whether columns may be packed where their own order does not do; otherwise a crowded tile
        has no slots.

    Raises
    ------
    FormatError
        If there are more slots than int32 counts.
    """
    if (compiled := native()) is not None:
        arrays = *pattern.csr, tiles.order, tiles.indptr
        slots = Slots(*compiled.lay_out(*arrays, vector is not None, spread))
    else:
        slots = _lay_out(pattern, tiles, vector, spread)
    check_count(int(slots.indptr[-1]))
    return slots


def check_count(slots: int) -> None:
    """Raise `FormatError` if int32 does not count so many slots."""
    if slots >= INDEX_MAX:
        raise FormatError("the layout needs more than 2**31 - 1 column slots (indices are int32).")


def tile_pattern(pattern: Pattern, rows: HostArray) -> TilePattern:
    """Return the pattern of a tile, given its rows as places in ``pattern.rows``."""
    entries, row = pattern.entries_of(rows)
    cols, column = np.unique(pattern.indices[entries], return_inverse=True)
    words = -(-rows.size // 64)
    planes = np.zeros(cols.size * words, np.uint64)
    # Bits of one word differ, since no entry stands twice: adding them up sets them all.
    np.add.at(planes, column * words + row // 64, np.uint64(1) << (row % 64).astype(np.uint64))
    longest = int(np.bincount(row).max(initial=0))
    return TilePattern(cols, planes.reshape(cols.size, words), longest, entries, row, column)


def crowded_groups(planes: HostArray) -> HostArray:
    """Return the rows, as bits, that hold more than two entries in each group of four columns.

    Parameters
    ----------
    planes : uint64 (k, words)

    Returns
    -------
    uint64 (ceil(k / 4), words)
    """
    k, words = planes.shape
    groups = np.zeros((-(-k // 4) * 4, words), np.uint64)
    groups[:k] = planes
    groups = groups.reshape(-1, 4, words)
    one = np.zeros_like(groups[:, 0])
    two, three = np.zeros_like(one), np.zeros_like(one)
    for p in range(4):  # a bit moves up one plane each time its row is met again
        m = groups[:, p]
        three |= two & m
        two |= one & m
        one |= m
    return three


def _lay_out(pattern: Pattern, tiles: RowTiles, vector: Vector, spread: bool) -> Slots:
    """Lay out in NumPy; the twin of the compiled one."""
    made = [
        tile_pattern(pattern, tiles.order[start:end])
        for start, end in zip(tiles.indptr[:-1], tiles.indptr[1:], strict=True)
    ]
    found = [_natural(tile, pattern.shape[1], vector) for tile in made]
    planes: list[HostArray | None] = [None] * len(made)
    # A natural form wastes slots where a tile holds single columns of many groups.
    loose = [
        t
        for t, bound in enumerate(tiles.bounds)
        if spread and (found[t][0] == "crowded" or found[t][1].size > bound)
    ]
    for t in loose:
        groups = hidden_groups(made[t].planes, longest=made[t].longest)
        if groups is not None:
            found[t] = "hidden", made[t].cols[groups]
    loose = [t for t in loose if found[t][0] != "hidden"]
    for t, fitted in zip(loose, first_fit([made[t].planes for t in loose]), strict=True):
        packed = pack_columns(made[t].planes, longest=made[t].longest, fitted=fitted)
        form, slots = found[t]
        if form == "crowded" or _rounded(packed.slots) < _rounded(slots):
            columns = np.where(packed.slots < 0, np.int32(-1), made[t].cols[packed.slots])
            found[t], planes[t] = ("packed", columns.astype(np.int32)), packed.planes

    places = np.full(pattern.size, -1, np.int32)
    for tile, (form, slots), served in zip(made, found, planes, strict=True):
        if form != "crowded":
            places[tile.entries] = _places(tile, slots, served)
    padded = [
        np.pad(slots, (0, -slots.size % SLOT_MULTIPLE), constant_values=-1) for _, slots in found
    ]
    indptr = np.cumsum([0, *(p.size for p in padded)]).astype(np.int32)
    forms = np.array([FORMS.index(form) for form, _ in found], np.uint8)
    return Slots(indptr, np.concatenate([np.empty(0, np.int32), *padded]), places, forms)


def _natural(tile: TilePattern, width: int, vector: Vector) -> tuple[str, HostArray]:
    """Return the form and the slots of a tile as its columns stand."""
    if vector is None:
        return "compact", tile.cols
    compact, absolute = _compact_slots(tile), _absolute_slots(tile, width)
    # Absolute groups keep their empty columns, so that a 2:4 matrix has slots 0, 1, 2, ...; they
    # are preferred where they cost nothing.
    if compact is not None and (absolute is None or _rounded(compact) < _rounded(absolute)):
        return "compact", compact
    return ("crowded", np.empty(0, np.int32)) if absolute is None else ("absolute", absolute)


def _compact_slots(tile: TilePattern) -> HostArray | None:
    return None if crowded_groups(tile.planes).any() else tile.cols


def _absolute_slots(tile: TilePattern, width: int) -> HostArray | None:
    groups = np.unique(tile.cols // 4)
    columns = (4 * groups[:, None] + np.arange(4, dtype=np.int32)).ravel()
    planes = np.zeros((columns.size, tile.planes.shape[1]), np.uint64)
    planes[np.searchsorted(columns, tile.cols)] = tile.planes
    if crowded_groups(planes).any():
        return None
    return np.where(columns < width, columns, np.int32(-1))


def _places(tile: TilePattern, slots: HostArray, planes: HostArray | None) -> HostArray:
    """Return the slot of each entry of a tile."""
    if planes is None:
        slot_of = np.zeros(tile.cols.size, np.int32)
        kept = np.flatnonzero(np.isin(slots, tile.cols))  # absolute groups keep empty columns
        slot_of[np.searchsorted(tile.cols, slots[kept])] = kept
        return slot_of[tile.column]
    octets = planes.view(np.uint8).reshape(slots.size, -1)
    slot, row = np.nonzero(np.unpackbits(octets, axis=1, bitorder="little"))
    width = tile.cols.size
    served = row * width + np.searchsorted(tile.cols, slots[slot])
    order = np.argsort(served)
    wanted = tile.row * width + tile.column
    return slot[order][np.searchsorted(served[order], wanted)]


def _rounded(slots: HostArray) -> int:
    return -(-slots.size // SLOT_MULTIPLE) * SLOT_MULTIPLE
