"""``A.T`` as a matrix of the format, and ``A.T @ Y`` by the kernels' PTX: any matrix and type.

What must come out is summed here slot by slot, from the format's definition.
"""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from epilogue_problems import epilogues, expected
from hypothesis import given, settings
from hypothesis import strategies as st
from interpreter_launcher import InterpreterLauncher
from kernel_problems import (
    BFLOAT16,
    FLOAT16,
    HostArray,
    Product,
    draw_tiles,
    expand,
    integers,
    normals,
    products,
    rounding,
    storage_of,
)
from mutants import WrongResultError
from native_paths import on
from test_kernels_types import E4M3, E5M2, FLOAT32, FLOAT64, INT8, error_bound

import tvwarray
from tvwarray import BackendError, Epilogue, TVWMatrix
from tvwarray import _matmul as products_module
from tvwarray._backends import cuda
from tvwarray._backends.array import BACKEND as ARRAY_BACKEND
from tvwarray._backends.cuda import CudaBackend
from tvwarray._convert import transposed
from tvwarray._convert.transposed import TransposedPattern, transposed_pattern
from tvwarray._frozen import frozen_pattern, values_of
from tvwarray._storage import TVWStorage


def exact(storage: TVWStorage, y: HostArray) -> tuple[HostArray, HostArray, HostArray]:
    """Return A.T Y, |A|.T |Y| and the products summed for each row, in float64."""
    z = np.zeros((storage.shape[1], y.shape[1]))
    size, terms = np.zeros_like(z), np.zeros(z.shape[0], int)
    wide = y.astype(np.float64)
    for tile in expand(storage):
        for slot in np.flatnonzero(tile.cols >= 0):
            col, a = tile.cols[slot], tile.values[:, slot]
            z[col] += a @ wide[tile.rows]
            size[col] += abs(a) @ abs(wide[tile.rows])
            terms[col] += len(tile.rows) + 1
    return z, size, terms


def dense(storage: TVWStorage) -> HostArray:
    """Return the matrix in float64, values at one place added."""
    return exact(storage, np.eye(storage.shape[0]))[0].T


LARGE = ([75, 0, 130, 33, 16], [624, 64, 112, 0, 16])
BRIEF = ([70, 0, 37, 16], [320, 64, 112, 0])


def ragged(
    dtype: Any = FLOAT16, n: int = 72, sparse: bool = True, values: Any = integers,
    sizes: Any = LARGE,
) -> Any:  # fmt: skip
    """Return a matrix with repeated, padded and dropped columns, dropped rows, empty tiles; Y."""
    rng = np.random.default_rng(5)
    rows, tiles = draw_tiles(rng, *sizes, 21, 300)
    storage = storage_of((rows, 300), tiles, dtype, sparse, values(rng), rng)
    return storage, values(rng)((rows, n)).astype(dtype)


# ---- The layout --------------------------------------------------------------------------------


@given(
    products(max_slots=300),
    st.sampled_from([(2, 4), None]),
    st.sampled_from([16, 128]),
    st.sampled_from([FLOAT16, BFLOAT16, INT8, FLOAT32, FLOAT64, E4M3, E5M2]),
)
def test_the_transpose_is_a_matrix_of_the_format(
    product: Product, vector: Any, tile_rows: int, dtype: Any
) -> None:
    """Any matrix, of any type: all rules hold, and every value is where it belongs."""
    storage = replace(product.storage, data=product.storage.data.astype(dtype))
    turned = transposed_pattern(storage, vector, tile_rows).fill(storage)
    turned.check()
    assert turned.dtype == dtype
    assert turned.shape == storage.shape[::-1]
    assert turned.vector == vector
    assert turned.rows_of.max(initial=0) <= tile_rows
    np.testing.assert_array_equal(dense(turned), dense(storage).T)
    assert np.count_nonzero(turned.data) == np.count_nonzero(storage.data)


