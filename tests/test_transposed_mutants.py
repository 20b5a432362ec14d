"""Mutants of ``sm80_tvw_transposed`` and its packer: one thing wrong each, and all are caught.

They test the checker: what the shipped kernel passes must be able to fail.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from epilogue_problems import expected
from interpreter_launcher import InterpreterLauncher, UnwrittenError
from kernel_problems import FLOAT16
from mutants import BankConflictError, Mutant, WrongResultError, altered, raise_what_is_wrong
from ptx import OutOfBounds, RaceError, UninitialisedRead
from test_transposed import SMALL, exact, ragged

from tvwarray import Epilogue
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.transposed import pack, product
from tvwarray._kernels.transposed.product import multiply_transposed

KERNEL = "sm80_tvw_transposed"
SOURCE = f"{KERNEL}.cu"

UNROLLED = "\n#pragma unroll\n                        for (int i = 0; i < row_chunks; ++i)"

MUTANTS = {
    # ---- the ring ----
    "copies are not waited for": Mutant(
        SOURCE, "            wait_for_copies();\n", "", RaceError
    ),
    "a stage is overwritten while it is read": Mutant(
        SOURCE, "            block_barrier();\n            if (i + config::stages - 1",
        "            if (i + config::stages - 1", (RaceError, UninitialisedRead),
    ),
    "rows that fill up a step are read": Mutant(
        SOURCE, "from.row[i] >= 0 && in_n", "in_n", OutOfBounds
    ),
    "columns beyond n are read": Mutant(
        SOURCE, "from.row[i] >= 0 && in_n", "from.row[i] >= 0",
        (OutOfBounds, UninitialisedRead, WrongResultError),
    ),
    "the header of another step": Mutant(
        SOURCE, "fetch(write, ahead);", "fetch(write, header);",
        (WrongResultError, UninitialisedRead),
    ),
    "headers come a step late": Mutant(
        SOURCE, "copy_header(free, i + headers - 1);", "copy_header(free, i + headers - 2);",
        (WrongResultError, UninitialisedRead, RaceError),
    ),
    "a header is overwritten while it is read": Mutant(
        SOURCE, "constexpr int headers = 2 * config::stages - 1;",
        "constexpr int headers = 2 * config::stages - 2;",
        (WrongResultError, UninitialisedRead, RaceError),
    ),
    "values of half a step": Mutant(
        SOURCE, "step.slices * step.fragments * fragment_bytes -",
        "step.slices * step.fragments * fragment_bytes / 2 -",
        (WrongResultError, UninitialisedRead),
    ),
    "the swizzle of Y removed": Mutant(
        "swizzle.cuh", "return chunk ^ (row / (8 / width) % width);", "return chunk;",
        BankConflictError,
    ),
    # ---- products ----
    "the upper half of a step twice": Mutant(
        SOURCE, "multiply_dense<0>(sums[m][j], a[m % sets][0], b[j])",
        "multiply_dense<1>(sums[m][j], a[m % sets][0], b[j])", WrongResultError,
    ),
    "values of the other half": Mutant(
        SOURCE, "(half * 32 + lane) * chunk_bytes", "((1 - half) * 32 + lane) * chunk_bytes",
        WrongResultError,
    ),
    "sums of the item before stay": Mutant(
        SOURCE, "for (int j = 0; j < warp_columns; ++j) sums[m][j] = {};", "{}", WrongResultError
    ),
    # ---- adding up ----
    "sums begin with what was there": Mutant(
        SOURCE, "store_shared_chunk(all_sums + i * chunk_bytes, {});", "{}", UninitialisedRead
    ),
    "slots that fill up are added": Mutant(
        SOURCE, f"!= no_place){UNROLLED} {{", f"!= -1){UNROLLED} {{", OutOfBounds
    ),
    "rows of slots g and g + 8 exchanged": Mutant(
        SOURCE, "static_cast<int>(place & 0xffff), static_cast<int>(place >> 16)",
        "static_cast<int>(place >> 16), static_cast<int>(place & 0xffff)", WrongResultError
    ),
    "what lanes of odd g hold is not swapped": Mutant(
        SOURCE, "odd ? sums[m][j ^ 2].word[word] : sums[m][j].word[word]",
        "sums[m][j].word[word]", WrongResultError
    ),
    "all lanes begin with one chunk": Mutant(
        SOURCE, "const bool odd = g % 2 != 0;", "const bool odd = false;", BankConflictError
    ),
    "chunks of sums in natural order": Mutant(
        SOURCE, "return 4 * p + (t ^ (p / 2 % 4) ^ turn);", "return 4 * p + t;", BankConflictError
    ),
    "sums are read before all are there": Mutant(
        SOURCE, "    block_barrier();\n\n    // ---- Pieces", "\n    // ---- Pieces", RaceError
    ),
    # ---- pieces ----
    "the last piece is left out": Mutant(
        SOURCE, "piece < range.pieces; ++piece", "piece < range.pieces - 1; ++piece",
        WrongResultError,
    ),
    "a piece is not counted": Mutant(
        SOURCE, "count_and_wrap(arrived + counter, range.pieces - 1)",
        "count_and_wrap(arrived + counter, range.pieces)", (UnwrittenError, AssertionError),
    ),
    "pieces in one place": Mutant(
        SOURCE, "store_global_chunk(left + range.piece * apart + i * chunk_bytes",
        "store_global_chunk(left + i * chunk_bytes", (UninitialisedRead, WrongResultError),
    ),
    # ---- results ----
    "rows of the first range": Mutant(
        SOURCE, "const int to_row = range.first_column + row;", "const int to_row = row;",
        UnwrittenError,
    ),
    "rows beyond the last column of A": Mutant(
        SOURCE, "min(config::block_columns, cols - range.first_column)", "config::block_columns",
        (OutOfBounds, UnwrittenError),
    ),
    "bias of another row": Mutant(
        SOURCE, "finish(sum, by, to_row, n0, n - n0)", "finish(sum, by, row, n0, n - n0)",
        WrongResultError,
    ),
    "half a chunk of columns": Mutant(
        SOURCE, "chunk * chunk_bytes + column / 8 % 2 * 8);", "chunk * chunk_bytes);",
        WrongResultError,
    ),
}  # fmt: skip

COLUMN_MUTANTS = {
    "columns of another half": Mutant(
        SOURCE, "column / 8 % 2 * 8 + column % 2 * 4", "column % 2 * 4", WrongResultError
    ),
    "elements beyond the last row": Mutant(
        SOURCE, "valid >= lane_outputs &&", "true &&", (OutOfBounds, UnwrittenError)
    ),
    "bias of the first of a lane's rows": Mutant(
        SOURCE, "finish(one, by, to_row + e, n0, 1)", "finish(one, by, to_row, n0, 1)",
        WrongResultError,
    ),
}  # fmt: skip


def judge(sources: dict[str, str], *, by_columns: bool = False) -> None:
    """Run altered sources on a ragged problem in pieces; raise what is wrong with them."""
    # Of 33 columns, the last one begins at a multiple of 16 bytes.
    storage, y = ragged(n=33 if by_columns else 40)
    rows = storage.row_indices.copy()
    if y.shape[0] - 1 not in rows:
        rows[0] = y.shape[0] - 1  # what lies behind the last row of Y is out of bounds
    storage = replace(storage, shape=(y.shape[0], 301), row_indices=rows)
    if by_columns:
        y = np.asfortranarray(y)
    rng = np.random.default_rng(1)
    e = Epilogue(bias=rng.integers(-8, 9, 301).astype(np.float32), alpha=2.0)
    launcher = InterpreterLauncher("89", "random", multiprocessors=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_compiled", lambda c, a: compile_kernel(c, a, sources))
        packed = pack.pack_transposed(storage, form_of(FLOAT16), SMALL.range_shape)
        got = multiply_transposed(launcher, packed, y, config=SMALL, epilogue=e)
    want = expected(exact(storage, y)[0], e).astype(np.float16)
    raise_what_is_wrong(got, want, launcher.reports)


@pytest.mark.parametrize("by_columns", [False, True])
def test_the_shipped_kernel_passes(by_columns: bool) -> None:
    judge({}, by_columns=by_columns)


@pytest.mark.parametrize("name", [*MUTANTS, *COLUMN_MUTANTS])
def test_mutant_is_caught(name: str) -> None:
    mutant = {**MUTANTS, **COLUMN_MUTANTS}[name]
    sources = altered(KERNEL, mutant.file, mutant.old, mutant.new)
    with pytest.raises(mutant.error):
        judge(sources, by_columns=name in COLUMN_MUTANTS)


def test_repeated_columns_in_one_item_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "_count_repeats", lambda tile, col: np.zeros_like(tile))
    with pytest.raises((RaceError, WrongResultError)):
        judge({})


@pytest.mark.parametrize("axes", [(3, 4), (2, 5), (4, 1), (5, 6)])
def test_exchanged_values_in_the_packer_are_caught(
    axes: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each exchange of two axes of a fragment, or one flipped where their lengths differ."""
    put = pack._put

    def exchanged(xp: Any, values: Any, dense: Any, part: Any) -> None:
        put(xp, values, dense, part)
        kernel = values[part.to].reshape(-1, 2, 8, 4, 2, 2, 2)
        one, other = (pack._TO_KERNEL.index(a) for a in axes)
        same = kernel.shape[one] == kernel.shape[other]
        kernel = np.swapaxes(kernel, one, other) if same else np.flip(kernel, one)
        values[part.to] = kernel.reshape(part.to.size, -1)

    monkeypatch.setattr(pack, "_put", exchanged)
    with pytest.raises(WrongResultError):
        judge({})
