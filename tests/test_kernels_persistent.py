"""``sm80_tvw_gemm`` with blocks that take one item after another, and that store columns of Y.

Fewer blocks than items run in the interpreter, so that every hand-over from one item to the next
is executed: first stages that arrive while sums leave, a ring that is used again, pieces. Mutants
of it must be caught. Not shown here: whether that is faster.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from epilogue_problems import epilogues, near
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
    products,
    storage_of,
    uniform,
)
from mutants import BankConflictError, Mutant, WrongResultError, altered, raise_what_is_wrong
from ptx import Misaligned, OutOfBounds, RaceError
from test_kernels_epilogue import skewed

from tvwarray import Epilogue
from tvwarray._errors import BackendError
from tvwarray._kernels import product as product_module
from tvwarray._kernels.compile import CompiledKernel, compile_kernel, registers_of
from tvwarray._kernels.config import ARCHITECTURES, KernelConfig
from tvwarray._kernels.cost import Problem
from tvwarray._kernels.devices import DEVICES
from tvwarray._kernels.elements import Form
from tvwarray._kernels.launch import choose_config
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.schedule import successors
from tvwarray._kernels.select import choose, configs, configs_of, one_item_reason

FLOAT32 = np.dtype(np.float32)
INT8 = np.dtype(np.int8)
H200 = DEVICES["H200"]


class Counted(InterpreterLauncher):
    """Remembers how many blocks were started."""

    def launch(self, kernel: CompiledKernel, grid: int, args: Sequence[Any], like: Any) -> None:
        self.grids = [*getattr(self, "grids", []), grid]
        super().launch(kernel, grid, args, like)


def of_shape(
    rows: int, n: int, dtype: Any = FLOAT16, sparse: bool = True, **fields: Any
) -> KernelConfig:
    """Return a shipped config with blocks of rows x n, persistent unless said otherwise."""
    found = configs("90", dtype, sparse)
    config = next(c for c in found if (c.block_rows, c.block_n) == (rows, n))
    return replace(config, **{"persistent": True, **fields})


@cache
def ragged(dtype: Any = FLOAT16, sparse: bool = True) -> Product:
    """Return tiles of 9, 8, 2 and no steps, in any order of rows, and ragged columns."""
    rng = np.random.default_rng(11)
    rows, tiles = draw_tiles(rng, [37, 128, 0, 40, 70], [528, 80, 32, 0, 496], 19, 200)
    storage = storage_of((rows, 200), tiles, dtype, sparse, integers(rng, 4), rng)
    n = 141 if dtype == FLOAT16 else 75
    return Product(storage, integers(rng, 4)((200, n)).astype(dtype))


def run(product: Product, config: KernelConfig, order: Any, **to: Any) -> Any:
    """Return the product by one multiprocessor's blocks, fewer than there are items."""
    launcher = Counted("90", order, multiprocessors=1)
    got = multiply(launcher, pack(product.storage), product.x, config=config, **to)
    report, grid = launcher.reports[-1], launcher.grids[-1]  # float32 is split by a kernel before
    kernel = launcher.kernels[-1].config
    items = -(-product.x.shape[1] // config.block_n) * 4
    assert kernel.persistent
    assert grid < items
    assert not [c for c in report.conflicts if c.degree > 1]
    return got


@pytest.mark.parametrize("order", ["forward", "reverse", "random"])
@pytest.mark.parametrize("shape", [(128, 256), (256, 128), (64, 64), (32, 128), (16, 128)])
def test_few_blocks_do_all_items(shape: tuple[int, int], order: Any) -> None:
    got = run(ragged(), of_shape(*shape), order)
    np.testing.assert_array_equal(got, exact(ragged())[0].astype(FLOAT16))


@pytest.mark.parametrize(
    ("dtype", "sparse", "shape"),
    [(FLOAT16, False, (64, 64)), (INT8, True, (64, 128)), (FLOAT32, True, (64, 64))],
)
def test_other_types(dtype: Any, sparse: bool, shape: tuple[int, int]) -> None:
    """Every slot stored, bytes, and float32 in parts, whose stages hold less of the next item."""
    product = ragged(dtype, sparse)
    got = run(product, of_shape(*shape, dtype, sparse), "random")
    np.testing.assert_array_equal(got, exact(product)[0].astype(got.dtype))


@pytest.mark.parametrize("order", ["forward", "random"])
def test_pieces_of_persistent_blocks(order: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for another block: the last piece adds up, whoever it is, always alike."""
    monkeypatch.setattr(CompiledKernel, "resident_blocks", lambda *_: 1)
    product, config = skewed(), replace(configs("90", FLOAT16, True)[-1], persistent=True)
    launcher = Counted("90", order, multiprocessors=8)
    packed = pack(product.storage)
    got = multiply(launcher, packed, product.x, config=config)
    assert launcher.kernels[0].config.pieces
    (items,) = (len(work) for key, work in packed.memo.items() if key[0] == config.block_rows)
    assert items > launcher.grids[0] == 8
    np.testing.assert_array_equal(got, exact(product)[0].astype(np.float16))


def test_batches_and_epilogues() -> None:
    product = ragged()
    rng = np.random.default_rng(1)
    rows, x = product.storage.shape[0], integers(rng)((3, 200, 72)).astype(FLOAT16)
    bias = rng.integers(-8, 9, rows).astype(np.float32)
    e = Epilogue(bias=bias, activation="relu", alpha=2.0)
    launcher = Counted("90", "random", multiprocessors=1)
    got = multiply(
        launcher, pack(product.storage), x, config=of_shape(64, 64), epilogue=e
    )  # fmt: skip
    for i in range(3):
        near(got[i], Product(product.storage, x[i]), e)
    assert launcher.grids[0] < 24


@settings(max_examples=8)
@given(products(max_tiles=3, max_slots=144), st.integers(0, 5), st.sampled_from([1, 2]), st.data())
def test_drawn_products(product: Product, i: int, multiprocessors: int, data: Any) -> None:
    """Any sizes, any config, rows or columns of Y, any epilogue."""
    storage = product.storage
    found = configs("90", storage.dtype, storage.vector is not None)
    e = data.draw(epilogues((storage.shape[0], product.x.shape[1]), storage.dtype))
    columns = data.draw(st.booleans())
    config = replace(found[i], persistent=not one_item_reason(found[i]), column_major=columns)
    launcher = InterpreterLauncher("90", multiprocessors=multiprocessors)
    dtype = e.out_dtype or storage.dtype
    out = np.empty((storage.shape[0], product.x.shape[1]), dtype, order="F" if columns else "C")
    near(multiply(launcher, pack(storage), product.x, out, config, e), product, e)


# ---- columns of Y ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["float16", "float32"])
@pytest.mark.parametrize("persistent", [False, True])
def test_columns_are_stored_where_they_lie(kind: str, persistent: bool) -> None:
    """Rows that are neighbours 16 bytes at a time, others one by one; the same bits as rows."""
    e = Epilogue(out_dtype=np.dtype(kind), bias=np.ones(392), activation="silu", alpha=0.5)
    for product, whole in ((ragged(), False), (uniform(128, 96, 64, tile_rows=64, keep=1.0), True)):
        rows, n = product.storage.shape[0], product.x.shape[1]
        steps = replace(e, bias=np.ones(rows))
        config = of_shape(64, 64, persistent=persistent)
        packed = pack(product.storage)
        by_rows = multiply(
            InterpreterLauncher("90"), packed, product.x, config=config, epilogue=steps
        )
        for pitch in (0, 8, 3):
            launcher = InterpreterLauncher("90", "random", multiprocessors=1)
            wide = np.full((n, rows + pitch), 7, kind)
            out = wide[:, :rows].T
            columns = replace(config, column_major=True)
            assert multiply(launcher, packed, product.x, out, columns, steps) is out
            np.testing.assert_array_equal(out, by_rows)
            assert (wide[:, rows:] == 7).all()
            (report,) = launcher.reports
            assert not [c for c in report.conflicts if c.degree > 1]
            of_row = wide.strides[0] % 16 == 0
            if whole:
                stores = rows * n * wide.itemsize // 512
                assert report.count("st.global.v4") == (stores if of_row else 0)
            else:
                assert report.count("st.global") > report.count("st.global.v4")


def test_columns_of_integers_and_of_batches() -> None:
    product = ragged(INT8)
    rows = product.storage.shape[0]
    out = np.empty((75, rows), np.int32).T
    config = of_shape(64, 128, INT8, column_major=True)
    assert run(product, config, "random", out=out) is out
    np.testing.assert_array_equal(out, exact(product)[0])
    product = ragged()
    x = integers(np.random.default_rng(2))((2, 200, 40)).astype(FLOAT16)
    out = np.empty((2, 40, rows), FLOAT16).transpose(0, 2, 1)
    config = of_shape(64, 64, column_major=True)
    multiply(InterpreterLauncher("90"), pack(product.storage), x, out, config)
    for i in range(2):
        want = exact(Product(product.storage, x[i]))[0]
        np.testing.assert_array_equal(out[i], want.astype(FLOAT16))


def test_columns_are_stored_where_that_is_faster() -> None:
    """Neighbouring rows: by the kernel. Scattered ones, and float64: rows, then transposed."""
    regular = pack(uniform(1024, 256, 8, tile_rows=64, keep=0.5).storage)
    assert regular.neighbours == 1.0
    scattered = pack(ragged().storage)
    assert scattered.neighbours < 0.1
    for packed, direct in ((regular, True), (scattered, False)):
        choice = choose_config(packed, 4096, DEVICES["A100"], columns_out=True)
        best = choice.candidates[0]
        assert best.config.column_major == direct
        assert ("columns" if direct else "transposed result") in best.prediction.parts
        plain = choose_config(packed, 4096, DEVICES["A100"])
        assert not plain.config.column_major
        assert plain.candidates[0].prediction.seconds <= best.prediction.seconds
        assert choose_config(packed, 4096, DEVICES["A100"], columns_out=True) is choice
    wide = uniform(64, 64, 8, tile_rows=64, keep=1.0, dtype=np.dtype(np.float64), sparse=False)
    choice = choose_config(pack(wide.storage), 512, DEVICES["A100"], columns_out=True)
    assert not choice.config.column_major
    bad = replace(configs("80", np.dtype(np.float64), False)[0], column_major=True)
    with pytest.raises(BackendError, match="columns of float64"):
        compile_kernel(bad, "80")


# ---- the choice --------------------------------------------------------------------------------


def test_blocks_persist_where_the_model_says_so() -> None:
    """Short items gain, long ones lose; a round of blocks, pieces and refused configs do not."""

    def best(steps: int, n: int, shape: tuple[int, int], tiles: int = 32) -> KernelConfig:
        problem = Problem(
            BFLOAT16, True, (128 * tiles, 4096), np.full(tiles, 8), np.full(tiles, steps), n
        )
        own = (c for c in choose(problem, H200).candidates if isinstance(c.config, KernelConfig))
        found = [c.config for c in own if not c.refusal]
        return next(c for c in found if (c.block_rows, c.block_n) == shape)

    assert best(6, 4096, (128, 256)).persistent
    assert not best(32, 4096, (128, 256)).persistent
    assert best(32, 4096, (64, 128)).persistent
    assert not best(6, 256, (128, 256)).persistent  # one round
    assert not best(64, 256, (128, 256), tiles=8).persistent  # in pieces
    assert not best(6, 4096, (32, 32)).persistent
    problem = Problem(INT8, True, (4096, 4096), np.full(32, 8), np.full(32, 3), 4096)
    refused = {c.refusal for c in choose(problem, DEVICES["A100"]).candidates if c.refusal}
    assert any("64x64 leave no registers" in reason for reason in refused)
    assert any("handed out better by the hardware" in reason for reason in refused)


def test_every_item_follows_one_other() -> None:
    """From the first items on, the lists of all blocks together name each item once."""
    packed = pack(skewed(n=400).storage)
    blocks, columns = 5, 7
    work = packed.work_list(64)
    count = int(work.shape[0]) * columns
    following = packed.following(64, 0, columns, 3, blocks)
    assert following is packed.following(64, 0, columns, 3, blocks)
    seen = []
    for item in range(blocks):
        while item < count:
            seen.append(item)
            item = int(following[item])
    assert sorted(seen) == list(range(count))
    assert successors(np.ones(8), 4, 2, 3) is None


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gate(architecture: str) -> None:
    """The largest kernels that persist, and that store columns: no spills anywhere."""
    base = configs(architecture, FLOAT16, True)
    of_parts = configs_of(architecture, Form("bfloat16", 3), True)
    made = (
        replace(base[0], persistent=True),
        replace(base[1], persistent=True, fused=True, activation="gelu"),
        replace(base[2], persistent=True, pieces=True),
        replace(base[0], persistent=True, column_major=True, fused=True, activation="gelu"),
        replace(base[1], column_major=True),
        replace(of_parts[0], persistent=True),
    )
    for config in made:
        usage = compile_kernel(config, architecture).usage
        assert usage.spill_bytes == usage.stack_bytes == 0, f"{config}: {usage}"
        assert usage.registers <= config.max_registers


def test_blocks_that_a_multiprocessor_holds() -> None:
    """By shared memory or by registers, at least as many as the config asks for."""
    cubin = compile_kernel(of_shape(64, 64), "90").cubin_path.read_bytes()
    with pytest.raises(BackendError, match="how many registers"):
        registers_of(cubin.replace(b".nv.info\0", b".nv.none\0"))
    for name in ("A100", "RTX 4090", "H200", "B200", "RTX 5090"):
        device, architecture = DEVICES[name], DEVICES[name].architecture
        for config in configs(architecture, FLOAT16, True):
            kernel = compile_kernel(replace(config, persistent=True), architecture)
            held = kernel.resident_blocks(device.shared_per_multiprocessor)
            assert held >= config.min_blocks
            assert registers_of(kernel.cubin_path.read_bytes()) == kernel.usage.registers
            assert held * (config.shared_bytes + 1024) <= device.shared_per_multiprocessor
            assert held * config.threads * kernel.usage.registers <= 65536


# ---- mutants -----------------------------------------------------------------------------------

KERNEL, STORE, LAYOUT = "sm80_tvw_gemm.cu", "sm80_store.cuh", "layout.cuh"

HANDED_OVER = {
    "no barrier between items": Mutant(
        KERNEL, "        block_barrier();  // the sums have left the ring\n", "", RaceError
    ),
    "the ring is used early": Mutant(
        STORE, "config::persistent && free_stages < config::stages - 1 ? free_stages", "false ? 0",
        RaceError,
    ),
    "sums leave through the first stages": Mutant(
        KERNEL, "const Word staging = ring_end - staging_bytes;", "const Word staging = ring;",
        RaceError,
    ),
    "the next item's columns are the last one's": Mutant(
        KERNEL, "            take(next);\n", "            copies.take(items.at(next));\n",
        (WrongResultError, RaceError, OutOfBounds),
    ),
    "the next item's first stages are not fetched": Mutant(
        KERNEL, "            take(next);\n            fetch_stages(0, early_stages);\n",
        "            take(next);\n", (RaceError, WrongResultError),
    ),
    "sums go where the next item's belong": Mutant(
        KERNEL, "            const Item item = items.again(index);\n            Output",
        "            const Item item = items.again(min(next, 3));\n            Output",
        (RaceError, WrongResultError, UnwrittenError, OutOfBounds),
    ),
    "the last item is left out": Mutant(
        KERNEL, "        if (next >= items.end()) return;",
        "        if (next >= items.end() - 1) return;", (UnwrittenError, RaceError),
    ),
    "blocks overtake each other": Mutant(
        LAYOUT, "load_int(following + index)", "load_int(following + (index ^ 1))",
        (RaceError, UnwrittenError, OutOfBounds),
    ),
    "sums of the item before": Mutant(
        KERNEL, "        Fragments fragments(thread % 32, warp_m, warp_n);\n", "",
        (WrongResultError, RaceError),
    ),
}  # fmt: skip

IN_COLUMNS = {
    "all lanes read in one order": Mutant(
        STORE, "run * lane_outputs + (e ^ run), column", "run * lane_outputs + e, column",
        (BankConflictError, WrongResultError),
    ),
    "rows of a run exchanged": Mutant(
        STORE, "sum[e] = run & 1 ? got[e ^ 1] : got[e];", "sum[e] = got[e];", WrongResultError
    ),
    "scattered rows are stored together": Mutant(
        STORE, "together = together && row[e] == row[0] + e;", "together = row[0] >= 0;",
        (WrongResultError, UnwrittenError, RaceError, OutOfBounds, Misaligned),
    ),
    "columns beyond n": Mutant(
        STORE, "if (warp_n0 + column >= to.n) continue;", "", (RaceError, OutOfBounds)
    ),
    "padding rows of a column": Mutant(
        STORE, "if (row[e] >= 0) to[row[e]] =", "to[row[e]] =", (RaceError, OutOfBounds)
    ),
}  # fmt: skip
MUTANTS = HANDED_OVER | IN_COLUMNS


@pytest.mark.parametrize("name", ["", *MUTANTS])
def test_mutant_is_caught(name: str) -> None:
    """Each by its own error; the shipped source, without a name, by none."""
    product, columns = ragged(), name in IN_COLUMNS
    config = of_shape(64, 64, column_major=True) if columns else of_shape(128, 256)
    sources = {}
    if name:
        mutant = MUTANTS[name]
        old, new = mutant.old, mutant.new
        if name == "sums of the item before":
            before = "    for (;;) {\n        fetch_stages(early_stages, config::stages - 1);\n"
            old, new = before + old, "    " + old.lstrip() + before
        sources = altered(config.kernel, mutant.file, old, new)
    kernel = compile_kernel(config, "90", sources)
    rows = product.storage.shape[0]
    out = np.empty((141, rows + -rows % 8), FLOAT16)[:, :rows].T if columns else None
    launcher = InterpreterLauncher("90", "random", multiprocessors=1)

    def judge() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(product_module, "_compiled", lambda *_: kernel)
            got = multiply(launcher, pack(product.storage), product.x, out, config)
        raise_what_is_wrong(got, exact(product)[0].astype(FLOAT16), launcher.reports)

    if not name:
        judge()
        return
    with pytest.raises(MUTANTS[name].error):
        judge()
