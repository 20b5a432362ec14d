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

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any, Final, NamedTuple

import numpy as np

from tvwarray._dtypes import VALUE_DTYPES, DType
from tvwarray._errors import FormatError
from tvwarray._namespace import (
    Array,
    array_namespace,
    device_of,
    dtype_of,
    from_host,
    nonzero_mask,
    to_host,
)
from tvwarray._remainder import Remainder, check_remainder
from tvwarray._two_four import VALID_NIBBLES, positions_24, split_nibbles

SLOT_MULTIPLE: Final = 16
"""A tile's slot count is a multiple of this: one word of metadata, half an ``mma.sp`` step."""

MIN_TILE_ROWS: Final = 16
MAX_TILE_ROWS: Final = 1024
DEFAULT_TILE_ROWS: Final = 128
INDEX_MAX: Final = 2**31 - 1

Vector = tuple[int, int] | None
"""How many values each group of slots stores: ``(2, 4)``, or None for all of them."""

HostArray = np.ndarray[Any, Any]


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
        arrays = (getattr(self, name) for name in ARRAY_FIELDS)
        return sum(int(x.size) * dtype_of(x).itemsize for x in arrays if x is not None)

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
        return _cumulate(self.rows_of * (self.slots_of // (2 if self.vector else 1)))

    @cached_property
    def meta_indptr(self) -> HostArray:
        """int64 (tiles + 1,): where each tile's words begin in `meta`."""
        return _cumulate(self.rows_of * (self.slots_of // SLOT_MULTIPLE))

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
        piece = np.arange(tile.size) - np.repeat(np.cumsum(pieces) - pieces, pieces)
        heights = np.minimum(most, self.rows_of[tile] - piece * most)
        starts, slots = _wide(self.col_indptr)[tile], self.slots_of[tile]
        col_indptr = _cumulate(slots)
        source = np.repeat(starts - col_indptr[:-1], slots) + np.arange(col_indptr[-1])
        like = self.data
        return replace(
            self,
            tile_rows=max(MIN_TILE_ROWS, most),
            row_indptr=from_host(_cumulate(heights).astype(np.int32), like=like),
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
        arrays = {name: getattr(self, name) for name in ARRAY_FIELDS}
        changed: dict[str, Any] = {
            name: x if x is None else change(x) for name, x in arrays.items()
        }
        return replace(self, **changed)

    def check(self) -> None:
        """Check every rule of the format; nothing is changed.

        Raises
        ------
        FormatError
            At the first rule that is broken, saying where.
        """
        _check_header(self)
        _check_arrays(self)
        _check_rows(self)
        _check_columns(self)
        _check_sizes(self)
        if self.meta is not None:
            _check_meta(self)
        _check_padding(self)
        if remainder := self.remainder:
            check_remainder(remainder, self.shape, self.dtype)


ARRAY_FIELDS: Final = tuple(
    f.name for f in fields(TVWStorage) if f.name not in ("shape", "tile_rows", "vector")
)

REMAINDER_FIELDS: Final = ("remainder_indptr", "remainder_indices", "remainder_data")


def check_header(shape: object, tile_rows: object, vector: object) -> None:
    """Check what describes a matrix before any array does.

    Raises
    ------
    FormatError
        If the shape is not two integers below 2**31, `tile_rows` not 16 to 1024, or `vector`
        neither ``(2, 4)`` nor None.
    """
    two = isinstance(shape, tuple) and len(shape) == 2
    if not (two and all(isinstance(n, int) and 0 <= n <= INDEX_MAX for n in shape)):  # type: ignore[attr-defined]
        raise FormatError(
            f"shape is {shape!r}; it is two integers from 0 to 2**31 - 1 (indices are int32)."
        )
    if not (isinstance(tile_rows, int) and MIN_TILE_ROWS <= tile_rows <= MAX_TILE_ROWS):
        raise FormatError(
            f"tile_rows is {tile_rows!r}; it is an integer from {MIN_TILE_ROWS} to {MAX_TILE_ROWS}."
        )
    if vector is not None and vector != (2, 4):
        raise FormatError(
            f"vector is {vector!r}; it is (2, 4), two values in four slots, or None, all slots."
        )


def _check_header(s: TVWStorage) -> None:
    check_header(s.shape, s.tile_rows, s.vector)
    if (s.meta is None) != (s.vector is None):
        has = "there is" if s.meta is not None else "there is no"
        raise FormatError(f"vector is {s.vector} but {has} meta; meta belongs to (2, 4) alone.")
    missing = [name for name in REMAINDER_FIELDS if getattr(s, name) is None]
    if 0 < len(missing) < len(REMAINDER_FIELDS):
        raise FormatError(f"a remainder has three arrays; there is no {' and no '.join(missing)}.")


def _check_arrays(s: TVWStorage) -> None:
    present = [(name, getattr(s, name)) for name in ARRAY_FIELDS if getattr(s, name) is not None]
    try:
        array_namespace(*(x for _, x in present))
        devices = {str(device_of(x)) for _, x in present}
    except TypeError as e:
        raise FormatError(f"the arrays are not of one array library: {e}") from e
    if len(devices) > 1:
        raise FormatError(f"the arrays lie on several devices: {', '.join(sorted(devices))}.")
    for name, x in present:
        if x.ndim != 1:
            raise FormatError(f"{name} has {x.ndim} dimensions; it is flat.")
        dtype = dtype_of(x)
        if name in ("data", "remainder_data"):
            if dtype.name not in VALUE_DTYPES:
                raise FormatError(f"{name} is {dtype.name}; a matrix cannot hold such values.")
        elif dtype != (expected := np.dtype(np.uint16 if name == "meta" else np.int32)):
            raise FormatError(f"{name} is {dtype.name}; it must be {expected.name}.")
        if not dtype.isnative:
            raise FormatError(f"{name} is not in this machine's byte order; cast it first.")


def _check_indptr(name: str, indptr: HostArray, total: int) -> None:
    if indptr.size < 1 or indptr[0] != 0:
        raise FormatError(f"{name} must begin with 0, and has {indptr.size} entries.")
    fall = np.flatnonzero(np.diff(indptr) < 0)
    if fall.size:
        t = int(fall[0])
        raise FormatError(f"tile {t}: {name} falls from {indptr[t]} to {indptr[t + 1]}.")
    if indptr[-1] != total:
        raise FormatError(f"{name} ends at {indptr[-1]}, but there are {total} indices.")


def _check_rows(s: TVWStorage) -> None:
    indptr, indices = _wide(s.row_indptr), to_host(s.row_indices)
    _check_indptr("row_indptr", indptr, indices.size)
    tall = np.flatnonzero(np.diff(indptr) > s.tile_rows)
    if tall.size:
        t = int(tall[0])
        raise FormatError(
            f"tile {t}: {indptr[t + 1] - indptr[t]} rows; a tile has at most tile_rows = "
            f"{s.tile_rows}."
        )
    outside = np.flatnonzero((indices < 0) | (indices >= s.shape[0]))
    if outside.size:
        i = int(outside[0])
        raise FormatError(
            f"tile {_tile_of(indptr, i)}: row {indices[i]} is outside 0..{s.shape[0] - 1}."
        )
    order = np.argsort(indices, kind="stable")
    again = np.flatnonzero(np.diff(indices[order]) == 0)
    if again.size:
        i, j = (int(order[again[0] + k]) for k in (0, 1))
        raise FormatError(
            f"row {indices[i]} is in tile {_tile_of(indptr, i)} and again in tile "
            f"{_tile_of(indptr, j)}; a row has one place."
        )


def _check_columns(s: TVWStorage) -> None:
    indptr, indices = _wide(s.col_indptr), to_host(s.col_indices)
    _check_indptr("col_indptr", indptr, indices.size)
    if indptr.size != s.row_indptr.shape[0]:
        raise FormatError(
            f"row_indptr describes {s.num_tiles} tiles, col_indptr {indptr.size - 1}."
        )
    odd = np.flatnonzero(np.diff(indptr) % SLOT_MULTIPLE)
    if odd.size:
        t = int(odd[0])
        raise FormatError(
            f"tile {t}: {indptr[t + 1] - indptr[t]} slots; the count is a multiple of "
            f"{SLOT_MULTIPLE} (pad with -1)."
        )
    outside = np.flatnonzero((indices < -1) | (indices >= s.shape[1]))
    if outside.size:
        i = int(outside[0])
        raise FormatError(
            f"tile {_tile_of(indptr, i)}, slot {i - indptr[_tile_of(indptr, i)]}: column "
            f"{indices[i]} is outside 0..{s.shape[1] - 1} and not -1 (padding)."
        )


def _check_sizes(s: TVWStorage) -> None:
    for name, x, expected in (
        ("data", s.data, int(s.data_indptr[-1])),
        ("meta", s.meta, int(s.meta_indptr[-1])),
    ):
        if x is not None and x.shape[0] != expected:
            raise FormatError(
                f"{name} has {x.shape[0]} entries; rows and slots of the tiles make {expected}."
            )


def _check_meta(s: TVWStorage) -> None:
    xp = array_namespace(s.meta)
    nibbles = split_nibbles(xp.reshape(s.meta, (-1, 1)))
    legal = nibbles == VALID_NIBBLES[0]
    for nibble in VALID_NIBBLES[1:]:
        legal = legal | (nibbles == nibble)
    if bool(xp.all(legal)):
        return
    word, group = (int(i[0]) for i in xp.nonzero(~legal))
    t = _tile_of(s.meta_indptr, word)
    per_row = int(s.slots_of[t]) // SLOT_MULTIPLE
    row, within = divmod(word - int(s.meta_indptr[t]), per_row)
    value = int(nibbles[word, group])
    raise FormatError(
        f"tile {t}, row {row}, group {4 * within + group}: positions {value & 3} and {value >> 2}; "
        "the two positions of a group are ascending and distinct."
    )


def _check_padding(s: TVWStorage) -> None:
    cols = to_host(s.col_indices)
    padded = np.flatnonzero(cols < 0)
    if not padded.size:
        return
    tiles = np.unique(np.searchsorted(s.host_indptr[1], padded, side="right") - 1)
    for t in tiles:
        tile = s.tile(int(t))
        if tile.data.shape[0] == 0:
            continue
        xp = array_namespace(tile.data)
        padding = tile.cols < 0
        if tile.meta is None:
            bad = padding[None, :] & nonzero_mask(tile.data)
        else:
            half = tile.data.shape[1]
            group = xp.asarray(np.repeat(np.arange(half // 2) * 4, 2), device=device_of(tile.data))
            slot = xp.reshape(group[None, :] + positions_24(tile.meta), (-1,))
            at_padding = xp.reshape(xp.take(padding, slot, axis=0), tile.data.shape)
            bad = at_padding & nonzero_mask(tile.data)
        if bool(xp.any(bad)):
            row, place = (int(i[0]) for i in xp.nonzero(bad))
            raise FormatError(
                f"tile {t}, row {row}: stored value {place} is {tile.data[row, place]} in a "
                "padding slot; padding holds zeros."
            )


def _wide(indptr: Array) -> HostArray:
    """Return offsets as int64: differences of hostile int32 ones would wrap and look harmless."""
    return to_host(indptr).astype(np.int64)


def _tile_of(indptr: HostArray, index: int) -> int:
    """Return the tile whose range of `indptr` holds `index`."""
    return int(np.searchsorted(indptr, index, side="right")) - 1


def _cumulate(counts: HostArray) -> HostArray:
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
