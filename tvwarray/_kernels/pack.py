"""Canonical storage to the order in which a kernel's lanes read it, once for a matrix and device.

A tile is cut into bricks of 16 rows x 64 slots (128 of 8-bit values), filled up with zeros,
metadata 0x4 and column -1 at the edges. Bricks of one step lie together, top to bottom, then those
of the next step::

              step 0    step 1
    rows 0-15 [brick 0] [brick 2]        tile after tile
        16-31 [brick 1] [brick 3]

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

Rows that are zero, in no tile or in a tile without slots, become one more tile with no steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

import numpy as np

from tvwarray._dtypes import DType
from tvwarray._errors import FormatError
from tvwarray._kernels.config import (
    BRICK_ROWS,
    ELEMENT_BYTES,
    Element,
    brick_meta_bytes,
    brick_value_bytes,
    step_slots,
)
from tvwarray._kernels.elements import Form, as_pairs, form_of, round_tf32, value_planes
from tvwarray._kernels.streams import settled
from tvwarray._namespace import Array, array_namespace, device_of, from_host, to_host
from tvwarray._ragged import cumulate, runs
from tvwarray._storage import TVWStorage

HostArray = np.ndarray[Any, Any]

PADDING_META: Final = 0x4444
"""Metadata of four groups in which nothing is stored: positions 0 and 1, the least valid nibble."""

BLOCK_WORDS: Final = 8
"""int32 words of an entry of the work list: struct Block of layout.cuh."""

MOST_PIECES: Final = 2**15 - 1

BYTE_ROWS: Final = np.array([0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15])
"""Which of 16 slots of 8-bit values each row of a stage is. Transposing pairs of bytes, ldmatrix
gives lane t rows 2t and 2t + 1 of rows 0-7, and of rows 8-15, of one register of B, which must hold
slots 4t .. 4t + 3."""

_HALVES, _LANES_G, _LANES_T = 2, 8, 4  # rows g and g + 8 of a brick; g and t of a lane


@dataclass(frozen=True, eq=False)
class PackedMatrix:
    """A matrix in a kernel's order; see the picture of this module."""

    shape: tuple[int, int]
    dtype: DType
    form: Form
    sparse: bool
    """Whether it is multiplied by ``mma.sp``."""
    values: Array
    """Bit patterns, unsigned integers (parts * bricks * values of a brick,)."""
    meta: Array
    """uint16 (bricks * words of a brick,), or of one brick that is not read without 2:4"""
    cols: Array
    """int32 (steps of all tiles * slots of a step,)"""
    rows: Array
    """int32 (bricks' rows of all tiles,), -1 for padding"""
    tiles: Tiles
    """Where each tile lies, on the host."""
    memo: dict[Any, Any] = field(default_factory=dict)
    """What was worked out for this matrix: work lists, and the choice of a kernel for each n."""

    @property
    def element(self) -> Element:
        """What the values are."""
        return self.form.element

    def work_list(self, block_rows: int, most_steps: int = 0) -> Array:
        """Return the work list for blocks of at most `block_rows` rows, int32 (entries, 8).

        See `Tiles.blocks`.
        """
        key = (block_rows, most_steps)
        if key not in self.memo:
            with settled(self.cols):
                self.memo[key] = from_host(self.tiles.blocks(block_rows, most_steps), self.cols)
        return self.memo[key]

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays together, without work lists."""
        return sum(int(x.nbytes) for x in (self.values, self.meta, self.cols, self.rows))


@dataclass(frozen=True, eq=False)
class Tiles:
    """Where the packed tiles lie; int64 (tiles,) each. The last one is the rows that are zero."""

    source: HostArray
    """Which tile of the storage this is; -1 for the rows that are zero."""
    rows: HostArray
    slots: HostArray
    bricks: HostArray
    """Bricks in height."""
    steps: HostArray
    first_brick: HostArray
    first_slot: HostArray
    first_row: HostArray
    step_slots: int

    @classmethod
    def of_storage(cls, storage: TVWStorage, width: int = 64) -> Tiles:
        """Lay the tiles of `storage` out, those of equal size side by side; steps of `width`."""
        rows, slots = storage.rows_of, storage.slots_of
        source = np.flatnonzero((rows > 0) & (slots > 0))
        source = source[np.lexsort((source, slots[source], rows[source]))]
        zero_rows = storage.shape[0] - int(rows[source].sum())
        source = np.append(source, -1)
        rows = np.append(rows[source[:-1]], zero_rows)
        slots = np.append(slots[source[:-1]], 0)
        bricks, steps = -(-rows // BRICK_ROWS), -(-slots // width)
        first_brick, first_slot, first_row = (
            cumulate(x)[:-1] for x in (bricks * steps, steps * width, bricks * BRICK_ROWS)
        )
        return cls(
            source, rows, slots, bricks, steps, first_brick, first_slot, first_row, width
        )  # fmt: skip

    @property
    def total_bricks(self) -> int:
        """Bricks of all tiles."""
        return int((self.bricks * self.steps).sum())

    def groups(self) -> Iterator[slice]:
        """Yield the runs of tiles that have equal rows and slots, without the zero rows."""
        last = self.source.size - 1
        size = np.stack([self.rows[:last], self.slots[:last]])
        ends = np.flatnonzero(np.any(size[:, 1:] != size[:, :-1], axis=0)) + 1
        bounds = [0, *map(int, ends), last]
        for start, stop in pairwise(bounds):
            if start < stop:
                yield slice(start, stop)

    def blocks(self, block_rows: int, most_steps: int = 0) -> HostArray:
        """Cut the tiles into blocks of `block_rows` rows: the work list, longest first.

        Tiles of more than `most_steps` steps, unless that is 0, are shared out to several blocks of
        as equal lengths as can be, whose sums are added up.
        """
        height = block_rows // BRICK_ROWS
        cuts = -(-self.bricks // height)
        tile = np.repeat(np.arange(self.source.size), cuts)
        above = runs(0, cuts) * height
        pieces = np.ones_like(tile)
        if most_steps:
            pieces = np.clip(-(-self.steps[tile] // most_steps), 1, MOST_PIECES)
        shared = np.where(pieces > 1, pieces, 0)
        first_piece = np.repeat(np.cumsum(shared) - shared, pieces)
        piece = runs(0, pieces)
        tile, above, pieces = (np.repeat(x, pieces) for x in (tile, above, pieces))
        start = self.steps[tile] * piece // pieces
        stop = self.steps[tile] * (piece + 1) // pieces
        blocks = np.zeros((tile.size, BLOCK_WORDS), np.int32)
        blocks[:, 0] = self.first_brick[tile] + above + start * self.bricks[tile]
        blocks[:, 1] = self.bricks[tile]
        blocks[:, 2] = np.minimum(self.bricks[tile] - above, height)
        blocks[:, 3] = stop - start
        blocks[:, 4] = self.first_slot[tile] + start * self.step_slots
        blocks[:, 5] = self.first_row[tile] + above * BRICK_ROWS
        blocks[:, 6] = pieces << 16 | piece
        blocks[:, 7] = np.where(pieces > 1, first_piece, 0)
        # Ties stay in order, so that blocks of a tile, which share its rows of X, are neighbours.
        return blocks[np.argsort(-blocks[:, 3], kind="stable")]

    def pieces(self, block_rows: int, most_steps: int) -> int:
        """Return how many blocks of the work list are pieces of longer ones."""
        if not most_steps:
            return 0
        cuts = -(-self.bricks // (block_rows // BRICK_ROWS))
        pieces = np.clip(-(-self.steps // most_steps), 1, MOST_PIECES)
        return int((cuts * pieces)[pieces > 1].sum())


def pack(storage: TVWStorage, form: Form | None = None) -> PackedMatrix:
    """Put `storage` into the kernels' order, on the device where it lies.

    The cost is that of copying the matrix twice, and a few operations for each tile.

    Parameters
    ----------
    storage : TVWStorage
    form : Form, optional
        How its values are multiplied; by default as they are.

    Raises
    ------
    FormatError
        If they are to go through tf32 and a pair of slots holds two.
    """
    form = form or form_of(storage.dtype)
    assert form is not None, "refusal() was not asked"
    xp = array_namespace(storage.data)
    sparse = form.keeps_pattern(storage.vector is not None)
    step = step_slots(form.element)
    tiles = Tiles.of_storage(storage, step)
    group, meta_flat = 4, storage.meta
    if form.element == "tf32" and storage.meta is not None:
        pairs = as_pairs(storage.data, storage.meta)
        if pairs.crowded:
            raise FormatError(crowded_pairs(pairs.crowded))
        group, meta_flat = 2, pairs.meta
        planes = [round_tf32(pairs.data)]
    else:
        planes = value_planes(storage, form)
    size = brick_value_bytes(form.element, sparse) // ELEMENT_BYTES[form.element]
    of_part = tiles.total_bricks * size
    values = _zeros(xp, form.parts * of_part, planes[0].dtype, storage.data)
    meta_words = max(1, brick_meta_bytes(form.element, sparse) // 2)
    meta = _zeros(xp, tiles.total_bricks * meta_words if sparse else 64, xp.uint16, storage.data)
    stored = 2 if sparse else 1  # slots for each value
    starts = cumulate(storage.rows_of * storage.slots_of)
    for tile_group in tiles.groups():
        slots = int(tiles.slots[tile_group.start])
        for part, plane in enumerate(planes):
            raw = _gather(xp, plane, starts // stored, tiles, tile_group, slots // stored,
                          step // stored, 0)  # fmt: skip
            view = _value_axes(values[part * of_part :], tiles, tile_group, form, sparse)
            view[...] = _split_values(raw, form)
        if sparse and meta_flat is not None:
            words = 4 * group  # slots that a word describes
            raw = _gather(xp, meta_flat, starts // words, tiles, tile_group, slots // words,
                          step // words, PADDING_META)  # fmt: skip
            _meta_axes(meta, tiles, tile_group, form)[...] = _split_meta(raw, form)
    cols, rows = _lists(storage, tiles)
    return PackedMatrix(
        storage.shape, storage.dtype, form, sparse, values, meta,
        from_host(_as_stage_rows(cols, form), storage.data), from_host(rows, storage.data), tiles,
    )  # fmt: skip


def crowded_pairs(count: int) -> str:
    """Return why a matrix does not go through tf32, in a sentence."""
    return (
        f"precision tf32 takes one value of every two slots, and {count} pairs hold two; "
        'use precision="high" or "highest"'
    )


def unpack(packed: PackedMatrix) -> list[tuple[HostArray, HostArray, HostArray, HostArray | None]]:
    """Return rows, cols, data and meta of each tile that has both rows and slots: `pack` undone.

    Of values in one part. What packing added is left in the arrays' shapes: rows to a multiple of
    16, slots to one of a step. Of tf32, metadata is that of pairs.
    """
    tiles, form = packed.tiles, packed.form
    values, meta = to_host(packed.values), to_host(packed.meta)
    cols, rows = _as_slots(to_host(packed.cols), form), to_host(packed.rows)
    found = []
    for group in tiles.groups():
        data = _join_values(_value_axes(values, tiles, group, form, packed.sparse), form)
        words = _join_meta(_meta_axes(meta, tiles, group, form), form) if packed.sparse else None
        for i, t in enumerate(range(group.start, group.stop)):
            first_row, first_slot = int(tiles.first_row[t]), int(tiles.first_slot[t])
            found.append((
                rows[first_row : first_row + int(tiles.bricks[t]) * BRICK_ROWS],
                cols[first_slot : first_slot + int(tiles.steps[t]) * tiles.step_slots],
                data[i].view(packed.dtype),
                None if words is None else words[i],
            ))  # fmt: skip
    return found


def _as_stage_rows(cols: HostArray, form: Form) -> HostArray:
    """Put a column list into the order in which rows of X lie in a stage."""
    if ELEMENT_BYTES[form.element] != 1:
        return cols
    return np.ascontiguousarray(cols.reshape(-1, 16)[:, BYTE_ROWS]).reshape(-1)


def _as_slots(cols: HostArray, form: Form) -> HostArray:
    if ELEMENT_BYTES[form.element] != 1:
        return cols
    return np.ascontiguousarray(cols.reshape(-1, 16)[:, np.argsort(BYTE_ROWS)]).reshape(-1)


def _gather(
    xp: Any,
    flat: Array,
    starts: HostArray,
    tiles: Tiles,
    group: slice,
    width: int,
    step_width: int,
    fill: int,
) -> Array:
    """Return the tiles of a group as (tiles, bricks, 16, steps, words a step), filled up."""
    t = group.start
    rows, bricks, steps = (int(x[t]) for x in (tiles.rows, tiles.bricks, tiles.steps))
    count = group.stop - group.start
    shape = (count, bricks * BRICK_ROWS, steps * step_width)
    raw = xp.full(shape, fill, dtype=flat.dtype, device=device_of(flat))
    for i, s in enumerate(tiles.source[group]):
        start = int(starts[s])
        tile = xp.reshape(flat[start : start + rows * width], (rows, width))
        raw[i, :rows, :width] = tile
    return xp.reshape(raw, (count, bricks, BRICK_ROWS, steps, step_width))


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


def _split_values(raw: Array, form: Form) -> Array:
    xp = array_namespace(raw)
    count, bricks, _, steps, width = raw.shape
    halves, values = _word(form)
    fragments = width // (halves * _LANES_T * values)
    axes = (count, bricks, _HALVES, _LANES_G, steps, fragments, halves, _LANES_T, values)
    return xp.permute_dims(xp.reshape(raw, axes), _VALUES_TO_KERNEL)


def _join_values(packed: HostArray, form: Form) -> HostArray:
    natural = packed.transpose(np.argsort(_VALUES_TO_KERNEL))
    count, bricks = natural.shape[:2]
    width = int(np.prod(natural.shape[4:]))
    return np.ascontiguousarray(natural).reshape(count, bricks * BRICK_ROWS, width)


def _split_meta(raw: Array, form: Form) -> Array:
    xp = array_namespace(raw)
    count, bricks, _, steps, width = raw.shape
    if ELEMENT_BYTES[form.element] == 1:
        byte_axes = (count, bricks, _HALVES, _LANES_G, steps, width // 4, 2, 2)
        return xp.permute_dims(xp.reshape(raw, byte_axes), _BYTE_META_TO_KERNEL)
    axes = (count, bricks, _HALVES, _LANES_G, steps, width // _LANES_T, _LANES_T)
    return xp.permute_dims(xp.reshape(raw, axes), _META_TO_KERNEL)


def _join_meta(packed: HostArray, form: Form) -> HostArray:
    order = _BYTE_META_TO_KERNEL if ELEMENT_BYTES[form.element] == 1 else _META_TO_KERNEL
    natural = packed.transpose(np.argsort(order))
    count, bricks = natural.shape[:2]
    width = int(np.prod(natural.shape[4:]))
    return np.ascontiguousarray(natural).reshape(count, bricks * BRICK_ROWS, width)


def _value_axes(values: Array, tiles: Tiles, group: slice, form: Form, sparse: bool) -> Array:
    """Return a view of the packed values of a group, in the order of the kernel."""
    halves, of_word = _word(form)
    brick = brick_value_bytes(form.element, sparse) // ELEMENT_BYTES[form.element]
    fragments = brick // (BRICK_ROWS * halves * _LANES_T * of_word)
    axes = (fragments, _LANES_G, _LANES_T, halves, _HALVES, of_word)
    return _axes(values, tiles, group, axes)


def _meta_axes(meta: Array, tiles: Tiles, group: slice, form: Form) -> Array:
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


def _lists(storage: TVWStorage, tiles: Tiles) -> tuple[HostArray, HostArray]:
    """Return the padded column and row lists of all tiles."""
    row_indptr, col_indptr = storage.host_indptr
    row_indices, col_indices = to_host(storage.row_indices), to_host(storage.col_indices)
    cols = np.full(int(tiles.steps.sum()) * tiles.step_slots, -1, np.int32)
    rows = np.full(int(tiles.bricks.sum()) * BRICK_ROWS, -1, np.int32)
    zero = np.ones(storage.shape[0], bool)
    for t, s in enumerate(tiles.source[:-1]):
        at, slots = int(tiles.first_slot[t]), int(tiles.slots[t])
        cols[at : at + slots] = col_indices[col_indptr[s] : col_indptr[s] + slots]
        at, count = int(tiles.first_row[t]), int(tiles.rows[t])
        of_tile = row_indices[row_indptr[s] : row_indptr[s] + count]
        rows[at : at + count] = of_tile
        zero[of_tile] = False
    at = int(tiles.first_row[-1])
    rows[at : at + int(tiles.rows[-1])] = np.flatnonzero(zero)
    return cols, rows


def _zeros(xp: Any, size: int, dtype: Any, like: Array) -> Array:
    return xp.zeros((size,), dtype=dtype, device=device_of(like))
