"""Hypothesis strategies for matrices, storages and operands.

A strategy draws sizes and kinds, which shrink, and a seed, from which NumPy fills the values: an
example is small before its values are simple. `storages` reaches every freedom of the format;
`dense_matrices` every class of matrix that a conversion treats differently.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
from hypothesis import strategies as st

from tvwarray import TVWStorage

NARROW = ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
FLOATS = ["float32", "float64"]
COMPLEX = ["complex64", "complex128"]
INTEGERS = ["int8", "uint8", "int16", "int32", "int64", "uint16", "uint32", "uint64"]
ALL_DTYPES = [*FLOATS, *NARROW, *COMPLEX, *INTEGERS, "bool"]

KINDS = [
    "random", "dense", "zero", "one element", "full row", "full column", "2:4", "tvw", "tw",
    "blocks", "dropped rows", "diagonal",
]  # fmt: skip
MEMORY = ["C", "F", "strided", "reversed", "read-only", "big-endian"]

seeds = st.integers(0, 2**32 - 1)


def dtype(name: str) -> np.dtype:
    """Return the dtype of a name, ml_dtypes' included."""
    return np.dtype(getattr(ml_dtypes, name, name))


def random_values(rng: np.random.Generator, shape: Any, kind: np.dtype) -> np.ndarray:
    """Return nonzero values that every dtype holds exactly enough: small integers and halves."""
    if kind.kind == "b":
        return np.ones(shape, kind)
    low = 1 if kind.kind == "u" else -7
    values = rng.integers(low, 8, shape)
    values = np.where(values == 0, 3, values)
    if kind.kind in "iu":
        return values.astype(kind)
    scaled = values / rng.choice([1, 2, 4], shape)
    if kind.kind == "c":
        return (scaled + 1j * rng.integers(-3, 4, shape)).astype(kind)
    return scaled.astype(np.float32).astype(kind)


def special_values(rng: np.random.Generator, a: np.ndarray) -> np.ndarray:
    """Put NaN, infinities, -0.0, subnormals and extremes in place of some values."""
    if a.dtype.kind in "biu" or not a.size:
        return a
    wide = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-42, -1e-7, 240.0])
    with np.errstate(all="ignore"):
        chosen = wide[rng.integers(0, wide.size, a.shape)].astype(a.dtype)
    return np.where(rng.random(a.shape) < 0.2, chosen, a)


def in_memory(a: np.ndarray, memory: str) -> np.ndarray:
    """Return the same matrix laid out in memory in another way."""
    if memory == "F":
        return np.asfortranarray(a)
    if memory == "strided":
        room = np.zeros(
            (2 * a.shape[0], 3 * a.shape[1]) if a.ndim == 2 else 2 * a.shape[0], a.dtype
        )
        view = room[::2, ::3] if a.ndim == 2 else room[::2]
        view[...] = a
        return view
    if memory == "reversed":
        return np.ascontiguousarray(a[::-1])[::-1]
    if memory == "read-only":
        a = a.copy()
        a.flags.writeable = False
        return a
    if memory == "big-endian" and a.dtype.kind in "fciu" and a.dtype.itemsize > 1:
        return a.astype(a.dtype.newbyteorder(">"))
    return np.ascontiguousarray(a)


