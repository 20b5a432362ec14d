"""Epilogues fused into the kernels' PTX: every part, activation, output and layout, and mixed.

Expected values come from float64, in the documented order. The activations of the kernels are those
of CUDA's math library in float32, a few units in the last place from the exact ones.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product as combinations
from typing import Any

import numpy as np
import pytest
from epilogue_problems import ACTIVATIONS, epilogues, expected, near
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter_launcher import InterpreterLauncher
from kernel_problems import (
    BFLOAT16,
    FLOAT16,
    Product,
    draw_tiles,
    exact,
    integers,
    normals,
    products,
    storage_of,
)

import tvwarray
from tvwarray import Epilogue, TVWMatrix
from tvwarray import _matmul as products_module
from tvwarray._backends.cuda import CudaBackend
from tvwarray._kernels import balance
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.config import ARCHITECTURES, KernelConfig
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import configs

FLOAT32 = np.dtype(np.float32)


def small(architecture: str = "90", dtype: Any = FLOAT16, sparse: bool = True) -> KernelConfig:
    """Return the shipped config with the smallest blocks."""
    return configs(architecture, dtype, sparse)[-1]


def problem(n: int = 41, values: Any = integers, dtype: Any = FLOAT16, seed: int = 0) -> Product:
    """Return two ragged tiles, dropped rows, repeated columns."""
    rng = np.random.default_rng(seed)
    rows, tiles = draw_tiles(rng, [37, 16], [80, 144], 5, 60)
    storage = storage_of((rows, 60), tiles, dtype, True, values(rng), rng)
    return Product(storage, values(rng)((60, n)).astype(dtype))


def run(product: Product, e: Epilogue, config: KernelConfig | None = None) -> np.ndarray:
    """Return the fused product, by one launch without bank conflicts."""
    launcher = InterpreterLauncher("90", order="random")
    packed = pack(product.storage)
    got = multiply(launcher, packed, product.x, config=config or small(), epilogue=e)
    (report,) = launcher.reports
    assert not [c for c in report.conflicts if c.degree > 1]
    return got


PARTS = ("alpha", "c", "row bias", "column bias", "residual", "scales")


@pytest.mark.parametrize("output", ["float16", "float32"])
@pytest.mark.parametrize("activation", list(ACTIVATIONS), ids=str)
def test_every_combination_of_parts(activation: Any, output: str) -> None:
    """All 2**6 of them for each activation and output; both 16-byte and single accesses."""
    rng = np.random.default_rng(1)
    rows_of_a, tiles = draw_tiles(rng, [13], [16], 1, 20)
    storage = storage_of((rows_of_a, 20), tiles, FLOAT16, True, integers(rng), rng)
    product = Product(storage, integers(rng)((20, 24)).astype(FLOAT16))
    shape = (rows_of_a, 24)
    kind = np.dtype(output)
    added = [(rng.integers(-8, 9, shape) / 4).astype(kind) for _ in range(2)]
    rows, columns = ((rng.integers(-8, 9, n) / 4).astype(np.float32) for n in shape)
    scales = [2.0 ** rng.integers(-3, 1, n).astype(np.float32) for n in shape]
    for chosen in combinations([False, True], repeat=len(PARTS)):
        has = dict(zip(PARTS, chosen, strict=True))
        if has["row bias"] and has["column bias"]:
            continue  # an epilogue has one
        e = Epilogue(
            alpha=-0.5 if has["alpha"] else 1.0,
            beta=2.0 if has["c"] else 0.0,
            c=added[0] if has["c"] else None,
            bias=rows if has["row bias"] else columns if has["column bias"] else None,
            bias_axis=1 if has["column bias"] else 0,
            activation=activation,
            residual=added[1] if has["residual"] else None,
            out_dtype=kind,
            row_scale=scales[0] if has["scales"] else None,
            col_scale=scales[1] if has["scales"] else None,
        )
        near(run(product, e), product, e)


@settings(max_examples=12)
@given(st.data())
def test_drawn_epilogues_of_drawn_products(data: st.DataObject) -> None:
    """Any n, both 16-bit types and patterns, through the public call; one launch each."""
    product = data.draw(products(values=data.draw(st.sampled_from(["integers", "normals"]))))
    storage = product.storage
    e = data.draw(epilogues((storage.shape[0], product.x.shape[1]), storage.dtype))
    launcher = InterpreterLauncher("90")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products_module, "BACKENDS", [CudaBackend(launcher)])
        got = tvwarray.matmul(TVWMatrix.from_storage(storage), product.x, epilogue=e)
    assert got.dtype == (e.out_dtype or storage.dtype)
    assert len(launcher.reports) == (got.size > 0)
    near(got, product, e)


@pytest.mark.parametrize("order", ["C", "F", "window", "negative"])
@pytest.mark.parametrize("output", ["float16", "float32"])
def test_added_matrices_of_any_layout(order: str, output: str) -> None:
    """c and the residual row- and column-major, inside larger arrays, upside down."""
    product = problem()
    rows, n = product.storage.shape[0], 41
    rng = np.random.default_rng(0)
    c, residual = rng.integers(-8, 9, (2, rows, n)).astype(output)
    if order == "F":
        c, residual = np.asfortranarray(c), np.asfortranarray(residual)
    elif order == "window":
        big = np.zeros((2, rows, n + 7), output)
        big[:, :, 3 : n + 3] = c, residual
        c, residual = big[:, :, 3 : n + 3]
    elif order == "negative":
        c, residual = c[::-1], residual[:, ::-1]
    e = Epilogue(c=c, beta=1.0, residual=residual, activation="relu", out_dtype=np.dtype(output))
    near(run(product, e), product, e)


def test_c_may_be_the_result_or_overlap_it() -> None:
    product = problem(n=53)
    rng = np.random.default_rng(0)
    rows = product.storage.shape[0]
    storage = replace(product.storage, shape=(rows, 60))
    whole = rng.integers(-8, 9, (rows, 53)).astype(np.float16)
    y = exact(product)[0]
    out = whole.copy()
    e = Epilogue(c=out, beta=1.0)
    launcher, packed = InterpreterLauncher("90"), pack(storage)
    assert multiply(launcher, packed, product.x, out, epilogue=e) is out
    np.testing.assert_array_equal(out, (y + whole).astype(np.float16))
    out = whole.copy()
    multiply(launcher, packed, product.x, out, epilogue=Epilogue(c=out[::-1], beta=1.0))
    np.testing.assert_array_equal(out, (y + whole[::-1]).astype(np.float16))


@pytest.mark.parametrize("activation", list(ACTIVATIONS), ids=str)
def test_activations_of_special_values(activation: Any) -> None:
    """NaN, infinities, large and small sums: as the functions' limits are; -0.0 keeps its size."""
    rng = np.random.default_rng(0)
    values = np.array([np.nan, np.inf, -np.inf, 6e4, -6e4, 1e-4, -1e-4, 0.0, -0.0, 3, -3, 20, -20])
    tiles = draw_tiles(rng, [16], [16], 0, 16)[1]
    tiles = [replace(tiles[0], cols=tuple(range(16)))]
    storage = storage_of((16, 16), tiles, FLOAT16, False, lambda s: np.eye(16)[: s[0]], rng)
    x = np.zeros((16, 8), np.float16)
    x[0, 0] = 1
    bias = np.resize(values, 16).astype(np.float32)
    e = Epilogue(bias=bias, activation=activation, out_dtype=FLOAT32)
    got = run(Product(storage, x), e, small(sparse=False))[:13, 3]
    with np.errstate(all="ignore"):
        want = ACTIVATIONS[activation](bias[:13].astype(np.float64))
        if activation is not None:
            want[2] = {"relu": 0.0}.get(activation, np.nan)  # -Inf times the limit 0
    # Next to the functions' zero the error is one of the sums in them: 2**-24 of x, not of y.
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    known = np.isfinite(want)
    np.testing.assert_array_equal(got[~known], want[~known])
    error = abs(got[known] - want[known])
    assert (error <= 2.0**-22 * (abs(bias[:13][known]) + 2.0**-20)).all()


