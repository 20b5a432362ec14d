"""The `Launcher` that starts kernels, and which one it is to start.

A launcher is all that touches a GPU. CuPy's is here; the tests have another one, which executes the
same PTX without a GPU, so that everything else in this package runs on any machine.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any, Final, NamedTuple, Protocol

import array_api_compat
import numpy as np

from tvwarray._dtypes import product_dtype
from tvwarray._kernels.bound import BoundLaunch
from tvwarray._kernels.compile import CompiledKernel
from tvwarray._kernels.config import step_slots
from tvwarray._kernels.cost import Problem, predict_columns, predict_transpose
from tvwarray._kernels.devices import COPY_SHARE, SUSTAINED_CLOCK, Device
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.hopper.tensor_map import MAP_BYTES, Boxed, tensor_map
from tvwarray._kernels.pack import PackedMatrix, keeps_every_column
from tvwarray._kernels.select import Choice, choose
from tvwarray._kernels.tiles import Tiles, index_lists, neighbours
from tvwarray._kernels.tuned import measured
from tvwarray._namespace import Array
from tvwarray._storage import TVWStorage


class Result(NamedTuple):
    """An argument that a kernel writes all elements of."""

    array: Array


class Scratch(NamedTuple):
    """An argument that a kernel may write, and whose contents mean nothing afterwards."""

    array: Array


_HERE: Final = nullcontext()

Argument = Any
"""An array, Result or Scratch, whose address is passed; None, a null pointer; an int or a float,
passed as int32 or float32; a NumPy scalar, as it is; Boxed, as a tensor map."""


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

    def stream(self, like: Array) -> Hashable:
        """Return which stream a launch on the device of `like` would go to."""
        ...

    def launch(
        self, kernel: CompiledKernel, grid: int, args: Sequence[Argument], like: Array
    ) -> None:
        """Start `grid` blocks of `kernel` on the device of `like`, in its current stream."""
        ...

    def bound(
        self, kernel: CompiledKernel, grid: int, args: Sequence[Argument], like: Array
    ) -> Callable[[Mapping[int, Array]], None]:
        """Return a launch that takes other arrays for some arguments, and is quick to start.

        The device of `like` is the current one when it is called.
        """
        ...

    def seconds(self, run: Callable[[], object], *, like: Array, repeats: int) -> float:
        """Return the median time of what `run` launches on the device of `like`, L2 flushed."""
        ...


class CupyLauncher:
    """Starts kernels on NVIDIA GPUs through CuPy, for CuPy arrays, in CuPy's current stream."""

    name = "cupy"

    def __init__(self) -> None:
        self._functions: dict[tuple[int, int], tuple[CompiledKernel, Any]] = {}

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
        import cupy

        if like.data.device_id == cupy.cuda.runtime.getDevice():
            return _HERE  # a tenth of the time of entering and leaving
        device: AbstractContextManager[Any] = like.device
        return device

    def address(self, x: Array) -> int:
        """Return where the first element of `x` lies."""
        return int(x.data.ptr)

    def launch(
        self, kernel: CompiledKernel, grid: int, args: Sequence[Argument], like: Array
    ) -> None:
        """Start `grid` blocks of `kernel` on the device of `like`, in its current stream."""
        with self.using(like):
            self.bound(kernel, grid, args, like)({})

    def bound(
        self, kernel: CompiledKernel, grid: int, args: Sequence[Argument], like: Array
    ) -> Callable[[Mapping[int, Array]], None]:
        """Return a launch that takes other arrays for some arguments, and is quick to start."""
        import cupy

        launch = BoundLaunch(
            cupy.cuda.driver.launchKernel,
            self._function(kernel, int(like.data.device_id)),
            cupy.cuda.get_current_stream().ptr,
            grid,
            kernel.config.threads,
            kernel.config.shared_bytes,
            list(map(_passed, args)),
        )
        boxed = {i: arg for i, arg in enumerate(args) if isinstance(arg, Boxed)}
        if not boxed:
            return launch
        return lambda changed: launch(
            {i: _mapped(boxed[i], x) if i in boxed else x for i, x in changed.items()}
        )

    def _function(self, kernel: CompiledKernel, device: int) -> int:
        """Return the driver's handle of a kernel on the current device; loaded once."""
        # A kernel is known by its identity: hashing what it was made from takes longer.
        found = self._functions.get((id(kernel), device))
        if found is None or found[0] is not kernel:
            function = kernel.module().get_function(kernel.name)
            # Beyond 48 KB it must be asked for.
            function.max_dynamic_shared_size_bytes = kernel.config.shared_bytes
            found = self._functions[id(kernel), device] = kernel, function.kernel
        handle: int = found[1].ptr
        return handle

    def stream(self, like: Array) -> Hashable:
        """Return which stream a launch on the device of `like` would go to."""
        import cupy

        return int(like.data.device_id), cupy.cuda.get_current_stream().ptr

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


