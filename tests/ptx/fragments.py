"""The lane maps of ``mma`` and ``mma.sp`` once more, for tests, and one instruction on matrices.

These are the formulas of the PTX ISA's sections on fragments, in its own words (group, thread in
group, element i); `tensor`, which the interpreter uses, derives its maps from the widths of
elements. The two meet only in the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import numpy as np

from . import snippets
from .warp import Array

__all__ = [
    "A_PLACES",
    "B_PLACES",
    "FAMILY",
    "SELECTORS",
    "WIDTH",
    "accumulator",
    "c_place",
    "encode",
    "gather",
    "integers",
    "nibble_place",
    "run_mma",
    "sparse_operand",
    "spread",
]

Place = Callable[[int, int, int], tuple[int, int]]

# (row, column) of element i of thread t of group g, by shape, for A (stored values) and B.
A_PLACES: dict[tuple[str, str, bool], Place] = {
    ("m16n8k8", "half", False): lambda g, t, i: (g + 8 * (i >= 2), 2 * t + (i & 1)),
    ("m16n8k16", "half", False): lambda g, t, i: (
        g if i < 2 or 4 <= i < 6 else g + 8,
        2 * t + (i & 1) + 8 * (i >= 4),
    ),
    ("m16n8k4", "tf32", False): lambda g, t, i: (g + 8 * i, t),
    ("m16n8k8", "tf32", False): lambda g, t, i: (g + 8 * (i in (1, 3)), t + 4 * (i >= 2)),
    ("m16n8k16", "byte", False): lambda g, t, i: (g + 8 * (i >= 4), 4 * t + (i & 3)),
    ("m16n8k32", "byte", False): lambda g, t, i: (
        g if i < 4 or 8 <= i < 12 else g + 8,
        4 * t + (i & 3) + 16 * (i >= 8),
    ),
    ("m16n8k16", "half", True): lambda g, t, i: (g + 8 * (i >= 2), 2 * t + (i & 1)),
    ("m16n8k32", "half", True): lambda g, t, i: (
        g if i < 2 or 4 <= i < 6 else g + 8,
        2 * t + (i & 1) + 8 * (i >= 4),
    ),
    ("m16n8k8", "tf32", True): lambda g, t, i: (g + 8 * i, t),
    ("m16n8k16", "tf32", True): lambda g, t, i: (g + 8 * (i in (1, 3)), t + 4 * (i >= 2)),
    ("m16n8k32", "byte", True): lambda g, t, i: (g + 8 * (i >= 4), 4 * t + (i & 3)),
    ("m16n8k64", "byte", True): lambda g, t, i: (
        g if i < 4 or 8 <= i < 12 else g + 8,
        4 * t + (i & 3) + 16 * (i >= 8),
    ),
}
B_PLACES: dict[str, Place] = {
    "half": lambda g, t, i: (2 * t + (i & 1) + 8 * (i >> 1), g),
    "tf32": lambda g, t, i: (t + 4 * i, g),
    "byte": lambda g, t, i: (4 * t + (i & 3) + 16 * (i >> 2), g),
}


def c_place(g: int, t: int, i: int) -> tuple[int, int]:
    return g + 8 * (i >= 2), 2 * t + (i & 1)


def nibble_place(shape: str, family: str, selector: int, row: int, group: int) -> tuple[int, int]:
    """Lane and first bit of the metadata nibble of a group of columns."""
    g, high = row % 8, row // 8
    if (shape, family) in (("m16n8k16", "half"), ("m16n8k8", "tf32")):
        return 4 * g + selector, 16 * high + 4 * group
    if (shape, family) in (("m16n8k32", "half"), ("m16n8k16", "tf32")):
        return 4 * g + 2 * selector + (group >= 4), 16 * high + 4 * (group % 4)
    if shape == "m16n8k32":
        return 4 * g + 2 * selector + high, 4 * group
    return 4 * g + high + 2 * (group >= 8), 4 * (group % 8)


SELECTORS = {
    ("m16n8k16", "half"): 4,
    ("m16n8k32", "half"): 2,
    ("m16n8k8", "tf32"): 4,
    ("m16n8k16", "tf32"): 2,
    ("m16n8k32", "byte"): 2,
    ("m16n8k64", "byte"): 1,
}
FAMILY = {
    **dict.fromkeys(("f16", "bf16"), "half"),
    "tf32": "tf32",
    **dict.fromkeys(("s8", "u8", "e4m3", "e5m2"), "byte"),
}
WIDTH = {"half": 16, "tf32": 32, "byte": 8}


def encode(values: Array, kind: str) -> Array:
    """Small integers as bit patterns of an input type."""
    if kind in ("s8", "u8"):
        return values.astype(np.int64).astype(np.uint8)
    if kind == "f16":
        return values.astype(np.float16).view(np.uint16)
    single: Array = values.astype(np.float32).view(np.uint32)
    if kind == "bf16":
        return (single >> 16).astype(np.uint16)
    if kind == "tf32":
        low: Array = single | np.uint32(0x1ABC)  # the low 13 bits are not read
        return low
    mantissa, bias = (3, 7) if kind == "e4m3" else (2, 15)
    out = []
    for v in values.ravel():
        sign, size = (0x80 if v < 0 else 0), abs(int(v))
        e = size.bit_length() - 1
        fraction = (size << mantissa >> e) - (1 << mantissa) if size else 0
        out.append(sign | (((e + bias) << mantissa) + fraction if size else 0))
    return np.array(out, np.uint8).reshape(values.shape)


def spread(matrix: Array, place: Place, bits: int) -> Array:
    """A matrix of bit patterns to registers, shape (registers, 32)."""
    per = 32 // bits
    count = matrix.size // 32
    out = np.zeros((count // per, 32), np.uint32)
    for lane, i in product(range(32), range(count)):
        row, col = place(lane >> 2, lane & 3, i)
        out[i // per, lane] |= np.uint32(matrix[row, col]) << np.uint32(bits * (i % per))
    return out


def registers(prefix: str, first: int, count: int) -> str:
    return "{" + ", ".join(f"%{prefix}{first + i}" for i in range(count)) + "}"


def run_mma(
    mnemonic: str,
    a: Array,
    b: Array,
    c: Array,
    metadata: Array | None = None,
    selector: int = 0,
) -> Array:
    """Execute one instruction in every warp of the operands, shape (warps, registers, 32)."""
    warps = len(a)
    loads, places = [], []
    for name, first, array in (("a", 0, a), ("b", 10, b), ("c", 20, c)):
        count = array.shape[1]
        places.append(registers("r", first, count))
        loads.append(f"ld.param.u64 %rd0, [{name}]; mad.wide.u32 %rd0, %r39, {128 * count}, %rd0;")
        loads.append("and.b32 %r38, %id, 31; mad.wide.u32 %rd0, %r38, 4, %rd0;")
        loads += [f"ld.global.u32 %r{first + i}, [%rd0+{128 * i}];" for i in range(count)]
    extra = ""
    if metadata is not None:
        loads.append("ld.param.u64 %rd0, [e]; mad.wide.u32 %rd0, %gid, 4, %rd0;")
        loads.append("ld.global.u32 %r30, [%rd0];")
        extra = f", %r30, {selector}"
    count = c.shape[1]
    text = snippets.kernel(
        f"""
        shr.u32 %r39, %gid, 5;
        {" ".join(loads)}
        {mnemonic} {places[2]}, {places[0]}, {places[1]}, {places[2]}{extra};
        ld.param.u64 %rd0, [d]; mad.wide.u32 %rd0, %r39, {128 * count}, %rd0;
        mad.wide.u32 %rd0, %r38, 4, %rd0;
        {" ".join(f"st.global.u32 [%rd0+{128 * i}], %r{20 + i};" for i in range(count))}
        """,
        params=".param .u64 a, .param .u64 b, .param .u64 c, .param .u64 e, .param .u64 d",
    )
    out = np.zeros_like(c)
    words = np.zeros(1, np.uint32) if metadata is None else metadata
    snippets.backend.launch(text, warps, 32, [a, b, c, words, out])
    return out


def gather(out: Array, dtype: type) -> Array:
    """Registers of D to matrices, shape (warps, 16, 8)."""
    values: Array = out.view(dtype)
    found: Array = np.zeros((len(out), 16, 8), dtype)
    for lane, i in product(range(32), range(4)):
        row, col = c_place(lane >> 2, lane & 3, i)
        found[:, row, col] = values[:, i, lane]
    return found


def integers(rng: np.random.Generator, kind: str, shape: tuple[int, ...]) -> Array:
    """Values that every input type holds exactly; no lane repeats another's pattern of values."""
    if kind in ("s8", "u8"):
        return rng.integers(0 if kind == "u8" else -128, 128, shape)
    return rng.integers(-8, 9, shape)


