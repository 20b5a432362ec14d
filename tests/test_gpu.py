"""What only a GPU can show: that it computes what the interpreter does, and that launching works.

Marked `gpu`; everything here runs in a minute or two. `tests/gpu/sanitize.py` runs the same kernels
under compute-sanitizer, `tests/gpu/timings.py` measures them.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import test_ptx_wgmma as wgmma
from epilogue_problems import near
from interpreter_launcher import InterpreterLauncher
from kernel_problems import (
    BFLOAT16,
    FLOAT16,
    PAIRS,
    Product,
    draw_tiles,
    exact,
    integers,
    normals,
    rounding,
    storage_of,
    uniform,
)
from ptx import Interpreter
from test_hopper_boxes import plain
from test_kernels_types import error_bound
from test_kernels_types import problem as type_problem

from tvwarray import Epilogue
from tvwarray._backends.cuda import CudaBackend
from tvwarray._kernels.compile import compile_source, shipped_sources
from tvwarray._kernels.config import KernelConfig, few_config
from tvwarray._kernels.elements import form_of, refusal
from tvwarray._kernels.hopper.config import HopperConfig, hopper_configs
from tvwarray._kernels.launch import CupyLauncher
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import configs, configs_of
from tvwarray._storage import ARRAY_FIELDS, TVWStorage

pytestmark = pytest.mark.gpu

ACCUMULATION = 2.0
"""c of the error bound |got - exact| <= c K 2**-24 (|A| |X|): tensor cores truncate sums."""


@cache
def architecture() -> str:
    import cupy

    return str(cupy.cuda.Device().compute_capability)


def array_to_gpu(x: Any) -> Any:
    """Return an array on the GPU; CuPy takes float8 by its bits alone."""
    import cupy

    return None if x is None else cupy.asarray(x.view(f"u{x.itemsize}")).view(x.dtype)


def to_gpu(storage: TVWStorage) -> TVWStorage:
    moved = {name: array_to_gpu(getattr(storage, name)) for name in ARRAY_FIELDS}
    return TVWStorage(storage.shape, storage.tile_rows, storage.vector, **moved)


def probe(name: str, dtype: np.dtype[Any], inputs: tuple[np.ndarray, ...]) -> tuple[Any, Any]:
    """Return what hardware and interpreter make of one instruction; words of all lanes."""
    import cupy

    config = next(c for c in configs(architecture(), dtype, True))
    texts = {
        **shipped_sources(config.kernel),
        "config.cuh": config.header(),
        "probe.cu": (Path(__file__).parent / "gpu" / "probe.cu").read_text(),
    }
    folder = compile_source("probe.cu", texts, architecture())
    kernel = cupy.RawModule(path=str(folder / "kernel.cubin")).get_function(name)
    device = [cupy.asarray(x) for x in inputs]
    out = cupy.zeros(128, cupy.uint32)
    kernel((1,), (32,), (*device, out))
    machine = Interpreter((folder / "kernel.ptx").read_text())
    simulated = np.zeros(128, np.uint32)
    machine.launch(name, 1, 32, [*inputs, simulated])
    return out.get(), simulated


def lanes(rng: np.random.Generator, dtype: np.dtype[Any]) -> tuple[np.ndarray, ...]:
    """Return registers for a warp: integers, every lane and register another, valid metadata."""
    a = rng.integers(-12, 13, 256).astype(dtype).view(np.uint32)
    b = rng.integers(-12, 13, 256).astype(dtype).view(np.uint32)
    nibble = np.array([p | q << 2 for p, q in PAIRS], np.uint64)[rng.integers(0, 6, (32, 8))]
    meta = (nibble << (4 * np.arange(8, dtype=np.uint64))).sum(axis=1).astype(np.uint32)
    c = rng.integers(-1000, 1000, 128).astype(np.float32)
    return a, b, meta, c


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("name", ["sparse_0", "sparse_1", "dense_0", "dense_1", "transpose"])
def test_one_instruction_agrees_with_the_interpreter(name: str, dtype: np.dtype[Any]) -> None:
    for seed in range(50):
        got, simulated = probe(name, dtype, lanes(np.random.default_rng(seed), dtype))
        np.testing.assert_array_equal(got, simulated)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_rounding_agrees_with_the_interpreter(dtype: np.dtype[Any]) -> None:
    rng = np.random.default_rng(0)
    a, b, meta, _ = lanes(rng, dtype)
    for scale in (1.0, 1e-7, 1e5, 1e38):
        with np.errstate(over="ignore"):
            c = (rng.standard_normal(128) * scale).astype(np.float32)
        c[:3] = np.inf, -np.inf, 65520.0
        got, simulated = probe("round_sums", dtype, (a, b, meta, c))
        np.testing.assert_array_equal(got, simulated)


@pytest.mark.parametrize("kind", ["f16", "bf16"])
@pytest.mark.parametrize(
    ("n", "depth", "swizzle"), [(64, 128, 128), (128, 128, 128), (128, 64, 64), (256, 64, 64)]
)
def test_one_wgmma_agrees_with_the_interpreter(n: int, depth: int, swizzle: int, kind: str) -> None:
    """The same PTX on hardware: descriptors, swizzles, metadata and sums of every lane."""
    problem = wgmma.Problem(n, depth, swizzle, kind)
    body = f"{wgmma.BEGIN} {problem.steps()} {wgmma.COMMIT} {wgmma.WAIT}"
    np.testing.assert_array_equal(on_hardware(problem, body), problem.run(body))


def on_hardware(problem: wgmma.Problem, body: str) -> np.ndarray:
    """Return what the instructions of a problem give on the device."""
    import cupy

    if architecture() != "90":
        pytest.skip("wgmma is on compute capability 9.0 alone")
    module = cupy.cuda.function.Module()
    module.load(problem.text(body, wgmma.FENCE).encode())
    out = cupy.full((128, problem.n // 2), wgmma.NEVER, problem.sums)
    args = (cupy.asarray(problem.image), cupy.asarray(problem.words), out)
    module.get_function("k")((1,), (128,), args, shared_mem=problem.image.nbytes)
    return problem.matrix(out.get())


def ragged(dtype: np.dtype[Any], sparse: bool, n: int, values: str = "integers") -> Product:
    rng = np.random.default_rng(n)
    rows, tiles = draw_tiles(
        rng, [128, 5, 0, 130, 256, 64, 31], [208, 512, 64, 0, 96, 1024, 16], 77, 700
    )
    source = integers(rng) if values == "integers" else normals(rng)
    storage = storage_of((rows, 700), tiles, dtype, sparse, source, rng)
    return Product(storage, source((700, n)).astype(dtype))


def all_configs() -> list[Any]:
    """Return (dtype, sparse, place in the list of shipped configs); known before a GPU is."""
    return [
        pytest.param(dtype, sparse, i, id=f"{dtype.name}-{'2:4' if sparse else 'all'}-{i}")
        for dtype in (FLOAT16, BFLOAT16)
        for sparse in (True, False)
        for i in range(len(shipped("90", dtype, sparse)))
    ]


def shipped(target: str, dtype: np.dtype[Any], sparse: bool) -> list[KernelConfig | HopperConfig]:
    """Return the configs of both kernels for an architecture."""
    return [*configs(target, dtype, sparse), *hopper_configs(target, dtype, sparse)]


def config_of(dtype: np.dtype[Any], sparse: bool, i: int) -> KernelConfig | HopperConfig:
    """Return a config of this GPU; not all have as many as Hopper."""
    found = shipped(architecture(), dtype, sparse)
    if i >= len(found):
        pytest.skip(f"sm_{architecture()} has {len(found)} kernels for this type and pattern")
    return found[i]


def run(
    product: Product, config: KernelConfig | HopperConfig | None = None, out: Any = None
) -> np.ndarray:
    import cupy

    packed = pack(to_gpu(product.storage))
    got = multiply(CupyLauncher(), packed, cupy.asarray(product.x), out, config)
    return got.get()


@pytest.mark.parametrize(("dtype", "sparse", "i"), all_configs())
def test_every_kernel_is_exact_on_integers(dtype: np.dtype[Any], sparse: bool, i: int) -> None:
    """Ragged tiles, empty ones, dropped rows, repeated columns, every kind of n."""
    config = config_of(dtype, sparse, i)
    for n in (1, 7, 8, 64, 200, 513):
        product = ragged(dtype, sparse, n)
        np.testing.assert_array_equal(run(product, config), exact(product)[0].astype(dtype))


@pytest.mark.parametrize(("dtype", "sparse", "i"), all_configs())
def test_every_kernel_is_bounded_on_normals(dtype: np.dtype[Any], sparse: bool, i: int) -> None:
    config = config_of(dtype, sparse, i)
    product = ragged(dtype, sparse, 200, "normals")
    y, size, terms = exact(product)
    error = abs(run(product, config).astype(float) - y)
    bound = ACCUMULATION * terms[:, None] * 2.0**-24 * size
    assert (error <= bound + rounding(abs(y) + bound, dtype)).all()
    worst = (error - rounding(abs(y) + bound, dtype)) / (terms[:, None] * 2.0**-24 * size + 1e-30)
    print(f"\n{config}: c = {worst.max():.3f}")


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("sparse", [True, False])
def test_large_products_are_exact(dtype: np.dtype[Any], sparse: bool) -> None:
    product = uniform(2048, 2048, 2048, tile_rows=128, keep=0.5, dtype=dtype, sparse=sparse)
    expected = exact(product)[0].astype(dtype)
    for config in shipped(architecture(), dtype, sparse):
        np.testing.assert_array_equal(run(product, config), expected)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
def test_x_in_boxes_is_exact(dtype: np.dtype[Any]) -> None:
    """Tiles that keep every column: an odd number of entries, rows of zeros, every kind of n; and
    again with another X, whose map is made when the product is started.
    """
    import cupy

    found = hopper_configs(architecture(), dtype, True, every_column=True)
    boxes = [config for config in found if config.boxes]
    if not boxes:
        pytest.skip(f"sm_{architecture()} has no tensor copies into wgmma")
    for n in (8, 200, 513):
        product = plain([300, 75, 128], 270, n, dropped=9, dtype=dtype)
        for config in boxes:
            np.testing.assert_array_equal(run(product, config), exact(product)[0].astype(dtype))
    product, backend = plain([256] * 6, 2048, 2048, dtype=dtype), CudaBackend()
    packed = backend.pack(to_gpu(product.storage))
    for shift in range(3):
        x = np.roll(product.x, shift, axis=0)
        expected = exact(Product(product.storage, x))[0].astype(dtype)
        got = backend.matmul(packed, cupy.asarray(x))
        np.testing.assert_array_equal(got.get(), expected)


def test_hardware_and_interpreter_agree_on_the_backend() -> None:
    """The same public calls, one through CuPy and one through the interpreter."""
    import cupy

    product = ragged(FLOAT16, True, 96)
    gpu, host = CudaBackend(), CudaBackend(InterpreterLauncher(architecture()))
    storage, x = to_gpu(product.storage), cupy.asarray(product.x)
    assert gpu.refusal(storage, x) == ""
    expected = host.matmul(host.pack(product.storage), product.x)
    np.testing.assert_array_equal(gpu.matmul(gpu.pack(storage), x).get(), expected)


def test_packing_on_the_gpu_gives_the_same_bytes() -> None:
    for dtype in (FLOAT16, BFLOAT16):
        for sparse in (True, False):
            storage = ragged(dtype, sparse, 1).storage
            here, there = pack(storage), pack(to_gpu(storage))
            for name in ("values", "meta", "cols", "rows"):
                np.testing.assert_array_equal(getattr(here, name), getattr(there, name).get())


def test_strided_operands_and_out() -> None:
    """X and `out` as windows of larger arrays, aligned and not; nothing beside `out` changes."""
    import cupy

    product = ragged(FLOAT16, True, 64)
    expected = exact(product)[0].astype(np.float16)
    packed = pack(to_gpu(product.storage))
    for shift in (0, 8, 3):
        big = cupy.full((product.x.shape[0], 96), cupy.nan, cupy.float16)
        big[:, shift : shift + 64] = cupy.asarray(product.x)
        wide = cupy.full((expected.shape[0], 90), 7, cupy.float16)
        window = wide[:, shift : shift + 64]
        multiply(CupyLauncher(), packed, big[:, shift : shift + 64], window)
        np.testing.assert_array_equal(window.get(), expected)
        assert (wide[:, :shift] == 7).all()
        assert (wide[:, shift + 64 :] == 7).all()
    transposed = cupy.asarray(np.ascontiguousarray(product.x.T)).T
    np.testing.assert_array_equal(multiply(CupyLauncher(), packed, transposed).get(), expected)


def test_the_current_stream_is_used_and_can_be_captured() -> None:
    import cupy

    product = ragged(FLOAT16, True, 128)
    expected = exact(product)[0].astype(np.float16)
    packed, x = pack(to_gpu(product.storage)), cupy.asarray(product.x)
    launcher, out = CupyLauncher(), cupy.zeros(expected.shape, cupy.float16)
    multiply(launcher, packed, x, out)  # compiled and loaded before the capture
    out[...] = 0
    stream = cupy.cuda.Stream(non_blocking=True)
    cupy.cuda.Device().synchronize()
    with stream:
        stream.begin_capture()
        multiply(launcher, packed, x, out)
        graph = stream.end_capture()
        assert not out.any()
        graph.launch(stream)
    stream.synchronize()
    np.testing.assert_array_equal(out.get(), expected)


def test_infinities_stay_where_they_are_multiplied() -> None:
    """A row of X that no tile uses, and padding slots, do not spread NaN."""
    product = ragged(FLOAT16, True, 32)
    used = np.unique(product.storage.col_indices)
    unused = np.setdiff1d(np.arange(700), used)
    assert unused.size
    product.x[unused] = np.inf
    np.testing.assert_array_equal(run(product), exact(product)[0].astype(np.float16))


@pytest.mark.parametrize("sparse", [True, False], ids=["2:4", "all"])
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        ("int8", "default"), ("float8_e4m3fn", "default"), ("float8_e5m2", "default"),
        ("float32", "highest"), ("float32", "high"), ("float32", "tf32"), ("float64", "default"),
    ],
)  # fmt: skip
def test_every_type_is_exact_on_integers(dtype: str, precision: Any, sparse: bool) -> None:
    """All shipped configs of each type that this chip has products of."""
    import cupy

    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    form = form_of(kind, precision)
    if reason := refusal(form, architecture()):
        pytest.skip(reason)
    product = type_problem(kind, precision, sparse)
    y = exact(product)[0]
    packed, x = pack(to_gpu(product.storage), form), cupy.asarray(product.x)
    for config in configs_of(architecture(), form, sparse):
        got = multiply(CupyLauncher(), packed, x, config=config).get()
        np.testing.assert_array_equal(got.astype(float), y, err_msg=str(config))


@pytest.mark.parametrize("precision", ["highest", "high", "tf32"])
def test_float32_is_as_precise_as_it_says(precision: Any) -> None:
    import cupy

    product = type_problem(np.dtype(np.float32), "tf32", True, normals)
    packed = pack(to_gpu(product.storage), form_of(np.dtype(np.float32), precision))
    got = multiply(CupyLauncher(), packed, cupy.asarray(product.x)).get()
    y, size, terms = exact(product)
    bound = ACCUMULATION * error_bound(np.dtype(np.float32), precision, terms[:, None]) * size
    assert (abs(got - y) <= bound + 1e-38).all()
    worst = (abs(got - y) / (size + 1e-30)).max()
    print(f"\n{precision}: largest error over |A| |X| {worst:.3g}, 2**{np.log2(worst):.1f}")


@pytest.mark.parametrize("activation", [None, "relu", "gelu", "gelu_tanh", "silu"])
@pytest.mark.parametrize("output", ["float16", "float32"])
def test_fused_epilogues(activation: Any, output: str) -> None:
    """All parts at once, on every kernel and the narrow one; c in any order."""
    import cupy

    rng = np.random.default_rng(0)
    for n in (5, 200):
        product = ragged(FLOAT16, True, n)
        rows = product.storage.shape[0]
        c, residual = (rng.integers(-8, 9, (2, rows, n)) / 4).astype(output)
        row, column = (2.0 ** rng.integers(-4, 1, k).astype(np.float32) for k in (rows, n))
        here = Epilogue(
            alpha=-0.5, beta=2.0, c=c, bias=row, activation=activation, residual=residual,
            out_dtype=np.dtype(output), row_scale=row, col_scale=column,
        )  # fmt: skip
        arrays = ("c", "bias", "residual", "row_scale", "col_scale")
        there = replace(here, **{name: cupy.asarray(getattr(here, name)) for name in arrays})
        there = replace(there, c=cupy.asfortranarray(there.c))
        packed, x = pack(to_gpu(product.storage)), cupy.asarray(product.x)
        for config in (*shipped(architecture(), FLOAT16, True), None):
            if isinstance(config, HopperConfig) and output != "float16":
                continue
            got = multiply(CupyLauncher(), packed, x, config=config, epilogue=there)
            near(got.get(), product, here)


@pytest.mark.parametrize("dtype", [FLOAT16, BFLOAT16], ids=str)
@pytest.mark.parametrize("sparse", [True, False], ids=["2:4", "all"])
def test_few_columns(dtype: np.dtype[Any], sparse: bool) -> None:
    """n = 1 to 64, X and the result in both orders; pieces of tiles in one launch."""
    import cupy

    for n in (1, 2, 8, 13, 30, 64):
        product = ragged(dtype, sparse, n)
        packed, y = pack(to_gpu(product.storage)), exact(product)[0].astype(dtype)
        for order in "CF":
            x = cupy.asarray(product.x, order=order)
            out = cupy.zeros(y.shape, x.dtype, order=order)
            config = few_config(dtype.name, sparse, n, product.storage.shape[1])
            multiply(CupyLauncher(), packed, x, out, config)
            np.testing.assert_array_equal(out.get(), y)


def test_tiles_in_pieces_and_batches() -> None:
    """A long tile shared out to many blocks, bit for bit the same each time; a batch at once."""
    import cupy

    rng = np.random.default_rng(0)
    rows, tiles = draw_tiles(rng, [128, 128, 40], [64, 16384, 4096], 5, 700)
    storage = storage_of((rows, 700), tiles, BFLOAT16, True, normals(rng), rng)
    product = Product(storage, normals(rng)((700, 136)).astype(BFLOAT16))
    packed, x = pack(to_gpu(storage)), cupy.asarray(product.x)
    y, size, terms = exact(product)
    bound = ACCUMULATION * terms[:, None] * 2.0**-24 * size
    for config in configs(architecture(), BFLOAT16, True):
        first = multiply(CupyLauncher(), packed, x, config=config).get()
        error = abs(first.astype(float) - y)
        assert (error <= bound + rounding(abs(y) + bound, BFLOAT16)).all()
        for _ in range(3):
            again = multiply(CupyLauncher(), packed, x, config=config).get()
            np.testing.assert_array_equal(first.view(np.uint16), again.view(np.uint16))
    whole = cupy.asarray(rng.integers(-4, 5, (3, 700, 72)).astype(np.float16))
    exact_storage = ragged(FLOAT16, True, 72).storage
    got = multiply(CupyLauncher(), pack(to_gpu(exact_storage)), whole).get()
    for i in range(3):
        one = exact(Product(exact_storage, whole[i].get()))[0]
        np.testing.assert_array_equal(got[i], one.astype(np.float16))
