"""Tensors on a GPU: torch's stream and torch's memory, for CuPy to work with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from typing import Any, Final

import ml_dtypes
import numpy as np
import torch

from tvwarray._namespace import Array

_DTYPES: Final = {
    torch.float16: np.dtype(np.float16),
    torch.bfloat16: np.dtype(ml_dtypes.bfloat16),
    torch.float32: np.dtype(np.float32),
    torch.float64: np.dtype(np.float64),
    torch.int8: np.dtype(np.int8),
}
"""Those that are multiplied most; the others take the longer way by DLPack."""


@contextmanager
def on_current_stream(x: torch.Tensor) -> Iterator[None]:
    """Make torch's current stream on the device of `x` CuPy's, so that products run there.

    There they need no events to wait for each other, which a graph that is captured would refuse.
    A graph keeps what torch allocates for it, and nothing else: so results come from there.
    """
    if x.device.type != "cuda":
        yield
        return
    cuda, device = _cupy().cuda, x.device.index
    captured = torch.cuda.is_current_stream_capturing()
    memory = cuda.using_allocator(_torch_memory().malloc) if captured else nullcontext()
    with cuda.Device(device), _stream(_current_stream(device)), memory:
        yield


def shared(x: torch.Tensor) -> Array | None:
    """Return the CuPy array of a tensor's memory, or None where only DLPack makes one.

    DLPack takes ten times as long: it lets CuPy's stream wait for torch's. Here they are one.
    """
    cuda, dtype, device = _cupy().cuda, _DTYPES.get(x.dtype), x.device.index
    if dtype is None or not x.numel():
        return None
    if cuda.get_current_stream(device).ptr != _current_stream(device):
        return None
    memory, size = x.untyped_storage(), dtype.itemsize
    # From the storage's beginning: tensors that overlap are known by their common memory.
    whole = cuda.UnownedMemory(memory.data_ptr(), memory.nbytes(), x, device)
    start = cuda.MemoryPointer(whole, size * x.storage_offset())
    strides = tuple(size * s for s in x.stride())
    array: Array = _cupy().ndarray(tuple(x.shape), dtype, start, strides)
    return array


@cache
def _cupy() -> Any:
    return import_module("cupy")


def _current_stream(device: int) -> int:
    """Return the address of torch's current stream; through the way that takes no object."""
    return int(_raw_stream(device))


_raw_stream: Final = getattr(
    torch._C,
    "_cuda_getCurrentRawStream",
    lambda device: torch.cuda.current_stream(device).cuda_stream,
)


@cache
def _stream(address: int) -> Any:
    stream = _cupy().cuda.Stream
    return stream.from_external(_TorchStream(address)) if address else stream.null


class _TorchStream:
    """A stream of torch in CUDA's protocol, which torch's own class has had since 2.8 only."""

    def __init__(self, address: int) -> None:
        self._address = address

    def __cuda_stream__(self) -> tuple[int, int]:
        return 0, self._address


@cache
def _torch_memory() -> Any:
    cuda = _cupy().cuda

    def allocate(size: int, device: int) -> int:
        stream = cuda.get_current_stream().ptr
        return int(torch.cuda.caching_allocator_alloc(size, device, stream))

    def release(address: int, device: int) -> None:
        torch.cuda.caching_allocator_delete(address)

    return cuda.PythonFunctionAllocator(allocate, release)
