"""Mutants of what the kernels do beside 16-bit products: other types, parts, pieces, epilogues.

Each is the shipped source with one thing wrong, on a problem that reaches it, and must be caught.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from epilogue_problems import expected
from interpreter_launcher import InterpreterLauncher, UnwrittenError
from kernel_problems import FLOAT16, Product, draw_tiles, exact, integers, storage_of
from mutants import BankConflictError, WrongResultError, altered, raise_what_is_wrong
from ptx import InvalidMetadata, OutOfBounds, RaceError, UninitialisedRead

from tvwarray import Epilogue
from tvwarray._kernels import bricks, pack, product
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.elements import Form
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import configs_of

ARCHITECTURE = "80"


@dataclass(frozen=True)
class Mutant:
    """One replacement in one file, on one of the `CASES`."""

    case: str
    file: str
    old: str
    new: str
    error: type[Exception] | tuple[type[Exception], ...] = WrongResultError


FRAGMENTS, PIECES, STORE = "sm80_fragments.cuh", "sm80_pieces.cuh", "sm80_store.cuh"

EVEN = (
    "to[2 * j].word[r] =\n                        "
    "permute_bytes(upper.word[2 * r], upper.word[2 * r + 1], "
)

MUTANTS = {
    # ---- 8-bit values ----
    "even and odd columns exchanged": Mutant(
        "int8", FRAGMENTS, EVEN + "0x6420);", EVEN + "0x7531);"
    ),
    "lower slots read twice": Mutant(
        "int8", FRAGMENTS, "load_matrices_transposed(from + 32 * x_row_bytes)",
        "load_matrices_transposed(from + 0 * x_row_bytes)",
    ),
    "metadata of the other product": Mutant(
        "int8", FRAGMENTS, "metadata[m][k / selectors]", "metadata[m][1 - k / selectors]"
    ),
    "sums of 8-bit values in fragment order": Mutant(
        "int8", STORE, "bits_of(pair[0]), bits_of(odd[0]), bits_of(pair[1]),",
        "bits_of(pair[0]), bits_of(pair[1]), bits_of(odd[0]),",
    ),
    # ---- elements that are loaded one by one ----
    "swizzle of wide elements removed": Mutant(
        "tf32", "layout.cuh", "chunk ^ row % 4 * 2;", "chunk;", BankConflictError
    ),
    "rows of wide elements too near": Mutant(
        "tf32", FRAGMENTS, "load_shared(from + 4 * r * x_row_bytes)",
        "load_shared(from + 3 * r * x_row_bytes)",
    ),
    "selectors of tf32 exchanged": Mutant(
        "tf32", FRAGMENTS, "if (k % selectors == 0) multiply_sparse<0>",
        "if (k % selectors == 0) multiply_sparse<1>",
    ),
    # ---- parts of float32 ----
    "the small products are left out": Mutant(
        "float32", FRAGMENTS, "finite ? large + small[m][j].word[w] : large", "large"
    ),
    "a part of X is used for another": Mutant(
        "float32", FRAGMENTS, "const int part = i / groups % parts;\n        FragmentB",
        "const int part = 0;\n        FragmentB",
    ),
    "parts of A lie too near": Mutant(
        "float32", FRAGMENTS, "stage + values_at + part * value_bytes + fragment * fragment_bytes",
        "stage + values_at + fragment * fragment_bytes",
    ),
    # ---- pieces of tiles ----
    "a piece is not counted": Mutant(
        "pieces", PIECES, "count_and_wrap(to.arrived + counter, item.block.pieces - 1)",
        "count_and_wrap(to.arrived + counter, item.block.pieces)", (UnwrittenError, AssertionError),
    ),
    "the last piece is left out": Mutant(
        "pieces", PIECES, "piece < item.block.pieces; ++piece",
        "piece < item.block.pieces - 1; ++piece",
    ),
    "pieces in the same place": Mutant(
        "pieces", PIECES, "static_cast<long long>(item.block.first_piece + piece) * to.columns",
        "static_cast<long long>(item.block.first_piece) * to.columns",
        (WrongResultError, UninitialisedRead, RaceError),
    ),
    "sums begin with the last piece's": Mutant(
        "pieces", PIECES, "each_sum(0, take);", "each_sum(item.block.piece, take);"
    ),
    # ---- the epilogue ----
    "alpha after the bias": Mutant(
        "fused", "epilogue.cuh", "float value = scale * sum[e];", "float value = sum[e];"
    ),
    "beta forgotten": Mutant(
        "fused", "epilogue.cuh", "value += by.beta * added[e];", "value += added[e];"
    ),
    "residual before the activation": Mutant(
        "fused", "epilogue.cuh", "load_added(added, by.c, row, column, valid);",
        "load_added(added, by.residual, row, column, valid);",
    ),
    "columns of c beyond n": Mutant(
        "fused", "epilogue.cuh", "value[e] = e < valid ? widened", "value[e] = true ? widened",
        (OutOfBounds, UninitialisedRead),
    ),
    "chunks of sums exchanged": Mutant(
        "fused", STORE, "(e / 4 ^ turn) == 0 ? first : last", "(e / 4) == 0 ? first : last"
    ),
    "all lanes begin with one chunk": Mutant(
        "fused", STORE, "lane_chunks == 2 ? lane / 4 % 2 : 0", "0", BankConflictError
    ),
    "swizzle of sums removed": Mutant(
        "fused", "layout.cuh", "return chunk ^ ((chunks >= 8 ? row % 2 * 4 : 0) | (row & 2));",
        "return chunk;", BankConflictError,
    ),
    "a brick of sums is overwritten": Mutant(
        "fused", STORE, "    warp_barrier();  // the brick before has been read\n", "",
        RaceError,
    ),
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Case:
    """A problem, the kernel to run it, and what must come out."""

    problem: Product
    form: Form
    config: Any
    epilogue: Epilogue


@cache
def case(name: str) -> Case:
    """Return a ragged problem with more steps than stages, which reaches what mutants change."""
    rng = np.random.default_rng(3)
    form = {
        "int8": Form("int8"), "tf32": Form("tf32"), "float32": Form("bfloat16", 3),
    }.get(name, Form("float16"))  # fmt: skip
    dtype = {"int8": np.dtype(np.int8), "float16": FLOAT16}.get(form.element, np.dtype(np.float32))
    slots = [1600, 400] if name == "pieces" else [560, 400]
    rows, tiles = draw_tiles(rng, [37, 16], slots, 3, 90)
    tiles = [replace(t, cols=tuple(max(c, 0) for c in t.cols)) if name == "tf32" else t
             for t in tiles]  # fmt: skip
    values = integers(rng, 3)
    if name == "float32":  # values that no bfloat16 holds, whose sums float32 does

        def values(shape: Any) -> Any:
            return rng.integers(-1023, 1024, shape).astype(np.float64)

    storage = storage_of((rows, 90), tiles, dtype, True, values, rng)
    if name == "tf32":
        meta = np.zeros_like(storage.meta)
        for shift in (0, 4, 8, 12):
            first, second = rng.integers(0, 2, meta.shape), rng.integers(2, 4, meta.shape)
            meta |= ((first | second << 2) << shift).astype(np.uint16)
        storage = replace(storage, meta=meta)
    x = integers(rng, 1 if name == "float32" else 3)((90, 45))
    if name == "float32":
        x = x * 1025.0  # two parts
    config = configs_of(ARCHITECTURE, form, True)[-1]
    epilogue = Epilogue()
    if name == "fused":
        config = configs_of(ARCHITECTURE, form, True)[4]
        c, residual = rng.integers(-8, 9, (2, rows, 45)).astype(np.float16)
        epilogue = Epilogue(alpha=2.0, beta=0.5, c=c, residual=residual, activation="relu",
                            bias=rng.integers(-8, 9, rows).astype(np.float32))  # fmt: skip
    return Case(Product(storage, x.astype(dtype)), form, config, epilogue)


def judge(sources: dict[str, str], name: str, order: Any) -> None:
    """Run altered sources on a case; raise what is wrong with them, return if nothing is."""
    of = case(name)
    launcher = InterpreterLauncher(ARCHITECTURE, order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "_compiled", lambda c, a: compile_kernel(c, a, sources))
        packed = pack.pack(of.problem.storage, of.form)
        got = multiply(launcher, packed, of.problem.x, config=of.config, epilogue=of.epilogue)
    want = expected(exact(of.problem)[0], of.epilogue)
    raise_what_is_wrong(got, want.astype(got.dtype), launcher.reports)


@pytest.mark.parametrize("name", sorted({m.case for m in MUTANTS.values()}))
def test_the_shipped_kernels_pass(name: str) -> None:
    judge({}, name, "random")


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    kernel = case(mutant.case).config.kernel
    with pytest.raises(mutant.error):
        judge(altered(kernel, mutant.file, mutant.old, mutant.new), mutant.case, "random")


def test_slots_of_bytes_in_natural_order_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bricks, "BYTE_ROWS", np.arange(16))
    with pytest.raises(WrongResultError):
        judge({}, "int8", "forward")


def test_metadata_of_pairs_padded_with_zeros_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "PADDING_META", 0)
    with pytest.raises(InvalidMetadata):
        judge({}, "tf32", "forward")
