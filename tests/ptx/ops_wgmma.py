"""``wgmma``: asynchronous products of a warpgroup, A or B (or both) in shared memory.

A warpgroup is four warps; warp w of it holds rows 16 w to 16 w + 15 of the 64, in A, D and the
metadata. So each warp is executed by itself; that the four have started the same products is
compared when they end.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from .decode import aligned, opcode, take_modifiers
from .errors import IllegalSelector, InvalidOperand, OutOfBounds, UnknownOpcode
from .float8 import add_products
from .operands import Decoder, Op
from .ops_tensor import check_metadata, expand, gather, scatter, values_of
from .products import Product
from .program import Immediate, Instruction, Operand, Register, Vector
from .tensor import Shape, find_shape
from .warp import Array, Mask, Warp
from .wgmma import Descriptor, accumulators

_SHAPE = re.compile(r"m64n(\d+)k(\d+)")


@dataclass(frozen=True)
class _Family:
    """Types that one instruction takes together.

    `depth` is k and `tile` the shape of ``mma`` whose A a warp's part of A is, by sparse; `signs`
    says whether operands can be negated, `major` whether B may lie with n contiguous.
    """

    name: str
    kinds: frozenset[str]
    sums: str
    depth: dict[bool, int]
    tile: dict[bool, str]
    signs: bool
    major: bool

    @property
    def chunk(self) -> int:
        """Elements of 16 bytes."""
        return 16 if self.name == "byte" else 8


_HALF = {True: 32, False: 16}, {True: "m16n8k32", False: "m16n8k16"}
_BYTE = {True: 64, False: 32}, {True: "m16n8k64", False: "m16n8k32"}
_FAMILIES = (
    _Family("half", frozenset({"f16"}), "f32", *_HALF, signs=True, major=True),
    _Family("half", frozenset({"bf16"}), "f32", *_HALF, signs=True, major=True),
    _Family("byte", frozenset({"e4m3", "e5m2"}), "f32", *_BYTE, signs=True, major=False),
    _Family("byte", frozenset({"s8", "u8"}), "s32", *_BYTE, signs=False, major=False),
)


@opcode("wgmma", control=True)
def _wgmma(d: Decoder, ins: Instruction) -> Op:
    d.single = True
    kind = ins.modifiers[0]
    if kind == "mma_async":
        return _mma(d, ins)
    take_modifiers(ins, {kind, "sync", "aligned"})
    if kind == "fence":
        return aligned(lambda w, mask: w.products.fence(), d.pc, "wgmma.fence")
    if kind == "commit_group":
        return aligned(lambda w, mask: w.products.commit(), d.pc, "wgmma.commit_group")
    if kind == "wait_group":
        newest = ins.operands[0]
        if not isinstance(newest, Immediate):
            raise InvalidOperand("wgmma.wait_group takes a constant")
        return _wait(d, int(newest.value))
    raise UnknownOpcode(f"{ins.mnemonic} is not supported")


def _wait(d: Decoder, newest: int) -> Op:
    def inner(w: Warp, mask: Mask) -> None:
        for registers, values in w.products.wait(newest):
            columns = values.shape[-1]
            found = scatter(values[None], accumulators(columns))
            for index, value in zip(registers, found, strict=True):
                w.put(index, None, np.ascontiguousarray(value[:, 0]).view(np.uint32))
            w.products.returned(registers)
        # All threads of the warp have come here, and what they read for the products is behind.
        w.launch.clocks.sync_warp(w.number, np.array([0]))

    return aligned(inner, d.pc, "wgmma.wait_group")


@dataclass(frozen=True)
class _Form:
    """What the modifiers and constants of ``wgmma.mma_async`` say."""

    columns: int
    depth: int
    family: _Family
    a_kind: str
    b_kind: str
    saturate: bool
    shape: Shape
    sparse: bool
    selector: int
    a_registers: list[int]
    sums: tuple[int, ...]
    metadata: list[int]
    transposed_a: bool
    transposed_b: bool


def _form(ins: Instruction) -> tuple[_Form, list[Operand]]:
    """The form, and the operands that are read at run time: descriptors (A's may be missing), scale
    of D.
    """
    rest = list(ins.modifiers[1:])
    sparse = rest[:1] == ["sp"]
    rest = rest[sparse:]
    saturate = rest[3:5] == ["satfinite", "s32"]
    if saturate:
        del rest[3]
    match = (
        _SHAPE.fullmatch(rest[2]) if len(rest) == 6 and rest[:2] == ["sync", "aligned"] else None
    )
    family = next((f for f in _FAMILIES if set(rest[4:]) <= f.kinds and rest[3] == f.sums), None)
    if match is None or family is None:
        raise UnknownOpcode(f"{ins.mnemonic} is not supported")
    columns, depth = int(match[1]), int(match[2])
    if columns % 8 or not 8 <= columns <= 256 or depth != family.depth[sparse]:
        raise UnknownOpcode(f"{ins.mnemonic} does not exist")
    if family.sums == "s32" and columns > 32 and columns % 16:
        raise UnknownOpcode(f"{ins.mnemonic} does not exist: widths are 24 or multiples of 16")
    shape = find_shape(family.tile[sparse], family.name, sparse)
    assert shape is not None
    operands = list(ins.operands)
    sums = _registers(operands.pop(0), columns // 2)
    a = operands.pop(0)
    a_registers = _registers(a, shape.a.registers) if isinstance(a, Vector) else []
    b = operands.pop(0)
    metadata, selector = [], 0
    if sparse:
        word, which = operands.pop(0), operands.pop(0)
        metadata = _registers(Vector((word,)), 1)
        selector = _constant(which, "the sparsity selector")
        assert shape.metadata is not None
        if not 0 <= selector < shape.metadata.selectors:
            allowed = " and ".join(map(str, range(shape.metadata.selectors)))
            raise IllegalSelector(f"sparsity selector {selector}; this shape allows {allowed}")
    scale = operands.pop(0)
    majors = (1 if a_registers else 2) if family.major else 0
    if len(operands) != (2 if family.signs else 0) + majors:
        raise InvalidOperand(f"{ins.mnemonic} has {len(ins.operands)} operands")
    signs = [_constant(operands.pop(0), "a sign") for _ in range(2 if family.signs else 0)]
    if any(sign != 1 for sign in signs):
        raise UnknownOpcode(f"{ins.mnemonic} with a negated operand is not supported")
    transposed = [bool(_constant(x, "a transposition")) for x in operands]
    form = _Form(
        columns, depth, family, rest[4], rest[5], saturate, shape, sparse, selector, a_registers,
        tuple(sums), metadata, majors == 2 and transposed[0], majors > 0 and transposed[-1],
    )  # fmt: skip
    if form.transposed_a:
        raise UnknownOpcode(f"{ins.mnemonic} with A transposed is not supported")
    return form, [None if a_registers else a, b, scale]


def _registers(operand: Operand, count: int) -> list[int]:
    items = operand.items if isinstance(operand, Vector) else ()
    found = [x.index for x in items if isinstance(x, Register) and x.bits == 32]
    if len(found) != count or len(items) != count:
        raise InvalidOperand(f"{count} 32-bit registers are expected, found {len(items)}")
    return found


def _constant(operand: Operand, what: str) -> int:
    if not isinstance(operand, Immediate) or not isinstance(operand.value, int):
        raise InvalidOperand(f"{what} is a constant")
    return operand.value


def _mma(d: Decoder, ins: Instruction) -> Op:
    form, (a_operand, b_operand, scale_operand) = _form(ins)
    a_bits = None if a_operand is None else d.src(a_operand, "b64")
    b_bits, scale = d.src(b_operand, "b64"), d.src(scale_operand, "pred")
    d.grain = min(d.grain, 16)
    pc = d.pc

    def inner(w: Warp, mask: Mask) -> None:
        products, chunks = w.products, []
        if a_bits is None:
            products.check_registers(form.a_registers, "registers of A")
            raw = np.stack([w.regs[i] for i in form.a_registers])
            stored = gather(values_of(raw, form.a_kind), form.shape.a, 1)
            name_a = -1
        else:
            name_a = _uniform(w, a_bits(w), "descriptor")
            rows = w.number % 4 * 16 + np.arange(16)
            width = form.depth // (2 if form.sparse else 1) // form.family.chunk
            stored = _read(w, Descriptor.of(name_a).k_major(rows, width), form.a_kind, chunks)[None]
        name_b = _uniform(w, b_bits(w), "descriptor")
        descriptor = Descriptor.of(name_b)
        if form.transposed_b:
            right = _read(w, descriptor.mn_major(form.depth, form.columns), form.b_kind, chunks)
        else:
            at = descriptor.k_major(np.arange(form.columns), form.depth // form.family.chunk)
            right = _read(w, at, form.b_kind, chunks).T
        inputs = [(i, w.regs[i]) for i in form.a_registers + form.metadata]
        if form.sparse:
            word = w.regs[form.metadata[0]].view(np.uint32)
            stored, wrong = expand(stored, word.reshape(1, -1), form.selector, form.shape, True)
            check_metadata(wrong, None, form.selector, form.shape)
        keep = bool(_uniform(w, scale(w), "scale"))
        before = products.sums_of(form.sums)
        if before is None and not keep:
            products.check_fence(form.sums)
        if keep:
            if before is None:
                products.check_registers(list(form.sums), "accumulators")
                raw = np.stack([w.regs[i].view(_SUMS[form.family.sums]) for i in form.sums])
                before = gather(raw.astype(np.float64)[:, :, None], accumulators(form.columns), 1)[
                    0
                ]
        else:
            before = np.zeros((len(stored[0]), form.columns))
        name = hash((pc, name_a, name_b, keep))
        products.start(
            Product(form.sums, inputs, chunks), _finish(form, stored[0], right, before), name
        )

    return aligned(inner, d.pc, "wgmma.mma_async")


_SUMS = {"f32": np.float32, "s32": np.int32}


def _finish(form: _Form, left: Array, right: Array, before: Array) -> Array:
    """The sums as their registers hold them; integers wrap around, or saturate where asked."""
    if form.family.name == "byte" and form.family.sums == "f32":
        total = add_products(left, right, before.astype(np.float64), (form.a_kind, form.b_kind))
        return total.astype(np.float32)
    total = left @ right + before
    if form.family.sums == "f32":
        return total.astype(np.float32)
    if form.saturate:
        total = np.clip(total, -(2.0**31), 2.0**31 - 1)
    return total.astype(np.int64).astype(np.int32)


def _uniform(w: Warp, value: Array, what: str) -> int:
    whole = w.whole(value)
    if (whole != whole[0]).any():
        raise InvalidOperand(f"the {what} of a wgmma differs between threads")
    return int(whole[0])


def _read(w: Warp, address: Array, kind: str, chunks: list[Array]) -> Array:
    """Elements of a matrix in shared memory, shape (rows, elements), whose chunks are noted."""
    shared = w.launch.shared
    if int(address.min()) < 0 or int(address.max()) + 16 > shared.size:
        raise OutOfBounds(
            f"a wgmma reads shared memory up to byte {int(address.max()) + 16}; the block has "
            f"{shared.size}"
        )
    rows = address.ravel() // 16
    if shared.shadow is not None:
        shared.shadow.start_async_read(w, rows)
    chunks.append(rows)
    raw = shared.view(2, 16).take(rows, axis=0).reshape(len(address), -1)
    out: Array = values_of(raw, kind).reshape(len(address), -1)
    return out
