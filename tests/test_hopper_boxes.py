"""X in boxes, for tiles that keep every column: tensor copies and clusters.

As `test_hopper`, for the config that reads X so, executed in the interpreter with its blocks in
clusters of two.
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
    TileSpec,
    exact,
    integers,
    storage_of,
    uniform,
)
from test_compile import machine_code

from tvwarray import Epilogue
from tvwarray._errors import BackendError
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.devices import DEVICES
from tvwarray._kernels.hopper.config import HopperConfig, hopper_configs
from tvwarray._kernels.hopper.pack import slabs_of
from tvwarray._kernels.launch import choose_for, problem_of
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply

ORDERS = ("forward", "reverse", "random")


def boxed(dtype: Any) -> HopperConfig:
    """Return the shipped config that reads X in boxes."""
    (found,) = (c for c in hopper_configs("90", dtype, True, every_column=True) if c.boxes)
    return found


def plain(
    heights: list[int], cols: int, n: int, dropped: int = 0, dtype: Any = FLOAT16, seed: int = 5
) -> Product:
    """Return a product of tiles that keep every column, their rows in any order."""
    rng = np.random.default_rng(seed)
    slots = -(-cols // 16) * 16
    order = rng.permutation(sum(heights) + dropped)
    ends = np.cumsum(heights)
    every = tuple(range(cols)) + (-1,) * (slots - cols)
    tiles = [TileSpec(tuple(order[e - h : e]), every) for h, e in zip(heights, ends, strict=True)]
    values = integers(rng)
    storage = storage_of((len(order), cols), tiles, dtype, True, values, rng)
    return Product(storage, values((cols, n)).astype(dtype))


def run(product: Product, config: HopperConfig, order: Any = "forward", blocks: int = 4) -> Any:
    """Return A @ X and the report of the launch; it had no bank conflict."""
    launcher = InterpreterLauncher("90", order, multiprocessors=blocks)
    got = multiply(launcher, pack(product.storage), product.x, config=config)
    (report,) = launcher.reports
    assert report.worst_conflict() == 1, report.conflicts
    return got, report


@pytest.mark.parametrize(
    ("dtype", "order"), [(FLOAT16, "forward"), (FLOAT16, "random"), (BFLOAT16, "reverse")]
)
def test_every_column_is_exact(dtype: Any, order: Any) -> None:
    """Ragged in all ways: tiles of no block's height, an odd number of entries, rows of zeros."""
    product = plain([300, 75, 128], 270, 264, dropped=9, dtype=dtype)
    got, _ = run(product, boxed(dtype), order)
    np.testing.assert_array_equal(got, exact(product)[0].astype(dtype))


@settings(max_examples=6)
@given(
    st.lists(st.integers(1, 150), min_size=1, max_size=3),
    st.integers(1, 200),
    st.integers(1, 280),
    st.integers(0, 20),
    st.sampled_from(ORDERS),
    st.sampled_from([2, 3, 6]),
)
def test_drawn_tiles_are_exact(
    heights: list[int], cols: int, n: int, dropped: int, order: Any, blocks: int
) -> None:
    """Fewer steps than stages, and more items than clusters."""
    product = plain(heights, cols, n, dropped, seed=cols)
    got, _ = run(product, boxed(FLOAT16), order, blocks)
    np.testing.assert_array_equal(got, exact(product)[0].astype(FLOAT16))


def test_what_lies_beside_x_is_never_read() -> None:
    """X inside a larger array of NaN: the map ends where X does, also under padding slots."""
    product = plain([130], 70, 72)
    wide = np.full((90, 96), np.nan, np.float16)
    wide[:70, :72] = product.x
    got, _ = run(Product(product.storage, wide[:70, :72]), boxed(FLOAT16))
    np.testing.assert_array_equal(got, exact(product)[0].astype(FLOAT16))


