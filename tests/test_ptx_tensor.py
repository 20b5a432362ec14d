"""``mma`` and ``mma.sp`` of every shape against loops, with lane maps written once more.

The expected maps are in `ptx.fragments`, apart from those which the interpreter uses.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptx import IllegalSelector, Interpreter, InvalidMetadata, InvalidOperand, UnknownOpcode
from ptx.fragments import (
    A_PLACES,
    B_PLACES,
    FAMILY,
    SELECTORS,
    WIDTH,
    accumulator,
    c_place,
    encode,
    gather,
    integers,
    nibble_place,
    run_mma,
    sparse_operand,
    spread,
)
from ptx.snippets import kernel
from ptx.tensor import SHAPES, Fragment, Metadata, find_shape

DENSE = [
    *product(("m16n8k8", "m16n8k16"), ("f16", "bf16")),
    *product(("m16n8k4", "m16n8k8"), ("tf32",)),
    *product(("m16n8k16", "m16n8k32"), ("s8", "u8")),
    *product(("m16n8k32",), ("e4m3", "e5m2")),
]
SPARSE = [
    *product(("m16n8k16", "m16n8k32"), ("f16", "bf16")),
    *product(("m16n8k8", "m16n8k16"), ("tf32",)),
    *product(("m16n8k32", "m16n8k64"), ("s8", "u8")),
    *product(("m16n8k64",), ("e4m3", "e5m2")),
]


@pytest.mark.parametrize(("shape", "kind"), DENSE)
def test_dense_products(shape: str, kind: str) -> None:
    rng = np.random.default_rng(1)
    warps, k, family = 5, int(shape[6:]), FAMILY[kind]
    sums, dtype = accumulator(kind)
    a, b = integers(rng, kind, (warps, 16, k)), integers(rng, kind, (warps, k, 8))
    c = rng.integers(-1000, 1000, (warps, 16, 8))
    place, width = A_PLACES[shape, family, False], WIDTH[family]
    args = [
        np.stack([spread(encode(m, kind), place, width) for m in a]),
        np.stack([spread(encode(m, kind), B_PLACES[family], width) for m in b]),
        np.stack([spread(m.astype(dtype).view(np.uint32), c_place, 32) for m in c]),
    ]
    mnemonic = f"mma.sync.aligned.{shape}.row.col.{sums}.{kind}.{kind}.{sums}"
    assert (gather(run_mma(mnemonic, *args), dtype) == a @ b + c).all()


@pytest.mark.parametrize("form", ["sp::ordered_metadata", "sp"])
@pytest.mark.parametrize(("shape", "kind"), SPARSE)
def test_sparse_products(shape: str, kind: str, form: str) -> None:
    """Every selector; the plain form also takes pairs in descending order."""
    family = FAMILY[kind]
    sums, dtype = accumulator(kind)
    for selector in range(SELECTORS[shape, family]):
        rng = np.random.default_rng(selector)
        dense, a, words = sparse_operand(rng, shape, kind, 3, selector, ordered=form != "sp")
        b = integers(rng, kind, (3, int(shape[6:]), 8))
        c = rng.integers(-1000, 1000, (3, 16, 8))
        args = [
            a,
            np.stack([spread(encode(m, kind), B_PLACES[family], WIDTH[family]) for m in b]),
            np.stack([spread(m.astype(dtype).view(np.uint32), c_place, 32) for m in c]),
        ]
        mnemonic = f"mma.{form}.sync.aligned.{shape}.row.col.{sums}.{kind}.{kind}.{sums}"
        got = gather(run_mma(mnemonic, *args, words, selector), dtype)
        assert (got == dense @ b + c).all()


@pytest.mark.parametrize(("shape", "kind"), SPARSE)
def test_selectors_and_metadata_are_checked(shape: str, kind: str) -> None:
    family, sums = FAMILY[kind], accumulator(kind)[0]
    mnemonic = f"mma.sp::ordered_metadata.sync.aligned.{shape}.row.col.{sums}.{kind}.{kind}.{sums}"
    rng = np.random.default_rng(2)
    _, a, words = sparse_operand(rng, shape, kind, 1, 0)
    k = int(shape[6:])
    zero = np.zeros((1, k * WIDTH[family] // 128, 32), np.uint32), np.zeros((1, 4, 32), np.uint32)
    run_mma(mnemonic, a, *zero, words, 0)
    with pytest.raises(IllegalSelector, match="allows 0 to"):
        run_mma(mnemonic, a, *zero, words, SELECTORS[shape, family])
    span = 2 if family == "tf32" else 4
    good = {0b0100, 0b1110} if span == 2 else {0x4, 0x8, 0x9, 0xC, 0xD, 0xE}
    row, group = 11, k // span - 1
    lane, bit = nibble_place(shape, family, 0, row, group)
    for nibble in range(16):
        words[0, lane] = int(words[0, lane]) & ~(15 << bit) | nibble << bit
        if nibble in good:
            run_mma(mnemonic, a, *zero, words, 0)
        else:
            with pytest.raises(InvalidMetadata, match=f"row {row}, columns {span * group} to"):
                run_mma(mnemonic, a, *zero, words, 0)


def test_metadata_of_blocks_that_take_no_part_is_not_read() -> None:
    """The second block skips the instruction; its metadata register holds zeros."""
    text = kernel(
        """
        mov.u32 %r0, 0; mov.u32 %r1, %ctaid.x; setp.eq.u32 %p0, %r1, 1;
        mov.u32 %r2, 0x44444444; selp.b32 %r2, 0, %r2, %p0; mov.f32 %f0, 0f00000000;
        @%p0 bra over;
        mma.sp::ordered_metadata.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32
            {%f0, %f0, %f0, %f0}, {%r0, %r0}, {%r0, %r0}, {%f0, %f0, %f0, %f0}, %r2, 0x0;
        over:
        """
    )
    Interpreter(text).launch("k", 2, 32, [])
    with pytest.raises(InvalidMetadata, match="block \\(1, 0, 0\\)"):
        Interpreter(text.replace("@%p0 bra over;", "")).launch("k", 2, 32, [])


def test_double_precision() -> None:
    rng = np.random.default_rng(1)
    a, b, c = rng.normal(size=(8, 4)), rng.normal(size=(4, 8)), rng.normal(size=(8, 8))
    out = np.zeros((8, 8))
    text = kernel(
        """
        shr.u32 %r0, %id, 2; and.b32 %r1, %id, 3;
        ld.param.u64 %rd0, [a]; mad.lo.u32 %r2, %r0, 4, %r1; mad.wide.u32 %rd0, %r2, 8, %rd0;
        ld.param.u64 %rd1, [b]; mad.lo.u32 %r3, %r1, 8, %r0; mad.wide.u32 %rd1, %r3, 8, %rd1;
        mad.lo.u32 %r4, %r0, 4, %r1; ld.param.u64 %rd2, [c]; mad.wide.u32 %rd2, %r4, 16, %rd2;
        ld.param.u64 %rd3, [d]; mad.wide.u32 %rd3, %r4, 16, %rd3;
        ld.global.f64 %fd0, [%rd0]; ld.global.f64 %fd1, [%rd1];
        ld.global.v2.f64 {%fd2, %fd3}, [%rd2];
        mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%fd4, %fd5}, {%fd0}, {%fd1}, {%fd2, %fd3};
        st.global.v2.f64 [%rd3], {%fd4, %fd5};
        """,
        params=".param .u64 a, .param .u64 b, .param .u64 c, .param .u64 d",
    )
    Interpreter(text).launch("k", 1, 32, [a, b, c, out])
    assert abs(out - (a @ b + c)).max() < 1e-14


def test_half_accumulators() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.integers(-8, 9, (1, 16, 16)), rng.integers(-8, 9, (1, 16, 8))
    c = rng.integers(-50, 50, (1, 16, 8))

    def place(g: int, t: int, i: int) -> tuple[int, int]:
        return g + 8 * (i >= 2), 2 * t + (i & 1)

    args = [
        spread(encode(a[0], "f16"), A_PLACES["m16n8k16", "half", False], 16)[None],
        spread(encode(b[0], "f16"), B_PLACES["half"], 16)[None],
        spread(encode(c[0], "f16"), place, 16)[None],
    ]
    out = run_mma("mma.sync.aligned.m16n8k16.row.col.f16.f16.f16.f16", *args)
    halves = out.view(np.uint16).reshape(1, 2, 32, 2)
    got = np.zeros((16, 8))
    for lane, i in product(range(32), range(4)):
        got[place(lane >> 2, lane & 3, i)] = halves[0, i // 2, lane, i % 2].view(np.float16)
    assert (got == (a @ b + c)[0]).all()


def one_lane(kind: str, a: np.ndarray, b: np.ndarray, c: float = 0.0) -> np.ndarray:
    """Row 0 of D for A with row 0 given and B with all columns the same."""
    full_a, full_b = np.zeros((16, 16), np.uint16), np.zeros((16, 8), np.uint16)
    full_a[0, : len(a)] = a
    full_b[: len(b)] = b[:, None]
    args = [
        spread(full_a, A_PLACES["m16n8k16", "half", False], 16)[None],
        spread(full_b, B_PLACES["half"], 16)[None],
        np.full((1, 4, 32), c, np.float32).view(np.uint32),
    ]
    out = run_mma(f"mma.sync.aligned.m16n8k16.row.col.f32.{kind}.{kind}.f32", *args)
    return gather(out, np.float32)[0, 0]


def test_infinities_and_nan_spread_as_they_should() -> None:
    inf, one, zero = (np.array([v], np.float16).view(np.uint16)[0] for v in (np.inf, 1, 0))
    assert np.isposinf(one_lane("f16", np.array([inf, one]), np.array([one, one]))).all()
    assert np.isnan(one_lane("f16", np.array([inf]), np.array([zero]))).all()
    minus = np.array([-np.inf], np.float16).view(np.uint16)[0]
    assert np.isnan(one_lane("f16", np.array([inf, minus]), np.array([one, one]))).all()
    assert np.isneginf(one_lane("f16", np.array([one]), np.array([minus]))).all()


@given(
    st.lists(st.floats(-1000, 1000, width=16), min_size=16, max_size=16),
    st.lists(st.floats(-1000, 1000, width=16), min_size=16, max_size=16),
)
def test_sums_are_rounded_once(a: list[float], b: list[float]) -> None:
    x, y = np.array(a, np.float16), np.array(b, np.float16)
    got = one_lane("f16", x.view(np.uint16), y.view(np.uint16), 0.5)
    exact = float(np.dot(x.astype(np.float64), y.astype(np.float64))) + 0.5
    assert abs(float(got[0]) - exact) <= 2.0**-24 * abs(exact) + 1e-12


@pytest.mark.parametrize("finite", ["", ".satfinite"])
def test_integer_sums_wrap_or_saturate(finite: str) -> None:
    a = np.full((1, 4, 32), 0x7F7F7F7F, np.uint32)
    b = np.full((1, 2, 32), 0x7F7F7F7F, np.uint32)
    c = np.full((1, 4, 32), 2**31 - 5, np.uint32)
    out = run_mma(f"mma.sync.aligned.m16n8k32.row.col{finite}.s32.s8.s8.s32", a, b, c)
    total = 32 * 127 * 127 + 2**31 - 5
    assert (out.view(np.int32) == (2**31 - 1 if finite else total - 2**32)).all()


def test_mixed_signs_of_bytes() -> None:
    a = np.full((1, 4, 32), 0xFFFFFFFF, np.uint32)
    zero = np.zeros((1, 4, 32), np.uint32)
    b = np.full((1, 2, 32), 0xFFFFFFFF, np.uint32)
    for kinds, want in (("s8.u8", -255 * 32), ("u8.s8", -255 * 32), ("u8.u8", 255 * 255 * 32)):
        out = run_mma(f"mma.sync.aligned.m16n8k32.row.col.s32.{kinds}.s32", a, b, zero)
        assert (out.view(np.int32) == want).all()


def test_all_eight_bit_floats() -> None:
    """Each pattern times one, against the formats' definition."""
    for kind, exponent, mantissa in (("e4m3", 4, 3), ("e5m2", 5, 2)):
        bias = (1 << exponent - 1) - 1
        patterns = np.arange(256, dtype=np.uint8).reshape(-1, 16, 1)
        a = np.zeros((16, 16, 32), np.uint8)
        a[:, :, :1] = patterns
        b = np.zeros((32, 8), np.uint8)
        b[0] = bias << mantissa
        args = [
            np.stack([spread(m, A_PLACES["m16n8k32", "byte", False], 8) for m in a]),
            np.stack([spread(b, B_PLACES["byte"], 8)] * 16),
            np.zeros((16, 4, 32), np.uint32),
        ]
        out = run_mma(f"mma.sync.aligned.m16n8k32.row.col.f32.{kind}.{kind}.f32", *args)
        got = gather(out, np.float32)[:, :, 0].ravel()
        for bits in range(256):
            sign = -1 if bits & 128 else 1
            e, m = bits >> mantissa & (1 << exponent) - 1, bits & (1 << mantissa) - 1
            top = e == (1 << exponent) - 1
            if kind == "e4m3" and top and m == 7:
                assert np.isnan(got[bits])
            elif kind == "e5m2" and top:
                assert np.isnan(got[bits]) if m else got[bits] == sign * np.inf
            elif e == 0:
                assert got[bits] == sign * m * 2.0 ** (1 - bias - mantissa)
            else:
                assert got[bits] == sign * (1 + m / 2**mantissa) * 2.0 ** (e - bias)


