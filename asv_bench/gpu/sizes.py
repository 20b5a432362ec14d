"""Which products are measured on a GPU: sizes, sparsities, heights of tiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from tvwarray._kernels.cost import Problem

SPARSITIES = (0.5, 0.75, 0.875, 0.95)
"""Of all entries."""

TILE_ROWS = (256, 128, 64, 32)

SQUARES = ((1024,) * 3, (2048,) * 3, (4096,) * 3, (8192,) * 3, (16384, 8192, 8192))
"""Rows, columns and n of products of large and square matrices."""

BATCHES = (1, 16, 128, 512, 2048, 8192)

LAYERS = {
    (768, 3072): (*BATCHES[:-1], 4096, 8192), (3072, 768): (*BATCHES[:-1], 4096, 8192),
    (4096, 4096): BATCHES, (11008, 4096): BATCHES, (4096, 11008): BATCHES,
}  # fmt: skip
"""Rows and columns of the layers of encoders and of language models, and the n of each."""


class Structure(NamedTuple):
    """A matrix by what the choice of a kernel depends on, and the n of its products."""

    rows: int
    cols: int
    tile_rows: int
    sparsity: float
    sparse: bool
    batches: tuple[int, ...]

    @property
    def slots(self) -> int:
        """Kept columns of every tile."""
        return round((1 - self.sparsity) * (2 if self.sparse else 1) * self.cols / 16) * 16

    def problem(self, dtype: Any, n: int) -> Problem:
        """Return what the choice of a kernel is told: of 16-bit values, whose steps are 64 slots.

        The tile of height 0 behind the others is the rows that are zero.
        """
        tiles = self.rows // self.tile_rows
        bricks, steps = self.tile_rows // 16, -(-self.slots // 64)
        bricks_of, steps_of = (np.array([x] * tiles + [0]) for x in (bricks, steps))
        every_column = self.slots == self.cols
        shape = self.rows, self.cols
        return Problem(
            np.dtype(dtype), self.sparse, shape, bricks_of, steps_of, n, every_column=every_column
        )


def structures() -> Iterator[Structure]:
    """Yield all matrices of the tables."""
    for rows, cols, n in SQUARES:
        for sparsity in SPARSITIES:
            for tile_rows in TILE_ROWS:
                yield Structure(rows, cols, tile_rows, sparsity, True, (n,))
            yield Structure(rows, cols, 128, sparsity, False, (n,))
    for (rows, cols), batches in LAYERS.items():
        for sparsity in SPARSITIES:
            for tile_rows in (256, 128):
                yield Structure(rows, cols, tile_rows, sparsity, True, batches)
