"""Warp-wide instructions against loops over lanes; bank conflicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from ptx import DivergentCollective, Interpreter, UndefinedShuffle, UnknownOpcode
from ptx.snippets import evaluate, kernel, pointers, result_of, run, words

LANES = range(32)
ALL = 0xFFFFFFFF


def shuffle(mode: str, lane: int, b: int, c: int) -> tuple[int, bool]:
    """Source lane and predicate, as the ISA writes it."""
    b, clamp, segment = b & 31, c & 31, c >> 8 & 31
    most = lane & segment | clamp & ~segment
    low = lane & segment
    j, valid = {
        "up": (lane - b, lane - b >= most),
        "down": (lane + b, lane + b <= most),
        "bfly": (lane ^ b, lane ^ b <= most),
        "idx": (low | b & ~segment, (low | b & ~segment) <= most),
    }[mode]
    return (j, True) if valid else (lane, False)


@pytest.mark.parametrize(
    ("mode", "c"),
    [
        *[("up", c) for c in (0, 0x1800, 0x1C00)],
        *[("down", c) for c in (31, 0x1807)],
        *[("bfly", c) for c in (31, 0x181F)],
        *[("idx", c) for c in (31, 0x181F, 0x1C03, 0x0F)],
    ],
)
def test_shuffles(mode: str, c: int) -> None:
    values = words(64)
    for b in (0, 1, 3, 5, 16, 31, 33):
        want = [shuffle(mode, i % 32, b, c) for i in range(64)]
        body = f"shfl.sync.{mode}.b32 %d|%p0, %a, {b}, {c}, -1;"
        got = evaluate(body, "u32", ("u32", values))
        assert got.tolist() == [int(values[i // 32 * 32 + j]) for i, (j, _) in enumerate(want)]
        body = f"shfl.sync.{mode}.b32 %r0|%d, %a, {b}, {c}, -1;"
        got = evaluate(body, "pred", ("u32", values))
        assert got.astype(bool).tolist() == [valid for _, valid in want]


def test_shuffle_by_a_different_amount_in_each_lane() -> None:
    values, amounts = words(64), (np.arange(64) * 7 % 32).astype(np.uint32)
    body = "shfl.sync.idx.b32 %d, %a, %b, 31, -1;"
    got = evaluate(body, "u32", ("u32", values), ("u32", amounts))
    assert (
        got.reshape(2, 32)
        == np.take_along_axis(values.reshape(2, 32), amounts.reshape(2, 32).astype(int), 1)
    ).all()


def test_collectives_in_divergent_code_use_their_members() -> None:
    """Even and odd threads go separate ways; each half shuffles and votes among itself."""
    x, y = words(32), np.zeros(32, np.uint32)
    body = f"""{pointers(4)}
        ld.global.u32 %r0, [%rd0];
        and.b32 %r1, %id, 1; setp.eq.u32 %p0, %r1, 0; @%p0 bra even;
        shfl.sync.bfly.b32 %r2, %r0, 2, 31, 0xAAAAAAAA;
        redux.sync.add.u32 %r3, %id, 0xAAAAAAAA;
        bra join;
        even: shfl.sync.bfly.b32 %r2, %r0, 4, 31, 0x55555555;
        redux.sync.add.u32 %r3, %id, 0x55555555;
        join: add.u32 %r2, %r2, %r3; st.global.u32 [%rd1], %r2;"""
    run(body, x, y)
    odd = np.arange(32) % 2
    total = np.where(odd, sum(range(1, 32, 2)), sum(range(0, 32, 2)))
    assert (y == x[np.arange(32) ^ np.where(odd, 2, 4)] + total).all()


@pytest.mark.parametrize("kind", ["u32", "s32"])
@pytest.mark.parametrize("name", ["add", "min", "max", "and", "or", "xor"])
def test_redux(name: str, kind: str) -> None:
    values = (words(64) - 6000).astype(np.uint32).view(np.int32 if kind == "s32" else np.uint32)
    functions: dict[str, Callable[[np.ndarray], int]] = {
        "add": lambda v: int(v.sum(dtype=np.int64)),
        "min": lambda v: int(v.min()),
        "max": lambda v: int(v.max()),
        "and": lambda v: int(np.bitwise_and.reduce(v)),
        "or": lambda v: int(np.bitwise_or.reduce(v)),
        "xor": lambda v: int(np.bitwise_xor.reduce(v)),
    }
    operand = kind if name in ("add", "min", "max") else "b32"
    got = evaluate(f"redux.sync.{name}.{operand} %d, %a, -1;", kind, (kind, values))
    for w in range(2):
        part = values[32 * w : 32 * w + 32]
        assert (
            got[32 * w : 32 * w + 32].astype(np.int64) & ALL == functions[name](part) & ALL
        ).all()


def test_votes_and_masks() -> None:
    flags = np.zeros(128, np.uint8)
    flags[32:64], flags[64:96:3] = 1, 1
    rows = flags.reshape(4, 32)
    ballots = [sum(int(f) << i for i, f in enumerate(row)) for row in rows]
    got = evaluate("vote.sync.ballot.b32 %d, %a, -1;", "u32", ("pred", flags))
    assert got.tolist() == np.repeat(ballots, 32).tolist()
    for mode, want in (
        ("any", rows.any(axis=1)),
        ("all", rows.all(axis=1)),
        ("uni", rows.all(axis=1) | ~rows.any(axis=1)),
    ):
        got = evaluate(f"vote.sync.{mode}.pred %d, %a, -1;", "pred", ("pred", flags))
        assert (got.reshape(4, 32).astype(bool) == want[:, None]).all()
        got = evaluate(f"vote.sync.{mode}.pred %d, !%a, -1;", "pred", ("pred", flags))
        negated = {"any": ~rows.all(axis=1), "all": ~rows.any(axis=1), "uni": want}[mode]
        assert (got.reshape(4, 32).astype(bool) == negated[:, None]).all()
    taken = sum(1 << i for i in LANES if i % 3 != 0)
    first, part = result_of("activemask.b32 %d;", "u32", ("u32", words(64)))
    assert (first == ALL).all()
    assert part[1] == taken  # the first warp: threads whose number is no multiple of three


def test_elect() -> None:
    got = evaluate("elect.sync %d|%p0, 0xFFFFFFFF;", "u32", ("u32", words(64)))
    assert (got == 0).all()
    body = """setp.lt.u32 %p1, %id, 5; @%p1 bra skip; elect.sync %r0|%p0, 0xFFFFFFE0;
        selp.u32 %d, 1, 0, %p0; add.u32 %d, %d, %r0; skip:"""
    got = evaluate(body, "u32", ("u32", words(32)), block=32)
    assert got.tolist() == [0] * 5 + [6] + [5] * 26


@pytest.mark.parametrize("kind", ["u32", "u64"])
def test_match(kind: str) -> None:
    values = (np.arange(64) // 2 % 5).astype(np.uint64 if kind == "u64" else np.uint32)
    values[32:] = 9
    bits = f"b{kind[1:]}"
    got = evaluate(f"match.any.sync.{bits} %d, %a, -1;", "u32", (kind, values))
    for i in range(64):
        row = values[i // 32 * 32 :][:32]
        assert got[i] == sum(1 << j for j in LANES if row[j] == values[i])
    got = evaluate(f"match.all.sync.{bits} %d|%p0, %a, -1;", "u32", (kind, values))
    assert got.tolist() == [0] * 32 + [ALL] * 32


def test_every_thread_must_come() -> None:
    """Half of a warp jumps over a collective that names it."""
    skip = "setp.lt.u32 %p0, %id, 16; @%p0 bra over;"
    for text in (
        "shfl.sync.bfly.b32 %r0, %id, 1, 31, -1;",
        "vote.sync.ballot.b32 %r0, %p0, -1;",
        "bar.warp.sync -1;",
        "redux.sync.add.u32 %r0, %id, -1;",
        "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0, %f1, %f2, %f3}, {%r0, %r1}, {%r2},"
        " {%f0, %f1, %f2, %f3};",
        "ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%r0}, [%r1];",
        "bar.sync 0;",
    ):
        with pytest.raises(DivergentCollective):
            run(f"{skip} {text} over:", words(32), words(32))
        with pytest.raises(DivergentCollective):
            run(f"{skip} {text} bra end; over: exit; end:", words(32), words(32))
        with pytest.raises(DivergentCollective):
            run(f"setp.lt.u32 %p0, %id, 16; @%p0 {text}", words(32), words(32))


def test_threads_that_come_by_another_way_are_waited_for() -> None:
    """A backward jump reaches the collective later; the hardware waits, and so does the machine."""
    x, y = words(32), np.zeros(32, np.uint32)
    body = f"""{pointers(4)}
        setp.lt.u32 %p0, %id, 16; @%p0 bra late;
        meet: shfl.sync.bfly.b32 %r0, %id, 16, 31, -1;
        vote.sync.ballot.b32 %r1, %p0, -1;
        st.global.v2.u32 [%rd1], {{%r0, %r1}};
        bra done;
        late: bra meet;
        done:""".replace("%gid, 4, %rd1", "%gid, 8, %rd1")
    y = np.zeros(64, np.uint32)
    body = body.replace(pointers(4), pointers(8))
    run(body, words(64), y)
    assert (y[::2] == np.arange(32) ^ 16).all()
    assert (y[1::2] == 0xFFFF).all()
    assert x.any()


def test_members_must_name_their_thread() -> None:
    with pytest.raises(DivergentCollective, match="own member mask"):
        run("shfl.sync.bfly.b32 %r0, %id, 1, 31, 0xFFFF;", words(32), words(32))


def test_a_shuffle_from_a_lane_that_takes_no_part() -> None:
    body = """setp.lt.u32 %p0, %id, 16; @%p0 bra over;
        shfl.sync.bfly.b32 %r0, %id, 16, 31, 0xFFFF0000; over:"""
    with pytest.raises(UndefinedShuffle, match="lane 16 reads lane 0"):
        run(body, words(32), words(32))


def test_a_block_that_ends_inside_a_warp() -> None:
    """Threads the block never had are no members; barriers do not wait for them."""
    y = np.zeros(40, np.uint32)
    body = f"""{pointers(4)}
        vote.sync.ballot.b32 %r0, 1, -1; bar.sync 0; st.global.u32 [%rd1], %r0;"""
    body = body.replace("%r0, 1,", "%r0, %p0,").replace("vote", "setp.eq.u32 %p0, 0, 0; vote")
    run(body, words(40), y, threads=40)
    assert y.tolist() == [ALL] * 32 + [0xFF] * 8
    with pytest.raises(DivergentCollective, match="do not exist"):
        run("movmatrix.sync.aligned.m8n8.trans.b16 %r0, %id;", words(40), y, threads=40)


# -- ldmatrix, stmatrix, movmatrix -------------------------------------------------------------
def matrices(count: int, trans: bool, halves: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``ldmatrix``: register r of lane l holds row l/4 (or column), elements 2(l%4) and +1."""
    out = np.zeros((count, 32), np.uint32)
    for r in range(count):
        for lane in LANES:
            pair = []
            for part in range(2):
                i, j = lane // 4, 2 * (lane % 4) + part
                i, j = (j, i) if trans else (i, j)
                pair.append(int(halves[rows[8 * r + i] // 2 + j]))
            out[r, lane] = pair[0] | pair[1] << 16
    return out


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("trans", [False, True])
def test_ldmatrix_and_stmatrix(count: int, trans: bool) -> None:
    """Rows at addresses in any order; then the same back to the transposed or plain place."""
    rng = np.random.default_rng(count)
    rows = (rng.permutation(64)[:32] * 16).astype(np.uint32)
    halves = rng.integers(0, 1 << 16, 512).astype(np.uint16)
    registers = ", ".join(f"%r{10 + i}" for i in range(count))
    dot = ".trans" if trans else ""
    body = f"""
        ld.param.u64 %rd0, [x]; mov.u32 %r0, s; mad.lo.u32 %r1, %id, 32, %r0;
        mad.wide.u32 %rd1, %id, 32, %rd0;
        ld.global.v4.u32 {{%r2, %r3, %r4, %r5}}, [%rd1];
        ld.global.v4.u32 {{%r6, %r7, %r8, %r9}}, [%rd1+16];
        st.shared.v4.u32 [%r1], {{%r2, %r3, %r4, %r5}};
        st.shared.v4.u32 [%r1+16], {{%r6, %r7, %r8, %r9}};
        ld.param.u64 %rd2, [rows]; mad.wide.u32 %rd2, %id, 4, %rd2; ld.global.u32 %r2, [%rd2];
        add.u32 %r2, %r2, %r0;
        bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x{count}{dot}.shared.b16 {{{registers}}}, [%r2];
        ld.param.u64 %rd3, [y];
        mad.wide.u32 %rd4, %id, 4, %rd3;
        {"".join(f"st.global.u32 [%rd4+{128 * i}], %r{10 + i};" for i in range(count))}
        bar.sync 0;
        stmatrix.sync.aligned.m8n8.x{count}{dot}.shared.b16 [%r2], {{{registers}}};
        bar.sync 0;
        ld.shared.v4.u32 {{%r2, %r3, %r4, %r5}}, [%r1];
        ld.shared.v4.u32 {{%r6, %r7, %r8, %r9}}, [%r1+16];
        ld.param.u64 %rd5, [z]; mad.wide.u32 %rd5, %id, 32, %rd5;
        st.global.v4.u32 [%rd5], {{%r2, %r3, %r4, %r5}};
        st.global.v4.u32 [%rd5+16], {{%r6, %r7, %r8, %r9}};"""
    text = kernel(
        body,
        params=".param .u64 x, .param .u64 rows, .param .u64 y, .param .u64 z",
        declare=".shared .align 16 .b8 s[1024];",
    )
    out, back = np.zeros((count, 32), np.uint32), np.zeros(512, np.uint16)
    Interpreter(text).launch("k", 1, 32, [halves, rows, out, back])
    assert (out == matrices(count, trans, halves, rows)).all()
    assert (back == halves).all()  # storing what was loaded, the same way, changes nothing


def test_movmatrix_transposes() -> None:
    values = np.random.default_rng(1).integers(0, 1 << 32, 32, dtype=np.uint64).astype(np.uint32)
    got = evaluate(
        "movmatrix.sync.aligned.m8n8.trans.b16 %d, %a;", "u32", ("u32", values), block=32
    )
    matrix = values.view(np.uint16).reshape(8, 8)
    assert (got.view(np.uint16).reshape(8, 8) == matrix.T).all()


@pytest.mark.parametrize(
    ("stride", "degree"), [(16, 1), (32, 2), (64, 4), (128, 8), (144, 1), (80, 1)]
)
def test_ldmatrix_counts_bank_conflicts(stride: int, degree: int) -> None:
    """Eight rows `stride` bytes apart take that many wavefronts."""
    body = f"""
        mov.u32 %r0, s; mad.lo.u32 %r1, %id, {stride}, %r0;
        st.shared.v4.u32 [%r1], {{%id, %id, %id, %id}};
        bar.sync 0;
        ldmatrix.sync.aligned.m8n8.x4.shared.b16 {{%r2, %r3, %r4, %r5}}, [%r1];"""
    report = run(body, words(1), words(1), declare=".shared .align 16 .b8 s[4608];")
    assert report.worst_conflict("ldmatrix") == degree
    assert report.extra_wavefronts("ldmatrix") == 4 * (degree - 1)
    (found,) = [c for c in report.conflicts if c.mnemonic.startswith("ldmatrix")]
    assert found.accesses == 4


@pytest.mark.parametrize(
    ("address", "access", "degree"),
    [
        ("shl.b32 %r1, %id, 2;", "ld.shared.u32 %r2, [%r1]", 1),
        ("shl.b32 %r1, %id, 3;", "ld.shared.u32 %r2, [%r1]", 2),
        ("shl.b32 %r1, %id, 7;", "ld.shared.u32 %r2, [%r1]", 32),
        ("mov.u32 %r1, 64;", "ld.shared.u32 %r2, [%r1]", 1),  # a broadcast
        ("mul.lo.u32 %r1, %id, 132;", "ld.shared.u32 %r2, [%r1]", 1),
        ("shl.b32 %r1, %id, 1;", "ld.shared.u16 %h0, [%r1]", 1),
        ("shl.b32 %r1, %id, 3;", "ld.shared.v2.u32 {%r2, %r3}, [%r1]", 1),
        ("shl.b32 %r1, %id, 4;", "ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r1]", 1),
        ("shl.b32 %r1, %id, 5;", "ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r1]", 2),
        ("and.b32 %r1, %id, 3; shl.b32 %r1, %r1, 7;", "ld.shared.u32 %r2, [%r1]", 4),
    ],
)
def test_loads_count_bank_conflicts(address: str, access: str, degree: int) -> None:
    text = kernel(f"{address} {access};", declare=".shared .align 16 .b8 s[4352];")
    report = Interpreter(text, check_races=False).launch("k", 1, 32, [])
    assert report.worst_conflict("ld.shared") == degree


def test_threads_that_take_no_part_cause_no_conflict() -> None:
    text = kernel(
        """and.b32 %r2, %id, 3; setp.eq.u32 %p0, %r2, 0; shl.b32 %r1, %id, 5;
        @%p0 ld.shared.u32 %r3, [%r1];""",
        declare=".shared .align 16 .b8 s[1024];",
    )
    report = Interpreter(text, check_races=False).launch("k", 1, 32, [])
    (found,) = report.conflicts
    assert (found.accesses, found.degree, found.extra) == (1, 8, 7)


def test_phases_without_threads_are_not_counted() -> None:
    """Sixteen bytes a thread are served eight threads at a time; here only two phases have any."""
    text = kernel(
        """setp.lt.u32 %p0, %id, 10; shl.b32 %r1, %id, 4;
        @%p0 ld.shared.v4.u32 {%r2, %r3, %r4, %r5}, [%r1];""",
        declare=".shared .align 16 .b8 s[1024];",
    )
    report = Interpreter(text, check_races=False).launch("k", 3, 32, [])
    (found,) = report.conflicts
    assert (found.accesses, found.degree, found.extra) == (3 * 2, 1, 0)


def test_unknown_forms() -> None:
    for text in (
        "ldmatrix.sync.aligned.m16n16.x1.shared.b8 {%r0}, [%r1];",
        "vote.ballot.b32 %r0, %p0;",
        "shfl.sync.left.b32 %r0, %r1, 1, 31, -1;",
        "redux.sync.mul.u32 %r0, %r1, -1;",
    ):
        with pytest.raises(UnknownOpcode):
            run(text, words(1), words(1))
