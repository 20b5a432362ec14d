"""``mma`` and ``mma.sp``.

Operands are gathered by the lane maps of `tensor` and multiplied in float64: products of the input
types are exact there and so, but for a relative 2**-53, is the sum with the accumulator, which is
rounded once to the accumulate type. Hardware keeps fewer bits and truncates; on integers below
2**24 both are exact. Integer products are exact and wrap (or saturate) at 32 bits.

Expanding a fragment costs more than multiplying it, and a kernel multiplies each A with several B:
both are kept while their registers hold the same arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .decode import aligned, opcode
from .errors import IllegalSelector, InvalidMetadata, InvalidOperand, UnknownOpcode
from .operands import Decoder, Op
from .program import Immediate, Instruction, Operand, Register, Vector
from .rounding import bf16_to_f32
from .tensor import C16, Fragment, Metadata, Shape, find_shape
from .warp import LANES, Array, Mask, Warp

_FAMILY = {
    "f16": "half",
    "bf16": "half",
    "tf32": "tf32",
    "s8": "byte",
    "u8": "byte",
    "e4m3": "byte",
    "e5m2": "byte",
    "f64": "f64",
}
_KEPT = 64  # expanded fragments a warp keeps


# -- values of the input types -------------------------------------------------------------------
def _minifloat(exponent: int, mantissa: int, finite: bool) -> Array:
    """All 256 values of an 8-bit float; with `finite` only all ones is NaN and there is no
    infinity.
    """
    bits = np.arange(256)
    sign = np.where(bits & 128, -1.0, 1.0)
    e, m = bits >> mantissa & (1 << exponent) - 1, bits & (1 << mantissa) - 1
    bias = (1 << exponent - 1) - 1
    value = np.where(
        e == 0, m * 2.0 ** (1 - bias - mantissa), (1 + m / 2.0**mantissa) * 2.0 ** (e - bias)
    )
    top = (1 << exponent) - 1
    if finite:
        value = np.where((e == top) & (m == (1 << mantissa) - 1), np.nan, value)
    else:
        value = np.where(e == top, np.where(m == 0, np.inf, np.nan), value)
    return sign * value


_ALL_HALVES = np.arange(1 << 16, dtype=np.uint16)
with np.errstate(invalid="ignore"):  # signalling NaN among the bit patterns
    _BF16 = bf16_to_f32(_ALL_HALVES).astype(np.float64)
_TABLES: dict[str, Array] = {
    "f16": _ALL_HALVES.view(np.float16).astype(np.float64),
    "bf16": _BF16,
    "e4m3": _minifloat(4, 3, finite=True),
    "e5m2": _minifloat(5, 2, finite=False),
    "u8": np.arange(256.0),
    "s8": np.arange(256, dtype=np.uint8).view(np.int8).astype(np.float64),
}


def values_of(raw: Array, kind: str) -> Array:
    """Register bits, shape (registers, blocks * 32), as float64 elements, shape (registers, blocks
    * 32, per).
    """
    if kind == "f64":
        return raw.view(np.float64)[:, :, None]
    if kind == "tf32":
        cut = (raw & np.uint32(0xFFFFE000)).view(np.float32)  # the hardware reads the upper 19 bits
        out: Array = cut.astype(np.float64)[:, :, None]
        return out
    table = _TABLES[kind]
    unit = np.uint16 if len(table) == 1 << 16 else np.uint8
    return table.take(raw.view(unit)).reshape(*raw.shape, -1)


def gather(elements: Array, fragment: Fragment, blocks: int) -> Array:
    """Elements in fragment order to matrices, shape (blocks, rows, cols)."""
    registers, _, per = elements.shape
    by_block = (
        elements.reshape(registers, blocks, LANES * per).transpose(1, 0, 2).reshape(blocks, -1)
    )
    out: Array = by_block.take(fragment.gather, axis=1)
    return out


def scatter(matrices: Array, fragment: Fragment) -> Array:
    """Matrices to registers, shape (registers, blocks * 32, per)."""
    flat = matrices.reshape(len(matrices), -1)
    found = flat.take(fragment.scatter, axis=1)
    return np.ascontiguousarray(found.transpose(1, 0, 2, 3)).reshape(
        fragment.registers, -1, fragment.scatter.shape[2]
    )


# -- metadata ------------------------------------------------------------------------------------
def _rules(ordered: bool, span: int) -> Array:
    """Which of the sixteen nibbles are valid."""
    if span == 2:
        return np.isin(np.arange(16), (0b0100, 0b1110))
    first, second = np.arange(16) & 3, np.arange(16) >> 2
    return first < second if ordered else first != second


def _dense_source(span: int) -> Array:
    """For each nibble and dense column of a group: which stored value stands there; `stored` means
    none.
    """
    stored = span // 2
    out = np.full((16, span), stored)
    for nibble in range(16):
        if span == 2:
            out[nibble, 1 if nibble == 0b1110 else 0] = 0
        else:
            out[nibble, nibble & 3] = 0
            out[nibble, nibble >> 2] = 1
    return out


_SOURCES = {2: _dense_source(2), 4: _dense_source(4)}


def expand(
    stored: Array, words: Array, selector: int, shape: Shape, ordered: bool
) -> tuple[Array, Array]:
    """Stored values, shape (blocks, 16, k / 2), to the dense operand, by the metadata words, shape
    (blocks, 32).

    Also returns the nibbles that are not valid, shape (blocks, 16, groups): they matter where a
    block is active.
    """
    metadata, span = shape.metadata, shape.span
    assert metadata is not None
    held = words.take(metadata.lane[selector], axis=1)
    nibbles = held >> metadata.bit[selector].astype(np.uint32) & np.uint32(15)
    blocks, keep = len(stored), span // 2
    padded = np.zeros((blocks, 16, metadata.groups, keep + 1))
    padded[..., :keep] = stored.reshape(blocks, 16, metadata.groups, keep)
    source = _SOURCES[span].take(nibbles, axis=0)
    dense = np.take_along_axis(padded, source, axis=3).reshape(blocks, 16, shape.k)
    return dense, ~_rules(ordered, span).take(nibbles)


def check_metadata(wrong: Array, mask: Mask, selector: int, shape: Shape) -> None:
    """Refuse the first invalid nibble of an active block."""
    if not wrong.any():
        return
    if mask is not None:
        wrong = wrong & mask.reshape(-1, LANES)[:, :1, None]
    for block, row, group in np.argwhere(wrong):
        metadata, span = shape.metadata, shape.span
        assert metadata is not None
        lane, bit = (
            int(metadata.lane[selector, row, group]),
            int(metadata.bit[selector, row, group]),
        )
        raise InvalidMetadata(
            f"row {row}, columns {span * group} to {span * group + span - 1}: "
            f"the nibble in lane {lane}, bits {bit} to {bit + 3} is not valid",
            lane=int(block) * LANES + lane,
        )


# -- the instruction -----------------------------------------------------------------------------
@dataclass(frozen=True)
class _Form:
    """What the modifiers say."""

    shape: Shape
    d: str
    a: str
    b: str
    c: str
    sparse: bool
    ordered: bool
    saturate: bool


def _form(ins: Instruction) -> _Form:
    rest = list(ins.modifiers)
    sparse = bool(rest) and rest[0] in ("sp", "sp::ordered_metadata")
    ordered = sparse and rest.pop(0) != "sp"
    saturate = "satfinite" in rest
    if saturate:
        rest.remove("satfinite")
    if len(rest) != 9 or rest[:2] != ["sync", "aligned"] or rest[3:5] != ["row", "col"]:
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    name, (d, a, b, c) = rest[2], rest[5:]
    family = _FAMILY.get(a)
    shape = find_shape(name, family, sparse) if family else None
    accumulate = {"half": ("f32", "f16"), "tf32": ("f32",), "f64": ("f64",)}.get(family or "")
    if family == "byte":
        accumulate = ("s32",) if a in ("s8", "u8") else ("f32",)
    same = (
        _FAMILY.get(b) == family and (family == "byte" or a == b) and (a[0] == "e") == (b[0] == "e")
    )
    if shape is None or accumulate is None or not same or d not in accumulate or c != d:
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    if (d == "f16" and a != "f16") or (saturate and d != "s32"):
        raise UnknownOpcode(f"{ins.mnemonic} does not exist")
    return _Form(shape, d, a, b, c, sparse, ordered, saturate)


def _registers(d: Decoder, operand: Operand, fragment: Fragment) -> list[int]:
    """Register numbers of a fragment."""
    bits = 64 if fragment.bits == 64 else 32
    items = operand.items if isinstance(operand, Vector) else (operand,)
    if len(items) != fragment.registers:
        raise InvalidOperand(f"{fragment.registers} registers are expected, found {len(items)}")
    out = []
    for item in items:
        if not isinstance(item, Register) or item.bits != bits:
            raise InvalidOperand(f"a fragment needs {bits}-bit registers, found {item}")
        out.append(item.index)
    return out


def _accumulators(form: _Form) -> Fragment:
    return C16 if form.d == "f16" else form.shape.c


def _finish(form: _Form, total: Array) -> Array:
    """Round the sum to the accumulate type and give register bits' elements."""
    if form.d == "s32":
        if form.saturate:
            total = np.clip(total, -(2.0**31), 2.0**31 - 1)
        return total.astype(np.int64).astype(np.uint32)
    if form.d == "f16":
        return total.astype(np.float16).view(np.uint16)
    return total if form.d == "f64" else total.astype(np.float32)


