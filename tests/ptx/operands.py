"""Operands: registers, constants, special registers, addresses and vectors as closures.

A `Getter` gives the operand of a warp slot as an array, a `Putter` writes a result for the active
threads. Both are made once, when a kernel is decoded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .errors import InvalidOperand, UnknownOpcode
from .program import (
    Address,
    Alternative,
    Immediate,
    Kernel,
    Operand,
    Register,
    Symbol,
    Vector,
    type_bytes,
)
from .warp import LANES, Array, Mask, Warp

__all__ = ["NUMPY", "Decoder", "Getter", "Op", "Putter", "immediate"]

Op = Callable[[Warp, Mask], int | None]
Getter = Callable[[Warp], Array]
Putter = Callable[[Warp, Mask, Array], None]

# How each type is computed with; 16-bit floats and packed types are handled as bits by their own
# operations.
NUMPY: dict[str, type[np.generic]] = {
    "pred": np.bool_,
    "b8": np.uint8,
    "u8": np.uint8,
    "s8": np.int8,
    "b16": np.uint16,
    "u16": np.uint16,
    "s16": np.int16,
    "f16": np.uint16,
    "bf16": np.uint16,
    "b32": np.uint32,
    "u32": np.uint32,
    "s32": np.int32,
    "f32": np.float32,
    "f16x2": np.uint32,
    "bf16x2": np.uint32,
    "tf32": np.uint32,
    "u16x2": np.uint32,
    "s16x2": np.uint32,
    "b64": np.uint64,
    "u64": np.uint64,
    "s64": np.int64,
    "f64": np.float64,
}
_STORE: dict[int, type[np.generic]] = {
    1: np.bool_,
    8: np.uint8,
    16: np.uint16,
    32: np.uint32,
    64: np.uint64,
}


@dataclass(slots=True)
class Decoder:
    """What decoders need: where symbols are, and what they learn about the kernel.

    Attributes
    ----------
    kernel : Kernel
    symbols : dict
        Variable name to (space, address).
    grain : int
        Smallest shared-memory access seen so far, in bytes.
    fences : bool
        The kernel has fences or atomics that may order blocks.
    single : bool
        Registers may belong to a wgmma under way, which is kept for one block at a time.
    """

    kernel: Kernel
    symbols: dict[str, tuple[str, int]]
    grain: int = 16
    fences: bool = False
    single: bool = False
    pc: int = 0

    # -- reading operands ------------------------------------------------------------------------
    def src(self, operand: Operand, kind: str, *, loose: bool = False) -> Getter:
        """A function that gives the operand as an array (or a scalar, for constants) of type
        `kind`.

        `loose` lets a register be wider than the type, as loads, stores and conversions may.
        """
        dtype = NUMPY.get(kind)
        if dtype is None:
            raise UnknownOpcode(f"type .{kind} is not supported here")
        if isinstance(operand, Register):
            return _register(operand, kind, dtype, loose)
        if isinstance(operand, Immediate):
            constant = immediate(operand, kind)
            return lambda w: constant
        if isinstance(operand, Symbol):
            return self._symbol(operand.name, dtype)
        raise InvalidOperand(f"an operand of type .{kind} is expected, found {operand}")

    def _symbol(self, name: str, dtype: type[np.generic]) -> Getter:
        if name in self.symbols:
            address = np.asarray(self.symbols[name][1]).astype(dtype)[()]
            return lambda w: address
        if name == "WARP_SZ":
            warp_size = np.asarray(LANES).astype(dtype)[()]
            return lambda w: warp_size
        if not name.startswith("%"):
            raise InvalidOperand(f"{name} is not declared")

        def special(w: Warp) -> Array:
            found = w.special.get(name)
            if found is None:
                found = w.launch.special(w, name)
                if found is None:
                    raise UnknownOpcode(f"special register {name} is not supported")
                w.special[name] = found
            return found if found.dtype == dtype else found.astype(dtype)

        return special

    def address(self, operand: Operand) -> Getter:
        """The address as int64, whatever the width of its register."""
        if not isinstance(operand, Address):
            raise InvalidOperand("an address in brackets is expected")
        offset = operand.offset
        if operand.base is None:
            absolute = np.int64(offset)
            return lambda w: np.full(w.size, absolute)
        if isinstance(operand.base, Symbol):
            if operand.base.name not in self.symbols:
                raise InvalidOperand(f"{operand.base.name} is not declared")
            fixed = np.int64(self.symbols[operand.base.name][1] + offset)
            return lambda w: np.full(w.size, fixed)
        index = operand.base.index
        if operand.base.bits == 64:
            if not offset:
                return lambda w: w.regs[index].view(np.int64)
            return lambda w: w.regs[index].view(np.int64) + offset
        if operand.base.bits != 32:
            raise InvalidOperand("an address register has 32 or 64 bits")
        # 32-bit addresses wrap like the 32-bit registers they come from.
        wrap = np.uint32(offset & 0xFFFFFFFF)
        return lambda w: (w.regs[index].view(np.uint32) + wrap).astype(np.int64)

    def vector(self, operand: Operand, count: int) -> tuple[Operand, ...]:
        """The items of ``{...}``, or the one operand where `count` is 1."""
        items = operand.items if isinstance(operand, Vector) else (operand,)
        if len(items) != count:
            raise InvalidOperand(f"{count} registers are expected, found {len(items)}")
        return items

    # -- writing results -------------------------------------------------------------------------
    def dst(self, operand: Operand, kind: str, *, loose: bool = False) -> Putter:
        """A function that writes a result of type `kind`; narrower types extend by their sign."""
        if operand is None:
            return lambda w, m, v: None
        if not isinstance(operand, Register):
            raise InvalidOperand(f"a register is expected as result, found {operand}")
        bits = 1 if kind == "pred" else 8 * type_bytes(kind)
        index, store = operand.index, _STORE[operand.bits]
        if operand.bits == bits:
            return lambda w, m, v: w.put(index, m, w.whole(v).view(store))
        if not loose or operand.bits < bits or 1 in (operand.bits, bits):
            raise InvalidOperand(f"{operand.name} has {operand.bits} bits, .{kind} needs {bits}")
        return lambda w, m, v: w.put(index, m, w.whole(v).astype(store))

    def assign(self, operand: Operand, kind: str, compute: Getter, *, loose: bool = False) -> Op:
        """The op that stores what `compute` gives."""
        if isinstance(operand, Register) and operand.bits == (
            1 if kind == "pred" else 8 * type_bytes(kind)
        ):
            index, store = operand.index, _STORE[operand.bits]

            def direct(w: Warp, mask: Mask) -> None:
                value = compute(w)
                if value.ndim == 0:
                    value = np.full(w.size, value)
                if mask is None:
                    w.regs[index] = value.view(store)
                else:
                    w.put(index, mask, value.view(store))

            return direct
        put = self.dst(operand, kind, loose=loose)

        def op(w: Warp, mask: Mask) -> None:
            put(w, mask, compute(w))

        return op

    def label(self, operand: Operand) -> int:
        if not isinstance(operand, Symbol) or operand.name not in self.kernel.labels:
            raise InvalidOperand(f"no such label: {operand}")
        return self.kernel.labels[operand.name]

    def pair(self, operand: Operand) -> tuple[Operand, Operand]:
        """The two results of ``a|b``; a lone result has no companion."""
        return (
            (operand.first, operand.second) if isinstance(operand, Alternative) else (operand, None)
        )


def _register(operand: Register, kind: str, dtype: type[np.generic], loose: bool) -> Getter:
    index = operand.index
    bits = 1 if kind == "pred" else 8 * type_bytes(kind)
    if kind == "pred" and operand.bits == 1:
        if operand.negated:
            return lambda w: ~w.regs[index].view(np.bool_)
        return lambda w: w.regs[index].view(np.bool_)
    if operand.negated:
        raise InvalidOperand("'!' applies to predicates only")
    if operand.bits == bits:
        return lambda w: w.regs[index].view(dtype)
    if not loose or operand.bits < bits or 1 in (operand.bits, bits):
        raise InvalidOperand(f"{operand.name} has {operand.bits} bits, .{kind} needs {bits}")
    store = _STORE[bits]
    return lambda w: w.regs[index].astype(store).view(dtype)


def immediate(operand: Immediate, kind: str) -> Array:
    """A constant as a scalar of the type's NumPy dtype."""
    dtype, value = NUMPY[kind], operand.value
    if kind == "pred":
        return np.asarray(bool(value))[()]
    if kind in ("f32", "f64"):
        if isinstance(value, int) and kind == "f32":
            # `mov.f32 %f, 0` does not exist, but `mov.b32` constants reach float operands as bits.
            return np.asarray(value & 0xFFFFFFFF).astype(np.uint32).view(np.float32)[()]
        return np.asarray(value).astype(dtype)[()]
    if isinstance(value, float):
        if kind in ("b32", "u32", "s32"):
            return np.asarray(value).astype(np.float32).view(dtype)[()]
        if kind in ("b64", "u64", "s64"):
            return np.asarray(value).astype(np.float64).view(dtype)[()]
        raise InvalidOperand(f"the constant {value} is no .{kind}")
    bits = 8 * type_bytes(kind)
    raw = np.asarray(value & (1 << bits) - 1, np.uint64).astype(f"u{bits // 8}")
    return raw.view(dtype)[()]
