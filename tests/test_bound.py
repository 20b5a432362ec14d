"""Launches with their arguments in place: what a driver reads when it is called."""

from __future__ import annotations

import ctypes
import gc
import threading
import weakref
from typing import Any

import numpy as np

from tvwarray._kernels.bound import BoundLaunch


class DeviceArray:
    """As much of CuPy's array as a launch looks at."""

    def __init__(self, address: int) -> None:
        self.data = self
        self.ptr = address


class Driver:
    """A ``cuLaunchKernel`` that reads what it is passed, by the sizes that a kernel has."""

    def __init__(self, sizes: tuple[int, ...]) -> None:
        self.sizes = sizes
        self.calls: list[tuple[tuple[int, ...], list[bytes]]] = []

    def __call__(self, *fixed: int) -> None:
        *shape, params, extra = fixed
        assert extra == 0
        places = (ctypes.c_void_p * len(self.sizes)).from_address(params)
        read = [ctypes.string_at(at, n) for at, n in zip(places, self.sizes, strict=True)]
        self.calls.append((tuple(shape), read))


def word(value: int) -> bytes:
    return value.to_bytes(8, "little")


def bound(driver: Driver, values: list[Any]) -> BoundLaunch:
    return BoundLaunch(driver, 11, 12, 13, 14, 15, values)


def test_the_driver_reads_every_value_as_what_it_is() -> None:
    """Addresses, null pointers, scalars of 4 and 8 bytes, and structures of any length."""
    raw = np.arange(128, dtype=np.uint8)
    values = [
        DeviceArray(2**63 + 5), None, np.int32(-3), np.int64(-(2**40)), np.float32(0.1), raw,
        np.int32(7), np.arange(3, dtype=np.uint8), DeviceArray(1),
    ]  # fmt: skip
    driver = Driver((8, 8, 4, 8, 4, 128, 4, 3, 8))
    launch = bound(driver, values)
    launch({})
    launch({0: DeviceArray(99), 5: raw[::-1]})
    fixed = (11, 13, 1, 1, 14, 1, 1, 15, 12)
    same = [np.int32(7).tobytes(), b"\0\1\2", word(1)]
    scalars = [np.int32(-3).tobytes(), np.int64(-(2**40)).tobytes(), np.float32(0.1).tobytes()]
    assert driver.calls == [
        (fixed, [word(2**63 + 5), word(0), *scalars, raw.tobytes(), *same]),
        (fixed, [word(99), word(0), *scalars, raw[::-1].tobytes(), *same]),
    ]


def test_what_is_bound_stays_and_what_changes_does_not() -> None:
    kept, passing = DeviceArray(1), DeviceArray(2)
    alive = [weakref.ref(kept), weakref.ref(passing)]
    launch = bound(Driver((8, 8)), [kept, None])
    launch({1: passing})
    del kept, passing
    gc.collect()
    assert alive[0]() is not None
    assert alive[1]() is None


def test_threads_do_not_exchange_their_operands() -> None:
    """Every launch has the X and the result of one call."""
    driver = Driver((8, 8))
    launch = bound(driver, [None, None])

    def run(first: int) -> None:
        for i in range(first, first + 500):
            launch({0: DeviceArray(i), 1: DeviceArray(i + 10**6)})

    threads = [threading.Thread(target=run, args=(1000 * t,)) for t in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [tuple(int.from_bytes(b, "little") for b in read) for _, read in driver.calls]
    assert len(found) == 2000
    assert all(result == x + 10**6 for x, result in found)
