"""What is made once and kept, where products run on several streams or are captured in graphs.

A matrix is packed by kernels of the stream of its first product. A product on another stream would
read it too early, and one that is captured would hold the packing instead of its result: so what is
kept is made beside a capture, and waited for.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Final

import array_api_compat

from tvwarray._namespace import Array

_LEGACY: Final = (0, 1)
"""The default stream, which cannot be captured; asking it may be an error."""

_RELAXED: Final = 2
"""CU_STREAM_CAPTURE_MODE_RELAXED: this thread may allocate while a stream is captured."""


@contextmanager
def settled(like: Array) -> Iterator[None]:
    """Make something to be kept, on the device of `like`: all of it is there at the end."""
    if not array_api_compat.is_cupy_array(like):
        yield
        return
    import cupy

    with like.device, beside_capture(like):
        yield
        cupy.cuda.get_current_stream().synchronize()


@contextmanager
def beside_capture(like: Array) -> Iterator[None]:
    """Run what cannot be captured on a stream of its own, if the current one is captured."""
    if not capturing(like):
        yield
        return
    import cupy

    with _relaxed(), cupy.cuda.Stream(non_blocking=True) as beside:
        yield
        beside.synchronize()


@contextmanager
def _relaxed() -> Iterator[None]:
    """Let this thread allocate and wait beside a capture that forbids it, as PyTorch's do."""
    mode = ctypes.c_int(_RELAXED)
    _driver().cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))
    try:
        yield
    finally:
        _driver().cuThreadExchangeStreamCaptureMode(ctypes.byref(mode))


@cache
def _driver() -> Any:
    return ctypes.CDLL("nvcuda.dll" if os.name == "nt" else "libcuda.so.1")


def capturing(like: Array) -> bool:
    """Return whether what is started for `like` now goes into a graph instead of being run."""
    if not array_api_compat.is_cupy_array(like):
        return False
    import cupy

    stream = cupy.cuda.get_current_stream().ptr
    return stream not in _LEGACY and bool(cupy.cuda.runtime.streamIsCapturing(stream))
