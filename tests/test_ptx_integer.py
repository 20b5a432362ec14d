"""Integer, bit-field and selection instructions against loops over Python integers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import pytest
from ptx import IntegerDivisionByZero, UnknownOpcode
from ptx.snippets import evaluate, result_of

COUNT = 128


def sample(kind: str, seed: int, count: int = COUNT) -> np.ndarray:
    """Values of an integer type: random ones, small ones and the extremes, all lanes different."""
    bits, signed = int(kind[1:]), kind[0] == "s"
    rng = np.random.default_rng(seed)
    dtype = np.dtype(f"{'i' if signed else 'u'}{bits // 8}")
    values = rng.integers(0, 1 << 64, count, dtype=np.uint64).astype(dtype)
    low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
    special = [0, 1, 2, 3, low, high, high - 1, high // 2, high // 2 + 1, 31, 32, 33, 63, 64]
    special += [-1, -2, low + 1] if signed else []
    values[: len(special)] = np.array(special, dtype)
    return rng.permutation(values)


def wrap(value: int, kind: str) -> int:
    """A Python integer as the type stores it."""
    bits = 1 if kind == "pred" else int(kind[1:])
    value &= (1 << bits) - 1
    return value - (1 << bits) if kind[0] == "s" and value >> bits - 1 else value


def check(
    body: str,
    result: str,
    kinds: Sequence[str],
    oracle: Callable[..., int],
    *,
    given: Sequence[np.ndarray] | None = None,
) -> None:
    """Compare the instructions with the oracle on every thread."""
    inputs = given or [sample(kind, seed) for seed, kind in enumerate(kinds)]
    want = [wrap(oracle(*(int(v) for v in row)), result) for row in zip(*inputs, strict=True)]
    for got in result_of(body, result, *zip(kinds, inputs, strict=True)):
        assert [int(v) for v in got] == want


INTEGERS = ["u16", "s16", "u32", "s32", "u64", "s64"]
WIDE = {"u16": "u32", "s16": "s32", "u32": "u64", "s32": "s64"}


def trunc_div(a: int, b: int) -> int:
    return abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)


@pytest.mark.parametrize("kind", INTEGERS)
def test_add_sub_mul_mad(kind: str) -> None:
    two, three = [kind] * 2, [kind] * 3
    check(f"add.{kind} %d, %a, %b;", kind, two, lambda a, b: a + b)
    check(f"sub.{kind} %d, %a, %b;", kind, two, lambda a, b: a - b)
    check(f"mul.lo.{kind} %d, %a, %b;", kind, two, lambda a, b: a * b)
    check(f"mad.lo.{kind} %d, %a, %b, %c;", kind, three, lambda a, b, c: a * b + c)
    bits = int(kind[1:])
    check(f"mul.hi.{kind} %d, %a, %b;", kind, two, lambda a, b: a * b >> bits)
    check(f"mad.hi.{kind} %d, %a, %b, %c;", kind, three, lambda a, b, c: (a * b >> bits) + c)
    if kind in WIDE:
        wide = WIDE[kind]
        check(f"mul.wide.{kind} %d, %a, %b;", wide, two, lambda a, b: a * b)
        body = f"mad.wide.{kind} %d, %a, %b, %c;"
        check(body, wide, [kind, kind, wide], lambda a, b, c: a * b + c)


@pytest.mark.parametrize("kind", INTEGERS)
def test_div_and_rem_truncate(kind: str) -> None:
    a, b = sample(kind, 1), sample(kind, 2)
    b[b == 0] = 7
    if kind[0] == "s":
        a[(a == np.iinfo(a.dtype).min) & (b == -1)] = 5  # overflow is not specified
    given = [a, b]
    check(f"div.{kind} %d, %a, %b;", kind, [kind] * 2, trunc_div, given=given)
    body = f"rem.{kind} %d, %a, %b;"
    check(body, kind, [kind] * 2, lambda a, b: a - trunc_div(a, b) * b, given=given)


def test_division_by_zero_is_an_error_for_active_threads_only() -> None:
    a = np.arange(64, dtype=np.uint32)
    zeros = (a % 3 != 0).astype(np.uint32)
    got = evaluate("div.u32 %d, %a, %b;", "u32", ("u32", a), ("u32", zeros), some=True)
    assert (got == np.where(a % 3 == 0, 0, a)).all()
    with pytest.raises(IntegerDivisionByZero, match="thread 0"):
        evaluate("rem.s32 %d, %a, %b;", "s32", ("s32", a), ("s32", zeros))


@pytest.mark.parametrize("kind", INTEGERS)
def test_min_max_abs_neg_sad(kind: str) -> None:
    two = [kind] * 2
    check(f"min.{kind} %d, %a, %b;", kind, two, min)
    check(f"max.{kind} %d, %a, %b;", kind, two, max)
    check(f"sad.{kind} %d, %a, %b, %c;", kind, [kind] * 3, lambda a, b, c: c + abs(a - b))
    if kind[0] == "s":
        check(f"abs.{kind} %d, %a;", kind, [kind], abs)
        check(f"neg.{kind} %d, %a;", kind, [kind], lambda a: -a)


def test_saturating_add_and_sub() -> None:
    def clamp(v: int) -> int:
        return max(-(2**31), min(2**31 - 1, v))

    check("add.sat.s32 %d, %a, %b;", "s32", ["s32"] * 2, lambda a, b: clamp(a + b))
    check("sub.sat.s32 %d, %a, %b;", "s32", ["s32"] * 2, lambda a, b: clamp(a - b))


@pytest.mark.parametrize("kind", ["u32", "u64"])
def test_carry_chain(kind: str) -> None:
    """Two words are added and subtracted through the condition code."""
    bits = int(kind[1:])
    whole = 1 << 2 * bits
    for name, sign in (("add", 1), ("sub", -1)):
        body = f"""
            .reg .b{bits} %low;
            {name}.cc.{kind} %low, %a, %c;
            {name}c.{kind} %d, %b, %e;
            """

        def oracle(a: int, b: int, c: int, e: int, sign: int = sign) -> int:
            return ((b << bits | a) + sign * (e << bits | c)) % whole >> bits

        check(body, kind, [kind] * 4, oracle)


def test_mul24() -> None:
    def low24(v: int, signed: bool) -> int:
        v &= 0xFFFFFF
        return v - (1 << 24) if signed and v >> 23 else v

    for kind, signed in (("u32", False), ("s32", True)):
        body = f"mul24.lo.{kind} %d, %a, %b;"
        check(body, kind, [kind] * 2, lambda a, b, s=signed: low24(a, s) * low24(b, s))
        body = f"mad24.hi.{kind} %d, %a, %b, %c;"
        check(
            body, kind, [kind] * 3, lambda a, b, c, s=signed: (low24(a, s) * low24(b, s) >> 16) + c
        )


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_logic(bits: int) -> None:
    kind, u = f"b{bits}", f"u{bits}"
    check(f"and.{kind} %d, %a, %b;", u, [u] * 2, lambda a, b: a & b)
    check(f"or.{kind} %d, %a, %b;", u, [u] * 2, lambda a, b: a | b)
    check(f"xor.{kind} %d, %a, %b;", u, [u] * 2, lambda a, b: a ^ b)
    check(f"not.{kind} %d, %a;", u, [u], lambda a: ~a)
    check(f"cnot.{kind} %d, %a;", u, [u], lambda a: int(a == 0))


@pytest.mark.parametrize("bits", [16, 32, 64])
def test_shifts_by_registers_and_constants(bits: int) -> None:
    amounts = np.arange(COUNT, dtype=np.uint32) % (bits + 9)

    def left(a: int, n: int) -> int:
        return a << n if n < bits else 0

    for kind in (f"u{bits}", f"s{bits}"):
        values = sample(kind, 3)
        u = f"b{bits}"
        body = f"shl.{u} %d, %a, %b;"
        check(body, kind, [kind, "u32"], left, given=[values, amounts])
        body = f"shr.{kind} %d, %a, %b;"
        check(body, kind, [kind, "u32"], lambda a, n: a >> n, given=[values, amounts])
        for n in (0, 1, bits - 1, bits, bits + 7):
            check(f"shl.{u} %d, %a, {n};", kind, [kind], lambda a, n=n: left(a, n), given=[values])
            check(f"shr.{kind} %d, %a, {n};", kind, [kind], lambda a, n=n: a >> n, given=[values])


def test_funnel_shift() -> None:
    amounts = np.arange(COUNT, dtype=np.uint32) % 41
    given = [sample("u32", 1), sample("u32", 2), amounts]
    for mode, effective in (("clamp", lambda n: min(n, 32)), ("wrap", lambda n: n & 31)):

        def left(a: int, b: int, n: int, eff: Callable[[int], int] = effective) -> int:
            return (b << 32 | a) << eff(n) >> 32

        def right(a: int, b: int, n: int, eff: Callable[[int], int] = effective) -> int:
            return (b << 32 | a) >> eff(n)

        kinds = ["u32"] * 3
        check(f"shf.l.{mode}.b32 %d, %a, %b, %c;", "u32", kinds, left, given=given)
        check(f"shf.r.{mode}.b32 %d, %a, %b, %c;", "u32", kinds, right, given=given)


@pytest.mark.parametrize("bits", [32, 64])
def test_counting_bits(bits: int) -> None:
    u, s = f"u{bits}", f"s{bits}"
    values = sample(u, 5)
    values[:bits] = [1 << i for i in range(bits)]
    check(f"popc.b{bits} %d, %a;", "u32", [u], lambda a: a.bit_count(), given=[values])
    check(f"clz.b{bits} %d, %a;", "u32", [u], lambda a: bits - a.bit_length(), given=[values])
    check(f"bfind.{u} %d, %a;", "u32", [u], lambda a: a.bit_length() - 1, given=[values])
    body = f"bfind.{s} %d, %a;"
    check(body, "u32", [s], lambda a: (~a if a < 0 else a).bit_length() - 1)
    body = f"bfind.shiftamt.{u} %d, %a;"
    check(body, "u32", [u], lambda a: bits - a.bit_length() if a else -1, given=[values])
    body = f"brev.b{bits} %d, %a;"
    check(body, u, [u], lambda a: int(f"{a:0{bits}b}"[::-1], 2), given=[values])


def field(start: int, length: int, bits: int) -> tuple[int, int]:
    """Modulo 256 says the ISA. Seen on an H200: for 32 bits; those of 64 are taken as they are."""
    return (start & 255, length & 255) if bits == 32 else (start, length)


def bfe(a: int, start: int, length: int, bits: int, signed: bool) -> int:
    """The ISA's loop, bit by bit."""
    start, length = field(start, length, bits)
    top = bits - 1
    sign = 0 if not signed or length == 0 else a >> min(start + length - 1, top) & 1
    out = 0
    for i in range(bits):
        bit = a >> start + i & 1 if i < length and start + i <= top else sign
        out |= bit << i
    return out


