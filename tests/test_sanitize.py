"""What the sanitizers run, without a GPU: every shipped kernel, and what racecheck runs instead."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from every_kernel import Place, cases, shipped_kernels
from interpreter_launcher import InterpreterLauncher
from kernel_problems import FLOAT16, exact, uniform

from tvwarray._kernels import product
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.hopper.config import hopper_configs
from tvwarray._kernels.hopper.config8 import byte_configs
from tvwarray._kernels.pack import pack

sys.path.insert(0, str(Path(__file__).parent / "gpu"))
from sanitize import every_lane_tells

INT8 = np.dtype(np.int8)
CONFIGS = [(FLOAT16, c) for c in hopper_configs("90", FLOAT16, True, every_column=True)]
CONFIGS += [(INT8, c) for c in byte_configs("90", form_of(INT8), True)]


@pytest.mark.parametrize(("dtype", "config"), CONFIGS, ids=str)
def test_barriers_that_every_lane_tells(monkeypatch, dtype, config):
    """More steps than stages; with a count that is wrong the ring stands still."""
    problem = uniform(64, 768, 16, tile_rows=64, keep=1.0, dtype=dtype, sparse=True)
    told = every_lane_tells(config.kernel)
    text = "".join(told.values())
    assert text.count("32 * ") >= 2
    assert "== 0) arrive(" not in text
    # The config that runs may be this one's variant for tiles in pieces.
    monkeypatch.setattr(product, "_compiled", lambda ran, to: compile_kernel(ran, to, told))
    packed = pack(problem.storage)
    got = product.multiply(InterpreterLauncher("90"), packed, problem.x, config=config)
    np.testing.assert_array_equal(got, exact(problem)[0].astype(got.dtype))


def test_every_shipped_kernel_is_run() -> None:
    """Those of the sources; and a case of each starts the kernel whose name it bears."""
    launcher, single = InterpreterLauncher("90"), InterpreterLauncher("90", multiprocessors=1)
    found = list(cases(Place("90", launcher, single, lambda x: x)))
    assert {case.kernel for case in found} == shipped_kernels()
    assert len({(case.kernel, case.what) for case in found}) == len(found)
    for kernel in shipped_kernels():
        case = next(case for case in found if case.kernel == kernel)
        assert case.right(), case
        assert launcher.kernels[-1].name == kernel
