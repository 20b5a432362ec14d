"""The model of the Hopper kernel of 8-bit values: near what an H200 measured, and as documented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from tvwarray._kernels.cost import Problem
from tvwarray._kernels.devices import DEVICES
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.hopper.config8 import ByteConfig, byte_configs
from tvwarray._kernels.hopper.cost import budget, predict_hopper
from tvwarray._kernels.select import choose

H200 = DEVICES["H200"]
E4M3, INT8 = np.dtype(ml_dtypes.float8_e4m3fn), np.dtype(np.int8)
SHIPPED = {
    (c.block_rows, c.block_n, bool(c.promote)): c
    for precision in ("default", "highest")
    for c in byte_configs("90", form_of(E4M3, precision), True)
}
KEPT = (1.0, 0.5, 0.25, 0.1)

MEASURED = {
    (4096, (256, 128, False)): (111.8, 67.4, 45.4, 33.9),
    (4096, (128, 256, False)): (134.2, 78.5, 51.7, 37.7),
    (4096, (128, 128, False)): (151.2, 88.1, 54.8, 39.6),
    (4096, (128, 128, True)): (156.7, 90.9, 56.7, 42.0),
    (8192, (256, 128, False)): (755.8, 418.9, 250.8, 146.9),
    (8192, (128, 256, False)): (947.7, 518.8, 299.0, 174.7),
    (8192, (128, 128, False)): (1065.8, 581.1, 332.0, 186.9),
    (8192, (128, 128, True)): (1103.1, 598.7, 340.6, 191.5),
}
"""Microseconds on an H200, to bfloat16, tiles as high as the block, at 50, 75, 87.5 and 95 %."""


def uniform(n: int, tile_rows: int, keep: float, dtype: Any = E4M3, size: int = 0) -> Problem:
    size = size or n
    tiles = size // tile_rows
    bricks = np.append(np.full(tiles, tile_rows // 16), 0)
    steps = np.append(np.full(tiles, -(-int(size * keep) // 128)), 0)
    return Problem(dtype, True, (size, size), bricks, steps, n)


@pytest.mark.parametrize(("size", "block"), MEASURED, ids=str)
def test_modelled_times_are_near_measured_ones(size: int, block: tuple[int, int, bool]) -> None:
    for keep, us in zip(KEPT, MEASURED[size, block], strict=True):
        found = predict_hopper(SHIPPED[block], uniform(size, block[0], keep), H200)
        assert 0.9 < found.seconds * 1e6 / us < 1.15, (keep, us, str(found))


@pytest.mark.parametrize(("tile_rows", "block"), [(256, (256, 128)), (128, (128, 256))])
def test_the_fastest_kernel_is_chosen(tile_rows: int, block: tuple[int, int]) -> None:
    for dtype in (E4M3, INT8):
        for keep in KEPT:
            best = choose(uniform(8192, tile_rows, keep, dtype), H200).config
            assert isinstance(best, ByteConfig)
            assert (best.block_rows, best.block_n) == block


def test_few_columns_of_int8_stay_with_the_other_kernel() -> None:
    """4096x4096 at 75 %: 12.2 us against 17.2 with n = 16; with 2048, 55.7 against 46.2."""
    for n in (1, 16, 32):
        best = choose(uniform(n, 128, 0.5, INT8, 4096), H200).config
        assert not isinstance(best, ByteConfig)
    assert isinstance(choose(uniform(2048, 128, 0.5, INT8, 4096), H200).config, ByteConfig)
    assert isinstance(choose(uniform(1, 128, 0.5, E4M3, 4096), H200).config, ByteConfig)


def test_the_documented_budget_is_the_model() -> None:
    """Clocks of a step scaled to 256 x 128 outputs, without the hand-over, as docs list them."""
    documented = Path(__file__).parent.parent / "docs" / "hopper8.md"
    rows = [
        [cell.strip(" *") for cell in line.strip("|\n").split("|")]
        for line in documented.read_text().splitlines()
        if line.startswith("| **") and "(" in line
    ]
    assert len(rows) == 4
    for row in rows:
        m, n = map(int, row[0].replace("*", "").split(" (")[0].split(" x "))
        need, scale = budget(SHIPPED[m, n, False]), 256 * 128 / (m * n)
        clocks = need.clocks
        expected = [
            need.tensor_clocks, need.read_bytes / 128,
            (need.gathered_bytes + need.turned_bytes) / 128, need.bulk_bytes / 128,
            clocks["shared memory"] - need.hand_over_clocks, clocks["L2"],
        ]  # fmt: skip
        assert [int(cell) for cell in row[1:]] == [round(scale * x) for x in expected], row
        assert need.limit == "shared memory"
