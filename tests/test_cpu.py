"""The compiled engine against float64 products of matrices written out from the format.

Axes: instruction set x dtypes of A and X x every freedom of the format x right-hand sides (both
kernels, every width of a block and its ragged rest) x memory order of X and of the result. The
bound on the error is derived, not chosen: see `oracle.error_bound`.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import weakref
from typing import Any, NamedTuple

import array_api_strict
import ml_dtypes
import numpy as np
import oracle
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import in_memory, random_values, seeds, special_values, storages

import tvwarray
from tvwarray import TVWMatrix, TVWStorage
from tvwarray._backends.cpu import BACKEND
from tvwarray._native import native

COMPILED = native()
FLOATS = ["float32", "float64", "float16", "bfloat16"]
SUMS = {"float16": "float32", "bfloat16": "float32"}
WIDTHS = [0, 1, 2, 3, 5, 8, 9, 16, 17, 31, 33, 64, 65, 100, 127, 128, 129, 200, 257]
NIBBLES = np.array([0x4, 0x8, 0x9, 0xC, 0xD, 0xE], np.uint16)

compiled_only = pytest.mark.skipif(COMPILED is None, reason="needs the compiled extension")
isas = pytest.mark.parametrize("isa", COMPILED.isa_names() if COMPILED else [])


def test_the_extension_is_there_where_it_must_be():
    if os.environ.get("TVWARRAY_REQUIRE_NATIVE"):
        assert COMPILED is not None


def dtype(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def bits(x):
    return x.view(np.uint16) if x.dtype == ml_dtypes.bfloat16 else x


class Case(NamedTuple):
    """A storage as large as several panels and tiles, with the dense matrix it stands for."""

    storage: TVWStorage
    dense: np.ndarray


def tvw_case(rng, rows, cols, slots, *, kind="float32", vector=(2, 4), tile_rows=128, zeros=0.1):
    """Make a matrix with shuffled rows and slots, some of them padding, some rows in no tile.

    `slots` is a multiple of 16; dense values are written from the definition of the format.
    """
    kind = dtype(kind)
    kept = rng.permutation(rows)[: max(1, rows - rows // 9)]
    tiles = [kept[i : i + tile_rows] for i in range(0, kept.size, tile_rows)]
    dense = np.zeros((rows, cols), np.float64)
    columns, data, meta = [], [], []
    for tile in tiles:
        chosen = np.full(slots, -1)
        some = rng.permutation(cols)[: slots - slots // 16]
        chosen[rng.permutation(slots)[: some.size]] = some
        positions = np.broadcast_to(np.arange(slots), (tile.size, slots))
        if vector:
            nibbles = NIBBLES[rng.integers(0, 6, (tile.size, slots // 4))]
            shifted = nibbles.reshape(tile.size, -1, 4).astype(np.uint16) << [0, 4, 8, 12]
            meta.append(shifted.sum(-1).astype(np.uint16).ravel())
            pairs = np.stack([nibbles & 3, nibbles >> 2], -1).reshape(tile.size, -1)
            positions = pairs + np.arange(slots // 2) // 2 * 4
        at = chosen[positions]
        values = random_values(rng, at.shape, kind)
        values[(at < 0) | (rng.random(at.shape) < zeros)] = 0
        columns.append(chosen)
        data.append(values.ravel())
        where = (np.broadcast_to(tile[:, None], at.shape)[at >= 0], at[at >= 0])
        np.add.at(dense, where, values[at >= 0].astype(np.float64))
    count = len(tiles)
    storage = TVWStorage(
        shape=(rows, cols),
        tile_rows=tile_rows,
        vector=vector,
        row_indptr=np.cumsum([0, *(t.size for t in tiles)]).astype(np.int32),
        row_indices=np.concatenate(tiles).astype(np.int32),
        col_indptr=(np.arange(count + 1) * slots).astype(np.int32),
        col_indices=np.concatenate(columns).astype(np.int32),
        data=np.concatenate(data),
        meta=np.concatenate(meta) if vector else None,
    )
    storage.check()
    return Case(storage, dense)


def engine(s, isa=""):
    """Return the extension's matrix, for an instruction set of choice."""
    arrays = (s.row_indptr, s.row_indices, s.col_indptr, s.col_indices, bits(s.data), s.meta)
    return COMPILED.Matrix(*s.shape, s.dtype.name, *arrays, isa)


def product_type(a, x):
    if a.kind in "iu":
        return np.dtype(np.int32)
    return a if a == x else np.dtype(np.float32)


def multiply(s, x, isa="", order="C"):
    out = np.empty((s.shape[0], x.shape[1]), product_type(s.dtype, x.dtype), order=order)
    engine(s, isa).multiply(bits(x), x.dtype.name, bits(out), out.dtype.name)
    return out