def bfi(a: int, b: int, start: int, length: int, bits: int) -> int:
    start, length = field(start, length, bits)
    for i in range(length):
        if start + i < bits:
            b = b & ~(1 << start + i) | (a >> i & 1) << start + i
    return b


@pytest.mark.parametrize("bits", [32, 64])
def test_bit_fields(bits: int) -> None:
    rng = np.random.default_rng(bits)
    start = rng.integers(0, bits + 6, COUNT).astype(np.uint32)
    length = rng.integers(0, bits + 6, COUNT).astype(np.uint32)
    start[:6] = [0, 0, bits - 1, 300, 300, 4]
    length[:6] = [0, bits, 1, 260, 7, 260]
    for kind in (f"u{bits}", f"s{bits}"):
        u, signed = f"u{bits}", kind[0] == "s"
        body = f"bfe.{kind} %d, %a, %b, %c;"
        given = [sample(u, 1), start, length]
        check(body, u, [u, "u32", "u32"], partial(bfe, bits=bits, signed=signed), given=given)
    u = f"u{bits}"
    body = f"bfi.b{bits} %d, %a, %b, %c, %e;"
    given = [sample(u, 1), sample(u, 2), start, length]
    check(body, u, [u, u, "u32", "u32"], lambda a, b, s, n: bfi(a, b, s, n, bits), given=given)


