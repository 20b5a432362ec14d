"""The Hopper kernel, executed: what it computes, and that it does nothing it must not.

Each shipped config is compiled as for users and its PTX run in the interpreter, which checks every
access, every fence, every phase and every bank. What only a GPU can show is in `test_gpu.py`.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from epilogue_problems import near
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
    rounding,
    storage_of,
    uniform,
)
from test_compile import machine_code, static_shared_bytes

from tvwarray import Epilogue
from tvwarray._errors import BackendError
from tvwarray._kernels.compile import compile_kernel, shipped_sources
from tvwarray._kernels.hopper.config import HopperConfig, hopper_configs
from tvwarray._kernels.hopper.instructions import wgmma_header
from tvwarray._kernels.hopper.pack import slabs_of
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply

ORDERS = ("forward", "reverse", "random")
SHIPPED = {d: hopper_configs("90", d, True) for d in (FLOAT16, BFLOAT16)}


def run(product: Product, config: HopperConfig, order: Any = "forward", **options: Any) -> Any:
    """Return A @ X and the report of the launch, if there was one; it had no bank conflict."""
    launcher = InterpreterLauncher("90", order, **options)
    got = multiply(launcher, pack(product.storage), product.x, config=config)
    for report in launcher.reports:
        assert report.worst_conflict() == 1, report.conflicts
    assert len(launcher.reports) == (got.size > 0)
    return got, launcher.reports[0] if launcher.reports else None


def ragged(dtype: Any, n: int = 141, values: Any = integers) -> Product:
    """Return a product that reaches every part: ragged in all ways, more steps than stages."""
    rng = np.random.default_rng(11)
    rows, tiles = draw_tiles(rng, [75, 0, 300, 64, 16], [624, 64, 336, 0, 16], 21, 150)
    storage = storage_of((rows, 150), tiles, dtype, True, values(rng), rng)
    return Product(storage, values(rng)((150, n)).astype(dtype))


@pytest.mark.parametrize("i", range(len(SHIPPED[FLOAT16])))
@pytest.mark.parametrize("dtype", SHIPPED, ids=str)
def test_every_config_is_exact(dtype: Any, i: int) -> None:
    """Ragged and tall tiles, empty ones, dropped rows, repeated and padded columns, ragged n."""
    product = ragged(dtype)
    got, _ = run(product, SHIPPED[dtype][i], ORDERS[i % 3])
    np.testing.assert_array_equal(got, exact(product)[0].astype(dtype))


@settings(max_examples=12)
@given(
    products(max_tiles=3).filter(lambda p: p.storage.vector is not None),
    st.integers(0, len(SHIPPED[FLOAT16]) - 1),
    st.sampled_from(ORDERS),
    st.integers(2, 9),
)
def test_drawn_integers_are_exact(product: Product, i: int, order: Any, blocks: int) -> None:
    """Any config, any order of warps, as many blocks as items or fewer."""
    dtype = product.storage.dtype
    got, _ = run(product, SHIPPED[dtype][i], order, multiprocessors=blocks)
    np.testing.assert_array_equal(got, exact(product)[0].astype(dtype))


def test_normals_are_bounded() -> None:
    """Sums in float32 of exact products, then one rounding to 16 bits."""
    product = ragged(BFLOAT16, 72, normals)
    got, _ = run(product, SHIPPED[BFLOAT16][2])
    y, size, terms = exact(product)
    bound = terms[:, None] * 2.0**-24 * size
    error = abs(got.astype(np.float64) - y)
    assert (error <= bound + rounding(abs(y) + bound, got.dtype)).all()


def test_rows_of_x_that_no_slot_names_are_never_read() -> None:
    """NaN in all of them, and beside padding slots: nothing reaches the product."""
    product = ragged(FLOAT16)
    x = np.full((400, 40), np.nan, np.float16)
    used = np.unique(product.storage.col_indices[product.storage.col_indices >= 0])
    x[used] = product.x[used][:, :40]
    storage = replace(product.storage, shape=(product.storage.shape[0], 400))
    product = Product(storage, x)
    got, _ = run(product, SHIPPED[FLOAT16][3])
    np.testing.assert_array_equal(got, exact(product)[0].astype(np.float16))


@pytest.mark.parametrize("shift", [8, 3])
def test_operands_inside_larger_arrays(shift: int) -> None:
    """Sixteen bytes at a time where rows of `out` are aligned, else two."""
    product = ragged(FLOAT16, 64)
    wide = np.full((product.storage.shape[0], 88), 7, np.float16)
    out = wide[:, shift : shift + 64]
    launcher = InterpreterLauncher("90")
    config = SHIPPED[FLOAT16][2]
    given_back = multiply(launcher, pack(product.storage), product.x, out, config)
    assert given_back is out
    np.testing.assert_array_equal(out, exact(product)[0].astype(np.float16))
    assert (wide[:, :shift] == 7).all()
    assert (wide[:, shift + 64 :] == 7).all()
    assert bool(launcher.reports[0].count("st.global.v4")) == (shift == 8)


@pytest.mark.parametrize("order", ORDERS)
def test_items_of_unequal_tiles_go_to_blocks_that_are_free(order: Any) -> None:
    """Tiles of 1 to 20 steps: exact, by a schedule; equal ones take turns."""
    rng = np.random.default_rng(0)
    config, found = SHIPPED[FLOAT16][2], {}
    for name, slots in (("skewed", [64, 1280, 640, 128, 320]), ("equal", [128] * 5)):
        rows, tiles = draw_tiles(rng, [64] * 5, slots, 0, 300)
        storage = storage_of((rows, 300), tiles, FLOAT16, True, integers(rng), rng)
        product = Product(storage, integers(rng)((300, 300)).astype(FLOAT16))
        packed = pack(storage)
        launcher = InterpreterLauncher("90", order, multiprocessors=2)
        got = multiply(launcher, packed, product.x, config=config)
        np.testing.assert_array_equal(got, exact(product)[0].astype(FLOAT16))
        kept = slabs_of(packed).lists
        (found[name],) = (kept[k] for k in kept if k[0] == "following")
    assert found["equal"] is None
    columns = -(-300 // config.block_n)
    assert sorted(found["skewed"])[-2:] == [5 * columns] * 2  # each of two blocks ends once
    assert np.unique(found["skewed"]).size == 5 * columns - 1


def test_work_is_as_expected() -> None:
    """Products of what is stored, a bulk copy a stage, 16-byte gathers and stores, one launch."""
    product = uniform(256, 512, 256, tile_rows=256, keep=0.5)
    config = SHIPPED[FLOAT16][0]
    _, report = run(product, config, multiprocessors=1)
    steps, items = 256 // 64, 256 // config.block_n
    groups = config.multiply_warps // 4
    assert report.blocks == 1
    # Counted once a warp, four of which make a warpgroup.
    assert report.count("wgmma.mma_async") == 4 * groups * config.products * steps * items
    assert report.count("cp.async.bulk") == steps * items
    assert report.count("cp.async.cg") * 512 == steps * items * config.x_stage_bytes
    assert report.count("st.global.v4") * 32 * 16 == 256 * 256 * 2
    assert report.count("st.global.u16") == 0


EPILOGUES = (
    Epilogue(alpha=-0.5, bias=np.arange(-40, 436) / 8, activation="relu"),
    Epilogue(beta=2.0, c=np.ones((476, 1)), bias=np.arange(141) / 4, bias_axis=1),
    Epilogue(activation="gelu", col_scale=0.25 + np.arange(141) / 256),
    Epilogue(activation="silu", row_scale=np.full(476, 0.125), residual=np.ones((1, 141))),
)


@pytest.mark.parametrize("i", range(len(EPILOGUES)))
def test_fused_epilogues_are_bounded(i: int) -> None:
    """Every part and a function of each kind, in the documented order; no bank conflicts."""
    product = ragged(FLOAT16)
    e = checked(EPILOGUES[i], (product.storage.shape[0], 141))
    launcher = InterpreterLauncher("90", ORDERS[i % 3])
    packed, config = pack(product.storage), SHIPPED[FLOAT16][i]
    got = multiply(launcher, packed, product.x, config=config, epilogue=e)
    (report,) = launcher.reports
    assert report.worst_conflict() == 1, report.conflicts
    assert report.count("wgmma")
    near(got, product, e)


def checked(e: Epilogue, shape: tuple[int, int]) -> Epilogue:
    """Return an epilogue with arrays of the right sizes and types."""

    def sized(part: Any, n: int) -> Any:
        return None if part is None else np.resize(part, n).astype(np.float32)

    def whole(part: Any) -> Any:
        return None if part is None else np.full(shape, part.ravel()[0], np.float16)

    return replace(
        e, bias=sized(e.bias, shape[e.bias_axis]), row_scale=sized(e.row_scale, shape[0]),
        col_scale=sized(e.col_scale, shape[1]), c=whole(e.c), residual=whole(e.residual),
    )  # fmt: skip


def test_what_it_does_not_do_goes_to_other_kernels() -> None:
    """float32 results, several X."""
    product = uniform(256, 128, 256, tile_rows=256, keep=0.5)
    packed, wide = pack(product.storage), Epilogue(out_dtype=np.dtype(np.float32))
    for e, x in ((wide, product.x), (Epilogue(), product.x[None])):
        with pytest.raises(BackendError, match="cannot run this"):
            multiply(InterpreterLauncher("90"), packed, x, config=SHIPPED[FLOAT16][0], epilogue=e)
    launcher = InterpreterLauncher("90", multiprocessors=1)
    near(multiply(launcher, packed, product.x, epilogue=wide), product, wide)
    assert launcher.kernels[0].config.kernel != BASE.kernel


def test_strips_are_narrow_where_blocks_at_work_cover_a() -> None:
    """As wide as makes all of A one round; not for unequal tiles, nor where A leaves the cache."""
    even = slabs_of(pack(uniform(512, 256, 64, tile_rows=64, keep=0.5).storage))
    assert even.strip(8, 32, 20, 1 << 20) == 4
    assert even.strip(8, 32, 3, 1 << 20) == 3
    assert even.strip(8, 4, 20, 1 << 20) == 1
    assert even.strip(8, 32, 20, even.slabs.nbytes) == 20
    unequal = slabs_of(pack(ragged(FLOAT16).storage))
    assert unequal.strip(8, 32, 20, 1 << 20) == 20


VARIANTS = [
    (i, activation)
    for i in range(len(SHIPPED[FLOAT16]))
    for activation in ("none", "silu", "gelu_tanh", "gelu")
    if i in (0, 2) or activation == "gelu"
]


@pytest.mark.parametrize(("i", "activation"), VARIANTS)
def test_gate_of_fused_variants(i: int, activation: Any) -> None:
    config = SHIPPED[FLOAT16][i].with_epilogue(activation)
    kernel = compile_kernel(config, "90")
    assert kernel.usage.spill_bytes == kernel.usage.stack_bytes == 0, config
    assert not re.search(r"warning|C75\d\d", kernel.log), kernel.log
    assert kernel.usage.registers == config.max_registers


@pytest.mark.parametrize("dtype", SHIPPED, ids=str)
def test_gate(dtype: Any) -> None:
    """No spills, no local memory, no waits put in by the assembler, registers, HGMMA.SP."""
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
        held = config.multiply_warps * config.multiply_registers
        held += config.copy_warps * config.copy_registers
        assert held <= usage.registers * config.threads // 32, context
        assert static_shared_bytes(kernel.ptx) == 0, context
        # Of one step: the first of an item, two of the loop (or more, unrolled), the odd one.
        products = len(re.findall(r"\bHGMMA\.SP\.", sass))
        assert products >= 4 * config.products, context
        assert products % config.products == 0, context
        assert len(re.findall(r"\bUSETMAXREG", sass)) == 2, context
        assert re.search(r"\bUBLKCP\b", sass), context


def test_every_config_is_legal_and_distinct() -> None:
    for shipped in SHIPPED.values():
        assert len(set(shipped)) == len(shipped)
        assert not any(c.refusal() for c in shipped)
        assert len({str(c) for c in shipped}) == len(shipped)


BASE = SHIPPED[FLOAT16][0]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"wg_n": 96}, "warpgroups of 128 x 96 do not tile the block"),
        ({"wg_rows": 32}, "multiples of 64 rows"),
        ({"gather_warps": 3}, "3 warps gather a stage"),
        ({"gather_groups": 8, "gather_warps": 1}, "8 groups for 6 stages"),
        ({"stages": 2, "gather_groups": 2, "gather_warps": 4}, "stages is below 3"),
        ({"multiply_registers": 232}, "the roles take 73728 registers of 65536"),
        ({"stages": 7}, "bytes of shared memory of 232448"),
        ({"cluster": 4}, "clusters of 4 blocks; larger ones leave multiprocessors idle"),
        ({"boxes": True, "cluster": 2, "block_n": 192, "wg_n": 192}, "cannot share 3 boxes"),
        (
            {"block_n": 256, "wg_n": 256, "gather_groups": 6, "stages": 6},
            "start with 96 registers; a product of 256 columns needs 155",
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
    assert hopper_configs(architecture, FLOAT16, True) == ()
    assert hopper_configs("90", FLOAT16, False) == ()
    assert hopper_configs("90", np.dtype(np.float32), True) == ()
    assert BASE.refusal_on("90") == BASE.refusal_on("90a") == ""
    with pytest.raises(BackendError, match=f"9.0 alone, not on sm_{architecture}"):
        compile_kernel(BASE, architecture)


def test_the_sources_state_the_config_by_name() -> None:
    """Each field is a constexpr of the same name, and each is used."""
    sources = "".join(shipped_sources(BASE.kernel).values())
    for line in BASE.headers()["config.cuh"].splitlines()[2:-1]:
        name = re.fullmatch(r"constexpr \w+ (\w+) = [\w:]+;", line)[1]
        assert hasattr(BASE, name) or name in ("element", "output")
        assert f"config::{name}" in sources


def test_the_sources_include_nothing_but_themselves() -> None:
    texts = {**shipped_sources(BASE.kernel), **BASE.headers()}
    included = {n for text in texts.values() for n in re.findall(r'#include\s*"(\S+)"', text)}
    assert included == set(texts) - {"sm90_tvw_gemm.cu"}
    assert not any(re.search(r"#include\s*<|^\s*#\s*define", t, re.M) for t in texts.values())


@pytest.mark.parametrize("width", [8, 64, 128, 192, 256])
def test_the_instruction_names_every_register_once(width: int) -> None:
    text = wgmma_header(width, bfloat16=True)
    assert text.count(f".m64n{width}k32.f32.bf16.bf16") == 2
    for kind in ("=", "+"):
        assert re.findall(rf'"\{kind}f"\(c\[(\d+)\]\)', text) == list(map(str, range(width // 2)))
    with pytest.raises(ValueError, match="widths 8, 16"):
        wgmma_header(width + 4, bfloat16=True)


def test_slabs_hold_the_matrix_and_nothing_else() -> None:
    """Every stored value and nibble is where the picture says; the rest is zero and 0x4."""
    storage = ragged(FLOAT16).storage
    packed = pack(storage)
    made = slabs_of(packed)
    assert slabs_of(packed) is made
    slabs = made.slabs.reshape(-1, 2304)
    for t, source in enumerate(made.tiles.source[:-1]):
        rows, slots = int(storage.rows_of[source]), int(storage.slots_of[source])
        data = storage.data[storage.data_indptr[source] :][: rows * slots // 2]
        data = data.view(np.uint16).reshape(rows, slots // 2)
        meta = storage.meta[storage.meta_indptr[source] :][: rows * slots // 16]
        meta = meta.reshape(rows, slots // 16)
        height, steps = int(made.height[t]), int(made.tiles.steps[t])
        values = np.zeros((height * 64, steps * 32), np.uint16)
        words = np.full((height * 64, steps * 4), 0x4444, np.uint16)
        values[:rows, : slots // 2], words[:rows, : slots // 16] = data, meta
        for step in range(steps):
            for slab in range(height):
                got = slabs[int(made.first_slab[t]) + step * height + slab]
                for r in range(64):
                    for c in range(4):
                        at = r * 32 + (c ^ (r // 2 % 4)) * 8
                        expected = values[slab * 64 + r, step * 32 + c * 8 :][:8]
                        np.testing.assert_array_equal(got[at : at + 8], expected)
                    warp, g, half = r // 16, r % 8, r // 8 % 2
                    lanes = 2048 + (warp * 32 + g * 4 + np.arange(4)) * 2 + half
                    expected = words[slab * 64 + r, step * 4 : step * 4 + 4]
                    np.testing.assert_array_equal(got[lanes], expected)
