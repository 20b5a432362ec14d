"""``wgmma`` of 8-bit types: float8 with float32 sums, int8 with int32 sums; both operands K-major.

Layouts are stated as byte formulas, in the words of the PTX ISA; every lane is different. The same
problems run on hardware in `test_gpu.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptx import IllegalSelector, InvalidOperand, UnknownOpcode, float8
from test_ptx_wgmma import B_AT, BEGIN, COMMIT, FENCE, PAIRS, WAIT, Problem, descriptor

DEPTH = 128
DTYPES = {
    "e4m3": np.dtype(ml_dtypes.float8_e4m3fn),
    "e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "s8": np.dtype(np.int8),
    "u8": np.dtype(np.uint8),
}


def a_byte(r: int, c: int) -> int:
    """Where compressed column c of row r lies: 64 bytes a row, in the 64-byte swizzle."""
    return r * 64 + ((c // 16) ^ (r // 2 % 4)) * 16 + c % 16


def b_byte(k: int, n: int) -> int:
    """Where X[k, n] lies: k contiguous, 128 bytes for each n, in the 128-byte swizzle."""
    return n * 128 + ((k // 16) ^ (n % 8)) * 16 + k % 16


class ByteProblem(Problem):
    """A (64, 128) with pattern 2:4, X (128, n), and shared memory that holds them."""

    span = 64

    def __init__(self, n: int, kind: str, other: str = "", largest: int = 4) -> None:
        rng = np.random.default_rng(n)
        self.n, self.depth, self.kind, self.other = n, DEPTH, kind, other or kind
        self.sums = np.float32 if kind.startswith("e") else np.int32
        least = 0 if "u" in self.kind + self.other else -largest
        self.positions = PAIRS[rng.integers(0, 6, (64, DEPTH // 4))]
        self.values = rng.integers(least, largest + 1, (64, DEPTH // 4, 2)).astype(DTYPES[kind])
        self.x = rng.integers(least, largest + 1, (DEPTH, n)).astype(DTYPES[self.other])
        self.build()

    def build(self) -> None:
        """Put the operands where the instruction reads them."""
        dense = np.zeros((64, DEPTH // 4, 4))
        np.put_along_axis(dense, self.positions, self.values.astype(float), 2)
        self.a = dense.reshape(64, DEPTH)
        image = np.zeros(B_AT + self.n * DEPTH, np.uint8)
        stored = self.values.reshape(64, DEPTH // 2).view(np.uint8)
        for r in range(64):
            for c in range(DEPTH // 2):
                image[a_byte(r, c)] = stored[r, c]
        for k in range(DEPTH):
            for col in range(self.n):
                image[B_AT + b_byte(k, col)] = self.x.view(np.uint8)[k, col]
        self.image = image
        # A word for each product and thread 4 g + 2 q + h: row g + 8 h, slots 32 q to 32 q + 31.
        nibbles = self.positions[..., 0] | self.positions[..., 1] << 2
        self.words = np.zeros((DEPTH // 64, 128), np.uint32)
        for thread in range(128):
            g, q, h = thread % 32 // 4, thread // 2 % 2, thread % 2
            for step in range(DEPTH // 64):
                of_row = nibbles[thread // 32 * 16 + g + 8 * h, 16 * step + 8 * q :]
                for i in range(8):
                    self.words[step, thread] |= np.uint32(int(of_row[i]) << 4 * i)

    def descriptors(self, step: int) -> tuple[int, int]:
        """Of A and X, for the 64 slots of a step."""
        return descriptor(32 * step, 16, 512, 64), descriptor(B_AT + 64 * step, 16, 1024, 128)

    def product(self, step: int, scale: int = 1, a: str = "", selector: int | None = None) -> str:
        """The instruction for a step; its A by descriptor unless registers are named."""
        bits_a, bits_x = self.descriptors(step)
        sums = ", ".join(f"%f{i}" for i in range(self.n // 2))
        kinds = f"{'f32' if self.sums is np.float32 else 's32'}.{self.kind}.{self.other}"
        signs = ", 1, 1" if self.sums is np.float32 else ""
        return (
            f"mov.u64 %rd5, {bits_a}; mov.u64 %rd6, {bits_x};"
            "add.u64 %rd5, %rd5, %rd7; add.u64 %rd6, %rd6, %rd7;"
            f"wgmma.mma_async.sp.sync.aligned.m64n{self.n}k64.{kinds} "
            f"{{{sums}}}, {a or '%rd5'}, %rd6, %e{step}, {selector or 0}, {scale}{signs};"
        )

    @property
    def body(self) -> str:
        """All products, and the wait."""
        return f"{BEGIN} {self.steps()} {COMMIT} {WAIT}"


CASES = [
    ("e4m3", "", 64), ("e4m3", "", 128), ("e4m3", "", 256), ("e5m2", "", 128), ("e4m3", "e5m2", 8),
    ("e5m2", "e4m3", 72), ("s8", "", 64), ("s8", "", 128), ("s8", "", 256), ("u8", "", 96),
    ("s8", "u8", 32),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "other", "n"), CASES)
def test_products_are_those_of_the_definition(kind: str, other: str, n: int) -> None:
    problem = ByteProblem(n, kind, other)
    got = problem.run(problem.body)
    np.testing.assert_array_equal(got, problem.a @ problem.x.astype(float))


def test_a_from_registers() -> None:
    """Register r, byte i: row g + 8 (r & 1), compressed column 4 t + i + 16 (r >> 1)."""
    problem = ByteProblem(64, "e4m3")
    stored = problem.values.reshape(64, 64).view(np.uint8).astype(np.uint32)
    words = np.zeros((2, 128, 4), np.uint32)
    for thread in range(128):
        row, t = thread // 32 * 16 + thread % 32 // 4, thread % 4
        for step in range(2):
            for r in range(4):
                at = 32 * step + 4 * t + 16 * (r >> 1)
                for i in range(4):
                    words[step, thread, r] |= stored[row + 8 * (r & 1), at + i] << 8 * i
    problem.words = np.concatenate([problem.words, words.transpose(0, 2, 1).reshape(8, 128)])
    body = ""
    for step in range(2):
        loads = [f"ld.global.u32 %a{r}, [%rd2 + {512 * (2 + 4 * step + r)}];" for r in range(4)]
        product = problem.product(step, step, "{%a0, %a1, %a2, %a3}")
        body += f"{' '.join(loads)} {BEGIN} {product} {COMMIT} {WAIT}"
    np.testing.assert_array_equal(problem.run(body), problem.a @ problem.x.astype(float))


@pytest.mark.parametrize("saturate", ["", ".satfinite"])
def test_integer_sums_wrap_or_saturate(saturate: str) -> None:
    problem = ByteProblem(8, "s8", largest=127)
    body = f"{BEGIN} " + " ".join(f"mov.b32 %f{i}, 0x7fffff00;" for i in range(4))
    body += f" {BEGIN} {problem.product(0)} {COMMIT} {WAIT}"
    exact = problem.a[:, :64] @ problem.x[:64].astype(float) + 0x7FFFFF00
    got = problem.run(body.replace(".m64n8k64", f".m64n8k64{saturate}"))
    assert (exact >= 2**31).any()
    if saturate:
        np.testing.assert_array_equal(got, np.minimum(exact, 2**31 - 1))
    else:
        np.testing.assert_array_equal(got, exact.astype(np.int64).astype(np.int32))


def all_bit_patterns(kind: str, part: int) -> ByteProblem:
    """A quarter of all float8, one in each row, times powers of two: exact, NaN and Inf as well."""
    problem = ByteProblem(8, kind)
    problem.values = np.zeros_like(problem.values)
    row = np.arange(64)
    bits = np.arange(64 * part, 64 * part + 64).astype(np.uint8)
    problem.values[row, row % 32, row % 2] = bits.view(DTYPES[kind])
    problem.x[:] = 2.0 ** (np.arange(8) - 4)
    problem.build()
    return problem


@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_all_eight_bit_floats(kind: str, part: int) -> None:
    problem = all_bit_patterns(kind, part)
    with np.errstate(invalid="ignore"):
        expected = problem.a @ problem.x.astype(float)
    np.testing.assert_array_equal(problem.run(problem.body), expected)


def recorded(kind: str, name: str) -> tuple[ByteProblem, Any]:
    """Return a problem that an H200 has run, and what is known of it."""
    with np.load(Path(__file__).parent / "data" / "float8_sums_sm_90.npz") as file:
        found = {k.split("_")[2]: file[k] for k in file if k.startswith(f"{kind}_{name}_")}
    problem = ByteProblem(8, kind)
    problem.positions = found["positions"].astype(np.int64)
    problem.values, problem.x = (found[k].view(DTYPES[kind]) for k in "ax")
    problem.build()
    return problem, found


@pytest.mark.parametrize("name", ["normals", "wide"])
@pytest.mark.parametrize("kind", ["e4m3", "e5m2"])
def test_sums_of_float8_are_those_of_hardware(kind: str, name: str) -> None:
    """Two products, and one onto a sum of 24 bits: 14 bits are kept, the same ones."""
    problem, found = recorded(kind, name)
    both = problem.run(problem.body)
    np.testing.assert_array_equal(both, found["both"])
    assert (both != (problem.a @ problem.x.astype(float)).astype(np.float32)).mean() > 0.3
    bits = int(found["sum"].view(np.uint32))
    given = " ".join(f"mov.b32 %f{i}, {bits};" for i in range(4))
    added = problem.run(f"{given} {BEGIN} {problem.product(0)} {COMMIT} {WAIT}")
    np.testing.assert_array_equal(added, found["added"])


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(0, 12), st.sampled_from(["e4m3", "e5m2"]))
def test_short_cut_of_exact_sums_is_no_other_sum(seed: int, spread: int, kind: str) -> None:
    """Where nothing is cut off sums are exact; 14 bits are kept either way."""
    rng = np.random.default_rng(seed)

    def draw(shape: tuple[int, int]) -> np.ndarray:
        found = rng.integers(-8, 9, shape) * 2.0 ** rng.integers(-spread, 1, shape)
        return found.astype(DTYPES[kind]).astype(np.float64)

    left, right = draw((3, 32)), draw((32, 4))
    before = rng.integers(-99, 99, (3, 4)) * 2.0 ** rng.integers(-spread, 1, (3, 4))
    got = float8.add_products(left, right, before, (kind, kind))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(float8, "_are_multiples", lambda *_: False)
        np.testing.assert_array_equal(got, float8.add_products(left, right, before, (kind, kind)))
    exact = left @ right + before
    terms = abs(left) @ abs(right) + abs(before)
    assert (abs(got - exact) <= 34 * 2.0**-13 * np.maximum(terms, 2.0**-10)).all()


@pytest.mark.parametrize(
    ("kind", "old", "new", "error", "message"),
    [
        ("e4m3", "%e0, 0,", "%e0, 1,", IllegalSelector, "this shape allows 0"),
        ("e4m3", "f32.e4m3.e4m3", "s32.e4m3.e4m3", UnknownOpcode, "not supported"),
        ("e4m3", "f32.e4m3.e4m3", "f32.e4m3.s8", UnknownOpcode, "not supported"),
        ("e4m3", "m64n64k64", "m64n64k32", UnknownOpcode, "does not exist"),
        ("e4m3", ", 0, 1, 1;", ", 0, 1, 1, 0, 0;", InvalidOperand, "operands"),
        ("e4m3", ", 0, 1, 1;", ", 0, -1, 1;", UnknownOpcode, "negated"),
        ("s8", "m64n64k64", "m64n72k64", UnknownOpcode, "multiples of 16"),
        ("s8", ", 0;", ", 0, 1, 1;", InvalidOperand, "operands"),
    ],
)
def test_instructions_that_do_not_exist(
    kind: str, old: str, new: str, error: Any, message: str
) -> None:
    """8-bit operands lie K-major; int8 has no signs to change; one selector; widths of integers."""
    problem = ByteProblem(64, kind)
    product = problem.product(0, 0)
    assert product.count(old) == 1
    with pytest.raises(error, match=message):
        problem.run(f"{BEGIN} {product.replace(old, new)} {COMMIT} {WAIT}", FENCE)
