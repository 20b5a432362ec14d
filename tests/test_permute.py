"""Permutation of slots: gains by the definition, orders valid, and near the bound."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_paths import on, paths
from strategies import seeds

from tvwarray import FormatError
from tvwarray._layouts import permute
from tvwarray._layouts.permute import permute_slots, replacement_gains


def kept(scores, order):
    """Return what 2:4 keeps, row by row and group by group; -1 is padding."""
    total = 0.0
    for start in range(0, len(order), 4):
        group = [c for c in order[start : start + 4] if c >= 0]
        for row in scores:
            total += sum(sorted((float(row[c]) for c in group), reverse=True)[:2])
    return total


def bound(scores):
    """The best half of each row: no order keeps more."""
    half = -(-scores.shape[1] // 4) * 2
    return np.sort(scores, axis=1)[:, max(0, scores.shape[1] - half) :].sum()


@paths
@given(rows=st.integers(0, 6), groups=st.integers(1, 4), seed=seeds)
def test_gains_by_the_definition(path, rows, groups, seed):
    rng = np.random.default_rng(seed)
    scores = rng.integers(-9, 10, (rows, 4 * groups)).astype(np.float64)
    order = rng.permutation(4 * groups).reshape(groups, 4)
    with on(path):
        gains = replacement_gains(scores, order)
    assert gains.shape == (4 * groups, 4 * groups)
    for i in range(4 * groups):
        group = order[i // 4].tolist()
        for j in range(4 * groups):
            # The sum of the two largest of four, the replaced column's entry standing twice or not.
            changed = [*group[: i % 4], j, *group[i % 4 + 1 :]]
            assert gains[i, j] == kept(scores, changed) - kept(scores, group)


@paths
@given(rows=st.integers(0, 20), columns=st.integers(0, 30), seed=seeds)
def test_orders_are_permutations_that_lose_nothing(path, rows, columns, seed):
    rng = np.random.default_rng(seed)
    scores = rng.exponential(1, (rows, columns))
    with on(path):
        order = permute_slots(scores)
        again = permute_slots(np.asfortranarray(scores))
    np.testing.assert_array_equal(order, again)
    assert order.size == -(-columns // 4) * 4
    assert sorted(order[order >= 0].tolist()) == list(range(columns))
    natural = kept(scores, list(range(columns)))
    assert kept(scores, order.tolist()) >= natural - 1e-9 * scores.sum()


@paths
@given(seed=seeds)
def test_the_search_ends_where_no_swap_pays(path, seed):
    scores = np.random.default_rng(seed).random((5, 12))
    with on(path):
        order = permute_slots(scores, sweeps=1000).tolist()
    best = kept(scores, order)
    for i in range(12):
        for j in range(i):
            swapped = order.copy()
            swapped[i], swapped[j] = order[j], order[i]
            assert kept(scores, swapped) <= best + 1e-6 * scores.sum()


@paths
def test_columns_that_need_one_another_are_brought_together(path):
    """Four columns that never share a row, scattered over a tile: 2:4 can keep everything."""
    rng = np.random.default_rng(0)
    scores = np.zeros((64, 64))
    for row in range(64):
        scores[row, rng.permutation(16)[:2] + 16 * (row % 4)] = 1.0
    # natural order: 16 neighbours hold both entries of a row, sometimes three in a group of rows
    shuffled = scores[:, rng.permutation(64)]
    with on(path):
        order = permute_slots(shuffled, sweeps=30)
    assert kept(shuffled, order.tolist()) == scores.sum()


@paths
@pytest.mark.parametrize(("rows", "most", "least"), [(128, 0.945, 0.957), (64, 0.945, 0.966)])
def test_kept_scores_are_near_the_bound(path, rows, most, least):
    """Measured on normal weights, half of 384 columns: natural order keeps .937 of the bound."""
    weights = np.abs(np.random.default_rng(1).standard_normal((rows, 384)))
    scores = weights[:, np.sort(np.argsort(-weights.sum(axis=0))[:192])]
    with on(path):
        order = permute_slots(scores)
    assert kept(scores, list(range(192))) < most * bound(scores)
    assert kept(scores, order.tolist()) > least * bound(scores)


def test_no_sweeps_keep_the_natural_order():
    scores = np.random.default_rng(0).random((16, 32))
    np.testing.assert_array_equal(permute_slots(scores, sweeps=0), np.arange(32))
    np.testing.assert_array_equal(permute_slots(scores, tolerance=1.0), np.arange(32))


def test_the_unit_of_scores_does_not_matter():
    """Scaling by powers of two, as far as float64 goes, changes no order."""
    scores = np.random.default_rng(0).random((16, 32))
    order = permute_slots(scores)
    for exponent in (-1000, -60, 60, 1000):
        np.testing.assert_array_equal(permute_slots(np.ldexp(scores, exponent)), order)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (np.ones(4), "1 dimensions"),
        (np.array([[1.0, np.nan]]), "not finite"),
        (np.array([[1.0, np.inf]]), "not finite"),
        (np.array([[1.0, -1.0]]), "negative"),
    ],
)
def test_what_are_no_scores(scores, message):
    with pytest.raises(FormatError, match=message):
        permute_slots(scores)


@paths
@given(st.integers(0, 8), st.integers(0, 70), seeds)
def test_tiles_of_many_columns_are_searched_in_parts(path, rows, columns, seed):
    """Parts no longer than allowed, all columns once, nothing lost against natural order."""
    scores = np.random.default_rng(seed).exponential(1, (rows, columns))
    searched = []

    def spy(part, start, *limits):
        searched.append(part.shape[0])
        return start

    with on(path), mock.patch.multiple(permute, _WHOLE=24, _PART=16):
        order = permute_slots(scores)
        with mock.patch.object(permute, "_search", spy):
            if path == "numpy":
                permute_slots(scores)
    assert sorted(order[order >= 0].tolist()) == list(range(columns))
    assert kept(scores, order.tolist()) >= kept(scores, list(range(columns))) - 1e-9 * scores.sum()
    if columns > 24:
        assert max(searched, default=0) <= 16
    assert sum(searched) in (0, -(-columns // 4) * 4)
