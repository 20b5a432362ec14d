"""Runs of unequal length, one after another: where each begins, and what stands in them.

Everything ragged of the format is kept so: rows, slots and values of tiles, entries of rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np

HostArray = np.ndarray[Any, Any]


def cumulate(counts: HostArray) -> HostArray:
    """Return where each run begins and the last one ends, int64 (runs + 1,)."""
    return np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])


def runs(starts: HostArray | int, lengths: HostArray) -> HostArray:
    """Return the integers ``start, start + 1, ...`` of every run, one run after another, int64."""
    lengths = lengths.astype(np.int64)
    before = np.cumsum(lengths) - lengths
    numbers: HostArray = np.arange(int(lengths.sum()))
    return np.asarray(numbers + np.repeat(starts - before, lengths))
