"""A whole kernel, as a compiler wrote it (``ptx/data/gemm24.cu``), and mutants of it.

Axes: shapes with full and ragged tiles, one to many steps; warp orders; batches. Products are of
small integers, so results are compared bit by bit. A mutant must be refused by its named error, or
shown by the report where only speed suffers, or by the values where nothing else can see it.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from ptx import (
    IllegalSelector,
    Interpreter,
    InvalidMetadata,
    OutOfBounds,
    PtxError,
    RaceError,
    Report,
    UninitialisedRead,
)
from ptx.machine import Order

TEXT = (Path(__file__).parent / "ptx" / "data" / "gemm24.ptx").read_text()
SHARED = 3 * (64 * 64 + 64 * 128)
PAIRS = np.array([(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)])


class Problem:
    """A random product: dense A in `dense`, its parts as the kernel takes them, X."""

    def __init__(self, m: int, n: int, k: int, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.m, self.n, self.k = m, n, k
        rows = -(-m // 64) * 64  # metadata comes for whole tiles, values do not
        places = PAIRS[rng.integers(0, 6, (rows, k // 4))]
        values = rng.integers(-4, 5, (rows, k // 4, 2))
        dense = np.zeros((rows, k // 4, 4))
        np.put_along_axis(dense, places, values, axis=2)
        self.dense = dense.reshape(rows, k)[:m]
        self.a = values.reshape(rows, k // 2)[:m].astype(np.float16)
        self.x = rng.integers(-4, 5, (k, n)).astype(np.float16)
        self.meta = self.words(places[..., 0] | places[..., 1] << 2)

    def words(self, nibbles: np.ndarray) -> np.ndarray:
        """Metadata words, shape (rows / 16, k / 64, 32): lane 4 g + t has rows g and g + 8."""
        tiles = nibbles.reshape(-1, 16, self.k // 64, 4, 4).astype(np.uint32)
        out = np.zeros((len(tiles), self.k // 64, 32), np.uint32)
        for lane in range(32):
            for i in range(4):
                low, high = (tiles[:, lane // 4 + h, :, lane % 4, i] for h in (0, 8))
                out[:, :, lane] |= low << np.uint32(4 * i) | high << np.uint32(16 + 4 * i)
        return out

    def run(
        self,
        text: str = TEXT,
        order: Order = "forward",
        shared: int = SHARED,
        batch: int = 64,
    ) -> tuple[np.ndarray, Report]:
        machine = Interpreter(text, order=order, seed=7, batch=batch)
        memory = machine.memory
        fresh = np.zeros((self.m, self.n), np.float16)
        c = memory.to_device(fresh, initialised=False, name="c")
        grid = (self.n // 64, -(-self.m // 64))
        args = [self.a, self.meta, self.x, c, self.m, self.n, self.k]
        report = machine.launch("gemm24", grid, 128, args, shared)
        return memory.to_host(c, (self.m, self.n), np.float16), report

    @property
    def want(self) -> np.ndarray:
        return (self.dense @ self.x.astype(np.float64)).astype(np.float16)


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(64, 64, 64), (64, 128, 128), (120, 64, 256), (1, 64, 192), (200, 192, 320)]
)
def test_the_kernel_computes_the_product(m: int, n: int, k: int, order: Order) -> None:
    problem = Problem(m, n, k, seed=m)
    got, report = problem.run(order=order)
    assert (got == problem.want).all()
    blocks = n // 64 * -(-m // 64)
    assert report.count("mma.sp") == blocks * 4 * (k // 64) * 16
    assert report.worst_conflict("ldmatrix") == 1
    assert report.worst_conflict("cp.async") == 1
    assert report.shared_bytes == SHARED


def test_batches_do_not_show() -> None:
    problem = Problem(256, 128, 128)
    for batch in (1, 3):
        got, _ = problem.run(batch=batch)
        assert (got == problem.want).all()


def test_it_is_fast_enough_to_be_used() -> None:
    """256 x 256 x 256 takes 0.1 s on one core; the bound leaves room for slow and busy machines."""
    problem = Problem(256, 256, 256)
    start = time.process_time()
    problem.run()
    assert time.process_time() - start < 5


# -- mutants ---------------------------------------------------------------------------------------
def replaced(old: str, new: str, count: int = 0) -> str:
    """The kernel with a pattern replaced, `count` times (0: everywhere); it must be there."""
    text, found = re.subn(old, new, TEXT, count=count)
    assert found, f"{old} is not in the kernel"
    return text


def without_swizzle() -> str:
    """X stored plainly: the write side keeps its chunk (%r1, %r7), the read side its column."""
    head, tail = TEXT.split("ldmatrix", 1)
    head, a = re.subn(r"xor\.b32  (\t%r\d+), %r\d+, (%r[17]);", r"mov.b32 \1, \2;", head)
    tail, b = re.subn(r"xor\.b32  (\t%r\d+), (%r\d+), %r7;", r"mov.b32 \1, \2;", tail)
    assert (a, b) == (12, 4)
    return head + "ldmatrix" + tail


Errors = type[PtxError] | tuple[type[PtxError], ...]
REFUSED: dict[str, tuple[Callable[[], str], Errors, str]] = {
    "no wait": (lambda: replaced(r"cp\.async\.wait_group 1;", ""), RaceError, "MissingWait"),
    "a wait that comes one group too late": (
        lambda: replaced(r"wait_group 1;", "wait_group 2;"),
        RaceError,
        "MissingWait",
    ),
    # Where a warp comes before those that fill its stage, it reads what nobody wrote yet.
    "no barrier": (
        lambda: replaced(r"bar\.sync \t0;", ""),
        (RaceError, UninitialisedRead),
        "Missing|WriteAfterRead|nobody wrote",
    ),
    "a barrier before the wait": (
        lambda: replaced(r"(cp\.async\.wait_group 1;)\s+(bar\.sync \t0;)", r"\2 \1", count=1),
        RaceError,
        "Missing",
    ),
    "no commits in the loop": (
        lambda: TEXT.replace("cp.async.commit_group;", "").replace(
            "cp.async.wait_group 1;", "cp.async.wait_group 0;"
        ),
        RaceError,
        "MissingWait",
    ),
    "one row of A too many": (
        lambda: replaced(r"setp\.lt\.s32 (\t%p\d+, %r\d+, %r48);", r"setp.le.s32 \1;"),
        OutOfBounds,
        "param_0",
    ),
    "one row of C too many": (
        lambda: replaced(r"setp\.ge\.s32 (\t%p\d+, %r\d+, %r48);", r"setp.gt.s32 \1;"),
        OutOfBounds,
        "c has",
    ),
    "a selector that does not exist": (
        lambda: replaced(r"(\}, %r\d+), 1;", r"\1, 2;"),
        IllegalSelector,
        "selector 2",
    ),
    "rows of A without a bound": (
        lambda: replaced(r"selp\.b32 (\t%r\d+), 16, 0, %p\d+;", r"mov.b32 \1, 16;"),
        OutOfBounds,
        "param_0",
    ),
}


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("name", REFUSED)
def test_a_mutant_is_refused(name: str, order: Order) -> None:
    text, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        Problem(120, 64, 320).run(text(), order=order)


WRONG: dict[str, Callable[[], str]] = {
    "selectors swapped": lambda: replaced(r"(\}, %r\d+), 1;", r"\1, 0;"),
    "no transposition": lambda: replaced(r"\.trans", ""),
    "rows of a half swapped": lambda: replaced(
        r"cvt\.rn\.f16x2\.f32 (%r\d+), (%f\d+), (%f\d+);", r"cvt.rn.f16x2.f32 \1, \3, \2;"
    ),
    "B's registers swapped": lambda: replaced(
        r"(\{%r\d+, %r\d+, %r\d+, %r\d+\}, )\{(%r\d+), (%r\d+), (%r\d+), (%r\d+)\}(, \{%f)",
        r"\1{\3, \2, \4, \5}\6",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_mutant_that_breaks_no_rule_computes_something_else(name: str) -> None:
    problem = Problem(64, 64, 128)
    got, _ = problem.run(WRONG[name]())
    assert (got != problem.want).any()


def test_a_mutant_that_is_only_slow_shows_in_the_report() -> None:
    problem = Problem(64, 64, 128)
    got, report = problem.run(without_swizzle())
    assert (got == problem.want).all()
    assert report.worst_conflict("ldmatrix") == 8
    assert report.extra_wavefronts("ldmatrix") > 0


def test_too_little_shared_memory() -> None:
    with pytest.raises(OutOfBounds, match=f"the block has {SHARED - 16}"):
        Problem(64, 64, 192).run(shared=SHARED - 16)


def test_metadata_halves_swapped_and_padding_left_zero() -> None:
    problem = Problem(64, 64, 64)
    problem.meta = problem.meta << np.uint32(16) | problem.meta >> np.uint32(16)
    got, _ = problem.run()
    assert (got != problem.want).any()
    problem.meta[:] = 0
    with pytest.raises(InvalidMetadata, match="row 0, columns 0 to 3"):
        problem.run()
