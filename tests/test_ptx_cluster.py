"""Clusters and tensor copies in the interpreter: values, what is shared and ordered, misuse."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from ptx import (
    BarrierDeadlock,
    BarrierMisuse,
    Interpreter,
    InvalidOperand,
    LaunchError,
    Misaligned,
    OutOfBounds,
    RaceError,
    TensorMap,
    UnknownOpcode,
)
from ptx.snippets import kernel

SHARED = ".shared .align 1024 .b8 s[2048]; .shared .align 8 .b64 bars[1];"
PARAMS = ".param .align 64 .b8 m[128], .param .u64 y"
BOX_ROWS = 8
BOX_BYTES = BOX_ROWS * 128
SYNC = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;"
BEGIN = f"""
    mov.u32 %r20, %cluster_ctarank; setp.eq.u32 %p0, %id, 0; setp.eq.u32 %p2, %r20, 0;
    and.pred %p3, %p0, %p2; not.pred %p4, %p2; and.pred %p4, %p0, %p4;
    @%p0 mbarrier.init.shared::cta.b64 [bars], 1;
    @%p0 fence.mbarrier_init.release.cluster;
    {SYNC}
    mov.b64 %rd5, m; cvta.param.u64 %rd5, %rd5;"""
EXPECT = f"@%p0 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bars], {BOX_BYTES};"
COPY = "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes"
WAIT = """
    again: mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p1, [bars], 0;
    @!%p1 bra again;"""
# Each of the 32 threads stores 32 bytes of the box, block after block.
STORE = """
    mov.u32 %r5, s; mad.lo.u32 %r5, %id, 32, %r5; ld.param.u64 %rd1, [y];
    mad.wide.u32 %rd1, %gid, 32, %rd1;
    ld.shared.v4.u32 {%r6, %r7, %r8, %r9}, [%r5]; st.global.v4.u32 [%rd1], {%r6, %r7, %r8, %r9};
    ld.shared.v4.u32 {%r6, %r7, %r8, %r9}, [%r5+16];
    st.global.v4.u32 [%rd1+16], {%r6, %r7, %r8, %r9};"""


def launch(
    body: str, x: Any = None, blocks: int = 2, order: Any = "forward", y: Any = None,
    **changes: Any,
) -> np.ndarray:  # fmt: skip
    """Run a body on clusters of two blocks; return what was stored, 512 elements a block."""
    x = np.arange(1, 1 + 20 * 72, dtype=np.uint16).reshape(20, 72) if x is None else x
    text = kernel(body, params=PARAMS, declare=SHARED)
    text = text.replace(")\n{", ")\n.explicitcluster\n.reqnctapercluster 2, 1, 1\n{", 1)
    machine = Interpreter(text, order=order)
    address = machine.memory.to_device(x, name="x")
    given = {"columns": x.shape[1], "rows": x.shape[0], "pitch": x.strides[0]} | changes
    box = TensorMap(address, box_columns=64, box_rows=BOX_ROWS, size=2, **given)
    y = np.zeros((blocks, BOX_ROWS, 64), np.uint16) if y is None else y
    machine.launch("k", blocks, 32, [box.encode(), y])
    return y


def box_of(x: np.ndarray, column: int, row: int) -> np.ndarray:
    """Return a box as the ISA has it: zeros beyond the edges, chunk c of row r at c ^ r."""
    whole = np.zeros((BOX_ROWS, 64), x.dtype)
    for r in range(BOX_ROWS):
        for c in range(64):
            if 0 <= row + r < x.shape[0] and 0 <= column + c < x.shape[1]:
                whole[r, c] = x[row + r, column + c]
    chunks = whole.reshape(BOX_ROWS, 8, 8)
    return np.stack([[chunks[r, c ^ r % 8] for c in range(8)] for r in range(BOX_ROWS)]).reshape(
        BOX_ROWS, 64
    )


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize(("column", "row"), [(0, 0), (8, 3), (40, 16), (-16, -2), (72, 0), (0, 20)])
def test_a_box_lies_as_it_should(column: int, row: int, order: Any) -> None:
    """Inside, over every edge, and outside, where all of it is zeros and counts all the same."""
    x = np.arange(1, 1 + 20 * 72, dtype=np.uint16).reshape(20, 72)
    body = f"{BEGIN} {EXPECT} @%p0 {COPY} [s], [%rd5, {{{column}, {row}}}], [bars]; {WAIT} {STORE}"
    y = launch(body, x, order=order)
    np.testing.assert_array_equal(y, np.stack([box_of(x, column, row)] * 2))


def test_rows_may_be_further_apart_than_they_are_long() -> None:
    """What stands behind a row is not read: the map ends before it."""
    x = np.arange(20 * 72, dtype=np.uint16).reshape(20, 72)
    body = f"{BEGIN} {EXPECT} @%p0 {COPY} [s], [%rd5, {{8, 0}}], [bars]; {WAIT} {STORE}"
    y = launch(body, x, columns=40)
    np.testing.assert_array_equal(y[0], box_of(x[:, :40], 8, 0))


MULTICAST = f"""{BEGIN} {EXPECT} mov.u16 %h0, 3;
    @%p3 {COPY}.multicast::cluster [s], [%rd5, {{0, 4}}], [bars], %h0; {WAIT} {STORE}"""


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_multicast_reaches_every_block_that_is_named(order: Any) -> None:
    x = np.arange(1, 1 + 20 * 72, dtype=np.uint16).reshape(20, 72)
    y = launch(MULTICAST, x, blocks=4, order=order)
    np.testing.assert_array_equal(y, np.stack([box_of(x, 0, 4)] * 4))


def test_multicast_of_bytes_in_a_row() -> None:
    """As boxes, without a map: from behind what is stored."""
    row = "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster"
    body = f"""{BEGIN} {EXPECT} mov.u16 %h0, 3; ld.param.u64 %rd6, [y];
    @%p4 {row} [s], [%rd6+{2 * BOX_BYTES}], {BOX_BYTES}, [bars], %h0; {WAIT} {STORE}"""
    y = np.arange(3 * BOX_ROWS * 64, dtype=np.uint16).reshape(3, BOX_ROWS, 64)
    np.testing.assert_array_equal(launch(body, y=y), np.stack([y[2]] * 3))


HAND_OVER = f"""{BEGIN}
    mapa.shared::cluster.u32 %r3, %r21, %r22;
    @%p4 mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r3];
    @!%p2 bra done; {WAIT} done: {SYNC}""".replace(
    "mapa", "mov.u32 %r21, bars; mov.u32 %r22, 0; mapa"
)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
def test_an_arrival_reaches_another_block(order: Any) -> None:
    """Block 1 arrives at block 0's barrier, block 0 waits for it."""
    launch(HAND_OVER, order=order)


