"""``mbarrier``, bulk copies, ``setmaxnreg`` and ``elect``: phases, counts, misuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ptx import (
    BarrierDeadlock,
    BarrierMisuse,
    Interpreter,
    InvalidOperand,
    Misaligned,
    OutOfBounds,
    RaceError,
    UninitialisedRead,
    UnknownOpcode,
)
from ptx.snippets import kernel, run, words

SHARED = ".shared .align 128 .b8 s[1024]; .shared .align 8 .b64 bars[2];"
ONCE = "setp.eq.u32 %p0, %id, 0;"
INIT = f"{ONCE} @%p0 mbarrier.init.shared::cta.b64 [bars], {{count}};"
PUBLISH = "@%p0 fence.mbarrier_init.release.cluster;"
STORE = "ld.param.u64 %rd1, [y]; mad.wide.u32 %rd1, %id, 4, %rd1; st.global.u32 [%rd1], %r1;"


def poll(parity: int, name: str) -> str:
    """Wait for a phase."""
    return f"""
    {name}: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p1, [bars], {parity};
    @!%p1 bra {name};"""


def launch(body: str, threads: int = 64, order: Any = "forward", n: int = 256) -> np.ndarray:
    """Run a body on inputs ``x`` (n words); return what it stored for each thread."""
    x, y = words(n), np.zeros(threads, np.uint32)
    run(body, x, y, threads=threads, declare=SHARED, order=order)
    return y


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_an_arrival_hands_over_what_was_written(order: Any) -> None:
    """Warp 1 reads what warp 0 wrote, twice, with nothing but two mbarriers between."""
    body = f"""
    {INIT.format(count=1)} @%p0 mbarrier.init.shared.b64 [bars+8], 1; bar.sync 0;
    mov.u32 %r5, s; and.b32 %r6, %id, 31; mad.lo.u32 %r5, %r6, 4, %r5;
    setp.ge.u32 %p2, %id, 32; @%p2 bra second;
    mov.u32 %r1, 7; add.u32 %r2, %id, 100; st.shared.u32 [%r5], %r2;
    bar.warp.sync -1;
    @%p0 mbarrier.arrive.release.cta.shared::cta.b64 _, [bars];
    add.u32 %r2, %id, 200; st.shared.u32 [%r5+128], %r2;
    bar.warp.sync -1;
    @%p0 mbarrier.arrive.shared.b64 _, [bars+8];
    bra done;
    second: {poll(0, "first_phase")}
    ld.shared.u32 %r1, [%r5];
    {poll(0, "second_phase").replace("bars", "bars+8")}
    ld.shared.u32 %r2, [%r5+128]; add.u32 %r1, %r1, %r2;
    done: {STORE}"""
    y = launch(body, order=order)
    np.testing.assert_array_equal(y[32:], 300 + 2 * np.arange(32))


HAND_OVER = f"""
    {INIT.format(count=1)} bar.sync 0;
    mov.u32 %r5, s; and.b32 %r6, %id, 31; mad.lo.u32 %r5, %r6, 4, %r5; mov.u32 %r1, 0;
    setp.ge.u32 %p2, %id, 32; @%p2 bra second;
    st.shared.u32 [%r5], %id;
    {{sync}}
    @%p0 mbarrier.arrive.shared::cta.b64 _, [bars];
    {{after}}
    bra done;
    second: {poll(0, "again")}
    ld.shared.u32 %r1, [%r5{{shift}}];
    done: {STORE}"""


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_an_arrival_of_one_thread_hands_over_its_own_only(order: Any) -> None:
    good = HAND_OVER.format(sync="bar.warp.sync -1;", after="", shift="")
    np.testing.assert_array_equal(launch(good, order=order)[32:], np.arange(32))
    with pytest.raises(RaceError, match="MissingBarrier"):
        launch(HAND_OVER.format(sync="", after="", shift=""), order=order)


def test_what_comes_after_an_arrival_is_not_handed_over() -> None:
    late = "st.shared.u32 [%r5+128], %id;"
    text = HAND_OVER.format(sync="bar.warp.sync -1;", after=late, shift="+128")
    with pytest.raises(RaceError, match="MissingBarrier"):
        launch(text)


def test_a_phase_that_was_not_waited_for_orders_nothing() -> None:
    """The parity of the phase before the first counts as complete."""
    text = HAND_OVER.format(sync="bar.warp.sync -1;", after="", shift="")
    with pytest.raises(UninitialisedRead, match="nobody wrote"):
        launch(text.replace("[bars], 0;", "[bars], 1;"), order="reverse")


def test_a_phase_that_is_over_is_not_seen_any_more() -> None:
    """Parities are all there is: who comes two phases late waits for the next one, in vain."""
    twice = "@%p0 mbarrier.arrive.shared.b64 _, [bars];"
    with pytest.raises(BarrierDeadlock, match="phase 2, 1 of 1 arrivals"):
        launch(HAND_OVER.format(sync="bar.warp.sync -1;", after=twice, shift=""))


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("{init0} ret;", BarrierMisuse, "mbarrier for 0 arrivals"),
        ("{arrive}", BarrierMisuse, "no mbarrier was initialised"),
        ("{init1} bar.sync 0; {arrive} bar.sync 0; {poll1}", None, ""),
        ("{init1} bar.sync 0; mbarrier.arrive.shared.b64 _, [bars], 65;", BarrierMisuse, "65 a"),
        ("{init1} {arrive}", RaceError, "no barrier after its initialisation"),
        ("{init1} bar.sync 0; {poll0}", BarrierDeadlock, "can no longer complete"),
        (
            "{init1} bar.sync 0; @%p0 st.shared.u32 [bars], 1; {arrive}",
            BarrierMisuse, "overwritten",
        ),
        (
            "{init1} bar.sync 0; @%p0 mbarrier.inval.shared::cta.b64 [bars]; bar.sync 0; {arrive}",
            BarrierMisuse, "no mbarrier",
        ),
        ("{init1} bar.sync 0; {poll2}", BarrierMisuse, "parity of 2"),
        ("mbarrier.init.shared::cta.b64 [bars+4], 1;", Misaligned, "multiple of 8"),
        ("mbarrier.init.shared::cta.b64 [s+4096], 1;", OutOfBounds, "4096"),
        ("mbarrier.arrive.shared::cta.b64 %rd3, [bars];", UnknownOpcode, "a state as result"),
        ("mbarrier.arrive.expect_tx.shared::cta.b64 _, [bars];", InvalidOperand, "bytes"),
        ("mbarrier.pending_count.b64 %r1, %rd3;", UnknownOpcode, "not supported"),
    ],
)  # fmt: skip
def test_misuse_of_a_barrier(body: str, error: Any, message: str) -> None:
    parts = {
        "init0": INIT.format(count=0), "init1": INIT.format(count=64),
        "arrive": "mbarrier.arrive.shared::cta.b64 _, [bars];",
        "poll0": poll(0, "w0"), "poll1": poll(0, "w1"), "poll2": poll(2, "w2"),
    }  # fmt: skip
    body = body.format(**parts) + " mov.u32 %r1, 0;" + STORE
    if error is None:
        launch(body)
        return
    with pytest.raises(error, match=message):
        launch(body)


def test_test_wait_gives_an_answer_and_goes_on() -> None:
    body = f"""
    {INIT.format(count=32)} bar.sync 0;
    mbarrier.test_wait.parity.shared::cta.b64 %p1, [bars], 0; selp.u32 %r1, 1, 0, %p1;
    mbarrier.arrive.shared::cta.b64 _, [bars];
    mbarrier.test_wait.parity.shared::cta.b64 %p1, [bars], 0; selp.u32 %r2, 2, 0, %p1;
    add.u32 %r1, %r1, %r2; {STORE}"""
    np.testing.assert_array_equal(launch(body, threads=32), 2)


BULK = f"""
    {INIT.format(count=1)} {PUBLISH} bar.sync 0;
    ld.param.u64 %rd2, [x];
    @%p0 mbarrier.arrive.expect_tx.release.cta.shared::cta.b64 _, [bars], {{expected}};
    @%p0 cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes
        [s{{to}}], [%rd2{{start}}], {{size}}, [bars];
    {poll(0, "landed")}
    mov.u32 %r5, s; mad.lo.u32 %r5, %id, 4, %r5; ld.shared.u32 %r1, [%r5];
    {STORE}"""
GOOD = {"expected": 256, "size": 256, "to": "", "start": ""}


@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_a_bulk_copy_is_there_for_those_who_waited(order: Any) -> None:
    np.testing.assert_array_equal(launch(BULK.format(**GOOD), order=order), words(256)[:64])
    text = BULK.format(**GOOD).replace("shared::cluster", "shared::cta")
    np.testing.assert_array_equal(launch(text), words(256)[:64])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"expected": 240}, BarrierDeadlock, "-16 bytes missing"),
        ({"expected": 272}, BarrierDeadlock, "16 bytes missing"),
        ({"size": 8}, InvalidOperand, "positive multiple of 16"),
        ({"to": "+8"}, Misaligned, "not a multiple of 16"),
        ({"start": "+8"}, Misaligned, "not a multiple of 16"),
        ({"start": "+960"}, OutOfBounds, "has 1024 bytes"),
        ({"to": "+896"}, OutOfBounds, "shared address 1040"),
        ({"drop": PUBLISH}, RaceError, "MissingFence"),
        ({"drop": poll(0, "landed")}, RaceError, "MissingWait"),
        ({"drop": ".mbarrier::complete_tx::bytes"}, UnknownOpcode, "not supported"),
    ],
)
def test_misuse_of_a_bulk_copy(changes: dict[str, Any], error: Any, message: str) -> None:
    changes = dict(changes)
    drop = changes.pop("drop", None)
    text = BULK.format(**{**GOOD, **changes})
    if drop:
        assert drop in text
        text = text.replace(drop, "")
    with pytest.raises(error, match=message):
        launch(text)


def test_a_block_may_not_end_under_a_bulk_copy() -> None:
    text = BULK.format(**GOOD).split("landed:")[0] + " mov.u32 %r1, 0;" + STORE
    with pytest.raises(BarrierMisuse, match="while a bulk copy was under way"):
        launch(text, threads=32)


def test_a_target_under_way_may_not_be_written() -> None:
    text = BULK.format(**GOOD).replace("landed:", "@%p0 st.shared.u32 [s], %id; landed:", 1)
    with pytest.raises(RaceError, match="WriteInFlight"):
        launch(text)


def maxnreg(body: str, warps: int) -> None:
    text = kernel(body, params=".param .u64 x")
    Interpreter(text).launch("k", 1, 32 * warps, [np.zeros(1)])


ROLES = """
    setp.ge.u32 %p0, %id, 256; @%p0 bra second;
    setmaxnreg.inc.sync.aligned.u32 {more}; bra done;
    second: setmaxnreg.dec.sync.aligned.u32 {less};
    done:"""


def test_registers_move_between_warpgroups() -> None:
    """512 threads start with 128 each: 256 of them can have what the others give up."""
    maxnreg(ROLES.format(more=200, less=56), 16)
    maxnreg(ROLES.format(more=128, less=128), 16)
    with pytest.raises(BarrierDeadlock):
        maxnreg(ROLES.format(more=208, less=56), 16)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        ("setmaxnreg.dec.sync.aligned.u32 20;", InvalidOperand, "from 24 to 256, not 20"),
        ("setmaxnreg.dec.sync.aligned.u32 60;", InvalidOperand, "multiple of 8"),
        ("setmaxnreg.inc.sync.aligned.u32 64;", InvalidOperand, "of a warp that has 128"),
        ("setmaxnreg.dec.sync.aligned.u32 200;", InvalidOperand, "of a warp that has 128"),
        ("setmaxnreg.dec.sync.aligned.u32 %id;", InvalidOperand, "a constant"),
        ("setmaxnreg.set.sync.aligned.u32 64;", UnknownOpcode, "not supported"),
        (
            "setp.lt.u32 %p0, %id, 64; @%p0 bra other; setmaxnreg.dec.sync.aligned.u32 64; ret; "
            "other: setmaxnreg.dec.sync.aligned.u32 56;",
            BarrierMisuse, "where its warpgroup asked for",
        ),
    ],
)  # fmt: skip
def test_misuse_of_setmaxnreg(body: str, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        maxnreg(body, 16)


def test_elect_names_one_thread_of_those_that_take_part() -> None:
    body = f"""
    mov.u32 %r1, 0; setp.ge.u32 %p0, %id, 48; @%p0 bra done;
    and.b32 %r6, %id, 32; setp.eq.u32 %p2, %r6, 0;
    selp.b32 %r7, 0xffffffff, 0xffff, %p2;
    elect.sync %r2|%p1, %r7;
    add.u32 %r1, %r2, 1; @%p1 add.u32 %r1, %r1, 100;
    done: {STORE}"""
    y = launch(body)
    for members in (y[:32], y[32:48]):
        assert (members > 100).sum() == 1
        leader = int(np.argmax(members))
        assert members[leader] == leader + 101
        assert set(members) == {leader + 1, leader + 101}
    assert not y[48:].any()
