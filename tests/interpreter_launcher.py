"""A `Launcher` that executes the shipped PTX without a GPU, for NumPy arrays.

Arrays become device buffers of exactly the bytes they own, so that one access too far is an error;
the output starts uninitialised, and every one of its elements must have been written.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import numpy as np
from ptx import Interpreter, Report, TensorMap, parse

from tvwarray._kernels.compile import CompiledKernel
from tvwarray._kernels.devices import SHARED_LIMITS, Device, generation
from tvwarray._kernels.hopper.tensor_map import Boxed
from tvwarray._kernels.launch import Result, Scratch


class UnwrittenError(Exception):
    """The kernel has left elements of its output as they were."""


class InterpreterLauncher:
    """Runs kernels in the interpreter, as on a device of `architecture` with few multiprocessors.

    Parameters
    ----------
    architecture : str
        What the kernels are compiled for.
    order : {"forward", "reverse", "random"}
        Order of warps between barriers, and of blocks.
    seed : int
    check_races : bool
    """

    name = "interpreter"

    def __init__(
        self,
        architecture: str = "90",
        order: Any = "forward",
        seed: int = 0,
        check_races: bool = True,
        multiprocessors: int = 8,
    ) -> None:
        self.architecture, self.order, self.seed = architecture, order, seed
        self.check_races, self.multiprocessors = check_races, multiprocessors
        self.reports: list[Report] = []
        self.kernels: list[CompiledKernel] = []

    def refusal(self, *arrays: Any) -> str:
        for x in arrays:
            if not isinstance(x, np.ndarray):
                return f"the interpreter needs NumPy arrays, got {type(x).__module__} arrays"
        return ""

    def device(self, like: Any) -> Device:
        per_block, per_multiprocessor = SHARED_LIMITS[generation(self.architecture)]
        # So small a cache that X is cut into strips.
        return Device(
            self.architecture, self.multiprocessors, per_block, per_multiprocessor, 3 << 16
        )

    def using(self, like: Any) -> AbstractContextManager[None]:
        return nullcontext()

    def address(self, x: Any) -> int:
        return offset_in(owner(x), x)

    def stream(self, like: Any) -> int:
        return 0

    def bound(self, kernel: CompiledKernel, grid: int, args: Sequence[Any], like: Any) -> Any:
        def start(changed: Any) -> None:
            now = list(args)
            for i, x in changed.items():
                if isinstance(args[i], Boxed):
                    now[i] = args[i]._replace(array=x)
                else:
                    now[i] = Result(x) if isinstance(args[i], Result) else x
            self.launch(kernel, grid, now, None)  # `like` would stay alive

        return start

    def launch(self, kernel: CompiledKernel, grid: int, args: Sequence[Any], like: Any) -> None:
        machine = Interpreter(
            _module(kernel.ptx), order=self.order, seed=self.seed, check_races=self.check_races
        )
        memory, passed = machine.memory, []
        buffers: dict[int, int] = {}
        for i, arg in enumerate(args):
            if arg is None or isinstance(arg, int | float | np.generic):
                passed.append(0 if arg is None else arg)
                continue
            array = arg.array if isinstance(arg, Result | Scratch | Boxed) else arg
            whole = owner(array)
            at = buffers[i] = memory.to_device(
                whole.view(np.uint8),
                initialised=(not isinstance(arg, Result) and array.dtype.kind != "f")
                or not isinstance(arg, Result | Scratch),
                name=f"argument {i}",
            )
            start = at + offset_in(whole, array)
            passed.append(_map(arg, start) if isinstance(arg, Boxed) else start)
        report = machine.launch(
            kernel.name, grid, kernel.config.threads, passed, kernel.config.shared_bytes
        )
        self.reports.append(report)
        self.kernels.append(kernel)
        for i, arg in enumerate(args):
            if isinstance(arg, Scratch) and arg.array.dtype == np.uint32:
                start, size = offset_in(owner(arg.array), arg.array), arg.array.nbytes
                counters = memory.find(buffers[i], size).data[start : start + size]
                assert not counters.any(), "a counter is left as it was"
        at, y = next((i, a.array) for i, a in enumerate(args) if isinstance(a, Result))
        whole = owner(y)
        found = memory.find(buffers[at], whole.nbytes)
        written = np.ndarray(y.shape, np.bool_, found.initialised, offset_in(whole, y), y.strides)
        # Two bytes an element; both are written together.
        if not written.all():
            *_, row, column = (int(i[0]) for i in np.nonzero(~written))
            raise UnwrittenError(f"row {row}, column {column} of the output was never written")
        outside = found.initialised[: whole.nbytes].sum() - y.nbytes
        if outside:
            raise UnwrittenError(f"{outside} bytes beside the output were written")
        y[...] = np.ndarray(y.shape, y.dtype, found.data, offset_in(whole, y), y.strides)

    def seconds(self, run: Any, *, like: Any, repeats: int) -> float:
        """Count the instructions of a launch: one is a nanosecond."""
        del like, repeats
        run()
        return 1e-9 * self.reports[-1].count("")


def _map(boxed: Boxed, address: int) -> bytes:
    """Return the interpreter's own map of X."""
    rows, columns = boxed.array.shape
    return TensorMap(address, columns, rows, boxed.pitch, 64, 64, 2).encode()


@cache
def _module(ptx: str) -> Any:
    return parse(ptx)


def owner(x: Any) -> Any:
    """Return the array that owns the memory of `x`, flat."""
    while isinstance(x.base, np.ndarray):
        x = x.base
    return x.ravel(order="K")  # a view, also of column-major arrays


def offset_in(whole: Any, x: Any) -> int:
    """Return how many bytes into `whole` the first element of `x` lies."""
    return int(x.__array_interface__["data"][0] - whole.__array_interface__["data"][0])