STAGE = f"""{BEGIN} mov.u16 %h0, 3; mov.u32 %r21, bars; mov.u32 %r22, 1;
    mapa.shared::cluster.u32 %r3, %r21, %r22; mov.u32 %r5, s;
    @%p2 bra reads;
    {{wait}}
    @%p0 {COPY}.multicast::cluster [s], [%rd5, {{{{0, 0}}}}], [bars], %h0;
    bra done;
    reads: {{read}} bar.warp.sync -1;
    @%p0 mbarrier.arrive.release.{{scope}}.shared::cluster.b64 _, [%r3];
    done: {SYNC}"""
READ = "ld.shared.u32 %r6, [%r5];"
WRITE = "st.shared.u32 [%r5], %r22;"


@pytest.mark.parametrize(
    ("action", "scope", "waits", "kind"),
    [
        (WRITE, "cluster", "cluster", ""),
        (WRITE, "cta", "cluster", "MissingBarrier"),
        (WRITE, "cluster", "cta", "MissingBarrier"),
        (WRITE, "cluster", "", "MissingBarrier"),
        (READ, "cta", "cta", ""),
        (READ, "cluster", "cluster", ""),
        (READ, "cta", "", "WriteAfterRead"),
    ],
)
def test_what_an_arrival_in_another_block_orders(
    action: str, scope: str, waits: str, kind: str
) -> None:
    """Block 0 used its shared memory, block 1 overwrites it by multicast: reads are over at any
    scope, writes are ordered at the scope of the cluster alone.
    """
    wait = WAIT.replace("acquire.cta", f"acquire.{waits}") if waits else ""
    text = STAGE.format(wait=wait, read=action, scope=scope)
    text = (
        text.replace(BEGIN, f"{BEGIN} @%p0 st.shared.u32 [s], 0;{SYNC}") if action == READ else text
    )
    only = "setp.ne.u32 %p5, %id, 0; @%p5 bra over; {} over:"
    text = text.replace(action, only.format(action))
    # The copy tells both barriers of bytes that nobody expects: blocks may not end under it.
    text = text.replace(f"done: {SYNC}", f"done: {SYNC} {SYNC}")
    if not kind:
        launch(text)
        return
    with pytest.raises(RaceError, match=kind):
        launch(text)