def two_four_mask(rng: np.random.Generator, rows: int, cols: int) -> np.ndarray:
    """Keep two random columns in each whole or cut group of four."""
    rank = rng.random((rows, -(-cols // 4), 4)).argsort(axis=-1).argsort(axis=-1)
    return (rank < 2).reshape(rows, -(-cols // 4) * 4)[:, :cols]


def pattern(
    rng: np.random.Generator, kind: str, rows: int, cols: int, tile_rows: int
) -> np.ndarray:
    """Return which entries a matrix of this kind holds, bool (rows, cols)."""
    keep = np.zeros((rows, cols), bool)
    if kind == "dense":
        keep[:] = True
    elif kind == "one element" and keep.size:
        keep[rng.integers(rows), rng.integers(cols)] = True
    elif kind == "full row" and rows:
        keep = rng.random((rows, cols)) < 0.05
        keep[rng.integers(rows)] = True
    elif kind == "full column" and cols:
        keep = rng.random((rows, cols)) < 0.05
        keep[:, rng.integers(cols)] = True
    elif kind == "2:4":
        keep = two_four_mask(rng, rows, cols)
    elif kind in ("tvw", "tw"):
        for start in range(0, rows, tile_rows):
            chosen = np.flatnonzero(rng.random(cols) < 0.5)
            height = min(tile_rows, rows - start)
            inner = two_four_mask(rng, height, chosen.size) if kind == "tvw" else True
            keep[start : start + height, chosen] = inner
    elif kind == "blocks":
        coarse = rng.random((-(-rows // 4), -(-cols // 4))) < 0.3
        keep = coarse.repeat(4, axis=0).repeat(4, axis=1)[:rows, :cols]
    elif kind == "dropped rows":
        keep = two_four_mask(rng, rows, cols) & (rng.random((rows, 1)) < 0.5)
    elif kind == "diagonal":
        keep = np.eye(rows, cols, dtype=bool)
    elif kind == "random":
        keep = rng.random((rows, cols)) < rng.choice([0.02, 0.1, 0.3, 0.6])
    return keep


@st.composite
def dense_matrices(
    draw: st.DrawFn,
    *,
    dtypes: list[str] = ALL_DTYPES,
    kinds: list[str] = KINDS,
    special: bool = False,
    max_side: int = 90,
) -> np.ndarray:
    """Draw a dense matrix of any class and dtype, in any memory layout."""
    rows, cols = draw(st.integers(0, max_side)), draw(st.integers(0, max_side))
    kind = dtype(draw(st.sampled_from(dtypes)))
    name = draw(st.sampled_from(kinds))
    rng = np.random.default_rng(draw(seeds))
    keep = pattern(rng, name, rows, cols, draw(st.sampled_from([16, 32, 128])))
    a = np.where(keep, random_values(rng, keep.shape, kind), np.zeros((), kind)).astype(kind)
    if special and draw(st.booleans()):
        a = special_values(rng, a)
    return in_memory(a, draw(st.sampled_from(MEMORY)))


@st.composite
def storages(
    draw: st.DrawFn,
    *,
    dtypes: list[str] = ALL_DTYPES,
    vectors: list[Any] = [(2, 4), None],  # noqa: B006 - never changed
    special: bool = False,
    max_side: int = 70,
    repeats: bool = True,
    remainders: bool | None = None,
    tall: bool = False,
) -> TVWStorage:
    """Draw a storage with every freedom of the format.

    Rows in any tile and order, rows in none, tiles without rows or without slots, slots in any
    order, padded anywhere and (if `repeats`) repeated, stored zeros; with a remainder beside the
    tiles, with none, or either (`remainders` True, False, None). Without `repeats` there is none,
    since its entries may repeat those of tiles. With `tall` tiles have up to 1024 rows, and the
    matrix few columns.
    """
    rows, cols = draw(st.integers(0, max_side)), draw(st.integers(0, max_side))
    tile_rows = draw(st.sampled_from([16, 17, 32, 128, 256]))
    if tall:
        rows, cols = draw(st.integers(257, 1300)), min(cols, 20)
        tile_rows = draw(st.sampled_from([257, 512, 1000, 1024]))
    vector = draw(st.sampled_from(vectors))
    kind = dtype(draw(st.sampled_from(dtypes)))
    heights = draw(st.lists(st.integers(0, tile_rows), max_size=5))
    words = [draw(st.integers(0, 1 if tall else 3)) for _ in heights]
    rng = np.random.default_rng(draw(seeds))

    shuffled = rng.permutation(rows).astype(np.int32)
    row_indptr = np.minimum(np.cumsum([0, *heights]), rows).astype(np.int32)
    heights = np.diff(row_indptr)
    slots = [_slots(rng, cols, 16 * w, repeats) for w in words]
    data, meta = [], []
    for height, cols_of in zip(heights, slots, strict=True):
        block, positions = _block(rng, height, cols_of, kind, vector, special)
        data.append(block.ravel())
        meta.append(positions)
    beside = draw(st.booleans()) if remainders is None else remainders
    return TVWStorage(
        shape=(rows, cols),
        tile_rows=tile_rows,
        vector=vector,
        row_indptr=row_indptr,
        row_indices=shuffled[: row_indptr[-1]],
        col_indptr=np.cumsum([0, *(s.size for s in slots)]).astype(np.int32),
        col_indices=np.concatenate([np.empty(0, np.int32), *slots]).astype(np.int32),
        data=np.concatenate([np.empty(0, kind), *data]).astype(kind, copy=False),
        meta=np.concatenate([np.empty(0, np.uint16), *meta]).astype(np.uint16) if vector else None,
        **(_remainder(rng, (rows, cols), kind, special) if beside and repeats else {}),
    )


def _remainder(
    rng: np.random.Generator, shape: tuple[int, int], kind: np.dtype, special: bool
) -> dict[str, np.ndarray]:
    keep = rng.random(shape) < 0.03
    data = random_values(rng, int(keep.sum()), kind)
    if special:
        data = special_values(rng, data)
    return {
        "remainder_indptr": np.cumsum([0, *keep.sum(axis=1)]).astype(np.int32),
        "remainder_indices": np.nonzero(keep)[1].astype(np.int32),
        "remainder_data": data.astype(kind, copy=False),
    }


def _slots(rng: np.random.Generator, cols: int, count: int, repeats: bool) -> np.ndarray:
    if not cols:
        return np.full(count, -1, np.int32)
    if repeats:
        chosen = rng.integers(0, cols, count)
    else:
        chosen = np.full(count, -1)
        some = rng.permutation(cols)[:count]
        chosen[rng.permutation(count)[: some.size]] = some
    return np.where(rng.random(count) < 0.2, -1, chosen).astype(np.int32)


def _block(
    rng: np.random.Generator,
    height: int,
    cols: np.ndarray,
    kind: np.dtype,
    vector: Any,
    special: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the values and the metadata words of one tile."""
    if vector is None:
        at = np.broadcast_to(cols, (height, cols.size))
        words = np.empty(0, np.uint16)
    else:
        legal = np.array([0x4, 0x8, 0x9, 0xC, 0xD, 0xE])
        nibbles = legal[rng.integers(0, 6, (height, cols.size // 4))]
        groups = np.arange(cols.size // 4) * 4
        at = np.stack([cols[groups + (nibbles & 3)], cols[groups + (nibbles >> 2)]], axis=-1)
        at = at.reshape(height, cols.size // 2)
        shifted = nibbles.reshape(height, cols.size // 16, 4) << np.array([0, 4, 8, 12])
        words = shifted.sum(axis=-1).ravel()
    block = random_values(rng, at.shape, kind)
    if special:
        block = special_values(rng, block)
    zero = (at < 0) | (rng.random(at.shape) < 0.15)
    return np.where(zero, np.zeros((), kind), block), words


@st.composite
def operands(
    draw: st.DrawFn, rows: int, dtypes: list[str], *, ndim: int | None = None
) -> np.ndarray:
    """Draw a dense right operand with `rows` rows, 1-D or 2-D, in any memory layout."""
    kind = dtype(draw(st.sampled_from(dtypes)))
    flat = draw(st.booleans()) if ndim is None else ndim == 1
    shape = (rows,) if flat else (rows, draw(st.integers(0, 20)))
    rng = np.random.default_rng(draw(seeds))
    return in_memory(random_values(rng, shape, kind), draw(st.sampled_from(MEMORY)))
