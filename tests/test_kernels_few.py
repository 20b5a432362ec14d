"""``sm80_tvw_few`` and ``sm80_tvw_vector``, executed: any strides, any order of pieces."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from epilogue_problems import epilogues, near
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

import tvwarray
from tvwarray import TVWMatrix
from tvwarray import _matmul as products_module
from tvwarray._backends.cuda import CudaBackend
from tvwarray._errors import BackendError
from tvwarray._kernels import few
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.config import ARCHITECTURES, FewConfig, VectorConfig, few_config
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply

GATHER = "ld.shared.u16"
"""Of a vector's elements, by columns that meet where they meet."""


def run(product: Product, block_rows: int = 16, **options: Any) -> np.ndarray:
    """Return A @ X by the kernel, which had no bank conflict, in the order of X."""
    storage, n = product.storage, product.x.shape[1]
    launcher = InterpreterLauncher("80", **options)
    what = storage.dtype.name, storage.vector is not None, n, storage.shape[1]
    config = few_config(*what, block_rows)
    if config.refusal():
        config = few_config(*what)
    got = multiply(launcher, pack(storage), product.x, config=config)
    assert not [
        c for r in launcher.reports for c in r.conflicts if c.degree > 1 and c.mnemonic != GATHER
    ]
    return got


@settings(max_examples=25)
@given(
    products(max_slots=700),
    st.one_of(st.just(1), st.integers(1, 64)),
    st.sampled_from([16, 32]),
    st.sampled_from(["forward", "reverse"]),
    st.sampled_from([0, 1, 3]),
)
def test_drawn_integers_are_exact(
    product: Product, n: int, block_rows: int, order: str, pieces: int
) -> None:
    """Whole tiles, and pieces of so many steps."""
    product = replace(product, x=np.resize(product.x, (product.x.shape[0], n)))
    with pytest.MonkeyPatch.context() as patch:
        if pieces:
            patch.setattr(few, "most_steps", lambda *_: pieces)
        got = run(product, block_rows, order=order)
    np.testing.assert_array_equal(got, exact(product)[0].astype(got.dtype))


