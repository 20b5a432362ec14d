"""Which rows and columns go where: from the pattern of a matrix to the index arrays of a storage.

A layout is found tile by tile, and the first form that meets the tile's bound
``max(distinct columns, 2 * longest row)`` is taken:

1. the columns in their absolute groups ``column // 4`` (recognises a 2:4 matrix as it is);
2. the kept columns, ascending, in fours (recognises a TVW matrix as it is);
3. first fit: columns by descending count, each into the first group with room (`_first_fit`).

The first two are what ``layout="exact"`` allows; the third represents any matrix, since columns
may stand in any slots and slots may stay empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, get_args

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._first_fit import first_fit
from tvwarray._storage import (
    DEFAULT_TILE_ROWS,
    INDEX_MAX,
    MAX_TILE_ROWS,
    SLOT_MULTIPLE,
    HostArray,
    Vector,
    check_header,
)

LayoutName = Literal["lossless", "exact"]

TileRows = int | Literal["auto"]
"""The most rows of a tile, 16 to 1024; "auto" takes 1024 where every tile keeps all columns anyway
(plain 2:4: one column list then serves 1024 rows), and 128 elsewhere."""


class TilePattern(NamedTuple):
    """Where the rows of one tile hold entries, a bit for every row."""

    cols: HostArray
    """int32 (k,): the columns with an entry, ascending."""
    planes: HostArray
    """uint64 (k, words): bit r of a column is set where row r of the tile holds an entry."""
    longest: int
    """The most entries a row holds."""


class Pattern(Protocol):
    """What a layout is made from; dense and sparse matrices implement it (`_convert`)."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    def kept_rows(self) -> HostArray:
        """Return the rows that hold entries, ascending."""
        ...

    def tile(self, rows: HostArray, /) -> TilePattern:
        """Return the pattern of these rows."""
        ...


@dataclass(frozen=True, eq=False)
class Layout:
    """The index arrays of a storage that is to be filled with values."""

    shape: tuple[int, int]
    tile_rows: int
    vector: Vector
    row_indptr: HostArray
    row_indices: HostArray
    col_indptr: HostArray
    col_indices: HostArray

    @property
    def num_tiles(self) -> int:
        """How many tiles there are."""
        return self.row_indptr.size - 1

    def tile(self, t: int) -> tuple[HostArray, HostArray]:
        """Return the rows and the column slots of tile `t`."""
        r, c = self.row_indptr, self.col_indptr
        return self.row_indices[r[t] : r[t + 1]], self.col_indices[c[t] : c[t + 1]]


def find_layout(
    pattern: Pattern, *, tile_rows: TileRows, vector: Vector, layout: LayoutName = "lossless"
) -> Layout:
    """Lay out a matrix in consecutive rows; rows without entries are left out.

    Parameters
    ----------
    pattern : Pattern
        Where the matrix holds entries.
    tile_rows : int or "auto"
        The most rows of a tile; see `TileRows`.
    vector : (2, 4) or None
        How many values each group of slots stores.
    layout : {"lossless", "exact"}
        "exact" refuses a matrix that is not TVW or 2:4 in natural column order; "lossless" spreads
        crowded columns over groups with padding.

    Raises
    ------
    FormatError
        If ``layout="exact"`` and a group would hold more than two values, or if the layout needs
        more slots than int32 counts.
    """
    if layout not in get_args(LayoutName):
        raise FormatError(f'layout is {layout!r}; it is "lossless" or "exact".')
    check_header(pattern.shape, MAX_TILE_ROWS if tile_rows == "auto" else tile_rows, vector)
    if tile_rows == "auto":
        if tall := _all_columns_layout(pattern, vector):
            return tall
        tile_rows = DEFAULT_TILE_ROWS
    rows, tiles = min(
        ((r, [pattern.tile(x) for x in r]) for r in _row_candidates(pattern, tile_rows)),
        key=lambda c: (
            sum(len(r) * slot_bound(t, vector) for r, t in zip(*c, strict=True)),
            len(c[0]),
        ),
    )
    slots = _slots(tiles, rows, pattern.shape[1], vector, layout)
    return make_layout(pattern.shape, tile_rows, vector, rows, slots)


def make_layout(
    shape: tuple[int, int],
    tile_rows: int,
    vector: Vector,
    rows: list[HostArray],
    slots: list[HostArray],
) -> Layout:
    """Join the rows and the slots of all tiles; slots are padded to a multiple of 16."""
    padded = [np.pad(s, (0, -s.size % SLOT_MULTIPLE), constant_values=-1) for s in slots]
    if sum(s.size for s in padded) > INDEX_MAX:
        raise FormatError("the layout needs more than 2**31 - 1 column slots (indices are int32).")
    return Layout(shape, tile_rows, vector, *_join(rows), *_join(padded))


