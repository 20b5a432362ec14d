"""The launch interface: modules, memory, grids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from . import ops
from .arguments import check_geometry, dims, lay_out, pack
from .cluster import Cluster
from .decode import Code, decode
from .errors import LaunchError
from .launch import Geometry, Launch
from .memory import GlobalMemory
from .parse import parse
from .program import Module, Variable
from .report import Counters, Report
from .scheduler import Batch, run_together
from .warp import LANES, Array

__all__ = ["Interpreter", "Order"]

Order = Literal["forward", "reverse", "random"]

# Blocks run in lock-step: enough to share NumPy's overhead, few enough for the cache.
_BATCH = 64
# Bytes of registers, shared memory and shadow a batch may take.
_BATCH_BYTES = 512 << 20


class Interpreter:
    """Executes the kernels of one PTX module.

    Parameters
    ----------
    program : str or Module
        PTX text, or what `parse` made of it.
    order : {"forward", "reverse", "random"}
        Order in which warps run between barriers, and blocks in the grid. A correct kernel does
        not care.
    seed : int
        For ``order="random"``.
    check_races : bool
        Keep the race shadows of shared and global memory. Without them uninitialised shared memory
        reads as zero.
    max_steps : int
        Instructions (counted once for a warp position of a batch of blocks) after which a launch
        is given up as a `Livelock`.
    batch : int
        Most blocks that run in lock-step.

    Attributes
    ----------
    memory : GlobalMemory
        Device memory: ``to_device``, ``to_host``, ``free``.
    """

    def __init__(
        self,
        program: str | Module,
        order: Order = "forward",
        seed: int = 0,
        check_races: bool = True,
        *,
        max_steps: int = 50_000_000,
        batch: int = _BATCH,
    ) -> None:
        if order not in ("forward", "reverse", "random"):
            raise LaunchError(f"order is forward, reverse or random, not {order!r}")
        self.module = parse(program) if isinstance(program, str) else program
        self.order, self.check_races = order, check_races
        self.max_steps, self.batch = max_steps, batch
        self.random = np.random.default_rng(seed)
        self.memory = GlobalMemory()
        self._symbols: dict[str, tuple[str, int]] = {}
        for variable in self.module.variables:
            if variable.space in ("global", "const"):
                self._symbols[variable.name] = (variable.space, self._place(variable))

    def _place(self, variable: Variable) -> int:
        data = variable.data or b""
        found = self.memory.allocate(variable.size or len(data), variable.name)
        found.data[: len(data)] = np.frombuffer(data, np.uint8)
        found.constant = variable.space == "const"
        return found.base

    def prepare(self, name: str) -> Code:
        """Decode a kernel; `launch` does it by itself.

        It is done once for a module, however many interpreters run it.
        """
        key = (name, tuple(self._symbols.items()))
        if key not in self.module.prepared:
            if name not in self.module.kernels:
                have = ", ".join(self.module.kernels)
                raise LaunchError(f"no kernel {name}; the module has {have}")
            kernel = self.module.kernels[name]
            symbols, static = lay_out(kernel, self.module.variables)
            self.module.prepared[key] = decode(kernel, self._symbols | symbols, static)
        return self.module.prepared[key]

    def symbol(self, name: str) -> int:
        """Device address of a module-level ``.global`` or ``.const`` variable."""
        return self._symbols[name][1]

    def launch(
        self,
        kernel_name: str,
        grid: int | Sequence[int],
        block: int | Sequence[int],
        args: Sequence[Any],
        shared_bytes: int = 0,
    ) -> Report:
        """Run a kernel over its grid.

        Parameters
        ----------
        kernel_name : str
        grid, block : int or sequence of up to three ints
        args : sequence
            For each parameter: a NumPy array (becomes a global buffer of exactly its bytes, copied
            back after the launch, also after a failed one), an int (also an address from
            ``memory.to_device``), a float, a NumPy scalar, or bytes for a struct by value.
        shared_bytes : int
            Dynamic shared memory.

        Returns
        -------
        Report

        Raises
        ------
        PtxError
            One of its subclasses for each misuse, saying where it happened.
        """
        code = self.prepare(kernel_name)
        geometry = Geometry(dims(grid), dims(block), code.static + shared_bytes, shared_bytes)
        check_geometry(code.kernel, geometry)
        buffers: list[tuple[Array, int]] = []
        params = pack(code.kernel, args, self.memory, buffers)
        self.memory.start_launch(self.check_races, not code.fences)
        counters = Counters([0] * len(code.ops))
        try:
            for numbers in self._batches(geometry, code):
                cluster = Cluster(code.kernel.cluster)
                launches = [
                    Launch(
                        geometry,
                        self.memory,
                        params,
                        some,
                        code.grain if self.check_races else 0,
                        counters,
                        cluster,
                    )
                    for some in (np.split(numbers, cluster.size) if cluster.size > 1 else [numbers])
                ]
                with np.errstate(all="ignore"):
                    run_together(
                        [Batch(code, one, self._turns, self.max_steps) for one in launches]
                    )
        finally:
            for array, address in buffers:
                if array.flags.writeable:
                    array[...] = self.memory.to_host(address, array.shape, array.dtype)
                self.memory.free(address)
        executed: Counter[str] = Counter()
        for instruction, count in zip(code.kernel.code, counters.executed, strict=True):
            if count:
                executed[instruction.mnemonic] += count
        return Report(
            kernel_name,
            executed,
            tuple(counters.conflicts[pc] for pc in sorted(counters.conflicts)),
            geometry.shared_bytes,
            geometry.blocks,
            geometry.threads,
        )

    def _turns(self, count: int) -> Sequence[int]:
        if self.order == "random":
            return [int(i) for i in self.random.permutation(count)]
        return range(count) if self.order == "forward" else range(count - 1, -1, -1)

    def _batches(self, geometry: Geometry, code: Code) -> list[Array]:
        """Block numbers, batch by batch; those of a cluster are one."""
        if (together := code.kernel.cluster) > 1:
            first = np.arange(0, geometry.blocks, together)
            order = self._turns(len(first))
            return [first[i] + np.arange(together) for i in order]
        numbers = np.arange(geometry.blocks, dtype=np.int64)
        if self.order == "reverse":
            numbers = numbers[::-1].copy()
        elif self.order == "random":
            numbers = self.random.permutation(numbers)
        bytes_each = geometry.shared_bytes + len(code.kernel.registers) * geometry.warps * LANES * 4
        if self.check_races:
            # A writer word and a reader word for each warp, four bytes each.
            bytes_each += geometry.shared_bytes // code.grain * 4 * (geometry.warps + 1)
        size = max(1, min(self.batch, _BATCH_BYTES // max(1, bytes_each)))
        if code.single:
            size = 1
        return [numbers[i : i + size] for i in range(0, len(numbers), size)]


assert ops.__all__  # importing the instructions is what registers them
