"""What CuPy does with streams and memory, as a record: for tests of the order, where no GPU is."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import SimpleNamespace
from typing import Any

import numpy as np


class FakeDevice:
    """A device that is made the current one."""

    def __init__(self, log: list[Any], index: int) -> None:
        self.log, self.id = log, index

    def __enter__(self) -> FakeDevice:
        self.log.append(f"device {self.id}")
        return self

    def __exit__(self, *_: object) -> None:
        self.log.append(f"left device {self.id}")


class FakeStream:
    """A stream that knows when it was waited for."""

    def __init__(self, cuda: FakeCuda, ptr: int) -> None:
        self.cuda, self.ptr = cuda, ptr

    def __enter__(self) -> FakeStream:
        self.cuda.streams.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.cuda.streams.pop()

    def synchronize(self) -> None:
        self.cuda.log.append(f"waited for {self.ptr}")


class FakeCuda:
    """``cupy.cuda``: the current stream, which streams are captured, and allocations."""

    def __init__(self, current: int, captured: tuple[int, ...] = ()) -> None:
        self.log: list[Any] = []
        self.streams = [FakeStream(self, current)]
        self.runtime = SimpleNamespace(streamIsCapturing=lambda ptr: ptr in captured)
        self.allocator: Any = None
        self.Stream = SimpleNamespace(null=FakeStream(self, 0), from_external=self.external)

    def external(self, stream: Any) -> FakeStream:
        version, ptr = stream.__cuda_stream__()
        assert version == 0
        return FakeStream(self, ptr)

    def beside(self, non_blocking: bool) -> FakeStream:
        """Stand for the class `Stream` where one is made."""
        assert non_blocking
        return FakeStream(self, 99)

    def Device(self, index: int) -> FakeDevice:  # noqa: N802
        return FakeDevice(self.log, index)

    def get_current_stream(self, device: int = -1) -> FakeStream:
        return self.streams[-1]

    def PythonFunctionAllocator(self, malloc: Any, free: Any) -> Any:  # noqa: N802
        return SimpleNamespace(malloc=malloc, free=free)

    def using_allocator(self, malloc: Any) -> AbstractContextManager[Any]:
        cuda = self

        class Using(AbstractContextManager[Any]):
            def __enter__(self) -> None:
                cuda.allocator = malloc

            def __exit__(self, *_: object) -> None:
                cuda.allocator = None

        return Using()

    def UnownedMemory(self, ptr: int, size: int, owner: Any, device: int) -> Any:  # noqa: N802
        return SimpleNamespace(ptr=ptr, size=size, owner=owner, device=device)

    def MemoryPointer(self, memory: Any, offset: int) -> Any:  # noqa: N802
        return SimpleNamespace(mem=memory, ptr=memory.ptr + offset)


class FakeArray:
    """``cupy.ndarray``."""

    def __init__(self, shape: Any = (), dtype: Any = None, data: Any = None, strides: Any = ()):
        self.shape, self.dtype, self.data, self.strides = shape, dtype, data, strides
        self.device = FakeDevice([], 0)


def fake_cupy(cuda: FakeCuda) -> Any:
    """Return a module to put in CuPy's place."""
    return SimpleNamespace(cuda=cuda, ndarray=FakeArray, float16=np.float16)
