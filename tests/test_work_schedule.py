"""Schedules of persistent blocks: every item once, free blocks first, skew made even."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvwarray._kernels import schedule
from tvwarray._kernels.schedule import item_costs, owners, successors


def work_of(index, entries, columns, strip):
    """Return entry and column of an item, as strips.cuh says it in words: strip after strip."""
    order = [
        (entry, first + column)
        for first in range(0, columns, strip)
        for entry in range(entries)
        for column in range(min(strip, columns - first))
    ]
    return order[index]


problems = st.tuples(
    st.lists(st.integers(0, 30), min_size=1, max_size=12), st.integers(1, 9), st.integers(1, 9),
    st.integers(1, 20),
)  # fmt: skip


@given(problems)
def test_costs_are_in_the_order_of_the_kernel(problem):
    steps, columns, strip, _ = problem
    strip = min(strip, columns)
    got = item_costs(np.array(steps), columns, strip)
    assert [steps[work_of(i, len(steps), columns, strip)[0]] for i in range(got.size)] == list(got)
    assert got.size == len(steps) * columns


@given(problems)
def test_every_item_is_taken_once_and_by_the_block_that_is_free(problem):
    steps, columns, strip, blocks = problem
    strip, costs = min(strip, columns), np.array(steps, float) + 1
    items, following = item_costs(costs, columns, strip), successors(costs, columns, strip, blocks)
    if following is None:
        assert items.size <= blocks or len(set(steps)) == 1
        return
    assert following.dtype == np.int32
    taken, ends = [], []
    for block in range(blocks):
        item, now = block, 0.0
        while item < items.size:
            taken.append((now, item))
            now += items[item]
            assert following[item] > item
            item = following[item]
        ends.append(now)
    assert sorted(i for _, i in taken) == list(range(items.size))
    starts = np.array([t for t, _ in sorted(taken, key=lambda pair: pair[1])])
    assert (np.diff(starts) >= 0).all()  # items start in their order
    # No block ends before another takes its last item: greedy, so within one item of the mean.
    assert max(ends) <= items.sum() / blocks + items.max()
    np.testing.assert_array_equal(np.sort(owners(items, blocks)[1]), np.sort(ends))


@pytest.mark.parametrize(("columns", "strip"), [(16, 8), (16, 16), (8, 8)])
def test_skew_costs_nothing_where_items_are_many(columns, strip):
    """32 tiles of 1 to 20 times the slots, as many blocks as an H200 has."""
    skew = np.linspace(1, 20, 32)
    costs = np.sort(np.round(32 * skew / skew.mean()))[::-1] + 8
    even = np.full(32, costs.mean())
    ends = [owners(item_costs(c, columns, strip), 132)[1].max() for c in (costs, even)]
    round_robin = max(item_costs(costs, columns, strip)[b::132].sum() for b in range(132))
    assert ends[0] < 1.02 * ends[1]
    assert round_robin > 1.15 * ends[1]


def test_too_many_items_are_handed_round(monkeypatch):
    costs = np.array([3.0, 2.0, 1.0])
    assert successors(costs, 4, 2, 2) is not None
    monkeypatch.setattr(schedule, "MOST_ITEMS", 11)
    assert successors(costs, 4, 2, 2) is None
    assert successors(np.ones(3), 2, 2, 2) is None
    assert successors(costs, 1, 1, 3) is None
