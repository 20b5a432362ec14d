"""Measured kernels take precedence, on the same GPU, version and problem, and only there."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import numpy as np
import pytest
from interpreter_launcher import InterpreterLauncher
from kernel_problems import FLOAT16, exact
from kernel_problems import uniform as uniform_product

import tvwarray
from tvwarray import BackendError, TVWMatrix
from tvwarray._backends.cuda import CudaBackend
from tvwarray._kernels import tuned
from tvwarray._kernels.cost import Problem
from tvwarray._kernels.devices import DEVICES
from tvwarray._kernels.select import choose

H200 = DEVICES["H200"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Keep times in a folder of the test's own."""
    monkeypatch.setenv("TVWARRAY_CACHE_DIR", str(tmp_path))
    return tmp_path


def problem(n=512, steps=32):
    return Problem(FLOAT16, True, (1024, 4096), np.full(8, 8), np.full(8, steps), n)


def test_a_measured_kernel_is_chosen():
    modelled = choose(problem(), H200)
    slow, fast = (str(c.config) for c in modelled.candidates[:2])
    tuned.record(problem(), H200, {slow: 3e-5, fast: 1e-5})
    chosen = tuned.measured(modelled, problem(), H200)
    assert str(chosen.config) == fast
    assert [c.measured for c in chosen.candidates[:3]] == [1e-5, 3e-5, None]
    assert len(chosen.candidates) == len(modelled.candidates)
    assert "measured 10 us, predicted" in str(chosen)


@pytest.mark.parametrize(
    "other",
    [
        (problem(n=513), H200),
        (problem(steps=31), H200),
        (problem(), DEVICES["H100"]),
        (problem(), replace(H200, name="")),
    ],
)
def test_times_apply_to_their_problem_and_gpu_alone(other):
    modelled = choose(*other)
    tuned.record(problem(), H200, {str(c.config): 1e-5 for c in modelled.candidates[1:]})
    assert tuned.measured(modelled, *other) is modelled


def test_times_of_another_version_do_not_apply(monkeypatch):
    modelled = choose(problem(), H200)
    tuned.record(problem(), H200, {str(modelled.candidates[1].config): 1e-5})
    monkeypatch.setattr(tuned, "__version__", "99")
    assert tuned.measured(modelled, problem(), H200) is modelled


def test_a_refused_kernel_stays_refused():
    small = replace(H200, shared_per_block=60 << 10)
    modelled = choose(problem(), small)
    refused = next(c for c in modelled.candidates if c.refusal)
    tuned.record(problem(), small, {str(refused.config): 1e-9})
    assert tuned.measured(modelled, problem(), small).config != refused.config


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"format": 2}',
        '{"format": 1, "times": []}',
        '{"format": 1, "times": {"GPU": {"GPU": {"GPU": "fast"}}}}',
        "[" * 100_000,
        b"\xff\xfe\x00",
    ],
)
def test_a_foreign_file_is_ignored_and_written_over(folder, content):
    file = folder / tuned.FILE
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    modelled = choose(problem(), H200)
    assert tuned.measured(modelled, problem(), H200) is modelled
    tuned.record(problem(), H200, {str(modelled.candidates[1].config): 1e-5})
    assert tuned.measured(modelled, problem(), H200).config == modelled.candidates[1].config


def test_wrong_times_in_a_right_file_are_ignored(folder):
    modelled = choose(problem(), H200)
    names = [str(c.config) for c in modelled.candidates]
    tuned.record(problem(), H200, dict.fromkeys(names, 1e-5))
    content = json.loads((folder / tuned.FILE).read_text())
    (entry,) = content["times"].values()
    (times,) = entry.values()
    times |= dict(zip(names, [-1.0, "fast", None, float("inf"), True, 0], strict=False))
    (folder / tuned.FILE).write_text(json.dumps(content))
    os.utime(folder / tuned.FILE, (1, 1))
    chosen = tuned.measured(modelled, problem(), H200)
    assert sum(c.measured is not None for c in chosen.candidates) <= len(names) - 5


def test_a_huge_file_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(tuned, "MAX_BYTES", 10)
    modelled = choose(problem(), H200)
    tuned.record(problem(), H200, {str(modelled.candidates[1].config): 1e-5})
    assert tuned.measured(modelled, problem(), H200) is modelled


def test_autotune_measures_and_later_products_follow():
    """The interpreter's instructions stand for time: what it takes fewest of is chosen."""
    product = uniform_product(64, 128, 48, tile_rows=32, keep=0.5)
    A, launcher = TVWMatrix.from_storage(product.storage), InterpreterLauncher()
    backend = CudaBackend(launcher)
    seen = []
    choice = tvwarray.autotune(
        A, 48, candidates=3, repeats=1, progress=lambda c: seen.extend(c) or c, backend=backend
    )
    times = {str(c.config): c.measured for c in choice.candidates if c.measured is not None}
    assert len(times) == len(seen) >= 3
    if choice.config.kernel == "sm80_tvw_gemm":  # with other stages too
        assert len({c.stages for c in seen}) > 1
    assert choice.candidates[0].measured == min(times.values())
    launcher.kernels.clear()
    packed = CudaBackend(launcher).pack(product.storage)
    got = backend.matmul(packed, product.x)
    assert launcher.kernels[-1].config == choice.config
    np.testing.assert_array_equal(got, exact(product)[0].astype(FLOAT16))


def test_autotune_says_what_it_needs():
    A = TVWMatrix.from_dense(np.eye(64, dtype=np.float16))
    with pytest.raises(BackendError, match="needs CuPy arrays on a CUDA device"):
        tvwarray.autotune(A, 8)


def test_shipped_times_apply_to_their_gpu_until_others_are_measured(monkeypatch):
    gpu = replace(H200, name="NVIDIA H200")
    modelled = choose(problem(), gpu)
    first, second, third = (str(c.config) for c in modelled.candidates[:3])
    shipped = {"NVIDIA H200": {tuned.describe(problem()): {second: 2e-5, "a kernel of old": 1e-6}}}
    monkeypatch.setattr(tuned, "shipped", lambda: shipped)
    assert str(tuned.measured(modelled, problem(), gpu).config) == second
    assert tuned.measured(modelled, problem(), H200) is modelled
    assert tuned.measured(modelled, problem(n=513), gpu) is modelled
    tuned.record(problem(), gpu, {first: 2e-5, third: 1e-5})
    assert str(tuned.measured(modelled, problem(), gpu).config) == third
