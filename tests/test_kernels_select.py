"""Choosing a kernel: data in, ranked candidates with reasons out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_problems import BFLOAT16, FLOAT16

from tvwarray._kernels.config import ARCHITECTURES, KernelConfig, few_config
from tvwarray._kernels.cost import RATES, Prediction, Problem, predict, predict_dense, predict_few
from tvwarray._kernels.devices import DEVICES, SHARED_LIMITS, generation, named_device
from tvwarray._kernels.hopper.config import hopper_configs
from tvwarray._kernels.select import Choice, choose, configs

H200 = DEVICES["H200"]


def uniform(
    rows: int, cols: int, n: int, tile_rows: int, keep: float = 0.5, *, sparse: bool = True
) -> Problem:
    """Return the problem of equal tiles that keep a part of the columns."""
    tiles = rows // tile_rows
    bricks = np.append(np.full(tiles, -(-tile_rows // 16)), 0)
    steps = np.append(np.full(tiles, -(-int(cols * keep) // 64)), 0)
    return Problem(BFLOAT16, sparse, (rows, cols), bricks, steps, n)


def shape(choice: Choice) -> tuple[int, int]:
    """Return the block of the best candidate."""
    assert choice.config is not None
    return choice.config.block_rows, choice.config.block_n


def best_mma(problem: Problem) -> Prediction:
    """Return what is predicted for the best kernel that runs ``mma.sp``."""
    candidates = choose(problem, H200).candidates
    found = next(c for c in candidates if c.config.kernel == "sm80_tvw_gemm").prediction
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("tile_rows", "n", "best"),
    [
        (256, 4096, {(256, 128)}),
        (128, 4096, {(128, 256)}),
        (64, 4096, {(64, 256)}),
        (32, 4096, {(32, 128)}),
        (16, 4096, {(16, 128)}),
        (128, 16, {(32, 16)}),
        (128, 32, {(32, 32)}),
        (128, 1, {(16, 8)}),
    ],
)
def test_the_model_agrees_with_what_was_measured(
    tile_rows: int, n: int, best: set[tuple[int, int]]
) -> None:
    """Blocks as high as the tiles, and no wider than the product; times of an H200."""
    choice = choose(uniform(4096, 4096, n, tile_rows), H200)
    assert shape(choice) in best, str(choice)


def test_candidates_are_ranked_and_all_of_them_listed() -> None:
    choice = choose(uniform(1024, 1024, 512, 128), H200)
    times = [c.prediction.seconds for c in choice.candidates if c.prediction]
    assert times == sorted(times)
    shipped = (*configs("90", BFLOAT16, True), *hopper_configs("90", BFLOAT16, True))
    assert {c.config for c in choice.candidates if c.prediction} == set(shipped)
    assert len(str(choice).splitlines()) == len(choice.candidates) > len(times)
    assert "128x128, warps 64x64, 4 stages: at the rate of mma.sp" in str(choice)
    assert "sm80_tvw_gemm bfloat16 2:4" in str(choice)
    assert "sm90_tvw_gemm bfloat16 2:4" in str(choice)


def test_refused_candidates_come_last_with_the_reason() -> None:
    small = replace(H200, shared_per_block=60 << 10)
    choice = choose(uniform(1024, 1024, 512, 128), small)
    refused = [c for c in choice.candidates if c.refusal]
    assert refused
    assert refused == list(choice.candidates[-len(refused) :])
    assert "bytes of shared memory, the device allows a block 61440" in refused[0].refusal
    assert "through L2" in refused[-1].refusal
    assert choice.config is not None
    assert choice.config.shared_bytes <= 60 << 10


def test_nothing_fits_a_device_without_shared_memory() -> None:
    choice = choose(uniform(64, 64, 64, 16), replace(H200, shared_per_block=1024))
    assert choice.config is None
    assert Choice(()).config is None


def test_a_problem_without_tiles_still_has_a_kernel() -> None:
    """All rows are zero: the kernel writes them."""
    zero = Problem(FLOAT16, True, (99, 5), np.array([7]), np.array([0]), 33)
    assert choose(zero, H200).config is not None


def test_more_work_takes_longer() -> None:
    def seconds(problem: Problem) -> float:
        found = choose(problem, H200).candidates[0].prediction
        assert found is not None
        assert found.seconds == sum(found.parts.values())
        return found.seconds

    base = seconds(uniform(4096, 4096, 4096, 128))
    assert seconds(uniform(8192, 4096, 4096, 128)) > base
    assert seconds(uniform(4096, 8192, 4096, 128)) > base
    assert seconds(uniform(4096, 4096, 8192, 128)) > base
    assert seconds(uniform(4096, 4096, 4096, 128, 0.25)) < base
    # One long tile is shared out: it takes longer than without, and less than by one block.
    long = uniform(4096, 4096, 128, 128)
    short = seconds(long)
    long.steps[0] = 10_000
    assert short < seconds(long) < 100 * 10_000 / H200.clock


MEASURED_SPEEDUPS = {
    256: (0.70, 1.29, 2.26, 3.81),
    128: (0.70, 1.27, 2.20, 3.63),
    64: (0.57, 1.04, 1.76, 2.89),
}
"""Over cuBLAS's 177.7 us on an H200, bfloat16, 4096^3, at 50, 75, 87.5 and 95 %."""


