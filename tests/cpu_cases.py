"""Matrices larger than one panel and tile, with the dense ones they stand for, and direct calls."""

from __future__ import annotations

from typing import NamedTuple

import ml_dtypes
import numpy as np
import oracle
import pytest
from strategies import dtype, random_values

from tvwarray import TVWStorage
from tvwarray._native import native

COMPILED = native()
FLOATS = ["float32", "float64", "float16", "bfloat16"]
SUMS = {"float16": "float32", "bfloat16": "float32"}
WIDTHS = [0, 1, 2, 3, 5, 8, 9, 16, 17, 31, 33, 64, 65, 100, 127, 128, 129, 200, 257]
NIBBLES = np.array([0x4, 0x8, 0x9, 0xC, 0xD, 0xE], np.uint16)

compiled_only = pytest.mark.skipif(COMPILED is None, reason="needs the compiled extension")
DOTS = ("amx", "vnni")
"""Instruction sets that differ from v4 for 8- and 16-bit types only: `test_cpu_dots`."""
NAMES = COMPILED.isa_names() if COMPILED else []
isas = pytest.mark.parametrize("isa", [name for name in NAMES if name not in DOTS])


def bits(x):
    return x.view(np.uint16) if x.dtype == ml_dtypes.bfloat16 else x


class Case(NamedTuple):
    """A storage as large as several panels and tiles, with the dense matrix it stands for."""

    storage: TVWStorage
    dense: np.ndarray


def tvw_case(rng, rows, cols, slots, *, kind="float32", vector=(2, 4), tile_rows=128, zeros=0.1):
    """Make a matrix with shuffled rows and slots, some of them padding, some rows in no tile.

    `slots` is a multiple of 16; dense values are written from the definition of the format.
    """
    kind = dtype(kind)
    kept = rng.permutation(rows)[: max(1, rows - rows // 9)]
    tiles = [kept[i : i + tile_rows] for i in range(0, kept.size, tile_rows)]
    dense = np.zeros((rows, cols), np.float64)
    columns, data, meta = [], [], []
    for tile in tiles:
        chosen = np.full(slots, -1)
        some = rng.permutation(cols)[: slots - slots // 16]
        chosen[rng.permutation(slots)[: some.size]] = some
        positions = np.broadcast_to(np.arange(slots), (tile.size, slots))
        if vector:
            nibbles = NIBBLES[rng.integers(0, 6, (tile.size, slots // 4))]
            shifted = nibbles.reshape(tile.size, -1, 4).astype(np.uint16) << [0, 4, 8, 12]
            meta.append(shifted.sum(-1).astype(np.uint16).ravel())
            pairs = np.stack([nibbles & 3, nibbles >> 2], -1).reshape(tile.size, -1)
            positions = pairs + np.arange(slots // 2) // 2 * 4
        at = chosen[positions]
        values = random_values(rng, at.shape, kind)
        values[(at < 0) | (rng.random(at.shape) < zeros)] = 0
        columns.append(chosen)
        data.append(values.ravel())
        where = (np.broadcast_to(tile[:, None], at.shape)[at >= 0], at[at >= 0])
        np.add.at(dense, where, values[at >= 0].astype(np.float64))
    count = len(tiles)
    storage = TVWStorage(
        shape=(rows, cols),
        tile_rows=tile_rows,
        vector=vector,
        row_indptr=np.cumsum([0, *(t.size for t in tiles)]).astype(np.int32),
        row_indices=np.concatenate(tiles).astype(np.int32),
        col_indptr=(np.arange(count + 1) * slots).astype(np.int32),
        col_indices=np.concatenate(columns).astype(np.int32),
        data=np.concatenate(data),
        meta=np.concatenate(meta) if vector else None,
    )
    storage.check()
    return Case(storage, dense)


def engine(s, isa=""):
    """Return the extension's matrix, for an instruction set of choice."""
    arrays = (s.row_indptr, s.row_indices, s.col_indptr, s.col_indices, bits(s.data), s.meta)
    rest = (None, None, None)
    if s.remainder_indptr is not None:
        work = "float64" if s.dtype == np.float64 else "float32"
        rest = (s.remainder_indptr, s.remainder_indices, s.remainder_data.astype(work))
    return COMPILED.Matrix(*s.shape, s.dtype.name, *arrays, *rest, isa)


def product_type(a, x):
    if a.kind in "iu":
        return np.dtype(np.int32)
    return a if a == x else np.dtype(np.float32)


def multiply(s, x, isa="", order="C", *, transposed=False, bias=None, activation=""):
    rows = s.shape[1 if transposed else 0]
    out = np.empty((rows, x.shape[1]), product_type(s.dtype, x.dtype), order=order)
    types = x.dtype.name, out.dtype.name
    engine(s, isa).multiply(bits(x), types[0], bits(out), types[1], bias, activation, transposed)
    return out


def assert_close(got, dense, x, terms):
    """Hold `got` against ``dense @ x`` in wider types."""
    if got.dtype.kind in "iu":
        np.testing.assert_array_equal(got, dense.astype(np.int64) @ x.astype(np.int64))
        return
    exact, size = oracle.matmul(dense, x)
    sums = SUMS.get(got.dtype.name, got.dtype.name)
    bound = oracle.error_bound(exact, size, terms, got.dtype, sums)
    assert (np.abs(oracle.wide(got) - exact) <= bound).all()
