"""The model of ``A.T @ Y`` against an H200's times, and the config that it puts first."""

from __future__ import annotations

import numpy as np
import pytest

from tvwarray._kernels.devices import DEVICES
from tvwarray._kernels.transposed.cost import choose_transposed_for
from tvwarray._storage import TVWStorage

MEASURED = {0.5: 763.6, 0.75: 479.8, 0.875: 311.6, 0.95: 234.9}
"""Microseconds of the fastest config by sparsity: 4096^3, float16, tiles of 128 rows."""


def matrix(sparsity: float, size: int = 4096, tile_rows: int = 128) -> TVWStorage:
    """Return a 2:4 matrix with random columns, of zeros."""
    rng = np.random.default_rng(0)
    slots, tiles = int(size * 2 * (1 - sparsity)) // 16 * 16, size // tile_rows
    columns = [np.sort(rng.choice(size, slots, replace=False)) for _ in range(tiles)]
    return TVWStorage(
        (size, size), 256, (2, 4),
        np.arange(tiles + 1, dtype=np.int32) * tile_rows, np.arange(size, dtype=np.int32),
        np.arange(tiles + 1, dtype=np.int32) * slots, np.concatenate(columns).astype(np.int32),
        np.zeros(size * slots // 2, np.float16), np.full(size * slots // 16, 0x4444, np.uint16),
    )  # fmt: skip


@pytest.mark.parametrize("sparsity", MEASURED)
def test_the_model_meets_an_h200(sparsity: float) -> None:
    choice = choose_transposed_for(matrix(sparsity), 4096, DEVICES["H200"])
    best = choice.candidates[0].prediction
    assert 1e6 * best.seconds == pytest.approx(MEASURED[sparsity], rel=0.15)
    assert best.seconds == pytest.approx(sum(best.parts.values()))


def test_fewer_columns_of_y_take_narrower_blocks() -> None:
    """And few blocks are cut into pieces, which costs what joining them takes."""
    storage = matrix(0.75)
    wide, narrow = (choose_transposed_for(storage, n, DEVICES["H200"]) for n in (4096, 64))
    assert wide.config.block_n == 128
    assert narrow.config.block_n == 64
    assert narrow.candidates[0].prediction.parts["launch"] > 5e-6
    assert narrow.candidates[0].prediction.seconds < wide.candidates[0].prediction.seconds / 5