def assert_close(got, dense, x, terms):
    """Hold `got` against ``dense @ x`` in wider types."""
    if got.dtype.kind in "iu":
        np.testing.assert_array_equal(got, dense.astype(np.int64) @ x.astype(np.int64))
        return
    exact, size = oracle.matmul(dense, x)
    sums = SUMS.get(got.dtype.name, got.dtype.name)
    bound = oracle.error_bound(exact, size, terms, got.dtype, sums)
    assert (np.abs(oracle.wide(got) - exact) <= bound).all()


@isas
@pytest.mark.parametrize("kind", [*FLOATS, "int8", "uint8"])
@pytest.mark.parametrize("vector", [(2, 4), None])
def test_every_width_and_order(isa, kind, vector):
    rng = np.random.default_rng(7)
    for rows, cols, slots, tile_rows in [(300, 260, 208, 128), (70, 500, 480, 17), (261, 40, 32, 256)]:
        case = tvw_case(rng, rows, cols, slots, kind=kind, vector=vector, tile_rows=tile_rows)
        for n in WIDTHS:
            x = random_values(rng, (cols, n), dtype(kind))
            order, of_x = rng.choice(["C", "F"]), rng.choice(["C", "F", "strided", "reversed"])
            got = multiply(case.storage, in_memory(x, of_x), isa, order)
            assert_close(got, case.dense, x, slots)


@isas
@given(storages(dtypes=[*FLOATS, "int8", "uint8"]), st.data())
def test_every_freedom_of_the_format(isa, s, data):
    s = s.without_remainder()
    kind = s.dtype.name
    mixed = FLOATS[:1] + FLOATS[2:] if kind in ("float32", "float16", "bfloat16") else [kind]
    of_x = dtype(data.draw(st.sampled_from([kind, *mixed])))
    rng = np.random.default_rng(data.draw(seeds))
    x = random_values(rng, (s.shape[1], data.draw(st.sampled_from(WIDTHS[:14]))), of_x)
    memory = data.draw(st.sampled_from(["C", "F", "strided", "reversed", "read-only"]))
    got = multiply(s, in_memory(x, memory), isa, data.draw(st.sampled_from("CF")))
    assert_close(got, oracle.dense(s), x, s.col_indices.size)


@isas
@pytest.mark.parametrize("kind", FLOATS)
@pytest.mark.parametrize("n", [1, 4, 16, 40, 130])
def test_nan_and_infinity_spread_as_with_csr(isa, kind, n):
    """Stored zeros, fillers and padding multiply nothing: inf stays inf and NaN stays out."""
    rng = np.random.default_rng(n)
    case = tvw_case(rng, 150, 120, 96, kind=kind, zeros=0.5)
    x = special_values(rng, random_values(rng, (120, n), dtype(kind)))
    wide = oracle.wide(x)
    expected = np.zeros((150, n), np.longdouble)
    with np.errstate(all="ignore"):
        for row, col in zip(*np.nonzero(case.dense), strict=True):
            expected[row] += case.dense[row, col] * wide[col]
        got = oracle.wide(multiply(case.storage, x, isa))
    np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
    infinite = np.isinf(expected)
    np.testing.assert_array_equal(got[infinite], expected[infinite])


@isas
@pytest.mark.parametrize("n", [1, 64])
def test_subnormals_are_kept_and_no_row_is_minus_zero(isa, n):
    a = np.zeros((20, 32), np.float32)
    a[0, 3] = 1
    a[1, 4] = -1
    s = TVWMatrix(a).storage
    x = np.full((32, n), 1e-42, np.float32)
    got = multiply(s, x, isa)
    np.testing.assert_array_equal(got[0], x[0])
    got = multiply(s, np.zeros((32, n), np.float32), isa)
    assert not np.signbit(got[[0, *range(2, 20)]]).any()


@isas
def test_halves_round_and_widen_exactly(isa):
    """Every finite float16 goes through unchanged, subnormals and both infinities included."""
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[~np.isnan(every)][:63488].reshape(-1, 256)
    unit = np.eye(16, every.shape[0] + (-every.shape[0]) % 16, dtype=np.float16)
    for start in range(0, every.shape[0], 16):
        x = np.zeros((unit.shape[1], 256), np.float16)
        rows = every[start : start + 16]
        x[: rows.shape[0]] = rows
        got = multiply(TVWMatrix(unit).storage, x, isa)
        np.testing.assert_array_equal(got[: rows.shape[0]], rows)


@isas
@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_results_round_to_nearest_even(isa, kind):
    rng = np.random.default_rng(0)
    wide = (rng.standard_normal((16, 4096)) * 10.0 ** rng.integers(-9, 6, (16, 4096))).astype("f4")
    eye = TVWMatrix(np.eye(16, dtype=dtype(kind))).storage
    out = np.empty((16, 4096), dtype(kind))
    engine(eye, isa).multiply(wide, "float32", bits(out), kind)
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(out, wide.astype(dtype(kind)))


