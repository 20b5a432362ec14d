"""Matrices as pruning makes them, drawn on the GPU, and their dense forms by scattering."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cupy
import ml_dtypes
import numpy as np
import torch

import tvwarray

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, eq=False)
class Problem:
    """A sparse matrix, its dense form, and a right operand, all on the GPU."""

    A: tvwarray.TVWMatrix
    dense: torch.Tensor
    x: torch.Tensor
    sum_unit: float = 2.0**-23
    """What each slot adds to the error of a sum, over ``|A| @ |x|``: c = 1 for float32 sums."""

    def transposed(self) -> Problem:
        """Return the problem of the transpose, for a right operand of as many columns."""
        rows, n = self.dense.shape[0], self.x.shape[1]
        y = torch.randn(rows, n, device="cuda").to(self.x.dtype)
        return Problem(self.A.T, self.dense.T, y)

    def in_float8(self) -> Problem:
        """Return the problem with values and right operand rounded to float8_e4m3fn.

        Tensor cores add those with 14 bits: docs/hopper8.md has the bound.
        """
        return self._rounded(lambda a: a.to(torch.float8_e4m3fn), 1.07 * 2.0**-14)

    def in_int8(self) -> Problem:
        """Return the problem with twenty times its values and right operand, rounded to int8."""
        return self._rounded(lambda a: (20 * a.float()).round().clamp(-127, 127).to(torch.int8), 0)

    def _rounded(self, to: Callable[[torch.Tensor], torch.Tensor], sum_unit: float) -> Problem:
        stored = self.A.storage
        values = torch.from_dlpack(stored.data.view(cupy.int16)).view(self.dense.dtype)
        A = tvwarray.TVWMatrix.from_storage(replace(stored, data=as_cupy(to(values))))
        return Problem(A, to(self.dense), to(self.x), sum_unit)

    def check(
        self, y: torch.Tensor, after: Callable[[torch.Tensor], torch.Tensor] | None = None
    ) -> float:
        """Return the error of a product over its bound.

        `after` is what was done to it before it was stored: a function that spreads no error.
        """
        if y.dtype == torch.int32:  # exact, also in float64
            return 0.0 if bool((self.dense.double() @ self.x.double() == y).all()) else np.inf
        a, x = self.dense.float(), self.x.float()
        exact, size = a @ x, a.abs() @ x.abs()
        exact = exact if after is None else after(exact)
        unit = 2.0**-8 if y.dtype == torch.bfloat16 else 2.0**-11
        bound = self.A.shape[1] * self.sum_unit * size + 1.01 * unit * exact.abs() + 1e-6
        return float(((y.float() - exact).abs() / bound).max())


def as_cupy(x: torch.Tensor) -> Any:
    """Return the CuPy array of a tensor's memory."""
    if x.dtype == torch.bfloat16:
        return cupy.from_dlpack(x.view(torch.int16)).view(ml_dtypes.bfloat16)
    if x.dtype == torch.float8_e4m3fn:
        return cupy.from_dlpack(x.view(torch.uint8)).view(ml_dtypes.float8_e4m3fn)
    return cupy.from_dlpack(x)


def draw(
    rows: int,
    cols: int,
    n: int,
    sparsity: float,
    *,
    tile_rows: int = 128,
    dtype: str = "bfloat16",
    sparse: bool = True,
    skew: float = 1.0,
    seed: int = 0,
) -> Problem:
    """Return a problem of `sparsity`, which counts all pruned entries.

    With `skew` above 1 the tiles' column counts grow evenly from the least to `skew` times it, at
    the same sum.
    """
    generator = torch.Generator("cuda").manual_seed(seed)
    tiles = -(-rows // tile_rows)
    mean = (1 - sparsity) * (2 if sparse else 1) * cols
    counts = mean * np.linspace(1, skew, tiles) / np.linspace(1, skew, tiles).mean()
    least = 16 if sparsity < 1 else 0
    counts = np.minimum(np.maximum(least, np.round(counts / 16) * 16), cols // 16 * 16).astype(int)
    kind = DTYPES[dtype]
    dense = torch.zeros(rows, cols, dtype=kind, device="cuda")
    col_indices, data, meta = [], [], []
    for t, slots in enumerate(counts.tolist()):
        height = min(tile_rows, rows - t * tile_rows)
        chosen = torch.randperm(cols, device="cuda", generator=generator)[:slots].sort().values
        col_indices.append(chosen.int())
        part = dense[t * tile_rows : t * tile_rows + height]
        if not sparse:
            values = torch.randn(height, slots, device="cuda", generator=generator).to(kind)
            part[:, chosen] = values
            data.append(values.flatten())
            continue
        order = torch.rand(height, slots // 4, 4, device="cuda", generator=generator).argsort(-1)
        place = order[..., :2].sort(-1).values
        values = torch.randn(height, slots // 4, 2, device="cuda", generator=generator).to(kind)
        kept = torch.zeros(height, slots // 4, 4, dtype=kind, device="cuda")
        kept.scatter_(2, place, values)
        part[:, chosen] = kept.view(height, slots)
        data.append(values.flatten())
        nibbles = (place[..., 0] | place[..., 1] << 2).view(height, slots // 16, 4)
        words = (nibbles << torch.arange(0, 16, 4, device="cuda")).sum(-1)
        meta.append(words.to(torch.int32).flatten())
    heights = np.full(tiles, tile_rows)
    heights[-1] = rows - (tiles - 1) * tile_rows
    storage = tvwarray.TVWStorage(
        shape=(rows, cols),
        tile_rows=tile_rows,
        vector=(2, 4) if sparse else None,
        row_indptr=cupy.asarray(np.cumsum([0, *heights]), cupy.int32),
        row_indices=cupy.arange(rows, dtype=cupy.int32),
        col_indptr=cupy.asarray(np.cumsum([0, *counts]), cupy.int32),
        col_indices=as_cupy(torch.cat(col_indices)),
        data=as_cupy(torch.cat(data)),
        meta=as_cupy(torch.cat(meta)).astype(cupy.uint16) if sparse else None,
    )
    x = torch.randn(cols, n, device="cuda", generator=generator).to(kind)
    return Problem(tvwarray.TVWMatrix.from_storage(storage), dense, x)
