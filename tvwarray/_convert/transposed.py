"""The transpose as a matrix of the format: ``A.T`` laid out in tiles of its own.

Pattern (2, 4) describes groups along the rows of ``A``, which a product with ``A.T`` runs across.
But every matrix has a lossless layout, and the order of slots is free: rows of ``A`` are slots now,
four of them in a group where no column holds three, and a row that does not fit takes part of its
values to a second slot::

    A       columns                          A.T            slots: rows of A
            0  1  2  3  4  5  6  7                          0  3 | 5  1 | ...
    row 0   a  .  .  b  .  c  .  .                column 0  a  . | .  g |
        1   g  .  d  .  .  .  e  .                       1  .  f | h  . |
        3   .  f  .  .  ...                              2  .  . | .  d |

A tile of ``A.T`` is many columns of ``A`` and meets nearly all of its rows. Of 128 columns it has
1.34 times as many slots as ``A`` has rows where half of ``A`` was pruned, in tiles of 128 rows and
random columns, 1.01 times at 75 %, 0.92 at 87.5 % and 0.66 at 95 %: it is stored and multiplied as
a matrix that is pruned by about half.

The search depends on the pattern alone. It is done for the *places* of values, where in ``A.data``
each one comes from: other values in the same pattern, as training makes them, are one gather.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any, Final
from weakref import ref

import numpy as np
import scipy.sparse as sp

from tvwarray._convert.build import fill
from tvwarray._entries import sorted_rows
from tvwarray._layouts.find import find_layout
from tvwarray._layouts.pattern import Pattern
from tvwarray._namespace import Array, array_namespace, device_of, from_host, to_host
from tvwarray._storage import HostArray, TVWStorage, Vector

_INDEX_FIELDS: Final = ("row_indptr", "row_indices", "col_indptr", "col_indices", "meta")


class TransposedPattern:
    """Where the values of ``A`` stand in ``A.T``, for all matrices with the same index arrays.

    Parameters
    ----------
    vector : (2, 4) or None
        Of the transpose.
    tile_rows : int
        The most columns of ``A`` that make a tile.
    """

    def __init__(self, vector: Vector, tile_rows: int) -> None:
        self._vector, self._tile_rows = vector, tile_rows
        self._lock = threading.Lock()
        self._entries: Array | None = None  # bool: which values have a place
        self._full = False  # whether all of them have one
        self._frame: TVWStorage | None = None  # the transpose, of places
        self._filled = 0

    def fill(self, storage: TVWStorage) -> TVWStorage:
        """Return the transpose of `storage` without its remainder, where it lies.

        Values that are zero have no place. Where one of them has become something else, all are
        laid out again.

        Parameters
        ----------
        storage : TVWStorage, shape (rows, cols)
            With values of at most 8 bytes.

        Returns
        -------
        TVWStorage, shape (cols, rows)
        """
        with self._lock:
            frame = self._laid_out(storage)
            places = frame.data
            if isinstance(places, np.ndarray):
                places = from_host(places, like=storage.data)
                # The places take more memory than values: a device keeps them where they are used
                # more than once.
                if self._filled:
                    self._frame = replace(frame, data=places)
            self._filled += 1
        xp, bits = array_namespace(storage.data), _bits(storage)
        none = xp.zeros((1,), dtype=bits.dtype, device=device_of(bits))
        return replace(frame, data=xp.concat([none, bits])[places].view(storage.data.dtype))

    def _laid_out(self, storage: TVWStorage) -> TVWStorage:
        """Return the transpose of places, on the device of `storage` but for these."""
        if self._frame is not None and self._full:
            return self._frame
        xp, held = array_namespace(storage.data), _held(storage)
        if self._frame is not None and self._entries is not None:
            if not bool(xp.any(held & ~self._entries)):
                return self._frame
            held = held | self._entries
        found = _transpose_places(storage, to_host(held), self._vector, self._tile_rows)
        places = found.data
        frame = found.mapped(lambda x: x if x is places else from_host(x, like=storage.data))
        self._frame, self._entries, self._full = frame, held, bool(xp.all(held))
        self._filled = 0
        return frame


def transposed_pattern(storage: TVWStorage, vector: Vector, tile_rows: int) -> TransposedPattern:
    """Return the pattern of the transpose, the same one for matrices that share index arrays.

    It goes when they do.
    """
    arrays = [x for name in _INDEX_FIELDS if (x := getattr(storage, name)) is not None]
    key = (vector, tile_rows, storage.shape, *map(id, arrays))

    def forget(_: Any) -> None:
        _PATTERNS.pop(key, None)

    made = TransposedPattern(vector, tile_rows), [ref(x, forget) for x in arrays]
    return _PATTERNS.setdefault(key, made)[0]


_PATTERNS: Final[dict[Any, tuple[TransposedPattern, list[Any]]]] = {}


def _bits(storage: TVWStorage) -> Array:
    """Return the values as bit patterns: not every library computes with every type."""
    return storage.data.view(f"u{storage.dtype.itemsize}")


def _held(storage: TVWStorage) -> Array:
    """Return which values are not zero, bool; -0.0 is."""
    bits = 8 * storage.dtype.itemsize - (storage.dtype.kind not in "iu")
    return (_bits(storage) & ((1 << bits) - 1)) != 0


def _transpose_places(
    storage: TVWStorage, held: HostArray, vector: Vector, tile_rows: int
) -> TVWStorage:
    """Return the transpose, on the host, whose values say where in `data` those of A are.

    Counted from 1; 0 is what fills up.
    """
    rows, cols = storage.shape
    dtype = np.int32 if held.size < np.iinfo(np.int32).max else np.int64
    places = np.where(held, np.arange(1, held.size + 1, dtype=dtype), 0)
    fields: dict[str, Any] = {
        name: None if (x := getattr(storage, name)) is None else to_host(x)
        for name in _INDEX_FIELDS
    }
    found = sorted_rows(replace(storage.without_remainder(), **fields, data=places))
    by_rows = sp.csr_array((found.data, found.indices, found.indptr), (found.rows.size, cols))
    by_cols = by_rows.tocsc()
    indptr, row, values = by_cols.indptr.astype(np.int64), by_cols.indices, by_cols.data
    row = found.rows[row]
    copies = 1
    if found.shared:
        row, values, copies = _apart(indptr, row, values, rows)
    pattern = Pattern((cols, rows * copies), np.arange(cols), indptr, row.astype(np.int32))
    layout = find_layout(pattern, tile_rows=tile_rows, vector=vector)
    made = fill(layout, pattern, values)
    indices = made.col_indices
    if copies > 1:
        indices = np.where(indices < 0, -1, indices % rows).astype(np.int32)
    return replace(made, shape=(cols, rows), col_indices=indices)


def _apart(
    indptr: HostArray, row: HostArray, values: HostArray, rows: int
) -> tuple[HostArray, HostArray, int]:
    """Give values that share a place a row for each: row + rows, row + 2 rows, and so on.

    A pattern holds no entry twice, but a row may stand in several slots, which add up.
    """
    col = np.repeat(np.arange(indptr.size - 1), np.diff(indptr))
    new = np.ones(row.size, bool)
    new[1:] = (np.diff(col) != 0) | (np.diff(row) != 0)
    starts = np.flatnonzero(new)
    copy = np.arange(row.size) - np.repeat(starts, np.diff(np.append(starts, row.size)))
    apart = row + copy * rows
    order = np.lexsort((apart, col))
    return apart[order], values[order], int(copy.max(initial=0)) + 1
