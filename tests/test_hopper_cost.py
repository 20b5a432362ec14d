"""The model of the Hopper kernel: near what an H200 measured, and what the documentation says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from kernel_problems import BFLOAT16, FLOAT16

from tvwarray._kernels.cost import Problem
from tvwarray._kernels.devices import DEVICES
from tvwarray._kernels.hopper.config import HopperConfig, hopper_configs
from tvwarray._kernels.hopper.cost import budget, predict_hopper
from tvwarray._kernels.select import choose

H200 = DEVICES["H200"]
ALL = hopper_configs("90", BFLOAT16, True, every_column=True)
SHIPPED = {(c.block_rows, c.block_n): c for c in ALL if c.cluster == 1}
PAIRED = {(c.block_rows, c.block_n): c for c in ALL if c.cluster > 1}
KEPT = (1.0, 0.5, 0.25, 0.1)
DOCUMENTED = Path(__file__).parent.parent / "docs" / "hopper.md"

MEASURED = {
    (4096, (256, 128)): (131.9, 73.3, 45.2, 29.4),
    (4096, (128, 256)): (140.6, 83.7, 52.9, 34.2),
    (4096, (128, 128)): (179.1, 98.3, 55.8, 33.1),
    (4096, (64, 256)): (247.9, 142.9, 79.9, 41.6),
    (8192, (256, 128)): (999.5, 524.4, 287.2, 149.5),
    (8192, (128, 256)): (1090.8, 591.0, 323.1, 176.7),
    (8192, (128, 128)): (1328.5, 716.0, 369.0, 181.1),
    (8192, (64, 256)): (1947.1, 1087.0, 551.0, 242.5),
}
"""Microseconds on an H200, tiles as high as the block, at 50, 75, 87.5 and 95 %."""


MEASURED_PAIRED = {
    (4096, (256, 128)): (131.5, 72.6, None, 30.4),
    (8192, (256, 128)): (1012.0, 528.2, None, 148.1),
    (4096, (128, 256)): (121.6, None, None, None),
    (8192, (128, 256)): (935.0, None, None, None),
}
"""The same in clusters of two: those that share A, and those that share X, of plain 2:4."""


def uniform(size: int, n: int, tile_rows: int, keep: float, every_column: bool = False) -> Problem:
    tiles = size // tile_rows
    bricks = np.append(np.full(tiles, tile_rows // 16), 0)
    steps = np.append(np.full(tiles, round(size * keep / 64)), 0)
    return Problem(BFLOAT16, True, (size, size), bricks, steps, n, every_column=every_column)


@pytest.mark.parametrize(("size", "block"), MEASURED, ids=str)
def test_modelled_times_are_near_measured_ones(size: int, block: tuple[int, int]) -> None:
    for keep, us in zip(KEPT, MEASURED[size, block], strict=True):
        found = predict_hopper(SHIPPED[block], uniform(size, size, block[0], keep), H200)
        assert 0.84 < found.seconds * 1e6 / us < 1.1, (keep, us, str(found))


@pytest.mark.parametrize(("size", "block"), MEASURED_PAIRED, ids=str)
def test_modelled_times_of_clusters_are_near_measured_ones(
    size: int, block: tuple[int, int]
) -> None:
    for keep, us in zip(KEPT, MEASURED_PAIRED[size, block], strict=True):
        if us is not None:
            found = predict_hopper(PAIRED[block], uniform(size, size, 256, keep), H200)
            assert 0.9 < found.seconds * 1e6 / us < 1.05, (keep, us, str(found))


def test_plain_two_of_four_takes_boxes_and_large_x_shares_a() -> None:
    for size in (4096, 8192):
        plain = choose(uniform(size, size, 256, 1.0, every_column=True), H200).config
        assert plain == PAIRED[128, 256]
        gathered = choose(uniform(size, size, 256, 0.5), H200).config
        assert gathered == (PAIRED if size > 4096 else SHIPPED)[256, 128]


@pytest.mark.parametrize(("tile_rows", "block"), [(256, (256, 128)), (128, (128, 256))])
def test_the_fastest_kernel_is_chosen(tile_rows: int, block: tuple[int, int]) -> None:
    for keep in KEPT:
        best = choose(uniform(8192, 8192, tile_rows, keep), H200).config
        assert isinstance(best, HopperConfig)
        assert (best.block_rows, best.block_n) == block


def test_few_columns_stay_with_the_other_kernel() -> None:
    for n in (1, 8, 16, 32):
        assert not isinstance(choose(uniform(4096, n, 128, 0.5), H200).config, HopperConfig)


def test_what_limits_a_product_is_named() -> None:
    config = SHIPPED[256, 128]

    def limit(problem: Problem) -> str:
        found = predict_hopper(config, problem, H200)
        assert found.seconds == sum(found.parts.values())
        return found.limit

    assert limit(uniform(4096, 4096, 256, 1.0)) == "shared memory"
    assert limit(uniform(4096, 4096, 256, 0.01)) == "stores"
    long = uniform(4096, 4096, 256, 0.1)
    long.steps[0] = 10_000
    assert limit(long) == "one tile"
    assert (
        limit(Problem(FLOAT16, True, (0, 64), np.zeros(1, int), np.zeros(1, int), 64)) == "launch"
    )
    slow = replace(H200, dram_rate=1e11)
    assert predict_hopper(config, uniform(4096, 4096, 256, 0.5), slow).limit == "memory"


def test_the_documented_budget_is_the_model() -> None:
    """Clocks of a step scaled to 256 x 128 outputs, as docs/hopper.md lists them."""
    rows = [
        [cell.strip(" *") for cell in line.strip("|\n").split("|")]
        for line in DOCUMENTED.read_text().splitlines()
        if line.startswith("| **") and "(" in line and "measured" not in line
    ]
    assert len(rows) == len(SHIPPED) + len(PAIRED)
    for row in rows:
        block, what = row[0].replace("*", "").split(" (")
        m, n = map(int, block.split(" x "))
        config = (PAIRED if "shared" in what else SHIPPED)[m, n]
        need, scale = budget(config), 256 * 128 / (m * n)
        clocks = need.clocks
        expected = [
            need.tensor_clocks, need.read_bytes / 128, need.gathered_bytes / 128,
            need.gather_instructions, need.bulk_bytes / 128, clocks["shared memory"], clocks["L2"],
        ]  # fmt: skip
        assert [int(cell) for cell in row[1:]] == [round(scale * x) for x in expected], row
        assert need.limit == max(clocks, key=lambda name: clocks[name])


def test_the_limits_are_those_asked_for() -> None:
    """Steps alone, evenly spread: over cuBLAS's 178 and 1377 us."""
    asked = {(256, 4096): (1.2, 2.3, 3.5, 6.0), (256, 8192): (1.2, 2.3, 3.5, 6.0)}
    asked[128, 8192] = (0.0, 1.6, 0.0, 0.0)
    for (rows, size), least in asked.items():
        config = SHIPPED[(256, 128) if rows == 256 else (128, 256)]
        step = max(budget(config).clocks.values()) / H200.clock
        for keep, factor in zip(KEPT, least, strict=True):
            items = (size // config.block_rows) * (size // config.block_n)
            seconds = items / H200.multiprocessors * size * keep / 64 * step
            assert {4096: 178e-6, 8192: 1377e-6}[size] / seconds > factor


def test_from_128_columns_on_hopper_has_a_kernel_of_its_own() -> None:
    """4096x4096 at 75 %, tiles of 128: 14.8 us against 18.3 with n = 128, 15.1 against 26.4, ..."""
    for n in (128, 256, 512, 1024, 2048):
        assert isinstance(choose(uniform(4096, n, 128, 0.5), H200).config, HopperConfig), n
