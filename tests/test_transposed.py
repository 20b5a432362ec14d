"""``sm80_tvw_transposed``, executed: ``A.T @ Y`` of any matrix, operand and result.

What must come out is summed here slot by slot, from the format's definition. Each shipped config is
compiled as for users and its PTX run in the interpreter, which checks every access and every bank.
"""

from __future__ import annotations

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

import tvwarray
from tvwarray import BackendError, Epilogue, TVWMatrix
from tvwarray import _matmul as products_module
from tvwarray._backends import cuda
from tvwarray._backends.array import BACKEND as ARRAY_BACKEND
from tvwarray._backends.cuda import CudaBackend
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.transposed.balance import piece_counts, work_list
from tvwarray._kernels.transposed.config import (
    RangeShape,
    TransposedConfig,
    range_shape,
    transposed_configs,
)
from tvwarray._kernels.transposed.pack import NO_PLACE, Order, pack_transposed, shape_for
from tvwarray._kernels.transposed.product import multiply_transposed
from tvwarray._storage import TVWStorage

ORDERS = ("forward", "reverse", "random")


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


def run(
    storage: TVWStorage, y: HostArray, config: TransposedConfig, architecture: str = "90",
    order: Any = "forward", **options: Any,
) -> HostArray:  # fmt: skip
    """Return A.T @ Y by the kernel, which had no bank conflict."""
    launcher = InterpreterLauncher(architecture, order, **options)
    packed = pack_transposed(storage, form_of(storage.dtype), config.range_shape)
    got = multiply_transposed(launcher, packed, y, config=config)
    assert not [c for r in launcher.reports for c in r.conflicts if c.degree > 1]
    names = [k.name for k in launcher.kernels]
    assert names.count("sm80_tvw_transposed") == (got.size > 0)
    assert set(names) <= {"sm80_tvw_transposed", "transpose"}
    return got


LARGE = ([75, 0, 130, 33, 16], [624, 64, 112, 0, 16])
BRIEF = ([70, 0, 37, 16], [320, 64, 112, 0])


def ragged(
    dtype: Any = FLOAT16, n: int = 72, sparse: bool = True, values: Any = integers,
    sizes: Any = LARGE,
) -> Any:  # fmt: skip
    """Return a problem that reaches every part: ragged in all ways, more steps than stages."""
    rng = np.random.default_rng(5)
    rows, tiles = draw_tiles(rng, *sizes, 21, 300)
    storage = storage_of((rows, 300), tiles, dtype, sparse, values(rng), rng)
    return storage, values(rng)((rows, n)).astype(dtype)


CONFIGS = [
    *(("90", i) for i in range(len(transposed_configs("90", "float16")))),
    *(("80", i) for i in (0, 4, 8)),  # every way of packing, every width
    *(("89", i) for i in range(len(transposed_configs("89", "float16")))),
]


@pytest.mark.parametrize(("architecture", "i"), CONFIGS)
def test_every_config_is_exact(architecture: str, i: int) -> None:
    """Repeated, padded and dropped columns, dropped rows, empty tiles, a range that is ragged."""
    dtype = (FLOAT16, BFLOAT16)[i % 2]
    storage, y = ragged(dtype, 24, sparse=i % 3 != 2, sizes=BRIEF)
    config = transposed_configs(architecture, storage.dtype.name)[i]
    got = run(storage, y, config, architecture, ORDERS[i % 3])
    np.testing.assert_array_equal(got, exact(storage, y)[0].astype(dtype))


SMALL = transposed_configs("89", "float16")[2]


@settings(max_examples=12)
@given(
    products(max_slots=300, max_tiles=3),
    st.sampled_from(ORDERS),
    st.integers(1, 12),
    st.sampled_from([RangeShape(64, 2, 2), RangeShape(96, 6, 1), RangeShape(128, 3, 2)]),
    st.booleans(),
)
def test_drawn_integers_are_exact(
    product: Product, order: Any, multiprocessors: int, shape: RangeShape, by_columns: bool
) -> None:
    """Any matrix, any order of warps and of pieces, any steps, both memory orders."""
    storage, n = product.storage, min(product.x.shape[1], 90)
    rng = np.random.default_rng(n)
    y = integers(rng)((storage.shape[0], n)).astype(storage.dtype)
    name, (columns, fragments, slices) = storage.dtype.name, shape
    config = replace(
        SMALL, element=name, output=name, block_columns=columns, fragments=fragments, slices=slices
    )
    given_y = np.asfortranarray(y) if by_columns else y
    got = run(storage, given_y, config, "80", order, multiprocessors=multiprocessors)
    np.testing.assert_array_equal(got, exact(storage, y)[0].astype(storage.dtype))
    if by_columns and y.size and 1 not in y.shape and got.size:
        assert got.flags.f_contiguous


