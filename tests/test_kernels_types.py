"""Every element type through the kernels' PTX: exact on integers, bounded on drawn normals.

Expected values come from `kernel_problems`, which expands matrices by the words of the format. Not
shown here: that the hardware multiplies these types as the instruction set says (`test_gpu.py`).
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter_launcher import InterpreterLauncher
from kernel_problems import (
    Product,
    TileSpec,
    draw_tiles,
    exact,
    expand,
    integers,
    normals,
    storage_of,
)

import tvwarray
from tvwarray import BackendError, Epilogue, FormatError, TVWMatrix, TVWStorage
from tvwarray import _matmul as products_module
from tvwarray._backends.cuda import CudaBackend
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.config import ARCHITECTURES
from tvwarray._kernels.elements import as_pairs, bfloat16_parts, form_of, refusal
from tvwarray._kernels.pack import pack, unpack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import configs, configs_of

INT8 = np.dtype(np.int8)
FLOAT32 = np.dtype(np.float32)
FLOAT64 = np.dtype(np.float64)
E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
E5M2 = np.dtype(ml_dtypes.float8_e5m2)

TYPES: list[Any] = [
    pytest.param(INT8, "default", "80", id="int8"),
    pytest.param(E4M3, "default", "89", id="e4m3"),
    pytest.param(E5M2, "default", "120", id="e5m2"),
    pytest.param(FLOAT32, "highest", "80", id="float32-highest"),
    pytest.param(FLOAT32, "high", "90", id="float32-high"),
    pytest.param(FLOAT32, "tf32", "80", id="tf32"),
    pytest.param(FLOAT64, "default", "80", id="float64"),
]


def paired(storage: TVWStorage, rng: np.random.Generator) -> TVWStorage:
    """Return a storage of which every pair of slots holds one value, for tf32."""
    if storage.meta is None:
        return storage
    meta = np.zeros_like(storage.meta)
    for shift in (0, 4, 8, 12):
        first, second = rng.integers(0, 2, meta.shape), rng.integers(2, 4, meta.shape)
        meta |= ((first | second << 2) << shift).astype(np.uint16)
    return replace(storage, meta=meta)


def without_padding(storage: TVWStorage, rng: np.random.Generator) -> TVWStorage:
    """Return a storage whose slots all name a column: values were zero where they did not."""
    cols = storage.col_indices.copy()
    cols[cols < 0] = rng.integers(0, storage.shape[1], int((cols < 0).sum()))
    return replace(storage, col_indices=cols)


def problem(dtype: Any, precision: str, sparse: bool, values: Any = None, seed: int = 0) -> Product:
    """Return ragged tiles, an empty one, dropped rows, repeated columns, ragged n."""
    rng = np.random.default_rng(seed)
    source = (values or integers)(rng)
    rows, tiles = draw_tiles(rng, [37, 0, 70, 16], [208, 64, 144, 16], 5, 150)
    storage = storage_of((rows, 150), tiles, dtype, sparse, source, rng)
    if precision == "tf32":
        storage = paired(without_padding(storage, rng), rng)
    return Product(storage, source((150, 71)).astype(dtype))


def run(product: Product, precision: Any, architecture: str, i: int, **options: Any) -> np.ndarray:
    """Return A @ X by one kernel, which had no bank conflict."""
    form = form_of(product.storage.dtype, precision)
    sparse = product.storage.vector is not None
    config = configs_of(architecture, form, sparse)[i]
    launcher = InterpreterLauncher(architecture, **options)
    got = multiply(launcher, pack(product.storage, form), product.x, config=config)
    assert not [c for report in launcher.reports for c in report.conflicts if c.degree > 1]
    count = launcher.reports[-1].count  # float32 is split before
    assert count("mma.sp") == (count("mma") if form.keeps_pattern(sparse) else 0)
    return got


@pytest.mark.parametrize("sparse", [True, False])
@pytest.mark.parametrize(("dtype", "precision", "architecture"), TYPES)
def test_every_type_is_exact_on_integers(
    dtype: np.dtype[Any], precision: str, architecture: str, sparse: bool
) -> None:
    """By the smallest blocks and by larger ones; warps and blocks in another order each."""
    product = problem(dtype, precision, sparse)
    for i, order in ((-1, "random"), (-2, "reverse")):
        got = run(product, precision, architecture, i, order=order)
        np.testing.assert_array_equal(got.astype(float), exact(product)[0])


@pytest.mark.parametrize(("dtype", "precision", "architecture"), TYPES)
@settings(max_examples=5)
@given(st.booleans(), st.integers(0, 2**32 - 1), st.integers(0, 200))
def test_drawn_problems_of_every_type(
    dtype: np.dtype[Any], precision: str, architecture: str, sparse: bool, seed: int, height: int
) -> None:
    """The bound of each precision, for normals of many magnitudes; integers are exact."""
    rng = np.random.default_rng(seed)
    rows, tiles = draw_tiles(rng, [height, 20], [80, 16 * (seed % 20)], seed % 9, 90)

    def wide_normals(shape: Any) -> Any:
        return rng.standard_normal(shape) * 2.0 ** rng.integers(-8, 8, shape)

    source = integers(rng) if dtype == INT8 else wide_normals
    if dtype in (E4M3, E5M2):
        source = normals(rng)
    storage = storage_of((rows, 90), tiles, dtype, sparse, source, rng)
    if precision == "tf32":
        storage = paired(without_padding(storage, rng), rng)
    product = Product(storage, source((90, 1 + seed % 40)).astype(dtype))
    got = run(product, precision, architecture, -1, seed=seed, order="random")
    y, size, terms = exact(product)
    error = abs(got.astype(np.float64) - y)
    assert (error <= error_bound(dtype, precision, terms[:, None]) * size + 1e-38).all()


def error_bound(dtype: np.dtype[Any], precision: str, terms: Any) -> Any:
    """Return c of |got - A X| <= c |A| |X|.

    Sums in the accumulate type, and what the operands lose on the way: of three parts nothing, but
    the products left out are below 2 2**-9 2**-18 together; of two parts
    2**-17 of each factor and their product; of tf32 2**-11 of A (rounded) and 2**-10 of X (cut).
    """
    if dtype == INT8:
        return 0 * terms
    if dtype == FLOAT64:
        return terms * 2.0**-53
    lost = {"highest": 2.0**-25, "high": 3 * 2.0**-17, "tf32": 2.0**-10 + 2.0**-11 + 2.0**-20}
    # The large products are summed apart from the small ones, and the two sums are added.
    return terms * 2.0**-24 * 1.02 + 2.0**-24 + lost.get(precision, 0.0)


def test_highest_is_as_precise_as_float32_and_high_is_less() -> None:
    """Normals, by the median error: float32's own within a factor of 2, then 16 and 11 bits."""
    product = problem(FLOAT32, "tf32", True, normals, seed=1)
    y, size, _ = exact(product)

    def typical(got: np.ndarray) -> float:
        error = abs(got.astype(np.float64) - y)[size > 0]
        return float(np.median(error / size[size > 0]))

    ours = {p: typical(run(product, p, "80", -1)) for p in ("highest", "high", "tf32")}
    a = TVWMatrix.from_storage(product.storage)
    reference = typical(tvwarray.matmul(a, product.x, backend="array"))
    assert ours["highest"] < 2 * reference
    assert 2.0**-21 < ours["high"] < 2.0**-16
    assert 2.0**-15 < ours["tf32"] < 2.0**-10


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_parts_add_up(seed: int, parts: int) -> None:
    """Three hold all of a float32 down to the least bfloat16; each leaves 9 bits less."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2**32, 500, dtype=np.uint32)
    bits[:6] = 0x7F7FFFFF, 0xFF7FFFFF, 0x7F800000, 0xFF800000, 0x7F800001, 0x00000001
    x = bits.view(np.float32)
    found = [p.view(ml_dtypes.bfloat16).astype(np.float64) for p in bfloat16_parts(x, parts)]
    finite = np.isfinite(x)
    np.testing.assert_array_equal(np.isnan(found[0]), np.isnan(x))
    np.testing.assert_array_equal(found[0][np.isinf(x)], x[np.isinf(x)].astype(float))
    assert all((part[~finite] == 0).all() for part in found[1:])
    total, size = sum(found)[finite], abs(x[finite].astype(np.float64))
    left = abs(total - x[finite])
    # A value near the largest is truncated once, which leaves 8 bits instead of 9.
    steps = 2.0 ** -(9 * parts - 1) if parts < 3 else 0.0
    assert (left <= steps * size + 2.0**-134).all()


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_infinities_of_float32_are_not_spread_by_its_parts(precision: Any) -> None:
    """a * Inf is Inf, though the small parts of a, zeros or of the other sign, would give NaN."""
    rng = np.random.default_rng(0)
    tile = TileSpec(tuple(range(16)), tuple(range(16)))
    storage = storage_of(
        (16, 16), [tile], FLOAT32, False, lambda s: rng.choice([1.0, -1.0, 0.1, 1 / 3], s), rng
    )
    x = np.ones((16, 4), np.float32)
    x[3, 0], x[5, 1], x[7, 2] = np.inf, -np.inf, np.nan
    got = run(Product(storage, x), precision, "80", -1)
    want = expand(storage)[0].values @ x
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(got[:, :2], want[:, :2].astype(np.float32))


def test_pairs_that_hold_two_values_are_refused_with_their_number() -> None:
    launcher = InterpreterLauncher("80")
    rng = np.random.default_rng(0)
    tile = TileSpec(tuple(range(16)), tuple(range(32)))
    storage = storage_of((16, 32), [tile], FLOAT32, True, normals(rng), rng)
    nibbles = storage.meta[:, None] >> np.array([0, 4, 8, 12]) & 15
    crowded = int(np.isin(nibbles, (0b0100, 0b1110)).sum())
    assert as_pairs(storage.data, storage.meta).crowded == crowded > 0
    reason = CudaBackend(launcher).refusal(storage, storage.data[:0], precision="tf32")
    assert reason.startswith(f"precision tf32 takes one value of every two slots, and {crowded}")
    with pytest.raises(FormatError, match=f"{crowded} pairs hold two"):
        pack(storage, form_of(FLOAT32, "tf32"))
    # Zeros may stand anywhere: a lone value of a group always fits.
    lone = replace(storage, data=np.where(np.arange(storage.data.size) % 2, storage.data, 0))
    assert as_pairs(lone.data, lone.meta).crowded == 0
    np.testing.assert_array_equal(np.sort(as_pairs(lone.data, lone.meta).data), np.sort(lone.data))


@pytest.mark.parametrize("dtype", [INT8, E4M3, FLOAT64])
@pytest.mark.parametrize("sparse", [True, False])
def test_unpacking_other_widths_gives_the_tiles_back(dtype: np.dtype[Any], sparse: bool) -> None:
    storage = problem(dtype, "default", sparse).storage
    tiles = {tuple(t.rows): t for t in expand(storage) if t.values.size}
    for rows, cols, data, meta in unpack(pack(storage)):
        tile = tiles.pop(tuple(rows[rows >= 0]))
        height, slots = tile.values.shape
        np.testing.assert_array_equal(cols[:slots], tile.cols)
        assert (cols[slots:] == -1).all()
        if meta is None:
            np.testing.assert_array_equal(data[:height, :slots].astype(float), tile.values)
        else:
            kept = np.sort(tile.values[tile.stored].reshape(height, -1), axis=1)
            found = np.sort(data[:height, : slots // 2].astype(float), axis=1)
            np.testing.assert_array_equal(found, kept)
    assert not tiles


def test_architectures_that_have_no_such_products_say_so() -> None:
    assert "8.9" in refusal(form_of(E4M3), "86")
    assert "emulated on sm_90" in refusal(form_of(E5M2), "90a")
    assert "emulated on sm_100" in refusal(form_of(E4M3), "100", wgmma=True)
    assert refusal(form_of(E5M2), "90a", wgmma=True) == ""
    assert refusal(form_of(E4M3), "89") == refusal(form_of(E4M3), "120") == ""
    assert "float64 needs" in refusal(form_of(FLOAT64), "120")
    assert refusal(form_of(FLOAT64), "90") == refusal(form_of(INT8), "80") == ""
    assert form_of(np.dtype(np.complex64)) is None
    assert configs("90", np.dtype(np.int16), True) == ()
    backend = CudaBackend(InterpreterLauncher("90"))
    x = np.zeros((150, 2), E4M3)
    assert "emulated" in backend.refusal(problem(E4M3, "default", False).storage, x)
    assert backend.refusal(problem(E4M3, "default", True).storage, x) == ""


def test_float32_products_are_chosen_by_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    """The public call; packed once for each way of multiplying."""
    launcher = InterpreterLauncher("90")
    monkeypatch.setattr(products_module, "BACKENDS", [CudaBackend(launcher)])
    product = problem(FLOAT32, "tf32", True)
    a = TVWMatrix.from_storage(product.storage)
    for precision, parts, element in (
        ("default", 3, "bfloat16"), ("highest", 3, "bfloat16"), ("high", 2, "bfloat16"),
        ("tf32", 1, "tf32"),
    ):  # fmt: skip
        got = tvwarray.matmul(a, product.x, precision=precision)
        np.testing.assert_array_equal(got, exact(product)[0].astype(np.float32))
        config = launcher.kernels[-1].config
        assert (config.parts, config.element) == (parts, element)
    packed = products_module.packed_for(a.storage, products_module.BACKENDS[0])
    assert len(packed.forms) == 3
    with pytest.raises(BackendError, match="no products of int32"):
        tvwarray.matmul(a.astype(np.int32), product.x.astype(np.int32))


def test_scales_of_int8(monkeypatch: pytest.MonkeyPatch) -> None:
    """Row and column scales of quantised operands, fused; to float32 and 16 bits, with a bias."""
    launcher = InterpreterLauncher("80")
    monkeypatch.setattr(products_module, "BACKENDS", [CudaBackend(launcher)])
    product = problem(INT8, "default", True)
    a, y = TVWMatrix.from_storage(product.storage), exact(product)[0]
    rng = np.random.default_rng(0)
    rows, cols = (2.0 ** rng.integers(-6, 3, n).astype(np.float32) for n in y.shape)
    bias = rng.integers(-4, 5, y.shape[0]).astype(np.float32)
    for dtype in ("float32", "bfloat16"):
        e = Epilogue(row_scale=rows, col_scale=cols, bias=bias, out_dtype=dtype)
        got = tvwarray.matmul(a, product.x, epilogue=e)
        assert got.dtype == np.dtype(getattr(ml_dtypes, dtype, dtype))
        want = y * rows[:, None] * cols + bias[:, None]
        np.testing.assert_array_equal(got, want.astype(got.dtype))
    assert len(launcher.reports) == 2
    doubled = tvwarray.matmul(a, product.x, epilogue=Epilogue(alpha=2))
    np.testing.assert_array_equal(doubled, 2 * y)
    assert doubled.dtype == np.int32


PRODUCTS_OF = {
    "int8": r"mma\.sp::ordered_metadata.*m16n8k64.*s8\.s8",
    "float8_e4m3": r"mma\.sp::ordered_metadata.*m16n8k64.*e4m3",
    "float8_e5m2": r"mma\.sp::ordered_metadata.*m16n8k64.*e5m2",
    "tf32": r"mma\.sp::ordered_metadata.*m16n8k16.*tf32",
    "bfloat16": r"mma\.sp::ordered_metadata.*m16n8k32.*bf16",
    "float64": r"mma\.sync.*m8n8k4.*f64",
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gate_of_the_other_types(architecture: str) -> None:
    """The largest kernel of each type compiles everywhere it is offered, without spills."""
    for dtype, precision in ((p.values[0], p.values[1]) for p in TYPES):
        form = form_of(dtype, precision)
        if refusal(form, architecture):
            continue
        config = configs_of(architecture, form, True)[0]
        kernel = compile_kernel(config, architecture)
        context = f"{config} for sm_{architecture}: {kernel.usage}"
        assert kernel.usage.spill_bytes == kernel.usage.stack_bytes == 0, context
        assert kernel.usage.registers <= config.max_registers, context
        assert "warning" not in kernel.log, kernel.log
        found = re.findall(PRODUCTS_OF[config.element], kernel.ptx)
        assert len(found) >= config.products, context
