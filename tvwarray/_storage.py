"""`TVWStorage`, the record every algorithm takes: a matrix in tile-vector-wise format.

A tile is a set of rows that share a list of column slots::

    tile t                     slots  col_indptr[t] : col_indptr[t+1]
                               ┌──────────────────────────────┐
    rows                       │  7   2   9  -1 │ 12 ...      │   any columns, any order
    row_indptr[t]:             ├──────────────────────────────┤
    row_indptr[t+1]    row 40  │  .   a   b   . │             │   2:4: two stored values in
    any rows, any      row  3  │  c   .   d   . │             │   every group of four slots;
    order              row 17  │  .   e   f   . │             │   else all slots are stored
                               └──────────────────────────────┘

``data`` and ``meta`` lie tile after tile, each C-ordered. A row in no tile is zero; a slot of -1
is padding; columns that stand in several slots of a tile add up, as duplicates do in COO. Beside
the tiles there may be a CSR remainder (`_remainder`), which adds up with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final, NamedTuple, overload

import numpy as np

from tvwarray._dtypes import DType
from tvwarray._namespace import Array, array_namespace, dtype_of, from_host, nonzero_mask, to_host
from tvwarray._ragged import cumulate, runs
from tvwarray._remainder import REMAINDER_FIELDS, Remainder
from tvwarray._rules import (
    DEFAULT_TILE_ROWS,
    INDEX_MAX,
    MAX_TILE_ROWS,
    MIN_TILE_ROWS,
    SLOT_MULTIPLE,
    HostArray,
    Vector,
    check_header,
    check_record,
)

__all__ = [
    "ARRAY_FIELDS",
    "DEFAULT_TILE_ROWS",
    "INDEX_MAX",
    "MAX_TILE_ROWS",
    "MIN_TILE_ROWS",
    "REMAINDER_FIELDS",
    "SLOT_MULTIPLE",
    "HostArray",
    "TVWStorage",
    "Tile",
    "Tiles",
    "Vector",
    "check_header",
]


class Tile(NamedTuple):
    """Read-only views of one tile."""

    rows: Array
    """int32 (rows,): where each row of the tile stands in the matrix."""
    cols: Array
    """int32 (slots,): the column of each slot, -1 for padding."""
    data: Array
    """(rows, slots // 2) stored values, or (rows, slots) without 2:4."""
    meta: Array | None
    """uint16 (rows, slots // 16), or None without 2:4."""


@dataclass(frozen=True, eq=False, repr=False)
class TVWStorage:
    """A matrix of shape `shape` in tile-vector-wise format; see the picture of this module.

    Construction is cheap and checks nothing: call `check` on what comes from outside. NumPy
    arrays are held as read-only views.
    """

    shape: tuple[int, int]
    tile_rows: int
    """No tile has more rows than this (16 to 1024)."""
    vector: Vector
    row_indptr: Array
    """int32 (tiles + 1,)"""
    row_indices: Array
    """int32 (kept rows,)"""
    col_indptr: Array
    """int32 (tiles + 1,)"""
    col_indices: Array
    """int32 (slots,)"""
    data: Array
    """flat, in the value dtype"""
    meta: Array | None
    """flat, uint16, four groups a word; None without 2:4"""
    remainder_indptr: Array | None = None
    """int32 (rows + 1,), or None without a remainder, as the two below"""
    remainder_indices: Array | None = None
    """int32 (entries,)"""
    remainder_data: Array | None = None
    """(entries,), in the value dtype"""

    def __post_init__(self) -> None:
        for name in ARRAY_FIELDS:
            x = getattr(self, name)
            if isinstance(x, np.ndarray) and x.flags.writeable:
                view = x.view()
                view.flags.writeable = False
                object.__setattr__(self, name, view)

    def __reduce__(self) -> tuple[Any, ...]:
        return TVWStorage, tuple(getattr(self, f.name) for f in fields(self))

    @property
    def arrays(self) -> dict[str, Array]:
        """The arrays there are, by the name of their field."""
        named = ((name, getattr(self, name)) for name in ARRAY_FIELDS)
        return {name: x for name, x in named if x is not None}

    @property
    def dtype(self) -> DType:
        """The value dtype, as NumPy knows it."""
        return dtype_of(self.data)

    @property
    def num_tiles(self) -> int:
        """How many tiles there are."""
        return int(self.row_indptr.shape[0]) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together."""
        return sum(int(x.size) * dtype_of(x).itemsize for x in self.arrays.values())

    @cached_property
    def rows_of(self) -> HostArray:
        """int64 (tiles,): the rows of each tile."""
        return np.diff(_wide(self.row_indptr))

    @cached_property
    def slots_of(self) -> HostArray:
        """int64 (tiles,): the slots of each tile."""
        return np.diff(_wide(self.col_indptr))

    @cached_property
    def data_indptr(self) -> HostArray:
        """int64 (tiles + 1,): where each tile's values begin in `data`."""
        return cumulate(self.rows_of * (self.slots_of // (2 if self.vector else 1)))

    @cached_property
    def meta_indptr(self) -> HostArray:
        """int64 (tiles + 1,): where each tile's words begin in `meta`."""
        return cumulate(self.rows_of * (self.slots_of // SLOT_MULTIPLE))

    @cached_property
    def host_indptr(self) -> tuple[HostArray, HostArray]:
        """`row_indptr` and `col_indptr` on the host: what loops over tiles run on."""
        return to_host(self.row_indptr), to_host(self.col_indptr)

    @cached_property
    def nnz(self) -> int:
        """How many stored values are not zero; fillers and explicit zeros do not count."""
        xp = array_namespace(self.data)
        stored = (self.data, self.remainder_data)
        return sum(int(xp.count_nonzero(nonzero_mask(x))) for x in stored if x is not None)

    @property
    def remainder(self) -> Remainder | None:
        """The CSR matrix beside the tiles, if there is one."""
        if self.remainder_indptr is None:
            return None
        return Remainder(self.remainder_indptr, self.remainder_indices, self.remainder_data)

    def without_remainder(self) -> TVWStorage:
        """Return the tiles alone."""
        return replace(self, remainder_indptr=None, remainder_indices=None, remainder_data=None)

    def split_rows(self, most: int) -> TVWStorage:
        """Return the same matrix in tiles of at most `most` rows; values and metadata are shared.

        Rows of a tile lie one after another, so cutting a tile repeats its column list and moves
        nothing else.
        """
        if not self.num_tiles or self.rows_of.max() <= most:
            return self
        pieces = np.maximum(1, -(-self.rows_of // most))
        tile = np.repeat(np.arange(self.num_tiles), pieces)
        piece = runs(0, pieces)
        heights = np.minimum(most, self.rows_of[tile] - piece * most)
        starts, slots = _wide(self.col_indptr)[tile], self.slots_of[tile]
        col_indptr = cumulate(slots)
        source = runs(starts, slots)
        like = self.data
        return replace(
            self,
            tile_rows=max(MIN_TILE_ROWS, most),
            row_indptr=from_host(cumulate(heights).astype(np.int32), like=like),
            col_indptr=from_host(col_indptr.astype(np.int32), like=like),
            col_indices=from_host(to_host(self.col_indices)[source], like=like),
        )

    def tile(self, t: int) -> Tile:
        """Return views of tile `t`."""
        row_indptr, col_indptr = self.host_indptr
        xp = array_namespace(self.data)
        rows, slots = int(self.rows_of[t]), int(self.slots_of[t])
        data = self.data[int(self.data_indptr[t]) : int(self.data_indptr[t + 1])]
        meta = self.meta
        if meta is not None:
            words = meta[int(self.meta_indptr[t]) : int(self.meta_indptr[t + 1])]
            meta = xp.reshape(words, (rows, slots // SLOT_MULTIPLE))
        return Tile(
            self.row_indices[int(row_indptr[t]) : int(row_indptr[t + 1])],
            self.col_indices[int(col_indptr[t]) : int(col_indptr[t + 1])],
            xp.reshape(data, (rows, slots // 2 if self.vector else slots)),
            meta,
        )

    def mapped(self, change: Callable[[Array], Array]) -> TVWStorage:
        """Return this storage with every array passed through `change`: to a device, or copied."""
        changed: dict[str, Any] = {name: change(x) for name, x in self.arrays.items()}
        return replace(self, **changed)

    def check(self) -> None:
        """Check every rule of the format; nothing is changed.

        Raises
        ------
        FormatError
            At the first rule that is broken, saying where.
        """
        check_record(self)


ARRAY_FIELDS: Final = tuple(
    f.name for f in fields(TVWStorage) if f.name not in ("shape", "tile_rows", "vector")
)


class Tiles(Sequence[Tile]):
    """The tiles of a storage, made when asked for."""

    def __init__(self, storage: TVWStorage) -> None:
        self._storage = storage

    def __len__(self) -> int:
        return self._storage.num_tiles

    @overload
    def __getitem__(self, index: int) -> Tile: ...
    @overload
    def __getitem__(self, index: slice) -> list[Tile]: ...
    def __getitem__(self, index: int | slice) -> Tile | list[Tile]:
        picked = range(len(self))[index]
        if isinstance(picked, range):
            return [self._storage.tile(t) for t in picked]
        return self._storage.tile(picked)

    def __iter__(self) -> Iterator[Tile]:
        return (self._storage.tile(t) for t in range(len(self)))

    def __repr__(self) -> str:
        return f"<{len(self)} tiles>"


def _wide(indptr: Array) -> HostArray:
    """Return offsets as int64: differences of hostile int32 ones would wrap and look harmless."""
    return to_host(indptr).astype(np.int64)
