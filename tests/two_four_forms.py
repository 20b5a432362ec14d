"""2:4-compressed matrices and what they mean, by plain loops. Shared by tests of the 2:4 forms."""

from __future__ import annotations

from typing import Any

import numpy as np
import strategies
from hypothesis import strategies as st
from strategies import ALL_DTYPES, random_values, special_values

PAIRS = np.array([(a, b) for b in range(4) for a in range(b)])


@st.composite
def compressed(
    draw: st.DrawFn, *, dtypes: list[str] = ALL_DTYPES, rows: int = 1, cols: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Draw values and positions of a matrix with multiples of so many rows and columns."""
    shape = draw(st.integers(0, 70 // rows)) * rows, draw(st.integers(0, 100 // cols + 1)) * cols
    dtype = strategies.dtype(draw(st.sampled_from(dtypes)))
    rng = np.random.default_rng(draw(strategies.seeds))
    values = special_values(rng, random_values(rng, (shape[0], shape[1] // 2), dtype))
    values[rng.random(values.shape) < draw(st.sampled_from([0, 0.3, 1]))] = 0
    pairs = PAIRS[rng.integers(0, 6, (shape[0], shape[1] // 4))]
    return values, pairs.reshape(values.shape).astype(np.uint8)


def expand(values: np.ndarray, positions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the dense matrix and which of its entries are stored."""
    rows, half = values.shape
    dense, stored = np.zeros((rows, 2 * half), values.dtype), np.zeros((rows, 2 * half), bool)
    for r in range(rows):
        for i in range(half):
            column = 4 * (i // 2) + int(positions[r, i])
            dense[r, column], stored[r, column] = values[r, i], True
    return dense, stored


def same_bits(got: Any, expected: np.ndarray) -> None:
    got, expected = np.asarray(got), np.asarray(expected)
    assert (got.dtype, got.shape) == (expected.dtype, expected.shape)
    assert got.tobytes() == expected.tobytes()


def same_values(got: Any, expected: Any) -> None:
    """Compare bits, after zeros became positive."""
    plain = [np.where(np.asarray(x) == 0, np.zeros((), x.dtype), x) for x in (got, expected)]
    same_bits(*plain)
