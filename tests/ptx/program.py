"""What PTX text becomes: modules, kernels, instructions and their operands, as plain records."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from .errors import ParseError

if TYPE_CHECKING:
    from .decode import Code

__all__ = [
    "Address",
    "Alternative",
    "Immediate",
    "Instruction",
    "Kernel",
    "Module",
    "Operand",
    "Register",
    "Symbol",
    "Variable",
    "Vector",
    "type_bytes",
]


@dataclass(frozen=True, slots=True)
class Register:
    """A virtual register: its place in the register file and its bits (1 for a predicate)."""

    name: str
    index: int
    bits: int
    negated: bool = False


@dataclass(frozen=True, slots=True)
class Symbol:
    """A variable, a label or a special register, by name."""

    name: str


@dataclass(frozen=True, slots=True)
class Immediate:
    """A constant; `value` is a float only where the text wrote one."""

    value: int | float


@dataclass(frozen=True, slots=True)
class Address:
    """``[base + offset]``; no base means an absolute address. In front of a tensor's coordinates,
    ``[base, {x, y}]``, the address of its map.
    """

    base: Register | Symbol | None
    offset: int
    coordinates: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True)
class Vector:
    """``{a, b, ...}``; None stands for the sink ``_``."""

    items: tuple[Operand, ...]


@dataclass(frozen=True, slots=True)
class Alternative:
    """``a|b``: a result and its companion predicate."""

    first: Operand
    second: Operand


Operand = Register | Symbol | Immediate | Address | Vector | Alternative | None


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction: ``@guard opcode.modifiers operands;``."""

    opcode: str
    modifiers: tuple[str, ...]
    operands: tuple[Operand, ...]
    guard: Register | None
    line: int

    @property
    def mnemonic(self) -> str:
        return ".".join((self.opcode, *self.modifiers))


@dataclass(frozen=True, slots=True)
class Variable:
    """A ``.param``, ``.shared``, ``.local``, ``.global`` or ``.const`` variable.

    `size` is in bytes; 0 with `extern` means "as large as the launch says".
    """

    name: str
    space: str
    size: int
    align: int
    extern: bool = False
    data: bytes | None = None


@dataclass(slots=True)
class Kernel:
    """One ``.entry``: instructions with resolved registers, labels as instruction numbers."""

    name: str
    params: list[Variable] = field(default_factory=list)
    variables: list[Variable] = field(default_factory=list)
    registers: list[Register] = field(default_factory=list)
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)
    tables: dict[str, tuple[str, ...]] = field(default_factory=dict)
    max_threads: int | None = None
    required_block: tuple[int, ...] | None = None
    cluster: int = 1
    """Blocks of a cluster."""


@dataclass(slots=True)
class Module:
    """A parsed PTX file."""

    kernels: dict[str, Kernel]
    variables: list[Variable]
    target: str
    version: str
    # Decoded kernels, kept by the interpreters that run the module.
    prepared: dict[object, Code] = field(default_factory=dict, repr=False)


@cache
def type_bytes(name: str) -> int:
    """Size in bytes of a PTX scalar type such as ``u32``, ``f16x2`` or ``b128``; predicates count
    1.
    """
    if name == "pred":
        return 1
    if match := re.fullmatch(r"(?:[busf]|bf)(\d+)(?:x2)?", name):
        bits = int(match[1]) * (2 if name.endswith("x2") else 1)
        return bits // 8
    raise ParseError(f"unknown type .{name}")
