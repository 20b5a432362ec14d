"""The Hopper kernel of 8-bit values, executed: what it computes, and what it must not do.

As `test_hopper.py` for 16-bit values; what both kernels share is tested there.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from epilogue_problems import near
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter_launcher import InterpreterLauncher
from kernel_problems import (
    FLOAT16,
    Product,
    draw_tiles,
    exact,
    integers,
    normals,
    storage_of,
    uniform,
)
from test_compile import machine_code, static_shared_bytes

import tvwarray
from tvwarray import Epilogue, TVWMatrix
from tvwarray import _matmul as products_module
from tvwarray._backends.cuda import CudaBackend
from tvwarray._errors import BackendError
from tvwarray._kernels.compile import compile_kernel, shipped_sources
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.hopper.config8 import ByteConfig, byte_configs
from tvwarray._kernels.hopper.instructions import wgmma_byte_header
from tvwarray._kernels.hopper.pack import slabs_of
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply

E4M3 = np.dtype(ml_dtypes.float8_e4m3fn)
E5M2 = np.dtype(ml_dtypes.float8_e5m2)
INT8 = np.dtype(np.int8)
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT32 = np.dtype(np.float32)

ORDERS = ("forward", "reverse", "random")
SHIPPED = {
    d: byte_configs("90", form_of(d), True) + byte_configs("90", form_of(d, "highest"), True)[:1]
    for d in (E4M3, E5M2)
}
SHIPPED[INT8] = byte_configs("90", form_of(INT8), True)
CASES = [(d, i) for d, shipped in SHIPPED.items() for i in range(len(shipped))]
BASE = SHIPPED[E4M3][0]
LARGEST = {E4M3: 8, E5M2: 4, INT8: 127}


def run(product: Product, config: ByteConfig, order: Any = "forward", **options: Any) -> Any:
    """Return A @ X and the report of the launch, if there was one; it had no bank conflict."""
    epilogue = options.pop("epilogue", Epilogue())
    launcher = InterpreterLauncher("90", order, **options)
    packed = pack(product.storage)
    got = multiply(launcher, packed, product.x, config=config, epilogue=epilogue)
    for report in launcher.reports:
        assert report.worst_conflict() == 1, report.conflicts
    assert len(launcher.reports) == (got.size > 0)
    return got, launcher.reports[0] if launcher.reports else None


def ragged(dtype: Any, n: int = 141, values: Any = None) -> Product:
    """Return a product that reaches every part: ragged in all ways, more steps than stages."""
    rng = np.random.default_rng(11)
    rows, tiles = draw_tiles(rng, [75, 0, 140, 16], [1168, 64, 208, 0], 21, 150)
    source = (values or (lambda g: integers(g, LARGEST[dtype])))(rng)
    storage = storage_of((rows, 150), tiles, dtype, True, source, rng)
    return Product(storage, source((150, n)).astype(dtype))


@pytest.mark.parametrize(("dtype", "i"), CASES)
def test_every_config_is_exact(dtype: Any, i: int) -> None:
    """Ragged and tall tiles, empty ones, dropped rows, repeated and padded columns, ragged n."""
    product = ragged(dtype)
    got, _ = run(product, SHIPPED[dtype][i], ORDERS[i % 3])
    assert got.dtype == (np.int32 if dtype == INT8 else np.float32)
    np.testing.assert_array_equal(got, exact(product)[0])


@settings(max_examples=8)
@given(
    st.lists(st.tuples(st.integers(0, 150), st.integers(0, 20)), max_size=3),
    st.sampled_from(CASES),
    st.integers(1, 150),
    st.integers(0, 2**32 - 1),
    st.integers(1, 9),
)
def test_drawn_integers_are_exact(
    tiles: Any, case: tuple[Any, int], n: int, seed: int, blocks: int
) -> None:
    """Any config, any order of warps, as many blocks as items or fewer."""
    (dtype, i), rng = case, np.random.default_rng(seed)
    heights, slots = [h for h, _ in tiles], [16 * s for _, s in tiles]
    rows, drawn = draw_tiles(rng, heights, slots, seed % 20, 90)
    source = integers(rng, LARGEST[dtype])
    storage = storage_of((rows, 90), drawn, dtype, True, source, rng)
    product = Product(storage, source((90, n)).astype(dtype))
    got, _ = run(product, SHIPPED[dtype][i], ORDERS[seed % 3], multiprocessors=blocks)
    np.testing.assert_array_equal(got, exact(product)[0])


def float8_bound(product: Product, config: ByteConfig) -> np.ndarray:
    """Return the bound of |got - A X|, for sums that keep 14 bits.

    An instruction takes 64 slots, 32 products. They and the sum so far are cut off 13 bits below
    the largest, and so is the result: 34 errors of 2**-13 |A| |X| at most, 1.07 2**-14 a slot.
    Values below the least normal number count as large as that. Promoted sums are added in float32.
    """
    least = float(ml_dtypes.finfo(product.x.dtype).smallest_normal)

    def size(x: np.ndarray) -> np.ndarray:
        found = abs(x.astype(np.float64))
        return np.where(found > 0, np.maximum(found, least), 0).astype(np.float32)

    storage = replace(product.storage, data=size(product.storage.data))
    _, sizes, terms = exact(Product(storage, size(product.x)))
    slots = terms[:, None] + 128  # up to a whole step
    if config.promote:
        added = slots / (128 * config.promote) * 2.0**-24
        return (1.07 * 2.0**-14 * 128 * config.promote + added) * sizes
    return 1.07 * 2.0**-14 * slots * sizes


@pytest.mark.parametrize("promote", [0, 1])
@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_normals_are_bounded(dtype: Any, promote: int) -> None:
    """As the hardware adds, which the interpreter does bit for bit."""
    product = ragged(dtype, 24, lambda g: lambda shape: abs(normals(g)(shape)))
    config = replace(SHIPPED[dtype][2], promote=promote, multiply_registers=184)
    got, _ = run(product, config)
    y, size, _ = exact(product)
    error = abs(got - y)
    assert (error <= float8_bound(product, config)).all()
    # Half of the point of promoting: what is cut off has one sign here, and adds up.
    assert (error.max() > 2.0**-9 * size.max()) == (promote == 0)


def test_rows_of_x_that_no_slot_names_are_never_read() -> None:
    """NaN in all of them, and beside padding slots: nothing reaches the product."""
    product = ragged(E4M3)
    x = np.full((400, 40), np.nan, E4M3)
    used = np.unique(product.storage.col_indices[product.storage.col_indices >= 0])
    x[used] = product.x[used][:, :40]
    storage = replace(product.storage, shape=(product.storage.shape[0], 400))
    product = Product(storage, x)
    got, _ = run(product, SHIPPED[E4M3][2])
    np.testing.assert_array_equal(got, exact(product)[0])


@pytest.mark.parametrize(
    ("dtype", "output"),
    [(E4M3, FLOAT32), (E4M3, BFLOAT16), (E5M2, FLOAT16), (INT8, FLOAT16)],
)
def test_scaled_results_of_every_type(dtype: Any, output: Any) -> None:
    """Row and column scales of quantised operands, a bias, and one rounding."""
    product = ragged(dtype, 72, lambda g: integers(g, 4))
    rng = np.random.default_rng(0)
    rows, cols = (2.0 ** rng.integers(-6, 3, k).astype(FLOAT32) for k in exact(product)[0].shape)
    e = Epilogue(row_scale=rows, col_scale=cols, bias=rows / 4, out_dtype=output)
    got, report = run(product, SHIPPED[dtype][2], epilogue=e)
    assert got.dtype == output
    assert report.count("st.global.v4")
    near(got, product, e)


@pytest.mark.parametrize("output", [FLOAT32, FLOAT16], ids=str)
def test_casts_alone(output: Any) -> None:
    product = ragged(INT8, 72, lambda g: integers(g, 2))
    got, _ = run(product, SHIPPED[INT8][0], epilogue=Epilogue(out_dtype=output))
    np.testing.assert_array_equal(got, exact(product)[0].astype(output))


@pytest.mark.parametrize("shift", [4, 3])
def test_operands_inside_larger_arrays(shift: int) -> None:
    """Sixteen bytes at a time where rows of `out` are aligned, else an element."""
    product = ragged(E4M3, 64)
    wide = np.full((product.storage.shape[0], 88), 7, FLOAT32)
    out = wide[:, shift : shift + 64]
    launcher = InterpreterLauncher("90")
    given_back = multiply(launcher, pack(product.storage), product.x, out, SHIPPED[E4M3][2])
    assert given_back is out
    np.testing.assert_array_equal(out, exact(product)[0])
    assert (wide[:, :shift] == 7).all()
    assert (wide[:, shift + 64 :] == 7).all()
    assert bool(launcher.reports[0].count("st.global.v4")) == (shift == 4)


def test_several_x_are_one_launch() -> None:
    """And X in any order of memory: what is transposed is copied first."""
    product = ragged(E5M2, 48)
    rng = np.random.default_rng(0)
    x = np.asfortranarray(integers(rng, 4)((2, 150, 48)).astype(E5M2))
    residual = rng.integers(-4, 5, (2, product.storage.shape[0], 48)).astype(FLOAT32)
    launcher, packed = InterpreterLauncher("90"), pack(product.storage)
    e = Epilogue(residual=residual)
    got = multiply(launcher, packed, x, config=SHIPPED[E5M2][2], epilogue=e)
    assert len(launcher.reports) == 1
    for i in range(2):
        want = exact(Product(product.storage, np.ascontiguousarray(x[i])))[0]
        np.testing.assert_array_equal(got[i], want + residual[i])


@pytest.mark.parametrize("order", ORDERS)
def test_items_of_unequal_tiles_go_to_blocks_that_are_free(order: Any) -> None:
    """Tiles of 1 to 10 steps: exact, by a schedule; equal ones take turns."""
    rng, found = np.random.default_rng(0), {}
    for name, slots in (("skewed", [128, 1280, 640, 256]), ("equal", [256] * 4)):
        rows, tiles = draw_tiles(rng, [64] * 4, slots, 0, 200)
        storage = storage_of((rows, 200), tiles, INT8, True, integers(rng), rng)
        product = Product(storage, integers(rng)((200, 300)).astype(INT8))
        packed, launcher = pack(storage), InterpreterLauncher("90", order, multiprocessors=2)
        got = multiply(launcher, packed, product.x, config=SHIPPED[INT8][2])
        np.testing.assert_array_equal(got, exact(product)[0])
        kept = slabs_of(packed).lists
        (found[name],) = (kept[k] for k in kept if k[0] == "following")
    assert found["equal"] is None
    items = 4 * -(-300 // SHIPPED[INT8][2].block_n)
    assert sorted(found["skewed"])[-2:] == [items] * 2  # each of two blocks ends once
    assert np.unique(found["skewed"]).size == items - 1


def test_work_is_as_expected() -> None:
    """Products of what is stored, a bulk copy a stage, 16-byte gathers, turns and stores."""
    product = uniform(256, 512, 256, tile_rows=256, keep=0.5, dtype=E4M3)
    config = BASE
    _, report = run(product, config, multiprocessors=1)
    steps, items = 256 // 128, 256 // config.block_n
    groups = config.multiply_warps // 4
    assert report.blocks == 1
    # Counted once a warp, four of which make a warpgroup.
    assert report.count("wgmma.mma_async") == 4 * groups * config.products * steps * items
    assert report.count("cp.async.bulk") == steps * items
    for once in ("cp.async.cg", "ldmatrix", "stmatrix"):
        assert report.count(once) * 512 == steps * items * config.x_stage_bytes, once
    # A word of X is sorted out by one instruction.
    assert report.count("prmt") * 128 == steps * items * config.x_stage_bytes
    assert report.count("st.global.v4") * 32 * 16 == 256 * 256 * 4
    assert report.count("st.global.b32") == report.count("st.global.u32") == 0


@pytest.mark.parametrize("activation", ["gelu", "silu"])
def test_fused_epilogues_are_bounded(activation: Any) -> None:
    """All parts and a function; no bank conflicts."""
    product = ragged(E4M3, 60, lambda g: integers(g, 2))
    rows, n = product.storage.shape[0], 60
    rng = np.random.default_rng(1)
    e = Epilogue(
        alpha=-0.5, beta=2.0, c=np.ones((rows, n), FLOAT16), bias=np.arange(n, dtype=FLOAT32) / 4,
        bias_axis=1, activation=activation, residual=rng.integers(-3, 4, (rows, n)).astype(FLOAT16),
        row_scale=np.full(rows, 0.125, FLOAT32), out_dtype=FLOAT16,
    )  # fmt: skip
    got, _ = run(product, SHIPPED[E4M3][2], "random", epilogue=e)
    near(got, product, e)


INSTRUCTION = {E4M3: r"\bQGMMA\.SP\.64x\d+x64\.F32\.E4M3", E5M2: "E5M2", INT8: r"\bIGMMA\.SP\."}


@pytest.mark.parametrize("dtype", SHIPPED, ids=str)
def test_gate(dtype: Any) -> None:
    """No spills, no local memory, no waits put in by the assembler, registers, instructions."""
    for config in SHIPPED[dtype]:
        kernel = compile_kernel(config, "90")
        sass, usage = machine_code(kernel.cubin_path), kernel.usage
        context = f"{config}: {usage}\n{kernel.log}"
        assert kernel.architecture == "90a"
        assert not re.search(r"warning|C75\d\d", kernel.log), context
        assert usage.spill_bytes == usage.stack_bytes == 0, context
        assert not re.search(r"\b(LDL|STL)\b", sass), context
        # All registers of the block are given at the start; from then on roles exchange them.
        assert usage.registers == config.max_registers, context
        assert static_shared_bytes(kernel.ptx) == 0, context
        products = len(re.findall(r"\b[QI]GMMA\.SP\.", sass))
        assert products >= (1 if config.promote else 4) * config.products, context
        assert products % config.products == 0, context
        assert re.search(INSTRUCTION[dtype], sass), context
        assert len(re.findall(r"\bUSETMAXREG", sass)) == 2, context
        for name in ("UBLKCP", "LDSM", "STSM", "PRMT"):
            assert re.search(rf"\b{name}\b", sass), (name, context)


VARIANTS = [(E4M3, i, "gelu") for i in range(len(SHIPPED[E4M3]))]
VARIANTS += [(E4M3, 0, "none"), (INT8, 0, "gelu")]


@pytest.mark.parametrize(("dtype", "i", "activation"), VARIANTS)
def test_gate_of_fused_variants(dtype: Any, i: int, activation: Any) -> None:
    config = SHIPPED[dtype][i].storing("bfloat16").with_epilogue(activation)
    kernel = compile_kernel(config, "90")
    assert kernel.usage.spill_bytes == kernel.usage.stack_bytes == 0, config
    assert not re.search(r"warning|C75\d\d", kernel.log), kernel.log
    assert kernel.usage.registers == config.max_registers


def test_every_config_is_legal_and_distinct() -> None:
    for shipped in SHIPPED.values():
        assert len(set(shipped)) == len(shipped) == len({str(c) for c in shipped})
        assert not any(c.refusal() for c in shipped)
        assert not any(c.with_epilogue("silu").storing("float16").refusal() for c in shipped)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"element": "float16"}, "they must have 8 bits"),
        ({"element": "int8", "promote": 1}, "int8 is summed exactly"),
        ({"output": "int32"}, "products of float8_e4m3 are not stored as int32"),
        ({"element": "int8", "output": "int32", "fused": True}, "are not stored as int32"),
        ({"wg_n": 96}, "warpgroups of 128 x 96 do not tile the block"),
        ({"wg_rows": 32}, "multiples of 64 rows"),
        ({"block_n": 64, "wg_n": 64}, "lines of 128 columns"),
        ({"stages": 2}, "stages is below 3"),
        ({"gather_warps": 8, "gather_groups": 1}, "landings below 2"),
        ({"gather_warps": 3}, "4 groups of 3 warps are not warpgroups"),
        ({"gather_warps": 1, "gather_groups": 8}, "8 groups for 4 stages"),
        ({"promote": 1}, "184 registers and 256 sums"),
        ({"multiply_registers": 232}, "the roles take 77824 registers of 65536"),
        ({"copy_registers": 136}, "those that copy give some up"),
        ({"stages": 5}, "bytes of shared memory of 232448"),
        (
            {"block_n": 512, "wg_rows": 64, "wg_n": 128},
            "2304 threads start with 24 registers; a product of 128 columns needs 91",
        ),
    ],
)
def test_illegal_configs_are_refused(changes: dict[str, Any], reason: str) -> None:
    config = replace(BASE, **changes)
    assert reason in config.refusal()
    with pytest.raises(BackendError, match="breaks a rule of the kernel"):
        compile_kernel(config, "90")


@pytest.mark.parametrize("architecture", ["80", "89", "100", "120"])
def test_other_architectures_are_refused(architecture: str) -> None:
    """wgmma is on sm_90a alone: nothing is shipped elsewhere, and forcing it says why."""
    assert byte_configs(architecture, form_of(E4M3), True) == ()
    assert byte_configs("90", form_of(E4M3), False) == ()
    assert byte_configs("90", form_of(FLOAT16), True) == ()
    with pytest.raises(BackendError, match=f"9.0 alone, not on sm_{architecture}"):
        compile_kernel(BASE, architecture)


def test_the_public_product_takes_float8_on_hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """With pattern (2, 4), by this kernel; all slots are refused with the reason."""
    launcher = InterpreterLauncher("90")
    monkeypatch.setattr(products_module, "BACKENDS", [CudaBackend(launcher)])
    product = ragged(E4M3, 24)
    a = TVWMatrix.from_storage(product.storage)
    np.testing.assert_array_equal(tvwarray.matmul(a, product.x), exact(product)[0])
    assert launcher.kernels[0].name == BASE.kernel
    plan = str(products_module.packed_for(a.storage, products_module.BACKENDS[0]).of().memo)
    assert "float8 mma is emulated on sm_90" in plan
    dense = uniform(64, 64, 16, tile_rows=64, keep=0.5, dtype=E4M3, sparse=False)
    with pytest.raises(BackendError, match=r"wgmma multiplies pattern \(2, 4\) alone"):
        tvwarray.matmul(TVWMatrix.from_storage(dense.storage), dense.x)


def test_the_sources_state_the_config_by_name() -> None:
    """Each field is a constexpr of the same name, and each is used."""
    sources = "".join(shipped_sources(BASE.kernel).values())
    for line in BASE.headers()["config.cuh"].splitlines()[2:-1]:
        name = re.fullmatch(r"constexpr \w+ (\w+) = [\w:]+;", line)[1]
        assert hasattr(BASE, name)
        assert f"config::{name}" in sources


@pytest.mark.parametrize("element", ["int8", "float8_e4m3", "float8_e5m2"])
def test_the_instruction_names_every_register_once(element: Any) -> None:
    for width in (8, 24, 96, 256):
        text = wgmma_byte_header(width, element)
        assert text.count(f".m64n{width}k64.") == 2
        kind = "r" if element == "int8" else "f"
        for sign in ("=", "+"):
            found = re.findall(rf'"\{sign}{kind}"\(c\[(\d+)\]\)', text)
            assert found == list(map(str, range(width // 2)))
    for width in (4, 40) if element == "int8" else (4, 264):
        with pytest.raises(ValueError, match="widths 8, 16"):
            wgmma_byte_header(width, element)


def test_slabs_hold_the_matrix_and_nothing_else() -> None:
    """Every stored value and nibble is where the picture says; the rest is zero and 0x4."""
    storage = ragged(INT8).storage
    made = slabs_of(pack(storage))
    slabs = made.slabs.view(np.uint8).reshape(-1, 5120)
    for t, source in enumerate(made.tiles.source[:-1]):
        rows, slots = int(storage.rows_of[source]), int(storage.slots_of[source])
        data = storage.data[storage.data_indptr[source] :][: rows * slots // 2]
        meta = storage.meta[storage.meta_indptr[source] :][: rows * slots // 16]
        height, steps = int(made.height[t]), int(made.tiles.steps[t])
        values = np.zeros((height * 64, steps * 64), np.uint8)
        words = np.full((height * 64, steps * 8), 0x4444, np.uint16)
        values[:rows, : slots // 2] = data.view(np.uint8).reshape(rows, slots // 2)
        words[:rows, : slots // 16] = meta.reshape(rows, slots // 16)
        for step in range(steps):
            for slab in range(height):
                got = slabs[int(made.first_slab[t]) + step * height + slab]
                held = got[4096:].view(np.uint32).reshape(4, 2, 32)
                for r in range(64):
                    for c in range(4):
                        at = r * 64 + (c ^ (r // 2 % 4)) * 16
                        expected = values[slab * 64 + r, step * 64 + c * 16 :][:16]
                        np.testing.assert_array_equal(got[at : at + 16], expected)
                    # Lane 4 g + 2 q + h: row g + 8 h, slots 32 q .. of a product's 64.
                    lanes = r % 8 * 4 + r // 8 % 2 + np.array([0, 2])
                    halves = words[slab * 64 + r, step * 8 :][:8].reshape(2, 2, 2).astype(np.uint32)
                    expected = halves[..., 0] | halves[..., 1] << 16
                    np.testing.assert_array_equal(held[r // 16][:, lanes], expected)
