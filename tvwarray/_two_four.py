"""Groups of four slots that hold two values: split, describe, and put together again.

One group of a row, its two stored values and its nibble of metadata::

    slot        0    1    2    3
    value       .    7    .    9      values (7, 9), positions (1, 3)
                                      nibble = 1 | 3 << 2 = 0xD
    metadata    16 slots = 4 groups = 4 nibbles = one uint16, group c at bits 4c..4c+3

Positions are ascending and distinct, which leaves six of the sixteen nibbles; this is the order
that ``mma.sp::ordered_metadata`` expects [1]_. All functions are pure, take arrays of any library
and any leading shape, and know nothing of tiles.

References
----------
.. [1] PTX ISA, "Sparse matrix storage".
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._namespace import Array, array_namespace, device_of, nonzero_mask

VALID_NIBBLES: Final = (0x4, 0x8, 0x9, 0xC, 0xD, 0xE)
"""The six pairs of ascending distinct positions."""

_INVALID: Final = 0xFF


def _nibble_of_mask() -> list[int]:
    """Return the nibble for each of the 16 sets of kept slots; fewer than two are filled up.

    A lone value at slot p > 0 takes slot 0 as its partner, one at slot 0 takes slot 1: the filler
    is a stored zero, and the choice is fixed so that equal matrices have equal bytes.
    """
    table = []
    for mask in range(16):
        kept = [p for p in range(4) if mask >> p & 1]
        if len(kept) > 2:
            table.append(_INVALID)
            continue
        filler = [p for p in range(4) if p not in kept][: 2 - len(kept)]
        first, second = sorted(kept + filler)
        table.append(first | second << 2)
    return table


NIBBLE_OF_MASK: Final = np.array(_nibble_of_mask(), np.uint8)
"""Nibble for the set of kept slots (bit p: slot p); 0xFF where more than two are kept."""


def compress_24(tile: Array, keep: Array | None = None, /) -> tuple[Array, Array]:
    """Split a 2:4-sparse tile into its kept values and their metadata.

    Parameters
    ----------
    tile : array, shape (rows, slots)
        `slots` is a multiple of 16.
    keep : bool array, shape (rows, slots), optional
        Which entries to store, at most two in every aligned group of four slots;
        by default those that are not equal to zero.

    Returns
    -------
    values : array, shape (rows, slots // 2)
        Two entries a group in slot order, filled up with zeros.
    meta : uint16 array, shape (rows, slots // 16)
        Their places, four nibbles a word.

    Raises
    ------
    FormatError
        If a group keeps more than two entries.
    """
    xp = array_namespace(tile)
    rows, slots = tile.shape
    if keep is None:
        keep = nonzero_mask(tile)
    bit = xp.reshape(xp.astype(keep, xp.uint8), (rows, slots // 4, 4))
    mask = bit[:, :, 0] | (bit[:, :, 1] * 2) | (bit[:, :, 2] * 4) | (bit[:, :, 3] * 8)
    nibble = _lookup(NIBBLE_OF_MASK, mask)
    bad = nibble == _INVALID
    if bool(xp.any(bad)):
        row, group = (int(i[0]) for i in xp.nonzero(bad))
        held = int(xp.sum(bit[row, group, :]))
        raise FormatError(
            f"row {row}, slots {4 * group}-{4 * group + 3} of the tile hold {held} values; "
            "a 2:4 group holds at most 2."
        )
    groups = xp.reshape(xp.where(keep, tile, xp.zeros_like(tile)), (rows, slots // 4, 4))
    first, second = nibble & 3, nibble >> 2
    # first is 0..2 and second 1..3: two selections each, over contiguous planes.
    low = xp.where(
        first == 0, groups[:, :, 0], xp.where(first == 1, groups[:, :, 1], groups[:, :, 2])
    )
    high = xp.where(
        second == 3, groups[:, :, 3], xp.where(second == 2, groups[:, :, 2], groups[:, :, 1])
    )
    values = xp.reshape(xp.stack([low, high], axis=-1), (rows, slots // 2))
    return values, join_nibbles(nibble)


def expand_24(values: Array, meta: Array, /) -> Array:
    """Put a compressed tile back in place: the inverse of `compress_24`.

    Parameters
    ----------
    values : array, shape (rows, slots // 2)
    meta : uint16 array, shape (rows, slots // 16)

    Returns
    -------
    array, shape (rows, slots)
        Zero where nothing is stored.
    """
    xp = array_namespace(values, meta)
    rows, half = values.shape
    pairs = xp.reshape(values, (rows, half // 2, 2))
    nibble = split_nibbles(meta)
    low, high = pairs[:, :, 0], pairs[:, :, 1]
    first, second = nibble & 3, nibble >> 2
    zero = xp.zeros_like(low)
    planes = [xp.where(first == p, low, xp.where(second == p, high, zero)) for p in range(4)]
    return xp.reshape(xp.stack(planes, axis=-1), (rows, 2 * half))


def positions_24(meta: Array, /) -> Array:
    """Return the place 0-3 in its group of every stored value, uint8 (rows, slots // 2)."""
    xp = array_namespace(meta)
    nibble = split_nibbles(meta)
    pairs = xp.stack([nibble & 3, nibble >> 2], axis=-1)
    return xp.reshape(pairs, (meta.shape[0], 8 * meta.shape[1]))


def meta_from_positions(positions: Array, /) -> Array:
    """Return the metadata of stored values at `positions` 0-3, uint8 (rows, slots // 2).

    Raises
    ------
    FormatError
        If the two positions of a group are not ascending and below 4.
    """
    xp = array_namespace(positions)
    rows, half = positions.shape
    pairs = xp.reshape(positions, (rows, half // 2, 2))
    first, second = pairs[:, :, 0], pairs[:, :, 1]
    bad = (first >= second) | (second > 3)
    if bool(xp.any(bad)):
        row, group = (int(i[0]) for i in xp.nonzero(bad))
        raise FormatError(
            f"row {row}, group {group}: positions {int(first[row, group])} and "
            f"{int(second[row, group])}; the two positions of a group are ascending and below 4."
        )
    return join_nibbles(xp.astype(first | second << 2, xp.uint8))


def join_nibbles(nibbles: Array, /) -> Array:
    """Pack nibbles, uint8 (rows, 4 * words), into uint16 words, the first in the lowest bits."""
    xp = array_namespace(nibbles)
    rows, count = nibbles.shape
    n = xp.reshape(xp.astype(nibbles, xp.uint16), (rows, count // 4, 4))
    return n[:, :, 0] | n[:, :, 1] << 4 | n[:, :, 2] << 8 | n[:, :, 3] << 12


def split_nibbles(meta: Array, /) -> Array:
    """Unpack uint16 words (rows, words) into nibbles, uint8 (rows, 4 * words)."""
    xp = array_namespace(meta)
    rows, words = meta.shape
    planes = [xp.astype(meta >> s & 15, xp.uint8) for s in (0, 4, 8, 12)]
    return xp.reshape(xp.stack(planes, axis=-1), (rows, 4 * words))


def _lookup(table: np.ndarray[tuple[int], np.dtype[np.uint8]], index: Array) -> Array:
    """Return ``table[index]`` for an index array of any library and shape."""
    xp = array_namespace(index)
    entries = xp.asarray(table, device=device_of(index))
    flat = xp.reshape(xp.astype(index, xp.int64), (-1,))
    return xp.reshape(xp.take(entries, flat, axis=0), index.shape)