def test_byte_permutation() -> None:
    def prmt(a: int, b: int, c: int) -> int:
        source = (b << 32 | a).to_bytes(8, "little")
        out = []
        for i in range(4):
            nibble = c >> 4 * i & 15
            byte = source[nibble & 7]
            out.append(255 * (byte >> 7) if nibble & 8 else byte)
        return int.from_bytes(bytes(out), "little")

    check("prmt.b32 %d, %a, %b, %c;", "u32", ["u32"] * 3, prmt)
    check("prmt.b32 %d, %a, %b, 0x5410;", "u32", ["u32"] * 2, lambda a, b: prmt(a, b, 0x5410))


@pytest.mark.parametrize("table", [0x00, 0xFF, 0x80, 0xFE, 0x96, 0xCA, 0x1B])
def test_lop3(table: int) -> None:
    def lop3(a: int, b: int, c: int) -> int:
        bits = ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1 for i in range(32))
        return sum((table >> row & 1) << i for i, row in enumerate(bits))

    check(f"lop3.b32 %d, %a, %b, %c, {table};", "u32", ["u32"] * 3, lop3)


def test_dot_products() -> None:
    def parts(v: int, bits: int, signed: bool) -> list[int]:
        found = [v >> i & (1 << bits) - 1 for i in range(0, 32, bits)]
        return [x - (1 << bits) if signed and x >> bits - 1 else x for x in found]

    def dp4a(a: int, b: int, c: int, signed: tuple[bool, bool]) -> int:
        pairs = zip(parts(a, 8, signed[0]), parts(b, 8, signed[1]), strict=True)
        return c + sum(x * y for x, y in pairs)

    kinds = ["u32"] * 3
    for x, y in (("u32", "u32"), ("s32", "s32"), ("s32", "u32")):
        signed = (x == "s32", y == "s32")
        body = f"dp4a.{x}.{y} %d, %a, %b, %c;"
        check(body, "u32", kinds, lambda a, b, c, s=signed: dp4a(a, b, c, s))

    def dp2a(a: int, b: int, c: int, first: int) -> int:
        x, y = parts(a, 16, True), parts(b, 8, True)[first : first + 2]
        return c + x[0] * y[0] + x[1] * y[1]

    check("dp2a.lo.s32.s32 %d, %a, %b, %c;", "u32", kinds, lambda a, b, c: dp2a(a, b, c, 0))
    check("dp2a.hi.s32.s32 %d, %a, %b, %c;", "u32", kinds, lambda a, b, c: dp2a(a, b, c, 2))


