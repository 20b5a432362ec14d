"""Items of the Hopper kernel that are cut along their slots: exact, deterministic, and even."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from epilogue_problems import expected, near
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter_launcher import InterpreterLauncher, UnwrittenError
from kernel_problems import (
    BFLOAT16,
    FLOAT16,
    Product,
    draw_tiles,
    exact,
    integers,
    normals,
    storage_of,
)
from mutants import Mutant, WrongResultError, altered, raise_what_is_wrong
from ptx import OutOfBounds, RaceError, UninitialisedRead
from test_compile import machine_code

from tvwarray import Epilogue
from tvwarray._kernels import product as product_module
from tvwarray._kernels import workspace
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.cost import Problem
from tvwarray._kernels.devices import DEVICES
from tvwarray._kernels.hopper import cut
from tvwarray._kernels.hopper.config import hopper_configs
from tvwarray._kernels.hopper.cost import cut_of
from tvwarray._kernels.hopper.pack import slabs_of
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import choose
from tvwarray._kernels.tiles import piece_count

ORDERS = ("forward", "reverse", "random")
CUT = [c for c in hopper_configs("90", FLOAT16, True) if c.can_cut]
SMALL = replace(CUT[0], block_n=64, wg_n=64)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of two steps, whatever the model says."""
    monkeypatch.setattr(workspace, "cut_of", lambda *_: 2)


def skewed(n: int = 77, values: Any = integers, slots: Any = (64, 592, 336, 16)) -> Product:
    """Return tiles of one to ten steps, ragged in rows; some rows in no tile."""
    rng = np.random.default_rng(5)
    rows, tiles = draw_tiles(rng, [30, 75, 16, 140][: len(slots)], list(slots), 9, 200)
    storage = storage_of((rows, 200), tiles, FLOAT16, True, values(rng), rng)
    return Product(storage, values(rng)((200, n)).astype(FLOAT16))


@pytest.mark.parametrize("i", range(len(CUT)))
@pytest.mark.parametrize("fused", [False, True])
def test_pieces_add_up(short: None, i: int, fused: bool) -> None:
    """Exact, whichever piece is last; counters are zero afterwards; no bank conflicts."""
    product = skewed()
    e = Epilogue(alpha=2.0, activation="silu") if fused else Epilogue()
    launcher = InterpreterLauncher("90", ORDERS[(i + fused) % 3], multiprocessors=3)
    got = multiply(launcher, pack(product.storage), product.x, config=CUT[i], epilogue=e)
    (report,) = launcher.reports
    assert launcher.kernels[0].config.cut
    assert report.count("atom") > 0
    assert report.worst_conflict() == 1
    if fused:
        near(got, product, e)
    else:
        np.testing.assert_array_equal(got, exact(product)[0].astype(FLOAT16))


