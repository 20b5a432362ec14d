"""The interpreter against what an H200's tensor cores did, without a GPU: single instructions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from kernel_problems import BFLOAT16, FLOAT16
from ptx.fragments import FAMILY, WIDTH
from tensor_core_records import FILE, Mma, Wgmma, instructions, load, warpgroup_products

from tvwarray._kernels.compile import Config, compile_kernel
from tvwarray._kernels.config import few_config
from tvwarray._kernels.elements import form_of, refusal
from tvwarray._kernels.hopper.config import hopper_configs
from tvwarray._kernels.hopper.config8 import byte_configs
from tvwarray._kernels.select import configs_of

RECORDS = load()


@pytest.mark.parametrize("name", [n for n in RECORDS if "normals" not in n])
def test_sums_of_integers_are_those_of_the_hardware(name: str) -> None:
    case, recorded = RECORDS[name]
    np.testing.assert_array_equal(case.run(), recorded)


@pytest.mark.parametrize("name", [n for n in RECORDS if "normals" in n])
def test_rounding_is_within_what_tensor_cores_cut_off(name: str) -> None:
    """They align all products and C to the largest and cut there; the interpreter rounds once.

    Every addend loses less than 2**-23 of the largest, and so does the sum (Fasi, Higham, Mikaitis
    and Pranesh, Numerical behavior of NVIDIA tensor cores, PeerJ CS 2021).
    """
    case, recorded = RECORDS[name]
    assert isinstance(case, Mma)
    got, hardware = case.run().view(np.float32), recorded.view(np.float32)
    size = _positive(case).run().view(np.float32)
    addends = _depth(case) + 1
    assert (abs(got - hardware) <= (addends + 1) * 2.0**-23 * size).all()
    assert np.isfinite(hardware).all()
    assert hardware.any()


def test_every_instruction_is_recorded() -> None:
    """Shapes, types, selectors and forms: a new one is to be recorded on a GPU."""
    assert {c.name for c in (*instructions(), *warpgroup_products())} == set(RECORDS), (
        f"run tests/gpu/record.py on a GPU of compute capability 9.0 to write {FILE}"
    )


MNEMONIC = re.compile(r"\b(?:wgmma\.mma_async|mma)\.s[\w.:]+")

FORMS = [
    form_of(np.dtype(getattr(ml_dtypes, name, name)), precision)
    for name, precision in (
        ("float16", "default"), ("bfloat16", "default"), ("int8", "default"),
        ("float8_e4m3fn", "default"), ("float8_e5m2", "default"), ("float32", "tf32"),
    )
]  # fmt: skip


def one_of_each() -> Iterator[tuple[str, Config]]:
    """Yield an architecture and a config for each instruction that shipped kernels multiply with.

    The type, the pattern and the width of a warpgroup say which.
    """
    for form, sparse in product(FORMS, (True, False)):
        target = "90" if not refusal(form, "90") else "120"
        yield target, next(iter(configs_of(target, form, sparse)))
    for dtype, sparse, n in product((FLOAT16, BFLOAT16), (True, False), (1, 5)):
        yield "90", few_config(dtype.name, sparse, n, 4096)
    hopper: list[Any] = [
        c for d in (FLOAT16, BFLOAT16) for c in hopper_configs("90", d, True, True)
    ]
    hopper += [c for form in FORMS for c in byte_configs("90", form, True)]
    kinds = {
        (c.kernel, getattr(c, "element", ""), getattr(c, "bfloat16", 0), c.wg_n): c for c in hopper
    }
    for config in kinds.values():
        yield "90", config


def test_what_kernels_multiply_with_is_recorded() -> None:
    """Read from what is compiled; float64, whose sums are exact products rounded once, left out."""
    recorded = {case.mnemonic for case, _ in RECORDS.values() if isinstance(case, Mma)}
    for case, _ in RECORDS.values():
        if isinstance(case, Wgmma):
            recorded |= set(MNEMONIC.findall(case.text()))
    used = set()
    for target, config in one_of_each():
        ptx = compile_kernel(config, target).ptx
        found = set(MNEMONIC.findall(ptx))
        assert found, config
        used |= found
    assert used <= recorded


def _depth(case: Mma) -> int:
    """Return how many products a sum has."""
    shape = next(part for part in case.mnemonic.split(".") if part.startswith("m16n8k"))
    return int(shape[6:]) // (2 if case.mnemonic.startswith("mma.sp") else 1)


def _positive(case: Mma) -> Mma:
    """Return the instruction on absolute values."""
    a, b, c, words = case.operands
    kind = case.mnemonic.split(".")[-2]
    signs = np.uint32(0x7FFF7FFF if WIDTH[FAMILY[kind]] == 16 else 0x7FFFFFFF)
    return replace(case, operands=(a & signs, b & signs, c & np.uint32(0x7FFFFFFF), words))
