"""PTX text to records, and the refusal of what is not understood."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from ptx import Interpreter, InvalidOperand, ParseError, UnknownOpcode, parse
from ptx.program import Address, Alternative, Immediate, Register, Symbol, Vector
from ptx.snippets import kernel

HEAD = ".version 9.0\n.target sm_90a, texmode_independent\n.address_size 64\n"


def code(body: str) -> list:
    """Instructions of a body, without the frame's."""
    return parse(kernel(body)).kernels["k"].code[4:-1]


def test_a_module() -> None:
    module = parse(
        HEAD
        + """
        // a comment with { braces }
        .file 1 "kernel.cu"
        .global .align 16 .b8 table[4][2] = {1, 2, 3};
        .const .align 8 .f64 pi = 0d400921FB54442D18;
        .extern .shared .align 128 .b8 ring[];
        .shared .align 8 .b64 bars[4];
        .func (.param .b32 r) helper(.param .b32 x) { ret; }
        .extern .func (.param .b32 r) vprintf (.param .b64 a, .param .b64 b);
        .section .debug_info { .b8 1, 2 }
        .visible .entry first(.param .u64 .ptr .global .align 16 p, .param .align 8 .b8 s[24])
            .maxntid 128, 2, 1
            .minnctapersm 2
        { .pragma "nounroll"; /* nothing
            here */
            .loc 1 2 3
            ret; }
        .weak .entry second() .reqntid 32 { bra $L1; $L1: ret; }
        """
    )
    assert (module.version, module.target) == ("9.0", "sm_90a")
    assert list(module.kernels) == ["first", "second"]
    first, second = module.kernels.values()
    assert [(p.name, p.size, p.align) for p in first.params] == [("p", 8, 8), ("s", 24, 8)]
    assert (first.max_threads, second.required_block) == (256, (32,))
    assert second.labels == {"$L1": 1}
    variables = {v.name: v for v in module.variables}
    assert variables["table"].data == bytes([1, 2, 3, 0, 0, 0, 0, 0])
    assert np.frombuffer(variables["pi"].data or b"", np.float64)[0] == math.pi
    assert (variables["ring"].extern, variables["ring"].align) == (True, 128)
    assert (variables["bars"].size, variables["bars"].align) == (32, 8)


def test_operands() -> None:
    (mov, load, vector, pair, none) = code(
        """mov.b32 %r1, 0fBF800000;
        ld.global.u32 %r2, [%rd1+-16];
        @!%p1 ld.shared.v4.u32 {%r1, _, %r3, %r4}, [s + 8];
        setp.lt.and.f32 %p1|%p2, %f1, %f2, !%p3;
        st.global.u32 [0x10], -5;"""
    )
    assert mov.operands[1] == Immediate(-1.0)
    assert isinstance(load.operands[1], Address)
    assert (load.operands[1].offset, load.mnemonic) == (-16, "ld.global.u32")
    assert isinstance(vector.guard, Register)
    assert vector.guard.negated
    assert isinstance(vector.operands[0], Vector)
    assert vector.operands[0].items[1] is None
    assert vector.operands[1] == Address(Symbol("s"), 8)
    assert isinstance(pair.operands[0], Alternative)
    assert isinstance(pair.operands[3], Register)
    assert pair.operands[3].negated
    assert none.operands == (Address(None, 16), Immediate(-5))


def test_names_of_inner_scopes_do_not_clash() -> None:
    """Inline assembly declares the same register and label in block after block."""
    text = kernel(
        """
        mov.u32 %r0, 0;
        { .reg .pred p; .reg .b32 t; setp.gt.u32 p, %id, 7; mov.u32 t, 1;
          @p bra over; add.u32 %r0, %r0, t; over: }
        { .reg .pred p; .reg .b64 t; setp.gt.u32 p, %id, 15; mov.u64 t, 100;
          @p bra over; cvt.u32.u64 %r1, t; add.u32 %r0, %r0, %r1; over: }
        ld.param.u64 %rd0, [y]; mad.wide.u32 %rd0, %id, 4, %rd0; st.global.u32 [%rd0], %r0;
        """,
        params=".param .u64 y",
    )
    out = np.zeros(32, np.uint32)
    Interpreter(text).launch("k", 1, 32, [out])
    t = np.arange(32)
    assert (out == (t <= 7) + 100 * (t <= 15)).all()