@pytest.mark.parametrize(
    ("body", "error", "message"),
    [
        (f"{BEGIN} mov.u32 %r1, 2; mapa.shared::cluster.u32 %r2, %r1, %r1;", OutOfBounds, "mapa"),
        (MULTICAST.replace("%h0, 3", "%h0, 4"), OutOfBounds, "multicast to 0b100"),
        (MULTICAST.replace("%h0, 3", "%h0, 1"), BarrierDeadlock, "1024 bytes missing"),
        (MULTICAST.replace("[s]", "[s+64]"), Misaligned, "no multiple of 128"),
        (MULTICAST.replace("[s]", "[s+1152]"), OutOfBounds, "2048|beyond|bytes"),
        (MULTICAST.replace("cvta.param.u64 %rd5, %rd5;", "ld.param.u64 %rd5, [y];"),
         InvalidOperand, "no tensor map"),
        (MULTICAST.replace("cvta.param.u64 %rd5, %rd5;",
                           "cvta.param.u64 %rd5, %rd5; add.u64 %rd5, %rd5, 32;"),
         Misaligned, "multiple of 64"),
        (MULTICAST.replace("[%rd5, {0, 4}]", "[%rd5, {0}]"), InvalidOperand, "column, row"),
        (MULTICAST.replace(".2d", ".3d"), UnknownOpcode, "3d"),
        (MULTICAST.replace(SYNC, "bar.sync 0;", 1), RaceError, "no barrier after"),
        (MULTICAST.replace("@%p0 fence.mbarrier_init.release.cluster;", ""), RaceError,
         "MissingFence"),
        (HAND_OVER.replace(f"done: {SYNC}", "done:").replace(WAIT, ""), BarrierMisuse, "has ended"),
        (BEGIN + SYNC.split(";")[0] + ";" + SYNC, BarrierMisuse, "arrives twice"),
        (BEGIN + SYNC.split(";")[1] + ";", BarrierMisuse, "without an arrival"),
        (BEGIN + "@%p2 bra done; " + SYNC + " bra out; done: again: mbarrier.try_wait.parity"
         ".shared::cta.b64 %p1, [bars], 0; @!%p1 bra again; out:", BarrierDeadlock, "no longer"),
        (WAIT.replace("shared::cta", "shared::cluster"), InvalidOperand, "own block"),
    ],
)  # fmt: skip
def test_misuse_is_an_error(body: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        launch(body, order="reverse")


def test_a_block_that_leaves_is_not_waited_for() -> None:
    """Threads that have left count as arrived."""
    launch(f"{BEGIN} @%p2 ret; {SYNC}")


def test_grids_are_made_of_whole_clusters() -> None:
    with pytest.raises(LaunchError, match="not made of clusters of 2 blocks"):
        launch(BEGIN, blocks=3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pitch": 72}, "multiples of 16 bytes"),
        ({"columns": 0}, "1 to 2\\^32"),
        ({"rows": 0}, "1 to 2\\^32"),
    ],
)
def test_maps_that_the_driver_refuses(change: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidOperand, match=message):
        launch(BEGIN, **change)
    with pytest.raises(InvalidOperand, match="128 bytes"):
        TensorMap(0, 64, 64, 128, 32, 8, 2)
    with pytest.raises(InvalidOperand, match="1 to 256"):
        TensorMap(0, 64, 64, 128, 64, 300, 2)
