"""The compiled layout searches: equal to NumPy's bit for bit, and safe with what they are given."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_paths import needs_native, on_both
from strategies import seeds
from test_pack_columns import longest, planes_of, tiles

from tvwarray._layouts.first_fit import first_fit, pack_columns
from tvwarray._layouts.group_rows import group_rows
from tvwarray._layouts.pattern import pattern_of_mask
from tvwarray._layouts.permute import permute_slots, replacement_gains
from tvwarray._layouts.slots import lay_out
from tvwarray._layouts.tiles import choose_tiles, cut
from tvwarray._native import native

pytestmark = needs_native


def equal(a, b):
    assert a.dtype == b.dtype
    np.testing.assert_array_equal(a, b)


@given(st.lists(tiles(rows=(1, 16, 64, 65, 200, 1024), most_columns=150), max_size=4))
def test_first_fit(made):
    for a, b in zip(*on_both(lambda: first_fit([planes_of(k) for k in made])), strict=True):
        equal(a, b)


@given(tiles(rows=(1, 16, 64, 65, 200), most_columns=80))
def test_pack_columns(keep):
    for a, b in zip(
        *on_both(lambda: pack_columns(planes_of(keep), longest=longest(keep))), strict=True
    ):
        equal(a, b)


def test_thousands_of_tiles():
    rng = np.random.default_rng(0)
    made = [planes_of(k[:, k.any(axis=0)]) for k in rng.random((3000, 16, 12)) < 0.3]
    for a, b in zip(*on_both(lambda: first_fit(made)), strict=True):
        equal(a, b)


def test_columns_in_any_memory():
    keep = np.random.default_rng(0).random((130, 60)) < 0.4
    planes = planes_of(keep)
    for other in (np.asfortranarray(planes), np.repeat(planes, 2, axis=1)[:, ::2]):
        equal(first_fit([other])[0], first_fit([planes])[0])
    planes.flags.writeable = False
    equal(first_fit([planes])[0], first_fit([planes.copy()])[0])


def csr(keep):
    indptr = np.concatenate([[0], np.cumsum(keep.sum(axis=1))])
    return indptr, np.nonzero(keep)[1].astype(np.int32), keep.shape


@st.composite
def patterns(draw, most=60):
    rng = np.random.default_rng(draw(seeds))
    shape = draw(st.integers(0, most)), draw(st.integers(1, most))
    return rng.random(shape) < draw(st.sampled_from([0.0, 0.03, 0.1, 0.3, 1.0]))


@given(patterns(), st.integers(1, 70), seeds)
def test_row_orders(keep, tile_rows, seed):
    equal(*on_both(lambda: group_rows(*csr(keep), tile_rows, seed=seed)))


@given(patterns(), st.integers(16, 70), st.sampled_from([(2, 4), None]))
def test_tiles(keep, tile_rows, vector):
    pattern = pattern_of_mask(keep)
    for a, b in zip(*on_both(lambda: choose_tiles(pattern, tile_rows, vector)), strict=True):
        if isinstance(a, np.ndarray):
            equal(a, b)
        else:
            assert a == b


@given(tiles(rows=(1, 16, 64, 65, 200), most_columns=80), st.booleans(), st.booleans(), seeds)
def test_slots(keep, grouped, spread, seed):
    """Tiles of any rows in any order, some of them left out."""
    pattern = pattern_of_mask(keep)
    order = np.random.default_rng(seed).permutation(keep.shape[0])[: -(-keep.shape[0] * 7 // 8)]
    vector = (2, 4) if grouped else None
    made = cut(pattern, "natural", order, 60, vector)
    for a, b in zip(*on_both(lambda: lay_out(pattern, made, vector, spread=spread)), strict=True):
        equal(a, b)


def test_row_orders_with_hubs_and_crowds(monkeypatch):
    """Columns above the hub limit, and more candidates than a tile takes."""
    from tvwarray._layouts import group_rows as group_rows_module

    rng = np.random.default_rng(0)
    keep = rng.random((400, 50)) < np.linspace(0.01, 0.8, 50)
    equal(*on_both(lambda: group_rows(*csr(keep), 32)))
    monkeypatch.setattr(group_rows_module, "_CANDIDATES", (20, 0))
    equal(*on_both(lambda: group_rows(*csr(keep), 32)))


@given(
    st.integers(0, 40),
    st.integers(0, 40),
    seeds,
    st.sampled_from(["normal", "equal", "wide", "zero", "binary"]),
    st.integers(0, 12),
)
def test_permutations(rows, columns, seed, kind, sweeps):
    rng = np.random.default_rng(seed)
    scores = {
        "normal": lambda s: np.abs(rng.standard_normal(s)),
        "equal": np.ones,
        "wide": lambda s: np.exp(rng.normal(0, 40, s)),
        "zero": np.zeros,
        "binary": lambda s: rng.integers(0, 2, s).astype(float),
    }[kind]((rows, columns))
    equal(*on_both(lambda: permute_slots(scores, sweeps=sweeps)))


@pytest.mark.parametrize(("rows", "columns"), [(1024, 64), (1, 200), (128, 190), (64, 4)])
def test_permutations_of_larger_tiles(rows, columns):
    scores = np.abs(np.random.default_rng(0).standard_normal((rows, columns)))
    equal(*on_both(lambda: permute_slots(scores)))


@given(st.integers(1, 30), st.integers(1, 10), seeds)
def test_gains_of_integers_are_equal_others_close(rows, groups, seed):
    rng = np.random.default_rng(seed)
    order = rng.permutation(4 * groups).reshape(groups, 4)
    whole = rng.integers(-(2**40), 2**40, (rows, 4 * groups)).astype(np.float64)
    equal(*on_both(lambda: replacement_gains(whole, order)))
    scores = rng.standard_normal((rows, 4 * groups))
    a, b = on_both(lambda: replacement_gains(scores, order))
    size = np.abs(scores).sum(axis=0).max() * 8
    assert (np.abs(a - b) <= 2 * rows * np.finfo(float).eps * size).all()


ONE = [0, 1], [0], 5, [0], [0, 1]
THREE = [0, 3], [0, 1, 2], 5, [0], [0, 1]
BYTES, META = np.zeros(64, np.uint8), np.zeros(1, np.uint16)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("first_fit", (np.zeros((1, 2000), np.uint64),)),
        ("fit_open", (np.ones((3, 1), np.uint64), -1)),
        ("fit_open", (np.ones((3, 1), np.uint64), 10**6)),
        ("fill_groups", (np.zeros((3, 1), np.uint64),)),
        ("fill_groups", (np.zeros((3, 0), np.uint64),)),
        ("hidden_groups", (np.zeros((4, 1), np.uint64),)),
        ("hidden_groups", (np.ones((4097, 1), np.uint64),)),
        ("hidden_groups", (np.zeros((0, 1), np.uint64),)),
        ("pack_columns", (np.ones((3, 1), np.uint64), 4)),
        ("pack_columns", (np.ones((3, 1), np.uint64), -1)),
        ("distinct_columns", ([0, 2], [0], 1, [0], [0, 1])),
        ("distinct_columns", ([0, 1], [5], 5, [0], [0, 1])),
        ("distinct_columns", ([0, 1], [-1], 5, [0], [0, 1])),
        ("distinct_columns", ([0, 2, 1], [0], 5, [0], [0, 1])),
        ("distinct_columns", ([0, 1], [0], 5, [1], [0, 1])),
        ("distinct_columns", ([0, 1], [0], 5, [0], [0, 2])),
        ("distinct_columns", ([0, 1], [0], 5, [0], [])),
        ("distinct_columns", ([0, 1, 1], [0], 5, [0, 0], [0, 2])),
        ("distinct_columns", ([0, 1, 1], [0], 5, [0, 1], [0, 2, 1, 2])),
        ("distinct_columns", ([], [], 5, [], [0])),
        ("distinct_columns", ([0] * 1026, [], 5, list(range(1025)), [0, 1025])),
        ("lay_out", ([0, 1], [0], 5, [1], [0, 1], True, True)),
        ("store", (*ONE, [0, 16], [16], BYTES[:4], 4, BYTES[:32], META)),
        ("store", (*ONE, [0, 16], [-2], BYTES[:4], 4, BYTES[:32], META)),
        ("store", (*ONE, [0, 16], [0], BYTES[:4], 3, BYTES[:32], META)),
        ("store", (*ONE, [0, 16], [0], BYTES[:3], 4, BYTES[:32], META)),
        ("store", (*ONE, [0, 16], [], BYTES[:4], 4, BYTES[:32], META)),
        ("store", (*ONE, [0, 16], [0], BYTES[:4], 4, BYTES[:31], META)),
        ("store", (*ONE, [0, 16], [0], BYTES[:4], 4, BYTES[:32], None)),
        ("store", (*ONE, [0, 16], [0], BYTES[:4], 4, BYTES[:32], META[:0])),
        ("store", (*ONE, [0, 8], [0], BYTES[:4], 4, BYTES[:16], META)),
        ("store", (*ONE, [0, -16], [0], BYTES[:4], 4, BYTES[:32], META)),
        ("store", (*ONE, [0], [0], BYTES[:4], 4, BYTES[:32], META)),
        ("store", (*THREE, [0, 16], [0, 1, 2], BYTES[:12], 4, BYTES[:32], META)),
        ("group_rows", ([0, 1, 1], [0], 5, 16, [0, 0], [1, 2], 10, 128)),
        ("group_rows", ([0, 1, 1], [0], 5, 16, [0, 1], [1], 10, 128)),
        ("group_rows", ([0, 1, 1], [0], 5, 16, [0, 1], [1, 2], 0, 128)),
        ("replacement_gains", (np.ones((2, 4)), [0, 1, 2])),
        ("replacement_gains", (np.ones((2, 4)), [0, 1, 2, 4])),
        ("permute_slots", (np.ones((2, 4)), [0, 1, 2, -1], 8, 0.0)),
    ],
)
def test_nothing_is_read_outside_its_arrays(name, arguments):
    narrow = {"group_rows": {1: np.int32, 5: np.uint32}, "distinct_columns": {1: np.int32}}
    narrow |= {"lay_out": {1: np.int32}, "store": {1: np.int32, 5: np.int32, 6: np.int32}}
    kinds = narrow.get(name, {})
    made = [
        np.array(x, kinds.get(i, np.int64)) if isinstance(x, list) else x
        for i, x in enumerate(arguments)
    ]
    with pytest.raises(ValueError, match=r"\.$"):
        getattr(native(), name)(*made)


def test_the_compiled_half_is_fast():
    """Bounds ten times above what one busy core takes: they tell a lost compiler flag, no more."""
    rng = np.random.default_rng(0)
    made = [planes_of(rng.random((128, 4096)) < 0.25) for _ in range(4)]
    scores = np.abs(rng.standard_normal((128, 192)))
    start = time.process_time()
    first_fit(made)
    permute_slots(scores)
    assert time.process_time() - start < 0.4