def test_functions_and_other_dtypes_are_applied_to_what_the_kernel_sums() -> None:
    product = problem()
    for e in (
        Epilogue(bias=np.ones(58), activation=np.tanh, residual=np.ones((58, 41), np.float16)),
        Epilogue(alpha=0.5, out_dtype=np.dtype(np.float64)),
        Epilogue(out_dtype=np.dtype(np.int32)),
    ):
        got = run(product, e)
        y = exact(product)[0]
        want = np.tanh(y + 1) + 1 if callable(e.activation) else y * e.alpha
        np.testing.assert_allclose(got.astype(float), want, rtol=2e-3, atol=1e-3)
        assert got.dtype == (e.out_dtype or np.float16)


@pytest.mark.parametrize("fused", [False, True])
def test_batches_are_one_launch(fused: bool) -> None:
    """(batch, cols, n) in place, with c and the residual of each; `out` in place too."""
    product = problem()
    rng = np.random.default_rng(0)
    rows = product.storage.shape[0]
    x = rng.integers(-8, 9, (3, 60, 40)).astype(np.float16)
    c, residual = rng.integers(-8, 9, (2, 3, rows, 40)).astype(np.float16)
    e = Epilogue(c=c, beta=1.0, residual=residual) if fused else Epilogue()
    launcher = InterpreterLauncher("90")
    out = np.zeros((3, rows, 40), np.float16)
    got = multiply(launcher, pack(product.storage), x, out, epilogue=e)
    assert got is out
    assert len(launcher.reports) == 1
    for i in range(3):
        y = exact(Product(product.storage, x[i]))[0]
        want = y + c[i] + residual[i] if fused else y
        np.testing.assert_array_equal(out[i], want.astype(np.float16))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products_module, "BACKENDS", [CudaBackend(launcher)])
        a = TVWMatrix.from_storage(product.storage)
        np.testing.assert_array_equal(tvwarray.matmul(a, x[None], epilogue=Epilogue())[0], a @ x)


