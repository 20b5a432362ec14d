"""Which rows and columns go where: from the pattern of a matrix to the index arrays of a storage.

Three steps, each a module of its own::

    pattern ──_tiles──> rows of each tile ──_slots──> slots of each tile, the slot of each entry
                                │
                            _spill: with layout="hybrid", which entries stay beside the tiles
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, get_args

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._layouts.pattern import Pattern
from tvwarray._layouts.slots import FORMS, Slots, check_count, crowded_groups, lay_out, tile_pattern
from tvwarray._layouts.spill import spill
from tvwarray._layouts.tiles import HEIGHTS, RowTiles, TileRows, choose_tiles, natural_tiles
from tvwarray._storage import (
    DEFAULT_TILE_ROWS,
    MAX_TILE_ROWS,
    SLOT_MULTIPLE,
    HostArray,
    Vector,
    check_header,
)

LayoutName = Literal["lossless", "exact", "hybrid"]

_PRUNED_HEIGHTS: Final = (1024, 512, 256, 128, 64, 32, 16)

_CROWDED: Final = FORMS.index("crowded")


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
    places: HostArray | None = None
    """int32 (entries,): for each entry of the pattern its slot in the tile of its row, or -1 for
    one beside the tiles. None where no column stands twice in a tile: then columns tell."""

    @property
    def num_tiles(self) -> int:
        """How many tiles there are."""
        return self.row_indptr.size - 1

    def tile(self, t: int) -> tuple[HostArray, HostArray]:
        """Return the rows and the column slots of tile `t`."""
        r, c = self.row_indptr, self.col_indptr
        return self.row_indices[r[t] : r[t + 1]], self.col_indices[c[t] : c[t + 1]]


def find_layout(
    pattern: Pattern,
    *,
    tile_rows: TileRows,
    vector: Vector,
    layout: LayoutName = "lossless",
    memory_limit: int | None = None,
    value_bytes: int = 4,
) -> Layout:
    """Lay out a matrix; rows without entries are left out. Equal patterns give equal layouts.

    Parameters
    ----------
    pattern : Pattern
        Where the matrix holds entries.
    tile_rows : int or "auto"
        The most rows of a tile; see `_layouts.tiles`.
    vector : (2, 4) or None
        How many values each group of slots stores.
    layout : {"lossless", "exact", "hybrid"}
        "lossless" puts every entry in a tile: rows stand together that share columns, crowded
        columns are spread over groups with padding. "exact" refuses a matrix that is not TVW or
        2:4 in natural order. "hybrid" leaves entries that no tile holds economically beside the
        tiles, at most `_spill.MOST_BESIDE` of them unless `memory_limit` asks for more.
    memory_limit : int, optional
        The most bytes the storage may take, with "hybrid" alone.
    value_bytes : int
        Bytes of a value, for `memory_limit`.

    Raises
    ------
    FormatError
        If ``layout="exact"`` and a group would hold more than two values, if the layout needs more
        slots than int32 counts, or if no layout keeps `memory_limit`.
    """
    _check_options(layout, memory_limit)
    check_header(pattern.shape, MAX_TILE_ROWS if tile_rows == "auto" else tile_rows, vector)
    narrow, groups = pattern.narrowed()
    pruned = pruned_tiles(narrow, tile_rows, vector) if memory_limit is None else None
    if pruned is not None:
        tiles, slots = pruned
    elif layout == "exact":
        tiles, slots = _exact(narrow, tile_rows, vector)
    elif layout == "hybrid":
        tiles = choose_tiles(narrow, tile_rows, vector)
        tiles, slots = spill(narrow, tiles, vector, value_bytes, memory_limit)
    else:
        tiles = choose_tiles(narrow, tile_rows, vector)
        slots = lay_out(narrow, tiles, vector, spread=True)
    return Layout(
        pattern.shape,
        tiles.tile_rows if tiles.size else _height(tile_rows),
        vector,
        tiles.indptr.astype(np.int32),
        pattern.rows[tiles.order].astype(np.int32),
        slots.indptr,
        slots.columns if groups is None else _widened(slots.columns, groups, pattern.shape[1]),
        slots.places,
    )


def make_layout(
    shape: tuple[int, int],
    tile_rows: int,
    vector: Vector,
    rows: list[HostArray],
    slots: list[HostArray],
) -> Layout:
    """Join the rows and the slots of all tiles; slots are padded to a multiple of 16."""
    padded = [np.pad(s, (0, -s.size % SLOT_MULTIPLE), constant_values=-1) for s in slots]
    check_count(sum(s.size for s in padded))
    return Layout(shape, tile_rows, vector, *_join(rows), *_join(padded))


def _check_options(layout: LayoutName, memory_limit: int | None) -> None:
    if layout not in get_args(LayoutName):
        raise FormatError(f'layout is {layout!r}; it is "lossless", "exact" or "hybrid".')
    if memory_limit is None:
        return
    if layout != "hybrid":
        raise FormatError(
            f'memory_limit goes with layout="hybrid", which may leave entries beside the tiles; '
            f"layout is {layout!r}."
        )
    if not isinstance(memory_limit, int | np.integer) or memory_limit < 0:
        raise FormatError(f"memory_limit is {memory_limit!r}; it is a number of bytes.")


def _height(tile_rows: TileRows) -> int:
    return DEFAULT_TILE_ROWS if tile_rows == "auto" else tile_rows


def pruned_tiles(
    pattern: Pattern, tile_rows: TileRows, vector: Vector
) -> tuple[RowTiles, Slots] | None:
    """Return natural tiles whose columns need no packing and that are full, or None.

    They are what a matrix was pruned in. With "auto" they are as tall as they stay full.
    """
    heights = _PRUNED_HEIGHTS if tile_rows == "auto" else (tile_rows,)

    def found(height: int) -> tuple[RowTiles, Slots] | None:
        tiles = natural_tiles(pattern, height, vector)
        if not tiles.is_full(pattern, vector):
            return None
        slots = lay_out(pattern, tiles, vector, spread=False)
        meets = np.diff(slots.indptr) <= tiles.bounds
        return (tiles, slots) if meets.all() and (slots.forms != _CROWDED).all() else None

    lowest = found(heights[-1])
    if lowest is None:  # taller ones are never fuller, nor easier to lay out
        return None
    return next((made for made in map(found, heights[:-1]) if made is not None), lowest)


def _exact(pattern: Pattern, tile_rows: TileRows, vector: Vector) -> tuple[RowTiles, Slots]:
    """Return natural tiles whose columns need no packing; with "auto" the tallest there are."""
    for height in HEIGHTS if tile_rows == "auto" else (tile_rows,):
        tiles = natural_tiles(pattern, height, vector)
        slots = lay_out(pattern, tiles, vector, spread=False)
        if not (slots.forms == _CROWDED).any():
            return tiles, slots
    t = int(np.flatnonzero(slots.forms == _CROWDED)[0])
    raise FormatError(_crowd(pattern, tiles.order[tiles.indptr[t] : tiles.indptr[t + 1]]))


def _crowd(pattern: Pattern, rows: HostArray) -> str:
    """Say which row of a tile holds too many entries where."""
    tile = tile_pattern(pattern, rows)
    crowd = crowded_groups(tile.planes)
    group, word = (int(i) for i in np.argwhere(crowd)[0])
    bit = (int(crowd[group, word]) & -int(crowd[group, word])).bit_length() - 1
    cols = tile.cols[4 * group : 4 * group + 4]
    planes = tile.planes[4 * group : 4 * group + 4, word]
    held = int((planes >> np.uint64(bit) & np.uint64(1)).sum())
    return (
        f"row {pattern.rows[rows[64 * word + bit]]}, columns {', '.join(map(str, cols))} hold "
        f"{held} nonzeros; a 2:4 group holds at most 2.\n"
        'Prune with tvwarray.sparsify(...) first, or spread the columns with layout="lossless".'
    )


def _widened(columns: HostArray, groups: HostArray, width: int) -> HostArray:
    """Return the columns of a narrowed pattern as those of the pattern it was made from."""
    if not groups.size:
        return columns
    wide = 4 * groups[columns // 4] + columns % 4
    return np.where((columns < 0) | (wide >= width), -1, wide).astype(np.int32)


def _join(parts: list[HostArray]) -> tuple[HostArray, HostArray]:
    """Return int32 (indptr, indices) of lists laid end to end."""
    indptr = np.zeros(len(parts) + 1, np.int32)
    np.cumsum([p.size for p in parts], out=indptr[1:])
    indices = np.concatenate([*parts, np.empty(0, np.int32)]).astype(np.int32, copy=False)
    return indptr, indices
