"""The race shadow: every hazard is found, and nothing else is called one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ptx import Interpreter, RaceError, UninitialisedRead
from ptx.machine import Order
from ptx.snippets import kernel, pointers, run, words

ORDERS: list[Order] = ["forward", "reverse", "random"]
SHARED = ".shared .align 16 .b8 s[1024];"
# This thread's word in %r1, its neighbour's (in the same warp) in %r2, the mirrored one in %r3.
PLACES = """
    mov.u32 %r0, s; mad.lo.u32 %r1, %id, 4, %r0;
    xor.b32 %r2, %id, 1; mad.lo.u32 %r2, %r2, 4, %r0;
    xor.b32 %r3, %id, 63; mad.lo.u32 %r3, %r3, 4, %r0;
"""


def kind_of(body: str, threads: int = 64, order: Order = "forward") -> str:
    """The kind of race a body is refused for; empty if it runs."""
    x, y = words(1024), np.zeros(1024, np.uint32)
    try:
        run(PLACES + body, x, y, threads=threads, declare=SHARED, order=order)
    except RaceError as error:
        return error.kind
    return ""


# -- the hazards one by one ------------------------------------------------------------------------
STORE = "st.shared.u32 [%r1], %id;"
READY = f"{STORE} bar.sync 0;"
# One row of 16 bytes a thread; with `far`, those of the other warp.
ROWS = """mad.lo.u32 %r5, %id, 16, %r0; st.shared.v4.u32 [%r5], {{%id, %id, %id, %id}};"""
LOAD = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r6, %r7, %r8, %r9}}, [%r5];"
# Name, code with the place where order is missing, whether the two are in one warp. Which of two
# accesses comes first, and so how the hazard is called, depends on the order in which warps run.
HAZARDS = [
    ("read of a word of the other warp", READY + STORE + "{} ld.shared.u32 %r4, [%r3];", False),
    ("read of the neighbour's word", STORE + "{} ld.shared.u32 %r4, [%r2];", True),
    ("overwriting the other warp's word", STORE + "{} st.shared.u32 [%r3], %id;", False),
    ("overwriting the neighbour's word", STORE + "{} st.shared.u32 [%r2], %id;", True),
    ("overwriting what another warp read", READY + "ld.shared.u32 %r4, [%r3]; {}" + STORE, False),
    ("overwriting what the neighbour read", READY + "ld.shared.u32 %r4, [%r2]; {}" + STORE, True),
    ("ldmatrix of rows just stored", ROWS + "{}" + LOAD, True),
    (
        "storing over rows ldmatrix read",
        ROWS + "bar.sync 0; xor.b32 %r5, %r5, 512;" + LOAD + "{}" + STORE,
        False,
    ),
    (
        "reading what stmatrix stored",
        ROWS
        + "stmatrix.sync.aligned.m8n8.x1.shared.b16 [%r5], {{%id}}; {} ld.shared.u32 %r4, [%r5];",
        True,
    ),
    ("an atomic on a word just stored", READY + STORE + "{} red.shared.or.b32 [%r3], 1;", False),
    (
        "a read of an atomic's word",
        READY + "red.shared.add.u32 [%r0], 1; {} ld.shared.u32 %r4, [%r0];",
        False,
    ),
]
NAMES = [name for name, _, _ in HAZARDS]


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(("name", "body", "one_warp"), HAZARDS, ids=NAMES)
def test_a_hazard_is_found_and_order_mends_it(
    name: str, body: str, one_warp: bool, order: Order
) -> None:
    kinds = {"MissingWarpSync"} if one_warp else {"MissingBarrier", "MissingWarpSync"}
    assert kind_of(body.format(""), order=order) in kinds | {"WriteAfterRead"}
    assert kind_of(body.format("bar.sync 0;"), order=order) == ""
    assert (kind_of(body.format("bar.warp.sync -1;"), order=order) == "") == one_warp


def test_a_thread_needs_no_order_with_itself() -> None:
    assert kind_of(f"{STORE} ld.shared.u32 %r4, [%r1]; {STORE} ld.shared.u32 %r4, [%r1];") == ""


def test_a_warp_sync_by_a_part_of_the_warp_orders_nothing() -> None:
    """Stricter than the ISA, which would order the two: a kernel should not need that."""
    half = "setp.lt.u32 %p0, %id, 16; @!%p0 bra over; bar.warp.sync 0xFFFF; over:"
    assert kind_of(f"{STORE} {half} ld.shared.u32 %r4, [%r2];", threads=32) == "MissingWarpSync"


@pytest.mark.parametrize("order", ORDERS)
def test_what_follows_an_arrival_is_not_handed_over(order: Order) -> None:
    """The first warp arrives, writes, and never tells the second, which waited for the arrival."""
    roles = """shr.u32 %r4, %id, 5; setp.eq.u32 %p0, %r4, 0; @%p0 bra first;
        bar.sync 1, 64; {second} bra done;
        first: {before} bar.arrive 1, 64; {after} done:"""
    write, read = "st.shared.u32 [%r1], 7;", "ld.shared.u32 %r5, [%r3];"
    assert kind_of(READY + roles.format(before=write, after="", second=read), order=order) == ""
    late = roles.format(before="", after=write, second=read)
    assert kind_of(READY + late, order=order) in ("MissingBarrier", "WriteAfterRead")
    # Nor does an arrival order the threads of its own warp.
    neighbour = "ld.shared.u32 %r5, [%r2];"
    own = roles.format(before=write, after=neighbour, second="")
    assert kind_of(READY + own, order=order) == "MissingWarpSync"


@pytest.mark.parametrize(
    "reads",
    [
        "ld.shared.u32 %r4, [%r0];",
        "setp.eq.u32 %p0, %id, 3; @%p0 ld.shared.u32 %r4, [%r0]; @!%p0 ld.shared.u32 %r4, [%r0];",
        "setp.eq.u32 %p0, %id, 3; @!%p0 ld.shared.u32 %r4, [%r0]; @%p0 ld.shared.u32 %r4, [%r0];",
    ],
)
@pytest.mark.parametrize("writer", [0, 3, 31])
def test_a_reader_that_writes_must_wait_for_the_other_readers(reads: str, writer: int) -> None:
    """All lanes read one word, at once or one after the other; one of them overwrites it."""
    write = f"setp.eq.u32 %p1, %id, {writer}; @%p1 st.shared.u32 [%r0], 1;"
    assert kind_of(READY + reads + write, threads=32) == "WriteAfterRead"
    assert kind_of(READY + reads + "bar.warp.sync -1;" + write, threads=32) == ""
    alone = f"setp.eq.u32 %p1, %id, {writer}; @%p1 ld.shared.u32 %r4, [%r0];"
    assert kind_of(READY + alone + write, threads=32) == ""


def test_two_threads_of_one_store() -> None:
    body = "shr.u32 %r4, %id, 1; mad.lo.u32 %r4, %r4, 4, %r0; st.shared.u32 [%r4], 1;"
    assert kind_of(body) == "SameInstruction"


def test_different_bytes_of_a_word_do_not_race() -> None:
    body = """add.u32 %r4, %r0, %id; st.shared.u8 [%r4], %id; ld.shared.u8 %r5, [%r4];
        bar.sync 0; setp.lt.u32 %p0, %id, 8; @%p0 ld.shared.u32 %r5, [%r1];"""
    assert kind_of(body, threads=32) == ""


def test_atomics_do_not_race_with_each_other() -> None:
    body = """setp.eq.u32 %p0, %id, 0; @%p0 st.shared.u32 [%r0], 0; bar.sync 0;
        red.shared.add.u32 [%r0], %id; red.shared.max.u32 [%r0], 5; bar.sync 0;
        ld.shared.u32 %r4, [%r0];"""
    assert kind_of(body) == ""


def test_reading_what_nobody_wrote() -> None:
    with pytest.raises(UninitialisedRead):
        kind_of("ld.shared.u32 %r4, [%r1];")
    # Without the shadow it reads as zero, as an allocation fresh from the driver might.
    text = kernel(f"{PLACES} ld.shared.u32 %r4, [%r1];", declare=SHARED)
    Interpreter(text, check_races=False).launch("k", 1, 64, [])


# -- cp.async --------------------------------------------------------------------------------------
ISSUE = """ld.param.u64 %rd0, [x]; mad.wide.u32 %rd0, %id, 4, %rd0;
    cp.async.ca.shared.global [%r1], [%rd0], 4; cp.async.commit_group;"""
WAIT = "cp.async.wait_group 0;"


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        (f"{ISSUE} {WAIT} ld.shared.u32 %r4, [%r1];", ""),
        (f"{ISSUE} ld.shared.u32 %r4, [%r1];", "MissingWait"),
        (f"{ISSUE} bar.sync 0; ld.shared.u32 %r4, [%r3];", "MissingWait"),
        (f"{ISSUE} cp.async.wait_group 1; bar.sync 0; ld.shared.u32 %r4, [%r3];", "MissingWait"),
        (f"{READY} {ISSUE} {WAIT} ld.shared.u32 %r4, [%r3];", "MissingBarrier WriteAfterRead"),
        (f"{ISSUE} {WAIT} ld.shared.u32 %r4, [%r2];", "MissingWarpSync"),
        (f"{ISSUE} {WAIT} bar.sync 0; ld.shared.u32 %r4, [%r3];", ""),
        # A barrier before the wait does not publish what lands after it.
        (f"{ISSUE} bar.sync 0; {WAIT} ld.shared.u32 %r4, [%r3];", "MissingWait MissingBarrier"),
        (f"{ISSUE} st.shared.u32 [%r1], 1;", "WriteInFlight"),
        (f"{ISSUE} {ISSUE}", "WriteInFlight"),
        (f"{ISSUE} bar.sync 0; st.shared.u32 [%r3], 1;", "WriteInFlight"),
        # The prefetch into a stage must not overtake its readers.
        (
            f"{READY} ld.shared.u32 %r4, [%r3]; {ISSUE} {WAIT}",
            "WriteAfterRead MissingBarrier",
        ),
        (f"{READY} ld.shared.u32 %r4, [%r3]; bar.sync 0; {ISSUE} {WAIT}", ""),
        (f"{STORE} {ISSUE} {WAIT}", ""),
        (f"{ISSUE} exit;", ""),
    ],
)
def test_copies_in_flight(body: str, kind: str, order: Order) -> None:
    got = kind_of(body, order=order)
    assert got in kind.split() if kind else got == ""


# -- global memory ---------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("st.global.u32 [%rd1], 1; ld.global.u32 %r4, [%rd1];", ""),
        ("st.global.u32 [%rd2], 1; ld.global.u32 %r4, [%rd3];", "CrossBlock"),
        ("setp.eq.u32 %p0, %id, 0; @%p0 st.global.u32 [%rd4], %gid;", "CrossBlock"),
        ("st.global.u32 [%rd4], 1;", "SameInstruction"),
        ("st.global.u32 [%rd5], 1; ld.global.u32 %r4, [%rd6];", "MissingBarrier"),
        ("st.global.u32 [%rd5], 1; bar.sync 0; ld.global.u32 %r4, [%rd6];", ""),
        ("st.global.u32 [%rd5], 1; bar.sync 0; st.global.u32 [%rd6], 2;", ""),
        ("st.global.u32 [%rd5], 1; ld.global.u32 %r4, [%rd7];", "MissingWarpSync"),
        ("st.global.u32 [%rd5], 1; bar.warp.sync -1; ld.global.u32 %r4, [%rd7];", ""),
        ("red.global.add.u32 [%rd4], 1;", ""),
        # With a fence the kernel may order blocks itself, which is not followed.
        ("membar.gl; setp.eq.u32 %p0, %id, 0; @%p0 st.global.u32 [%rd4], %gid;", ""),
    ],
)
@pytest.mark.parametrize("order", ORDERS)
def test_global_memory(body: str, kind: str, order: Order) -> None:
    """%rd1, %rd2, %rd5: own word; %rd3: other block's; %rd6: other warp's; %rd7: neighbour's."""
    places = f"""{pointers(4)}
        mov.u64 %rd2, %rd1; mov.u64 %rd5, %rd1; ld.param.u64 %rd4, [y];
        xor.b32 %r10, %gid, 64; mad.wide.u32 %rd3, %r10, 4, %rd4;
        xor.b32 %r10, %gid, 32; mad.wide.u32 %rd6, %r10, 4, %rd4;
        xor.b32 %r10, %gid, 1; mad.wide.u32 %rd7, %r10, 4, %rd4;"""
    got = ""
    try:
        run(places + body, words(128), np.zeros(128, np.uint32), threads=64, grid=2, order=order)
    except RaceError as error:
        got = error.kind
    assert got == kind


