"""Tensor maps: what the driver is asked for, and what a launch passes of them."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

from tvwarray._errors import BackendError
from tvwarray._kernels.hopper import tensor_map as maps
from tvwarray._kernels.hopper.tensor_map import MAP_BYTES, Boxed, tensor_map
from tvwarray._kernels.launch import _mapped


class Driver:
    """Notes what it is asked for, and writes a map that says so."""

    def __init__(self, status: int = 0) -> None:
        self.status, self.asked = status, []

    def __call__(self, *given: Any) -> int:
        to, kind, dimensions, address, sizes, strides, box, steps, *modes = given
        assert to % 64 == 0
        ctypes.memmove(to, bytes(range(MAP_BYTES)), MAP_BYTES)
        shape = list(sizes), list(strides), list(box), list(steps)
        self.asked.append((kind, dimensions, address, *shape, modes))
        return self.status


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_map_describes_x(bfloat16: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns first, the stride of rows in bytes, boxes of 64 x 64, swizzle and zeros beyond."""
    driver = Driver()
    monkeypatch.setattr(maps, "_encode", lambda: driver)
    x = np.zeros((100, 72), np.uint16)
    made = tensor_map(Boxed(x, 160, bfloat16), 4096)
    assert driver.asked == [
        (9 if bfloat16 else 6, 2, 4096, [72, 100], [160], [64, 64], [1, 1], [0, 3, 3, 0])
    ]
    assert made.tobytes() == bytes(range(MAP_BYTES))


def test_a_refusal_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(maps, "_encode", lambda: Driver(1))
    with pytest.raises(BackendError, match=r"100 x 72 elements, rows 150 bytes apart at 0x1000"):
        tensor_map(Boxed(np.zeros((100, 72), np.uint16), 150, False), 4096)


@pytest.mark.parametrize("library", [OSError("no such file"), None])
def test_drivers_without_tensor_maps_are_named(
    library: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No driver, or one that is too old."""

    def load(name: str) -> object:
        assert name in ("libcuda.so.1", "nvcuda.dll")
        if library:
            raise library
        return object()

    maps._encode.cache_clear()
    monkeypatch.setattr(maps.ctypes, "CDLL", load)
    with pytest.raises(BackendError, match=r"need a CUDA driver from 12\.0 on"):
        tensor_map(Boxed(np.zeros((64, 64), np.uint16), 128, False), 4096)


def test_a_kept_launch_holds_no_array(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the room for a map; an array that is given makes one, from where it is."""

    class OnDevice:
        shape = (100, 72)

        class data:  # noqa: N801
            ptr = 8192

    driver = Driver()
    monkeypatch.setattr(maps, "_encode", lambda: driver)
    kept = Boxed(None, 160, True)
    assert not _mapped(kept, None).any()
    assert _mapped(kept, None).nbytes == MAP_BYTES
    assert _mapped(kept, OnDevice()).nbytes == MAP_BYTES
    assert [asked[2] for asked in driver.asked] == [8192]
