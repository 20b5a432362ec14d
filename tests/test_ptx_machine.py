"""Grids, divergence, barriers, orders, reports, and the errors of a launch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ptx import (
    BarrierDeadlock,
    BarrierMisuse,
    Interpreter,
    InvalidOperand,
    KernelTrap,
    LaunchError,
    Livelock,
    OutOfBounds,
    RaceError,
    UninitialisedRegister,
    UnknownOpcode,
)
from ptx.machine import Order
from ptx.snippets import kernel, pointers, run, words

ORDERS: list[Order] = ["forward", "reverse", "random"]


# -- grids and special registers -------------------------------------------------------------------
def test_every_thread_of_a_three_dimensional_grid_runs_once() -> None:
    text = kernel(
        """
        mov.u32 %r0, %ctaid.x; mov.u32 %r1, %ctaid.y; mov.u32 %r2, %ctaid.z;
        mov.u32 %r3, %tid.x; mov.u32 %r4, %tid.y; mov.u32 %r5, %tid.z;
        mov.u32 %r6, %ntid.x; mov.u32 %r7, %ntid.y; mov.u32 %r8, %ntid.z;
        mov.u32 %r9, %nctaid.x; mov.u32 %r10, %nctaid.y;
        mad.lo.u32 %r11, %r2, %r10, %r1; mad.lo.u32 %r11, %r11, %r9, %r0;
        mad.lo.u32 %r12, %r5, %r7, %r4; mad.lo.u32 %r12, %r12, %r6, %r3;
        mul.lo.u32 %r13, %r6, %r7; mul.lo.u32 %r13, %r13, %r8;
        mad.lo.u32 %r14, %r11, %r13, %r12;
        ld.param.u64 %rd0, [y]; mad.wide.u32 %rd0, %r14, 4, %rd0;
        ld.global.u32 %r15, [%rd0]; add.u32 %r15, %r15, 1; st.global.u32 [%rd0], %r15;
        """,
        params=".param .u64 y",
    )
    out = np.zeros(3 * 2 * 5 * 4 * 3 * 2, np.uint32)
    report = Interpreter(text).launch("k", (3, 2, 5), (4, 3, 2), [out])
    assert (out == 1).all()
    assert (report.blocks, report.threads) == (30, 24)


@pytest.mark.parametrize("batch", [1, 3, 64])
@pytest.mark.parametrize("order", ORDERS)
def test_batches_and_orders_do_not_show(order: Order, batch: int) -> None:
    text = kernel(
        f"""{pointers(4)}
        ld.global.u32 %r0, [%rd0]; add.u32 %r0, %r0, %gid; st.global.u32 [%rd1], %r0;""",
        params=".param .u64 x, .param .u64 y",
    )
    x, y = words(10 * 96), np.zeros(10 * 96, np.uint32)
    Interpreter(text, order=order, seed=3, batch=batch).launch("k", 10, 96, [x, y])
    assert (y == x + np.arange(960)).all()


def test_special_registers() -> None:
    names = ["%laneid", "%warpid", "%nwarpid", "%lanemask_eq", "%lanemask_lt", "%lanemask_le"]
    names += ["%lanemask_gt", "%lanemask_ge", "%smid", "%total_smem_size", "WARP_SZ"]
    lane = np.arange(64, dtype=np.uint64) % 32
    bit = np.uint64(1) << lane
    want = [lane, np.arange(64) // 32, 2, bit, bit - 1, 2 * bit - 1]
    want += [(1 << 32) - 2 * bit, (1 << 32) - bit, 0, 0, 32]
    for name, values in zip(names, want, strict=True):
        y = np.zeros(64, np.uint32)
        run(f"{pointers(4)} mov.u32 %r0, {name}; st.global.u32 [%rd1], %r0;", y, y, threads=64)
        assert (y == np.asarray(values)).all(), name
    with pytest.raises(UnknownOpcode, match="%clock"):
        run("mov.u32 %r0, %clock;", 0, 0)


# -- divergence ------------------------------------------------------------------------------------
@given(st.lists(st.integers(0, 40), min_size=64, max_size=64))
def test_loops_with_different_trip_counts(counts: list[int]) -> None:
    """Collatz-like: nested loop and branch, each thread its own way."""
    x, y = np.array(counts, np.uint32), np.zeros(64, np.uint32)
    body = f"""{pointers(4)}
        ld.global.u32 %r0, [%rd0]; mov.u32 %r1, 0; mov.u32 %r2, 0;
        loop: setp.ge.u32 %p0, %r2, %r0; @%p0 bra done;
        and.b32 %r3, %r2, 1; setp.eq.u32 %p1, %r3, 0; @%p1 bra even;
        mad.lo.u32 %r1, %r1, 3, 1; bra.uni next;
        even: add.u32 %r1, %r1, %r2;
        inner: setp.lt.u32 %p2, %r1, 1000; @%p2 bra next; shr.u32 %r1, %r1, 1; bra inner;
        next: add.u32 %r2, %r2, 1; bra loop;
        done: st.global.u32 [%rd1], %r1;"""
    run(body, x, y, threads=32, grid=2)
    for n, got in zip(counts, y, strict=True):
        value = 0
        for i in range(n):
            if i % 2:
                value = value * 3 + 1
            else:
                value += i
                while value >= 1000:
                    value //= 2
        assert got == value & 0xFFFFFFFF


def test_predicated_instructions_and_early_exit() -> None:
    y = np.zeros(64, np.uint32)
    body = f"""{pointers(4)}
        mov.u32 %r0, 1; setp.lt.u32 %p0, %id, 10; setp.gt.u32 %p1, %id, 50;
        @%p0 mov.u32 %r0, 2; @%p1 exit; @!%p0 add.u32 %r0, %r0, 5;
        st.global.u32 [%rd1], %r0;"""
    run(body, y, y, threads=64)
    t = np.arange(64)
    assert (y == np.where(t < 10, 2, np.where(t > 50, 0, 6))).all()


def test_branch_tables() -> None:
    y = np.zeros(32, np.uint32)
    body = f"""{pointers(4)}
        and.b32 %r0, %id, 3;
        table: .branchtargets zero, one, two, one;
        brx.idx %r0, table;
        zero: mov.u32 %r1, 100; bra done;
        one: mov.u32 %r1, 200; bra done;
        two: mov.u32 %r1, 300;
        done: st.global.u32 [%rd1], %r1;"""
    run(body, y, y)
    assert (y == np.array([100, 200, 300, 200])[np.arange(32) % 4]).all()
    with pytest.raises(InvalidOperand, match="the table has 4"):
        run(body.replace("%id, 3", "%id, 7"), y, y)


def test_a_register_must_be_written_before_it_is_read() -> None:
    for text in ("add.u32 %r0, %r1, 1;", "ld.global.u32 %r0, [%rd3];", "@%p3 bra over; over:"):
        with pytest.raises(UninitialisedRegister, match="read before"):
            run(text, 0, 0)


def test_traps_and_livelocks() -> None:
    with pytest.raises(KernelTrap, match="thread 7"):
        run("setp.eq.u32 %p0, %id, 7; @%p0 trap;", 0, 0)
    spin = kernel("mov.u32 %r0, 0; again: setp.eq.u32 %p0, %r0, 0; @%p0 bra again;")
    with pytest.raises(Livelock):
        Interpreter(spin, max_steps=300_000).launch("k", 1, 32, [])


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("sleep", ["", "nanosleep.u32 20;"])
def test_spinning_threads_do_not_starve_others(order: Order, sleep: str) -> None:
    """The first warp waits for a flag which the last one raises, also within one slot of blocks."""
    flag, y = np.zeros(1, np.uint32), np.zeros(128, np.uint32)
    body = f"""
        ld.param.u64 %rd0, [x]; ld.param.u64 %rd1, [y]; mad.wide.u32 %rd1, %gid, 4, %rd1;
        setp.lt.u32 %p0, %gid, 96; @!%p0 bra raise;
        wait: {sleep} ld.acquire.gpu.global.u32 %r0, [%rd0];
        setp.ne.u32 %p1, %r0, 1; @%p1 bra wait;
        bra done;
        raise: setp.eq.u32 %p2, %gid, 127; @%p2 st.release.gpu.global.u32 [%rd0], 1;
        done: st.global.u32 [%rd1], 7;"""
    run(body, flag, y, threads=64, grid=2, order=order)
    assert (y == 7).all()


# -- barriers --------------------------------------------------------------------------------------
@pytest.mark.parametrize("order", ORDERS)
def test_blocks_may_pass_barriers_at_different_times(order: Order) -> None:
    """Each block loops as often as its number says, with a barrier in each round."""
    y = np.zeros(5 * 64, np.uint32)
    body = f"""{pointers(4)}
        mov.u32 %r0, s; mad.lo.u32 %r1, %id, 4, %r0; st.shared.u32 [%r1], %id;
        mov.u32 %r2, %ctaid.x; mov.u32 %r3, 0;
        xor.b32 %r4, %id, 63; mad.lo.u32 %r5, %r4, 4, %r0;
        loop: bar.sync 0; ld.shared.u32 %r6, [%r5]; bar.sync 0;
        add.u32 %r6, %r6, 1; st.shared.u32 [%r1], %r6;
        add.u32 %r3, %r3, 1; setp.le.u32 %p0, %r3, %r2; @%p0 bra loop;
        st.global.u32 [%rd1], %r6;"""
    report = run(
        body, y, y, threads=64, grid=5, declare=".shared .align 4 .b8 s[256];", order=order
    )
    thread, block = np.arange(64), np.arange(5)[:, None]
    mirrored = np.where(block % 2 == 0, 63 - thread, thread)
    assert (y.reshape(5, 64) == mirrored + block + 1).all()
    assert report.count("bar.sync") == 2 * 2 * (1 + 2 + 3 + 4 + 5)


@pytest.mark.parametrize("order", ORDERS)
def test_named_barriers_and_arrivals(order: Order) -> None:
    """A producer warp arrives without waiting; two consumer warps wait for it."""
    y = np.zeros(96, np.uint32)
    body = f"""{pointers(4)}
        mov.u32 %r0, s; mov.u32 %r9, 1; shr.u32 %r1, %id, 5; setp.eq.u32 %p0, %r1, 0;
        @%p0 bra produce;
        bar.sync %r9, 96;
        and.b32 %r2, %id, 31; mad.lo.u32 %r3, %r2, 4, %r0; ld.shared.u32 %r4, [%r3];
        st.global.u32 [%rd1], %r4;
        bar.sync 2, 64;
        bra done;
        produce: mad.lo.u32 %r3, %id, 4, %r0; add.u32 %r4, %id, 1000; st.shared.u32 [%r3], %r4;
        bar.arrive 1, 96;
        done:"""
    run(body, y, y, threads=96, declare=".shared .align 4 .b8 s[128];", order=order)
    assert (y[32:] == np.tile(np.arange(32) + 1000, 2)).all()
    with pytest.raises(RaceError, match="MissingBarrier"):
        run(
            body.replace("bar.sync %r9, 96;", "bar.sync 3, 64;").replace("bar.arrive 1, 96;", ""),
            y,
            y,
            threads=96,
            declare=".shared .align 4 .b8 s[128];",
        )


def test_barrier_reductions() -> None:
    y = np.zeros(2 * 96, np.uint32)
    body = f"""{pointers(4)}
        mov.u32 %r9, %ctaid.x; setp.eq.u32 %p0, %r9, 0;
        setp.lt.u32 %p1, %id, 40; or.pred %p2, %p0, %p1;
        bar.red.popc.u32 %r0, 0, %p2;
        bar.red.and.pred %p3, 1, %p2;
        bar.red.or.pred %p4, 0, 96, !%p2;
        selp.u32 %r1, 1000, 0, %p3; selp.u32 %r2, 10000, 0, %p4;
        add.u32 %r0, %r0, %r1; add.u32 %r0, %r0, %r2; st.global.u32 [%rd1], %r0;"""
    run(body, y, y, threads=96, grid=2)
    assert (y[:96] == 96 + 1000).all()
    assert (y[96:] == 40 + 10000).all()


def test_barriers_that_never_complete() -> None:
    half = "shr.u32 %r0, %id, 5; setp.eq.u32 %p0, %r0, 0;"
    with pytest.raises(BarrierDeadlock, match=r"expects 64 threads; warps \[1\] arrived"):
        run(f"{half} @%p0 exit; bar.sync 0;", 0, 0, threads=64)
    with pytest.raises(BarrierDeadlock):
        run(
            f"{half} @%p0 bra other; bar.sync 1; bra done; other: bar.sync 2; done:",
            0,
            0,
            threads=64,
        )
    with pytest.raises(BarrierDeadlock):
        run("bar.sync 1, 96;", 0, 0, threads=64)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("bar.sync 16;", "does not exist"),
        ("bar.sync 1, 40;", "multiple of 32"),
        ("bar.sync 1, 32;", "64 threads arrive"),
        ("bar.arrive 1, 96; bar.arrive 1, 96;", "arrives twice"),
        (
            "shr.u32 %r0, %id, 5; add.u32 %r0, %r0, 2; shl.b32 %r0, %r0, 5; bar.sync 1, %r0;",
            "at once",
        ),
        ("shl.b32 %r0, %id, 5; bar.sync 1, %r0;", "differs between"),
    ],
)
def test_barrier_misuse(body: str, message: str) -> None:
    with pytest.raises(BarrierMisuse, match=message):
        run(body, 0, 0, threads=64)
    with pytest.raises(InvalidOperand, match="thread count"):
        run("bar.arrive 1;", 0, 0)


# -- launches --------------------------------------------------------------------------------------
def test_the_report_counts_warps() -> None:
    body = "setp.lt.u32 %p0, %id, 40; @!%p0 bra done; mov.u32 %r0, 1; mov.u32 %r1, 2; done:"
    report = run(body, 0, 0, threads=96, grid=3)
    assert report.instructions["setp.lt.u32"] == 9
    assert report.count("mov") == 9 * 3 + 6 * 2  # three of the frame in every warp
    assert report.count("bra") == 9


@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        (0, 32, 0, "positive"),
        (1, 2048, 0, "allows 1024"),
        ((1, 70000), 32, 0, "65535"),
        (1, (8, 8, 8, 8), 0, "one to three"),
        (1, 32, 300_000, "shared memory"),
    ],
)
def test_launches_a_driver_would_refuse(
    grid: int | tuple[int, ...], block: int | tuple[int, ...], shared: int, message: str
) -> None:
    with pytest.raises(LaunchError, match=message):
        Interpreter(kernel("")).launch("k", grid, block, [], shared)


def test_bounds_in_the_kernel_are_kept() -> None:
    text = kernel("").replace("k()\n", "k()\n.maxntid 64, 1, 1\n")
    with pytest.raises(LaunchError, match="allows 64"):
        Interpreter(text).launch("k", 1, 96, [])
    text = kernel("").replace("k()\n", "k()\n.reqntid 64\n")
    with pytest.raises(LaunchError, match="requires blocks"):
        Interpreter(text).launch("k", 1, 32, [])
    with pytest.raises(LaunchError, match="no kernel other"):
        Interpreter(text).launch("other", 1, 64, [])
    with pytest.raises(LaunchError, match="order"):
        Interpreter(text, order="sideways")  # type: ignore[arg-type]


def test_arrays_come_back_after_an_error_too() -> None:
    y = np.zeros(32, np.uint32)
    body = f"{pointers(4)} st.global.u32 [%rd1], 5; ld.global.u32 %r0, [%rd0+4];"
    with pytest.raises(OutOfBounds):
        run(body, words(32), y)
    assert (y == 5).all()


def test_one_array_given_twice_is_one_buffer_and_views_are_copied_back() -> None:
    whole = np.zeros((32, 2), np.uint32)
    column = whole[:, 1]
    body = f"""{pointers(4)} st.global.u32 [%rd0], %id; ld.global.u32 %r0, [%rd1];
        add.u32 %r0, %r0, 1; st.global.u32 [%rd1], %r0;"""
    run(body, column, column)
    assert (whole[:, 1] == np.arange(32) + 1).all()
    assert (whole[:, 0] == 0).all()