@isas
@pytest.mark.parametrize("kind", ["float32", "float64", "bfloat16"])
@pytest.mark.parametrize("n", [1, 7, 200])
def test_bias_and_relu_reach_every_row(isa, kind, n):
    """Rows in no tile get their bias too; NaN passes through relu."""
    rng = np.random.default_rng(n)
    case = tvw_case(rng, 190, 64, 48, kind=kind)
    x = random_values(rng, (64, n), dtype(kind))
    x[5, 0] = np.nan
    sums = np.dtype("float64" if kind == "float64" else "float32")
    bias = rng.standard_normal(190).astype(sums)
    for order in "CF":
        out = np.empty((190, n), dtype(kind), order=order)
        engine(case.storage, isa).multiply(bits(x), kind, bits(out), kind, bias, True)
        with np.errstate(invalid="ignore"):
            exact = np.zeros((190, n), np.longdouble)
            for row, col in zip(*np.nonzero(case.dense), strict=True):
                exact[row] += case.dense[row, col] * oracle.wide(x[col])
            expected = np.where(exact + bias[:, None] < 0, 0, exact + bias[:, None])
        scale = 2.0**-7 if kind == "bfloat16" else 1e-5
        np.testing.assert_array_equal(np.isnan(oracle.wide(out)), np.isnan(expected))
        np.testing.assert_allclose(
            oracle.wide(out), expected, rtol=scale, atol=scale * 100, equal_nan=True
        )


@compiled_only
@given(
    st.sampled_from(["C", "F", "strided", "reversed"]),
    st.sampled_from(["C", "F", "strided", "reversed"]),
    st.sampled_from([1, 3, 20, 70]),
    seeds,
)
def test_backend_takes_and_fills_any_memory(of_x, of_out, n, seed):
    rng = np.random.default_rng(seed)
    case = tvw_case(rng, 60, 40, 32)
    x = in_memory(random_values(rng, (40, n), np.dtype(np.float32)), of_x)
    packed = BACKEND.pack(case.storage)
    out = in_memory(np.full((60, n), 9, np.float32), of_out)
    assert BACKEND.matmul(packed, x, out) is out
    assert_close(out, case.dense, x, 32)
    new = BACKEND.matmul(packed, x)
    if n > 1:
        assert new.flags.f_contiguous == (abs(x.strides[0]) < abs(x.strides[1]))


@compiled_only
def test_a_result_may_overlap_x():
    rng = np.random.default_rng(0)
    case = tvw_case(rng, 64, 64, 32)
    x = random_values(rng, (64, 30), np.dtype(np.float32))
    expected = multiply(case.storage, x)
    packed = BACKEND.pack(case.storage)
    np.testing.assert_array_equal(BACKEND.matmul(packed, x, x), expected)


@compiled_only
def test_linear_fuses_bias_and_relu():
    rng = np.random.default_rng(0)
    case = tvw_case(rng, 64, 64, 32)
    x = random_values(rng, (30, 64), np.dtype(np.float32))
    bias = random_values(rng, (64,), np.dtype(np.float32))
    packed = BACKEND.pack(case.storage)
    got = BACKEND.linear(packed, x, bias, "relu")
    assert got.flags.c_contiguous
    np.testing.assert_allclose(got, np.maximum(x @ case.dense.T + bias, 0), rtol=1e-5, atol=1e-4)
    out = np.empty_like(got)
    assert BACKEND.linear(packed, x, bias, "relu", out=out).base is out
    np.testing.assert_array_equal(out, got)


@compiled_only
def test_the_engine_is_the_one_in_use():
    A = TVWMatrix(np.eye(32, dtype=np.float32))
    selection = tvwarray.select_backend(A, np.ones((32, 2), np.float32))
    assert str(selection).endswith("cpu: selected")


@compiled_only
@pytest.mark.parametrize(
    ("a", "x", "reason"),
    [
        ("int16", "int16", "A holds int16"),
        ("float32", "float64", "float32 with float32, float16, bfloat16, not float64"),
        ("float64", "float32", "float64 with float64, not float32"),
        ("int8", "uint8", "int8 with int8, not uint8"),
        ("complex64", "complex64", "A holds complex64"),
    ],
)
def test_refusals_name_the_types(a, x, reason):
    s = TVWMatrix(np.eye(16, dtype=a)).storage
    assert reason in BACKEND.refusal(s, np.ones((16, 1), x))


@compiled_only
def test_refusals_of_transposes_and_other_libraries():
    s = TVWMatrix(np.eye(16, dtype=np.float32)).storage
    assert "A.T @ Y" in BACKEND.refusal(s, np.ones((16, 1), np.float32), transposed=True)
    other = array_api_strict.ones((16, 1), dtype=array_api_strict.float32)
    assert "array_api_strict" in BACKEND.refusal(s, other)


