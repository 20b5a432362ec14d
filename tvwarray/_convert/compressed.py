"""2:4-compressed forms of a whole matrix to storage and back.

A 2:4 matrix stores two values in every group of four columns. Where they stand is said in one of
two ways, both a row at a time::

    columns     0    1    2    3  |  4    5    6    7
    matrix      .    a    .    b  |  c    .    .    d
    values      a    b    c    d
    positions   1    3    0    3                            place of each value in its group
    bitmask     bit  1    3    4    7    of byte 0: 0x9A    bit b of byte j is column 8 j + b

The bitmask is that of compressed-tensors' ``sparse-24-bitmask`` files. Both ways store exactly two
values a group, so a group of fewer nonzeros names places of stored zeros; these places come back
as they were.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import numpy as np

from tvwarray._convert.dense import dense_rows
from tvwarray._dtypes import value_dtype
from tvwarray._errors import FormatError
from tvwarray._layouts.find import make_layout
from tvwarray._namespace import (
    Array,
    array_namespace,
    as_dtype,
    device_of,
    dtype_of,
    from_host,
    nonzero_mask,
    to_host,
)
from tvwarray._storage import (
    DEFAULT_TILE_ROWS,
    SLOT_MULTIPLE,
    HostArray,
    TVWStorage,
    check_header,
)
from tvwarray._two_four import compress_24, meta_from_positions, positions_24


def from_24(
    values: Array,
    positions: Array | None = None,
    *,
    meta: Array | None = None,
    tile_rows: int = DEFAULT_TILE_ROWS,
) -> TVWStorage:
    """Convert a 2:4-compressed matrix; every row is kept, in tiles of consecutive rows.

    Parameters
    ----------
    values : array, shape (rows, cols // 2)
        The stored values of each group of four columns, side by side; `cols` is a multiple of 4.
    positions : integer array, shape (rows, cols // 2)
        The place 0-3 of each value in its group; the two of a group ascend.
    meta : uint16 array, shape (rows, cols // 16)
        The same in place of `positions`, four groups a word as in `TVWStorage`; `cols` is a
        multiple of 16.
    tile_rows : int
        How many rows a tile has; see `TVWStorage`.

    Returns
    -------
    TVWStorage
        With slots 0, 1, 2, ... in every tile and copies of the values, in the library and on the
        device of `values`. `to_24` is the exact inverse.

    Raises
    ------
    FormatError
        If a shape or dtype does not fit or the positions of a group do not ascend.
    """
    if (positions is None) == (meta is None):
        raise TypeError("from_24 takes either positions or meta.")
    rows, cols = _shape_of(values)
    check_header((rows, cols), tile_rows, (2, 4))
    if meta is not None:
        if cols % SLOT_MULTIPLE:
            raise FormatError(
                f"meta describes columns in multiples of {SLOT_MULTIPLE}; the values make {cols}.\n"
                "Pass positions instead, for any multiple of 4."
            )
        _check_part("meta", meta, (rows, cols // SLOT_MULTIPLE), "uint16")
        positions = positions_24(meta)
    xp = array_namespace(values, positions)
    _check_positions(positions, values.shape)

    values = as_dtype(values, value_dtype(dtype_of(values), where="values"))
    filler = -cols % SLOT_MULTIPLE // 2
    device = device_of(values)
    if filler:
        zeros = xp.zeros((rows, filler), dtype=values.dtype, device=device)
        values = xp.concat([values, zeros], axis=1)
    words = meta_from_positions(
        xp.concat([xp.astype(positions, xp.uint8), _first_places(values, rows, filler)], axis=1)
    )
    tiles = [np.arange(r, min(r + tile_rows, rows)) for r in range(0, rows, tile_rows)]
    layout = make_layout((rows, cols), tile_rows, (2, 4), tiles, [np.arange(cols)] * len(tiles))
    return TVWStorage(
        shape=layout.shape,
        tile_rows=tile_rows,
        vector=(2, 4),
        row_indptr=from_host(layout.row_indptr, like=values),
        row_indices=from_host(layout.row_indices, like=values),
        col_indptr=from_host(layout.col_indptr, like=values),
        col_indices=from_host(layout.col_indices, like=values),
        # A copy: packed forms are cached, and must not go stale when the caller's array changes.
        data=xp.reshape(values, (-1,), copy=None if filler else True),
        meta=xp.reshape(words, (-1,)),
    )


def to_24(storage: TVWStorage) -> tuple[Array, Array]:
    """Return the matrix in 2:4-compressed form, in the storage's library and on its device.

    Tiles with slots 0, 1, 2, ... come back exactly, stored zeros and their places too. Any other
    tile is put into column order first, which leaves zeros out; a group of fewer than two nonzeros
    is then filled up with the first free places, and so are rows in no tile.

    Returns
    -------
    values : array, shape (rows, cols // 2)
    positions : uint8 array, shape (rows, cols // 2)
        See `from_24`.

    Raises
    ------
    FormatError
        If four aligned columns of a row hold more than two nonzeros, if the columns are not a
        multiple of 4, or if there is a remainder.
    """
    if storage.remainder is not None:
        raise FormatError(
            "the matrix has a remainder beside its tiles, for which a 2:4 form has no place.\n"
            "Bring it into tiles first: TVWMatrix(A.tocsr())."
        )
    cols = storage.shape[1]
    if cols % 4:
        raise FormatError(
            f"the matrix has {cols} columns; a 2:4 form needs a multiple of 4.\n"
            f"Append {-cols % 4} columns of zeros first."
        )
    xp = array_namespace(storage.data)
    zeros = xp.zeros((1, cols // 2), dtype=storage.data.dtype, device=device_of(storage.data))
    values, positions = [], []
    for t in range(storage.num_tiles):
        v, p = _tile_24(storage, t)
        values.append(v)
        positions.append(p)
    places = _first_places(storage.data, 1, cols // 2)
    return _in_order(storage, values, zeros), _in_order(storage, positions, places)


def from_bitmask(
    values: Array,
    bitmask: Array,
    shape: Sequence[int] | Array,
    *,
    tile_rows: int = DEFAULT_TILE_ROWS,
) -> TVWStorage:
    """Convert a 2:4-compressed matrix with a bitmask, as compressed-tensors stores it.

    Parameters
    ----------
    values : array, shape (rows, cols // 2)
        The stored values of each row in column order.
    bitmask : uint8 array, shape (rows, ceil(cols / 8))
        Bit b, the lowest being 0, of byte j is set where column 8 j + b is stored: two of every
        aligned four columns.
    shape : two integers
        Rows and columns; the (2, 1) array of a compressed-tensors file is taken as it is.

    Raises
    ------
    FormatError
        If a shape or dtype does not fit, or if a group has other than two bits set.
    """
    rows, cols = _two_integers(shape)
    if _shape_of(values) != (rows, cols):
        raise FormatError(
            f"values have shape {tuple(values.shape)}; a 2:4 matrix of shape {(rows, cols)} "
            f"has {(rows, cols // 2)} stored values, and its columns are a multiple of 4."
        )
    _check_part("bitmask", bitmask, (rows, -(-cols // 8)), "uint8")
    xp = array_namespace(values, bitmask)
    octets = xp.reshape(bitmask, (rows, -(-cols // 8), 1))
    masks = xp.reshape(xp.concat([octets & 15, octets >> 4], axis=2), (rows, 2 * octets.shape[1]))
    _check_masks(masks, cols)
    masks = masks[:, : cols // 4]
    # Two bits of four: the lower is at 0, 1 or 2, the upper at 1, 2 or 3.
    first = xp.astype(masks & 1 == 0, xp.uint8) + xp.astype(masks & 3 == 0, xp.uint8)
    second = xp.astype(masks & 8 != 0, xp.uint8) + xp.astype(masks & 12 != 0, xp.uint8) + 1
    positions = xp.reshape(xp.stack([first, second], axis=2), (rows, cols // 2))
    return from_24(values, positions, tile_rows=tile_rows)


def to_bitmask(storage: TVWStorage) -> tuple[Array, Array]:
    """Return the matrix in 2:4-compressed form with a bitmask; see `from_bitmask` and `to_24`.

    Returns
    -------
    values : array, shape (rows, cols // 2)
    bitmask : uint8 array, shape (rows, ceil(cols / 8))
    """
    values, positions = to_24(storage)
    xp = array_namespace(positions)
    rows, cols = storage.shape
    pairs = xp.reshape(positions, (rows, cols // 4, 2))
    bits = xp.bitwise_left_shift(xp.ones_like(pairs), pairs)
    masks = bits[:, :, 0] | bits[:, :, 1]
    if cols % 8:
        nothing = xp.zeros((rows, 1), dtype=xp.uint8, device=device_of(masks))
        masks = xp.concat([masks, nothing], axis=1)
    halves = xp.reshape(masks, (rows, masks.shape[1] // 2, 2))
    return values, halves[:, :, 0] | halves[:, :, 1] << 4


def _tile_24(storage: TVWStorage, t: int) -> tuple[Array, Array]:
    """Return the values and positions of tile `t`, each (rows of the tile, cols // 2)."""
    tile = storage.tile(t)
    cols = storage.shape[1]
    if tile.meta is not None and _is_natural(to_host(tile.cols), cols):
        return tile.data[:, : cols // 2], positions_24(tile.meta)[:, : cols // 2]
    dense = dense_rows(storage, t)
    xp = array_namespace(dense)
    padding = (dense.shape[0], -cols % SLOT_MULTIPLE)
    zeros = xp.zeros(padding, dtype=dense.dtype, device=device_of(dense))
    dense = xp.concat([dense, zeros], axis=1)
    keep = nonzero_mask(dense)
    _check_crowding(keep, tile.rows)
    values, meta = compress_24(dense, keep)
    return values[:, : cols // 2], positions_24(meta)[:, : cols // 2]


def _is_natural(slots: HostArray, cols: int) -> bool:
    """Say whether the slots of a tile are all columns in order, followed by padding."""
    return bool(
        slots.size >= cols and (slots[:cols] == np.arange(cols)).all() and (slots[cols:] < 0).all()
    )


def _in_order(storage: TVWStorage, tiles: list[Array], absent: Array) -> Array:
    """Join the rows of all tiles in matrix order; rows in no tile are `absent`, (1, k)."""
    xp = array_namespace(absent)
    kept = to_host(storage.row_indices)
    rows = storage.shape[0]
    if rows and np.array_equal(kept, np.arange(rows)):
        return xp.concat(tiles, axis=0)
    place = np.full(rows, kept.size, np.int64)
    place[kept] = np.arange(kept.size)
    return xp.take(xp.concat([*tiles, absent], axis=0), from_host(place, like=absent), axis=0)


def _first_places(like: Array, rows: int, count: int) -> Array:
    """Return positions 0, 1, 0, 1, ..., uint8 (rows, count): those of groups that store zeros."""
    xp = array_namespace(like)
    places = xp.asarray((np.arange(count) % 2).astype(np.uint8), device=device_of(like))
    return xp.broadcast_to(places, (rows, count))


def _shape_of(values: Array) -> tuple[int, int]:
    """Return the shape of the matrix that has these stored values."""
    if values.ndim != 2 or values.shape[1] % 2:
        raise FormatError(
            f"values have shape {tuple(values.shape)}; those of a 2:4 matrix are "
            "(rows, cols // 2), two for every four columns."
        )
    return int(values.shape[0]), 2 * int(values.shape[1])


def _two_integers(shape: Sequence[int] | Array) -> tuple[int, int]:
    host = to_host(shape) if hasattr(shape, "dtype") else np.asarray(shape)
    try:
        rows, cols = map(operator.index, host.ravel().tolist())
    except (TypeError, ValueError) as e:
        raise FormatError(f"shape is {shape!r}; it is two integers, rows and columns.") from e
    return rows, cols


def _check_part(name: str, x: Array, shape: tuple[int, int], dtype: str) -> None:
    """Check the array that says where the values stand."""
    if tuple(x.shape) != shape or dtype_of(x).name != dtype:
        raise FormatError(
            f"{name} is {dtype_of(x).name} of shape {tuple(x.shape)}; beside these values it must "
            f"be {dtype} of shape {shape}."
        )


def _check_positions(positions: Array, shape: tuple[int, ...]) -> None:
    """Check the range too: a cast to uint8 would hide what is outside."""
    if tuple(positions.shape) != tuple(shape) or dtype_of(positions).kind not in "iu":
        raise FormatError(
            f"positions are {dtype_of(positions).name} of shape {tuple(positions.shape)}; they "
            f"must be integers of shape {tuple(shape)}, as the values."
        )
    xp = array_namespace(positions)
    pairs = xp.reshape(positions, (shape[0], shape[1] // 2, 2))
    first, second = pairs[:, :, 0], pairs[:, :, 1]
    bad = (first < 0) | (first >= second) | (second > 3)
    if bool(xp.any(bad)):
        row, group = _first_true(bad)
        raise FormatError(
            f"row {row}, columns {4 * group}-{4 * group + 3}: positions {int(first[row, group])} "
            f"and {int(second[row, group])}; the two of a group ascend and lie in 0..3."
        )


def _check_masks(masks: Array, cols: int) -> None:
    """Check a bitmask, four bits an entry, uint8 (rows, even number of groups)."""
    xp = array_namespace(masks)
    groups = cols // 4
    count = (masks & 1) + (masks >> 1 & 1) + (masks >> 2 & 1) + (masks >> 3)
    bad = count[:, :groups] != 2
    if bool(xp.any(bad)):
        row, group = _first_true(bad)
        raise FormatError(
            f"bitmask, row {row}, columns {4 * group}-{4 * group + 3}: {int(count[row, group])} "
            "bits are set; a 2:4 group stores exactly 2 values.\n"
            "Expand it and pass the dense array to TVWMatrix.from_dense(...)."
        )
    beyond = masks[:, groups:] != 0
    if bool(xp.any(beyond)):
        row, _ = _first_true(beyond)
        raise FormatError(f"bitmask, row {row}: bits beyond column {cols - 1} are set.")


def _check_crowding(keep: Array, rows: Array) -> None:
    """Check the nonzeros of a tile with these rows, bool (rows of the tile, multiple of four)."""
    xp = array_namespace(keep)
    height, cols = keep.shape
    held = xp.sum(xp.reshape(xp.astype(keep, xp.uint8), (height, cols // 4, 4)), axis=2)
    if bool(xp.any(held > 2)):
        row, group = _first_true(held > 2)
        raise FormatError(
            f"row {int(rows[row])}, columns {4 * group}-{4 * group + 3} hold "
            f"{int(held[row, group])} nonzeros; a 2:4 group holds at most 2.\n"
            "Prune with tvwarray.sparsify(...) first; tvwarray.save(...) keeps the matrix as it is."
        )


def _first_true(bad: Array) -> tuple[int, int]:
    row, col = (int(i[0]) for i in array_namespace(bad).nonzero(bad))
    return row, col