def test_blocks_in_different_batches_race_too() -> None:
    text = kernel(
        "ld.param.u64 %rd0, [y]; setp.eq.u32 %p0, %id, 0; @%p0 st.global.u32 [%rd0], %gid;",
        params=".param .u64 y",
    )
    with pytest.raises(RaceError, match=r"block 0, then overwritten(.|\n)*block \(1, 0, 0\)"):
        Interpreter(text, batch=1).launch("k", 2, 32, [np.zeros(1, np.uint32)])
    Interpreter(text, check_races=False).launch("k", 2, 32, [np.zeros(1, np.uint32)])


# -- against sets of events ------------------------------------------------------------------------
Step = tuple[str, int, int]
THREADS = (0, 1, 32, 33, 64, 65)  # two of each warp
WORDS = 3
ACCESSES = ("write", "read", "read by two", "copy")
steps = st.one_of(
    st.tuples(st.sampled_from(ACCESSES), st.sampled_from(THREADS), st.integers(0, WORDS - 1)),
    st.tuples(st.just("wait"), st.sampled_from(THREADS), st.just(0)),
    st.tuples(st.just("barrier"), st.just(0), st.just(0)),
    st.tuples(st.just("warp"), st.integers(0, 2), st.just(0)),
    st.tuples(st.just("hand over"), st.integers(0, 2), st.integers(1, 2)),
)


