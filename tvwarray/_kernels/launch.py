"""The product: which kernel, which grid, which arguments; and the `Launcher` that starts it.

A launcher is all that touches a GPU. CuPy's is here; the tests have another one, which executes the
same PTX without a GPU, so that everything else in this package runs on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Final, Protocol

import array_api_compat
import numpy as np

from tvwarray._errors import BackendError
from tvwarray._kernels.compile import CompiledKernel, compile_kernel
from tvwarray._kernels.config import KernelConfig
from tvwarray._kernels.cost import Problem
from tvwarray._kernels.devices import COPY_SHARE, SUSTAINED_CLOCK, Device
from tvwarray._kernels.hopper.config import HopperConfig
from tvwarray._kernels.hopper.pack import slabs_of
from tvwarray._kernels.pack import PackedMatrix, Tiles
from tvwarray._kernels.select import Choice, choose
from tvwarray._kernels.tuned import measured
from tvwarray._namespace import Array, array_namespace, device_of
from tvwarray._storage import TVWStorage

ALIGNMENT: Final = 8
"""Values of 16 bits in the 16 bytes that a copy moves: what row lengths of X are a multiple of."""

Argument = Any
"""An array, whose address is passed, or an integer, passed as int32."""


class Launcher(Protocol):
    """What starts kernels somewhere."""

    name: str

    def refusal(self, *arrays: Array) -> str:
        """Return why kernels cannot run on `arrays`, in a sentence, or an empty string."""
        ...

    def device(self, like: Array) -> Device:
        """Describe the device that `like` lies on."""
        ...

    def using(self, like: Array) -> AbstractContextManager[Any]:
        """Make the device of `like` the current one, on which new arrays are made."""
        ...

    def address(self, x: Array) -> int:
        """Return where the first element of `x` lies, as far as alignment goes."""
        ...

    def launch(
        self, kernel: CompiledKernel, grid: int, args: Sequence[Argument], like: Array
    ) -> None:
        """Start `grid` blocks of `kernel` on the device of `like`, in its current stream."""
        ...

    def seconds(self, run: Callable[[], object], *, like: Array, repeats: int) -> float:
        """Return the median time of what `run` launches on the device of `like`, L2 flushed."""
        ...


class CupyLauncher:
    """Starts kernels on NVIDIA GPUs through CuPy, for CuPy arrays, in CuPy's current stream."""

    name = "cupy"

    def __init__(self) -> None:
        self._functions: dict[tuple[str, int], Any] = {}

    def refusal(self, *arrays: Array) -> str:
        """Return why kernels cannot run on `arrays`, in a sentence, or an empty string."""
        for x in arrays:
            if not array_api_compat.is_cupy_array(x):
                return f"needs CuPy arrays on a CUDA device, got {type(x).__module__} arrays"
        import cupy

        if not cupy.is_available():
            return "needs a CUDA device: cupy.is_available() is False"
        devices = sorted({int(x.device.id) for x in arrays})
        if len(devices) > 1:
            named = " and ".join(f"cuda:{d}" for d in devices)
            return f"needs A and X on one device, got {named}"
        capability = _capability(devices[0])
        if int(capability) < 80:
            return f"needs compute capability 8.0 for mma.sp, cuda:{devices[0]} has {capability}"
        return ""

    def device(self, like: Array) -> Device:
        """Describe the device that `like` lies on."""
        return _describe(int(like.device.id))

    def using(self, like: Array) -> AbstractContextManager[Any]:
        """Make the device of `like` the current one, on which new arrays are made."""
        device: AbstractContextManager[Any] = like.device
        return device

    def address(self, x: Array) -> int:
        """Return where the first element of `x` lies."""
        return int(x.data.ptr)

    def launch(
        self, kernel: CompiledKernel, grid: int, args: Sequence[Argument], like: Array
    ) -> None:
        """Start `grid` blocks of `kernel` on the device of `like`, in its current stream."""
        threads, shared = kernel.config.threads, kernel.config.shared_bytes
        with self.using(like):
            key = (str(kernel.cubin_path), int(like.device.id))
            function = self._functions.get(key)
            if function is None:
                function = kernel.module().get_function(kernel.name)
                function.max_dynamic_shared_size_bytes = shared  # beyond 48 KB it must be asked for
                self._functions[key] = function
            passed = tuple(np.int32(a) if isinstance(a, int) else a for a in args)
            function((grid,), (threads,), passed, shared_mem=shared)

    def seconds(self, run: Callable[[], object], *, like: Array, repeats: int) -> float:
        """Return the median time of what `run` launches on the device of `like`, L2 flushed."""
        import cupy

        with self.using(like):
            flush = cupy.empty(4 * self.device(like).l2_bytes, cupy.uint8)
            run()  # compiled and loaded before it is timed
            times = []
            for _ in range(repeats):
                flush.fill(1)
                start, stop = cupy.cuda.Event(), cupy.cuda.Event()
                start.record()
                run()
                stop.record()
                stop.synchronize()
                times.append(1e-3 * cupy.cuda.get_elapsed_time(start, stop))
        return float(np.median(times))


@cache
def _capability(device: int) -> str:
    import cupy

    return str(cupy.cuda.Device(device).compute_capability)


@cache
def _describe(device: int) -> Device:
    import cupy

    attributes = cupy.cuda.Device(device).attributes
    memory_bits = 1e3 * attributes["MemoryClockRate"] * 2 * attributes["GlobalMemoryBusWidth"]
    return Device(
        architecture=_capability(device),
        multiprocessors=int(attributes["MultiProcessorCount"]),
        shared_per_block=int(attributes["MaxSharedMemoryPerBlockOptin"]),
        shared_per_multiprocessor=int(attributes["MaxSharedMemoryPerMultiprocessor"]),
        l2_bytes=int(attributes["L2CacheSize"]),
        clock=SUSTAINED_CLOCK * 1e3 * attributes["ClockRate"],
        dram_rate=COPY_SHARE * memory_bits / 8,
        name=cupy.cuda.runtime.getDeviceProperties(device)["name"].decode(),
    )