def test_blocks_of_a_cluster_share_x() -> None:
    """Each starts half of the boxes, for both; A goes to each alone."""
    product = uniform(256, 256, 512, tile_rows=256, keep=1.0)
    config = boxed(FLOAT16)
    _, report = run(product, config, blocks=2)
    steps, items = 256 // 64, 2 * 512 // config.block_n
    assert report.blocks == 2
    assert report.count("cp.async.bulk.tensor") == steps * items * (config.block_n // 64) // 2
    assert report.count("cp.async.bulk.shared") == steps * items
    assert report.count("cp.async.cg") == 0
    assert report.count("wgmma.mma_async") == 8 * config.products * steps * items


def test_a_started_product_reads_another_x() -> None:
    """What is kept of a launch is the shape of the map, not where X was."""
    product = plain([130, 126], 128, 256)
    packed = pack(product.storage)
    launcher = InterpreterLauncher("90", multiprocessors=2)
    config = boxed(FLOAT16)
    packed.memo[256, launcher.device(product.x)] = _Only(config)
    for seed in range(3):
        x = integers(np.random.default_rng(seed))((128, 256)).astype(np.float16)
        got = multiply(launcher, packed, x)
        np.testing.assert_array_equal(got, exact(replace(product, x=x))[0].astype(FLOAT16))
    assert [k.config for k in launcher.kernels] == [config] * 3


class _Only:
    """A choice of one config."""

    def __init__(self, config: HopperConfig) -> None:
        self.config, self.refusal = config, ""
        self.candidates = (self,)


EPILOGUES = (
    Epilogue(alpha=-0.5, bias=(np.arange(384) / 8).astype(np.float32), activation="relu"),
    Epilogue(activation="gelu", col_scale=(0.25 + np.arange(141) / 256).astype(np.float32)),
)


@pytest.mark.parametrize("i", range(len(EPILOGUES)))
def test_fused_epilogues_are_bounded(i: int) -> None:
    product = plain([256, 128], 150, 141)
    launcher = InterpreterLauncher("90", ORDERS[i], multiprocessors=4)
    got = multiply(
        launcher, pack(product.storage), product.x, config=boxed(FLOAT16), epilogue=EPILOGUES[i]
    )
    near(got, product, EPILOGUES[i])


def test_only_tiles_that_keep_every_column_are_read_so() -> None:
    """Plain 2:4 is; with a column missing, exchanged or kept twice, rows of X are gathered."""
    product = uniform(2048, 2048, 8, tile_rows=256, keep=1.0)
    storage = product.storage
    assert problem_of(pack(storage), 8).every_column
    chosen = choose_for(storage, 8192, DEVICES["H200"]).config
    assert isinstance(chosen, HopperConfig)
    assert chosen.boxes
    columns = storage.col_indices
    for at, column in ((7, -1), (7, 8), (255, 0)):
        other = columns.copy()
        other[at] = column
        changed = replace(storage, col_indices=other)
        assert not problem_of(pack(changed), 8).every_column
        assert not any(
            isinstance(c.config, HopperConfig) and c.config.boxes
            for c in choose_for(changed, 8192, DEVICES["H200"]).candidates
        )
        with pytest.raises(BackendError, match="all tiles keep every column"):
            multiply(InterpreterLauncher("90"), pack(changed), product.x, config=boxed(FLOAT16))


def test_clusters_take_entries_of_equal_steps() -> None:
    """What is missing to a whole cluster is the last entry again, without rows."""
    storage = plain([300, 75, 128], 270, 8, dropped=9).storage
    slabs = slabs_of(pack(storage))
    alone, paired = slabs.work_list(128), slabs.work_list(128, 2)
    steps = paired[:, 3].reshape(-1, 2)
    assert (steps[:, 0] == steps[:, 1]).all()
    kept = paired[paired[:, 6] > 0]
    np.testing.assert_array_equal(kept, alone)
    assert len(paired) == 8
    assert (paired[paired[:, 6] == 0, 2] > 0).all()


@pytest.mark.parametrize(
    ("dtype", "activation"),
    [(FLOAT16, "bare"), (BFLOAT16, "bare"), *((FLOAT16, a) for a in ("none", "silu", "gelu"))],
)
def test_gate(dtype: Any, activation: Any) -> None:
    """No spills, no waits put in by the assembler, boxes by multicast; no fence of all memory in
    the main loop, which an arrival at the scope of the cluster would be.
    """
    config = boxed(dtype)
    if activation != "bare":
        config = config.with_epilogue(activation)
    kernel = compile_kernel(config, "90")
    sass, usage = machine_code(kernel.cubin_path), kernel.usage
    assert not re.search(r"warning|C75\d\d", kernel.log), kernel.log
    assert usage.spill_bytes == usage.stack_bytes == 0, config
    assert usage.registers == config.max_registers
    assert re.search(r"\bUTMALDG\.2D\.MULTICAST\b", sass)
    assert len(re.findall(r"\bHGMMA\.SP\.", sass)) >= 3 * config.products
    assert len(re.findall(r"\bMEMBAR\.ALL\.GPU\b", sass)) <= 2  # at the start and the end