@settings(max_examples=6)
@given(
    st.lists(st.tuples(st.integers(1, 140), st.integers(0, 40)), min_size=1, max_size=3),
    st.integers(1, 100), st.integers(1, 6), st.integers(1, 5), st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_drawn_pieces_are_exact(tiles: Any, n: int, limit: int, blocks: int, seed: int) -> None:
    """Any tiles, any length of pieces, grids of few blocks, any order of warps."""
    rng = np.random.default_rng(seed)
    heights, slots = [h for h, _ in tiles], [16 * s for _, s in tiles]
    rows, drawn = draw_tiles(rng, heights, slots, seed % 20, 90)
    storage = storage_of((rows, 90), drawn, FLOAT16, True, integers(rng, 4), rng)
    product = Product(storage, integers(rng, 4)((90, n)).astype(FLOAT16))
    launcher = InterpreterLauncher("90", ORDERS[seed % 3], seed=seed, multiprocessors=blocks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "cut_of", lambda *_: limit)
        got = multiply(launcher, pack(storage), product.x, config=SMALL)
    assert launcher.kernels[0].config.cut == (max(slots) > 64 * limit)
    np.testing.assert_array_equal(got, exact(product)[0].astype(FLOAT16))


def test_pieces_give_the_same_bits_whatever_the_order(short: None) -> None:
    product = skewed(values=normals)
    packed = pack(product.storage)
    runs = [
        multiply(
            InterpreterLauncher("90", "random", seed=s, multiprocessors=4), packed, product.x,
            config=SMALL,
        )
        for s in range(3)
    ]  # fmt: skip
    assert all(np.array_equal(runs[0].view(np.uint16), r.view(np.uint16)) for r in runs)
    near(runs[0], product, Epilogue())


def test_gate_of_pieces() -> None:
    """No spills, no waits put in by the assembler."""
    for config in CUT:
        for variant in (config, config.with_epilogue("gelu")):
            kernel = compile_kernel(replace(variant, cut=True), "90")
            assert kernel.usage.spill_bytes == kernel.usage.stack_bytes == 0, variant
            assert "warning" not in kernel.log
            assert "C75" not in kernel.log
            assert "ATOMG.E.INC" in machine_code(kernel.cubin_path)
    refused = [c for c in hopper_configs("90", FLOAT16, True, True) if not c.can_cut]
    assert all("not cut along" in replace(c, cut=True).refusal() for c in refused)


# ---- what is cut -------------------------------------------------------------------------------


def test_work_lists_hold_every_step_once(short: None) -> None:
    """Pieces of a tile are as equal as can be, and follow each other."""
    slabs = slabs_of(pack(skewed().storage))
    whole, pieces = slabs.blocks(64), slabs.blocks(64, 2)
    assert whole[:, 3].sum() == pieces[:, 3].sum()
    assert pieces[:, 3].max() == 2
    share = pieces[:, 7].view(np.uint32)
    count, piece, first = share >> 8 & 255, share & 255, share >> 16
    shared = count > 1
    assert piece_count(slabs.tiles.bricks, slabs.tiles.steps, 64, 2) == shared.sum() > 0
    assert sorted((first + piece)[shared]) == list(range(shared.sum()))
    assert (pieces[~shared, 7] == 0).all()


@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(0, 90)), min_size=1, max_size=20),
    st.integers(1, 140), st.floats(0, 5), st.floats(0, 5),
)  # fmt: skip
def test_cutting_never_ends_later(tiles: Any, at_once: int, store: float, pass_on: float) -> None:
    items, steps = (np.array(x) for x in zip(*tiles, strict=True))
    limit = cut.most_steps(items, steps, at_once, store, pass_on)
    ends = [cut.end_of(items, steps, k, at_once, store, pass_on) for k in (0, limit)]
    assert ends[1] <= ends[0]
    if limit:
        assert cut.LEAST_STEPS <= limit < steps.max()
        assert ends[1] < cut.WORTH * ends[0]


# ---- skew --------------------------------------------------------------------------------------

H200 = DEVICES["H200"]
TILES = np.linspace(1, 20, 32)
SKEWED = np.round(32 * TILES / TILES.mean()).astype(int)
EQUAL = np.full(32, round(float(SKEWED.mean())))
"""Steps of 32 tiles of 128 rows, of 4096 x 4096 at 75 %."""


def executed(slots: int, limit: int) -> float:
    """Return the instructions of one item of so many slots, cut or whole."""
    rng = np.random.default_rng(slots)
    rows, tiles = draw_tiles(rng, [128], [slots], 0, 200)
    storage = storage_of((rows, 200), tiles, FLOAT16, True, integers(rng), rng)
    launcher = InterpreterLauncher("90", multiprocessors=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "cut_of", lambda *_: limit)
        multiply(launcher, pack(storage), np.ones((200, 128), FLOAT16), config=CUT[0])
    return sum(launcher.reports[0].instructions.values())