# -- the records -----------------------------------------------------------------------------------
def test_values_transcribed_from_the_tables() -> None:
    """A few cells of the ISA's figures, by lane and element."""
    dense = find_shape("m16n8k16", "half", False)
    sparse = find_shape("m16n8k32", "half", True)
    byte = find_shape("m16n8k64", "byte", True)
    assert dense is not None
    assert sparse is not None
    assert byte is not None
    # A of m16n8k16: T5 holds a0 at (1, 2), a3 at (9, 3), a6 at (9, 10).
    for i, place in ((0, (1, 2)), (3, (9, 3)), (6, (9, 10))):
        assert divmod(int(dense.a.scatter[i // 2, 5, i % 2]), 16) == place
    # B of the sparse m16n8k32: T31 holds b0 at (6, 7), b7 at (31, 7).
    for i, place in ((0, (6, 7)), (7, (31, 7))):
        assert divmod(int(sparse.b.scatter[i // 2, 31, i % 2]), 8) == place
    # C: T31 holds c0 at (7, 6), c3 at (15, 7).
    for i, place in ((0, (7, 6)), (3, (15, 7))):
        assert divmod(int(sparse.c.scatter[i, 31, 0]), 8) == place
    # Metadata of the sparse m16n8k32, selector 1: row 0, columns 16-19 in T3, bits 0-3.
    assert sparse.metadata is not None
    assert byte.metadata is not None
    assert (sparse.metadata.lane[1, 0, 4], sparse.metadata.bit[1, 0, 4]) == (3, 0)
    assert (sparse.metadata.lane[0, 9, 3], sparse.metadata.bit[0, 9, 3]) == (4, 28)
    # Eight-bit types: row 8, columns 32-35 in T3, bits 0-3.
    assert (byte.metadata.lane[0, 8, 8], byte.metadata.bit[0, 8, 8]) == (3, 0)


def test_records_refuse_maps_that_do_not_cover() -> None:
    with pytest.raises(ValueError, match="exactly once"):
        Fragment(16, 8, 32, lambda g, t, i: (g, 2 * t + (i & 1)))
    with pytest.raises(ValueError, match="outside"):
        Fragment(16, 8, 32, lambda g, t, i: (g + 16, t))
    with pytest.raises(ValueError, match="half full"):
        Fragment(4, 8, 16, lambda g, t, i: (0, 0))
    with pytest.raises(ValueError, match="share metadata bits"):
        Metadata(4, 1, lambda s, row, group: (row, 0))
    assert len(SHAPES) == len({(s.name, s.family, s.metadata is None) for s in SHAPES})


def test_the_interpreter_agrees_with_the_formulas_above() -> None:
    for shape in SHAPES:
        if shape.family == "f64":
            continue
        place = A_PLACES[shape.name, shape.family, shape.metadata is not None]
        per = shape.a.scatter.shape[2]
        for lane, i in product(range(32), range(shape.a.rows * shape.a.cols // 32)):
            row, col = place(lane >> 2, lane & 3, i)
            assert shape.a.scatter[i // per, lane, i % per] == row * shape.a.cols + col


@pytest.mark.parametrize(
    "text",
    [
        "mma.sync.aligned.m16n8k16.row.row.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k64.row.col.f32.f16.f16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.bf16.f32",
        "mma.sync.aligned.m16n8k16.row.col.f16.bf16.bf16.f16",
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f16",
        "mma.sp.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32",
        "mma.sync.m16n8k16.row.col.f32.f16.f16.f32",
    ],
)
def test_unknown_forms(text: str) -> None:
    operands = "{%r0, %r1, %r2, %r3}, {%r0, %r1, %r2, %r3}, {%r0, %r1}, {%r0, %r1, %r2, %r3}"
    with pytest.raises(UnknownOpcode):
        Interpreter(kernel(f"{text} {operands};")).prepare("k")


def test_operand_counts_are_checked() -> None:
    name = "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32"
    four = "{%r0, %r1, %r2, %r3}"
    for operands in (
        f"{four}, {{%r0, %r1}}, {{%r0, %r1}}, {four}",
        f"{four}, {four}, {four}, {four}",
        f"{four}, {four}, {{%r0, %r1}}",
        f"{four}, {four}, {{%rd0, %rd1}}, {four}",
    ):
        with pytest.raises(InvalidOperand):
            Interpreter(kernel(f"{name} {operands};")).prepare("k")
