"""Launches that are started again give what the first one gave, on other arrays."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from interpreter_launcher import InterpreterLauncher
from kernel_problems import FLOAT16, exact, uniform

from tvwarray._kernels import repeat
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.repeat import Repeated


def launches(packed):
    return [kept for kept in packed.memo.values() if isinstance(kept, Repeated)]


@pytest.mark.parametrize("n", [1, 8, 64])
@pytest.mark.parametrize("architecture", ["80", "90a"])
def test_a_second_product_plans_nothing(architecture, n, monkeypatch):
    launcher = InterpreterLauncher(architecture)
    first = uniform(64, 128, n, tile_rows=32, keep=0.5)
    packed = pack(first.storage)
    np.testing.assert_array_equal(multiply(launcher, packed, first.x), exact(first)[0])
    kept = len(launches(packed))
    other = uniform(64, 128, n, tile_rows=32, keep=0.5)
    x = np.roll(other.x, 3, axis=0).copy()
    expected = exact(type(first)(first.storage, x))[0].astype(FLOAT16)
    if kept:  # X could be read where it lay
        monkeypatch.setattr("tvwarray._kernels.product._run", None)
    np.testing.assert_array_equal(multiply(launcher, packed, x), expected)
    assert kept == (1 if n != 1 or launcher.kernels[0].name == "sm80_tvw_vector" else 0)


def test_windows_and_their_alignment_are_places_of_their_own():
    product = uniform(64, 128, 48, tile_rows=32, keep=0.5)
    launcher, packed = InterpreterLauncher("80"), pack(product.storage)
    expected = exact(product)[0].astype(FLOAT16)
    for shift in (0, 8, 3, 0, 8, 3):
        big = np.full((128, 64), np.nan, FLOAT16)
        big[:, shift : shift + 48] = product.x
        wide = np.full((64, 70), 7, FLOAT16)
        window = wide[:, shift : shift + 48]
        got = multiply(launcher, packed, big[:, shift : shift + 48], window)
        assert got is window
        np.testing.assert_array_equal(window, expected)
        assert (np.delete(wide, np.s_[shift : shift + 48], axis=1) == 7).all()


@pytest.mark.parametrize("n", [1, 4, 64])
def test_a_product_may_be_written_over_its_operand(n):
    """Before and after a launch of the same shapes was kept."""
    product = uniform(64, 64, n, tile_rows=32, keep=0.5)
    launcher, packed = InterpreterLauncher("80"), pack(product.storage)
    expected = exact(product)[0].astype(FLOAT16)
    for _ in range(2):
        x = product.x.copy()
        assert multiply(launcher, packed, x, x) is x
        np.testing.assert_array_equal(x, expected)
        out = np.zeros_like(expected)
        multiply(launcher, packed, product.x, out)
        np.testing.assert_array_equal(out, expected)


def test_launches_do_not_pile_up(monkeypatch):
    monkeypatch.setattr(repeat, "MOST_LAUNCHES", 3)
    product = uniform(16, 64, 8, tile_rows=16, keep=1.0)
    launcher, packed = InterpreterLauncher("80", check_races=False), pack(product.storage)
    for n in range(8, 64, 8):
        multiply(launcher, packed, np.tile(product.x, (1, n // 8)))
        assert len(launches(packed)) <= 3


def test_a_kept_launch_does_not_keep_its_operands():
    product = uniform(32, 64, 8, tile_rows=16, keep=1.0)
    launcher, packed = InterpreterLauncher("80", check_races=False), pack(product.storage)

    x = product.x.copy()
    out = np.empty((32, 8), FLOAT16)
    before = sys.getrefcount(x), sys.getrefcount(out)
    multiply(launcher, packed, x, out)
    assert launches(packed)
    assert (sys.getrefcount(x), sys.getrefcount(out)) == before
