"""Products to run the kernels on, and what they must give, straight from the format's definition.

Shares no code with the package but the record `TVWStorage` itself: tiles are drawn as plain lists,
flattened here, and expanded here slot by slot.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from tvwarray._storage import TVWStorage

FLOAT16 = np.dtype(np.float16)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
PAIRS = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))

HostArray = np.ndarray[Any, Any]


@dataclass(frozen=True)
class TileSpec:
    """One tile: its rows, its slots (-1 is padding), and a seed for what it stores."""

    rows: tuple[int, ...]
    cols: tuple[int, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Product:
    """A storage, a right operand, and the size of the problem for messages."""

    storage: TVWStorage
    x: HostArray

    def __repr__(self) -> str:
        s = self.storage
        return (
            f"Product({s.shape} {s.dtype.name} {s.vector} rows {list(s.rows_of)} "
            f"slots {list(s.slots_of)} @ n = {self.x.shape[1]})"
        )


def storage_of(
    shape: tuple[int, int],
    tiles: list[TileSpec],
    dtype: np.dtype[Any],
    sparse: bool,
    values: Any,
    rng: np.random.Generator,
) -> TVWStorage:
    """Return a storage with the given tiles; `values(size)` draws what is stored."""
    data, meta = [], []
    for tile in tiles:
        rows, slots = len(tile.rows), len(tile.cols)
        pad = np.array(tile.cols, dtype=np.int64) < 0
        if sparse:
            pair = rng.integers(0, 6, (rows, slots // 4))
            first = np.array([p[0] for p in PAIRS])[pair]
            second = np.array([p[1] for p in PAIRS])[pair]
            nibble = (first + 4 * second).reshape(rows, slots // 16, 4)
            meta.append(
                (nibble * np.array([1, 16, 256, 4096])).sum(axis=2).astype(np.uint16).ravel()
            )
            group = 4 * np.arange(slots // 4)
            slot = np.stack([group + first, group + second], axis=-1).reshape(rows, slots // 2)
            stored = values((rows, slots // 2))
            stored[pad[slot]] = 0
        else:
            stored = values((rows, slots))
            stored[:, pad] = 0
        data.append(stored.astype(dtype).ravel())
    empty = np.zeros(0, np.int32)
    return TVWStorage(
        shape=shape,
        tile_rows=256,
        vector=(2, 4) if sparse else None,
        row_indptr=np.cumsum([0, *(len(t.rows) for t in tiles)], dtype=np.int32),
        row_indices=np.concatenate([empty, *(np.array(t.rows, np.int32) for t in tiles)]),
        col_indptr=np.cumsum([0, *(len(t.cols) for t in tiles)], dtype=np.int32),
        col_indices=np.concatenate([empty, *(np.array(t.cols, np.int32) for t in tiles)]),
        data=np.concatenate([np.zeros(0, dtype), *data]),
        meta=np.concatenate([np.zeros(0, np.uint16), *meta]) if sparse else None,
    )


@dataclass(frozen=True, eq=False)
class Stored:
    """One tile expanded: `values` (rows, slots) in float64, `stored` says which slots hold one."""

    rows: HostArray
    cols: HostArray
    values: HostArray
    stored: HostArray


def expand(s: TVWStorage) -> list[Stored]:
    """Expand each tile of a storage, slot by slot, by the words of the format alone."""
    tiles = []
    data_at = meta_at = 0
    for t in range(len(s.row_indptr) - 1):
        rows = s.row_indices[s.row_indptr[t] : s.row_indptr[t + 1]]
        cols = s.col_indices[s.col_indptr[t] : s.col_indptr[t + 1]]
        values = np.zeros((len(rows), len(cols)))
        stored = np.zeros(values.shape, bool)
        if s.meta is None:
            count = values.size
            values[...] = s.data[data_at : data_at + count].astype(np.float64).reshape(values.shape)
            stored[...] = True
            data_at += count
        else:
            groups = len(cols) // 4
            words = s.meta[meta_at : meta_at + len(rows) * groups // 4]
            kept = s.data[data_at : data_at + len(rows) * groups * 2].astype(np.float64)
            meta_at += words.size
            data_at += kept.size
            nibbles = words.astype(np.int64)[:, None] >> np.array([0, 4, 8, 12])
            nibbles = nibbles.reshape(len(rows), groups) & 15
            pairs = kept.reshape(len(rows), groups, 2)
            row = np.arange(len(rows))[:, None]
            group = 4 * np.arange(groups)[None, :]
            for place, position in ((0, nibbles & 3), (1, nibbles >> 2)):
                values[row, group + position] = pairs[:, :, place]
                stored[row, group + position] = True
        tiles.append(Stored(rows, cols, values, stored))
    return tiles


def exact(product: Product) -> tuple[HostArray, HostArray, HostArray]:
    """Return A X, |A| |X| and the slots summed for each row, in float64, over what is stored.

    Only stored values that are not zero multiply, as in CSR: 0 * Inf of a filler does not count.
    """
    s = product.storage
    x = product.x.astype(np.float64)
    y = np.zeros((s.shape[0], x.shape[1]))
    size, terms = np.zeros_like(y), np.zeros(s.shape[0], int)
    with np.errstate(invalid="ignore", over="ignore"):
        for tile in expand(s):
            used = np.flatnonzero(tile.cols >= 0)
            a, xt = tile.values[:, used], x[tile.cols[used]]
            if np.isfinite(xt).all() and np.isfinite(a).all():
                y[tile.rows] = a @ xt
                size[tile.rows] = abs(a) @ abs(xt)
            else:
                for i, row in enumerate(tile.rows):
                    kept = np.flatnonzero(a[i])
                    y[row] = (a[i, kept, None] * xt[kept]).sum(axis=0)
                    size[row] = (abs(a[i, kept, None]) * abs(xt[kept])).sum(axis=0)
            terms[tile.rows] = len(tile.cols)
    return y, size, terms


def with_zeros(product: Product) -> HostArray:
    """Return A X in float64 with every zero inside a tile multiplied too, slot by slot.

    That is the dense product, except that of a column in several slots each slot counts by itself:
    where one of them holds a zero and X an Inf, the product is NaN.
    """
    y = np.zeros((product.storage.shape[0], product.x.shape[1]))
    with np.errstate(invalid="ignore"):
        for tile in expand(product.storage):
            used = np.flatnonzero(tile.cols >= 0)
            y[tile.rows] = tile.values[:, used] @ product.x[tile.cols[used]].astype(np.float64)
    return y


def integers(rng: np.random.Generator, largest: int = 8) -> Any:
    """Return a source of integers, exact in every 16-bit type, whose short sums stay exact."""
    return lambda shape: rng.integers(-largest, largest + 1, shape).astype(np.float64)


def normals(rng: np.random.Generator) -> Any:
    """Return a source of normal values."""
    return lambda shape: rng.standard_normal(shape)


def draw_tiles(
    rng: np.random.Generator, heights: list[int], slots: list[int], dropped: int, cols: int
) -> tuple[int, list[TileSpec]]:
    """Return the number of rows, and tiles of the given sizes, with rows and columns at random.

    Columns repeat within a tile, and a tenth of the slots is padding.
    """
    rows = sum(heights) + dropped
    order = rng.permutation(rows)
    tiles, at = [], 0
    for height, count in zip(heights, slots, strict=True):
        chosen = rng.integers(0, cols, count) if cols else np.full(count, -1)
        chosen[rng.random(count) < 0.1] = -1
        tiles.append(TileSpec(tuple(order[at : at + height]), tuple(chosen)))
        at += height
    return rows, tiles


def uniform(
    rows: int, cols: int, n: int, *, tile_rows: int, keep: float, dtype: np.dtype[Any] = FLOAT16,
    sparse: bool = True, seed: int = 0,
) -> Product:  # fmt: skip
    """Return a product as pruning makes it: equal tiles of neighbouring rows, sorted columns."""
    rng = np.random.default_rng(seed)
    slots = max(16, int(cols * keep) // 16 * 16)
    tiles = [
        TileSpec(
            tuple(range(r, min(r + tile_rows, rows))),
            tuple(np.sort(rng.choice(cols, min(slots, cols // 16 * 16), replace=False))),
        )
        for r in range(0, rows, tile_rows)
    ]
    storage = storage_of((rows, cols), tiles, dtype, sparse, integers(rng, 4), rng)
    return Product(storage, integers(rng, 4)((cols, n)).astype(dtype))


@st.composite
def products(
    draw: st.DrawFn, *, values: str = "integers", max_tiles: int = 4, max_slots: int = 208
) -> Product:
    """Draw a product: ragged tiles, some without rows or slots, dropped rows, any n.

    Sizes shrink towards one small tile; what is stored comes from a drawn seed.
    """
    heights = draw(st.lists(st.integers(0, 150), min_size=0, max_size=max_tiles))
    slots = [draw(st.integers(0, max_slots // 16)) * 16 for _ in heights]
    dropped = draw(st.integers(0, 40))
    cols = draw(st.integers(1, 300))
    n = draw(st.integers(1, 150))
    dtype = draw(st.sampled_from([FLOAT16, BFLOAT16]))
    sparse = draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, tiles = draw_tiles(rng, heights, slots, dropped, cols)
    source = integers(rng) if values == "integers" else normals(rng)
    storage = storage_of((rows, cols), tiles, dtype, sparse, source, rng)
    return Product(storage, source((cols, n)).astype(dtype))


def rounding(magnitude: HostArray, dtype: np.dtype[Any]) -> HostArray:
    """Return half a unit in the last place of `dtype` at `magnitude`, subnormals included."""
    bits, least = (10, -14) if dtype == FLOAT16 else (7, -126)
    _, exponent = np.frexp(magnitude)
    return np.ldexp(0.5, np.maximum(exponent - 1, least) - bits)
