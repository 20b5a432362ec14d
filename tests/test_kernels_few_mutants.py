"""Mutants of ``sm80_tvw_few`` and ``sm80_tvw_vector``: one thing wrong each; all are caught."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from interpreter_launcher import InterpreterLauncher, UnwrittenError
from kernel_problems import FLOAT16, Product, draw_tiles, exact, integers, storage_of
from mutants import BankConflictError, WrongResultError, altered, raise_what_is_wrong
from ptx import OutOfBounds, RaceError, UninitialisedRead

from tvwarray._kernels import few, pack, product
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.config import FewConfig, few_config
from tvwarray._kernels.product import multiply


@dataclass(frozen=True)
class Mutant:
    """One replacement in one file, on one of the `CASES`."""

    case: str
    old: str
    new: str
    error: type[Exception] | tuple[type[Exception], ...] = WrongResultError
    file: str = "sm80_tvw_few.cu"


@dataclass(frozen=True, eq=False)
class Case:
    """A problem, the config to run it with, and of how many steps pieces are (0: no pieces)."""

    problem: Product
    config: FewConfig
    pieces: int


SUMS = "    block_barrier();\n\n    const auto sum_of_warps"
JOIN = "        to.sums[block.piece * outputs + i] ="
GATHER = "ld.shared.u16"
"""Of a vector's elements, by columns that meet where they meet."""
SHARED, VECTOR = "few.cuh", "sm80_tvw_vector.cu"

MUTANTS = {
    # ---- the way of X ----
    "X is read before it is there": Mutant(
        "few", "        warp_barrier();\n#pragma unroll\n        for (int k = 0; k < k_steps",
        "#pragma unroll\n        for (int k = 0; k < k_steps", (RaceError, UninitialisedRead),
    ),
    "X is overwritten while it is read": Mutant("few", "i % buffers);", "0);", RaceError),
    "rows of X are copied over what is read": Mutant(
        "wide", "if (copied) warp_barrier();  // all have read", "//", RaceError
    ),
    "copies are not waited for": Mutant(
        "wide", "            wait_for_groups<ahead - 1>();\n", "", (RaceError, UninitialisedRead)
    ),
    "copies are waited for a step too late": Mutant(
        "wide", "wait_for_groups<ahead - 1>", "wait_for_groups<ahead>",
        (RaceError, UninitialisedRead),
    ),
    "groups of copies are not counted": Mutant(
        "wide", "if (copied) commit", "if (copied && step < block.steps) commit",
        (RaceError, UninitialisedRead),
    ),
    "copies of padding": Mutant("wide", "from, wanted);", "from, true);", OutOfBounds),
    "padding slots of X are read": Mutant(
        "few", "column >= 0 && n0 < n", "n0 < n", OutOfBounds
    ),
    "columns of X beyond n are read": Mutant("few", "if (n0 + e < n) got", "got", OutOfBounds),
    "the same column of X again": Mutant("few", "from += x_column;", ""),
    "columns of a round before": Mutant(
        "few", "load_columns(step + ahead * few_warps", "load_columns(step"
    ),
    "columns of another lane": Mutant(
        "wide", "from_lane(of_warp, slot_of(i) % 32)", "of_warp"
    ),
    "swizzle removed": Mutant(
        "wide", "return chunk ^ (row / (8 / width) % width);", "return chunk;", BankConflictError,
        "swizzle.cuh",
    ),
    # ---- the way of A ----
    "values of a round before": Mutant(
        "few", "load_values(mine + ahead * few_warps, i)", "load_values(mine, i)"
    ),
    "metadata of the first step": Mutant(
        "few", "multiply_sparse<0>(sums, of[0], b, metadata[place][m])",
        "multiply_sparse<0>(sums, of[0], b, metadata[0][m])", file=SHARED,
    ),
    "the other selector": Mutant(
        "few", "if (k == 1) multiply_sparse<1>", "if (k == 1) multiply_sparse<0>", file=SHARED
    ),
    "steps beyond the tile": Mutant(
        "few", "if (step >= block.steps || m >= block.bricks) continue;", "", OutOfBounds, SHARED
    ),
    "the last round left out": Mutant(
        "few", "step < block.steps; step +=", "step + 32 < block.steps; step +="
    ),
    # ---- blocks that arithmetic knows ----
    "bricks of the next tile": Mutant(
        "vector", "min(bricks, alike.bricks - above)", "bricks", (RaceError, OutOfBounds), SHARED
    ),
    "column lists of neighbours": Mutant(
        "vector", "alike.slots + tile * alike.steps * step_slots", "alike.slots", file=SHARED
    ),
    "one tile too many is alike": Mutant(
        "vector", "place >= alike.count", "place > alike.count",
        (OutOfBounds, RaceError, WrongResultError), SHARED,
    ),
    # ---- a vector ----
    "x is multiplied before it is there": Mutant(
        "vector", "    wait_for_all_copies();\n", "", (RaceError, UninitialisedRead), VECTOR
    ),
    "other warps' part of x is not waited for": Mutant(
        "vector", "    block_barrier();\n\n    // ---- Multiply", "    // ---- Multiply",
        (RaceError, UninitialisedRead), VECTOR,
    ),
    "the end of x, no whole chunk, is left out": Mutant(
        "vector", "int i = chunks * chunk_elements + thread", "int i = x_rows + thread",
        UninitialisedRead, VECTOR,
    ),
    "padding slots of x are read": Mutant(
        "vector", "column >= 0 ? load_shared", "column >= -1 ? load_shared", OutOfBounds, VECTOR
    ),
    "slots in the order of lanes": Mutant(
        "vector", "(lane % 8 / 2 * 8 + lane / 8 * 2 + lane % 2)", "lane", file=VECTOR
    ),
    "a step is read before it is whole": Mutant(
        "vector", "        warp_barrier();\n#pragma", "#pragma",
        (RaceError, UninitialisedRead), VECTOR,
    ),
    "a step is overwritten while it is read": Mutant(
        "vector", "warp_barrier();  // x of these steps", "// x of these steps", RaceError, VECTOR
    ),
    "columns of the round before": Mutant(
        "vector", "load_columns(step + (i + ahead) * few_warps, i)",
        "load_columns(step + i * few_warps, i)", file=VECTOR,
    ),
    "upper rows in place of lower ones": Mutant(
        "vector", "bits_of(sums[m].word[2])", "bits_of(sums[m].word[0])", file=VECTOR
    ),
    "zeros times infinities": Mutant(
        "infinite", "            if (step + i * few_warps >= block.steps) break;\n", "", file=VECTOR
    ),
    # ---- sums ----
    "sums over what others still read": Mutant(
        "few", "    warp_barrier();  // X has been read\n", "", RaceError
    ),
    "sums are added up too early": Mutant(
        "few", SUMS, "    const auto sum_of_warps", (RaceError, UninitialisedRead)
    ),
    "a warp's sums are left out": Mutant(
        "few", "few_warps; ++w)\n                add", "few_warps - 1; ++w)\n                add"
    ),
    "rows of padding are stored": Mutant(
        "few", "if (row < 0 || column >= n) continue;", "if (column >= n) continue;", OutOfBounds
    ),
    "columns beyond n are stored": Mutant(
        "few", "if (column + e < n) to", "to",
        (OutOfBounds, RaceError),
    ),
    "halves of a brick exchanged": Mutant(
        "few", "* 2 + half) * 64 + lane * 2", "* 2 + 1 - half) * 64 + lane * 2"
    ),
    # ---- pieces ----
    "pieces in one place": Mutant(
        "pieces", JOIN, JOIN.replace("block.piece * outputs + ", ""),
        (WrongResultError, UninitialisedRead, RaceError), SHARED,
    ),
    "a piece is not counted": Mutant(
        "pieces", "block.pieces - 1));", "block.pieces));", (UnwrittenError, AssertionError),
        SHARED,
    ),
    "the last piece is left out": Mutant(
        "pieces", "= piece + i < block.pieces\n", "= piece + i < block.pieces - 1\n",
        file=SHARED,
    ),
}  # fmt: skip