@pytest.mark.parametrize("tile_rows", MEASURED_SPEEDUPS)
def test_modelled_times_are_near_measured_ones(tile_rows: int) -> None:
    for keep, speedup in zip((1.0, 0.5, 0.25, 0.1), MEASURED_SPEEDUPS[tile_rows], strict=True):
        problem = uniform(4096, 4096, 4096, tile_rows, keep)
        # The fastest of all shapes when this was measured, 128 x 128 among them.
        made = [c.config for c in choose(problem, H200).candidates]
        mma = [c for c in made if c.kernel == "sm80_tvw_gemm"]
        found = min(predict(c, problem, H200) for c in mma if isinstance(c, KernelConfig))
        assert 0.9 < found.seconds / (177.7e-6 / speedup) < 1.1, (keep, str(found))


FEW_MEASURED = {
    (4096, 4096, 0.5, 1): (8.67, 8.86),
    (4096, 4096, 0.5, 2): (10.30, 10.78),
    (4096, 4096, 0.5, 8): (9.60, 8.64),
    (4096, 4096, 0.5, 16): (10.50, 9.63),
    (4096, 4096, 0.5, 32): (11.39, 10.30),
    (4096, 4096, 0.5, 64): (16.38, 12.00),
    (4096, 4096, 1.0, 1): (11.52, 11.97),
    (4096, 4096, 0.1, 1): (6.27, 6.02),
    (8192, 8192, 0.5, 1): (18.56, 17.79),
    (8192, 8192, 0.5, 16): (27.01, 19.68),
    (8192, 8192, 0.5, 32): (28.48, 21.34),
    (8192, 8192, 0.5, 64): (46.91, 30.50),
    (11008, 4096, 0.5, 1): (13.57, 13.54),
    (11008, 4096, 0.5, 32): (22.94, 19.97),
    (11008, 4096, 0.1, 16): (9.70, 9.22),
    (11008, 4096, 0.1, 64): (20.70, 14.66),
    (768, 3072, 0.5, 1): (5.76, 6.43),
    (768, 3072, 0.5, 8): (6.53, 6.53),
    (768, 3072, 0.5, 64): (8.42, 9.06),
}
"""Microseconds on an H200, tiles of 128 rows, blocks of 16 and 32 rows."""


@pytest.mark.parametrize("product", FEW_MEASURED, ids=str)
def test_modelled_times_of_few_columns_are_near_measured_ones(
    product: tuple[int, int, float, int],
) -> None:
    (rows, cols, keep, n), measured = product, FEW_MEASURED[product]
    problem, times = uniform(rows, cols, n, 128, keep), []
    for block_rows, us in zip((16, 32), measured, strict=True):
        found = predict_few(
            few_config("bfloat16", True, n, cols, block_rows), problem, H200
        ).seconds
        assert 0.9 < found * 1e6 / us < 1.1
        times.append(found)
    assert measured[int(np.argmin(times))] < 1.05 * min(measured)


@pytest.mark.parametrize(
    ("size", "n", "measured"),
    [
        (1024, 1024, 8.66),
        (2048, 2048, 27.1),
        (4096, 4096, 178.3),
        (8192, 8192, 1422),
        (4096, 1, 19),
    ],
)
def test_modelled_dense_times_are_near_measured_ones(size: int, n: int, measured: float) -> None:
    """Of cuBLAS on an H200, bfloat16, in microseconds."""
    assert 0.85 < predict_dense((size, size), n, 2, H200) * 1e6 / measured < 1.15


