"""A launch with its arguments in place: what is left of starting it is two addresses and one call.

The driver takes arguments as addresses of their values, and reads them while it is called. So they
are written once, each into words of its own, and a launch that is started again changes those that
differ. CuPy's own call looks at every argument each time.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

_WORD: Final = 8
_OF_HOST: Final = (np.ndarray, np.generic)


class Arguments:
    """The values of a kernel's arguments, and where each of them is.

    Parameters
    ----------
    values : sequence
        Arrays of a device, whose addresses are passed; None, a null pointer; NumPy scalars and
        arrays, as the bytes that they are. All are kept alive.
    """

    def __init__(self, values: Sequence[Any]) -> None:
        self._kept = list(values)
        words = [1 if _address(v) is not None else -(-v.nbytes // _WORD) for v in values]
        starts = np.concatenate([[0], np.cumsum(words)]).astype(int)
        self._memory = (ctypes.c_uint64 * int(starts[-1]))()
        self._starts = [int(s) for s in starts[:-1]]
        base = ctypes.addressof(self._memory)
        self._pointers = (ctypes.c_void_p * len(values))(*(base + _WORD * s for s in self._starts))
        for i, value in enumerate(values):
            self.set(i, value)

    @property
    def address(self) -> int:
        """Where the addresses of the values are: what the driver calls kernelParams."""
        return ctypes.addressof(self._pointers)

    def set(self, i: int, value: Any) -> None:
        """Change an argument to a value of the same kind; it is not kept alive."""
        address = _address(value)
        if address is not None:
            self._memory[self._starts[i]] = address
        else:
            raw = np.asarray(value).tobytes()
            ctypes.memmove(ctypes.addressof(self._memory) + _WORD * self._starts[i], raw, len(raw))


def _address(value: Any) -> int | None:
    """Return what is passed of an array of a device, or None of a value of the host."""
    if value is None:
        return 0
    if isinstance(value, _OF_HOST):
        return None
    address: int = value.data.ptr
    return address


class BoundLaunch:
    """A kernel to be started in one stream, with arguments that may change.

    Parameters
    ----------
    start : callable
        ``cuLaunchKernel`` as CuPy has it.
    function, stream : int
        Handles of the driver.
    grid, threads, shared_bytes : int
    values : sequence
        See `Arguments`.
    """

    def __init__(
        self, start: Any, function: int, stream: int, grid: int, threads: int, shared_bytes: int,
        values: Sequence[Any],
    ) -> None:  # fmt: skip
        self._arguments = Arguments(values)
        self._lock = threading.Lock()
        self._start = start
        self._fixed = (
            function, grid, 1, 1, threads, 1, 1, shared_bytes, stream, self._arguments.address, 0
        )  # fmt: skip

    def __call__(self, changed: Mapping[int, Any]) -> None:
        """Start it, with other values for some arguments."""
        with self._lock:  # until the driver has read them
            for i, value in changed.items():
                self._arguments.set(i, value)
            self._start(*self._fixed)
