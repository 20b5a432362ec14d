"""Mutants of the kernels and of the packer: each must be caught, and by the right error.

They test the checker. A mutant is the shipped source with one thing wrong, the kind of thing that
goes wrong in such kernels; several give right results on a GPU most of the time, or always on one
chip. If one survives, or dies of something else, the test fails.
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
    IllegalSelector,
    InvalidMetadata,
    OutOfBounds,
    RaceError,
    UninitialisedRead,
)

from tvwarray._kernels import pack, product
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.config import KernelConfig
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import configs

KERNEL, COPIES, FRAGMENTS, STORE = (
    "sm80_tvw_gemm.cu", "sm80_copies.cuh", "sm80_fragments.cuh", "sm80_store.cuh",
)  # fmt: skip
ARCHITECTURE = "90"


WAIT = "                wait_for_copies();\n"
BARRIER = "                block_barrier();\n"
NEXT = "                write = read;"
FIRST_BARRIER = "            block_barrier();\n            fragments.load"
FIRST_WAIT = "            wait_for_copies();\n" + FIRST_BARRIER
STORE_ONE = "if (n0 + e < n) to[e]"
INSIDE = "column >= 0 && my_n < x.n"
SECOND = "multiply_sparse<1>(to, of[0], b[i % 2][j], word)"

MUTANTS = {
    # ---- waiting ----
    "missing wait": Mutant(KERNEL, WAIT + BARRIER + NEXT, BARRIER + NEXT, RaceError, "MissingWait"),
    "missing first wait": Mutant(
        KERNEL, FIRST_WAIT, FIRST_BARRIER, RaceError, "MissingWait"
    ),
    "late wait": Mutant(
        "ptx.cuh", '"n"(config::stages - 2)', '"n"(config::stages - 1)', RaceError, "MissingWait"
    ),
    "wait after the barrier": Mutant(
        KERNEL, WAIT + BARRIER + NEXT, BARRIER + WAIT + NEXT, RaceError,
        "Missing",
    ),
    "groups not closed": Mutant(
        KERNEL, "                commit_copies();\n" + WAIT, WAIT, RaceError, "MissingWait"
    ),
    # ---- barriers ----
    "missing barrier": Mutant(
        KERNEL, BARRIER + NEXT, NEXT, RaceError, "Missing"
    ),
    "prefetch before the barrier": Mutant(
        KERNEL, BARRIER + NEXT,
        "            if (step + config::stages < steps) copies.fetch(read, next_columns, 0, 99);\n"
        + BARRIER + NEXT,
        RaceError, "WriteAfterRead",
    ),
    "prefetch into the stage being read": Mutant(
        KERNEL, NEXT, "            write = after(read);", RaceError, "WriteAfterRead"
    ),
    "no barrier before the result is staged": Mutant(
        KERNEL, BARRIER + NEXT,
        "            if (step + 1 < steps) block_barrier();\n" + NEXT, RaceError,
    ),
    "missing warp barrier": Mutant(
        STORE, "    warp_barrier();\n#pragma unroll\n    for (int i = 0; i < stores",
        "#pragma unroll\n    for (int i = 0; i < stores", RaceError, "MissingWarpSync",
    ),
    "ring one stage short": Mutant(
        KERNEL, "ring + config::stages * stage_bytes;",
        "ring + (config::stages - 1) * stage_bytes;", RaceError,
    ),
    # ---- metadata ----
    "swapped metadata halves": Mutant(
        FRAGMENTS, "metadata[m][w] = next_metadata[m][w];",
        "metadata[m][w] = next_metadata[m][w] >> 16 | next_metadata[m][w] << 16;", WrongResultError,
    ),
    "wrong selector": Mutant(FRAGMENTS, SECOND, SECOND.replace("<1>", "<0>"), WrongResultError),
    "selector that does not exist": Mutant(
        FRAGMENTS, SECOND, SECOND.replace("<1>", "<2>"), IllegalSelector
    ),
    "metadata of the next step": Mutant(
        FRAGMENTS, SECOND, SECOND.replace("word", "next_metadata[m][0]"), WrongResultError
    ),
    "metadata of zeros beyond the tile": Mutant(
        COPIES, "copy_async(stage + meta_at + at, from, true)",
        "copy_async(stage + meta_at + at, from, at == valid)", InvalidMetadata,
    ),
    "metadata of the wrong brick": Mutant(
        FRAGMENTS, "stage + meta_at + brick *", "stage + meta_at + (brick ^ 1) *", WrongResultError
    ),
    # ---- where things lie ----
    "swizzle removed": Mutant(
        "swizzle.cuh", "return chunk ^ (row / (8 / width) % width);", "return chunk;",
        BankConflictError,
    ),
    "swizzle of another row": Mutant(
        COPIES, "swizzle_x(row, chunk)", "swizzle_x(row + 1, chunk)", WrongResultError,
    ),
    "column list shifted": Mutant(
        COPIES, "block.slots + thread / 32 * gather", "block.slots + 1 + thread / 32 * gather",
        OutOfBounds,
    ),
    "column list shifted backwards": Mutant(
        COPIES, "item.block.slots + thread / 32", "max(item.block.slots - 1, 0) + thread / 32",
        WrongResultError,
    ),
    "columns of the wrong lane": Mutant(
        COPIES, "from_lane(columns, i * gather_rows + gather_row)",
        "from_lane(columns, (i * gather_rows + gather_row) ^ 1)", WrongResultError,
    ),
    "columns of the step before": Mutant(
        KERNEL, "columns_of(step + config::stages);", "columns_of(step + config::stages - 1);",
        WrongResultError,
    ),
    "wrong row scatter": Mutant(
        STORE, "load_int(rows + block.rows + row)", "load_int(rows + block.rows + (row ^ 1))",
        WrongResultError,
    ),
    "swapped columns of a pair": Mutant(
        STORE, "round_pair(low, high)", "round_pair(high, low)", WrongResultError
    ),
    "values of the wrong brick": Mutant(
        FRAGMENTS, "= brick * brick_fragments", "= (brick ^ 1) * brick_fragments", WrongResultError
    ),
    "fragments of one set": Mutant(
        FRAGMENTS, "to)[group_columns] = b[i % 2];", "to)[group_columns] = b[(i + 1) % 2];",
        WrongResultError
    ),
    # ---- edges ----
    "tail mask off by one": Mutant(
        STORE, STORE_ONE, "if (n0 + e <= n) to[e]", RaceError, "CrossBlock"
    ),
    "last column not stored": Mutant(
        STORE, STORE_ONE, "if (n0 + e < n - 1) to[e]", UnwrittenError
    ),
    "tail of X not masked": Mutant(COPIES, INSIDE, "column >= 0", OutOfBounds),
    "tail of X off by one chunk": Mutant(
        COPIES, INSIDE, "column >= 0 && my_n <= x.n + 7", OutOfBounds
    ),
    "padding slot reads X": Mutant(COPIES, INSIDE, "my_n < x.n", OutOfBounds),
    "bricks beyond the tile are stored": Mutant(
        STORE, "row < block.bricks * brick_rows ? load", "true ? load", RaceError, "CrossBlock"
    ),
    "padding rows are stored": Mutant(
        STORE, "if (to_row[i] >= 0) to.store", "to.store", OutOfBounds
    ),
    "rows that are zero are left out": Mutant(
        KERNEL, "        // The ring is free", "        if (steps == 0) return;\n        //",
        UnwrittenError,
    ),
    "last step left out": Mutant(
        KERNEL, "step < steps; ++step", "step < steps - 1; ++step",
        (WrongResultError, RaceError),
    ),
    "a copy of metadata left out": Mutant(
        COPIES, "if (of - 1 - i * of / meta_copies == share) copy_meta",
        "if (of - 1 - i * of / meta_copies == share && thread != 5) copy_meta", UninitialisedRead,
    ),
    # ---- the work ----
    "the last strip is taken for a whole one": Mutant(
        "strips.cuh", "const int width = min(strip, columns - first);",
        "const int width = strip;", (UnwrittenError, OutOfBounds),
    ),
    "two blocks do the same": Mutant(
        "strips.cuh", "const int entry = within / width;",
        "const int entry = within / width / 2 * 2;", (RaceError, UnwrittenError, OutOfBounds),
    ),
}  # fmt: skip


def case(sparse: bool = True) -> Product:
    """Return a product that reaches every part: ragged in all ways, more steps than stages.

    One tile has a multiple of the stages: its last step is read where its sums leave.
    """
    rng = np.random.default_rng(11)
    rows, tiles = draw_tiles(rng, [75, 128, 0, 40], [560, 496, 32, 0], 19, 200)
    storage = storage_of((rows, 200), tiles, FLOAT16, sparse, integers(rng), rng)
    return Product(storage, integers(rng)((200, 141)).astype(FLOAT16))


CONFIG = next(
    c for c in configs(ARCHITECTURE, FLOAT16, True) if (c.block_rows, c.block_n) == (64, 64)
)


def judge(sources: dict[str, str], problem: Product, config: KernelConfig, order: Any) -> None:
    """Run altered sources on a product; raise what is wrong with them, return if nothing is."""
    kernel = compile_kernel(config, ARCHITECTURE, sources)
    launcher = InterpreterLauncher(ARCHITECTURE, order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_compiled", lambda *_: kernel)
        got = multiply(launcher, pack.pack(problem.storage), problem.x, config=config)
    raise_what_is_wrong(got, expected(), launcher.reports)


@cache
def expected() -> np.ndarray:
    """Return the right product of `case`."""
    return exact(case())[0].astype(FLOAT16)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_the_shipped_kernel_passes(order: str) -> None:
    judge({}, case(), CONFIG, order)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    """By its own error, whatever the order in which warps run."""
    mutant = MUTANTS[name]
    sources = altered(CONFIG.kernel, mutant.file, mutant.old, mutant.new)
    for order in ("forward", "reverse", "random"):
        with pytest.raises(mutant.error, match=mutant.message or None):
            judge(sources, case(), CONFIG, order)


def test_metadata_padded_with_zeros_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PADDING_META", 0)
    with pytest.raises(InvalidMetadata):
        judge({}, case(), CONFIG, "forward")


def test_swapped_metadata_halves_in_the_packer_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    split = pack.split_meta
    monkeypatch.setattr(pack, "split_meta", lambda raw, form: split(raw, form)[..., ::-1])
    with pytest.raises(WrongResultError):
        judge({}, case(), CONFIG, "forward")


def test_exchanged_values_in_the_packer_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each exchange of two axes of equal length in a fragment."""
    split = pack.split_values
    for axis in (6, 7, 8):
        monkeypatch.setattr(
            pack, "split_values", lambda raw, form, a=axis: np.flip(split(raw, form), a)
        )
        with pytest.raises(WrongResultError):
            judge({}, case(), CONFIG, "forward")