def actors(step: Step) -> set[int]:
    """Threads that make an access."""
    return {step[1], step[1] ^ 1} if step[0] == "read by two" else {step[1]}


def has_race(program: list[Step]) -> bool:
    """By sets of the events that each thread knows to have happened; all run all steps in order.

    An event is (step, thread). A copy counts from its issue until its thread waits: what comes
    before must be known when it is issued, what comes after must know of the wait.
    """
    known: dict[int, set[tuple[int, int]]] = {t: set() for t in THREADS}
    done: dict[int, set[tuple[int, int]]] = {t: set() for t in THREADS}
    for number, step in enumerate(program):
        what, a, b = step
        if what in ACCESSES:
            for earlier, other in enumerate(program[:number]):
                if other[0] not in ACCESSES or other[2] != b:
                    continue
                if what.startswith("read") and other[0].startswith("read"):
                    continue
                for t in actors(step):
                    for u in actors(other):
                        event = (earlier, u)
                        if other[0] == "copy":
                            waits = [
                                k for k in range(earlier, number) if program[k] == ("wait", u, 0)
                            ]
                            if not waits:
                                return True
                            event = (waits[0], u)
                        if t != u and event not in known[t]:
                            return True
        if what in ACCESSES or what == "wait":
            for t in actors(step):
                done[t].add((number, t))
            continue
        if what == "barrier":
            giving = taking = set(THREADS)
        elif what == "warp":
            giving = taking = {t for t in THREADS if t // 32 == a}
        else:
            taking = {t for t in THREADS if t // 32 == (a + b) % 3}
            giving = taking | {t for t in THREADS if t // 32 == a}
        news = set().union(*(known[t] | done[t] for t in giving))
        for t in taking:
            known[t] = known[t] | news
    return False


def as_ptx(program: list[Step]) -> str:
    out = ["setp.eq.u32 %p0, %id, 0; mov.u32 %r0, s; ld.param.u64 %rd0, [x];"]
    out += [f"@%p0 st.shared.u32 [%r0+{4 * i}], 1;" for i in range(WORDS)] + ["bar.sync 0;"]
    for number, (what, a, b) in enumerate(program):
        own, place = f"setp.eq.u32 %p0, %id, {a}; @%p0", f"[%r0+{4 * b}]"
        out.append(
            {
                "write": f"{own} st.shared.u32 {place}, %id;",
                "read": f"{own} ld.shared.u32 %r1, {place};",
                "read by two": f"""and.b32 %r2, %id, -2; setp.eq.u32 %p0, %r2, {a & -2};
                    @%p0 ld.shared.u32 %r1, {place};""",
                "copy": f"""{own} cp.async.ca.shared.global {place}, [%rd0], 4;
                    cp.async.commit_group;""",
                "wait": f"{own} cp.async.wait_group 0;",
                "barrier": "bar.sync 0;",
                "warp": f"""shr.u32 %r2, %id, 5; setp.ne.u32 %p0, %r2, {a};
                    @%p0 bra skip{number}; bar.warp.sync -1; skip{number}:""",
                "hand over": f"""shr.u32 %r2, %id, 5;
                    setp.eq.u32 %p0, %r2, {a}; @%p0 bra give{number};
                    setp.ne.u32 %p0, %r2, {(a + b) % 3}; @%p0 bra skip{number};
                    bar.sync {number % 15 + 1}, 64; bra skip{number};
                    give{number}: bar.arrive {number % 15 + 1}, 64; skip{number}:""",
            }[what]
        )
    return "\n".join(out)


@settings(max_examples=200)
@given(st.lists(steps, min_size=2, max_size=14), st.sampled_from(ORDERS))
def test_random_programs_race_exactly_when_sets_of_events_say_so(
    program: list[Step], order: Order
) -> None:
    """Plain accesses, copies, block barriers, warp syncs and hand-overs between warps."""
    raced = False
    try:
        run(as_ptx(program), words(1), 0, threads=96, declare=SHARED, order=order)
    except RaceError:
        raced = True
    assert raced == has_race(program)


def test_the_oracle_itself() -> None:
    write, read, barrier = ("write", 0, 0), ("read", 32, 0), ("barrier", 0, 0)
    assert has_race([write, read])
    assert not has_race([write, barrier, read])
    assert not has_race([write, ("hand over", 0, 1), read])
    assert has_race([write, ("hand over", 1, 2), read])
    chain = [write, ("hand over", 0, 2), ("hand over", 2, 2), read]
    assert not has_race(chain)
    assert has_race(chain[:1] + chain[2:])
    copy, wait = ("copy", 0, 0), ("wait", 0, 0)
    assert not has_race([copy, wait, barrier, read])
    assert has_race([copy, barrier, wait, read])
    assert has_race([copy, barrier, read])
    assert has_race([copy, copy])
