"""Dot products of neighbouring slots (AMX, VNNI) against the definition and the other kernels.

Axes: instruction set and the types it multiplies x the format's freedoms x right-hand sides (every
width of a block, its ragged rest) x memory order of X and of the result. Integers equal the other
kernels' bit for bit; bfloat16 is held against a derived bound, which knows that the instruction
takes subnormals as zero.
"""

from __future__ import annotations

import dataclasses
from itertools import product

import numpy as np
import oracle
import pytest
from cpu_cases import NAMES, assert_close, bits, multiply, tvw_case
from hypothesis import given
from hypothesis import strategies as st
from strategies import dtype, in_memory, random_values, seeds, special_values, storages

from tvwarray import TVWMatrix
from tvwarray._kernels.cpu import threads

KINDS = {"amx": ("bfloat16", "int8", "uint8"), "vnni": ("int8",)}
PAIRS = [(isa, kind) for isa, kinds in KINDS.items() if isa in NAMES for kind in kinds]
FEW = {"amx": 8, "vnni": 12}
"""Right-hand sides that these kernels start at."""

dots = pytest.mark.parametrize(("isa", "kind"), PAIRS)
INTEGERS = [pair for pair in PAIRS if pair[1] != "bfloat16"]
AMX = ["amx"] if "amx" in NAMES else []


def extremes(rng, shape, kind):
    """Return values of the whole range of an integer type, its ends often; others as they come."""
    if kind == "bfloat16":
        return random_values(rng, shape, dtype(kind))
    info = np.iinfo(kind)
    values = rng.integers(info.min, info.max + 1, shape)
    ends = rng.choice([info.min, info.max], shape)
    return np.where(rng.random(shape) < 0.3, ends, values).astype(kind)


@dots
@pytest.mark.parametrize("vector", [(2, 4), None])
def test_every_width_and_order(isa, kind, vector):
    rng = np.random.default_rng(11)
    for rows, cols, slots, tile_rows in [
        (300, 260, 208, 128),
        (70, 700, 656, 17),
        (40, 30, 16, 256),
    ]:
        case = tvw_case(rng, rows, cols, slots, kind=kind, vector=vector, tile_rows=tile_rows)
        for n in (FEW[isa], 16, 17, 33, 48, 64, 65, 129, 200):
            x = extremes(rng, (cols, n), kind)
            order, of_x = rng.choice(["C", "F"]), rng.choice(["C", "F", "strided", "reversed"])
            got = multiply(case.storage, in_memory(x, of_x), isa, order)
            assert_close(got, case.dense, x, max(rows, slots))


@dots
@given(st.data())
def test_every_freedom_of_the_format(isa, kind, data):
    """Repeated columns, empty tiles, a remainder beside them."""
    s = data.draw(storages(dtypes=[kind]))
    rng = np.random.default_rng(data.draw(seeds))
    x = extremes(rng, (s.shape[1], data.draw(st.sampled_from([12, 20, 64, 70]))), kind)
    memory = data.draw(st.sampled_from(["C", "F", "strided", "reversed", "read-only"]))
    got = multiply(s, in_memory(x, memory), isa, data.draw(st.sampled_from("CF")))
    assert_close(got, oracle.dense(s), x, len(oracle.entries(s)))


@pytest.mark.parametrize(("isa", "kind"), INTEGERS)
def test_integers_are_those_of_the_other_kernels_even_where_they_wrap(isa, kind):
    """2**17 products of 128 * 128 are one more than int32 holds."""
    info = np.iinfo(kind)
    a = np.full((3, 2**17 + 64), info.min or info.max, kind)
    s = TVWMatrix(a, vector=None).storage
    x = np.full((a.shape[1], 16), info.min or info.max, kind)
    wrapped = (a.astype(np.int64) @ x.astype(np.int64)).astype(np.int32)
    np.testing.assert_array_equal(multiply(s, x, isa), wrapped)
    np.testing.assert_array_equal(multiply(s, x, "base"), wrapped)


@dots
def test_bits_do_not_depend_on_threads_or_on_the_order_of_results(isa, kind):
    """Long matrices and few tiles, tiles of neighbours and of rows from all over."""
    rng = np.random.default_rng(3)
    for rows, cols, slots, tile_rows, n in [(1300, 700, 512, 100, 400), (100, 900, 800, 128, 520)]:
        case = tvw_case(rng, rows, cols, slots, kind=kind, tile_rows=tile_rows)
        ordered = dataclasses.replace(case.storage, row_indices=np.sort(case.storage.row_indices))
        for s, x in product((case.storage, ordered), [extremes(rng, (cols, n), kind)]):
            found = []
            for count, order in product((1, 2, 5), "CF"):
                with threads.limit_threads(count):
                    got = multiply(s, x, isa, order, activation="relu")
                found.append(np.ascontiguousarray(got))
            for other in found[1:]:
                np.testing.assert_array_equal(bits(other), bits(found[0]))


@pytest.mark.parametrize("isa", AMX)
def test_nan_and_infinity_of_bfloat16_spread_as_with_csr(isa):
    """Zeros are written out between the values of A: such an X runs in the other kernels."""
    rng = np.random.default_rng(5)
    case = tvw_case(rng, 150, 120, 96, kind="bfloat16", zeros=0.5)
    for place in (None, (0, 0), (119, 63), (64, 31)):
        x = random_values(rng, (120, 64), dtype("bfloat16"))
        if place:
            x[place] = np.inf
        else:
            x = special_values(rng, x)
        expected = np.zeros((150, 64), np.longdouble)
        with np.errstate(all="ignore"):
            for row, col in zip(*np.nonzero(case.dense), strict=True):
                expected[row] += case.dense[row, col] * oracle.wide(x)[col]
            for memory in "CF":
                got = oracle.wide(multiply(case.storage, in_memory(x, memory), isa))
                np.testing.assert_array_equal(np.isnan(got), np.isnan(expected))
                infinite = np.isinf(expected)
                np.testing.assert_array_equal(got[infinite], expected[infinite])


@pytest.mark.parametrize("isa", AMX)
@given(st.integers(-140, 20), seeds)
def test_what_is_flushed_is_below_the_smallest_normal_number(isa, exponent, seed):
    """An operand taken as zero errs by its partner times 2**-126, a product or sum by 2**-126."""
    rng = np.random.default_rng(seed)
    case = tvw_case(rng, 40, 60, 48, kind="bfloat16")
    scale = 2.0 ** rng.integers(-40, 1, (60, 16)) * 2.0**exponent
    x = (random_values(rng, (60, 16), np.dtype("f4")) * scale).astype(dtype("bfloat16"))
    tiny = dataclasses.replace(
        case.storage, data=case.storage.data * dtype("bfloat16").type(2.0**-60)
    )
    for s in (case.storage, tiny):
        dense = oracle.dense(s)
        exact, size = oracle.matmul(dense, x)
        bound = oracle.error_bound(exact, size, 48, dtype("bfloat16"), "float32")
        partners = (np.abs(dense) @ np.ones(x.shape)) + np.ones(dense.shape) @ np.abs(
            oracle.wide(x)
        )
        flushed = 2.0**-126 * (partners + 3 * 48)
        assert (np.abs(oracle.wide(multiply(s, x, isa)) - exact) <= bound + flushed).all()


@dots
def test_no_row_without_entries_is_minus_zero(isa, kind):
    a = np.zeros((300, 64), dtype(kind))
    a[7, 3] = 1
    got = multiply(TVWMatrix(a).storage, np.zeros((64, 20), dtype(kind)), isa, bias=None)
    assert not np.signbit(oracle.wide(got) if kind == "bfloat16" else got).any()