def test_skewed_tiles_take_as_long_as_equal_ones_by_instructions() -> None:
    """Counts of 1 to 20, equal work in all, on an H200's multiprocessors: 15 %, but for two n.

    With n = 128 equal tiles are cut, too, and gain more. With n = 512 passing sums on takes longer
    than what cutting saves, and one tile is longer than everybody's share (docs/hopper.md).
    """
    counts = {steps: executed(64 * steps, 0) for steps in (4, 8)}
    of_step = (counts[8] - counts[4]) / 4
    store = counts[4] / of_step - 4
    pass_on = (executed(512, 4) - counts[8]) / of_step / 3  # two are written, one is read
    assert 0 < pass_on < store
    bricks, config = np.full(32, 8), CUT[0]
    for n, most in ((128, 1.3), (256, 1.15), (512, 1.75), (1024, 1.15), (4096, 1.15)):
        ends = []
        for steps in (SKEWED, EQUAL):
            limit = cut_of(config, bricks, steps, n // 128, H200.multiprocessors)
            items = np.full(32, n // 128)
            ends.append(cut.end_of(items, steps, limit, 132, store, pass_on))
        assert ends[0] < most * ends[1], (n, ends)


@pytest.mark.parametrize(
    ("n", "most"), [(128, 1.25), (256, 1.35), (512, 1.55), (1024, 1.15), (2048, 1.15), (4096, 1.15)]
)
def test_skewed_tiles_by_the_model(n: int, most: float) -> None:
    """Measured: 1.18, 1.15, 1.43, 1.11 with n = 128 to 1024 (docs/hopper.md)."""
    seconds = {}
    for name, steps in (("skewed", SKEWED), ("equal", EQUAL)):
        problem = Problem(
            BFLOAT16, True, (4096, 4096), np.append(np.full(32, 8), 0), np.append(steps, 0), n
        )
        seconds[name] = choose(problem, H200).candidates[0].prediction.seconds
    assert seconds["skewed"] < most * seconds["equal"], seconds


# ---- mutants -----------------------------------------------------------------------------------

PIECES, FINISH = "sm90_pieces.cuh", "sm90_finish.cuh"

MUTANTS = {
    "one piece too many waited for": Mutant(
        PIECES, "+ place_of(0), count - 1);", "+ place_of(0), count);",
        (AssertionError, UnwrittenError, WrongResultError),
    ),
    "stored by the first": Mutant(
        PIECES, "if (before != count - 1)", "if (before != 0)",
        (RaceError, UninitialisedRead, WrongResultError),
    ),
    "its own sums twice": Mutant(
        PIECES, "each_sum(piece == 1 ? 0 : 1, add)", "each_sum(1, add)", WrongResultError
    ),
    "the first piece left out": Mutant(
        PIECES, "    if (piece > 1) each_sum(0, take);\n", "", WrongResultError
    ),
    "the last piece left out": Mutant(
        PIECES, "of = 2; of < count; ++of", "of = 2; of < count - 1; ++of", WrongResultError
    ),
    "sums of all columns in one place": Mutant(
        PIECES, "item.n / config::block_n", "0",
        (RaceError, WrongResultError, AssertionError, UninitialisedRead),
    ),
    "rows exchanged": Mutant(
        FINISH, "i % 4 < 2 ? upper : lower", "i % 4 < 2 ? lower : upper", WrongResultError
    ),
    "columns of the wrong lane": Mutant(
        FINISH, "at.column + 2 * i + e, n", "at.column + i + e, n", WrongResultError
    ),
    "columns beyond the last one": Mutant(
        FINISH, "min(at.column + 2 * i + e, n - 1)", "(at.column + 2 * i + e)", OutOfBounds
    ),
    "c beyond the last column": Mutant(
        FINISH, "column + e < end ? widened", "true ? widened", OutOfBounds
    ),
    "c where there is no row": Mutant(
        FINISH, "if (row >= 0) load_neighbours", "load_neighbours", OutOfBounds
    ),
    "the same part again": Mutant(
        "sm90_result.cuh", "        if constexpr (one_place) bring_down<part_sums>(c);\n", "",
        WrongResultError,
    ),
}  # fmt: skip


def judge(sources: dict[str, str], order: Any) -> None:
    """Run altered sources, cut and with an epilogue; raise what is wrong with them."""
    problem = skewed(141, lambda rng: integers(rng, 2), (64, 592, 208))
    rows = problem.storage.shape[0]
    c = np.random.default_rng(0).integers(-4, 5, (rows, 141)).astype(FLOAT16)
    # silu of what is not small is the identity, or nothing.
    ramp = np.arange(141, dtype=np.float32)
    e = Epilogue(
        alpha=64.0, beta=64.0, c=c, bias=64 * ramp, bias_axis=1, activation="silu",
        row_scale=2.0 ** (np.arange(rows, dtype=np.float32) % 2), residual=c,
    )  # fmt: skip
    config = CUT[0]
    variant = replace(config.with_epilogue("silu"), cut=True)
    kernel = compile_kernel(variant, "90", sources)
    launcher = InterpreterLauncher("90", order, multiprocessors=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workspace, "cut_of", lambda *_: 2)
        patch.setattr(product_module, "_compiled", lambda *_: kernel)
        got = multiply(launcher, pack(problem.storage), problem.x, config=config, epilogue=e)
    want = expected(exact(problem)[0], e).astype(FLOAT16)
    raise_what_is_wrong(got, want, launcher.reports)


@pytest.mark.parametrize("order", ORDERS)
def test_the_shipped_kernel_passes(order: str) -> None:
    judge({}, order)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_caught(name: str) -> None:
    mutant = MUTANTS[name]
    sources = altered(SMALL.kernel, mutant.file, mutant.old, mutant.new)
    with pytest.raises(mutant.error):
        judge(sources, ORDERS[list(MUTANTS).index(name) % 3])