@settings(max_examples=7)
@given(products(values="normals", max_tiles=3), st.data())
def test_drawn_normals_and_epilogues_are_bounded(product: Product, data: st.DataObject) -> None:
    """Through the public API: the bound of float32 sums and one rounding, then what is fused."""
    storage, n = product.storage, min(product.x.shape[1], 24)
    rng = np.random.default_rng(n)
    y = rng.standard_normal((storage.shape[0], n)).astype(storage.dtype)
    e = data.draw(epilogues((storage.shape[1], n), storage.dtype))
    if data.draw(st.booleans()):
        y, e = np.asfortranarray(y), replace(e, residual=None if e.residual is None
                                             else np.asfortranarray(e.residual))  # fmt: skip
    launcher = InterpreterLauncher("80", "random")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(products_module, "BACKENDS", [CudaBackend(launcher)])
        got = tvwarray.matmul(TVWMatrix.from_storage(storage).T, y, epilogue=e)
    assert [k.name for k in launcher.kernels].count("sm80_tvw_transposed") == (got.size > 0)
    z, size, terms = exact(storage, y)
    want, scale = expected(z, e), abs(e.alpha)
    for part in (e.row_scale, e.col_scale):
        scale *= 1.0 if part is None else float(abs(part.astype(float)).max(initial=0))
    slack = 2.0**-24 * (1.2 * terms[:, None] + 40) * (scale * size + abs(want) + 32)
    if got.dtype != np.float32:
        slack = slack + rounding(abs(want) + slack, got.dtype)
    assert (abs(got.astype(np.float64) - want) <= slack).all()


def test_the_bits_do_not_depend_on_the_order() -> None:
    """Columns that repeat and ranges in pieces are added in one order, whoever comes first."""
    storage, y = ragged(values=normals)
    runs = [
        run(storage, y, SMALL, "89", "random", seed=s, multiprocessors=20).view(np.uint16)
        for s in range(3)
    ]
    assert all(np.array_equal(runs[0], other) for other in runs)


def test_rows_in_no_tile_are_never_read() -> None:
    """NaN in all of them reaches nothing, nor does what lies beside Y."""
    storage, y = ragged()
    kept = np.isin(np.arange(y.shape[0]), storage.row_indices)
    spoilt = np.where(kept[:, None], y, np.float16(np.nan))
    got = run(storage, spoilt, SMALL, "89")
    np.testing.assert_array_equal(got, exact(storage, np.where(kept[:, None], y, 0))[0])


def test_what_is_not_finite_stays_in_its_columns() -> None:
    """An Inf in Y reaches the columns that its row's tile keeps, and its own column of Y."""
    storage, y = ragged(sparse=False)
    row = int(storage.row_indices[3])
    y[row, 5] = np.inf
    got = run(storage, y, SMALL, "89")
    tile = next(t for t in expand(storage) if row in t.rows)
    reached = np.unique(tile.cols[tile.cols >= 0])
    assert not np.isfinite(got[reached, 5]).any()
    others = np.setdiff1d(np.arange(300), reached)
    assert np.isfinite(got[others]).all()
    assert np.isfinite(np.delete(got, 5, axis=1)).all()


@pytest.mark.parametrize("order", ["C", "F", "window", "steps"])
def test_results_lie_anywhere(order: str) -> None:
    """Sixteen bytes at a time along rows or columns, else an element; nothing beside is written."""
    storage, y = ragged(n=40)
    wide = np.full((700, 700), 7, np.float16)
    windows = {
        "C": np.s_[:300, :40],
        "F": np.s_[:300, :40],
        "window": np.s_[9:309, 1:41],
        "steps": np.s_[:600:2, :120:3],
    }
    out = (wide.T if order == "F" else wide)[windows[order]]
    launcher = InterpreterLauncher("89")
    packed = pack_transposed(storage, form_of(FLOAT16), SMALL.range_shape)
    assert multiply_transposed(launcher, packed, y, out, SMALL) is out
    np.testing.assert_array_equal(out, exact(storage, y)[0].astype(np.float16))
    out[...] = 7
    assert (wide == 7).all()


