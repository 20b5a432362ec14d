"""``workspace=``: a product with one allocates nothing, and keeps to what was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from epilogue_problems import near
from interpreter_launcher import InterpreterLauncher
from kernel_problems import (
    FLOAT16,
    Product,
    draw_tiles,
    exact,
    integers,
    storage_of,
    uniform,
)

import tvwarray
from tvwarray import BackendError, Epilogue, TVWMatrix
from tvwarray import _matmul as products_module
from tvwarray._backends.cuda import CudaBackend
from tvwarray._kernels import arguments, few, product, split, transpose, workspace
from tvwarray._kernels.launch import Result, Scratch, problem_for, ranked
from tvwarray._kernels.repeat import Repeated
from tvwarray._kernels.workspace import workspace_bytes

MODULES = (arguments, product, split, transpose, workspace)


class NoMemory:
    """NumPy's namespace without what makes arrays."""

    def __init__(self, xp: Any) -> None:
        self._xp = xp

    def __getattr__(self, name: str) -> Any:
        if name in ("empty", "zeros", "full", "asarray", "astype", "concat", "where"):
            raise AssertionError(f"{name} allocates")
        return getattr(self._xp, name)


class Launcher(InterpreterLauncher):
    """Knows which arrays kernels were passed."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.passed: list[Any] = []

    def launch(self, kernel: Any, grid: int, args: Sequence[Any], like: Any) -> None:
        arrays = (a.array if isinstance(a, Result | Scratch) else a for a in args)
        self.passed += [a for a in arrays if isinstance(a, np.ndarray)]
        super().launch(kernel, grid, args, like)


def long_tile(n: int, sparse: bool = True, seed: int = 0) -> Product:
    """Return a product with a tile so long that every kernel cuts it into pieces."""
    rng = np.random.default_rng(seed)
    rows, tiles = draw_tiles(rng, [37, 16], [64 * 20, 64], 3, 300)
    storage = storage_of((rows, 300), tiles, FLOAT16, sparse, integers(rng, 1), rng)
    return Product(storage, integers(rng, 1)((300, n)).astype(FLOAT16))


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> Launcher:
    """Let products run in the interpreter."""
    found = Launcher("80", check_races=False)
    monkeypatch.setattr(products_module, "BACKENDS", [CudaBackend(found)])
    monkeypatch.setattr(few, "most_steps", lambda *_: 8)
    return found


def taken(A: TVWMatrix, n: int, launcher: Launcher, order: str = "C") -> int:
    """Return what a plan for the launcher's device says."""
    problem, device = problem_for(A.storage, n), launcher.device(None)
    assert problem is not None
    column_major = order == "F" and n > 1
    choice = ranked(problem, device, column_major=column_major)
    return workspace_bytes(choice, problem, device, column_major=column_major)


