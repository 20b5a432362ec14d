"""Schedules: the stages of a pruning."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tvwarray import FormatError
from tvwarray.prune.schedule import checked_schedule, cubic, one_shot, paper_stages


def test_one_shot():
    assert one_shot(0.75) == (0.75,)


@pytest.mark.parametrize(
    ("model", "final", "first", "stages"),
    [
        ("nmt", 0.9375, 0.0, (0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 0.9375)),
        ("nmt", 0.8, 0.5, (0.5, 0.625, 0.75, 0.8)),
        ("bert", 0.6, 0.0, (0.25, 0.35, 0.5, 0.55, 0.6)),
        ("vgg", 0.55, 0.4, (0.4, 0.5, 0.55)),
        ("vit", 0.96, 0.9, (0.9, 0.92, 0.94, 0.96)),
        ("resnet", 0.2, 0.0, (0.2,)),
        ("bert", 0.3, 0.5, (0.3,)),
    ],
)
def test_stages_of_the_papers(model, final, first, stages):
    assert paper_stages(model, final, first=first) == stages


@given(st.floats(0.01, 1), st.integers(1, 30), st.floats(0, 0.99))
def test_cubic_ends_at_its_aim_in_ever_smaller_steps(final, stages, share):
    initial = share * final
    made = cubic(final, stages, initial=initial)
    assert len(made) == stages
    assert made[-1] == final
    steps = [b - a for a, b in pairwise((initial, *made))]
    assert all(a >= b - 1e-12 for a, b in pairwise(steps))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: checked_schedule(()), "one at least"),
        (lambda: checked_schedule((0.5, 1.2)), "from 0 to 1"),
        (lambda: checked_schedule((0.5, float("nan"))), "from 0 to 1"),
        (lambda: checked_schedule((0.5, 0.75, 0.75)), "0.75 after 0.75"),
        (lambda: paper_stages("gpt", 0.5), "model is 'gpt'"),
        (lambda: cubic(0.5, 0), "stages is 0"),
        (lambda: cubic(0.5, 3, initial=0.5), "initial is 0.5"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(FormatError, match=message):
        call()
