"""``cp.async``: sizes, zero fill, groups, misuse."""

from __future__ import annotations

import numpy as np
import pytest
from ptx import (
    Interpreter,
    InvalidOperand,
    Misaligned,
    OutOfBounds,
    RaceError,
    UnknownOpcode,
)
from ptx.snippets import kernel, pointers, run, words

COPY = """
    ld.param.u64 %rd0, [x]; mad.wide.u32 %rd0, %id, {n}, %rd0;
    mov.u32 %r0, s; mad.lo.u32 %r0, %id, {n}, %r0;
    {copy}
    cp.async.commit_group; cp.async.wait_group 0;
    ld.shared.u32 %r1, [%r0];
    ld.param.u64 %rd1, [y]; mad.wide.u32 %rd1, %id, 4, %rd1; st.global.u32 [%rd1], %r1;
"""
SHARED = ".shared .align 16 .b8 s[1024];"


@pytest.mark.parametrize(
    ("form", "nbytes"), [("ca", 4), ("ca", 8), ("ca", 16), ("cg", 16), ("ca.L2", 8), ("policy", 16)]
)
def test_async_copies(form: str, nbytes: int) -> None:
    x, y = words(32 * nbytes // 4), np.zeros(32, np.uint32)
    text = f"cp.async.{form[:2]}.shared.global [%r0], [%rd0], {nbytes};"
    if form == "ca.L2":
        text = f"cp.async.ca.shared.global.L2::128B [%r0], [%rd0], {nbytes};"
    if form == "policy":
        text = f"""createpolicy.fractional.L2::evict_first.b64 %rd9, 1.0;
            cp.async.cg.shared.global.L2::cache_hint [%r0], [%rd0], {nbytes}, %rd9;"""
    report = run(COPY.format(n=nbytes, copy=text), x, y, declare=SHARED)
    assert (y == x[:: nbytes // 4]).all()
    assert report.worst_conflict("cp.async") == 1


@pytest.mark.parametrize("nbytes", [4, 8, 16])
def test_a_shorter_source_is_filled_up_with_zeros(nbytes: int) -> None:
    x = words(32 * nbytes, np.uint8)
    counts = np.arange(32, dtype=np.uint32) % (nbytes + 1)
    out = np.zeros(32 * nbytes, np.uint8)
    body = f"""
        ld.param.u64 %rd0, [x]; mad.wide.u32 %rd0, %id, {nbytes}, %rd0;
        ld.param.u64 %rd2, [n]; mad.wide.u32 %rd2, %id, 4, %rd2; ld.global.u32 %r2, [%rd2];
        mov.u32 %r0, s; mad.lo.u32 %r0, %id, {nbytes}, %r0;
        cp.async.ca.shared.global [%r0], [%rd0], {nbytes}, %r2;
        cp.async.wait_all; bar.sync 0;
        ld.param.u64 %rd1, [y];
        mov.u32 %r3, 0;
        again: mad.lo.u32 %r4, %r3, 32, %id;
        mov.u32 %r5, s; add.u32 %r5, %r5, %r4; ld.shared.u8 %r6, [%r5];
        cvt.u64.u32 %rd3, %r4; add.u64 %rd3, %rd3, %rd1; st.global.u8 [%rd3], %r6;
        add.u32 %r3, %r3, 1; setp.lt.u32 %p0, %r3, {nbytes}; @%p0 bra again;"""
    text = kernel(body, params=".param .u64 x, .param .u64 n, .param .u64 y", declare=SHARED)
    Interpreter(text).launch("k", 1, 32, [x, counts, out])
    keep = np.arange(nbytes) < counts[:, None]
    assert (out.reshape(32, nbytes) == np.where(keep, x.reshape(32, nbytes), 0)).all()


def test_a_source_that_is_not_read_may_be_anywhere() -> None:
    x, y = words(32), np.zeros(32, np.uint32)
    body = COPY.format(
        n=4,
        copy="""setp.ge.u32 %p0, %id, 16; selp.u32 %r2, 0, 4, %p0; selp.b64 %rd0, 1, %rd0, %p0;
            cp.async.ca.shared.global [%r0], [%rd0], 4, %r2;""",
    )
    run(body, x, y, declare=SHARED)
    assert (y == np.where(np.arange(32) < 16, x, 0)).all()
    run(body.replace("4, %r2;", "4, %p0;"), x, y * 0, declare=SHARED)
    with pytest.raises((OutOfBounds, Misaligned)):
        run(body.replace("4, %r2;", "4;"), x, y, declare=SHARED)


@pytest.mark.parametrize(
    ("copy", "error"),
    [
        ("cp.async.cg.shared.global [%r0], [%rd0], 8;", InvalidOperand),
        ("cp.async.ca.shared.global [%r0], [%rd0], 12;", InvalidOperand),
        ("mov.u32 %r3, 5; cp.async.ca.shared.global [%r0], [%rd0], 4, %r3;", InvalidOperand),
        ("cp.async.ca.shared.global [%r0+2], [%rd0], 4;", Misaligned),
        ("cp.async.ca.shared.global [%r0], [%rd0+2], 4;", Misaligned),
        ("cp.async.ca.shared.global [%r0+2048], [%rd0], 4;", OutOfBounds),
        ("cp.async.ca.shared.global [%r0], [%rd0+4096], 4;", OutOfBounds),
        ("cp.async.mbarrier.arrive.shared.b64 [%r0];", UnknownOpcode),
        ("cp.async.bulk.commit_group;", UnknownOpcode),
    ],
)
def test_misuse_of_async_copies(copy: str, error: type) -> None:
    x, y = words(32), np.zeros(32, np.uint32)
    with pytest.raises(error):
        run(COPY.format(n=4, copy=copy), x, y, declare=SHARED)


def test_groups_land_in_order() -> None:
    """Three groups; after each wait exactly those that must have landed can be read."""
    x = words(96)
    y = np.zeros(96, np.uint32)
    issue = "".join(
        f"""cp.async.ca.shared.global [%r0+{128 * i}], [%rd0+{128 * i}], 4;
            cp.async.commit_group;"""
        for i in range(3)
    )
    take = """ld.shared.u32 %r1, [%r0+{o}]; st.global.u32 [%rd1+{o}], %r1;"""
    good = f"""{pointers(4)}
        mov.u32 %r0, s; mad.lo.u32 %r0, %id, 4, %r0;
        {issue}
        cp.async.wait_group 2; {take.format(o=0)}
        cp.async.wait_group 1; {take.format(o=128)}
        cp.async.wait_group 0; {take.format(o=256)}"""
    run(good, x, y, declare=SHARED)
    assert (y == x).all()
    for newest, offset in ((2, 128), (1, 256)):
        bad = f"""{pointers(4)}
            mov.u32 %r0, s; mad.lo.u32 %r0, %id, 4, %r0;
            {issue} cp.async.wait_group {newest}; {take.format(o=offset)}"""
        with pytest.raises(RaceError, match="MissingWait"):
            run(bad, x, y, declare=SHARED)


def test_groups_belong_to_threads() -> None:
    """Odd threads commit one group more; each waits for its own."""
    x, y = words(64), np.zeros(64, np.uint32)
    body = f"""{pointers(4)}
        mov.u32 %r0, s; mad.lo.u32 %r0, %id, 4, %r0;
        cp.async.ca.shared.global [%r0], [%rd0], 4; cp.async.commit_group;
        and.b32 %r1, %id, 1; setp.eq.u32 %p0, %r1, 1; @!%p0 bra even;
        cp.async.commit_group; cp.async.wait_group 1; bra join;
        even: cp.async.wait_group {{n}};
        join: ld.shared.u32 %r2, [%r0]; st.global.u32 [%rd1], %r2;"""
    run(body.format(n=0), x, y, threads=64, declare=SHARED)
    assert (y == x).all()
    with pytest.raises(RaceError, match=r"MissingWait(.|\n)*thread 0"):
        run(body.format(n=1), x, y, threads=64, declare=SHARED)