def problem_of(packed: PackedMatrix, n: int) -> Problem:
    """Return what the choice of a kernel for `packed` and `n` columns depends on."""
    tiles = packed.tiles
    return Problem(packed.dtype, packed.sparse, packed.shape, tiles.bricks, tiles.steps, n)


def choose_config(packed: PackedMatrix, n: int, device: Device) -> Choice:
    """Rank the kernels for a product of `packed` with `n` columns; remembered with the matrix."""
    key = (n, device)
    if key not in packed.memo:
        problem = problem_of(packed, n)
        packed.memo[key] = measured(choose(problem, device), problem, device)
    choice: Choice = packed.memo[key]
    return choice


def choose_for(storage: TVWStorage, n: int, device: Device) -> Choice:
    """Rank the kernels for a matrix that is not packed, and may lie anywhere."""
    tiles, sparse = Tiles.of_storage(storage), storage.vector is not None
    problem = Problem(storage.dtype, sparse, storage.shape, tiles.bricks, tiles.steps, n)
    return measured(choose(problem, device), problem, device)


def multiply(
    launcher: Launcher,
    packed: PackedMatrix,
    x: Array,
    out: Array | None = None,
    config: KernelConfig | HopperConfig | None = None,
) -> Array:
    """Return ``A @ x``, by one launch.

    Parameters
    ----------
    launcher : Launcher
    packed : PackedMatrix
        A, of shape (rows, cols), on the device of `x`.
    x : array, shape (cols, n), of A's dtype
        Read where it lies if its rows are contiguous, begin at multiples of 16 bytes, and n is a
        multiple of 8; otherwise copied first, which costs one more pass over it.
    out : array, shape (rows, n), of A's dtype, optional
        Written where it lies if its rows are contiguous; 16 bytes at a time where its rows begin
        at multiples of 16 bytes, else 2 bytes at a time.
    config : KernelConfig or HopperConfig, optional
        The kernel to run, instead of the one `choose_config` ranks first.

    Raises
    ------
    BackendError
        If no kernel runs the product, or it does not compile.
    """
    with launcher.using(x):
        return _multiply(launcher, packed, x, out, config)


def _multiply(
    launcher: Launcher,
    packed: PackedMatrix,
    x: Array,
    out: Array | None,
    config: KernelConfig | HopperConfig | None,
) -> Array:
    (rows, cols), n = packed.shape, int(x.shape[1])
    xp = array_namespace(packed.values)
    if out is None:
        out = xp.empty((rows, n), dtype=x.dtype, device=device_of(x))
    if rows == 0 or n == 0:
        return out
    device = launcher.device(x)
    config = config or _best(packed, n, device)
    kernel = _compiled(config, device.architecture)

    pitch = _row_pitch(out)
    y = out if pitch >= n else xp.empty((rows, n), dtype=x.dtype, device=device_of(x))
    x = _readable(launcher, x)
    n_blocks = -(-n // config.block_n)
    strip_bytes = 2 * max(cols, 1) * config.block_n
    strip = min(n_blocks, max(1, device.l2_bytes // 3 // strip_bytes))
    a: tuple[Array, ...]
    if isinstance(config, HopperConfig):
        slabs = slabs_of(packed)
        work, a = slabs.work_list(config.block_rows), (slabs.slabs,)
    else:
        work, a = packed.work_list(config.block_rows), (packed.values, packed.meta)
    entries = int(work.shape[0])
    grid = entries * n_blocks
    if isinstance(config, HopperConfig):  # its blocks take one item after another
        grid = min(grid, device.multiprocessors)
    args = (
        x, _row_pitch(x), y, _row_pitch(y), *a, packed.cols, packed.rows, work,
        entries, n, n_blocks, strip,
    )  # fmt: skip
    launcher.launch(kernel, grid, args, x)
    if y is not out:
        out[...] = y
    return out


@cache
def _compiled(config: KernelConfig | HopperConfig, architecture: str) -> CompiledKernel:
    return compile_kernel(config, architecture)


def _best(packed: PackedMatrix, n: int, device: Device) -> KernelConfig | HopperConfig:
    choice = choose_config(packed, n, device)
    if choice.config is None:
        raise BackendError(
            f"no kernel runs {packed.shape} {packed.dtype.name} @ n = {n}:\n{choice}"
        )
    return choice.config


def _row_pitch(x: Array) -> int:
    """Return how many elements the rows of `x` are apart, or -1 where a row is not contiguous."""
    size, (rows, n) = x.dtype.itemsize, x.shape
    if n > 1 and x.strides[1] != size:
        return -1
    return int(n if rows == 1 else x.strides[0] // size)


def _readable(launcher: Launcher, x: Array) -> Array:
    """Return `x`, or a copy of it with rows of whole, aligned 16-byte chunks."""
    cols, n = x.shape
    pitch = _row_pitch(x)
    aligned = n % ALIGNMENT == 0 and pitch % ALIGNMENT == 0 and launcher.address(x) % 16 == 0
    if aligned and n <= pitch < 2**30:
        return x
    xp = array_namespace(x)
    width = -(-n // ALIGNMENT) * ALIGNMENT
    padded = xp.zeros((cols, width), dtype=x.dtype, device=device_of(x))
    padded[:, :n] = x
    return padded
