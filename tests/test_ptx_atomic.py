"""``atom`` and ``red`` against loops in lane order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ptx import Interpreter, UninitialisedRead, UnknownOpcode
from ptx.snippets import kernel, run, words

ATOMICS: dict[str, tuple[str, Callable[[int, int], int]]] = {
    "add": ("u32", lambda old, b: old + b),
    "min": ("u32", min),
    "max": ("s32", max),
    "and": ("b32", lambda old, b: old & b),
    "or": ("b32", lambda old, b: old | b),
    "xor": ("b64", lambda old, b: old ^ b),
    "exch": ("b32", lambda old, b: b),
    "inc": ("u32", lambda old, b: 0 if old >= b else old + 1),
    "dec": ("u32", lambda old, b: b if old == 0 or old > b else old - 1),
}


def atomic_kernel(name: str, kind: str, space: str) -> str:
    """Five cells, which every fifth thread shares; a shared-memory copy of them where asked."""
    size = int(kind[1:]) // 8
    b, r = f"b{8 * size}", "%rd1" if size == 8 else "%r1"

    def cell(parameter: str, index: str, register: str) -> str:
        load = f"ld.param.u64 {register}, [{parameter}];"
        return f"{load} mad.wide.u32 {register}, {index}, {size}, {register};"

    shared = f"mov.u32 %r2, s; mad.lo.u32 %r2, {{}}, {size}, %r2; cvt.u64.u32 %rd0, %r2;"
    if space == "global":
        before, place, after = "", cell("cells", "%r0", "%rd0"), ""
    else:
        place = shared.format("%r0")
        if space == "generic":
            place += "cvta.shared.u64 %rd0, %rd0;"
        own = f"setp.lt.u32 %p0, %id, 5; {cell('cells', '%id', '%rd5')} {shared.format('%id')}"
        load, store = "@%p0 ld.{}.{} {}9, [{}];", "@%p0 st.{}.{} [{}], {}9;"
        before = own + load.format("global", b, r, "%rd5") + store.format("shared", b, "%r2", r)
        after = own + load.format("shared", b, r, "%r2") + store.format("global", b, "%rd5", r)
        before, after = f"{before} bar.sync 0;", f"bar.sync 0; {after}"
    dot = "" if space == "generic" else f".{space}"
    return kernel(
        f"""
        rem.u32 %r0, %id, 5;
        {before}
        {place}
        {cell("values", "%id", "%rd6")} ld.global.{b} {r}5, [%rd6];
        atom{dot}.{name}.{kind} {r}6, [%rd0], {r}5;
        {cell("olds", "%id", "%rd7")} st.global.{b} [%rd7], {r}6;
        {after}
        """,
        params=".param .u64 cells, .param .u64 values, .param .u64 olds",
        declare=".shared .align 8 .b8 s[64];",
    )


@pytest.mark.parametrize("name", ATOMICS)
@pytest.mark.parametrize("space", ["global", "shared", "generic"])
def test_atomics_take_turns(name: str, space: str) -> None:
    """Several threads an address, against a loop in lane order."""
    kind, update = ATOMICS[name]
    dtype = np.dtype(f"{'i' if kind[0] == 's' else 'u'}{int(kind[1:]) // 8}")
    state = np.array([3, 250, 0, 77, 9], dtype)
    values, olds = words(32, dtype) % dtype.type(97), np.zeros(32, dtype)
    cells, want = state.copy(), []
    for i, v in enumerate(values):
        want.append(int(cells[i % 5]))
        cells[i % 5] = update(int(cells[i % 5]), int(v))
    Interpreter(atomic_kernel(name, kind, space)).launch("k", 1, 32, [state, values, olds])
    assert (state == cells).all()
    assert olds.tolist() == want


def test_compare_and_swap() -> None:
    """One winner an address."""
    cells, olds = np.zeros(4, np.uint32), np.zeros(64, np.uint32)
    body = """
        and.b32 %r0, %id, 3; ld.param.u64 %rd0, [x]; mad.wide.u32 %rd0, %r0, 4, %rd0;
        add.u32 %r1, %gid, 1; atom.global.cas.b32 %r2, [%rd0], 0, %r1;
        ld.param.u64 %rd1, [y]; mad.wide.u32 %rd1, %gid, 4, %rd1; st.global.u32 [%rd1], %r2;"""
    run(body, cells, olds, threads=64)
    assert cells.tolist() == [1, 2, 3, 4]
    assert (olds[:4] == 0).all()
    assert (olds[4:] == np.arange(60) % 4 + 1).all()


def test_reductions_without_result() -> None:
    x, y = np.zeros(2, np.float32), np.zeros(4, np.float16)
    body = """
        ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [y];
        cvt.rn.f32.u32 %f0, %id; red.global.add.f32 [%rd0+4], %f0;
        mov.b32 %r0, 0x40003C00; red.global.add.noftz.f16x2 [%rd1+4], %r0;
        mov.b16 %h0, 0x3C00; atom.global.add.noftz.f16 %h1, [%rd1], %h0;"""
    run(body, x, y)
    assert x.tolist() == [0, 31 * 16]
    assert y.tolist() == [32, 0, 32, 64]


def test_atomics_on_shared_memory_nobody_wrote() -> None:
    with pytest.raises(UninitialisedRead, match="atomic"):
        run("red.shared.add.u32 [s], 1;", words(1), words(1), declare=".shared .b32 s;")


def test_atomics_of_unknown_kind() -> None:
    for text in ("red.global.mul.u32 [%rd0], 1;", "red.global.add.b32 [%rd0], 1;"):
        with pytest.raises(UnknownOpcode):
            run(text, words(1), words(1))