# ---- tiles in pieces ---------------------------------------------------------------------------


def skewed(n: int = 24, values: Any = integers, dtype: Any = FLOAT16) -> Product:
    """Return tiles of 1 to 20 times 64 slots."""
    rng = np.random.default_rng(0)
    rows, tiles = draw_tiles(rng, [32, 20, 16], [64, 2560, 640], 3, 300)
    storage = storage_of((rows, 300), tiles, dtype, True, values(rng), rng)
    return Product(storage, values(rng)((300, n)).astype(dtype))


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("fused", [False, True])
def test_long_tiles_are_shared_out(order: Any, fused: bool) -> None:
    """Pieces add up exactly, whichever is last, and counters are zero again afterwards."""
    product = skewed()
    e = Epilogue(alpha=2.0, activation="relu") if fused else Epilogue()
    launcher = InterpreterLauncher("90", order)
    packed = pack(product.storage)
    got = multiply(launcher, packed, product.x, config=small(), epilogue=e)
    assert launcher.kernels[0].config.pieces
    assert launcher.reports[0].count("atom") > 0
    np.testing.assert_array_equal(got, expected(exact(product)[0], e).astype(np.float16))


@pytest.mark.parametrize("kind", ["int8", "float64", "float32"])
def test_pieces_of_other_sums(kind: str) -> None:
    """Integers, float64, and float32 in parts."""
    dtype = np.dtype(kind)
    product = skewed(n=9, dtype=dtype, values=lambda rng: integers(rng, 3))
    launcher = InterpreterLauncher("90")
    got = multiply(launcher, pack(product.storage), product.x, config=small("90", dtype))
    assert launcher.kernels[-1].config.pieces
    np.testing.assert_array_equal(got, exact(product)[0])


