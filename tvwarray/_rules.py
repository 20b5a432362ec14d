"""The rules of the format: its limits, and the checks that a record keeps them.

`check_record` is what `TVWStorage.check` runs. Every rule is stated once, in the message that says
where it is broken; nothing is changed and nothing here knows more of a storage than its fields.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

import numpy as np

from tvwarray._dtypes import VALUE_DTYPES, DType
from tvwarray._errors import FormatError
from tvwarray._namespace import (
    Array,
    array_namespace,
    device_of,
    dtype_of,
    nonzero_mask,
    to_host,
)
from tvwarray._remainder import REMAINDER_FIELDS, Remainder, check_remainder
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


class _Record(Protocol):
    """What the checks read of a storage, which is defined above this module."""

    @property
    def shape(self) -> tuple[int, int]: ...
    @property
    def tile_rows(self) -> int: ...
    @property
    def vector(self) -> Vector: ...
    @property
    def arrays(self) -> dict[str, Array]: ...
    @property
    def row_indptr(self) -> Array: ...
    @property
    def row_indices(self) -> Array: ...
    @property
    def col_indptr(self) -> Array: ...
    @property
    def col_indices(self) -> Array: ...
    @property
    def data(self) -> Array: ...
    @property
    def meta(self) -> Array | None: ...
    @property
    def dtype(self) -> DType: ...
    @property
    def remainder(self) -> Remainder | None: ...
    @property
    def slots_of(self) -> HostArray: ...
    @property
    def data_indptr(self) -> HostArray: ...
    @property
    def meta_indptr(self) -> HostArray: ...
    def tile(self, t: int, /) -> Any: ...


def check_record(s: _Record) -> None:
    """Check every rule of the format; nothing is changed.

    Raises
    ------
    FormatError
        At the first rule that is broken, saying where.
    """
    _check_header(s)
    _check_arrays(s)
    _check_rows(s)
    _check_columns(s)
    _check_sizes(s)
    if "meta" in s.arrays:
        _check_meta(s)
    _check_padding(s)
    if remainder := s.remainder:
        check_remainder(remainder, s.shape, s.dtype)


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


def _check_header(s: _Record) -> None:
    check_header(s.shape, s.tile_rows, s.vector)
    if (s.meta is None) != (s.vector is None):
        has = "there is" if s.meta is not None else "there is no"
        raise FormatError(f"vector is {s.vector} but {has} meta; meta belongs to (2, 4) alone.")
    missing = [name for name in REMAINDER_FIELDS if name not in s.arrays]
    if 0 < len(missing) < len(REMAINDER_FIELDS):
        raise FormatError(f"a remainder has three arrays; there is no {' and no '.join(missing)}.")


def _check_arrays(s: _Record) -> None:
    try:
        array_namespace(*s.arrays.values())
        devices = {str(device_of(x)) for x in s.arrays.values()}
    except TypeError as e:
        raise FormatError(f"the arrays are not of one array library: {e}") from e
    if len(devices) > 1:
        raise FormatError(f"the arrays lie on several devices: {', '.join(sorted(devices))}.")
    for name, x in s.arrays.items():
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


def _check_rows(s: _Record) -> None:
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


def _check_columns(s: _Record) -> None:
    indptr, indices = _wide(s.col_indptr), to_host(s.col_indices)
    _check_indptr("col_indptr", indptr, indices.size)
    if indptr.size != s.row_indptr.shape[0]:
        raise FormatError(
            f"row_indptr describes {s.row_indptr.shape[0] - 1} tiles, col_indptr {indptr.size - 1}."
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


def _check_sizes(s: _Record) -> None:
    for name, x, expected in (
        ("data", s.data, int(s.data_indptr[-1])),
        ("meta", s.meta, int(s.meta_indptr[-1])),
    ):
        if x is not None and x.shape[0] != expected:
            raise FormatError(
                f"{name} has {x.shape[0]} entries; rows and slots of the tiles make {expected}."
            )


def _check_meta(s: _Record) -> None:
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


def _check_padding(s: _Record) -> None:
    cols = to_host(s.col_indices)
    padded = np.flatnonzero(cols < 0)
    if not padded.size:
        return
    tiles = np.unique(np.searchsorted(_wide(s.col_indptr), padded, side="right") - 1)
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
