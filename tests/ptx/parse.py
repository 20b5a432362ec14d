"""PTX text to `Module`: what ``nvcc -ptx`` and NVRTC write, and what one writes by hand in a test.

The grammar is small: directives, labels and instructions. Everything that only serves debuggers and
assemblers (``.loc``, ``.file``, ``.pragma``, ``.section``, performance hints) is skipped. Registers
are numbered here, once, so that nothing after this file looks a name up.
"""

from __future__ import annotations

import struct

from .errors import ParseError
from .program import (
    Address,
    Alternative,
    Immediate,
    Instruction,
    Kernel,
    Module,
    Operand,
    Register,
    Symbol,
    Variable,
    Vector,
    type_bytes,
)
from .tokens import number, tokens

__all__ = ["parse"]

# Directives inside a body or a module that carry nothing the machine needs, up to the end of the
# statement.
_IGNORED = {".pragma", ".alias"}


def parse(text: str) -> Module:
    """Read PTX.

    Parameters
    ----------
    text : str
        A whole PTX module.

    Returns
    -------
    Module

    Raises
    ------
    ParseError
        With the line, where the text is not understood.
    """
    return _Parser(text).module()


class _Parser:
    """Recursive descent over the token list; one object reads one module."""

    def __init__(self, text: str) -> None:
        self.tokens = tokens(text)
        self.at = 0
        self.kernel = Kernel("")
        self.scopes: list[dict[str, Register | str]] = []
        self.scope_count = 0

    # -- tokens ----------------------------------------------------------------------------------
    def peek(self) -> str:
        return self.tokens[self.at][1]

    def kind(self) -> str:
        return self.tokens[self.at][0]

    def line(self) -> int:
        return self.tokens[self.at][2]

    def take(self) -> str:
        text = self.tokens[self.at][1]
        self.at += 1
        return text

    def accept(self, text: str) -> bool:
        if self.peek() == text:
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.fail(f"expected {text!r}, found {self.peek()!r}")

    def fail(self, message: str) -> ParseError:
        return ParseError(f"line {self.line()}: {message}")

    def integer(self) -> int:
        sign = -1 if self.accept("-") else 1
        value = number(self.take())
        if not isinstance(value, int):
            raise self.fail("expected an integer")
        return sign * value

    # -- module ----------------------------------------------------------------------------------
    def module(self) -> Module:
        kernels: dict[str, Kernel] = {}
        variables: list[Variable] = []
        target = version = ""
        while self.kind() != "end":
            word = self.peek()
            if word == ".version":
                self.take()
                version = self.take()
            elif word == ".target":
                self.take()
                target = self.take()
                while self.accept(","):
                    self.take()
            elif word == ".address_size":
                self.take()
                if self.integer() != 64:
                    raise self.fail("only 64-bit addresses are supported")
            elif word in (".visible", ".weak", ".extern", ".common"):
                # `extern` matters for shared memory only, where variable() recognises it by its
                # empty [].
                self.take()
            elif word == ".entry":
                kernel = self.entry()
                kernels[kernel.name] = kernel
            elif word == ".func":
                self.skip_function()
            elif word in (".global", ".const", ".shared"):
                variables += self.variable()
                self.expect(";")
            elif word in _IGNORED:
                self.skip_statement()
            else:
                raise self.fail(f"unexpected {word!r} at module level")
        return Module(kernels, variables, target, version)

    def skip_statement(self) -> None:
        while self.take() != ";":
            pass

    def skip_function(self) -> None:
        """Device functions are inlined by the compiler in all kernels of interest; a call to one is
        refused.
        """
        depth = 0
        while True:
            word = self.take()
            depth += (word == "{") - (word == "}")
            if depth == 0 and word in (";", "}"):
                return

    def variable(self) -> list[Variable]:
        """``.space [.align n] .type name[dims] [= init] {, name...}`` without the semicolon."""
        space = self.take()[1:]
        align, kind = 0, ""
        while self.peek().startswith("."):
            word = self.take()
            if word == ".align":
                align = self.integer()
            elif word == ".ptr":
                # `.ptr [.space] [.align n]` describes what a parameter points to; the pointer
                # itself is kind.
                while self.peek() in (".global", ".shared", ".const", ".local"):
                    self.take()
                if self.accept(".align"):
                    self.integer()
            elif word in (".v2", ".v4"):
                raise self.fail("vector variables are not supported")
            elif word not in (".managed", ".attribute"):
                kind = word[1:]
        width = type_bytes(kind)
        found = []
        while True:
            name = self.take()
            count, extern = 1, False
            while self.accept("["):
                if self.accept("]"):
                    extern = True
                else:
                    count *= self.integer()
                    self.expect("]")
            data = self.initialiser(kind, width) if self.accept("=") else None
            if extern and data is not None:
                count, extern = len(data) // width, False
            if data is not None:
                data = data.ljust(count * width, b"\0")
            size = 0 if extern else count * width
            found.append(Variable(name, space, size, max(align, width), extern, data))
            if space == "param" or not self.accept(","):
                return found

    def initialiser(self, kind: str, width: int) -> bytes:
        values: list[int | float] = []
        depth = 0
        while True:
            if self.accept("{"):
                depth += 1
                if depth > 1:  # an inner list would be filled up to its row; compilers write none
                    raise self.fail("initialisers are flat lists")
            elif self.accept("}"):
                depth -= 1
            elif not self.accept(","):
                sign = -1 if self.accept("-") else 1
                if self.kind() != "number":
                    raise self.fail("only numeric initialisers are supported")
                values.append(sign * number(self.take()))
            if depth == 0:
                break
        if kind in ("f32", "f64"):
            return struct.pack(f"<{len(values)}{'f' if kind == 'f32' else 'd'}", *values)
        mask = (1 << 8 * width) - 1
        return b"".join((int(v) & mask).to_bytes(width, "little") for v in values)

    # -- kernel ----------------------------------------------------------------------------------
    def entry(self) -> Kernel:
        self.expect(".entry")
        kernel = self.kernel = Kernel(self.take())
        if self.accept("("):
            while not self.accept(")"):
                kernel.params += self.variable()
                self.accept(",")
        while self.peek() != "{":
            word = self.take()
            if word in (".maxntid", ".reqntid"):
                sizes = [self.integer()]
                while self.accept(","):
                    sizes.append(self.integer())
                kernel.max_threads = 1
                for size in sizes:
                    kernel.max_threads *= size
                if word == ".reqntid":
                    kernel.required_block = tuple(sizes)
            elif word == ".reqnctapercluster":
                kernel.cluster = self.integer()
                while self.accept(","):
                    if self.integer() != 1:
                        raise self.fail("clusters are in a row")
        self.scopes = []
        self.block()
        return kernel

    def block(self) -> None:
        """A brace-enclosed scope: inline assembly may declare the same names again in each."""
        self.expect("{")
        self.scope_count += 1
        names: dict[str, Register | str] = {}
        self.scopes.append(names)
        self.hoist_labels(names)
        while not self.accept("}"):
            self.statement()
        self.scopes.pop()

    def hoist_labels(self, names: dict[str, Register | str]) -> None:
        """Labels of this scope, ahead of their first use, under a name no other scope has."""
        depth, at = 0, self.at
        while depth >= 0:
            kind, text, _ = self.tokens[at]
            if kind == "end":
                raise self.fail("a block is not closed")
            # A brace after a comma, a bracket or a mnemonic is a vector; counting it does no harm.
            depth += (text == "{") - (text == "}")
            starts = self.tokens[at - 1][1] in ("{", "}", ";", ":")
            if depth == 0 and kind == "word" and starts and self.tokens[at + 1][1] == ":":
                names[text] = text if len(self.scopes) == 1 else f"{text}@{self.scope_count}"
            at += 1

    def lookup(self, name: str) -> Register | str | None:
        for names in reversed(self.scopes):
            if name in names:
                return names[name]
        return None

    def statement(self) -> None:
        word, kernel = self.peek(), self.kernel
        if word == "{":
            self.block()
        elif word == ".reg":
            self.registers()
        elif word in (".shared", ".local", ".param"):
            # `.param` in a body belongs to a call, which decoding refuses.
            kernel.variables += self.variable()
            self.expect(";")
        elif word in _IGNORED:
            self.skip_statement()
        elif word == ";":
            self.take()
        elif self.kind() == "word" and self.tokens[self.at + 1][1] == ":":
            label = self.lookup(self.take())
            self.expect(":")
            if self.peek() == ".branchtargets":
                self.take()
                kernel.tables[str(label)] = tuple(self.target_list())
            else:
                kernel.labels[str(label)] = len(kernel.code)
        else:
            kernel.code.append(self.instruction())

    def target_list(self) -> list[str]:
        names = [str(self.lookup(self.take()))]
        while self.accept(","):
            names.append(str(self.lookup(self.take())))
        self.expect(";")
        return names

    def registers(self) -> None:
        self.expect(".reg")
        kind = self.take()[1:]
        bits = 1 if kind == "pred" else 8 * type_bytes(kind)
        while True:
            name = self.take()
            if self.accept("<"):
                count = self.integer()
                self.expect(">")
                for i in range(count):
                    self.declare(f"{name}{i}", bits)
            else:
                self.declare(name, bits)
            if not self.accept(","):
                break
        self.expect(";")

    def declare(self, name: str, bits: int) -> None:
        register = Register(name, len(self.kernel.registers), bits)
        self.kernel.registers.append(register)
        self.scopes[-1][name] = register

    def instruction(self) -> Instruction:
        line = self.line()
        guard: Register | None = None
        if self.accept("@"):
            operand = self.operand()
            if not isinstance(operand, Register) or operand.bits != 1:
                raise self.fail("a guard must be a predicate register")
            guard = operand
        if self.kind() != "word":
            raise self.fail(f"expected an instruction, found {self.peek()!r}")
        opcode, *modifiers = self.take().split(".")
        operands: list[Operand] = []
        while not self.accept(";"):
            operands.append(self.operand())
            if not self.accept(",") and self.peek() != ";":
                raise self.fail(f"expected ',' or ';', found {self.peek()!r}")
        return Instruction(opcode, tuple(modifiers), tuple(operands), guard, line)

    def operand(self) -> Operand:
        operand = self.single()
        return Alternative(operand, self.single()) if self.accept("|") else operand

    def single(self) -> Operand:
        if self.accept("{"):
            return Vector(self.items("}"))
        if self.accept("("):
            return Vector(self.items(")"))
        if self.accept("["):
            return self.address()
        if self.accept("!"):
            register = self.single()
            if not isinstance(register, Register):
                raise self.fail("'!' needs a predicate register")
            return Register(register.name, register.index, register.bits, True)
        if self.peek() == "-" or self.kind() == "number":
            sign = -1 if self.accept("-") else 1
            return Immediate(sign * number(self.take()))
        if self.kind() != "word":
            raise self.fail(f"expected an operand, found {self.peek()!r}")
        name = self.take()
        if name == "_":
            return None
        found = self.lookup(name)
        if isinstance(found, Register):
            return found
        return Symbol(found or name)

    def items(self, close: str) -> tuple[Operand, ...]:
        items: list[Operand] = []
        while not self.accept(close):
            items.append(self.operand())
            self.accept(",")
        return tuple(items)

    def address(self) -> Address:
        base: Register | Symbol | None = None
        offset = 0
        sign = 1
        coordinates: tuple[Operand, ...] = ()
        while not self.accept("]"):
            if self.accept("+"):
                continue
            if self.accept("-"):
                sign = -sign
                continue
            if base is not None and self.accept(","):
                self.expect("{")
                coordinates = self.items("}")
                continue
            operand = self.single()
            if isinstance(operand, Immediate) and isinstance(operand.value, int):
                offset += sign * operand.value
            elif isinstance(operand, (Register, Symbol)) and base is None:
                base = operand
            else:
                raise self.fail("an address is [register or variable + integer]")
            sign = 1
        return Address(base, offset, coordinates)