def test_a_batch_is_one_launch() -> None:
    storage, y = ragged(n=24)
    batch = np.stack([y, -y, y[::-1]])
    launcher = InterpreterLauncher("89")
    packed = pack_transposed(storage, form_of(FLOAT16), SMALL.range_shape)
    got = multiply_transposed(launcher, packed, batch, config=SMALL)
    assert len(launcher.reports) == 1
    for one, of in zip(got, batch, strict=True):
        np.testing.assert_array_equal(one, exact(storage, of)[0].astype(np.float16))


def test_y_may_be_the_result() -> None:
    rng = np.random.default_rng(0)
    tiles = draw_tiles(rng, [32], [64], 0, 32)[1]
    storage = storage_of((32, 32), tiles, FLOAT16, True, integers(rng, 2), rng)
    y = integers(rng, 2)((32, 8)).astype(np.float16)
    want = exact(storage, y.copy())[0]
    packed = pack_transposed(storage, form_of(FLOAT16), SMALL.range_shape)
    multiply_transposed(InterpreterLauncher("89"), packed, y, y, SMALL)
    np.testing.assert_array_equal(y, want.astype(np.float16))


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> InterpreterLauncher:
    """Offer "cuda", through the interpreter, before "array"."""
    launcher = InterpreterLauncher("89")
    monkeypatch.setattr(products_module, "BACKENDS", [CudaBackend(launcher), ARRAY_BACKEND])
    return launcher


def test_the_public_api_reaches_the_kernel(launcher: InterpreterLauncher) -> None:
    """`A.T @ Y`, `x @ A`, a vector, `out`, a function for an activation; packed once."""
    storage, y = ragged(n=16)
    a, z = TVWMatrix.from_storage(storage), exact(storage, y)[0].astype(np.float16)
    assert str(tvwarray.select_backend(a.T, y)) == "cuda: selected"
    np.testing.assert_array_equal(a.T @ y, z)
    np.testing.assert_array_equal(a.T @ y, z)  # the launch is remembered
    np.testing.assert_array_equal(y.T @ a, z.T)
    np.testing.assert_array_equal(a.T @ y[:, 3], z[:, 3])
    out = np.empty((300, 16), np.float16)
    assert tvwarray.matmul(a.T, y, out=out) is out
    np.testing.assert_array_equal(out, z)
    e = Epilogue(activation=lambda x: -x)
    np.testing.assert_array_equal(tvwarray.matmul(a.T, y, epilogue=e), -z)
    batch = tvwarray.matmul(a.T, np.stack([y, y]))
    np.testing.assert_array_equal(batch[1], z)
    assert {k.name for k in launcher.kernels} == {"sm80_tvw_transposed"}
    assert len(launcher.reports) == 7
    packed = products_module.packed_for(storage, products_module.BACKENDS[0])
    (whole,) = packed.ranges.values()
    assert packed.nbytes == whole.nbytes > 2 * storage.data.nbytes


def test_a_remainder_is_added(launcher: InterpreterLauncher) -> None:
    storage, y = ragged(n=8)
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


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int8])
def test_other_types_say_why_they_go_elsewhere(dtype: Any, launcher: InterpreterLauncher) -> None:
    storage, y = ragged(n=8)
    a = TVWMatrix.from_storage(storage).astype(dtype)
    reasons = dict(tvwarray.select_backend(a.T, y.astype(dtype)).refusals)
    assert reasons["cuda"].startswith("sm80_tvw_transposed multiplies float16 and bfloat16, not ")
    with pytest.raises(BackendError, match="sm80_tvw_transposed multiplies float16"):
        tvwarray.matmul(a.T, y.astype(dtype), backend="cuda")
    assert not launcher.reports


