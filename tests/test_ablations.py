"""The edits that leave parts of kernels out fit the shipped sources, and do what they say."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from gpu import edits

from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.hopper.config import HopperConfig, hopper_configs
from tvwarray._kernels.hopper.config8 import byte_configs
from tvwarray._kernels.select import configs_of

BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
FLOAT8 = np.dtype(ml_dtypes.float8_e4m3fn)
ALL = [
    *((kernel, name, e) for kernel, each in edits.LEFT_OUT.items() for name, e in each.items()),
    *(("sm90_tvw_gemm", name, e) for name, e in edits.OTHERWISE.items()),
    ("sm90_tvw_gemm", "fenced", edits.FENCED),
]


def config_of(kernel, boxes=False):
    if kernel == "sm90_tvw_gemm":
        return next(c for c in hopper_configs("90", BFLOAT16, True, boxes) if c.boxes == boxes)
    if kernel == "sm90_tvw_gemm8":
        return byte_configs("90", form_of(FLOAT8), True)[0].storing("bfloat16")
    return next(c for c in configs_of("90", form_of(BFLOAT16), True) if c.kernel == kernel)


@pytest.mark.parametrize(("kernel", "name", "changes"), ALL, ids=lambda v: str(v)[:40])
def test_each_edit_fits_and_changes_the_kernel_that_is_made(kernel, name, changes):
    config = config_of(kernel, boxes=name == "fenced")
    whole = compile_kernel(config, "90").ptx
    ptx = compile_kernel(config, "90", edits.altered(kernel, changes)).ptx
    assert ptx != whole
    gone = {
        "X not gathered": "cp.async.cg", "no copies": "cp.async.cg",
        "A not copied": "cp.async.bulk", "X not turned": "ldmatrix",
        "no products": "mma_async.sp" if kernel.startswith("sm90") else "mma.sp",
    }.get(name)  # fmt: skip
    if gone:
        assert gone in whole
        assert gone not in ptx
    if name == "products alone":
        assert "cp.async.bulk" not in ptx
        assert "cp.async.cg" not in ptx
        assert "mma_async.sp" in ptx


def test_an_edit_that_does_not_fit_is_an_error():
    with pytest.raises(ValueError, match="0 times"):
        edits.altered("sm90_tvw_gemm", (edits.Edit("ptx.cuh", "no such text", ""),))


@pytest.mark.parametrize("shape", [*edits.GATHERS.values(), *edits.BOXES.values()], ids=str)
def test_configs_that_are_not_shipped_keep_the_rules_of_the_chip(shape):
    config = HopperConfig(True, *shape)
    assert not config.refusal()
    assert config not in hopper_configs("90", BFLOAT16, True, True)
