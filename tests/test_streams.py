"""What is kept for a matrix is made beside captures and waited for: the order of calls, no GPU."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
from fake_cupy import FakeArray, FakeCuda, fake_cupy

from tvwarray._kernels import streams


def put(monkeypatch, cuda: FakeCuda) -> FakeArray:
    """Put a record in CuPy's place; return one of its arrays."""
    monkeypatch.setitem(sys.modules, "cupy", fake_cupy(cuda))
    return FakeArray()


def test_numpy_arrays_are_there_at_once():
    assert not streams.capturing(np.ones(3))
    with streams.settled(np.ones(3)), streams.beside_capture(np.ones(3)):
        pass


@pytest.mark.parametrize("stream", [0, 1, 7])
def test_what_is_made_is_waited_for_on_its_stream(monkeypatch, stream):
    cuda = FakeCuda(stream)
    like = put(monkeypatch, cuda)
    with streams.settled(like):
        assert cuda.get_current_stream().ptr == stream
        cuda.log.append("made")
    assert cuda.log == ["made", f"waited for {stream}"]


class FakeDriver:
    """The driver's exchange of capture modes."""

    def __init__(self, log: list[Any]) -> None:
        self.log, self.mode = log, 0

    def cuThreadExchangeStreamCaptureMode(self, given: Any) -> None:  # noqa: N802
        mode = given._obj
        self.mode, mode.value = mode.value, self.mode
        self.log.append(f"mode {self.mode}")


@pytest.mark.parametrize("fails", [False, True])
def test_in_a_capture_it_is_made_on_another_stream(monkeypatch, fails):
    """The thread may allocate meanwhile, and may not afterwards, whatever happens."""
    cuda = FakeCuda(7, captured=(7,))
    like = put(monkeypatch, cuda)
    cuda.Stream = cuda.beside
    driver = FakeDriver(cuda.log)
    monkeypatch.setattr(streams, "_driver", lambda: driver)
    assert streams.capturing(like)
    try:
        with streams.settled(like):
            assert cuda.get_current_stream().ptr == 99
            if fails:
                raise ZeroDivisionError
            cuda.log.append("made")
    except ZeroDivisionError:
        assert fails
    made = [] if fails else ["made", "waited for 99", "waited for 99"]
    assert cuda.log == ["mode 2", *made, "mode 0"]
    assert cuda.get_current_stream().ptr == 7
