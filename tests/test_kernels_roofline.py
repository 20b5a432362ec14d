"""The static count of the main loop, and the share of the tensor cores' peak that it allows."""

from __future__ import annotations

import pytest
from kernel_problems import BFLOAT16, FLOAT16
from main_loop import L2_BYTES, limits

from tvwarray._kernels.select import configs

SHARE = 0.85

SHORT = {("90", 128, 128): 0.71}
"""Known to be below it: blocks of 128 x 128 want more of an H200's L2 than was measured there."""


@pytest.mark.parametrize("architecture", list(L2_BYTES))
def test_large_blocks_reach_most_of_the_peak(architecture: str) -> None:
    """Each shipped 2:4 config of 128 x 128 or larger; one element, both have the same counts."""
    large = [c for c in configs(architecture, FLOAT16, True) if min(c.block_rows, c.block_n) >= 128]
    assert len(large) == 3
    for config in large:
        found = limits(config, architecture)
        assert found.counts["mma.sp"] == config.products
        assert found.counts["cp.async.cg"] * 16 * config.threads >= config.stage_bytes
        assert found.counts["ldmatrix"] == 2 * config.warp_n // 8
        assert found.share_by_instructions >= SHARE, f"{config} on sm_{architecture}: {found}"
        least = SHORT.get((architecture, config.block_rows, config.block_n), SHARE)
        assert found.share >= least, f"{config} on sm_{architecture}: {found}"


def test_both_elements_have_the_same_main_loop() -> None:
    halves, brains = (configs("90", dtype, True)[2] for dtype in (FLOAT16, BFLOAT16))
    assert limits(halves, "90") == limits(brains, "90")