def test_packed_halfword_arithmetic() -> None:
    def pairs(function: Callable[[int, int], int], signed: bool) -> Callable[[int, int], int]:
        def low(v: int) -> int:
            v &= 0xFFFF
            return v - 0x10000 if signed and v >> 15 else v

        def both(a: int, b: int) -> int:
            x, y = function(low(a), low(b)), function(low(a >> 16), low(b >> 16))
            return x & 0xFFFF | (y & 0xFFFF) << 16

        return both

    for kind, signed in (("u16x2", False), ("s16x2", True)):
        for name, function in (("add", lambda a, b: a + b), ("min", min), ("max", max)):
            body = f"{name}.{kind} %d, %a, %b;"
            check(body, "u32", ["u32"] * 2, pairs(function, signed))


COMPARE: dict[str, Callable[[int, int], bool]] = {
    "eq": lambda a, b: a == b,
    "ne": lambda a, b: a != b,
    "lt": lambda a, b: a < b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "ge": lambda a, b: a >= b,
}


@pytest.mark.parametrize("kind", INTEGERS)
def test_setp_and_its_combinations(kind: str) -> None:
    a, b = sample(kind, 1), sample(kind, 2)
    b[::5] = a[::5]
    flags = np.arange(COUNT, dtype=np.uint8) % 2
    for name, function in COMPARE.items():
        body = f"setp.{name}.{kind} %d, %a, %b;"
        check(body, "pred", [kind, kind], lambda x, y, f=function: int(f(x, y)), given=[a, b])
    for combine, join in (
        ("and", lambda x, c: x and c),
        ("or", lambda x, c: x or c),
        ("xor", lambda x, c: bool(x) != bool(c)),
    ):
        for bang, negate in (("", False), ("!", True)):
            # The second result combines the opposite of the comparison.
            for target, opposite in (("%d|%q0", False), ("%q0|%d", True)):
                body = f"setp.lt.{combine}.{kind} {target}, %a, %b, {bang}%c;"

                def oracle(
                    x: int, y: int, c: int, o: bool = opposite, n: bool = negate, j=join
                ) -> int:
                    return int(j((x < y) != o, bool(c) != n))

                check(body, "pred", [kind, kind, "pred"], oracle, given=[a, b, flags])


