"""``wgmma``: layouts as they were found on an H200, groups, fences, registers under way.

The layouts below are byte formulas that gave exact products on hardware (float16, integers, every
lane different); they share nothing with the interpreter's descriptors.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from ptx import (
    AccumulatorInUse,
    BarrierMisuse,
    DivergentCollective,
    IllegalSelector,
    Interpreter,
    InvalidMetadata,
    InvalidOperand,
    OutOfBounds,
    RaceError,
    UninitialisedRead,
    UnknownOpcode,
)

PAIRS = np.array([(0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3)])
FENCE = "fence.proxy.async.shared::cta;"
BEGIN = "wgmma.fence.sync.aligned;"
COMMIT = "wgmma.commit_group.sync.aligned;"
WAIT = "wgmma.wait_group.sync.aligned 0;"
B_AT = 16384
NEVER = 1 << 24
"""What no sum is."""


def a_byte(r: int, c: int, swizzle: int) -> int:
    """Where compressed column c of row r lies, K-major, in the 128- or 64-byte swizzle."""
    if swizzle == 128:
        return r // 8 * 1024 + r % 8 * 128 + ((c // 8) ^ (r % 8)) * 16 + c % 8 * 2
    return r * 64 + ((c // 8) ^ (r // 2 % 4)) * 16 + c % 8 * 2


def b_byte(k: int, n: int, depth: int) -> int:
    """Where X[k, n] lies: atoms of 64 columns, n contiguous, in the 128-byte swizzle."""
    return n // 64 * depth * 128 + k * 128 + ((n % 64 // 8) ^ (k % 8)) * 16 + n % 8 * 2


def descriptor(start: int, leading: int, stride: int, swizzle: int) -> int:
    kind = {128: 1, 64: 2, 32: 3, 0: 0}[swizzle]
    return start >> 4 | leading >> 4 << 16 | stride >> 4 << 32 | kind << 62


class Problem:
    """A (64, depth) with pattern 2:4, X (depth, n), and shared memory that holds them."""

    sums: Any = np.float32
    span = 32
    """Slots of a product."""

    def __init__(self, n: int, depth: int, swizzle: int, kind: str = "f16") -> None:
        rng = np.random.default_rng(n + depth)
        self.n, self.depth, self.swizzle, self.kind = n, depth, swizzle, kind
        dtype = np.dtype(np.float16) if kind == "f16" else np.dtype(ml_dtypes.bfloat16)
        self.positions = PAIRS[rng.integers(0, 6, (64, depth // 4))]
        self.values = rng.integers(-4, 5, (64, depth // 4, 2)).astype(dtype)
        dense = np.zeros((64, depth // 4, 4))
        np.put_along_axis(dense, self.positions, self.values.astype(float), 2)
        self.a = dense.reshape(64, depth)
        self.x = rng.integers(-4, 5, (depth, n)).astype(dtype)
        image = np.zeros(B_AT // 2 + -(-n // 64) * depth * 64, np.uint16)
        stored = self.values.reshape(64, depth // 2).view(np.uint16)
        for r in range(64):
            for c in range(depth // 2):
                image[a_byte(r, c, swizzle) // 2] = stored[r, c]
        for k in range(depth):
            for col in range(n):
                image[(B_AT + b_byte(k, col, depth)) // 2] = self.x.view(np.uint16)[k, col]
        self.image = image
        # One word a thread and 64 columns: row g below, g + 8 above, thread t has columns 16 t on.
        nibbles = (self.positions[..., 0] | self.positions[..., 1] << 2).reshape(64, -1, 4)
        halves = (nibbles << np.array([0, 4, 8, 12])).sum(2)
        self.words = np.zeros((depth // 64, 128), np.uint32)
        for thread in range(128):
            row, t = thread // 32 * 16 + thread % 32 // 4, thread % 4
            for block in range(depth // 64):
                low, high = halves[row, 4 * block + t], halves[row + 8, 4 * block + t]
                self.words[block, thread] = low | high << 16

    def descriptors(self, step: int) -> tuple[int, int]:
        """Of A and X, for the 32 slots of a step."""
        stride = 1024 if self.swizzle == 128 else 512
        a = descriptor(32 * step, 16, stride, self.swizzle)
        return a, descriptor(B_AT + 4096 * step, self.depth * 128, 1024, 128)

    def product(self, step: int, scale: int = 1, a: str = "", selector: int | None = None) -> str:
        """The instruction for a step; its A by descriptor unless registers are named."""
        bits_a, bits_x = self.descriptors(step)
        sums = ", ".join(f"%f{i}" for i in range(self.n // 2))
        which = step % 2 if selector is None else selector
        return (
            f"mov.u64 %rd5, {bits_a}; mov.u64 %rd6, {bits_x};"
            "add.u64 %rd5, %rd5, %rd7; add.u64 %rd6, %rd6, %rd7;"
            f"wgmma.mma_async.sp.sync.aligned.m64n{self.n}k32.f32.{self.kind}.{self.kind} "
            f"{{{sums}}}, {a or '%rd5'}, %rd6, %e{step // 2}, {which}, {scale}, 1, 1, "
            f"{'' if a else '0, '}1;"
        )

    def steps(self) -> str:
        return " ".join(self.product(s, int(s > 0)) for s in range(self.depth // self.span))

    def run(self, body: str, before: str = FENCE, order: Any = "forward") -> np.ndarray:
        """Run `body` on shared memory filled with the image; return D (64, n)."""
        out = np.full((128, self.n // 2), NEVER, self.sums)
        Interpreter(self.text(body, before), order=order).launch(
            "k", 1, 128, [self.image, self.words, out], self.image.nbytes
        )
        return self.matrix(out)

    def matrix(self, out: np.ndarray) -> np.ndarray:
        """Put the sums of all threads where they belong."""
        d = np.full((64, self.n), NEVER, self.sums)
        for thread in range(128):
            for i in range(self.n // 2):
                row = thread // 32 * 16 + thread % 32 // 4 + 8 * (i >> 1 & 1)
                d[row, (i >> 2) * 8 + 2 * (thread % 4) + (i & 1)] = out[thread, i]
        return d

    def text(self, body: str, before: str) -> str:
        blocks = self.depth // 64
        loads = " ".join(f"ld.global.u32 %e{b}, [%rd2 + {512 * b}];" for b in range(blocks))
        stores = " ".join(f"st.global.f32 [%rd3 + {4 * i}], %f{i};" for i in range(self.n // 2))
        return f"""