def accumulator(kind: str) -> tuple[str, type]:
    return ("s32", np.int32) if kind in ("s8", "u8") else ("f32", np.float32)


def sparse_operand(
    rng: np.random.Generator, shape: str, kind: str, warps: int, selector: int, ordered: bool = True
) -> tuple[Array, Array, Array]:
    """Dense matrices, registers of the stored values, and metadata words with noise elsewhere."""
    k, family = int(shape[6:]), FAMILY[kind]
    span = 2 if family == "tf32" else 4
    keep, groups = span // 2, k // span
    stored = integers(rng, kind, (warps, 16, k // 2))
    dense = np.zeros((warps, 16, k), np.int64)
    words = rng.integers(0, 1 << 32, (warps, 32), dtype=np.uint64).astype(np.uint32)
    pairs = [(i, j) for i in range(4) for j in range(4) if (i < j if ordered else i != j)]
    for w, row, group in product(range(warps), range(16), range(groups)):
        if span == 2:
            first = int(rng.integers(2))
            nibble, positions = (0b1110 if first else 0b0100), [first]
        else:
            i, j = pairs[rng.integers(len(pairs))]
            nibble, positions = i | j << 2, [i, j]
        for n, position in enumerate(positions):
            dense[w, row, span * group + position] = stored[w, row, keep * group + n]
        lane, bit = nibble_place(shape, family, selector, row, group)
        words[w, lane] = int(words[w, lane]) & ~(15 << bit) | nibble << bit
    place, width = A_PLACES[shape, family, True], WIDTH[family]
    return dense, np.stack([spread(encode(m, kind), place, width) for m in stored]), words