def test_lines_are_kept() -> None:
    text = "\n\n.loc 1 1 1\n/* two\nlines */\nadd.u32 %r1, %r1, 1;"
    assert code(text)[0].line == kernel(text)[: kernel(text).index("add.u32 %r1")].count("\n") + 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + ".entry k() { add.u32 %r1, %r2 }", "expected"),
        (HEAD + ".entry k() { ret;", "not closed"),
        (HEAD + ".entry k() { .reg .q32 %r1; }", "unknown type"),
        (HEAD + ".entry k() { ld.u32 %r1, [a b]; }", "an address is"),
        (HEAD + ".entry k() { @5 ret; }", "guard"),
        (HEAD + ".entry k() { mov.u32 %r1, `; }", "cannot read"),
        (HEAD + "ret;", "module level"),
        (HEAD + ".global .v2 .u32 x;", "vector variables"),
        (HEAD + ".global .u64 x = generic(y);", "numeric"),
        (HEAD + ".global .u8 x[2][2] = {{1, 2}, {3, 4}};", "flat"),
        (HEAD.replace("64", "32"), "64-bit"),
    ],
)
def test_what_is_not_ptx(text: str, message: str) -> None:
    with pytest.raises(ParseError, match=message):
        parse(text)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("frobnicate.u32 %r1, %r2;", UnknownOpcode, "frobnicate"),
        ("add.s128 %r1, %r2, %r3;", UnknownOpcode, "add.s128"),
        ("add.wrong.u32 %r1, %r2, %r3;", UnknownOpcode, "wrong"),
        ("call.uni helper, (%r1);", UnknownOpcode, "call"),
        (
            "tex.2d.v4.f32.f32 {%f1, %f2, %f3, %f4}, [t, {%f1, %f2}];",
            UnknownOpcode,
            "tex",
        ),
        ("tcgen05.fence::before_thread_sync;", UnknownOpcode, "tcgen05"),
        ("add.u32 %r1, %rd1, %r2;", InvalidOperand, "64 bits, .u32 needs 32"),
        ("add.u64 %rd1, %rd2, %r2;", InvalidOperand, "32 bits"),
        ("mov.u32 %r1, nothing;", InvalidOperand, "not declared"),
        ("add.u32 5, %r1, %r2;", InvalidOperand, "a register is expected"),
        ("bra nowhere;", InvalidOperand, "no such label"),
        ("ld.global.u32 %r1, %rd1;", InvalidOperand, "address in brackets"),
        ("ld.global.v4.u32 {%r1, %r2}, [%rd1];", InvalidOperand, "4 registers"),
        ("ld.global.v4.u64 {%rd1, %rd2, %rd3, %rd4}, [%rd1];", UnknownOpcode, "16 bytes"),
        ("ld.global.u32 %r1, [%h1];", InvalidOperand, "32 or 64 bits"),
        ("and.b32 %r1, %r2, 0f3F800000; add.u16 %h1, %h2, 0f3F800000;", InvalidOperand, "no .u16"),
        ("lop3.b32 %r1, %r2, %r3, %r4, 256;", InvalidOperand, "0 to 255"),
        ("mul.u32 %r1, %r2, %r3;", UnknownOpcode, ".lo, .hi or .wide"),
        ("setp.lt.b32 %p1, %r1, %r2;", UnknownOpcode, "not for .b32"),
        ("setp.lt.nor.u32 %p1, %r1, %r2, %p2;", UnknownOpcode, "nor"),
        ("setp.ltu.u32 %p1, %r1, %r2;", UnknownOpcode, "ltu"),
        ("cvt.rn.e4m3x2.f32 %h1, %f1, %f2;", UnknownOpcode, "e4m3x2"),
        ("cvta.shared.u32 %r1, %r2;", UnknownOpcode, "cvta"),
        ("cp.async.wait_group %r1;", InvalidOperand, "constant"),
        ("st.const.u32 [%rd1], %r1;", UnknownOpcode, "cannot be written"),
        ("ld.shared::cluster.u32 %r1, [%r2];", UnknownOpcode, "shared::cluster"),
        ("barrier.cluster.arrive.acquire;", UnknownOpcode, "cluster"),
        ("membar.everywhere;", UnknownOpcode, "everywhere"),
        ("testp.odd.f32 %p1, %f1;", UnknownOpcode, "odd"),
    ],
)
def test_an_instruction_that_is_not_known_is_an_error(
    body: str, error: type[Exception], message: str
) -> None:
    """Before anything runs, and with its line."""
    with pytest.raises(error, match=message) as caught:
        Interpreter(kernel(body)).prepare("k")
    if error is not ParseError:
        assert "k, line" in str(caught.value)


def test_the_checked_in_kernel_reads_as_written() -> None:
    text = (Path(__file__).parent / "ptx" / "data" / "gemm24.ptx").read_text()
    found = parse(text).kernels["gemm24"]
    assert found.max_threads == 128
    assert sum(i.opcode == "mma" for i in found.code) == text.count("mma.sp")
    assert len(found.code) == text.count(";") - text.count(".reg") - 1  # and the shared array
