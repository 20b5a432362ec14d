"""What is made once and kept, where products run on several streams or are captured in graphs.

A matrix is packed by kernels of the stream of its first product. A product on another stream would
read it too early, and one that is captured would hold the packing instead of its result: so what is
kept is made beside a capture, and waited for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import array_api_compat

from tvwarray._namespace import Array

_LEGACY = (0, 1)
"""The default stream, which cannot be captured; asking it may be an error."""


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

    with cupy.cuda.Stream(non_blocking=True) as beside:
        yield
        beside.synchronize()


def capturing(like: Array) -> bool:
    """Return whether what is started for `like` now goes into a graph instead of being run."""
    if not array_api_compat.is_cupy_array(like):
        return False
    import cupy

    stream = cupy.cuda.get_current_stream().ptr
    return stream not in _LEGACY and bool(cupy.cuda.runtime.streamIsCapturing(stream))