@cache
def case(name: str) -> Case:
    """Return a problem with more steps than are under way, which reaches what mutants change."""
    rng = np.random.default_rng(3)
    n = {"wide": 40, "vector": 1, "infinite": 1}.get(name, 5)
    # Tiles of three bricks are one and a half blocks of 32 rows.
    heights, slots = [37, 16], [2400, 400]
    if name == "vector":
        heights, slots = [37, 37, 16], [1120, 1120, 1120]
    rows, tiles = draw_tiles(rng, heights, slots, 3, 90)
    storage = storage_of((rows, 90), tiles, FLOAT16, True, integers(rng, 3), rng)
    product = Product(storage, integers(rng, 3)((90, n)).astype(FLOAT16))
    if name == "infinite":  # in the second step of a warp that has five: 0, 8, 16, 24, 32
        data = storage.data.copy()
        data[8 * 32 + np.flatnonzero(data[8 * 32 : 9 * 32])[0]] = np.inf  # nonzero: no padding
        product = Product(replace(storage, data=data), abs(product.x) + FLOAT16.type(1))
    config = few_config("float16", True, n, 90, 32 if name == "vector" else 16)
    return Case(product, config, 6 if name == "pieces" else 0)


def judge(sources: dict[str, str], name: str, order: Any) -> None:
    """Run altered sources on a case; raise what is wrong with them, return if nothing is."""
    of = case(name)
    launcher = InterpreterLauncher("80", order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_compiled", lambda c, a: compile_kernel(c, a, sources))
        patch.setattr(few, "most_steps", lambda *_: of.pieces)
        got = multiply(launcher, pack.pack(of.problem.storage), of.problem.x, config=of.config)
    raise_what_is_wrong(got, exact(of.problem)[0].astype(FLOAT16), launcher.reports, GATHER)


@pytest.mark.parametrize("name", sorted({m.case for m in MUTANTS.values()}))
def test_the_shipped_kernel_passes(name: str) -> None:
    judge({}, name, "random")


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    kernel = case(mutant.case).config.kernel
    with pytest.raises(mutant.error):
        judge(altered(kernel, mutant.file, mutant.old, mutant.new), mutant.case, "random")
