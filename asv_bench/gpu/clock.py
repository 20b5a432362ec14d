"""Times of GPU work: a CUDA graph of it, replayed between flushes of the L2 cache, by events.

A graph leaves the time that Python takes out of what is measured, for every library alike.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping

import cupy
import numpy as np
import torch

_FLUSH_BYTES = 256 << 20

warnings.filterwarnings("ignore", "ExternalStream is deprecated", DeprecationWarning)
warnings.filterwarnings("ignore", "bsr_dense_addmm uses non-optimal")
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")


class Clock:
    """Times functions on one stream, which CuPy and PyTorch share."""

    def __init__(self, repeats: int = 20) -> None:
        self.repeats = repeats
        self.stream = torch.cuda.Stream()
        self._flush = torch.empty(_FLUSH_BYTES, dtype=torch.uint8, device="cuda")

    def median_us(self, run: Callable[[], object]) -> float:
        """Return the median time of `run` in microseconds."""
        return self.medians_us({"": run})[""]

    def medians_us(self, runs: Mapping[str, Callable[[], object]]) -> dict[str, float]:
        """Return the median time of each in microseconds; they take turns."""
        with torch.cuda.stream(self.stream), cupy.cuda.ExternalStream(self.stream.cuda_stream):
            replays, times = {}, {name: [] for name in runs}
            for name, run in runs.items():
                for _ in range(3):  # compiled, packed, chosen
                    run()
                self.stream.synchronize()
                replays[name] = self._captured(run)
            for _ in range(self.repeats):
                for name, replay in replays.items():
                    times[name].append(self._once_us(replay))
                if max(map(sum, times.values())) > 1e6:  # a second is enough for anybody
                    break
        return {name: float(np.median(found)) for name, found in times.items()}

    def _once_us(self, replay: Callable[[], object]) -> float:
        self._flush.random_(0, 255)
        start, stop = torch.cuda.Event(True), torch.cuda.Event(True)
        start.record()
        replay()
        stop.record()
        stop.synchronize()
        return 1e3 * float(start.elapsed_time(stop))

    def _captured(self, run: Callable[[], object]) -> Callable[[], object]:
        """Return the replay of a graph, or `run` itself where it synchronizes: then eagerly."""
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self.stream):
                run()
        except RuntimeError:
            torch.cuda.synchronize()
            return run
        return graph.replay

    def host_us(self, run: Callable[[], object], calls: int = 500, *, done: bool = False) -> float:
        """Return what a call of `run` takes on the host, in microseconds.

        The GPU runs behind; or, if each is to be `done`, it is waited for after every call.
        """
        best = np.inf
        with torch.cuda.stream(self.stream), cupy.cuda.ExternalStream(self.stream.cuda_stream):
            for _ in range(5):
                run()
                self.stream.synchronize()
                start = time.perf_counter()
                for _ in range(calls):
                    run()
                    if done:
                        self.stream.synchronize()
                best = min(best, time.perf_counter() - start)
                self.stream.synchronize()
        return 1e6 * best / calls


def empty_kernel() -> Callable[[], object]:
    """Return an empty kernel: what a launch takes by itself."""
    empty = cupy.RawKernel('extern "C" __global__ void empty() {}', "empty")
    return lambda: empty((1,), (32,), ())
