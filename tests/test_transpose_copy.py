"""The kernel ``transpose``: operands and results in column-major order, executed."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter_launcher import InterpreterLauncher
from kernel_problems import BFLOAT16, Product, exact, uniform
from mutants import altered
from ptx import OutOfBounds, RaceError, UninitialisedRead
from test_compile import machine_code

import tvwarray
from tvwarray import TVWMatrix
from tvwarray import _matmul as products_module
from tvwarray._backends.cuda import CudaBackend
from tvwarray._kernels import transpose
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.config import ARCHITECTURES
from tvwarray._kernels.transpose import TransposeConfig, copy_to, is_column_major, rows_of

SIZES = (1, 2, 4, 8)


def matrix(shape: tuple[int, ...], size: int, seed: int = 0) -> Any:
    """Return elements of `size` bytes, all different as far as that goes."""
    rng = np.random.default_rng(seed)
    raw = rng.integers(0, 256, (*shape[:-1], shape[-1] * size), dtype=np.uint8)
    return raw.view(f"u{size}")


def without_conflicts(launcher: InterpreterLauncher) -> None:
    assert not [c for r in launcher.reports for c in r.conflicts if c.degree > 1]


@settings(max_examples=40)
@given(
    st.sampled_from(SIZES), st.integers(2, 150), st.integers(2, 150), st.integers(0, 20),
    st.integers(1, 2), st.integers(0, 9), st.integers(0, 9),
)  # fmt: skip
def test_rows_of_anything(
    size: int, n: int, cols: int, more: int, batch: int, left: int, right: int
) -> None:
    """Ragged edges, windows of larger arrays, any alignment, batches; zeros behind the last."""
    whole = matrix((batch, n, left + cols + right), size)
    x = whole[..., left : left + cols].swapaxes(-1, -2)
    x = x[0] if batch == 1 else x
    launcher = InterpreterLauncher("80", "random")
    assert is_column_major(x)
    got = rows_of(launcher, x, n + more)
    assert got.shape == (*x.shape[:-1], n + more)
    assert got.flags.c_contiguous
    np.testing.assert_array_equal(got[..., :n], x)
    assert not got[..., n:].any()
    assert len(launcher.reports) == 1
    without_conflicts(launcher)


@settings(max_examples=25)
@given(
    st.sampled_from(SIZES), st.integers(2, 140), st.integers(2, 140), st.integers(1, 3),
    st.integers(0, 9),
)  # fmt: skip
def test_copies_to_column_major(size: int, rows: int, n: int, step: int, left: int) -> None:
    """Any strides of what is copied; beside a window of `out` nothing is written."""
    x = matrix((rows * step, n * 2), size)[::step, : n * 2 : 2]
    wide = np.zeros((n, left + rows + 5), f"u{size}")
    out = wide[:, left : left + rows].T
    launcher = InterpreterLauncher("80")
    copy_to(launcher, x, out)
    np.testing.assert_array_equal(out, x)
    out[...] = 0
    assert not wide.any()
    assert len(launcher.reports) == 1


def test_what_is_not_column_major_is_copied_by_the_library() -> None:
    launcher = InterpreterLauncher("80")
    x, out = matrix((5, 7), 2), np.zeros((5, 7), np.uint16)
    assert not is_column_major(x)
    assert not is_column_major(x[:1].T[:1])
    assert not is_column_major(matrix((9, 9), 2)[::2, ::2].T)
    copy_to(launcher, x, out)
    np.testing.assert_array_equal(out, x)
    assert not launcher.reports
    rows_of(launcher, np.zeros((0, 4), np.uint16), 8)
    assert not launcher.reports
    assert "1, 2, 4 or 8 bytes, not 3" in TransposeConfig(3).refusal()


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "90a"])
def test_gate(architecture: str) -> None:
    """No spills; 16 bytes at a time on both sides; registers for four blocks at least."""
    for size in SIZES:
        kernel = compile_kernel(TransposeConfig(size), architecture)
        sass = machine_code(kernel.cubin_path)
        usage = kernel.usage
        assert "warning" not in kernel.log
        assert usage.spill_bytes == usage.stack_bytes == 0, f"{size} bytes on sm_{architecture}"
        assert usage.registers <= (128 if size == 1 else 64), f"{size} bytes on sm_{architecture}"
        for name in (r"LDG\.E\.128", r"STS\.128", r"STG\.E\.128"):
            assert len(re.findall(rf"\b{name}", sass)) == 4, f"{name} of {size} bytes"


def test_a_full_tile_moves_whole_chunks() -> None:
    """Counted: each byte is read and written once, 16 bytes at a time."""
    launcher = InterpreterLauncher("80")
    x = matrix((256, 256), 2)
    rows_of(launcher, x.T, 256)
    (report,) = launcher.reports
    assert report.count("ld.global") * 32 * 16 == x.nbytes
    assert report.count("st.global") * 32 * 16 == x.nbytes


MUTANTS = {
    "the swizzle removed": ("(chunk ^ row / chunk_elements % tile_chunks)", "chunk", None),
    "no barrier": ("    __syncthreads();\n", "", (RaceError, UninitialisedRead)),
    "columns beyond the last": ("column + chunk_elements <= cols &&", "", OutOfBounds),
    "rows beyond the last": ("row < rows && column + e < cols", "column + e < cols", OutOfBounds),
    "elements beyond the width": (
        "if (first_row + row + e < width)",
        "if (true)",
        (OutOfBounds, RaceError),
    ),
    "tiles exchanged": ("place(column / tile, row + e", "place(0, row + e", AssertionError),
    "an element of its neighbour": ("in_tile % chunk_elements]", "0]", AssertionError),
}


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, error = MUTANTS[name]
    sources = altered("transpose", "transpose.cu", old, new)
    monkeypatch.setattr(transpose, "_compiled", lambda c, a: compile_kernel(c, a, sources))
    launcher = InterpreterLauncher("80", "random")

    def judge() -> None:
        x = matrix((131, 204), 2).T
        np.testing.assert_array_equal(rows_of(launcher, x, 133)[:, :131], x)

    if error is None:
        judge()
        with pytest.raises(AssertionError):
            without_conflicts(launcher)
    else:
        with pytest.raises(error):
            judge()


def test_activations_are_transposed_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`linear` with row-major x: one transposed copy in; a row-major `out` needs none out."""
    launcher = InterpreterLauncher("90")
    monkeypatch.setattr(products_module, "BACKENDS", [CudaBackend(launcher)])
    product = uniform(64, 96, 72, tile_rows=32, keep=0.5, dtype=BFLOAT16)
    a, x = TVWMatrix.from_storage(product.storage), np.ascontiguousarray(product.x.T)
    y = exact(product)[0].T.astype(BFLOAT16)
    np.testing.assert_array_equal(tvwarray.linear(x, a), y)
    names = [k.name for k in launcher.kernels]
    assert names[0] == "transpose"
    assert names.count("transpose") == 1
    assert len(names) == 2
    out = np.empty((72, 64), BFLOAT16)
    assert tvwarray.linear(x, a, out=out) is out
    np.testing.assert_array_equal(out, y)
    assert [k.name for k in launcher.kernels[2:]] == ["transpose", "sm80_tvw_gemm"]
    assert launcher.kernels[3].config.column_major
    wide = Product(product.storage, product.x)
    wide_a = a.astype(np.float32)
    got = tvwarray.linear(x.astype(np.float32), wide_a)
    np.testing.assert_array_equal(got, exact(wide)[0].T.astype(np.float32))