def test_unsigned_names_of_comparisons() -> None:
    for name, function in (("lo", "lt"), ("ls", "le"), ("hi", "gt"), ("hs", "ge")):
        oracle = COMPARE[function]
        body = f"setp.{name}.u32 %d, %a, %b;"
        check(body, "pred", ["u32"] * 2, lambda a, b, f=oracle: int(f(a, b)))
    with pytest.raises(UnknownOpcode, match="unsigned"):
        evaluate("setp.lo.s32 %d, %a, %a;", "pred", ("s32", sample("s32", 1)))


def test_selections() -> None:
    flags = np.arange(COUNT, dtype=np.uint8) % 2
    for kind in ("u16", "u32", "u64"):
        body = f"selp.b{kind[1:]} %d, %a, %b, %c;"
        given = [sample(kind, 1), sample(kind, 2), flags]
        check(body, kind, [kind, kind, "pred"], lambda a, b, c: a if c else b, given=given)
        body = f"slct.{kind}.s32 %d, %a, %b, %c;"
        check(body, kind, [kind, kind, "s32"], lambda a, b, c: a if c >= 0 else b)
    body = "set.lt.u32.s32 %d, %a, %b;"
    check(body, "u32", ["s32"] * 2, lambda a, b: 0xFFFFFFFF if a < b else 0)
    body = "set.ge.or.u32.u32 %d, %a, %b, %c;"
    given = [sample("u32", 1), sample("u32", 2), flags]
    kinds = ["u32", "u32", "pred"]
    check(body, "u32", kinds, lambda a, b, c: 0xFFFFFFFF if a >= b or c else 0, given=given)


def test_predicate_logic() -> None:
    x, y = np.arange(COUNT, dtype=np.uint8) % 2, np.arange(COUNT, dtype=np.uint8) // 2 % 2
    for name, oracle in (
        ("and", lambda a, b: a & b),
        ("or", lambda a, b: a | b),
        ("xor", lambda a, b: a ^ b),
    ):
        check(f"{name}.pred %d, %a, %b;", "pred", ["pred"] * 2, oracle, given=[x, y])
    check("not.pred %d, %a;", "pred", ["pred"], lambda a: 1 - a, given=[x])
    check("mov.pred %d, %a;", "pred", ["pred"], lambda a: a, given=[x])


def test_mov_packs_and_unpacks() -> None:
    body = "mov.b32 {%h0, %h1}, %a; mov.b32 %d, {%h1, %h0};"
    check(body, "u32", ["u32"], lambda a: a >> 16 | (a & 0xFFFF) << 16)
    body = "mov.b64 {%r0, %r1}, %a; mov.b64 %d, {%r1, %r0};"
    check(body, "u64", ["u64"], lambda a: a >> 32 | (a & 0xFFFFFFFF) << 32)
    body = "mov.b64 {%h0, %h1, %h2, %h3}, %a; mov.b64 %d, {%h3, %h2, %h1, %h0};"
    check(
        body, "u64", ["u64"], lambda a: sum((a >> 16 * i & 0xFFFF) << 48 - 16 * i for i in range(4))
    )
    body = "mov.b64 {_, %d}, %a;"
    check(body, "u32", ["u64"], lambda a: a >> 32)
    # A register may be source and target of one instruction.
    body = "mov.b64 %rd0, %a; mov.b64 {%r0, %r1}, %rd0; mov.b64 %rd0, {%r0, %r0}; mov.b64 %d, %rd0;"
    check(body, "u64", ["u64"], lambda a: (a & 0xFFFFFFFF) * 0x1_0000_0001)


@pytest.mark.parametrize("kind", ["u32", "s32", "s16", "u64"])
def test_constants(kind: str) -> None:
    """Decimal, negative, hexadecimal, octal and binary constants."""
    for text, value in (("7", 7), ("-7", -7), ("0x1F", 31), ("017", 15), ("0b101", 5), ("9U", 9)):
        check(f"add.{kind} %d, %a, {text};", kind, [kind], lambda a, v=value: a + v)
