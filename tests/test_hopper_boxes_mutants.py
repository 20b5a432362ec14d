"""Mutants of what clusters share: each must be caught, and by the right error.

As `test_hopper_mutants`, for blocks that reach into each other's shared memory, and boxes of X.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from interpreter_launcher import InterpreterLauncher, UnwrittenError
from kernel_problems import FLOAT16, Product, exact
from mutants import Mutant, WrongResultError, altered, raise_what_is_wrong
from ptx import BarrierDeadlock, BarrierMisuse, RaceError, UninitialisedRead
from test_hopper_boxes import plain

from tvwarray._kernels import product
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.hopper import pack as slab_packing
from tvwarray._kernels.hopper.config import HopperConfig
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply

KERNEL = "sm90_tvw_gemm.cu"
COPY = "sm90_copy.cuh"
LAYOUT = "sm90_layout.cuh"

# Small, but with all roles, in clusters of two: one shares X, the other gathers it and shares A.
BOXES = HopperConfig(False, 128, 128, 64, 128, 3, 1, 1, 232, 40, boxes=True, cluster=2)
GATHERED = HopperConfig(False, 128, 64, 64, 64, 4, 1, 4, 184, 56, cluster=2)

HAND_BACK = "if (lane < config::cluster) arrive_remotely(map_to(barrier, lane));"
EMPTY = "wait(my_empty, place.round ^ 1);"
WAITED = "                wait_for_products<1>();\n                hand_back(last_empty);\n"
FIRST_BARRIER = "    if constexpr (config::cluster > 1)\n        cluster_barrier();\n"
LAST_BARRIER = "        cluster_barrier();  // until then others"

MUTANTS = {
    # ---- stages of two blocks ----
    "a stage handed back to its own block alone": Mutant(
        KERNEL, HAND_BACK, "if (lane == 0) arrive(barrier);", BarrierDeadlock
    ),
    "a stage handed back to one block twice": Mutant(
        KERNEL, HAND_BACK, HAND_BACK.replace(", lane)", ", 1)"), (BarrierMisuse, BarrierDeadlock)
    ),
    "own arrivals are enough": Mutant(
        KERNEL, "multiply_warps * config::cluster);", "multiply_warps);",
        (BarrierMisuse, RaceError),
    ),
    "stage handed back before the wait": Mutant(
        KERNEL, WAITED, "\n".join([*WAITED.splitlines()[::-1], ""]), RaceError, "WriteAfterRead"
    ),
    "empty stage not waited for": Mutant(COPY, EMPTY, "", (RaceError, BarrierMisuse)),
    "stale phase of an empty stage": Mutant(
        COPY, EMPTY, EMPTY.replace(" ^ 1", ""), BarrierDeadlock
    ),
    "blocks begin without each other": Mutant(
        KERNEL, FIRST_BARRIER, FIRST_BARRIER.replace("cluster_b", "block_b"),
        (RaceError, BarrierMisuse),
    ),
    "a block leaves before the other": Mutant(
        KERNEL, LAST_BARRIER, LAST_BARRIER[8:].replace("cluster_barrier();", ""),
        BarrierMisuse, "has ended",
    ),
    # ---- boxes ----
    "both blocks copy the same share": Mutant(
        COPY, "first_atom = rank_in_cluster() * share", "first_atom = 0 * share",
        (RaceError, UninitialisedRead),
    ),
    "boxes for one block only": Mutant(
        LAYOUT, "everyone = (1 << config::cluster) - 1", "everyone = 1",
        (BarrierDeadlock, BarrierMisuse),
    ),
    "bytes of X not expected": Mutant(
        COPY, "x_bytes + a_bytes(block));", "a_bytes(block));",
        (BarrierDeadlock, BarrierMisuse, RaceError, UninitialisedRead),
    ),
    "boxes exchanged": Mutant(
        COPY, "item.n + a * atom_columns,", "item.n + (a ^ 1) * atom_columns,",
        WrongResultError,
    ),
    "rows of another step": Mutant(
        COPY, " step * step_slots, my_full", " (step ^ 1) * step_slots, my_full",
        WrongResultError,
    ),
    "box beside its place": Mutant(
        COPY, "copy_box_to(stage + a * atom_bytes,", "copy_box_to(stage + a * atom_bytes + 128,",
        (WrongResultError, RaceError, UninitialisedRead),
    ),
    # ---- items ----
    "both blocks take the same rows": Mutant(
        LAYOUT, "work.entry * tall + rank_in_cluster() % tall", "work.entry * tall",
        (UnwrittenError, RaceError),
    ),
    "blocks take other columns than they copy": Mutant(
        LAYOUT, "work.column * wide + rank_in_cluster() % wide",
        "work.column * wide + rank_in_cluster()",
        (WrongResultError, UnwrittenError),
    ),
}  # fmt: skip

SHARED_A = {
    "both blocks copy all of A": Mutant(
        COPY, "share = a_bytes(block) / config::cluster;", "share = a_bytes(block);",
        (RaceError, BarrierMisuse, BarrierDeadlock),
    ),
    "both blocks copy the same share of A": Mutant(
        COPY, "first = rank_in_cluster() * share;", "first = 0 * share;",
        (RaceError, UninitialisedRead),
    ),
    "own arrivals are enough for A": Mutant(
        KERNEL, "multiply_warps * config::cluster);", "multiply_warps);",
        (BarrierMisuse, RaceError),
    ),
}  # fmt: skip
MUTANTS |= SHARED_A


@cache
def case() -> Product:
    """Return a product that reaches every part: three entries, more steps than stages, zeros."""
    return plain([200, 70], 290, 200, dropped=19)


@cache
def expected() -> np.ndarray:
    """Return the right product of `case`."""
    return exact(case())[0].astype(FLOAT16)


def judge(config: HopperConfig, sources: dict[str, str], order: Any) -> None:
    """Run altered sources; raise what is wrong with them, return if nothing is."""
    kernel = compile_kernel(config, "90", sources)
    launcher = InterpreterLauncher("90", order, multiprocessors=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_compiled", lambda *_: kernel)
        got = multiply(launcher, pack(case().storage), case().x, config=config)
    raise_what_is_wrong(got, expected(), launcher.reports)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("config", [BOXES, GATHERED], ids=str)
def test_the_shipped_kernel_passes(config: HopperConfig, order: str) -> None:
    judge(config, {}, order)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    """By its own error."""
    mutant = MUTANTS[name]
    config = GATHERED if name in SHARED_A else BOXES
    sources = altered(config.kernel, mutant.file, mutant.old, mutant.new)
    order = ("forward", "reverse", "random")[list(MUTANTS).index(name) % 3]
    with pytest.raises(mutant.error, match=mutant.message or None):
        judge(config, sources, order)


def test_a_work_list_without_whole_clusters_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab_packing, "_grouped", lambda blocks, cluster: blocks)
    with pytest.raises((UnwrittenError, BarrierDeadlock)):
        judge(BOXES, {}, "forward")
