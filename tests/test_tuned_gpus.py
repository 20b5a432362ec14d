"""The times that come with the library are of kernels that exist, and of the products they name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from gpu.sizes import structures

from tvwarray._dtypes import BFLOAT16, FLOAT16
from tvwarray._kernels import tuned
from tvwarray._kernels.devices import DEVICES
from tvwarray._kernels.select import choose

GPUS = {"NVIDIA H200": DEVICES["H200"]}
PRODUCTS = [
    made.problem(dtype, n)
    for dtype in (BFLOAT16, FLOAT16)
    for made in structures()
    for n in made.batches
]
MEASURED = [
    (name, p) for name in GPUS for p in PRODUCTS if tuned.describe(p) in tuned.shipped()[name]
]


@pytest.fixture(autouse=True)
def nothing_measured_here(tmp_path, monkeypatch):
    monkeypatch.setenv("TVWARRAY_CACHE_DIR", str(tmp_path))


def test_the_products_of_the_benchmarks_are_measured():
    """All in bfloat16; of float16 nearly all."""
    for name in GPUS:
        measured = tuned.shipped()[name]
        assert set(measured) <= {tuned.describe(p) for p in PRODUCTS}
        missing = [p for p in PRODUCTS if tuned.describe(p) not in measured]
        assert all(p.dtype == FLOAT16 for p in missing)
        assert len(missing) < 0.1 * len(PRODUCTS)
        assert all(1 <= len(times) <= 3 for times in measured.values())


def test_the_fastest_measured_kernel_exists_and_runs():
    for name, problem in MEASURED:
        times = tuned.shipped()[name][tuned.describe(problem)]
        device = replace(GPUS[name], name=name)
        chosen = tuned.measured(choose(problem, device), problem, device).candidates[0]
        assert chosen.measured == min(times.values()), tuned.describe(problem)
        assert str(chosen.config) in times


def test_the_model_ranks_a_kernel_first_that_is_nearly_as_fast():
    """By the measured times, which are of the fastest few: where it is none of them, it misses."""
    slower = []
    for name, problem in MEASURED:
        times = tuned.shipped()[name][tuned.describe(problem)]
        first = times.get(str(choose(problem, GPUS[name]).config), np.inf)
        slower.append(first / min(times.values()))
    assert np.quantile(slower, 0.75) < 1.05