def _addend(form: _Form, raw: Array) -> Array:
    if form.c == "s32":
        return raw.view(np.int32).astype(np.float64)[:, :, None]
    if form.c == "f32":
        return raw.view(np.float32).astype(np.float64)[:, :, None]
    return values_of(raw, form.c)


# Register bits to matrices, and the metadata nibbles which are not valid.
Make = Callable[[Array], tuple[Array, Array | None]]


def _kept(
    w: Warp, key: tuple[object, ...], registers: list[int], make: Make
) -> tuple[Array, Array | None]:
    """`make` of the registers' bits, remembered while they hold the same arrays."""
    arrays = [w.regs[i] for i in registers]
    found = w.fragments.get(key)
    if found is not None and all(x is y for x, y in zip(found[0], arrays, strict=True)):
        return found[1], found[2]
    value, wrong = make(np.stack([x.view(x.dtype) for x in arrays]))
    if len(w.fragments) >= _KEPT:
        w.fragments.clear()
    w.fragments[key] = (arrays, value, wrong)
    return value, wrong


@opcode("mma", control=True)
def _mma(d: Decoder, ins: Instruction) -> Op:
    """``mma.sync ... d, a, b, c`` and ``mma.sp{::ordered_metadata}.sync ... d, a, b, c, metadata,
    selector``.
    """
    form = _form(ins)
    shape, sums = form.shape, _accumulators(form)
    if len(ins.operands) != (6 if form.sparse else 4):
        raise InvalidOperand(
            f"{ins.opcode} takes {6 if form.sparse else 4} operands, found {len(ins.operands)}"
        )
    out, c = _registers(d, ins.operands[0], sums), _registers(d, ins.operands[3], sums)
    a, b = _registers(d, ins.operands[1], shape.a), _registers(d, ins.operands[2], shape.b)
    words, selector = _sparse_operands(ins, shape.metadata)
    a_key, b_key = ("a", form.a, shape.k, *a, *words, selector), ("b", form.b, *b)

    def make_a(w: Warp) -> Make:
        def make(raw: Array) -> tuple[Array, Array | None]:
            stored = gather(values_of(raw[: len(a)], form.a), shape.a, w.blocks)
            if not words:
                return stored, None
            return expand(stored, raw[-1].reshape(-1, LANES), selector, shape, form.ordered)

        return make

    def inner(w: Warp, mask: Mask) -> None:
        left, wrong = _kept(w, a_key, a + words, make_a(w))
        if wrong is not None:
            check_metadata(wrong, mask, selector, shape)
        right, _ = _kept(
            w, b_key, b, lambda raw: (gather(values_of(raw, form.b), shape.b, w.blocks), None)
        )
        addend = gather(
            _addend(form, np.stack([w.regs[i].view(w.regs[i].dtype) for i in c])), sums, w.blocks
        )
        result = scatter(_finish(form, np.matmul(left, right) + addend), sums)
        store = np.uint64 if form.d == "f64" else np.uint32
        for i, index in enumerate(out):
            w.put(index, mask, result[i].reshape(-1).view(store))

    return aligned(inner, d.pc, "mma")


def _sparse_operands(ins: Instruction, metadata: Metadata | None) -> tuple[list[int], int]:
    """Register of the metadata and the selector, checked; nothing for a dense A."""
    if metadata is None:
        return [], 0
    word, selector = ins.operands[4:]
    if not isinstance(word, Register) or word.bits != 32:
        raise InvalidOperand("the metadata is a 32-bit register")
    if not isinstance(selector, Immediate) or not isinstance(selector.value, int):
        raise InvalidOperand("the sparsity selector is a constant")
    if not 0 <= selector.value < metadata.selectors:
        raise IllegalSelector(
            f"sparsity selector {selector.value}; this shape allows 0 to {metadata.selectors - 1}"
        )
    return [word.index], selector.value
