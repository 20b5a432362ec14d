"""The interpreter against what an H200's tensor cores did, without a GPU: single instructions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from ptx.fragments import FAMILY, WIDTH
from tensor_core_records import FILE, Mma, instructions, load, warpgroup_products

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