def test_what_cannot_be_counted_says_so(
    launcher: InterpreterLauncher, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fragments are counted in 32 bits, by the most that there could be; columns of Y too."""
    storage, y = ragged(n=8)
    a = TVWMatrix.from_storage(storage)
    monkeypatch.setattr(cuda, "_INDEX_MAX", 1000)
    reason = dict(tvwarray.select_backend(a.T, y).refusals)["cuda"]
    assert reason == "has more than 2**28 slots, times a 32nd of their tiles' rows"
    wide = np.repeat(y, 40, axis=1)
    reason = dict(tvwarray.select_backend(a.T, wide).refusals)["cuda"]
    assert reason == "needs at most 2**29 columns of X, got 320"
    np.testing.assert_array_equal(a.T @ y, exact(storage, y)[0].astype(np.float16))
    assert not launcher.reports


def test_the_plan_names_the_kernel_and_what_it_takes() -> None:
    storage, _ = ragged()
    a = TVWMatrix.from_storage(storage)
    plan = tvwarray.plan(a.T, 512, device="A100")
    assert plan.gpu.choice.config.kernel == "sm80_tvw_transposed"
    order = Order.of_storage(storage, shape_for(storage, "80"))
    assert plan.gpu.choice.packed_bytes == order.nbytes
    text = str(plan)
    assert "A100: A.T takes " in text
    assert "sm80_tvw_transposed float16 192x" in text
    refused = str(tvwarray.plan(a.astype(np.float32).T, 512, device="A100"))
    assert "no kernel, sm80_tvw_transposed multiplies float16 and bfloat16, not float32" in refused
    none = str(tvwarray.plan(a.astype(np.int16).T, 512, device="A100"))
    assert "no kernel, tensor cores have no such products" in none
    with pytest.raises(BackendError, match=r"ranked by the model: tvwarray.plan\(A.T, n\)"):
        tvwarray.autotune(a.T, 8)


@given(products(max_slots=400), st.sampled_from([16, 48, 256]), st.integers(1, 5))
def test_the_order_holds_every_slot_once(product: Product, columns: int, most: int) -> None:
    """In an item all columns differ; tiles in their order; what fills up is marked."""
    s = product.storage
    order = Order.of_storage(s, RangeShape(columns, most, 1))
    wanted = sorted(
        (t, slot, int(col))
        for t in range(s.num_tiles)
        for slot, col in enumerate(s.col_indices[s.col_indptr[t] : s.col_indptr[t + 1]])
        if col >= 0 and s.rows_of[t] > 0
    )
    found, at = [], 0
    for r in range(order.range_items.size - 1):
        last = -1
        for i in range(int(order.range_items[r]), int(order.range_items[r + 1])):
            assert order.tile[i] >= last
            last = int(order.tile[i])
            size = int(order.fragments[i])
            assert 0 < size <= most
            slots = order.slots[at : at + size].ravel()
            places = order.places[at : at + size].ravel()
            at += size
            used = slots >= 0
            assert (places[~used] == NO_PLACE).all()
            assert (~used).sum() < 16
            assert len(set(places[used])) == used.sum()
            columns_of = r * columns + places[used].astype(int)
            found += [(last, *pair) for pair in zip(slots[used], columns_of, strict=True)]
    assert sorted(found) == wanted
    assert at == order.slots.shape[0]


@given(products(max_slots=400), st.integers(1, 40), st.integers(1, 3))
def test_pieces_end_where_items_do(product: Product, multiprocessors: int, columns: int) -> None:
    order = Order.of_storage(product.storage, RangeShape(48, 2, 2))
    counts = piece_counts(order, columns, SMALL, multiprocessors)
    work = work_list(order, counts)
    ends = np.concatenate([[0], np.cumsum(order.item_steps)])
    covered = []
    for first, start, steps, piece, first_piece, *_ in work.tolist():
        assert start in ends
        assert start + steps in ends
        assert piece & 0xFFFF < piece >> 16 == counts[first // 48]
        assert first_piece == counts[: first // 48].sum()
        covered += range(start, start + steps)
    assert sorted(covered) == list(range(int(order.item_steps.sum())))
    assert (np.diff(work[:, 2]) <= 0).all()


@pytest.mark.parametrize("architecture", ["80", "86", "90", "120"])
def test_steps_hold_what_tiles_keep(architecture: str) -> None:
    """The fewer columns, the more rows in a step; what most tiles keep of a range is one item."""
    for kept in (0.02, 0.1, 0.25, 0.5, 0.9, 1.0):
        shape = range_shape(architecture, kept)
        assert kept * shape.columns <= 16 * shape.fragments
    few, all_columns = range_shape(architecture, 0.1), range_shape(architecture, 1.0)
    assert few.fragments * few.columns <= all_columns.fragments * all_columns.columns
    assert transposed_configs(architecture, "float16", few)


def test_configs_say_what_they_cannot_do() -> None:
    for changes, reason in [
        ({"element": "int8"}, "16 bits"),
        ({"output": "int32"}, "not stored as int32"),
        ({"block_n": 96}, "64 or 128"),
        ({"block_columns": 40}, "multiples of 16"),
        ({"warp_n": 16}, "do not tile"),
        ({"stages": 1}, "below 2"),
        ({"slices": 3}, "1 or 2 slices of 1 to 16 fragments, not 3 of 8"),
        ({"warps": 16}, "512 threads are more than a step of Y has chunks of 16 bytes"),
    ]:
        assert reason in replace(SMALL, **changes).refusal()
    assert not SMALL.refusal()
    assert str(replace(SMALL, output="float32", fused=True)).endswith("to float32, fused none")