def test_pieces_give_the_same_bits_whatever_the_order() -> None:
    product = skewed(values=normals)
    packed = pack(product.storage)
    runs = [
        multiply(InterpreterLauncher("90", "random", seed=s), packed, product.x, config=small())
        for s in range(3)
    ]
    assert all(np.array_equal(runs[0].view(np.uint16), r.view(np.uint16)) for r in runs)
    near(runs[0], product, Epilogue())


def makespan(steps: np.ndarray, config: KernelConfig, cost: Any, slots: int, n: int = 32) -> float:
    """Return when the last block is done, the next one always starting where there is room.

    Blocks that are on a multiprocessor at the same time share its speed.
    """
    bricks = np.full(steps.size, config.block_rows // 16)
    limit = balance.most_steps(bricks, steps, -(-n // config.block_n), config, slots)
    lengths: list[float] = []
    for count in steps:
        pieces = -(-int(count) // limit) if limit else 1
        lengths += [cost(count / pieces, pieces > 1)] * pieces
    waiting = sorted(lengths)  # the longest last, and started first
    running: list[list[float]] = [[] for _ in range(slots)]
    for _ in range(config.min_blocks):
        for mine in running:
            if waiting:
                mine.append(waiting.pop())
    now = np.zeros(slots)
    while any(running):
        ends = [t + min(m) * len(m) if m else np.inf for t, m in zip(now, running, strict=True)]
        i = int(np.argmin(ends))
        done = min(running[i])
        now[i] = ends[i]
        running[i] = [left - done for left in running[i] if left > done]
        while waiting and len(running[i]) < config.min_blocks:
            running[i].append(waiting.pop())
    return float(now.max())


def test_skewed_tiles_take_as_long_as_equal_ones() -> None:
    """Counts from 1 to 20, equal work in all: within 15 %, by instructions that were executed."""
    config, executed = small(), {}

    def instructions(steps: int, pieces: bool) -> int:
        rng = np.random.default_rng(steps)
        rows, tiles = draw_tiles(rng, [32], [64 * steps], 0, 300)
        storage = storage_of((rows, 300), tiles, FLOAT16, True, integers(rng), rng)
        launcher = InterpreterLauncher("90", multiprocessors=1 if pieces else 64)
        x = np.ones((300, 32), np.float16)
        multiply(launcher, pack(storage), x, config=config)
        (report,) = launcher.reports
        return sum(report.instructions.values())

    # A line through the counts of single blocks, and what a piece adds to it.
    executed = {steps: instructions(steps, True) for steps in (1, 4, 8)}
    of_step = (executed[8] - executed[4]) / 4
    start = executed[4] - 4 * of_step
    assert abs(executed[1] - (start + of_step)) < 0.1 * start + of_step
    shared = instructions(16, False)  # two pieces of 8 steps
    of_piece = (shared - 2 * start - 16 * of_step) / 2

    def cost(steps: float, piece: bool) -> float:
        return start + steps * of_step + (of_piece if piece else 0.0)

    rng = np.random.default_rng(0)
    for tiles, multiprocessors in ((128, 132), (256, 132), (512, 108), (64, 16)):
        skew = np.linspace(4, 80, tiles).round().astype(int)
        rng.shuffle(skew)
        equal = np.full(tiles, round(float(skew.mean())))
        ratio = makespan(skew, config, cost, multiprocessors) / makespan(
            equal, config, cost, multiprocessors
        )
        assert ratio < 1.15, (tiles, multiprocessors, ratio)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gate_of_fused_kernels(architecture: str) -> None:
    """The largest kernels with the longest epilogue, and with pieces: no spills anywhere."""
    base = configs(architecture, BFLOAT16, True)
    for config in (
        replace(base[0], fused=True, activation="gelu", pieces=True),
        replace(base[2], fused=True, activation="gelu_tanh", output="float32"),
        replace(base[1], pieces=True),
    ):
        usage = compile_kernel(config, architecture).usage
        assert usage.spill_bytes == usage.stack_bytes == 0, f"{config}: {usage}"
        assert usage.registers <= config.max_registers
