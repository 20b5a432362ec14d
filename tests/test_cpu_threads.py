"""Threads of the compiled engine: limits, equal bits, forks, and many callers at once."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from cpu_cases import compiled_only, tvw_case
from strategies import dtype

import tvwarray
from tvwarray._backends.cpu import BACKEND
from tvwarray._kernels.cpu import threads


def problem(seed, n, kind="float32", depth=1000):
    """Return a packed matrix and an operand that are worth several threads."""
    rng = np.random.default_rng(seed)
    case = tvw_case(rng, 1500, 1000, 640, kind=kind, tile_rows=128)
    x = rng.standard_normal((n, depth)).astype(dtype(kind)).T
    return BACKEND.pack(case.storage), x


@compiled_only
@pytest.mark.parametrize("n", [3, 16, 130, 520])
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
@pytest.mark.parametrize("transposed", [False, True])
def test_any_number_of_threads_gives_the_same_bits(n, kind, transposed):
    packed, x = problem(n, n, kind, 1500 if transposed else 1000)
    with threads.limit_threads(1):
        alone = BACKEND.matmul(packed, x, transposed=transposed)
    for count in (2, 3, 8):
        with threads.limit_threads(count):
            for _ in range(5):
                got = BACKEND.matmul(packed, x, transposed=transposed)
                assert got.tobytes() == alone.tobytes()


@compiled_only
@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_one_long_tile_is_shared_out_without_changing_a_bit(kind):
    rng = np.random.default_rng(1)
    packed = BACKEND.pack(tvw_case(rng, 120, 5000, 4096, kind=kind).storage)
    for n in (97, 128, 129, 300):
        x = rng.standard_normal((n, 5000)).astype(dtype(kind)).T
        with threads.limit_threads(1):
            alone = BACKEND.matmul(packed, x)
        with threads.limit_threads(3):
            assert BACKEND.matmul(packed, x).tobytes() == alone.tobytes()


@compiled_only
def test_many_callers_at_once():
    problems = [problem(seed, n) for seed, n in enumerate([3, 60, 200])]
    with threads.limit_threads(2):
        expected = [BACKEND.matmul(*p).tobytes() for p in problems]
        with ThreadPoolExecutor(8) as pool:
            fresh = [problem(seed, n) for seed, n in enumerate([3, 60, 200])]
            jobs = [
                (i, pool.submit(BACKEND.matmul, *fresh[i])) for _ in range(20) for i in range(3)
            ]
            for i, job in jobs:
                assert job.result().tobytes() == expected[i]


FORK = """
import os, signal, sys
import numpy as np
from test_cpu_threads import problem
from tvwarray._backends.cpu import BACKEND
from tvwarray._kernels.cpu import threads

threads.set_num_threads(2)
packed, x = problem(0, 300)
expected = BACKEND.matmul(packed, x).tobytes()
for _ in range(3):
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        same = all(BACKEND.matmul(packed, x).tobytes() == expected for _ in range(3))
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert BACKEND.matmul(packed, x).tobytes() == expected
"""


@compiled_only
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_products_go_on_after_a_fork():
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORK],
        env=environment,
        cwd=os.path.dirname(__file__),  # from the clone's top, its source folder would be imported
        check=True,
        timeout=60,
    )


@compiled_only
def test_the_limit_is_set_and_restored():
    assert tvwarray.limit_threads is threads.limit_threads
    before = threads.get_num_threads()
    with threads.limit_threads(before + 2):
        assert threads.get_num_threads() == before + 2
    assert threads.get_num_threads() == before
    with pytest.raises(ValueError, match="at least one"):
        threads.set_num_threads(0)


def test_the_environment_sets_the_first_number(monkeypatch):
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    assert threads.first_num_threads() == threads.usable_cpus() >= 1
    monkeypatch.setenv("OMP_NUM_THREADS", "3,2")
    assert threads.first_num_threads() == 3
    monkeypatch.setenv("TVWARRAY_NUM_THREADS", "5")
    assert threads.first_num_threads() == 5
    monkeypatch.setenv("TVWARRAY_NUM_THREADS", "many")
    with pytest.warns(UserWarning, match="'many'"):
        assert threads.first_num_threads() == 3


def test_the_quota_of_a_control_group(tmp_path):
    own = tmp_path / "own"
    own.write_text("0::/a/b\n")
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert threads.cgroup_quota(str(tmp_path), str(own)) is None
    (tmp_path / "a" / "b" / "cpu.max").write_text("max 100000\n")
    (tmp_path / "a" / "cpu.max").write_text("150000 100000\n")
    assert threads.cgroup_quota(str(tmp_path), str(own)) == 1.5
    assert threads.cgroup_quota(str(tmp_path), str(tmp_path / "none")) is None


def test_the_quota_of_a_control_group_of_version_1(tmp_path):
    own = tmp_path / "own"
    own.write_text("4:memory:/c\n3:cpu,cpuacct:/c\n")
    group = tmp_path / "cpu,cpuacct" / "c"
    group.mkdir(parents=True)
    (group / "cpu.cfs_quota_us").write_text("200000\n")
    (group / "cpu.cfs_period_us").write_text("100000\n")
    assert threads.cgroup_quota(str(tmp_path), str(own)) == 2
    (group / "cpu.cfs_quota_us").write_text("-1\n")
    assert threads.cgroup_quota(str(tmp_path), str(own)) is None
