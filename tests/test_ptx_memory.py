"""Loads and stores in every state space, parameters, bounds, alignment, initialisation."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from ptx import (
    Interpreter,
    LaunchError,
    Misaligned,
    OutOfBounds,
    UninitialisedRead,
    UnknownOpcode,
)
from ptx.snippets import INOUT, kernel, pointers, run, words


# -- global memory -------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("kind", "bits"),
    [
        *[(kind, 32) for kind in ("b8", "u8", "s8", "u16", "s16", "u32", "f32")],
        *[(kind, 64) for kind in ("s8", "u16", "s32", "b64", "f64")],
        ("b16", 16),
    ],
)
def test_loads_extend_and_stores_cut(kind: str, bits: int) -> None:
    size = int(kind[1:]) // 8
    register = {16: "%h0", 32: "%r0", 64: "%rd2"}[bits]
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{size}")
    x = np.random.default_rng(1).integers(0, 256, 64 * size).astype(np.uint8).view(dtype)
    wide = np.zeros(64, f"u{bits // 8}")
    body = f"""{pointers(size)}
        ld.param.u64 %rd1, [y]; mad.wide.u32 %rd1, %gid, {bits // 8}, %rd1;
        ld.global.{kind} {register}, [%rd0]; st.global.b{bits} [%rd1], {register};"""
    run(body, x, wide, threads=64)
    assert (wide == x.astype(np.int64 if kind[0] == "s" else dtype).astype(wide.dtype)).all()
    back = np.zeros(64, dtype)
    body = f"""{pointers(bits // 8)}
        ld.param.u64 %rd1, [y]; mad.wide.u32 %rd1, %gid, {size}, %rd1;
        ld.global.b{bits} {register}, [%rd0]; st.global.{kind} [%rd1], {register};"""
    run(body, wide, back, threads=64)
    assert (back == x).all()


@pytest.mark.parametrize(
    ("count", "kind"), [(2, "u32"), (4, "u32"), (2, "u64"), (4, "u16"), (4, "u8")]
)
def test_vectors(count: int, kind: str) -> None:
    """A vector moves whole; its registers are written in reverse here."""
    size = int(kind[1:]) // 8
    prefix = {1: "%r", 2: "%h", 4: "%r", 8: "%rd1"}[size]
    names = [f"{prefix}{i}" for i in range(count)]
    x = words(32 * count, np.dtype(f"u{size}").type)
    y = np.zeros_like(x)
    body = f"""{pointers(size * count)}
        ld.global.v{count}.{kind} {{{", ".join(names)}}}, [%rd0];
        st.global.v{count}.{kind} [%rd1], {{{", ".join(names[::-1])}}};"""
    run(body, x, y)
    assert (y.reshape(32, count) == x.reshape(32, count)[:, ::-1]).all()


def test_qualifiers_that_change_nothing_are_read() -> None:
    x, y = words(32), np.zeros(32, np.uint32)
    for load, store in (
        ("ld.global.nc.L1::no_allocate.L2::128B.u32", "st.global.cs.u32"),
        ("ld.global.nc.u32", "st.global.cg.u32"),
        ("ld.volatile.global.u32", "st.volatile.global.u32"),
        ("ld.relaxed.gpu.global.u32", "st.relaxed.gpu.global.u32"),
        ("ld.acquire.gpu.global.u32", "st.release.gpu.global.u32"),
        ("ld.u32", "st.u32"),
        ("ld.global.L1::evict_last.u32", "st.wb.global.u32"),
    ):
        y[:] = 0
        body = f"{pointers(4)} prefetch.global.L2 [%rd0]; {load} %r0, [%rd0]; "
        run(body + f"{store} [%rd1], %r0;", x, y)
        assert (y == x).all()
    with pytest.raises(UnknownOpcode, match="sideways"):
        run("ld.global.sideways.u32 %r0, [%rd0];", x, y)


@pytest.mark.parametrize("access", ["ld.global.u32 %r0, [{}];", "st.global.u32 [{}], %r0;"])
@pytest.mark.parametrize("offset", [-4, 128, 1 << 20, 1 << 40, -(1 << 33)])
def test_an_access_must_lie_inside_one_allocation(access: str, offset: int) -> None:
    body = "ld.param.u64 %rd0, [x]; mov.u32 %r0, 1;"
    with pytest.raises(OutOfBounds, match="4 bytes at 0x"):
        run(body + access.format(f"%rd0+{offset}"), words(32), words(32))


def test_bounds_are_exact_to_the_byte() -> None:
    x = words(31, np.uint8)
    y = np.zeros(31, np.uint8)
    body = f"""{pointers(1)}
        ld.global.u8 %r0, [%rd0]; st.global.u8 [%rd1], %r0;"""
    run(body, x, y, threads=31)
    assert (y == x).all()
    with pytest.raises(OutOfBounds, match="x has 31 bytes, this is byte 28"):
        run("ld.param.u64 %rd0, [x]; ld.global.u32 %r0, [%rd0+28];", x, y)


def test_the_error_says_where() -> None:
    x, y = words(40), np.zeros(64, np.uint32)
    body = f"{pointers(4)}\nld.global.u32 %r0, [%rd0]; st.global.u32 [%rd1], %r0;"
    where = r"this is byte 160\n.*ld\.global\.u32; warp 0, block \(1, 0, 0\), thread 8"
    with pytest.raises(OutOfBounds, match=where):
        run(body, x, y, threads=32, grid=2)


def test_inactive_threads_may_point_anywhere() -> None:
    x, y = words(20), np.zeros(32, np.uint32)
    body = f"""{pointers(4)}
        setp.lt.u32 %p0, %id, 20;
        @%p0 ld.global.u32 %r0, [%rd0];
        @%p0 st.global.u32 [%rd1], %r0;"""
    run(body, x, y)
    assert (y[:20] == x).all()
    assert (y[20:] == 0).all()


def test_threads_may_use_different_buffers() -> None:
    x, y = words(32), words(32) + 7
    before = x.copy(), y.copy()
    body = f"""{pointers(4)}
        and.b32 %r1, %id, 1; setp.eq.u32 %p0, %r1, 1;
        selp.b64 %rd2, %rd0, %rd1, %p0;
        ld.global.u32 %r0, [%rd2]; add.u32 %r0, %r0, 1; st.global.u32 [%rd2], %r0;"""
    run(body, x, y)
    odd = np.arange(32) % 2 == 1
    assert (x == before[0] + odd).all()
    assert (y == before[1] + ~odd).all()


@pytest.mark.parametrize("kind", ["u16", "u32", "u64", "v2.u32", "v4.u32"])
def test_misalignment(kind: str) -> None:
    registers = {"v2.u32": "{%r0, %r1}", "v4.u32": "{%r0, %r1, %r2, %r3}", "u64": "%rd2"}
    size = {"u16": 2, "u32": 4, "u64": 8, "v2.u32": 8, "v4.u32": 16}[kind]
    target = registers.get(kind, "%r0")
    body = f"ld.param.u64 %rd0, [x]; ld.global.{kind} {target}, [%rd0+{size // 2}];"
    with pytest.raises(Misaligned, match=f"multiple of {size}"):
        run(body, words(64), words(64))


@pytest.mark.parametrize("read", [16, 17])
def test_uninitialised_buffers(read: int) -> None:
    """Threads below 16 write a word; reading one more is an error."""
    body = f"""{pointers(4)}
        setp.lt.u32 %p0, %id, 16; @%p0 st.global.u32 [%rd0], %id;
        setp.lt.u32 %p1, %id, {read};
        mov.u32 %r0, 9; @%p1 ld.global.u32 %r0, [%rd0];
        st.global.u32 [%rd1], %r0;"""
    machine = Interpreter(kernel(body, params=INOUT))
    fresh = machine.memory.to_device(np.zeros(32, np.uint32), initialised=False, name="fresh")
    out = np.zeros(32, np.uint32)
    if read > 16:
        with pytest.raises(UninitialisedRead, match=r"fresh(.|\n)*thread 16"):
            machine.launch("k", 1, 32, [fresh, out])
        return
    machine.launch("k", 1, 32, [fresh, out])
    assert (out == np.where(np.arange(32) < 16, np.arange(32), 9)).all()


def test_buffers_live_between_launches() -> None:
    text = kernel(
        "ld.param.u64 %rd0, [x]; mad.wide.u32 %rd0, %gid, 4, %rd0;"
        "ld.global.u32 %r0, [%rd0]; ld.param.u32 %r1, [n]; add.u32 %r0, %r0, %r1;"
        "st.global.u32 [%rd0], %r0;",
        params=".param .u64 x, .param .u32 n",
    )
    machine = Interpreter(text)
    address = machine.memory.to_device(np.arange(64, dtype=np.uint32))
    machine.launch("k", 2, 32, [address, 5])
    machine.launch("k", 1, 32, [address + 128, 100])
    got = machine.memory.to_host(address, (64,), np.uint32)
    assert (got == np.arange(64) + 5 + 100 * (np.arange(64) >= 32)).all()
    machine.memory.free(address)
    with pytest.raises(OutOfBounds):
        machine.launch("k", 1, 32, [address, 1])
    with pytest.raises(OutOfBounds):
        machine.memory.to_host(address, (64,), np.uint32)


# -- parameters and module variables -------------------------------------------------------------
def test_structs_by_value_and_every_scalar() -> None:
    text = kernel(
        """
        ld.param.u64 %rd0, [s]; ld.param.u32 %r0, [s+8]; ld.param.f32 %f0, [s+12];
        ld.param.s16 %r1, [t]; ld.param.f64 %fd0, [u]; ld.param.u8 %r2, [v];
        mov.b64 %rd3, s; ld.param.u32 %r6, [%rd3+8];
        cvta.param.u64 %rd4, %rd3; ld.u32 %r7, [%rd4+8];
        cvt.rzi.s32.f32 %r3, %f0; cvt.rzi.s32.f64 %r4, %fd0;
        mad.wide.u32 %rd1, %id, 4, %rd0;
        setp.eq.u32 %p0, %id, 0; selp.u32 %r5, %r0, %r1, %p0;
        setp.eq.u32 %p0, %id, 2; selp.u32 %r5, %r2, %r5, %p0;
        setp.eq.u32 %p0, %id, 3; selp.u32 %r5, %r3, %r5, %p0;
        setp.eq.u32 %p0, %id, 4; selp.u32 %r5, %r4, %r5, %p0;
        setp.eq.u32 %p0, %id, 5; selp.u32 %r5, %r6, %r5, %p0;
        setp.eq.u32 %p0, %id, 6; selp.u32 %r5, %r7, %r5, %p0;
        st.global.u32 [%rd1], %r5;
        """,
        params=".param .align 8 .b8 s[16], .param .u16 t, .param .f64 u, .param .u8 v",
    )
    machine = Interpreter(text)
    out = machine.memory.to_device(np.zeros(32, np.int32))
    packed = struct.pack("<Qif", out, 77, 2.5)
    machine.launch("k", 1, 32, [packed, np.int16(-3), 4.75, 200])
    got = machine.memory.to_host(out, 32, np.int32)
    assert got[:7].tolist() == [77, -3, 200, 2, 4, 77, 77]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([1], "takes 2 arguments"),
        ([1 << 32, 0], "does not fit"),
        ([np.int64(1), 0], "has 4 bytes, the argument 8"),
        ([b"abc", 0], "has 4 bytes, the argument 3"),
        (["one", 0], "cannot pass a str"),
    ],
)
def test_arguments_are_checked(args: list[object], message: str) -> None:
    machine = Interpreter(kernel("", params=".param .u32 n, .param .u64 x"))
    with pytest.raises(LaunchError, match=message):
        machine.launch("k", 1, 32, args)


def test_module_variables() -> None:
    text = kernel(
        """
        ld.param.u64 %rd0, [y]; mad.wide.u32 %rd0, %gid, 4, %rd0;
        and.b32 %r0, %id, 3;
        mov.u64 %rd1, table; mad.wide.u32 %rd1, %r0, 4, %rd1; ld.const.u32 %r1, [%rd1];
        ld.const.u32 %r2, [table+8];
        mov.u64 %rd2, halves; cvta.global.u64 %rd2, %rd2; ld.global.u16 %r3, [%rd2+2];
        ld.global.f32 %f0, [weights+4]; cvt.rzi.u32.f32 %r4, %f0;
        add.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; add.u32 %r1, %r1, %r4;
        st.global.u32 [%rd0], %r1;
        """,
        params=".param .u64 y",
        module=""".const .align 4 .u32 table[4] = {10, 20, 30, 40};
        .visible .global .align 2 .b16 halves[3] = {1, 1000};
        .global .align 4 .f32 weights[2] = {0f3F800000, 0f42C80000};""",
    )
    out = np.zeros(32, np.uint32)
    machine = Interpreter(text)
    machine.launch("k", 1, 32, [out])
    want = np.array([10, 20, 30, 40])[np.arange(32) % 4] + 30 + 1000 + 100
    assert (out == want).all()
    assert machine.memory.to_host(machine.symbol("halves"), 3, np.uint16).tolist() == [1, 1000, 0]
    writes = kernel("mov.u64 %rd0, c; st.global.u32 [%rd0], 1;", module=".const .u32 c = 5;")
    with pytest.raises(OutOfBounds, match="constant memory"):
        Interpreter(writes).launch("k", 1, 1, [])


# -- shared and local memory ---------------------------------------------------------------------
def test_shared_memory_static_and_dynamic() -> None:
    """Two static arrays and a dynamic one do not overlap."""
    text = kernel(
        """
        mov.u32 %r0, first; mov.u32 %r1, second; mov.u32 %r2, rest;
        mad.lo.u32 %r3, %id, 4, %r0; mad.lo.u32 %r4, %id, 8, %r1; mad.lo.u32 %r5, %id, 16, %r2;
        st.shared.u32 [%r3], %id;
        cvt.u64.u32 %rd0, %id; st.shared.u64 [%r4], %rd0;
        st.shared.v4.u32 [%r5], {%id, %id, %r0, %r2};
        bar.sync 0;
        xor.b32 %r6, %id, 31;
        mad.lo.u32 %r3, %r6, 4, %r0; mad.lo.u32 %r4, %r6, 8, %r1; mad.lo.u32 %r5, %r6, 16, %r2;
        ld.shared.u32 %r7, [%r3]; ld.shared.u64 %rd1, [%r4];
        ld.shared.v4.u32 {%r8, %r9, %r10, %r11}, [%r5];
        cvt.u32.u64 %r12, %rd1;
        add.u32 %r7, %r7, %r8; add.u32 %r7, %r7, %r9; add.u32 %r7, %r7, %r12;
        mov.u32 %r13, %dynamic_smem_size; mad.lo.u32 %r7, %r13, 1000, %r7;
        ld.param.u64 %rd2, [y]; mad.wide.u32 %rd2, %gid, 4, %rd2; st.global.u32 [%rd2], %r7;
        """,
        params=".param .u64 y",
        module=".extern .shared .align 128 .b8 rest[];",
        declare=".shared .align 4 .b8 first[128]; .shared .align 8 .b8 second[256];",
    )
    out = np.zeros(96, np.uint32)
    report = Interpreter(text).launch("k", 3, 32, [out], shared_bytes=512)
    assert (out == 4 * (31 - np.arange(96) % 32) + 512_000).all()
    assert report.shared_bytes == 384 + 512


@pytest.mark.parametrize(
    ("access", "error"),
    [
        ("ld.shared.u32 %r0, [s+128];", OutOfBounds),
        ("ld.shared.u32 %r0, [s+126];", (OutOfBounds, Misaligned)),
        ("ld.shared.u32 %r0, [s+2];", Misaligned),
        ("st.shared.v4.u32 [s+8], {%id, %id, %id, %id};", Misaligned),
        ("mov.u32 %r0, s; ld.shared.u32 %r1, [%r0+-4];", OutOfBounds),
        ("ld.shared.u32 %r0, [s];", UninitialisedRead),
        ("mov.u64 %rd0, 0x0100000000000080; ld.u32 %r0, [%rd0];", OutOfBounds),
        ("mov.u64 %rd0, 0x0900000000000080; ld.u32 %r0, [%rd0];", OutOfBounds),
        ("mov.u64 %rd0, 0; ld.global.u32 %r0, [%rd0];", OutOfBounds),
        ("ld.local.u32 %r0, [l+16];", OutOfBounds),
        ("st.local.u32 [l+1], %id;", Misaligned),
        ("ld.param.u32 %r0, [x+16];", OutOfBounds),
    ],
)
def test_misuse_of_shared_local_and_generic_memory(access: str, error: type) -> None:
    declare = ".shared .align 16 .b8 s[128]; .local .align 4 .b8 l[16];"
    with pytest.raises(error):
        run(access, words(4), words(4), threads=1, declare=declare)


def test_local_memory_belongs_to_a_thread() -> None:
    """Dynamically indexed arrays, also through generic addresses."""
    x, y = words(64), np.zeros(64, np.uint32)
    body = f"""{pointers(4)}
        ld.global.u32 %r0, [%rd0];
        and.b32 %r1, %id, 3;
        mov.u64 %rd2, l; cvta.local.u64 %rd3, %rd2;
        mad.wide.u32 %rd4, %r1, 4, %rd2; mad.wide.u32 %rd5, %r1, 4, %rd3;
        st.local.u32 [%rd4], %r0;
        ld.u32 %r2, [%rd5]; add.u32 %r2, %r2, 1; st.u32 [%rd5], %r2;
        ld.local.u32 %r3, [%rd4]; st.global.u32 [%rd1], %r3;"""
    run(body, x, y, threads=64, declare=".local .align 4 .b8 l[16];")
    assert (y == x + 1).all()


def test_generic_addresses_of_two_spaces_in_one_instruction() -> None:
    x, y = words(32), np.zeros(32, np.uint32)
    body = f"""{pointers(4)}
        mov.u32 %r0, s; mad.lo.u32 %r0, %id, 4, %r0; st.shared.u32 [%r0], %id;
        cvt.u64.u32 %rd2, %r0; cvta.shared.u64 %rd2, %rd2;
        and.b32 %r1, %id, 1; setp.eq.u32 %p0, %r1, 0; selp.b64 %rd3, %rd0, %rd2, %p0;
        ld.u32 %r2, [%rd3]; add.u32 %r2, %r2, 5; st.u32 [%rd3], %r2;
        ld.u32 %r3, [%rd3]; st.global.u32 [%rd1], %r3;"""
    before = x.copy()
    run(body, x, y, declare=".shared .align 4 .b8 s[128];")
    even = np.arange(32) % 2 == 0
    assert (y == np.where(even, before, np.arange(32)) + 5).all()
    assert (x == before + 5 * even).all()
