"""Mutants of ``sm80_tvw_few``: the shipped source with one thing wrong each; all must be caught."""

from __future__ import annotations

from dataclasses import dataclass
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
JOIN = "    of_tile[block.piece * outputs + i] ="

MUTANTS = {
    # ---- the way of X ----
    "X is read before it is there": Mutant(
        "few", "        warp_barrier();\n#pragma unroll\n        for (int k = 0; k < k_steps",
        "#pragma unroll\n        for (int k = 0; k < k_steps", (RaceError, UninitialisedRead),
    ),
    "X is overwritten while it is read": Mutant("few", "i % buffers);", "0);", RaceError),
    "one buffer of X without a barrier": Mutant(
        "wide", "if (buffers == 1) warp_barrier();", "", RaceError
    ),
    "padding slots of X are read": Mutant(
        "few", "column >= 0 && n0 < n", "n0 < n", OutOfBounds
    ),
    "columns of X beyond n are read": Mutant("few", "if (n0 + e < n) got", "got", OutOfBounds),
    "the same column of X again": Mutant("few", "from += x_column;", ""),
    "columns of a round before": Mutant("few", "2 * x_ahead * few_warps", "x_ahead * few_warps"),
    "columns of another lane": Mutant("wide", "from_lane(own, slot % 32)", "own"),
    "swizzle removed": Mutant(
        "wide", "return chunk ^ (row / (8 / width) % width);", "return chunk;", BankConflictError,
        "swizzle.cuh",
    ),
    # ---- the way of A ----
    "values of a round before": Mutant(
        "few", "load_values(mine + ahead * few_warps, i)", "load_values(max(mine, warp), i)"
    ),
    "metadata of the first step": Mutant(
        "few", "of[0], b, metadata[place][m]);\n                        if (k == 1)",
        "of[0], b, metadata[0][m]);\n                        if (k == 1)",
    ),
    "the other selector": Mutant(
        "few", "if (k == 1) multiply_sparse<1>", "if (k == 1) multiply_sparse<0>"
    ),
    "steps beyond the tile": Mutant(
        "few", "if (step >= block.steps || m >= block.bricks) continue;", "", OutOfBounds
    ),
    "the last round left out": Mutant(
        "few", "step < block.steps; step +=", "step + 32 < block.steps; step +="
    ),
    # ---- blocks that arithmetic knows ----
    "bricks of the next tile": Mutant(
        "vector", "min(bricks, alike.bricks - above)", "bricks", (RaceError, OutOfBounds)
    ),
    "column lists of neighbours": Mutant(
        "vector", "alike.slots + tile * alike.steps * step_slots", "alike.slots"
    ),
    "one tile too many is alike": Mutant(
        "vector", "place >= alike.count", "place > alike.count",
        (OutOfBounds, RaceError, WrongResultError),
    ),
    # ---- sums ----
    "sums over what others still read": Mutant(
        "few", "    block_barrier();  // X has been read\n", "", RaceError
    ),
    "sums are added up too early": Mutant(
        "few", SUMS, "    const auto sum_of_warps", (RaceError, UninitialisedRead)
    ),
    "a warp's sums are left out": Mutant("few", "w < few_warps", "w < few_warps - 1"),
    "rows of padding are stored": Mutant(
        "few", "if (row < 0 || column >= n) continue;", "if (column >= n) continue;", OutOfBounds
    ),
    "columns beyond n are stored": Mutant(
        "few", "if (row < 0 || column >= n) continue;", "if (row < 0) continue;",
        (OutOfBounds, RaceError),
    ),
    "halves of a brick exchanged": Mutant(
        "few", "* 2 + half) * 64 + lane * 2", "* 2 + 1 - half) * 64 + lane * 2"
    ),
    # ---- pieces ----
    "pieces in one place": Mutant(
        "pieces", JOIN, JOIN.replace("block.piece * outputs + ", ""),
        (WrongResultError, UninitialisedRead, RaceError),
    ),
    "a piece is not counted": Mutant(
        "pieces", "block.pieces - 1));", "block.pieces));", (UnwrittenError, AssertionError)
    ),
    "the last piece is left out": Mutant(
        "pieces", "part[i] = piece + i < block.pieces\n", "part[i] = piece + i < block.pieces - 1\n"
    ),
}  # fmt: skip


@cache
def case(name: str) -> Case:
    """Return a problem with more steps than are under way, which reaches what mutants change."""
    rng = np.random.default_rng(3)
    n = {"wide": 40, "vector": 1}.get(name, 5)
    # Tiles of three bricks are one and a half blocks of 32 rows.
    heights, slots = [37, 16], [2400, 400]
    if name == "vector":
        heights, slots = [37, 37, 16], [400, 400, 400]
    rows, tiles = draw_tiles(rng, heights, slots, 3, 90)
    storage = storage_of((rows, 90), tiles, FLOAT16, True, integers(rng, 3), rng)
    product = Product(storage, integers(rng, 3)((90, n)).astype(FLOAT16))
    config = few_config("float16", True, n, 32 if name == "vector" else 16)
    return Case(product, config, 6 if name == "pieces" else 0)


def judge(sources: dict[str, str], name: str, order: Any) -> None:
    """Run altered sources on a case; raise what is wrong with them, return if nothing is."""
    of = case(name)
    launcher = InterpreterLauncher("80", order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_compiled", lambda c, a: compile_kernel(c, a, sources))
        patch.setattr(few, "most_steps", lambda *_: of.pieces)
        got = multiply(launcher, pack.pack(of.problem.storage), of.problem.x, config=of.config)
    raise_what_is_wrong(got, exact(of.problem)[0].astype(FLOAT16), launcher.reports)


@pytest.mark.parametrize("name", sorted({m.case for m in MUTANTS.values()}))
def test_the_shipped_kernel_passes(name: str) -> None:
    judge({}, name, "random")


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    with pytest.raises(mutant.error):
        judge(altered("sm80_tvw_few", mutant.file, mutant.old, mutant.new), mutant.case, "random")