@given(products(max_slots=200, max_tiles=3), st.integers(0, 2**32 - 1))
def test_other_values_are_one_gather(product: Product, seed: int) -> None:
    """Of the same pattern: those that become zero keep their places, none is searched again."""
    rng = np.random.default_rng(seed)
    pattern = frozen_pattern(product.storage)
    first = transposed_pattern(product.storage, (2, 4), 64).fill(product.storage)
    for _ in range(2):
        values = values_of(product.storage).copy()
        values[...] = rng.integers(-3, 4, values.size)
        storage = pattern.fill(values)
        found = transposed_pattern(storage, (2, 4), 64)
        with pytest.MonkeyPatch.context() as patch:
            patch.delattr(transposed, "_transpose_places")
            turned = found.fill(storage)
        np.testing.assert_array_equal(dense(turned), dense(storage).T)
        for name in ("row_indices", "col_indices", "meta"):
            assert getattr(turned, name) is getattr(first, name)


def test_values_that_were_zero_find_a_place() -> None:
    """Where no place was left for them, all are laid out again, and keep it from then on."""
    storage, _ = ragged()
    few = np.where(np.arange(storage.data.size) % 3 == 0, storage.data, np.float16(0))
    pattern = transposed_pattern(storage, (2, 4), 128)
    first = pattern.fill(replace(storage, data=few))
    np.testing.assert_array_equal(dense(first), dense(replace(storage, data=few)).T)
    second = pattern.fill(storage)
    np.testing.assert_array_equal(dense(second), dense(storage).T)
    assert np.diff(second.col_indptr).sum() > np.diff(first.col_indptr).sum()
    assert pattern.fill(replace(storage, data=few)).meta is second.meta


def test_the_layout_is_the_same_without_the_extension() -> None:
    storage, _ = ragged()
    with on("numpy"):
        numpy = TransposedPattern((2, 4), 64).fill(storage)
    for name, x in TransposedPattern((2, 4), 64).fill(storage).arrays.items():
        np.testing.assert_array_equal(x, getattr(numpy, name))


def test_special_values_are_moved_as_they_are() -> None:
    """NaN and Inf have places; -0.0 is a zero, as everywhere in the format."""
    storage, _ = ragged()
    values = storage.data.copy()
    held = np.flatnonzero(values)
    values[held[:4]] = [np.nan, np.inf, -np.inf, -0.0]
    turned = transposed_pattern(storage, (2, 4), 128).fill(replace(storage, data=values))
    for kind in (np.isnan, np.isposinf, np.isneginf):
        assert kind(turned.data.astype(np.float32)).sum() == 1
    assert np.count_nonzero(turned.data) == held.size - 1