.version 9.0
.target sm_90a
.address_size 64
.extern .shared .align 1024 .b8 s[];
.visible .entry k(.param .u64 image, .param .u64 words, .param .u64 out)
{{
    .reg .pred %p<4>; .reg .b32 %r<20>; .reg .b32 %e<8>; .reg .b64 %rd<20>; .reg .b32 %f<128>;
    .reg .b32 %a<4>;
    mov.u32 %r0, %tid.x;
    ld.param.u64 %rd1, [image];
    mov.u32 %r1, %r0;
fill:
    mul.wide.u32 %rd4, %r1, 16; add.u64 %rd4, %rd4, %rd1;
    ld.global.v4.u32 {{%r2, %r3, %r4, %r5}}, [%rd4];
    shl.b32 %r6, %r1, 4; mov.u32 %r7, s; add.u32 %r6, %r6, %r7;
    st.shared.v4.u32 [%r6], {{%r2, %r3, %r4, %r5}};
    add.u32 %r1, %r1, 128; setp.lt.u32 %p0, %r1, {self.image.nbytes // 16}; @%p0 bra fill;
    {before}
    bar.sync 0;
    ld.param.u64 %rd2, [words]; mad.wide.u32 %rd2, %r0, 4, %rd2;
    {loads}
    mov.u32 %r8, s; shr.u32 %r8, %r8, 4; cvt.u64.u32 %rd7, %r8;  // where descriptors count from
    ld.param.u64 %rd3, [out]; mad.wide.u32 %rd3, %r0, {2 * self.n}, %rd3;
    {body}
    {stores}
    ret;
}}
"""


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize(
    ("n", "depth", "swizzle"), [(64, 128, 128), (128, 128, 128), (128, 64, 64), (256, 64, 64)]
)
def test_products_are_those_of_the_hardware(n: int, depth: int, swizzle: int, kind: str) -> None:
    problem = Problem(n, depth, swizzle, kind)
    got = problem.run(f"{BEGIN} {problem.steps()} {COMMIT} {WAIT}")
    np.testing.assert_array_equal(got, problem.a @ problem.x.astype(float))


def test_a_from_registers() -> None:
    """Register r, half h of a thread: row g + 8 (r & 1), compressed column 2 t + h + 8 (r >> 1)."""
    problem = Problem(64, 64, 64)
    stored = problem.values.reshape(64, 32).view(np.uint16).astype(np.uint32)
    words = np.zeros((2, 128, 4), np.uint32)
    for thread in range(128):
        row, t = thread // 32 * 16 + thread % 32 // 4, thread % 4
        for step in range(2):
            for r in range(4):
                at = row + 8 * (r & 1), 16 * step + 2 * t + 8 * (r >> 1)
                words[step, thread, r] = stored[at] | stored[at[0], at[1] + 1] << 16
    problem.words = np.concatenate([problem.words, words.transpose(0, 2, 1).reshape(8, 128)])
    body = ""
    for step in range(2):
        loads = [f"ld.global.u32 %a{r}, [%rd2 + {512 * (1 + 4 * step + r)}];" for r in range(4)]
        product = problem.product(step, step, "{%a0, %a1, %a2, %a3}")
        body += f"{' '.join(loads)} {BEGIN} {product} {COMMIT} {WAIT}"
    got = problem.run(body)
    np.testing.assert_array_equal(got, problem.a @ problem.x.astype(float))


def test_dense_products_with_both_operands_k_major() -> None:
    """B with k contiguous lies as A does: rows of B's columns."""
    rng = np.random.default_rng(0)
    problem = Problem(64, 64, 128)
    a, b = (rng.integers(-4, 5, (64, 16)).astype(np.float16) for _ in range(2))
    problem.image[:] = 0
    for matrix, base in ((a, 0), (b, B_AT)):
        for r in range(64):
            for c in range(16):
                problem.image[(base + a_byte(r, c, 128)) // 2] = matrix.view(np.uint16)[r, c]
    sums = ", ".join(f"%f{i}" for i in range(32))
    body = f"""
        mov.u64 %rd5, {descriptor(0, 16, 1024, 128)};
        mov.u64 %rd6, {descriptor(B_AT, 16, 1024, 128)};
        add.u64 %rd5, %rd5, %rd7; add.u64 %rd6, %rd6, %rd7;
        {BEGIN}
        wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {{{sums}}}, %rd5, %rd6, 0, 1, 1, 0, 0;
        {COMMIT} {WAIT}"""
    np.testing.assert_array_equal(problem.run(body), a.astype(float) @ b.astype(float).T)


def test_one_group_may_stay_under_way() -> None:
    """Two groups add to the same sums; waiting for all but one leaves them in use."""
    problem = Problem(64, 64, 64)
    two = f"{BEGIN} {problem.product(0, 0)} {COMMIT} {problem.product(1)} {COMMIT}"
    one = "wgmma.wait_group.sync.aligned 1;"
    got = problem.run(f"{two} {one} {WAIT}")
    np.testing.assert_array_equal(got, problem.a @ problem.x.astype(float))
    with pytest.raises(AccumulatorInUse, match="has not been waited for"):
        problem.run(f"{two} {one}")


ZERO = " ".join(f"mov.f32 %f{i}, 0f00000000;" for i in range(32))


@pytest.mark.parametrize(
    ("body", "before", "error", "message"),
    [
        ("{begin} {steps} {commit} {wait}", "", RaceError, "MissingFence"),
        ("{steps} {commit} {wait}", FENCE, AccumulatorInUse, "wgmma.fence"),
        ("{begin} {zero} {add} {commit} {wait}", FENCE, AccumulatorInUse, "wgmma.fence"),
        ("{begin} {steps} {commit}", FENCE, AccumulatorInUse, "waited"),
        ("{begin} {steps} {wait}", FENCE, AccumulatorInUse, "waited"),
        ("{begin} {first} {zero} {commit} {wait}", FENCE, AccumulatorInUse, "were written"),
        ("{begin} {first} mov.b32 %e0, 0; {commit} {wait}", FENCE, AccumulatorInUse, "reads was"),
        (
            "{begin} {steps} {commit} st.shared.u32 [s], %r0; {wait}", FENCE, RaceError,
            "WriteAfterRead",
        ),
        (
            "{begin} {steps} {commit} {wait} mov.u32 %r9, s; mad.lo.u32 %r9, %r0, 4, %r9; "
            "st.shared.u32 [%r9], %r0;", FENCE, RaceError, "WriteAfterRead",
        ),
        ("mov.b32 %e0, 0; {begin} {steps} {commit} {wait}", FENCE, InvalidMetadata, "nibble"),
        (
            "setp.lt.u32 %p1, %r0, 32; @%p1 bra skip; {begin} {first} {commit} {wait} skip: {zero}",
            FENCE, DivergentCollective, "different wgmma",
        ),
    ],
)  # fmt: skip
def test_misuse_is_refused(body: str, before: str, error: Any, message: str) -> None:
    problem = Problem(64, 64, 64)
    parts = {
        "begin": BEGIN, "commit": COMMIT, "wait": WAIT, "zero": ZERO, "steps": problem.steps(),
        "first": problem.product(0, 0), "add": problem.product(0, 1),
    }  # fmt: skip
    with pytest.raises(error, match=message):
        problem.run(body.format(**parts), before)


def test_reads_that_were_waited_for_can_be_overwritten_behind_a_barrier() -> None:
    problem = Problem(64, 64, 64)
    body = f"{BEGIN} {problem.steps()} {COMMIT} {WAIT} bar.sync 0; st.shared.u32 [s], %r0;"
    with pytest.raises(RaceError, match="SameInstruction"):  # all threads write one word
        problem.run(body)
    body = body.replace("st.shared", "setp.eq.u32 %p1, %r0, 0; @%p1 st.shared")
    np.testing.assert_array_equal(problem.run(body), problem.a @ problem.x.astype(float))


def test_a_product_nobody_waits_for_is_refused() -> None:
    problem = Problem(64, 64, 64)
    text = problem.text(f"{BEGIN} {problem.product(0, 0)} {COMMIT} ret;", FENCE)
    out = np.zeros((128, 32), np.float32)
    with pytest.raises(BarrierMisuse, match="nobody waited for"):
        Interpreter(text).launch(
            "k", 1, 128, [problem.image, problem.words, out], problem.image.nbytes
        )


@pytest.mark.parametrize(
    ("old", "new", "error", "message"),
    [
        (", 0, 0, 1, 1,", ", 2, 0, 1, 1,", IllegalSelector, "selector 2"),
        (", 0, 0, 1, 1,", ", 0, 0, -1, 1,", UnknownOpcode, "negated"),
        ("1, 1, 0, 1;", "1, 1, 1, 1;", UnknownOpcode, "transposed"),
        ("m64n64k32", "m64n64k16", UnknownOpcode, "does not exist"),
        ("m64n64k32", "m64n72k32", InvalidOperand, "36 32-bit registers"),
        ("mov.u64 %rd5, ", f"mov.u64 %rd5, {1 << 49} + ", None, ""),
        ("add.u64 %rd6,", "cvt.u64.u32 %rd6, %r0; //", InvalidOperand, "differs between threads"),
    ],
)
def test_instructions_that_do_not_exist(old: str, new: str, error: Any, message: str) -> None:
    problem = Problem(64, 64, 64)
    product = problem.product(0, 0)
    assert old in product
    if error is None:  # a base offset in the descriptor
        product = product.replace(
            str(problem.descriptors(0)[0]), str(problem.descriptors(0)[0] | 1 << 49)
        )
        error, message = InvalidOperand, "base offset"
    else:
        product = product.replace(old, new).replace("wgmma.mma", "\nwgmma.mma")
    with pytest.raises(error, match=message):
        problem.run(f"{BEGIN} {product} {COMMIT} {WAIT}")


def test_descriptors_are_held_to_the_bytes_there_are() -> None:
    problem = Problem(64, 64, 64)
    x = problem.descriptors(0)[1]
    beyond = problem.product(0, 0).replace(str(x), str(x + (4096 >> 4)))
    body = f"{BEGIN} {beyond} {COMMIT} {WAIT}"
    np.testing.assert_array_equal(
        problem.run(body), problem.a[:, :32] @ problem.x[32:].astype(float)
    )
    far = problem.product(0, 0).replace(str(x), str(x + (8192 >> 4)))
    with pytest.raises(OutOfBounds, match="a wgmma reads shared memory up to byte"):
        problem.run(f"{BEGIN} {far} {COMMIT} {WAIT}")
    problem.image = np.concatenate([problem.image, np.zeros(4096, np.uint16)])
    text = problem.text(f"{BEGIN} {far} {COMMIT} {WAIT}", FENCE).replace(
        f"%r1, {problem.image.nbytes // 16}", f"%r1, {(problem.image.nbytes - 8192) // 16}"
    )
    with pytest.raises(UninitialisedRead, match="wgmma reads shared memory that nobody wrote"):
        Interpreter(text).launch(
            "k", 1, 128, [problem.image, problem.words, np.zeros((128, 32), np.float32)],
            problem.image.nbytes,
        )  # fmt: skip