def test_without_the_extension_products_run_on_numpy():
    script = (
        "import numpy as np, tvwarray\n"
        "A = tvwarray.TVWMatrix(np.eye(32, dtype=np.float32))\n"
        "x = np.ones((32, 2), np.float32)\n"
        "assert (A @ x == x).all()\n"
        "print(tvwarray.select_backend(A, x))\n"
    )
    environment = {**os.environ, "TVWARRAY_NATIVE": "0"}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert "cpu: TVWARRAY_NATIVE=0" in done.stdout
    assert done.stdout.rstrip().endswith("array: selected")


@compiled_only
def test_what_is_packed_goes_with_the_matrix():
    A = TVWMatrix(np.eye(64, dtype=np.float32))
    A @ np.ones((64, 40), np.float32)
    from tvwarray._matmul import _PACKS

    packed = _PACKS.get(A.storage, BACKEND)
    assert packed.nbytes > 0
    gone = weakref.ref(packed)
    del A, packed
    gc.collect()
    assert gone() is None


def broken(**changes: Any) -> dict[str, Any]:
    """Return the arguments of a sound matrix of two tiles, some of them changed."""
    sound = {
        "rows": 32,
        "columns": 20,
        "type": "float32",
        "row_indptr": np.array([0, 16, 32], np.int32),
        "row_indices": np.arange(32, dtype=np.int32),
        "col_indptr": np.array([0, 16, 32], np.int32),
        "col_indices": np.tile(np.arange(16, dtype=np.int32), 2),
        "data": np.ones(256, np.float32),
        "meta": np.full(32, 0x4444, np.uint16),
    }
    return {**sound, **changes}


@compiled_only
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row_indices": np.arange(1, 33, dtype=np.int32)}, "row is outside"),
        ({"row_indices": np.zeros(32, np.int32)}, "two tiles"),
        ({"col_indices": np.full(32, 20, np.int32)}, "column is outside"),
        ({"col_indices": np.full(32, -2, np.int32)}, "column is outside"),
        ({"row_indptr": np.array([0, 33, 32], np.int32)}, "falls"),
        ({"row_indptr": np.array([0, 16, 31], np.int32)}, "span"),
        ({"col_indptr": np.array([0, 8, 32], np.int32)}, "multiple of 16"),
        ({"data": np.ones(255, np.float32)}, "data has not"),
        ({"meta": np.zeros(31, np.uint16)}, "meta has not"),
        ({"data": np.ones(256, np.float64)}, "item size"),
        ({"data": np.ones(512, np.float32)[::2]}, "not contiguous"),
        ({"type": "int32"}, "not stored as int32"),
        ({"type": "quad"}, "no such type"),
        ({"isa": "z80"}, "has no z80"),
        ({"col_indptr": np.array([0], np.int32)}, "different tiles"),
        ({"row_indptr": np.array([], np.int32), "col_indptr": np.array([], np.int32)}, "tiles"),
    ],
)
def test_arrays_out_of_order_never_reach_a_kernel(changes, message):
    with pytest.raises(ValueError, match=message):
        COMPILED.Matrix(**broken(**changes))


@compiled_only
@pytest.mark.parametrize(
    ("x", "out", "types", "bias", "message"),
    [
        ((20, 3), (31, 3), "float32", None, "shapes"),
        ((19, 3), (32, 3), "float32", None, "shapes"),
        ((20, 3), (32, 4), "float32", None, "shapes"),
        ((20, 3), (32, 3), "float64", None, "types"),
        ((20, 3), (32, 3), "float32", np.ones(31, np.float32), "bias"),
        ((20, 3), (32, 3), "float32", np.ones(64, np.float32)[::2], "contiguous"),
        ((20, 3), (32, 3), "float32", np.ones(32, np.float64), "item size"),
    ],
)
def test_operands_that_do_not_fit_never_reach_a_kernel(x, out, types, bias, message):
    matrix = COMPILED.Matrix(**broken())
    with pytest.raises(ValueError, match=message):
        matrix.multiply(np.ones(x, types), types, np.ones(out, types), types, bias)


@compiled_only
def test_out_must_be_writable_and_contiguous_somewhere():
    matrix = COMPILED.Matrix(**broken())
    x = np.ones((20, 3), np.float32)
    out = in_memory(np.ones((32, 3), np.float32), "read-only")
    with pytest.raises((BufferError, ValueError)):
        matrix.multiply(x, "float32", out, "float32")
    with pytest.raises(ValueError, match="neither axis"):
        matrix.multiply(x, "float32", np.ones((64, 6), np.float32)[::2, ::2], "float32")
