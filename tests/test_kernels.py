"""The shipped kernels, executed: what they compute, and that they do nothing they must not.

Each config of several architectures is compiled as for users and its PTX run in the interpreter,
which checks every access, every race and every bank. Expected values come from `kernel_problems`,
which expands matrices by the words of the format. Not shown here: speed, and the way tensor cores
round (`test_gpu.py`).
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
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
    products,
    rounding,
    storage_of,
    uniform,
    with_zeros,
)

from tvwarray._kernels.config import KernelConfig
from tvwarray._kernels.hopper.config import hopper_configs
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import configs

ARCHITECTURES = ("80", "90", "120")
"""Three sets of configs: 164, 228 and 100 KB of shared memory on a multiprocessor."""

SUM_ERROR = 1.0
"""c of the bound |got - exact| <= c K 2**-24 (|A| |X|); 1 for sums in IEEE float32."""

ORDERS = st.sampled_from(["forward", "reverse", "random"])


def run(
    product: Product, architecture: str, config: KernelConfig | None = None, **options: Any
) -> np.ndarray:
    """Return A @ X by one kernel, which had no bank conflict."""
    launcher = InterpreterLauncher(architecture, **options)
    got = multiply(launcher, pack(product.storage), product.x, config=config)
    for report in launcher.reports:
        conflicts = [c for c in report.conflicts if c.degree > 1]
        assert not conflicts, f"{launcher.kernels[0].config}: bank conflicts {conflicts}"
    return got


def shipped(architecture: str, product: Product) -> tuple[KernelConfig, ...]:
    """Return the configs that may run a product."""
    return configs(architecture, product.storage.dtype, product.storage.vector is not None)


def every_config() -> list[Any]:
    """Return (architecture, dtype, sparse, place) of all shipped configs."""
    return [
        pytest.param(a, dtype, sparse, i, id=f"sm_{a}-{dtype}-{'2:4' if sparse else 'all'}-{i}")
        for a in ARCHITECTURES
        for dtype in (FLOAT16, BFLOAT16)
        for sparse in (True, False)
        for i in range(len(configs(a, dtype, sparse)))
    ]


@pytest.mark.parametrize(("architecture", "dtype", "sparse", "i"), every_config())
def test_every_config_is_exact(
    architecture: str, dtype: np.dtype[Any], sparse: bool, i: int
) -> None:
    """Ragged and tall tiles, empty ones, dropped rows, repeated and padded columns, ragged n."""
    rng = np.random.default_rng(i)
    rows, tiles = draw_tiles(rng, [37, 0, 300, 64, 16], [208, 64, 336, 0, 16], 21, 150)
    storage = storage_of((rows, 150), tiles, dtype, sparse, integers(rng), rng)
    product = Product(storage, integers(rng)((150, 141)).astype(dtype))
    config = configs(architecture, dtype, sparse)[i]
    got = run(product, architecture, config, order=("forward", "reverse", "random")[i % 3])
    np.testing.assert_array_equal(got, exact(product)[0].astype(dtype))


@settings(max_examples=80)
@given(products(), st.sampled_from(ARCHITECTURES), st.integers(0, 5), ORDERS)
def test_drawn_integers_are_exact(product: Product, architecture: str, i: int, order: Any) -> None:
    """At least 60 problems, whatever the profile: any config, any order of warps and blocks."""
    got = run(product, architecture, shipped(architecture, product)[i], order=order)
    np.testing.assert_array_equal(got, exact(product)[0].astype(got.dtype))


@settings(max_examples=40)
@given(products(values="normals"), st.sampled_from(ARCHITECTURES), st.integers(0, 5))
def test_drawn_normals_are_bounded(product: Product, architecture: str, i: int) -> None:
    """Sums in float32 of exact products, then one rounding to 16 bits."""
    got = run(product, architecture, shipped(architecture, product)[i])
    y, size, terms = exact(product)
    bound = SUM_ERROR * terms[:, None] * 2.0**-24 * size
    error = abs(got.astype(np.float64) - y)
    assert (error <= bound + rounding(abs(y) + bound, got.dtype)).all()


@settings(max_examples=40)
@given(products(values="normals"), st.integers(0, 5), st.data())
def test_inf_and_nan_come_and_stay_where_they_belong(
    product: Product, i: int, data: st.DataObject
) -> None:
    """Where stored nonzeros alone give NaN or Inf, so it is; NaN only where zeros give it too."""
    x = product.x
    for value in (np.inf, -np.inf, np.nan):
        for _ in range(data.draw(st.integers(0, 3))):
            row = data.draw(st.integers(0, x.shape[0] - 1))
            x[row, data.draw(st.integers(0, x.shape[1] - 1))] = value
    got = run(product, "90", shipped("90", product)[i]).astype(np.float64)
    y = exact(product)[0]
    full = with_zeros(product)
    assert np.isnan(got)[np.isnan(y)].all()
    assert np.isnan(full)[np.isnan(got) & ~np.isnan(y)].all()
    infinite = np.isinf(y) & ~np.isnan(got)
    np.testing.assert_array_equal(got[infinite], y[infinite])
    with np.errstate(over="ignore"):
        assert (np.isfinite(got) | ~np.isfinite(full) | (abs(y) > 6e4)).all()


def test_rows_of_x_that_no_slot_names_are_never_read() -> None:
    """NaN in all of them, and beside padding slots: nothing reaches the product."""
    rng = np.random.default_rng(5)
    rows, tiles = draw_tiles(rng, [70, 9], [96, 48], 3, 400)
    storage = storage_of((rows, 400), tiles, FLOAT16, True, integers(rng), rng)
    assert (storage.col_indices == -1).any()
    x = integers(rng)((400, 24)).astype(np.float16)
    x[np.setdiff1d(np.arange(400), storage.col_indices)] = np.nan
    product = Product(storage, x)
    np.testing.assert_array_equal(run(product, "90"), exact(product)[0].astype(np.float16))


def test_sums_beyond_the_largest_float16_are_infinite() -> None:
    rng = np.random.default_rng(0)
    tiles = draw_tiles(rng, [16], [64], 0, 64)[1]
    storage = storage_of((16, 64), tiles, FLOAT16, False, lambda shape: np.full(shape, 2e3), rng)
    product = Product(storage, np.full((64, 8), 2e3, np.float16))
    got = run(product, "80")
    assert (exact(product)[0] > 7e4).all()
    assert np.isposinf(got).all()


@pytest.mark.parametrize("vector", [True, False])
@pytest.mark.parametrize("shape", [(0, 5, 3), (5, 0, 3), (5, 3, 0), (40, 1, 1)])
def test_empty_and_tiny_products(shape: tuple[int, int, int], vector: bool) -> None:
    """No rows, no columns of A, no columns of X; a matrix without tiles is zero."""
    rows, cols, n = shape
    storage = storage_of((rows, cols), [], FLOAT16, vector, None, np.random.default_rng(0))
    got = run(Product(storage, np.ones((cols, n), np.float16)), "90")
    assert got.shape == (rows, n)
    assert not got.any()


@pytest.mark.parametrize("n", [72, 68])
@pytest.mark.parametrize("shift", [0, 8, 3])
def test_operands_inside_larger_arrays(shift: int, n: int) -> None:
    """X and `out` as windows: aligned ones are used in place, others copied or stored slowly."""
    rng = np.random.default_rng(shift)
    rows, tiles = draw_tiles(rng, [33, 64], [64, 32], 5, 90)
    storage = storage_of((rows, 90), tiles, BFLOAT16, True, integers(rng), rng)
    big = np.full((90, 80), np.nan, BFLOAT16)
    window = big[:, shift : shift + n]
    window[...] = integers(rng)((90, n)).astype(BFLOAT16)
    wide = np.full((rows, 88), 7, BFLOAT16)
    out = wide[:, shift : shift + n]
    launcher = InterpreterLauncher("90")
    given_back = multiply(launcher, pack(storage), window, out)
    assert given_back is out
    np.testing.assert_array_equal(out, exact(Product(storage, window))[0].astype(BFLOAT16))
    assert (wide[:, :shift] == 7).all()
    assert (wide[:, shift + n :] == 7).all()
    # Sixteen bytes at a time where that is possible, else two.
    report = launcher.reports[0]
    assert bool(report.count("st.global.v4")) == (shift % 8 == 0)
    assert bool(report.count("st.global.u16") + report.count("st.global.b16")) == (
        shift % 8 != 0 or n % 8 != 0
    )


def test_operands_in_other_orders() -> None:
    """X column by column, reversed, and `out` column by column."""
    rng = np.random.default_rng(2)
    rows, tiles = draw_tiles(rng, [20], [48], 2, 50)
    storage = storage_of((rows, 50), tiles, FLOAT16, True, integers(rng), rng)
    packed, x = pack(storage), integers(rng)((50, 16)).astype(np.float16)
    for operand in (np.asfortranarray(x), x[::-1], x[:, ::-1], np.repeat(x, 2, axis=1)[:, ::2]):
        out = np.empty((rows, 16), np.float16, order="F")
        multiply(InterpreterLauncher("90"), packed, operand, out)
        expected = exact(Product(storage, np.ascontiguousarray(operand)))[0]
        np.testing.assert_array_equal(out, expected.astype(np.float16))


def test_work_is_as_expected() -> None:
    """One launch; tensor-core instructions for stored values only; 16-byte copies and stores."""
    product = uniform(256, 512, 128, tile_rows=128, keep=0.5)
    launcher = InterpreterLauncher("80")
    config = configs("80", FLOAT16, True)[2]
    multiply(launcher, pack(product.storage), product.x, config=config)
    (report,) = launcher.reports
    # 256 rows x 256 slots x 128 columns in products of 16 x 32 x 8.
    assert report.count("mma.sp") == (256 // 16) * (256 // 32) * (128 // 8)
    assert report.count("mma.sync") == 0
    steps, blocks = 256 // 64, 2
    assert report.count("cp.async.cg") * 32 == steps * blocks * config.stage_bytes // 16
    assert report.count("st.global.v4") * 32 * 16 == 256 * 128 * 2
    assert report.count("st.global.u16") == 0


@pytest.mark.parametrize(("size", "limit"), [(256, 1.0), (1024, 15.0)])
@pytest.mark.parametrize("architecture", ["80", "90"])
def test_products_execute_in_time(size: int, limit: float, architecture: str) -> None:
    """256^3 in a second, 1024^3 in fifteen of processor time, all checks on."""
    config = next(c for c in configs(architecture, FLOAT16, True) if c.block_n == 128)
    assert seconds_of(size, architecture, config) < limit


def test_products_of_hopper_execute_in_time() -> None:
    """512^3 by ``wgmma``, whose every product has more to check."""
    assert seconds_of(512, "90", hopper_configs("90", FLOAT16, True)[0]) < 15.0


def seconds_of(size: int, architecture: str, config: Any) -> float:
    """Return the processor time of a product, which is checked.

    The better of two runs: beside another program on the same core, either takes longer.
    """
    product = uniform(size, size, size, tile_rows=128, keep=1.0, seed=size)
    packed, launcher = pack(product.storage), InterpreterLauncher(architecture)
    multiply(InterpreterLauncher(architecture), pack(tiny()), tiny_x())  # imports
    times = []
    for _ in range(2):
        start = time.process_time()
        got = multiply(launcher, packed, product.x, config=config)
        times.append(time.process_time() - start)
        np.testing.assert_array_equal(got, exact(product)[0].astype(np.float16))
    return min(times)


def tiny() -> Any:
    """Return a matrix of one tile."""
    return uniform(16, 16, 8, tile_rows=16, keep=1.0).storage


def tiny_x() -> np.ndarray:
    """Return what `tiny` can be multiplied with."""
    return np.ones((16, 8), np.float16)
