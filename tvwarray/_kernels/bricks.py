"""The order inside a brick, 16 rows x the slots of a step: an exchange of axes and its inverse.

Inside a brick stand fragments of 32 lanes x 16 bytes. Lane 4 g + t (g = 0..7, t = 0..3) holds of
the 16 x 4 p values of a fragment, p = 2 of 16-bit values and 4 of 8-bit ones, 1 of tf32::

    word     0               1               2               3
    row      g               g + 8           g               g + 8
    columns  p t, ...        p t, ...        p (t + 4), ...  p (t + 4), ...

float64 has words of 8 bytes, and two. Metadata are one word of a lane for the brick (two of tf32,
for one half of the slots after the other): slots 16 t .. 16 t + 15 of row g in its lower half, of
row g + 8 in its upper half. Of 8-bit values each word serves one product, 64 slots: lane
4 g + 2 q + h has slots 32 q .. 32 q + 31 of row g + 8 h. All of this is an exchange of axes, of one
array for all tiles of equal size.

Of 8-bit values, the column list is in the order in which the rows of X must lie in a stage: what is
loaded is pairs of bytes, transposed, which two rows of X make; see `BYTE_ROWS`.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tvwarray._kernels.config import (
    BRICK_ROWS,
    ELEMENT_BYTES,
    brick_meta_bytes,
    brick_value_bytes,
)
from tvwarray._kernels.elements import Form
from tvwarray._kernels.tiles import Tiles
from tvwarray._namespace import Array, array_namespace

HostArray = np.ndarray[Any, Any]

PADDING_META: Final = 0x4444
"""Metadata of four groups in which nothing is stored: positions 0 and 1, the least valid nibble."""

BYTE_ROWS: Final = np.array([0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15])
"""Which of 16 slots of 8-bit values each row of a stage is. Transposing pairs of bytes, ldmatrix
gives lane t rows 2t and 2t + 1 of rows 0-7, and of rows 8-15, of one register of B, which must hold
slots 4t .. 4t + 3."""

_HALVES, _LANES_G, _LANES_T = 2, 8, 4  # rows g and g + 8 of a brick; g and t of a lane

# The axes of a group of tiles. Natural order, values:
#     tile, brick, half of the rows, g | step, fragment, half of the columns, t, value of the word
# and the order of the kernel:
#     tile, step, brick, fragment, g, t, half of the columns, half of the rows, value of the word
_VALUES_TO_KERNEL: Final = (0, 4, 1, 5, 3, 7, 6, 2, 8)
# Metadata, naturally:  tile, brick, half of the rows, g | step, word, t
# and in the kernel:    tile, step, brick, word, g, t, half of the rows
_META_TO_KERNEL: Final = (0, 4, 1, 5, 3, 6, 2)
# and of 8-bit values:  tile, brick, half of the rows, g | step, product, q, half of the word
# in the kernel:        tile, step, brick, product, g, q, half of the rows, half of the word
_BYTE_META_TO_KERNEL: Final = (0, 4, 1, 5, 3, 6, 2, 7)


def _word(form: Form) -> tuple[int, int]:
    """Return halves of the columns of a fragment, and values of a word."""
    size = ELEMENT_BYTES[form.element]
    return (1, 1) if size == 8 else (2, 4 // size)


def split_values(raw: Array, form: Form) -> Array:
    """Return values (tiles, bricks, 16, steps, values a step) in the order of the kernel."""
    xp = array_namespace(raw)
    count, bricks, _, steps, width = raw.shape
    halves, values = _word(form)
    fragments = width // (halves * _LANES_T * values)
    axes = (count, bricks, _HALVES, _LANES_G, steps, fragments, halves, _LANES_T, values)
    return xp.permute_dims(xp.reshape(raw, axes), _VALUES_TO_KERNEL)


def join_values(packed: HostArray, form: Form) -> HostArray:
    """Undo `split_values`: (tiles, rows, values)."""
    natural = packed.transpose(np.argsort(_VALUES_TO_KERNEL))
    count, bricks = natural.shape[:2]
    width = int(np.prod(natural.shape[4:]))
    return np.ascontiguousarray(natural).reshape(count, bricks * BRICK_ROWS, width)


def split_meta(raw: Array, form: Form) -> Array:
    """Return metadata (tiles, bricks, 16, steps, words a step) in the order of the kernel."""
    xp = array_namespace(raw)
    count, bricks, _, steps, width = raw.shape
    if ELEMENT_BYTES[form.element] == 1:
        byte_axes = (count, bricks, _HALVES, _LANES_G, steps, width // 4, 2, 2)
        return xp.permute_dims(xp.reshape(raw, byte_axes), _BYTE_META_TO_KERNEL)
    axes = (count, bricks, _HALVES, _LANES_G, steps, width // _LANES_T, _LANES_T)
    return xp.permute_dims(xp.reshape(raw, axes), _META_TO_KERNEL)


def join_meta(packed: HostArray, form: Form) -> HostArray:
    """Undo `split_meta`: (tiles, rows, words)."""
    order = _BYTE_META_TO_KERNEL if ELEMENT_BYTES[form.element] == 1 else _META_TO_KERNEL
    natural = packed.transpose(np.argsort(order))
    count, bricks = natural.shape[:2]
    width = int(np.prod(natural.shape[4:]))
    return np.ascontiguousarray(natural).reshape(count, bricks * BRICK_ROWS, width)


def value_axes(values: Array, tiles: Tiles, group: slice, form: Form, sparse: bool) -> Array:
    """Return a view of the packed values of a group, in the order of the kernel."""
    halves, of_word = _word(form)
    brick = brick_value_bytes(form.element, sparse) // ELEMENT_BYTES[form.element]
    fragments = brick // (BRICK_ROWS * halves * _LANES_T * of_word)
    axes = (fragments, _LANES_G, _LANES_T, halves, _HALVES, of_word)
    return _axes(values, tiles, group, axes)


def meta_axes(meta: Array, tiles: Tiles, group: slice, form: Form) -> Array:
    """Return a view of the packed metadata of a group, in the order of the kernel."""
    words = brick_meta_bytes(form.element, True) // (4 * 32)
    if ELEMENT_BYTES[form.element] == 1:
        return _axes(meta, tiles, group, (words, _LANES_G, 2, _HALVES, 2))
    return _axes(meta, tiles, group, (words, _LANES_G, _LANES_T, _HALVES))


def _axes(flat: Array, tiles: Tiles, group: slice, axes: tuple[int, ...]) -> Array:
    t = group.start
    count, steps, bricks = group.stop - t, int(tiles.steps[t]), int(tiles.bricks[t])
    brick = int(np.prod(axes))
    start = int(tiles.first_brick[t]) * brick
    part = flat[start : start + count * steps * bricks * brick]
    return part.reshape((count, steps, bricks, *axes))


def as_stage_rows(cols: HostArray, form: Form) -> HostArray:
    """Put a column list into the order in which rows of X lie in a stage."""
    if ELEMENT_BYTES[form.element] != 1:
        return cols
    return np.ascontiguousarray(cols.reshape(-1, 16)[:, BYTE_ROWS]).reshape(-1)


def as_slots(cols: HostArray, form: Form) -> HostArray:
    """Undo `as_stage_rows`."""
    if ELEMENT_BYTES[form.element] != 1:
        return cols
    return np.ascontiguousarray(cols.reshape(-1, 16)[:, np.argsort(BYTE_ROWS)]).reshape(-1)
