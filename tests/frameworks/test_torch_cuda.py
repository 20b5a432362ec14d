"""Tensors of a GPU as CuPy arrays, with records in the place of both: no GPU is needed."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import ml_dtypes
import numpy as np
import pytest
from fake_cupy import FakeCuda, fake_cupy

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

from tvwarray.torch import _cuda  # noqa: E402


class FakeTensor:
    """A tensor of a GPU: a window of a storage."""

    def __init__(self, dtype=torch.float16, shape=(3, 4), stride=(10, 1), offset=5):
        self.dtype, self.shape, self._stride, self._offset = dtype, shape, stride, offset
        self.device = SimpleNamespace(type="cuda", index=2)

    def numel(self):
        return int(np.prod(self.shape))

    def stride(self):
        return self._stride

    def storage_offset(self):
        return self._offset

    def untyped_storage(self):
        return SimpleNamespace(data_ptr=lambda: 4096, nbytes=lambda: 640)


@pytest.fixture
def cuda(monkeypatch):
    """CuPy, whose current stream is 7, which is torch's current stream on device 2, too."""
    found = FakeCuda(7)
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(found))
    for cached in (_cuda._cupy, _cuda._stream, _cuda._torch_memory):
        cached.cache_clear()
    monkeypatch.setattr(_cuda, "_raw_stream", {2: 7}.__getitem__)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    yield found
    for cached in (_cuda._cupy, _cuda._stream, _cuda._torch_memory):
        cached.cache_clear()


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.float16, np.float16), (torch.bfloat16, ml_dtypes.bfloat16)]
)
def test_a_window_is_shared_from_the_beginning_of_its_storage(cuda, dtype, kind):
    x = FakeTensor(dtype)
    array = _cuda.shared(x)
    assert (array.shape, array.dtype, array.strides) == ((3, 4), np.dtype(kind), (20, 2))
    assert array.data.ptr == 4096 + 10
    assert (array.data.mem.ptr, array.data.mem.size, array.data.mem.device) == (4096, 640, 2)
    assert array.data.mem.owner is x


def test_other_types_empty_tensors_and_other_streams_go_by_dlpack(cuda, monkeypatch):
    assert _cuda.shared(FakeTensor(torch.int64)) is None
    assert _cuda.shared(FakeTensor(shape=(0, 4))) is None
    monkeypatch.setattr(_cuda, "_raw_stream", {2: 8}.__getitem__)
    assert _cuda.shared(FakeTensor()) is None


@pytest.mark.parametrize("stream", [0, 8])
def test_products_run_on_the_stream_of_torch(cuda, monkeypatch, stream):
    monkeypatch.setattr(_cuda, "_raw_stream", {2: stream}.__getitem__)
    with _cuda.on_current_stream(FakeTensor()):
        assert cuda.get_current_stream().ptr == stream
        assert cuda.log == ["device 2"]
        assert cuda.allocator is None
        assert _cuda.shared(FakeTensor()) is not None
    assert cuda.get_current_stream().ptr == 7
    with _cuda.on_current_stream(torch.ones(2)):
        assert cuda.get_current_stream().ptr == 7


def test_a_captured_graph_gets_memory_of_torch(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    asked = []
    monkeypatch.setattr(
        torch.cuda, "caching_allocator_alloc", lambda *a: asked.append(a) or 512, raising=False
    )
    monkeypatch.setattr(torch.cuda, "caching_allocator_delete", asked.append, raising=False)
    with _cuda.on_current_stream(FakeTensor()):
        assert cuda.allocator(64, 2) == 512
        assert asked == [(64, 2, 7)]
        _cuda._torch_memory().free(512, 2)
        assert asked[1:] == [512]
    assert cuda.allocator is None
