"""The static count of the main loop, and the share of the tensor cores' peak that it allows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kernel_problems import BFLOAT16, FLOAT16
from main_loop import L2_BYTES, limits

from tvwarray._kernels.cost import Problem, predict
from tvwarray._kernels.devices import DEVICES
from tvwarray._kernels.select import choose, configs

SHARE = 0.85
H200 = DEVICES["H200"]


def problem(rows: int, n: int) -> Problem:
    """Return a product of tiles of 128 rows that keep 1024 columns."""
    tiles = rows // 128
    return Problem(BFLOAT16, True, (rows, 2048), np.full(tiles, 8), np.full(tiles, 16), n)


@pytest.mark.parametrize("architecture", list(L2_BYTES))
def test_large_blocks_reach_most_of_the_peak(architecture: str) -> None:
    """Each shipped 2:4 config of 128 x 128 or larger; one element, both have the same counts."""
    large = [c for c in configs(architecture, FLOAT16, True) if min(c.block_rows, c.block_n) >= 128]
    assert len(large) == (2 if architecture == "90" else 3)
    for config in large:
        found = limits(config, architecture)
        assert found.counts["mma.sp"] == config.products
        assert found.counts["cp.async.cg"] * 16 * config.threads >= config.stage_bytes
        assert found.counts["ldmatrix"] == 2 * config.warp_n // 8
        assert found.share >= SHARE, f"{config} on sm_{architecture}: {found}"


def test_what_is_not_shipped_is_below_it_and_refused_by_its_figures() -> None:
    """The block of 128 x 128 of other chips would wait for L2 on sm_90."""
    like = next(c for c in configs("80", FLOAT16, True) if c.block_rows == c.block_n == 128)
    found = limits(like, "90")
    assert found.bound == "L2"
    assert found.share < SHARE
    refusals = [c.refusal for c in choose(problem(4096, 4096), H200).candidates if c.refusal]
    (refusal,) = (reason for reason in refusals if "mma.sp" in reason)
    wanted, given = like.stage_bytes / found.clocks["tensor cores"], L2_BYTES["90"]
    assert f"{wanted:.0f} bytes a clock" in refusal
    assert f"{given:.0f}: {100 * found.share:.0f} %" in refusal
    others = (c for c in configs("90", FLOAT16, True) if min(c.block_rows, c.block_n) >= 128)
    shares = " and ".join(f"{100 * limits(c, '90').share:.0f}" for c in others)
    assert refusal.endswith(f"reach {shares} %")


@pytest.mark.parametrize("n", [64, 128, 256, 640, 1280, 2048, 8192])
@pytest.mark.parametrize("rows", [768, 3072, 4096])
def test_little_is_lost_without_it(rows: int, n: int) -> None:
    """Few blocks or many: by the model, the other shapes are within a fifth of it."""
    of = problem(rows, n)
    like = replace(configs("80", BFLOAT16, True)[2], stages=4)
    assert (like.block_rows, like.block_n) == (128, 128)
    candidates = choose(of, H200).candidates
    best = next(c.prediction for c in candidates if c.config.kernel == "sm80_tvw_gemm")
    assert best is not None
    assert best.seconds < 1.2 * predict(like, of, H200).seconds


def test_both_elements_have_the_same_main_loop() -> None:
    halves, brains = (configs("80", dtype, True)[2] for dtype in (FLOAT16, BFLOAT16))
    assert limits(halves, "80") == limits(brains, "80")
