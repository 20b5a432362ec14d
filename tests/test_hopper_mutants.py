"""Mutants of the Hopper kernel and its packing: each must be caught, and by the right error.

They test the checker. A mutant is the shipped source with one thing wrong, the kind of thing that
goes wrong in kernels whose threads, copies and products run beside each other; several give right
results on a GPU most of the time, or hang it. Each runs in one of three orders of warps.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from interpreter_launcher import InterpreterLauncher, UnwrittenError
from kernel_problems import FLOAT16, Product, draw_tiles, exact, integers, storage_of
from mutants import BankConflictError, Mutant, WrongResultError, altered, raise_what_is_wrong
from ptx import (
    AccumulatorInUse,
    BarrierDeadlock,
    BarrierMisuse,
    DivergentCollective,
    InvalidMetadata,
    OutOfBounds,
    RaceError,
    UninitialisedRead,
    UninitialisedRegister,
)

from tvwarray._kernels import product
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.hopper import pack as slab_packing
from tvwarray._kernels.hopper.config import HopperConfig
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply

KERNEL = "sm90_tvw_gemm.cu"
COPY = "sm90_copy.cuh"
RESULT = "sm90_result.cuh"
LAYOUT = "sm90_layout.cuh"
WORK = "sm90_work.cuh"
PTX = "sm90_ptx.cuh"

# Small, but with all roles: two warpgroups above each other, four groups of one copying warp.
CONFIG = HopperConfig(False, 128, 64, 64, 64, 4, 1, 4, 184, 56)


FULL = "wait(full + 8 * place.stage, place.round);"
EMPTY = "wait(ring.empty + 8 * place.stage, place.round ^ 1);"
TELL = (
    "            wait_for_all_copies();\n            fence_for_wgmma();\n"
    "            warp_barrier();\n            if (thread % 32 == 0) arrive(my_full);\n"
)
EXPECT = "arrive_expecting(my_full, a_bytes(block));"
SECOND = "multiply_async<1, false>(c[m], a + next_a, b + next_x, meta[m]);"
LAST = "                wait_for_products<0>();\n#pragma unroll"
STAGED = "    warp_barrier();\n    const int my_chunk"
STORE_ONE = "if (n0 + e < n) to[e]"
INSIDE = "column >= 0 && my_n + a * atom_columns < n"

MUTANTS = {
    # ---- phases and arrivals ----
    "stale phase of a full stage": Mutant(
        KERNEL, FULL, FULL.replace("round", "round ^ 1"), (RaceError, BarrierDeadlock)
    ),
    "stale phase of an empty stage": Mutant(
        COPY, EMPTY, EMPTY.replace(" ^ 1", ""), BarrierDeadlock, "can no longer complete"
    ),
    "phase never turns": Mutant(
        WORK, "            round ^= 1;\n", "", (RaceError, BarrierMisuse, UninitialisedRead)
    ),
    "full stage not waited for": Mutant(KERNEL, FULL, "", (RaceError, UninitialisedRead)),
    "empty stage not waited for": Mutant(COPY, EMPTY, "", (RaceError, BarrierMisuse)),
    "one arrival too few expected": Mutant(
        KERNEL, "config::gather_warps + 1)", "config::gather_warps)",
        (BarrierMisuse, RaceError, UninitialisedRead, BarrierDeadlock),
    ),
    "one arrival too many expected": Mutant(
        KERNEL, "config::gather_warps + 1)", "config::gather_warps + 2)", BarrierDeadlock
    ),
    "a warp does not hand back": Mutant(
        KERNEL, "if (lane == 0) arrive(barrier);", "if (lane == 0 && warp != 5) arrive(barrier);",
        BarrierDeadlock,
    ),
    "the item after another one": Mutant(
        WORK, "load_int(following + index)", "load_int(following + max(index - 1, 0))",
        (UnwrittenError, RaceError, WrongResultError),
    ),
    "turns not counted over items": Mutant(
        COPY, "done = (done + block.steps) % config::gather_groups;", "", BarrierDeadlock
    ),
    "barriers used before they are initialised": Mutant(
        KERNEL, "    block_barrier();\n", "", (RaceError, BarrierMisuse)
    ),
    "barriers not published": Mutant(
        KERNEL, "        publish_barriers();\n", "", RaceError, "MissingFence"
    ),
    # ---- bulk copies ----
    "transaction count too small": Mutant(
        COPY, EXPECT, "arrive_expecting(my_full, a_bytes(block) - 16);", BarrierDeadlock
    ),
    "transaction count too large": Mutant(
        COPY, EXPECT, "arrive_expecting(my_full, a_bytes(block) + 16);", BarrierDeadlock
    ),
    "bytes not expected": Mutant(COPY, EXPECT, "arrive(my_full);", RaceError),
    "slabs of the step before": Mutant(
        LAYOUT, "step * block.stride)", "max(step - 1, 0) * block.stride)", WrongResultError
    ),
    # ---- the asynchronous proxy ----
    "missing proxy fence": Mutant(
        COPY, "            fence_for_wgmma();\n", "", RaceError, "MissingFence"
    ),
    "proxy fence before the copies are there": Mutant(
        COPY, TELL, TELL.replace("            wait_for_all_copies();\n", "", 1).replace(
            "            warp_barrier();\n",
            "            wait_for_all_copies();\n            warp_barrier();\n",
        ),
        RaceError, "MissingFence",
    ),
    "copies not waited for": Mutant(
        COPY, "            wait_for_all_copies();\n", "", RaceError, "MissingWait"
    ),
    "one lane tells for others that are not done": Mutant(
        COPY, TELL, TELL.replace("            warp_barrier();\n", ""), RaceError, "Missing"
    ),
    # ---- products ----
    "accumulators read before the wait": Mutant(
        KERNEL, LAST, "#pragma unroll", AccumulatorInUse
    ),
    "stage handed back under a product": Mutant(
        PTX, '"wgmma.wait_group.sync.aligned %0;" ::"n"(newest)',
        '"wgmma.wait_group.sync.aligned %0;" ::"n"(2 * newest)', RaceError, "WriteAfterRead",
    ),
    "stage handed back before the wait": Mutant(
        KERNEL,
        "                wait_for_products<1>();\n                hand_back(last_empty);\n",
        "                hand_back(last_empty);\n                wait_for_products<1>();\n",
        RaceError, "WriteAfterRead",
    ),
    "no fence before products": Mutant(
        KERNEL, "                begin_products();\n", "", AccumulatorInUse, "wgmma.fence"
    ),
    "group not closed": Mutant(
        KERNEL, "                commit_products();\n", "", (AccumulatorInUse, RaceError)
    ),
    "sums not begun anew": Mutant(
        KERNEL, "if (first)\n", "if (first && i == items.first())\n",
        (UninitialisedRegister, WrongResultError),
    ),
    "wrong selector": Mutant(KERNEL, SECOND, SECOND.replace("<1", "<0"), WrongResultError),
    "metadata of the wrong warp": Mutant(
        KERNEL, "slab_value_bytes + thread % 128 *", "slab_value_bytes + (thread ^ 32) % 128 *",
        WrongResultError,
    ),
    "metadata where values are": Mutant(
        KERNEL, "slab_value_bytes + thread % 128 *", "thread % 128 *",
        (InvalidMetadata, WrongResultError),
    ),
    "warps of a warpgroup start different products": Mutant(
        KERNEL, "describe_a(stage + slab_at[m])",
        "describe_a(stage + slab_at[m] + warp % 4 * 512)",
        (DivergentCollective, UninitialisedRead, RaceError),
    ),
    # ---- descriptors ----
    "wrong stride of A": Mutant(
        LAYOUT, "describe(start, 16, 8 * slab_row_bytes,",
        "describe(start, 16, 4 * slab_row_bytes,",
        WrongResultError,
    ),
    "wrong stride of X": Mutant(
        LAYOUT, "describe(start, atom_bytes, 8 * atom_row_bytes,",
        "describe(start, atom_bytes, 4 * atom_row_bytes,", WrongResultError,
    ),
    "wrong swizzle of A": Mutant(
        LAYOUT, "8 * slab_row_bytes, swizzle_64)", "8 * slab_row_bytes, swizzle_128)",
        WrongResultError,
    ),
    "wrong step along A": Mutant(
        LAYOUT, "next_a = 16 * sizeof(Half) / 16", "next_a = 8 * sizeof(Half) / 16",
        WrongResultError,
    ),
    "wrong step down X": Mutant(
        LAYOUT, "next_x = 32 * atom_row_bytes / 16", "next_x = 16 * atom_row_bytes / 16",
        WrongResultError,
    ),
    # ---- where things lie ----
    "swizzle of another row": Mutant(
        COPY, "(chunk ^ first_slot % 8)", "(chunk ^ (first_slot + 1) % 8)", WrongResultError
    ),
    "chunks of a row exchanged": Mutant(
        COPY, "gather((to ^ 3 * chunk_bytes)", "gather((to ^ 2 * chunk_bytes)", WrongResultError
    ),
    "rows of Y turned without a swizzle": Mutant(
        RESULT, "(j + lane / 16 ^ from_row % 8) * chunk_bytes", "(j + lane / 16) * chunk_bytes",
        (WrongResultError, BankConflictError),
    ),
    "missing warp barrier": Mutant(
        RESULT, STAGED, STAGED.split("\n")[1], RaceError, "MissingWarpSync"
    ),
    "wrong row scatter": Mutant(
        KERNEL, "load_int(rows + block.rows + row)", "load_int(rows + block.rows + (row ^ 1))",
        WrongResultError,
    ),
    "column list shifted": Mutant(
        COPY, "cols + block.slots + first_slot;", "cols + block.slots + (first_slot ^ 16);",
        WrongResultError,
    ),
    # ---- edges ----
    "tail of X not masked": Mutant(COPY, INSIDE, "column >= 0", OutOfBounds),
    "padding slot reads X": Mutant(
        COPY, INSIDE, "my_n + a * atom_columns < n", OutOfBounds
    ),
    "tail mask off by one": Mutant(
        RESULT, STORE_ONE, "if (n0 + e <= n) to[e]", (RaceError, OutOfBounds)
    ),
    "last column not stored": Mutant(
        RESULT, STORE_ONE, "if (n0 + e < n - 1) to[e]", UnwrittenError
    ),
    "rows beyond the tile are stored": Mutant(
        KERNEL, "row < block.height ? load", "true ? load", (RaceError, OutOfBounds)
    ),
    "padding rows are stored": Mutant(
        RESULT, "if (to_row >= 0) target.store(chunk", "target.store(chunk", OutOfBounds
    ),
    "rows that are zero are left out": Mutant(
        KERNEL, "            const Epilogue by = {",
        "            if (block.steps == 0) continue;\n            const Epilogue by = {",
        UnwrittenError,
    ),
    "a step left out": Mutant(
        KERNEL, "int left = block.steps - 1;", "int left = block.steps - 2;",
        (UninitialisedRead, BarrierMisuse),
    ),
    "slabs beyond the tile are read": Mutant(
        KERNEL, "min(wg_m * pieces + m, block.slabs - 1)", "(wg_m * pieces + m)",
        (UninitialisedRead, InvalidMetadata),
    ),
    # ---- registers ----
    "more registers than the block has": Mutant(
        KERNEL, "claim_registers<config::multiply_registers>();",
        "claim_registers<config::multiply_registers + 48>();", BarrierDeadlock,
    ),
}  # fmt: skip


def case() -> Product:
    """Return a product that reaches every part: ragged in all ways, more steps than stages."""
    rng = np.random.default_rng(3)
    rows, tiles = draw_tiles(rng, [58, 136, 0, 40], [400, 80, 32, 0], 19, 200)
    storage = storage_of((rows, 200), tiles, FLOAT16, True, integers(rng), rng)
    return Product(storage, integers(rng)((200, 77)).astype(FLOAT16))


@cache
def expected() -> np.ndarray:
    """Return the right product of `case`."""
    return exact(case())[0].astype(FLOAT16)


def judge(sources: dict[str, str], order: Any) -> None:
    """Run altered sources; raise what is wrong with them, return if nothing is."""
    kernel = compile_kernel(CONFIG, "90", sources)
    launcher = InterpreterLauncher("90", order, multiprocessors=3)
    problem = case()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_compiled", lambda *_: kernel)
        got = multiply(launcher, pack(problem.storage), problem.x, config=CONFIG)
    raise_what_is_wrong(got, expected(), launcher.reports)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_the_shipped_kernel_passes(order: str) -> None:
    judge({}, order)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    """By its own error."""
    mutant = MUTANTS[name]
    sources = altered(CONFIG.kernel, mutant.file, mutant.old, mutant.new)
    order = ("forward", "reverse", "random")[list(MUTANTS).index(name) % 3]
    with pytest.raises(mutant.error, match=mutant.message or None):
        judge(sources, order)


@pytest.mark.parametrize("wrong", [lambda k: k[:, ::-1], lambda k: np.roll(k, 1, 0)])
def test_another_swizzle_in_the_packing_is_caught(
    wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slab_packing, "_KEPT_AT", wrong(slab_packing._KEPT_AT))
    with pytest.raises(WrongResultError):
        judge({}, "forward")


def test_metadata_padded_with_zeros_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab_packing, "PADDING_META", 0)
    with pytest.raises(InvalidMetadata):
        judge({}, "forward")