def test_threads_lay_a_pattern_out_once(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, _ = ragged()
    calls, lay_out = [], transposed._transpose_places
    monkeypatch.setattr(
        transposed, "_transpose_places", lambda *args: calls.append(1) or lay_out(*args)
    )
    with ThreadPoolExecutor(4) as pool:
        made = list(
            pool.map(lambda _: transposed_pattern(storage, (2, 4), 128).fill(storage), range(8))
        )
    assert len(calls) == 1
    assert all(np.array_equal(made[0].data, other.data) for other in made)


def test_a_pattern_goes_with_its_matrices() -> None:
    storage, _ = ragged()
    before = set(transposed._PATTERNS)
    of = transposed_pattern(storage, (2, 4), 128)
    assert transposed_pattern(replace(storage, data=-storage.data), (2, 4), 128) is of
    assert transposed_pattern(storage, None, 128) is not of
    assert len(set(transposed._PATTERNS) - before) == 2
    del storage
    gc.collect()
    assert not set(transposed._PATTERNS) - before


def test_a_remainder_is_left_out() -> None:
    storage, _ = ragged()
    beside = replace(
        storage,
        remainder_indptr=np.full(storage.shape[0] + 1, 0, np.int32),
        remainder_indices=np.zeros(0, np.int32),
        remainder_data=np.zeros(0, np.float16),
    )
    turned = TransposedPattern((2, 4), 128).fill(beside)
    assert turned.remainder is None
    np.testing.assert_array_equal(dense(turned), dense(storage).T)


@pytest.mark.parametrize("name", ["a place further", "one copy", "zeros that are none any more"])
def test_wrong_layouts_are_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the checks above pass must be able to fail."""
    storage, _ = ragged()
    if name == "a place further":
        fill = transposed.fill
        monkeypatch.setattr(transposed, "fill", lambda of, p, v: fill(of, p, np.roll(v, 1)))
    elif name == "one copy":  # of values that share a place
        apart = transposed._apart
        monkeypatch.setattr(
            transposed, "_apart", lambda i, row, v, rows: (row, apart(i, row, v, rows)[1], 1)
        )
    pattern = TransposedPattern((2, 4), 128)
    if name == "zeros that are none any more":
        few = np.where(np.arange(storage.data.size) % 3 == 0, storage.data, np.float16(0))
        pattern.fill(replace(storage, data=few))
        pattern._full = True

    def judge() -> None:
        turned = pattern.fill(storage)
        if not np.array_equal(dense(turned), dense(storage).T):
            raise WrongResultError

    with pytest.raises(WrongResultError):
        judge()


# ---- The product -------------------------------------------------------------------------------

TYPES = [
    pytest.param(FLOAT16, "default", "90", id="float16"),
    pytest.param(BFLOAT16, "default", "80", id="bfloat16"),
    pytest.param(INT8, "default", "80", id="int8"),
    pytest.param(E4M3, "default", "89", id="e4m3"),
    pytest.param(E4M3, "highest", "90a", id="e4m3-promoted"),
    pytest.param(FLOAT32, "highest", "80", id="float32-highest"),
    pytest.param(FLOAT32, "high", "90", id="float32-high"),
    pytest.param(FLOAT32, "tf32", "80", id="tf32"),
    pytest.param(FLOAT64, "default", "80", id="float64"),
]


def run(
    storage: TVWStorage, y: HostArray, launcher: InterpreterLauncher, precision: Any = "default",
    **options: Any,
) -> HostArray:  # fmt: skip
    """Return A.T @ Y through the public API, by kernels that had no bank conflict."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products_module, "BACKENDS", [CudaBackend(launcher)])
        got = tvwarray.matmul(TVWMatrix.from_storage(storage).T, y, precision=precision, **options)
    assert not [c for r in launcher.reports for c in r.conflicts if c.degree > 1]
    assert bool(launcher.reports) == (got.size > 0)
    return got


@pytest.mark.parametrize("sparse", [True, False], ids=["2:4", "all"])
@pytest.mark.parametrize(("dtype", "precision", "architecture"), TYPES)
def test_every_type_is_exact_on_integers(
    dtype: Any, precision: Any, architecture: str, sparse: bool
) -> None:
    """Also where a pair of slots of A holds two values, which tf32 refuses in ``A @ X``."""
    values = lambda rng: integers(rng, 3)  # noqa: E731
    storage, y = ragged(dtype, 24, sparse, values, BRIEF)
    launcher = InterpreterLauncher(architecture, "random")
    got = run(storage, y, launcher, precision)
    z = exact(storage, y)[0]
    np.testing.assert_array_equal(got, z.astype(got.dtype))
    by_pattern = precision != "tf32" and dtype != FLOAT64
    count = launcher.reports[-1].count
    assert bool(count("mma.sp") or count("wgmma.mma_async.sp")) == by_pattern


@pytest.mark.parametrize(
    ("dtype", "precision", "architecture"), [t for t in TYPES if t.id != "e4m3-promoted"]
)
@settings(max_examples=3)
@given(st.booleans(), st.integers(0, 2**32 - 1), st.integers(0, 150))
def test_drawn_problems_of_every_type(
    dtype: Any, precision: Any, architecture: str, sparse: bool, seed: int, height: int
) -> None:
    """The bound of each precision, as for ``A @ X``; integers are exact."""
    rng = np.random.default_rng(seed)
    rows, tiles = draw_tiles(rng, [height, 20], [80, 16 * (seed % 12)], seed % 9, 90)
    source = integers(rng, 3) if dtype == INT8 else normals(rng)
    storage = storage_of((rows, 90), tiles, dtype, sparse, source, rng)
    y = source((rows, 1 + seed % 40)).astype(dtype)
    got = run(storage, y, InterpreterLauncher(architecture, "random", seed), precision)
    z, size, terms = exact(storage, y)
    slack = error_bound(dtype, precision, terms[:, None]) * size + 1e-38
    if got.dtype in (FLOAT16, BFLOAT16):
        slack = slack + rounding(abs(z) + slack, got.dtype)
    assert (abs(got.astype(np.float64) - z) <= slack).all()


@settings(max_examples=6)
@given(products(values="normals", max_tiles=3), st.data())
def test_drawn_epilogues_are_bounded(product: Product, data: st.DataObject) -> None:
    """The bound of float32 sums and one rounding, then what is fused; Y in both orders."""
    storage, n = product.storage, min(product.x.shape[1], 24)
    rng = np.random.default_rng(n)
    y = rng.standard_normal((storage.shape[0], n)).astype(storage.dtype)
    e = data.draw(epilogues((storage.shape[1], n), storage.dtype))
    given_y = np.asfortranarray(y) if data.draw(st.booleans()) else y
    got = run(storage, given_y, InterpreterLauncher("80", "random"), epilogue=e)
    z, size, terms = exact(storage, y)
    want, scale = expected(z, e), abs(e.alpha)
    for part in (e.row_scale, e.col_scale):
        scale *= 1.0 if part is None else float(abs(part.astype(float)).max(initial=0))
    slack = 2.0**-24 * (1.2 * terms[:, None] + 40) * (scale * size + abs(want) + 32)
    if got.dtype != np.float32:
        slack = slack + rounding(abs(want) + slack, got.dtype)
    assert (abs(got.astype(np.float64) - want) <= slack).all()


def test_rows_in_no_tile_are_never_read() -> None:
    """NaN in all of them reaches nothing, and one in a row that is read stays in its column."""
    storage, y = ragged(n=24, sizes=BRIEF)
    kept = np.isin(np.arange(y.shape[0]), storage.row_indices)
    y[:, 5] = 0
    spoilt = np.where(kept[:, None], y, np.float16(np.nan))
    row = int(storage.row_indices[3])
    spoilt[row, 5] = np.nan
    got = run(storage, spoilt, InterpreterLauncher("89"))
    want = exact(storage, np.where(kept[:, None], y, 0))[0]
    others = np.arange(24) != 5
    np.testing.assert_array_equal(got[:, others], want[:, others])
    tile = next(t for t in expand(storage) if row in t.rows)
    used = (tile.cols >= 0) & (tile.values[tile.rows == row][0] != 0)
    assert np.isnan(got[tile.cols[used], 5]).all()


@pytest.mark.parametrize("order", ["C", "F", "window"])
def test_results_lie_anywhere(order: str) -> None:
    """Nothing beside `out` is written."""
    storage, y = ragged(n=40, sizes=BRIEF)
    wide = np.full((400, 400), 7, np.float16)
    windows = {"C": np.s_[:300, :40], "F": np.s_[:300, :40], "window": np.s_[9:309, 1:41]}
    out = (wide.T if order == "F" else wide)[windows[order]]
    assert run(storage, y, InterpreterLauncher("89"), out=out) is out
    np.testing.assert_array_equal(out, exact(storage, y)[0].astype(np.float16))
    out[...] = 7
    assert (wide == 7).all()


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> InterpreterLauncher:
    """Offer "cuda", through the interpreter, before "array"."""
    launcher = InterpreterLauncher("89")
    monkeypatch.setattr(products_module, "BACKENDS", [CudaBackend(launcher), ARRAY_BACKEND])
    return launcher


def test_the_public_api_reaches_the_kernels(launcher: InterpreterLauncher) -> None:
    """`A.T @ Y`, `x @ A`, a vector, a function for an activation, a batch; laid out once."""
    storage, y = ragged(n=16, sizes=BRIEF)
    a, z = TVWMatrix.from_storage(storage), exact(storage, y)[0].astype(np.float16)
    assert str(tvwarray.select_backend(a.T, y)) == "cuda: selected"
    np.testing.assert_array_equal(a.T @ y, z)
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(transposed, "_transpose_places")
        np.testing.assert_array_equal(a.T @ y, z)  # the launch is remembered
        np.testing.assert_array_equal(y.T @ a, z.T)
        np.testing.assert_array_equal(a.T @ y[:, 3], z[:, 3])
        e = Epilogue(activation=lambda x: -x)
        np.testing.assert_array_equal(tvwarray.matmul(a.T, y, epilogue=e), -z)
        batch = tvwarray.matmul(a.T, np.stack([y, y[::-1]]))
        np.testing.assert_array_equal(batch[1], exact(storage, y[::-1])[0].astype(np.float16))
        other = TVWMatrix.from_storage(frozen_pattern(storage).fill(-storage.data))
        np.testing.assert_array_equal(other.T @ y, -z)
    packed = products_module.packed_for(storage, products_module.BACKENDS[0])
    (whole,) = packed.forms.values()
    assert packed.nbytes == whole.nbytes
    assert whole.shape == (300, y.shape[0])


def test_a_remainder_is_added(launcher: InterpreterLauncher) -> None:
    storage, y = ragged(n=8, sizes=BRIEF)
    kept = replace(
        storage,
        remainder_indptr=np.r_[np.zeros(10, np.int32), np.full(storage.shape[0] - 9, 2, np.int32)],
        remainder_indices=np.array([3, 299], np.int32),
        remainder_data=np.array([2, -3], np.float16),
    )
    want = exact(storage, y)[0]
    want[3] += 2 * y[9].astype(float)
    want[299] -= 3 * y[9].astype(float)
    got = TVWMatrix.from_storage(kept).T @ y
    np.testing.assert_array_equal(got, want.astype(np.float16))
    assert len(launcher.reports) == 1


def test_what_tensor_cores_lack_goes_elsewhere(launcher: InterpreterLauncher) -> None:
    """Other dtypes, more values than are counted: each with a reason in a sentence."""
    storage, y = ragged(n=8, sizes=BRIEF)
    a = TVWMatrix.from_storage(storage)

    def reason(a: Any, y: Any) -> str:
        return dict(tvwarray.select_backend(a.T, y).refusals)["cuda"]

    assert reason(a.astype(np.int16), y.astype(np.int16)) == (
        "tensor cores have no products of int16"
    )
    assert reason(a.astype(np.float64), y.astype(np.float64)).startswith("float64 needs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "_INDEX_MAX", 1000)
        assert reason(a, y).startswith("has more than 2**29 stored values")
        np.testing.assert_array_equal(a.T @ y, exact(storage, y)[0].astype(np.float16))
    with pytest.raises(BackendError, match="float64 needs the tensor cores of sm_80 or sm_90"):
        tvwarray.matmul(a.astype(np.float64).T, y.astype(np.float64), backend="cuda")
    assert not launcher.reports


def test_the_plan_names_the_kernel_and_what_it_takes() -> None:
    """For every type; `autotune` measures what it names."""
    storage, _ = ragged(sizes=BRIEF)
    a = TVWMatrix.from_storage(storage)
    turned = transposed_pattern(storage, (2, 4), 128).fill(storage)
    plan = tvwarray.plan(a.T, 512, device="A100")
    assert plan.gpu.choice.config.kernel == "sm80_tvw_gemm"
    assert plan.gpu.transposed_bytes == turned.nbytes
    assert f"A100: A.T takes {1e-6 * turned.nbytes:.3g} MB more" in str(plan)
    assert "A.T takes" not in str(tvwarray.plan(a, 512, device="A100"))
    tall = tvwarray.plan(a.T, 512, device="H200")  # in tiles of 256 rows
    assert tall.gpu.transposed_bytes != turned.nbytes
    wide = str(tvwarray.plan(a.astype(np.float32).T, 512, device="H200"))
    assert "sm80_tvw_gemm bfloat16 x 3" in wide
    none = str(tvwarray.plan(a.astype(np.int16).T, 512, device="A100"))
    assert "no kernel, tensor cores have no such products" in none
    launcher = InterpreterLauncher("80")
    measured = tvwarray.autotune(a.T, 8, candidates=2, repeats=1, backend=CudaBackend(launcher))
    assert measured.candidates[0].measured is not None