@settings(max_examples=10)
@given(products(values="normals", max_slots=700), st.integers(1, 9), st.data())
def test_drawn_normals_and_epilogues_are_bounded(
    product: Product, n: int, data: st.DataObject
) -> None:
    product = replace(product, x=np.resize(product.x, (product.x.shape[0], n)))
    got = run(product)
    y, size, terms = exact(product)
    bound = terms[:, None] * 2.0**-24 * size
    assert (abs(got.astype(float) - y) <= bound + rounding(abs(y) + bound, got.dtype)).all()
    e = data.draw(epilogues(got.shape, got.dtype))
    launcher = InterpreterLauncher("90", order="random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products_module, "BACKENDS", [CudaBackend(launcher)])
        got = tvwarray.matmul(TVWMatrix.from_storage(product.storage), product.x, epilogue=e)
    assert len(launcher.kernels) == (got.size > 0)
    near(got, product, e)


@pytest.mark.parametrize("n", [1, 5, 8, 24, 64])
@pytest.mark.parametrize("order", ["C", "F", "window", "steps"])
def test_operands_lie_anywhere(n: int, order: str) -> None:
    """Less than eight columns need no transpose, eight no copy of a window; no results do."""
    rng = np.random.default_rng(n)
    rows, tiles = draw_tiles(rng, [37, 0, 50], [208, 64, 336], 5, 90)
    storage = storage_of((rows, 90), tiles, FLOAT16, True, integers(rng, 4), rng)
    x = integers(rng, 4)((90, n)).astype(np.float16)
    whole, wide = np.full((200, 200), np.nan, np.float16), np.full((300, 300), 7, np.float16)
    windows = {
        "C": (np.s_[:90, :n], np.s_[:rows, :n]),
        "F": (np.s_[:90, :n], np.s_[:rows, :n]),
        "window": (np.s_[3:93, 5 : 5 + n], np.s_[9 : 9 + rows, 1 : 1 + n]),
        "steps": (np.s_[180:0:-2, 130 : 130 - 2 * n : -2], np.s_[: 2 * rows : 2, : 3 * n : 3]),
    }
    if order == "F":
        whole, wide = whole.T, wide.T
    source, target = windows[order]
    whole[source] = x
    out = wide[target]
    launcher = InterpreterLauncher("90")
    packed, config = pack(storage), few_config("float16", True, n, 90)
    assert multiply(launcher, packed, whole[source], out, config) is out
    assert isinstance(launcher.kernels[-1].config, FewConfig)
    assert len(launcher.kernels) == (2 if n > 7 and order == "F" else 1)
    y = exact(Product(storage, x))[0].astype(np.float16)
    np.testing.assert_array_equal(out, y)
    out[...] = 7
    assert (wide == 7).all()


def test_values_are_read_once() -> None:
    """Loads of 16 bytes for each value and word of metadata, none of them twice; n = 1."""
    product = uniform(256, 1024, 1, tile_rows=128, keep=0.5, dtype=BFLOAT16)
    packed, launcher = pack(product.storage), InterpreterLauncher("90")
    got = multiply(launcher, packed, product.x, config=few_config("bfloat16", True, 1, 1024))
    np.testing.assert_array_equal(got, exact(product)[0].astype(BFLOAT16))
    (report,) = launcher.reports
    # 16 blocks of 16 rows, found by arithmetic: no entry of the work list is read.
    assert report.blocks == 16
    assert report.count("ld.global.nc.v4") * 32 * 16 == packed.values.nbytes
    assert report.count("mma.sp") == packed.values.nbytes // 512
    assert report.count("st.global") == 16  # a row a lane
    assert report.count("atom") == report.count("fence") == 0


@pytest.mark.parametrize("block_rows", [16, 32])
@pytest.mark.parametrize("heights", [[37, 37, 37, 16], [5, 64, 64], [64], [], [3]])
def test_blocks_that_are_alike_are_those_of_the_work_list(
    heights: list[int], block_rows: int
) -> None:
    """What arithmetic finds in the kernel, entry by entry."""
    rng = np.random.default_rng(0)
    slots = [128 if h > 3 else 0 for h in heights]
    rows, tiles = draw_tiles(rng, heights, slots, 3, 90)
    storage = storage_of((rows, 90), tiles, FLOAT16, True, integers(rng), rng)
    of = pack(storage).tiles
    found = few.alike(of, block_rows, 0)
    like = [h for h in heights if heights.count(h) > 1 or h == 64]
    assert found.number == sum(-(-h // block_rows) for h in like)
    blocks = of.blocks(block_rows)[found.first : found.first + found.number]
    height = block_rows // 16
    cuts = -(-found.bricks // height)
    for place, block in enumerate(blocks):
        tile, cut = divmod(place, cuts)
        above = cut * height
        assert list(block) == [
            found.brick + tile * found.bricks * found.steps + above, found.bricks,
            min(height, found.bricks - above), found.steps, found.slots + tile * found.steps * 64,
            found.rows + (tile * found.bricks + above) * 16, 1 << 16, 0,
        ]  # fmt: skip


def test_only_tiles_too_long_are_cut() -> None:
    """Pieces take a second pass over their sums: equal tiles never do, one long tile does."""
    config = few_config("float16", True, 1, 90)

    def limit(heights: list[int], slots: list[int]) -> int:
        rng = np.random.default_rng(0)
        rows, tiles = draw_tiles(rng, heights, slots, 0, 90)
        storage = storage_of((rows, 90), tiles, FLOAT16, True, integers(rng), rng)
        return few.most_steps(pack(storage).tiles, config, 8)

    assert limit([64] * 8, [4096] * 8) == 0
    assert limit([16], [64 * 128]) == 0
    assert limit([16], [64 * 129]) == 64
    assert limit([], []) == 0


def test_the_bits_do_not_depend_on_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    rows, tiles = draw_tiles(rng, [40, 16], [1600, 64], 0, 300)
    storage = storage_of((rows, 300), tiles, FLOAT16, True, normals(rng), rng)
    product = Product(storage, normals(rng)((300, 5)).astype(np.float16))
    monkeypatch.setattr(few, "most_steps", lambda *_: 4)
    runs = [run(product, order="random", seed=s).view(np.uint16) for s in range(3)]
    assert all(np.array_equal(runs[0], other) for other in runs)


def test_x_may_be_the_result() -> None:
    rng = np.random.default_rng(0)
    tiles = draw_tiles(rng, [32], [64], 0, 32)[1]
    storage = storage_of((32, 32), tiles, FLOAT16, True, integers(rng, 4), rng)
    x = integers(rng, 4)((32, 4)).astype(np.float16)
    y = exact(Product(storage, x.copy()))[0]
    multiply(InterpreterLauncher("90"), pack(storage), x, x)
    np.testing.assert_array_equal(x, y.astype(np.float16))


def test_configs_say_what_they_are_for() -> None:
    config = few_config("float16", True, 9, 90)
    assert config.block_n == 16
    assert config.refusal() == ""
    assert "8, 16, 32 or 64" in replace(config, block_n=128).refusal()
    assert "16 bits" in replace(config, element="int8").refusal()
    assert "16 or 32 rows" in replace(config, block_rows=48).refusal()
    wide = few_config("float16", True, 32, 90)
    assert "registers hold 8 columns" in replace(wide, copied=False).refusal()
    vector = few_config("float16", True, 1, 90)
    assert isinstance(vector, VectorConfig)
    assert "a vector is" in replace(vector, block_n=16, warp_n=16).refusal()
    assert "a multiple of 8" in replace(vector, staged=90).refusal()
    assert "2 or 4 steps" in replace(vector, stages=3).refusal()
    assert few_config("float16", True, 1, 20000).kernel == "sm80_tvw_few"
    assert "2 or 4 steps" in replace(config, stages=3).refusal()
    product = uniform(16, 64, 9, tile_rows=16, keep=1.0)
    for n in (1, 8):
        with pytest.raises(BackendError, match=r"cannot run this: X is \(64, 9\)"):
            multiply(
                InterpreterLauncher("80"), pack(product.storage), product.x,
                config=few_config("float16", True, n, 64),
            )  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gate(architecture: str) -> None:
    """The widest, those chosen, with the longest epilogue and pieces, and all slots: no spills."""
    longest = {"fused": True, "activation": "gelu", "pieces": True}
    for config in (
        *(few_config("bfloat16", True, 32, 4096, rows) for rows in (16, 32)),
        *(replace(few_config("bfloat16", True, n, 4096, 16), **longest) for n in (1, 16, 32, 64)),
        *(replace(few_config("bfloat16", True, n, 4096, 32), **longest) for n in (1, 16, 32, 64)),
        few_config("float16", False, 1, 4096, 32),
        few_config("float16", False, 8, 4096, 32),
        few_config("float16", False, 64, 4096, 32),
    ):
        config = config.with_room()
        usage = compile_kernel(config, architecture).usage
        assert usage.spill_bytes == usage.stack_bytes == 0, f"{config}: {usage}"
        assert usage.registers <= config.max_registers
