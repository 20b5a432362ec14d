"""Mutants of the Hopper kernel of 8-bit values: each must be caught, and by the right error.

As in `test_hopper_mutants.py`. What this kernel has beside the other one are landings, the turn
from rows to columns, metadata of two products, and sums that are promoted.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from interpreter_launcher import InterpreterLauncher, UnwrittenError
from kernel_problems import Product, draw_tiles, exact, integers, storage_of
from mutants import BankConflictError, Mutant, WrongResultError, altered, raise_what_is_wrong
from ptx import (
    AccumulatorInUse,
    BarrierDeadlock,
    BarrierMisuse,
    InvalidMetadata,
    OutOfBounds,
    RaceError,
    UninitialisedRead,
    UninitialisedRegister,
)

from tvwarray._kernels import bricks, product
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.hopper import pack as slab_packing
from tvwarray._kernels.hopper.config8 import ByteConfig
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply

KERNEL = "sm90_tvw_gemm8.cu"
LAYOUT = "sm90_layout8.cuh"
RESULT = "sm90_result8.cuh"
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)

# Small, but with all roles: two warpgroups above each other, fewer stages than steps.
CONFIG = ByteConfig("float8_e4m3", 128, 128, 64, 128, 3, 2, 2, 2, 184, 88)
PROMOTED = ByteConfig("float8_e4m3", 128, 128, 64, 128, 3, 2, 2, 2, 184, 88, promote=2)

FULL = "wait(full + 8 * place.stage, place.round);"
EMPTY = "wait(empty + 8 * place.stage, place.round ^ 1);"
LANDED = "                wait_for_copies_but<config::landings - 1>();\n"
TURN = "                turn(landing, stage);\n"
LATE = (
    "                turn(landing, stage);\n                int column[lane_columns];\n"
    "                load_columns(column);\n                fence_for_wgmma();\n"
)
FENCE = "                fence_for_wgmma();\n"
TELL = "                if (lane == 0) arrive(my_full);\n"
FETCH = "                fetch(column, landing);\n"
BARRIER = "                warp_barrier();\n"
SECOND = "multiply_async<0, false>(c[m], a + next_a, b + next_x, meta[m][1]);"
INSIDE = "of >= 0 && n_ahead + s * strip_columns < n"
STORE_ONE = "if (n0 + e < target.n) to[e]"

MUTANTS = {
    # ---- landings ----
    "copies not waited for": Mutant(KERNEL, LANDED, "", RaceError, "MissingWait"),
    "one step too few waited for": Mutant(
        KERNEL, "wait_for_copies_but<config::landings - 1>()",
        "wait_for_copies_but<config::landings>()", RaceError, "MissingWait",
    ),
    "other lanes' copies not waited for": Mutant(
        KERNEL, LANDED + BARRIER, LANDED, RaceError, "Missing"
    ),
    "a landing written again while it is read": Mutant(
        KERNEL, FENCE + BARRIER + TELL + FETCH, FENCE + FETCH + BARRIER + TELL,
        RaceError, "WriteAfterRead",
    ),
    "groups of copies not closed where there are none": Mutant(
        KERNEL, "                find_ahead();\n            }\n            commit_copies();",
        "                find_ahead();\n            commit_copies();\n            }",
        RaceError, "MissingWait",
    ),
    "another warp's landings": Mutant(
        KERNEL, "all_landings + (warp - multiply_warps) * config",
        "all_landings + (warp - multiply_warps) / 2 * 2 * config",
        (RaceError, WrongResultError),
    ),
    "the item ahead is not left": Mutant(
        KERNEL,
        "    item_ahead = item_after(following, item_ahead, gridDim.x);\n                }\n"
        "                find",
        "}\n                find", (WrongResultError, BarrierDeadlock),
    ),
    # ---- from rows to columns ----
    "even and odd columns exchanged": Mutant(
        KERNEL, "lane < 16 ? 0x6420 : 0x7531;", "lane < 16 ? 0x7531 : 0x6420;", WrongResultError
    ),
    "slots of a word exchanged": Mutant(
        KERNEL, "lane < 16 ? 0x7531 : 0x6420;", "lane < 16 ? 0x5731 : 0x4620;", WrongResultError
    ),
    "columns turned in natural order": Mutant(
        KERNEL, "(lane / 8 % 2 ^ stored / 4)", "lane / 8 % 2", (WrongResultError, BankConflictError)
    ),
    "a turned column without the swizzle": Mutant(
        KERNEL, "(member * warp_parts ^ my_column % 8) * chunk_bytes;",
        "member * warp_parts * chunk_bytes;", (WrongResultError, BankConflictError),
    ),
    "the swizzle of a landing of another row": Mutant(
        KERNEL, "(chunk ^ first_row % 8) * chunk_bytes;",
        "(chunk ^ (first_row + 1) % 8) * chunk_bytes;", WrongResultError,
    ),
    "slots of another warp": Mutant(
        KERNEL, "step_ahead * step_slots + member * warp_slots;",
        "step_ahead * step_slots + (member ^ 1) * warp_slots;", WrongResultError,
    ),
    "columns of another part": Mutant(
        KERNEL, "i * part_slots % 32 + first_row + k);",
        "(i ^ 1) * part_slots % 32 + first_row + k);", WrongResultError,
    ),
    "groups do not take turns over items": Mutant(
        KERNEL, "            step -= block.steps;\n", "            step = group;\n",
        (BarrierDeadlock, RaceError, BarrierMisuse, WrongResultError),
    ),
    "turned before the stage is empty": Mutant(
        KERNEL, EMPTY, "", (RaceError, BarrierMisuse)
    ),
    "half of the columns turned": Mutant(
        KERNEL, "j < strip_columns / 32; ++j", "j < strip_columns / 64; ++j",
        (UninitialisedRead, WrongResultError),
    ),
    # ---- phases and the asynchronous proxy ----
    "stale phase of a full stage": Mutant(
        KERNEL, FULL, FULL.replace("round", "round ^ 1"),
        (RaceError, BarrierDeadlock, UninitialisedRead),
    ),
    "full stage not waited for": Mutant(KERNEL, FULL, "", (RaceError, UninitialisedRead)),
    "one arrival too few expected": Mutant(
        KERNEL, "config::gather_warps + 1)", "config::gather_warps)",
        (BarrierMisuse, RaceError, UninitialisedRead, BarrierDeadlock),
    ),
    "transaction count too small": Mutant(
        KERNEL, "arrive_expecting(my_full, bytes);", "arrive_expecting(my_full, bytes - 16);",
        BarrierDeadlock,
    ),
    "missing proxy fence": Mutant(KERNEL, FENCE, "", RaceError, "MissingFence"),
    "proxy fence before the turn": Mutant(
        KERNEL, LATE, LATE.replace(FENCE, "").replace(TURN, FENCE + TURN), RaceError, "MissingFence"
    ),
    "one lane tells for others that are not done": Mutant(
        KERNEL, FENCE + BARRIER + TELL, FENCE + TELL + BARRIER, RaceError, "Missing"
    ),
    # ---- products ----
    "metadata of the first product for both": Mutant(
        KERNEL, SECOND, SECOND.replace("[1]", "[0]"), WrongResultError
    ),
    "metadata of the wrong warp": Mutant(
        KERNEL, "warp % 4 * warp_meta_bytes", "(warp ^ 1) % 4 * warp_meta_bytes", WrongResultError
    ),
    "values where metadata is expected": Mutant(
        KERNEL, "meta_at = slab_value_bytes +", "meta_at =", (InvalidMetadata, WrongResultError)
    ),
    "wrong stride of X": Mutant(
        LAYOUT, "describe(start, 16, 8 * x_row_bytes,", "describe(start, 16, 4 * x_row_bytes,",
        WrongResultError,
    ),
    "wrong swizzle of X": Mutant(
        LAYOUT, "8 * x_row_bytes, swizzle_128)", "8 * x_row_bytes, swizzle_64)",
        (WrongResultError, BarrierMisuse, Exception),
    ),
    "wrong step along A": Mutant(
        LAYOUT, "next_a = 32 / 16", "next_a = 16 / 16", WrongResultError
    ),
    "wrong step along X": Mutant(
        LAYOUT, "next_x = 64 / 16", "next_x = 32 / 16", WrongResultError
    ),
    "sums not begun anew": Mutant(
        KERNEL, "if (first)\n", "if (first && item == blockIdx.x)\n",
        (UninitialisedRegister, WrongResultError, AccumulatorInUse),
    ),
    "stage handed back before the wait": Mutant(
        KERNEL,
        "                    multiply(meta, false);\n                    wait_for_products<1>();\n"
        "                    hand_back(last_empty);\n",
        "                    multiply(meta, false);\n                    hand_back(last_empty);\n"
        "                    wait_for_products<1>();\n",
        RaceError, "WriteAfterRead",
    ),
    # ---- edges ----
    "tail of X not masked": Mutant(KERNEL, INSIDE, "of >= 0", OutOfBounds),
    "padding slot reads X": Mutant(
        KERNEL, INSIDE, "n_ahead + s * strip_columns < n", OutOfBounds
    ),
    "tail mask off by one": Mutant(
        RESULT, STORE_ONE, "if (n0 + e <= target.n) to[e]", (RaceError, OutOfBounds)
    ),
    "last column not stored": Mutant(
        RESULT, STORE_ONE, "if (n0 + e < target.n - 1) to[e]", UnwrittenError
    ),
    "rows beyond the tile are stored": Mutant(
        RESULT, "of_block < height ? load", "true ? load", (RaceError, OutOfBounds)
    ),
    "missing warp barrier": Mutant(
        RESULT, "    warp_barrier();\n    const int mine", "    const int mine", RaceError,
        "MissingWarpSync",
    ),
    "slabs beyond the tile are read": Mutant(
        KERNEL, "min(wg_m * pieces + m, block.slabs - 1)", "(wg_m * pieces + m)",
        (UninitialisedRead, InvalidMetadata),
    ),
    "more registers than the block has": Mutant(
        KERNEL, "claim_registers<config::multiply_registers>();",
        "claim_registers<config::multiply_registers + 56>();", BarrierDeadlock,
    ),
}  # fmt: skip

PROMOTED_MUTANTS = {
    "promoted before the wait": Mutant(
        KERNEL, "                    wait_for_products<0>();\n                    receive_all();",
        "                    receive_all();", AccumulatorInUse,
    ),
    "sums promoted twice": Mutant(
        KERNEL, "                    multiply(meta, true);\n                    next();\n#pragma",
        "                    multiply(meta, left == block.steps);\n"
        "                    next();\n#pragma",
        (WrongResultError, AccumulatorInUse),
    ),
    "last steps left out": Mutant(
        KERNEL, "for (int left = block.steps; left > 0;",
        "for (int left = block.steps; left >= config::promote;",
        (WrongResultError, RaceError, UninitialisedRead, BarrierDeadlock, BarrierMisuse),
    ),
    "a stage of the promoted sums not handed back": Mutant(
        KERNEL, "                    receive_all();\n                    hand_back(last_empty);\n",
        "                    receive_all();\n", BarrierDeadlock,
    ),
}  # fmt: skip


def case() -> Product:
    """Return a product that reaches every part: ragged in all ways, more steps than stages."""
    rng = np.random.default_rng(3)
    rows, tiles = draw_tiles(rng, [75, 58, 0, 20, 9], [560, 288, 32, 0, 160], 9, 100)
    storage = storage_of((rows, 100), tiles, E4M3, True, integers(rng), rng)
    return Product(storage, integers(rng)((100, 45)).astype(E4M3))


@cache
def expected() -> np.ndarray:
    """Return the right product of `case`."""
    return exact(case())[0]


def judge(sources: dict[str, str], order: Any, config: ByteConfig = CONFIG) -> None:
    """Run altered sources; raise what is wrong with them, return if nothing is."""
    kernel = compile_kernel(config, "90", sources)
    launcher = InterpreterLauncher("90", order, multiprocessors=2)
    problem = case()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_compiled", lambda *_: kernel)
        got = multiply(launcher, pack(problem.storage), problem.x, config=config)
    raise_what_is_wrong(got, expected(), launcher.reports)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("config", [CONFIG, PROMOTED], ids=str)
def test_the_shipped_kernel_passes(config: ByteConfig, order: str) -> None:
    judge({}, order, config)


@pytest.mark.parametrize("name", [*MUTANTS, *PROMOTED_MUTANTS])
def test_mutant_is_caught(name: str) -> None:
    """By its own error."""
    found, config = (MUTANTS, CONFIG) if name in MUTANTS else (PROMOTED_MUTANTS, PROMOTED)
    mutant = found[name]
    sources = altered(CONFIG.kernel, mutant.file, mutant.old, mutant.new)
    order = ("forward", "reverse", "random")[list(found).index(name) % 3]
    with pytest.raises(mutant.error, match=mutant.message or None):
        judge(sources, order, config)


@pytest.mark.parametrize(
    ("module", "name", "wrong"),
    [
        (bricks, "BYTE_ROWS", np.arange(16)),
        (bricks, "_BYTE_META_TO_KERNEL", (0, 4, 1, 5, 3, 2, 6, 7)),
        (slab_packing, "_KEPT_AT", slab_packing._KEPT_AT[:, ::-1]),
    ],
)
def test_another_order_in_the_packing_is_caught(
    module: Any, name: str, wrong: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, name, wrong)
    with pytest.raises(WrongResultError):
        judge({}, "forward")


def test_metadata_padded_with_zeros_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slab_packing, "PADDING_META", 0)
    with pytest.raises(InvalidMetadata):
        judge({}, "forward")