def without_allocations(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in MODULES:
        if hasattr(module, "array_namespace"):
            whole = module.array_namespace
            monkeypatch.setattr(module, "array_namespace", lambda *x, of=whole: NoMemory(of(*x)))


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("n", [1, 3, 8, 24, 33, 72])
def test_nothing_is_allocated(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, n: int, order: str
) -> None:
    """As large as the plan says; what kernels are passed is the caller's, or the packed matrix."""
    given = long_tile(n)
    A, x = TVWMatrix.from_storage(given.storage), np.asarray(given.x, order=order)
    room = taken(A, n, launcher, order)
    memory = np.full(room, 255, np.uint8)  # counters too
    expected = exact(given)[0].astype(FLOAT16)
    out = np.full(expected.shape, 7, FLOAT16, order=order)
    A @ x  # packed; kernels, lists and schedules made
    launcher.passed.clear()
    without_allocations(monkeypatch)
    for _ in range(2):
        assert tvwarray.matmul(A, x, out=out, workspace=memory) is out
        np.testing.assert_array_equal(out, expected)
        out[...] = 7
    packed = products_module.packed_for(A.storage, products_module.BACKENDS[0]).of()
    scratch = [v for k, v in packed.memo.items() if isinstance(k, tuple) and k[:1] == ("scratch",)]
    assert scratch
    assert any(np.shares_memory(a, memory) for a in launcher.passed)
    assert not any(np.shares_memory(a, s) for a in launcher.passed for s in scratch)


def test_a_workspace_is_as_large_as_it_must_be(launcher: Launcher) -> None:
    """One byte less is an error that says how many there must be, and `out` is as it was."""
    given = long_tile(24)
    A = TVWMatrix.from_storage(given.storage)
    out = np.full((A.shape[0], 24), 7, FLOAT16)
    n, x = 24, np.asfortranarray(given.x)
    with pytest.raises(
        ValueError, match=r"workspace has 0 bytes; this product takes \d+"
    ) as failed:
        tvwarray.matmul(A, x, out=out, workspace=np.empty(0, np.uint8))
    needed = int(str(failed.value).split("takes ")[1].split(".")[0])
    assert 0 < needed <= taken(A, n, launcher, "F")
    with pytest.raises(ValueError, match=f"{needed - 1} bytes; this product takes {needed}"):
        tvwarray.matmul(A, x, out=out, workspace=np.empty(needed - 1, np.uint8))
    assert (out == 7).all()
    tvwarray.matmul(A, x, out=out, workspace=np.empty(needed, np.uint8))
    np.testing.assert_array_equal(out, exact(given)[0].astype(FLOAT16))


def test_products_with_workspaces_share_nothing(launcher: Launcher) -> None:
    """Not with each other, and not with those that have none: whichever is started again."""
    given = long_tile(1)
    A, expected = TVWMatrix.from_storage(given.storage), exact(given)[0].astype(FLOAT16)
    room = taken(A, 1, launcher)
    first, second = (np.full(room, i, np.uint8) for i in (1, 2))
    kept = packed = None
    for memory in (first, None, second, None, first):
        launcher.passed.clear()
        before = [m.copy() for m in (first, second)]
        out = np.empty_like(expected)
        tvwarray.matmul(A, given.x, out=out, workspace=memory)
        np.testing.assert_array_equal(out, expected)
        for own, was in zip((first, second), before, strict=True):
            used = any(np.shares_memory(own, a) for a in launcher.passed)
            assert used == (own is memory)
            assert used or np.array_equal(own, was)
        packed = products_module.packed_for(A.storage, products_module.BACKENDS[0]).of()
        starts = [v for v in packed.memo.values() if isinstance(v, Repeated)]
        assert all(s.uses_scratch for s in starts)
        kept = starts or kept
        assert bool(starts) == (memory is None or kept is not None)


@pytest.mark.parametrize("n", [1, 5, 40])
def test_epilogues_take_their_casts_from_it(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, n: int
) -> None:
    given = long_tile(n)
    A, rng = TVWMatrix.from_storage(given.storage), np.random.default_rng(n)
    rows = A.shape[0]
    steps = Epilogue(
        alpha=0.5, bias=rng.standard_normal(rows).astype(FLOAT16), activation="relu",
        residual=rng.integers(-9, 9, (rows, n)).astype(np.float32),
        row_scale=rng.standard_normal(2 * rows).astype(np.float32)[::2],
    )  # fmt: skip
    out = np.empty((rows, n), FLOAT16)
    tvwarray.matmul(A, given.x, epilogue=steps)
    memory = np.empty(taken(A, n, launcher) + 3 * 4 * rows * (n + 256), np.uint8)
    with monkeypatch.context() as patch:
        without_allocations(patch)
        tvwarray.matmul(A, given.x, out=out, epilogue=steps, workspace=memory)
    near(out, given, replace(steps, row_scale=np.ascontiguousarray(steps.row_scale)))


def test_linear_takes_one(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations in rows, as frameworks hold them, and a bias of their type."""
    given = long_tile(24)
    A = TVWMatrix.from_storage(given.storage)
    bias = np.ones(A.shape[0], FLOAT16)
    x, out = np.ascontiguousarray(given.x.T), np.empty((24, A.shape[0]), FLOAT16)
    memory = np.empty(taken(A, 24, launcher, "F"), np.uint8)
    expected = tvwarray.linear(x, A, bias, "relu")
    without_allocations(monkeypatch)
    got = tvwarray.linear(x, A, bias, "relu", out=out, workspace=memory)
    assert got is out
    np.testing.assert_array_equal(out, expected)


def test_batches_take_one(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    given = uniform(64, 128, 16, tile_rows=32, keep=0.5)
    A = TVWMatrix.from_storage(given.storage)
    x = np.stack([given.x, np.roll(given.x, 1, axis=0)])
    expected, out = A @ x, np.empty((2, 64, 16), FLOAT16)
    without_allocations(monkeypatch)
    tvwarray.matmul(A, x, out=out, workspace=np.empty(1 << 20, np.uint8))
    np.testing.assert_array_equal(out, expected)


def test_transposed_products_take_one(launcher: Launcher, monkeypatch: pytest.MonkeyPatch) -> None:
    given = uniform(64, 128, 16, tile_rows=32, keep=0.5)
    A, y = TVWMatrix.from_storage(given.storage), np.ones((64, 24), FLOAT16)
    room = tvwarray.plan(A.T, 24, device="A100").workspace_bytes
    assert room is not None
    expected, out = A.T @ y, np.empty((128, 24), FLOAT16)
    without_allocations(monkeypatch)
    tvwarray.matmul(A.T, y, out=out, workspace=np.empty(max(room, 1 << 16), np.uint8))
    np.testing.assert_array_equal(out, expected)


def test_what_is_no_workspace_is_refused(launcher: Launcher) -> None:
    given = uniform(64, 128, 16, tile_rows=32, keep=0.5)
    A, x = TVWMatrix.from_storage(given.storage), given.x
    whole = np.empty(1 << 16, np.uint8)
    readonly = whole.copy()
    readonly.flags.writeable = False
    for wrong, why in (
        (whole.view(np.int8), "workspace is int8 of shape"),
        (whole.reshape(2, -1), r"must be\s+uint8 of shape \(bytes,\)"),
        (whole[::2], "read-only or not contiguous"),
        (readonly, "read-only or not contiguous"),
        (bytearray(100), "workspace is bytearray; it must be an array of the library of X"),
        (whole[3:], "begins 3 bytes behind a multiple of 256"),
    ):
        with pytest.raises(ValueError, match=why):
            tvwarray.matmul(A, x, workspace=wrong)
    assert tvwarray.matmul(A, x, workspace=whole[256:]).shape == (64, 16)


def test_products_that_allocate_take_none(launcher: Launcher) -> None:
    given = uniform(64, 128, 16, tile_rows=32, keep=0.5)
    A, memory = TVWMatrix.from_storage(given.storage), np.empty(1 << 16, np.uint8)
    with pytest.raises(BackendError, match="functions as activations"):
        tvwarray.matmul(
            A, given.x, workspace=memory, epilogue=Epilogue(activation=lambda y: y)
        )  # fmt: skip


@pytest.mark.parametrize("order", ["C", "F"])
def test_float32_is_split_into_it(
    launcher: Launcher, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    given = uniform(64, 128, 20, tile_rows=32, keep=0.5)
    A = TVWMatrix.from_storage(given.storage).astype(np.float32)
    x = np.asarray(given.x.astype(np.float32), order=order)
    memory = np.empty(taken(A, 20, launcher, order), np.uint8)
    expected, out = A @ x, np.empty((64, 20), np.float32, order=order)
    without_allocations(monkeypatch)
    tvwarray.matmul(A, x, out=out, workspace=memory)
    np.testing.assert_array_equal(out, expected)


def test_hosts_read_none() -> None:
    """Where products take no memory of a GPU any workspace is large enough."""
    given = uniform(64, 128, 16, tile_rows=32, keep=0.5)
    A, none = TVWMatrix.from_storage(given.storage), np.empty(0, np.uint8)
    assert tvwarray.plan(A, 16).workspace_bytes == 0
    expected = tvwarray.matmul(A, given.x)
    np.testing.assert_array_equal(tvwarray.matmul(A, given.x, workspace=none), expected)
    x = np.stack([given.x, given.x])
    np.testing.assert_array_equal(tvwarray.matmul(A, x, workspace=none)[1], expected)
    with pytest.raises(ValueError, match="workspace is float32"):
        tvwarray.matmul(A, given.x, workspace=np.empty(9, np.float32))


def test_tensors_take_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before their framework's package is asked; none needs to be installed."""

    class Tensor:
        shape, ndim = (16, 16), 2

    Tensor.__module__ = "torch"
    monkeypatch.setattr(products_module, "handler_of", lambda *_: object())
    A, memory = TVWMatrix(np.eye(16, dtype=np.float32)), np.empty(9, np.uint8)
    for run in (tvwarray.matmul, lambda A, x, **k: tvwarray.linear(x, A, **k)):
        with pytest.raises(BackendError, match="with a torch tensor"):
            run(A, Tensor(), workspace=memory)


def test_plans_say_how_large() -> None:
    """Nothing but a bias where operands are read as they lie and no tile is cut."""
    rng = np.random.default_rng(0)
    A = tvwarray.sparsify(rng.standard_normal((1024, 512)), 0.75).astype(np.float16)
    for n in (1, 8, 64, 512):
        assert tvwarray.plan(A, n, device="H200").workspace_bytes == 4 * max(1024, n)
    across = tvwarray.plan(A, 512, device="H200", order="F").workspace_bytes
    assert across >= 2 * 512 * 512 + 4 * 1024
