"""The kernel ``split``, executed: float32 in bfloat16 parts, as array operations have them."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter_launcher import InterpreterLauncher, UnwrittenError
from mutants import altered
from ptx import Misaligned, OutOfBounds
from test_compile import machine_code

from tvwarray._kernels import split
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.config import ARCHITECTURES
from tvwarray._kernels.elements import bfloat16_parts
from tvwarray._kernels.split import SplitConfig, parts_of

SPECIAL = (0x7F800000, 0xFF800000, 0x7F800001, 0xFFFFFFFF, 0x7F7FFFFF, 0xFF7FFFFF, 0x80000000, 1)
"""Infinities, NaNs of low and of all bits, the largest values, -0.0, the least value."""


def values(shape: tuple[int, ...], seed: int = 0) -> Any:
    """Return float32 of any bits, special ones among them."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, shape, dtype=np.uint32)
    chosen = rng.random(shape) < 0.2
    return np.where(chosen, rng.choice(np.array(SPECIAL, np.uint32), shape), bits).view(np.float32)


def check(x: Any, parts: int) -> InterpreterLauncher:
    """Split `x`, and compare every bit."""
    launcher = InterpreterLauncher("80", "random")
    got = parts_of(launcher, x, parts)
    n = x.shape[-1]
    assert got.shape == (parts, *x.shape[:-1], -(-n // 8) * 8)
    with np.errstate(invalid="ignore", over="ignore"):
        want = bfloat16_parts(x, parts)
    for found, part in zip(got, want, strict=True):
        np.testing.assert_array_equal(found[..., :n], part)
        assert not found[..., n:].any()
    return launcher


@settings(max_examples=25)
@given(
    st.sampled_from([2, 3]), st.integers(1, 30), st.integers(1, 70), st.integers(1, 2),
    st.integers(0, 3), st.sampled_from([1, 2]), st.integers(0, 99),
)  # fmt: skip
def test_parts_of_anything(
    parts: int, rows: int, n: int, batch: int, left: int, step: int, seed: int
) -> None:
    """Ragged rows, windows of larger arrays, any strides and alignment, batches."""
    whole = values((batch, rows, left + n * step + 2), seed)
    x = whole[..., left : left + n * step : step]
    assert len(check(x[0] if batch == 1 else x, parts).reports) == 1


def test_the_sum_of_three_parts_is_the_value() -> None:
    x = np.random.default_rng(0).standard_normal((64, 40), dtype=np.float32)
    got = parts_of(InterpreterLauncher("80"), x, 3)
    parts = (got.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    np.testing.assert_array_equal(parts.sum(axis=0), x)


def test_whole_rows_move_whole_chunks() -> None:
    """Counted: each byte is read and written once, 16 bytes at a time."""
    x = values((64, 256))
    (report,) = check(x, 3).reports
    assert report.count("ld.global") * 32 * 16 == x.nbytes
    assert report.count("st.global") * 32 * 16 == 3 * x.nbytes // 2


def test_nothing_is_launched_for_nothing() -> None:
    launcher = InterpreterLauncher("80")
    assert parts_of(launcher, np.zeros((0, 5), np.float32), 2).shape == (2, 0, 8)
    assert not launcher.reports
    assert "2 or 3, not 4" in SplitConfig(4).refusal()


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "90a"])
def test_gate(architecture: str) -> None:
    """No spills, all of a multiprocessor's threads, 16 bytes at a time on both sides."""
    for parts in (2, 3):
        kernel = compile_kernel(SplitConfig(parts), architecture)
        sass, usage = machine_code(kernel.cubin_path), kernel.usage
        assert "warning" not in kernel.log
        assert usage.spill_bytes == usage.stack_bytes == 0
        assert usage.registers <= 40
        assert len(re.findall(r"\bLDG\.E\.128", sass)) == 2
        assert len(re.findall(r"\bSTG\.E\.128", sass)) == parts


MUTANTS = {
    "ties not to even": ("+ (bits >> 16 & 1)) & 0xffff0000", ") & 0xffff0000", AssertionError),
    "what rounds to infinity": ("finite && !overflows ?", "finite ?", AssertionError),
    "a NaN of low bits": ("? 0x400000 : 0", "? 0 : 0", AssertionError),
    "the rest of what is not finite": ("finite ? rest -", "true ? rest -", AssertionError),
    "columns exchanged": ("low | high << 16", "high | low << 16", AssertionError),
    "columns beyond the last": ("column + e < n ?", "true ?", (OutOfBounds, AssertionError)),
    "alignment": ("% sizeof(Four) == 0", "% sizeof(Four) < 16", Misaligned),
    "parts in one place": ("y[part * chunks + at]", "y[at]", UnwrittenError),
    "chunks beyond the last": ("if (at >= chunks) return;", "", OutOfBounds),
    "another batch": ("of_row / rows * x_batch + ", "", AssertionError),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, error = MUTANTS[name]
    sources = altered("split", "split.cu", old, new)
    monkeypatch.setattr(split, "_compiled", lambda c, a: compile_kernel(c, a, sources))
    with pytest.raises(error):
        check(values((2, 37, 22))[..., 1:22], 3)