def slot_bound(tile: TilePattern, vector: Vector) -> int:
    """Return the fewest slots that any layout of this tile can have."""
    least = max(tile.cols.size, 2 * tile.longest) if vector else tile.cols.size
    return -(-least // SLOT_MULTIPLE) * SLOT_MULTIPLE


def _row_candidates(pattern: Pattern, tile_rows: int) -> list[list[HostArray]]:
    """Return the row lists worth trying: fixed tiles, and tiles of the rows that hold entries.

    Both leave empty rows out. They differ in where tiles begin: a matrix that lost single rows by
    chance keeps its tiles, one whose rows were dropped before it was tiled finds them again.
    """
    kept = pattern.kept_rows().astype(np.int32)
    ends = np.flatnonzero(np.diff(kept // tile_rows)) + 1
    fixed = np.split(kept, ends) if kept.size else []
    if kept.size == pattern.shape[0]:
        return [fixed]
    return [fixed, [kept[i : i + tile_rows] for i in range(0, kept.size, tile_rows)]]


def _all_columns_layout(pattern: Pattern, vector: Vector) -> Layout | None:
    """Return tall tiles with all columns if even tiles of usual height are full, or None.

    Full is 2:4 with no group of columns empty, or without 2:4 no column empty.
    """
    width = pattern.shape[1]
    usual = _row_candidates(pattern, DEFAULT_TILE_ROWS)[0]
    for tile in map(pattern.tile, usual):
        slots = _absolute_slots(tile, width) if vector else tile.cols
        if slots is None or slots.size < width:
            return None
    if not usual:
        return None
    rows = _row_candidates(pattern, MAX_TILE_ROWS)[0]
    columns = np.arange(width, dtype=np.int32)
    return make_layout(pattern.shape, MAX_TILE_ROWS, vector, rows, [columns] * len(rows))


def _slots(
    tiles: list[TilePattern],
    rows: list[HostArray],
    width: int,
    vector: Vector,
    layout: LayoutName,
) -> list[HostArray]:
    if vector is None:
        return [t.cols for t in tiles]
    slots: list[HostArray | None] = [_natural(t, width) for t in tiles]
    crowded = [i for i, s in enumerate(slots) if s is None]
    if crowded and layout == "exact":
        _refuse(tiles[crowded[0]], rows[crowded[0]])
    # A natural form wastes slots where a tile holds single columns of many groups.
    loose = [i for i, s in enumerate(slots) if s is None or s.size > slot_bound(tiles[i], vector)]
    if layout == "lossless":
        fitted = first_fit([tiles[i].planes for i in loose])
        for i, order in zip(loose, fitted, strict=True):
            natural = slots[i]
            if natural is None or _rounded(order.size) < _rounded(natural.size):
                slots[i] = np.where(order < 0, np.int32(-1), tiles[i].cols[order])
    return [s for s in slots if s is not None]


def _natural(tile: TilePattern, width: int) -> HostArray | None:
    """Return the slots of a tile that is TVW or 2:4 as it stands, or None.

    Absolute groups keep their empty columns, so that a 2:4 matrix has slots 0, 1, 2, ...; they are
    preferred where they cost nothing.
    """
    compact, absolute = _compact_slots(tile), _absolute_slots(tile, width)
    if absolute is None or (
        compact is not None and _rounded(compact.size) < _rounded(absolute.size)
    ):
        return compact
    return absolute


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


def _refuse(tile: TilePattern, rows: HostArray) -> None:
    crowd = crowded_groups(tile.planes)
    group, word = (int(i) for i in np.argwhere(crowd)[0])
    bit = (int(crowd[group, word]) & -int(crowd[group, word])).bit_length() - 1
    cols = tile.cols[4 * group : 4 * group + 4]
    held = int(
        (tile.planes[4 * group : 4 * group + 4, word] >> np.uint64(bit) & np.uint64(1)).sum()
    )
    raise FormatError(
        f"row {rows[64 * word + bit]}, columns {', '.join(map(str, cols))} hold {held} nonzeros; "
        "a 2:4 group holds at most 2.\n"
        'Prune with tvwarray.sparsify(...) first, or spread the columns with layout="lossless".'
    )


def _rounded(slots: int) -> int:
    return -(-slots // SLOT_MULTIPLE) * SLOT_MULTIPLE


def _join(parts: list[HostArray]) -> tuple[HostArray, HostArray]:
    """Return int32 (indptr, indices) of lists laid end to end."""
    indptr = np.zeros(len(parts) + 1, np.int32)
    np.cumsum([p.size for p in parts], out=indptr[1:])
    indices = np.concatenate([*parts, np.empty(0, np.int32)]).astype(np.int32, copy=False)
    return indptr, indices