def test_what_limits_a_product_is_named() -> None:
    def limit(problem: Problem) -> str:
        found = best_mma(problem)
        assert found.limit in str(found)
        return found.limit

    assert limit(uniform(4096, 4096, 4096, 128)) == "shared memory"
    assert limit(uniform(4096, 64, 16384, 128, 0.0)) == "memory"
    assert limit(uniform(128, 4096, 8, 128)) == "latency"
    skewed = uniform(4096, 64, 8, 128)
    skewed.steps[0] = 10  # too short to be shared out
    assert limit(skewed) == "one tile"


@pytest.mark.parametrize("device", ["A100", "RTX 4090", "H200", "RTX 5090"])
@pytest.mark.parametrize("n", [512, 2048, 8192])
def test_skewed_tiles_are_modelled_near_equal_ones(device: str, n: int) -> None:
    """Of 1 to 20 times the slots, equal work in all: 15 %, by the kernel of all chips."""

    def seconds(steps: np.ndarray) -> float:
        problem = Problem(BFLOAT16, True, (8192, 4096), np.full(64, 8), steps, n)
        candidates = choose(problem, DEVICES[device]).candidates
        found = next(c for c in candidates if c.config.kernel == "sm80_tvw_gemm").prediction
        assert found is not None
        return found.seconds

    skew = np.linspace(1, 20, 64)
    skew = np.round(32 * skew / skew.mean()).astype(int)
    assert skew.max() > 15 * skew.min()
    assert seconds(skew) < 1.15 * seconds(np.full(64, round(skew.mean())))


def test_devices_have_names() -> None:
    assert named_device("nvidia h200") is H200
    assert named_device("sm_80").name == "A100"
    assert {generation(d.architecture) for d in DEVICES.values()} == set(SHARED_LIMITS)
    with pytest.raises(ValueError, match=r"device is 'TPU'; known are A100, .*sm_120"):
        named_device("TPU")


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("sparse", [True, False])
def test_every_generation_has_configs_that_fit(architecture: str, sparse: bool) -> None:
    per_block, per_multiprocessor = SHARED_LIMITS[generation(architecture)]
    found = configs(architecture, FLOAT16, sparse)
    assert len({(c.block_rows, c.block_n) for c in found}) == len(found) >= 6
    for config in found:
        assert config.refusal() == ""
        assert config.shared_bytes <= per_block
        assert config.min_blocks * (config.shared_bytes + 1024) <= per_multiprocessor
        assert config.threads * config.min_blocks <= 1536


def test_other_minor_versions_belong_to_their_generation() -> None:
    assert {a: generation(a) for a in ("87", "90a", "103", "100a", "121", "120f")} == {
        "87": "80", "90a": "90", "103": "100", "100a": "100", "121": "120", "120f": "120",
    }  # fmt: skip
    assert set(RATES) == set(SHARED_LIMITS)
    for old in ("70", "75"):
        with pytest.raises(KeyError, match=f"sm_{old} has no"):
            generation(old)


GOOD = configs("90", FLOAT16, True)[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"warp_rows": 48}, "do not tile the block"),
        ({"block_rows": 24, "warp_rows": 24}, "multiples of 16 rows"),
        ({"block_n": 512}, "block_n is 512"),
        ({"block_n": 256, "warp_n": 128, "block_rows": 64}, "gathers 2 rows at once"),
        ({"stages": 1}, "stages is below 2"),
        ({"block_rows": 256, "block_n": 256, "stages": 2}, "does not fit into the ring"),
    ],
)
def test_a_config_says_which_rule_it_breaks(change: dict[str, Any], reason: str) -> None:
    assert reason in replace(GOOD, **change).refusal()


def test_a_config_knows_what_it_costs() -> None:
    """128 x 256 by 8 warps: 64 rows of X, 128 half rows of A, 128 bytes of metadata a brick."""
    assert (
        KernelConfig("sm80_tvw_gemm", "float16", True, 128, 256, 64, 64, 4, 1, output="float16")
        == GOOD
    )
    assert GOOD.threads == 256
    assert GOOD.stage_bytes == 64 * 256 * 2 + 128 * 32 * 2 + 8 * 128
    assert GOOD.products == 4 * 8 * 2
    assert str(GOOD) == "sm80_tvw_gemm float16 2:4 128x256, warps 64x64, 4 stages"
    plain = configs("90", BFLOAT16, False)[0]
    assert plain.a_stage_bytes == plain.block_rows * 128
    assert "all slots" in str(plain)