def _passed(argument: Argument) -> Any:
    if argument is None:
        return np.intp(0)
    if isinstance(argument, Result | Scratch):
        return argument.array
    if isinstance(argument, Boxed):
        return _mapped(argument, argument.array)
    if isinstance(argument, int):
        return np.int32(argument)
    return np.float32(argument) if isinstance(argument, float) else argument


def _mapped(boxed: Boxed, array: Array | None) -> Any:
    """Return the tensor map of an array in place of the one that was boxed; none, if it is None."""
    if array is None:
        return np.zeros(MAP_BYTES, np.uint8)
    return tensor_map(boxed._replace(array=array), int(array.data.ptr))


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
    return Problem(
        packed.dtype, packed.sparse, packed.shape, tiles.bricks, tiles.steps, n, packed.form,
        packed.every_column, packed.neighbours,
    )  # fmt: skip


def choose_config(
    packed: PackedMatrix, n: int, device: Device, *, column_major: bool = False,
    columns_out: bool = False,
) -> Choice:  # fmt: skip
    """Rank the kernels for a product of `packed` with `n` columns; remembered with the matrix.

    `column_major` says that X is, which most kernels have transposed first; `columns_out` that the
    result is to be.
    """
    key = (n, device)
    if key not in packed.memo:
        problem = problem_of(packed, n)
        packed.memo[key] = measured(choose(problem, device), problem, device)
    choice: Choice = packed.memo[key]
    if not (column_major or columns_out):
        return choice
    known = packed.memo.get((key, column_major, columns_out))
    if known is None or known[0] is not choice:  # it goes when the kernels are measured
        problem = problem_of(packed, n)
        known = choice, _in_order(choice, problem, device, column_major, columns_out)
        packed.memo[key, column_major, columns_out] = known
    ranked: Choice = known[1]
    return ranked


def problem_for(storage: TVWStorage, n: int) -> Problem | None:
    """Return the problem of a matrix that is not packed, and may lie anywhere.

    None where tensor cores have no products of its type.
    """
    form = form_of(storage.dtype)
    if form is None:
        return None
    sparse = form.keeps_pattern(storage.vector is not None)
    tiles = Tiles.of_storage(storage, step_slots(form.element))
    return Problem(
        storage.dtype, sparse, storage.shape, tiles.bricks, tiles.steps, n, form,
        keeps_every_column(storage, tiles), neighbours(index_lists(storage, tiles)[1]),
    )  # fmt: skip


def choose_for(
    storage: TVWStorage, n: int, device: Device, *, column_major: bool = False,
    columns_out: bool = False,
) -> Choice:  # fmt: skip
    """Rank the kernels for a matrix that is not packed, and may lie anywhere."""
    problem = problem_for(storage, n)
    orders = {"column_major": column_major, "columns_out": columns_out}
    return ranked(problem, device, **orders) if problem else Choice(())


def ranked(
    problem: Problem, device: Device, *, column_major: bool = False, columns_out: bool = False
) -> Choice:
    """Rank the kernels for a problem, as `choose_config` does for a packed matrix."""
    choice = measured(choose(problem, device), problem, device)
    return _in_order(choice, problem, device, column_major, columns_out)


def _in_order(
    choice: Choice, problem: Problem, device: Device, column_major: bool, columns_out: bool
) -> Choice:
    """Return the ranking for operands that are not in rows."""
    (rows, cols), dtype = problem.shape, problem.dtype
    if column_major:
        choice = choice.behind_transpose(
            predict_transpose(cols, problem.n, dtype.itemsize, device), problem.n
        )
    if columns_out:
        size = product_dtype(dtype, dtype).itemsize
        transpose = predict_transpose(rows, problem.n, size, device)
        choice = choice.into_columns(transpose, predict_columns(problem, size, device))
    return choice
