"""Floating-point instructions against exact fractions rounded once."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptx import UnknownOpcode
from ptx.exact import FORMATS
from ptx.snippets import evaluate, result_of

COUNT = 128
KINDS = ["f16", "bf16", "f32", "f64"]
UINT = {"f16": np.uint16, "bf16": np.uint16, "f32": np.uint32, "f64": np.uint64}
Value = Fraction | float


def bits_of(kind: str, seed: int, spread: int = 12) -> np.ndarray:
    """Bit patterns: numbers of similar size (so that sums cancel), extremes, infinities and NaN."""
    form = FORMATS[kind]
    rng = np.random.default_rng(seed)
    mantissa = rng.integers(0, 1 << form.mantissa, COUNT, dtype=np.uint64)
    mantissa[::3] &= np.uint64(((1 << form.mantissa) - 1) ^ ((1 << form.mantissa // 2) - 1))
    exponent = rng.integers(form.bias - spread, form.bias + spread, COUNT).astype(np.uint64)
    sign = rng.integers(0, 2, COUNT).astype(np.uint64)
    out = sign << np.uint64(form.bits - 1) | exponent << np.uint64(form.mantissa) | mantissa
    top = ((1 << form.exponent) - 1) << form.mantissa
    minus = 1 << form.bits - 1
    special = [0, minus, 1, minus | 1, (1 << form.mantissa) - 1, 1 << form.mantissa]
    special += [top - 1, minus | (top - 1), top, minus | top, top | 1 << form.mantissa - 1]
    out[: len(special)] = special
    return rng.permutation(out).astype(UINT[kind])


def same(kind: str, got: int, want: Value | int) -> bool:
    """Whether a pattern is the wanted one; any NaN is a NaN."""
    found = FORMATS[kind].decode(got)
    if isinstance(want, float) and math.isnan(want):
        return isinstance(found, float) and math.isnan(found)
    return got == want


def exact(function: Callable[..., Fraction], *values: Value, zero: Callable[..., float]) -> Value:
    """Apply to fractions; `zero` decides, with floats, about specials and signed zeros."""
    if all(isinstance(v, Fraction) for v in values):
        out = function(*values)
        if out != 0:
            return out
    parts = [v if isinstance(v, float) else stand_in(v) for v in values]
    special = zero(*parts)
    if math.isfinite(special) and special != 0:
        return function(*(Fraction(v) for v in values))
    return special


def stand_in(value: Fraction) -> float:
    """A float with the sign of a fraction, tame enough for the rules about specials."""
    return float((value > 0) - (value < 0))


def encode(kind: str, value: Value, mode: str = "rn") -> Value | int:
    if isinstance(value, Fraction):
        return FORMATS[kind].encode(value, mode)
    if math.isnan(value):
        return value
    form = FORMATS[kind]
    sign = 1 << form.bits - 1 if math.copysign(1, value) < 0 else 0
    return sign | (((1 << form.exponent) - 1) << form.mantissa if math.isinf(value) else 0)


def multiply(a: float, b: float) -> float:
    return math.nan if (a == 0 and math.isinf(b)) or (b == 0 and math.isinf(a)) else a * b


def check(
    body: str,
    kind: str,
    function: Callable[..., Fraction],
    special: Callable[..., float],
    count: int,
    mode: str = "rn",
) -> None:
    inputs = [bits_of(kind, seed) for seed in range(count)]
    decode = FORMATS[kind].decode
    want = []
    for row in zip(*inputs, strict=True):
        values = [decode(int(v)) for v in row]
        out = exact(function, *values, zero=special)
        if isinstance(out, float) and out == 0 and mode == "rm" and "mul" not in body:
            # A sum that cancels is -0 in this mode, unless both terms are +0.
            terms = [v for v in values if isinstance(v, float)]
            plus = all(isinstance(v, Fraction) and v == 0 for v in values)
            out = 0.0 if plus and not terms else -0.0
        want.append(encode(kind, out, mode))
    typed = [(kind, x.view(np.float32) if kind == "f32" else x) for x in inputs]
    typed = [(k, x.view(np.float64) if kind == "f64" else x) for k, x in typed]
    for got in result_of(body, kind, *typed):
        for g, w in zip(got.view(UINT[kind]), want, strict=True):
            assert same(kind, int(g), w), (body, hex(int(g)), w)


@pytest.mark.parametrize("kind", KINDS)
def test_add_sub_mul_round_once(kind: str) -> None:
    rn = ".rn" if kind in ("f32", "f64") else ""
    check(f"add{rn}.{kind} %d, %a, %b;", kind, lambda a, b: a + b, lambda a, b: a + b, 2)
    check(f"sub{rn}.{kind} %d, %a, %b;", kind, lambda a, b: a - b, lambda a, b: a - b, 2)
    check(f"mul{rn}.{kind} %d, %a, %b;", kind, lambda a, b: a * b, multiply, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_fma_rounds_once(kind: str) -> None:
    def special(a: float, b: float, c: float) -> float:
        return multiply(a, b) + c

    body = f"fma.rn.{kind} %d, %a, %b, %c;"
    check(body, kind, lambda a, b, c: a * b + c, special, 3)


@given(st.lists(st.tuples(*[st.integers(0, 2**32 - 1)] * 3), min_size=64, max_size=64))
def test_fma_f32_on_any_patterns(rows: list[tuple[int, int, int]]) -> None:
    """Also where product and addend nearly cancel, results are subnormal, or a tie looms."""
    inputs = [np.array(column, np.uint32) for column in zip(*rows, strict=True)]
    form = FORMATS["f32"]
    got = evaluate(
        "fma.rn.f32 %d, %a, %b, %c;", "f32", *(("f32", x.view(np.float32)) for x in inputs)
    ).view(np.uint32)
    for g, row in zip(got, rows, strict=True):
        a, b, c = (form.decode(v) for v in row)
        if all(isinstance(v, Fraction) for v in (a, b, c)):
            total = Fraction(a) * Fraction(b) + Fraction(c)
            if total != 0:
                assert int(g) == form.encode(total)


# Sums beside a tie of the result by less than a wider format sees: two roundings go wrong.
TIES = {
    "f32": [
        ("0x1.000002p+0", "0x1.fffffcp-25", "0x1.000002p+0"),
        ("0x1p-40", "0x1p-40", "0x1p-149"),
    ],
    # 240 x 152 is 285 x 2**7: nine bits and seven zeros, a tie but for the addend.
    "bf16": [("240.0", "152.0", "0x1p-33"), ("240.0", "152.0", "-0x1p-33")],
    "f16": [("0x1.ffcp+0", "0x1.ffcp+0", "0x1p-24"), ("1023.0", "0x1.004p-10", "-0x1p-24")],
    "f64": [
        ("0x1.0000000060000p-1", "0x1.0007c00000000p+0", "0x1.fff8000000000p-108"),
        ("0x1.0040000020000p+0", "0x1.ffff800000000p-1", "-0x1.0000000000000p-109"),
        ("0x1.007ffff000000p+0", "0x1.ffbfffffffe00p-1", "-0x1.0000000000800p-72"),
        ("0x1.0000000014000p+0", "0x1.ffbe000000000p-1", "-0x1.01ffffffffdfcp-108"),
    ],
}


@pytest.mark.parametrize("kind", TIES)
def test_fma_beside_the_ties(kind: str) -> None:
    form = FORMATS[kind]
    for row in TIES[kind]:
        values = [Fraction(float.fromhex(v) if "x" in v else float(v)) for v in row]
        bits = [np.full(64, form.encode(v), UINT[kind]) for v in values]
        typed = [
            (kind, x.view({"f32": np.float32, "f64": np.float64}.get(kind, x.dtype))) for x in bits
        ]
        got = evaluate(f"fma.rn.{kind} %d, %a, %b, %c;", kind, *typed).view(UINT[kind])
        assert [form.decode(int(x[0])) for x in bits] == values
        assert int(got[0]) == form.encode(values[0] * values[1] + values[2])


@pytest.mark.parametrize("mode", ["rz", "rm", "rp"])
def test_directed_rounding(mode: str) -> None:
    for name, function, special in (
        ("add", lambda a, b: a + b, lambda a, b: a + b),
        ("mul", lambda a, b: a * b, multiply),
    ):
        check(f"{name}.{mode}.f32 %d, %a, %b;", "f32", function, special, 2, mode)


def test_division_and_roots_round_once() -> None:
    form = FORMATS["f32"]
    a, b = bits_of("f32", 1), bits_of("f32", 2)
    x, y = a.view(np.float32), b.view(np.float32)
    for got in result_of("div.rn.f32 %d, %a, %b;", "f32", ("f32", x), ("f32", y)):
        for g, p, q in zip(got.view(np.uint32), a, b, strict=True):
            top, bottom = form.decode(int(p)), form.decode(int(q))
            if isinstance(top, Fraction) and isinstance(bottom, Fraction) and top and bottom:
                assert int(g) == form.encode(top / bottom)
    for got in result_of("sqrt.rn.f32 %d, %a;", "f32", ("f32", x)):
        for g, v in zip(got, x, strict=True):
            if v < 0:
                assert np.isnan(g)
            elif np.isfinite(v) and v:
                below, above = (
                    Fraction(float(np.nextafter(g, np.float32(t)))) for t in (0, np.inf)
                )
                # The root lies between the midpoints to both neighbours.
                low, high = (below + Fraction(float(g))) / 2, (above + Fraction(float(g))) / 2
                assert low**2 <= Fraction(float(v)) <= high**2
    got = evaluate("rcp.rn.f64 %d, %a;", "f64", ("f64", np.arange(64.0)))
    assert (got[1:] == 1.0 / np.arange(1.0, 64.0)).all()
    assert got[0] == np.inf


APPROXIMATE: dict[str, tuple[Callable[[float], float], float, float]] = {
    "rcp": (lambda x: 1 / x, -8, 8),
    "sqrt": (math.sqrt, 0, 100),
    "rsqrt": (lambda x: 1 / math.sqrt(x), 0, 100),
    "ex2": (lambda x: 2**x, -20, 20),
    "lg2": (math.log2, 0, 100),
    "sin": (math.sin, -3, 3),
    "cos": (math.cos, -3, 3),
    "tanh": (math.tanh, -5, 5),
}


@pytest.mark.parametrize("name", APPROXIMATE)
def test_approximate_functions(name: str) -> None:
    function, low, high = APPROXIMATE[name]
    x = np.random.default_rng(1).uniform(low, high, COUNT).astype(np.float32)
    want = np.array([function(float(v)) for v in x])
    ftz = "" if name == "tanh" else ".ftz"
    for got in result_of(f"{name}.approx{ftz}.f32 %d, %a;", "f32", ("f32", x)):
        assert (abs(got - want) <= 2.0**-23 * abs(want) + 1e-30).all()


def test_approximate_functions_need_their_name() -> None:
    with pytest.raises(UnknownOpcode, match="approx"):
        evaluate("ex2.f32 %d, %a;", "f32", ("f32", np.ones(64, np.float32)))
    with pytest.raises(UnknownOpcode, match="does not exist"):
        evaluate("ex2.approx.f64 %d, %a;", "f64", ("f64", np.ones(64)))


def test_subnormals_are_flushed_where_asked() -> None:
    tiny = np.float32(1e-40)
    x = np.where(np.arange(COUNT) % 2, -tiny, tiny).astype(np.float32)
    one = np.full(COUNT, 1, np.float32)
    for got in result_of("mul.ftz.f32 %d, %a, %b;", "f32", ("f32", x), ("f32", one)):
        assert (got == 0).all()
        assert (np.signbit(got) == np.signbit(x)).all()
    small = np.full(COUNT, 1e-20, np.float32)
    got = evaluate("mul.ftz.f32 %d, %a, %b;", "f32", ("f32", small), ("f32", small))
    assert (got == 0).all()
    got = evaluate("mul.f32 %d, %a, %b;", "f32", ("f32", x), ("f32", one))
    assert (got == x).all()


def test_saturation() -> None:
    x = np.array([-2, -0.0, 0.25, 1, 7, np.inf, -np.inf, np.nan] * 8, np.float32)
    zero = np.zeros(64, np.float32)
    got = evaluate("add.sat.f32 %d, %a, %b;", "f32", ("f32", x), ("f32", zero))
    assert got[:8].tolist() == [0, 0, 0.25, 1, 1, 1, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_min_max_know_zeros_and_nan(kind: str) -> None:
    """-0 is less than +0; a NaN loses, except against ``.NaN``."""
    form = FORMATS[kind]
    a, b = bits_of(kind, 3), bits_of(kind, 4)
    minus = 1 << form.bits - 1
    nan = (1 << form.bits - 1) - 1
    a[:6], b[:6] = [0, minus, 0, nan, 5, nan], [minus, 0, 0, 5, nan, nan]

    def key(v: int) -> tuple[Fraction | float, int]:
        value = form.decode(v)
        return (Fraction(0) if value == 0 else value, 0 if v >> form.bits - 1 else 1)

    typed = [
        (kind, x.view({"f32": np.float32, "f64": np.float64}.get(kind, x.dtype))) for x in (a, b)
    ]
    for name, choose in (("min", min), ("max", max)):
        for suffix in ("", ".NaN") if kind != "f64" else ("",):
            for got in result_of(f"{name}{suffix}.{kind} %d, %a, %b;", kind, *typed):
                for g, x, y in zip(got.view(UINT[kind]), a, b, strict=True):
                    lost = [v for v in (int(x), int(y)) if isinstance(form.decode(v), float)]
                    nans = [v for v in lost if math.isnan(form.decode(v))]
                    left = [v for v in (int(x), int(y)) if v not in nans]
                    if not left or (nans and suffix):
                        assert same(kind, int(g), math.nan)
                    else:
                        assert int(g) == choose(left, key=key)


@pytest.mark.parametrize("kind", KINDS)
def test_signs(kind: str) -> None:
    """A NaN gives some NaN: on an H200 `neg` was seen not to be just a change of its sign."""
    form = FORMATS[kind]
    minus = 1 << form.bits - 1
    a = bits_of(kind, 5)
    typed = (kind, a.view({"f32": np.float32, "f64": np.float64}.get(kind, a.dtype)))
    for name, change in (("neg", lambda v: v ^ minus), ("abs", lambda v: v & (minus - 1))):
        for got in result_of(f"{name}.{kind} %d, %a;", kind, typed):
            for g, v in zip(got.view(a.dtype).tolist(), a.tolist(), strict=True):
                value = form.decode(v)
                nan = isinstance(value, float) and math.isnan(value)
                assert same(kind, g, math.nan if nan else change(v)), (name, hex(g), hex(v))


def test_signs_leave_float64_nan_alone() -> None:
    """So the ISA has it, for f64 alone."""
    bits = np.array([0x7FF8 << 48, 0xFFF8 << 48, 0xFFF8 << 48 | 5, 0x7FFF << 48] * 16, np.uint64)
    for name in ("neg", "abs"):
        got = evaluate(f"{name}.f64 %d, %a;", "f64", ("f64", bits.view(np.float64)))
        assert (got.view(np.uint64) == bits).all()


def test_copysign_takes_the_sign_of_its_first_operand() -> None:
    a, b = np.float32([-1, 2] * 32), np.float32([3, -4] * 32)
    got = evaluate("copysign.f32 %d, %a, %b;", "f32", ("f32", a), ("f32", b))
    assert got[:2].tolist() == [-3, 4]


def test_testp() -> None:
    x = np.array([1, 0, -0.0, 1e-40, np.inf, -np.inf, np.nan, 3] * 8, np.float32)
    want = {
        "finite": np.isfinite(x),
        "infinite": np.isinf(x),
        "number": ~np.isnan(x),
        "notanumber": np.isnan(x),
        # Zeros count as normal: the ISA says so, and so was it seen on an H200.
        "normal": [True, True, True, False, False, False, False, True] * 8,
        "subnormal": [False, False, False, True, False, False, False, False] * 8,
    }
    for name, expected in want.items():
        got = evaluate(f"testp.{name}.f32 %d, %a;", "pred", ("f32", x))
        assert (got.astype(bool) == expected).all()


def test_comparisons_with_nan() -> None:
    values = [1.0, 2.0, math.nan, math.inf]
    a = np.float32([x for x in values for _ in values] * 4)
    b = np.float32(values * 16)
    ordered = {
        "eq": lambda x, y: x == y,
        "ne": lambda x, y: x != y and not math.isnan(x + y),
        "lt": lambda x, y: x < y,
        "le": lambda x, y: x <= y,
        "gt": lambda x, y: x > y,
        "ge": lambda x, y: x >= y,
    }
    tests = dict(ordered)
    for name, function in ordered.items():
        tests[f"{name}u"] = lambda x, y, f=function: f(x, y) or math.isnan(x) or math.isnan(y)
    tests["num"] = lambda x, y: not (math.isnan(x) or math.isnan(y))
    tests["nan"] = lambda x, y: math.isnan(x) or math.isnan(y)
    halves = [(v.astype(np.float16).view(np.uint16)) for v in (a, b)]
    for name, function in tests.items():
        want = [function(float(x), float(y)) for x, y in zip(a, b, strict=True)]
        got = evaluate(f"setp.{name}.f32 %d, %a, %b;", "pred", ("f32", a), ("f32", b))
        assert got.astype(bool).tolist() == want, name
        got = evaluate(f"setp.{name}.f16 %d, %a, %b;", "pred", *(("f16", h) for h in halves))
        assert got.astype(bool).tolist() == want, name
    pairs = [np.column_stack([h, h[::-1]]).copy().view(np.uint32)[:, 0] for h in halves]
    typed = [("f16x2", p) for p in pairs]
    want = [float(x) < float(y) for x, y in zip(a, b, strict=True)]
    for target, reverse in (("%d|%q0", False), ("%q0|%d", True)):
        got = evaluate(f"setp.lt.f16x2 {target}, %a, %b;", "pred", *typed)
        assert got.astype(bool).tolist() == (want[::-1] if reverse else want)
    ones = np.array([0x3C00 * x | 0x3C000000 * y for x, y in zip(want, want[::-1], strict=True)])
    for got in result_of("set.lt.f16x2.f16x2 %d, %a, %b;", "f16x2", *typed):
        assert (got == ones).all()


def test_set_gives_ones_of_its_type() -> None:
    a, b = np.float32([1, 2] * 32), np.float32([2, 1] * 32)
    for result, one in (("u32", 0xFFFFFFFF), ("f32", 1.0), ("f16", 0x3C00), ("bf16", 0x3F80)):
        for got in result_of(f"set.lt.{result}.f32 %d, %a, %b;", result, ("f32", a), ("f32", b)):
            assert got[:2].tolist() == [one, 0]
    got = evaluate("slct.f32.f32 %d, %a, %b, %c;", "f32", *(("f32", v) for v in (a, b, a - 1.5)))
    assert (got == 2 * (a > 1) + 2 * (a == 1)).all()


@pytest.mark.parametrize("kind", ["f16", "bf16"])
def test_packed_halves_do_what_single_ones_do(kind: str) -> None:
    low = [bits_of(kind, seed) for seed in range(3)]
    high = [bits_of(kind, seed + 10) for seed in range(3)]
    packed = [
        x.astype(np.uint32) | y.astype(np.uint32) << np.uint32(16)
        for x, y in zip(low, high, strict=True)
    ]
    bodies = {
        "add{rn}.{k} %d, %a, %b;": 2,
        "sub{rn}.{k} %d, %a, %b;": 2,
        "mul{rn}.{k} %d, %a, %b;": 2,
        "fma.rn.{k} %d, %a, %b, %c;": 3,
        "fma.rn.relu.{k} %d, %a, %b, %c;": 3,
        "min.{k} %d, %a, %b;": 2,
        "max.NaN.{k} %d, %a, %b;": 2,
        "neg.{k} %d, %a;": 1,
        "abs.{k} %d, %a;": 1,
        "tanh.approx.{k} %d, %a;": 1,
    }
    for text, count in bodies.items():
        single = text.format(k=kind, rn="")
        double = text.format(k=f"{kind}x2", rn="")
        parts = [evaluate(single, kind, *((kind, x) for x in half[:count])) for half in (low, high)]
        want = parts[0].astype(np.uint32) | parts[1].astype(np.uint32) << np.uint32(16)
        for got in result_of(double, f"{kind}x2", *((f"{kind}x2", x) for x in packed[:count])):
            assert (got == want).all(), text


def test_relu_and_saturating_halves() -> None:
    x = np.float16([-2, -0.0, 0.25, 1, 7, np.inf, -np.inf, np.nan] * 8).view(np.uint16)
    one, zero = (np.full(64, v, np.float16).view(np.uint16) for v in (1, 0))
    args = [("f16", v) for v in (x, one, zero)]
    got = evaluate("fma.rn.relu.f16 %d, %a, %b, %c;", "f16", *args).view(np.float16)[:8]
    assert got[:7].tolist() == [0, 0, 0.25, 1, 7, np.inf, 0]
    assert np.isnan(got[7])
    got = evaluate("fma.rn.sat.f16 %d, %a, %b, %c;", "f16", *args).view(np.float16)[:8]
    assert got.tolist() == [0, 0, 0.25, 1, 1, 1, 0, 0]


def test_float_constants() -> None:
    x = np.arange(64, dtype=np.float32)
    got = evaluate("add.f32 %d, %a, 0f3FC00000;", "f32", ("f32", x))
    assert (got == x + 1.5).all()
    got = evaluate("mul.f64 %d, %a, 0d4000000000000000;", "f64", ("f64", x.astype(np.float64)))
    assert (got == 2.0 * x).all()
    got = evaluate("mov.b32 %d, 0f3F800000;", "f32", ("f32", x))
    assert (got == 1).all()
    got = evaluate("mov.f32 %d, 0fFF800000;", "f32", ("f32", x))
    assert (got == -np.inf).all()
