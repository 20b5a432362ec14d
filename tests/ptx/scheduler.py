"""Runs one batch of blocks to the end: warps in turn, divergent threads, barriers, deadlocks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from .decode import Code
from .errors import DivergentCollective, Livelock, PtxError
from .launch import Launch
from .warp import LANES, Warp

__all__ = ["Batch", "run_together"]

# Steps after which a fragment gives way: a spin loop must not starve the one it waits for.
_SLICE = 10_000


class Batch:
    """The warps of a batch of blocks.

    Parameters
    ----------
    code : Code
    launch : Launch
    turns : callable
        The order in which warps run, drawn anew for each round between barriers.
    max_steps : int
        Steps of warp slots after which the launch is given up.
    """

    def __init__(
        self, code: Code, launch: Launch, turns: Callable[[int], Sequence[int]], max_steps: int
    ) -> None:
        self.code, self.launch, self.turns, self.max_steps = code, launch, turns, max_steps
        self.warps = [Warp(launch, i, code.registers) for i in range(launch.geometry.warps)]

        self.events = 0
        launch.cluster.warps.append(self.warps)

    def advance(self) -> None:
        """Let every warp go as far as it can."""
        self.events = self.launch.mbarriers.events
        for number in self.turns(len(self.warps)):
            self._run_warp(self.warps[number])

    @property
    def done(self) -> bool:
        """Whether all threads have left."""
        return all(warp.done for warp in self.warps)

    def settle(self) -> tuple[bool, bool]:
        """Complete barriers and copies: whether anything moved, and whether threads poll."""
        moved = self.launch.barriers.resolve(self.warps)
        moved |= self.launch.bulk.land() or self.launch.mbarriers.events != self.events
        polls = False
        for warp in self.warps:
            parked, warp.parked = warp.parked, {}
            for pc, mask in parked.items():
                warp.add(pc, mask)
                moved |= pc not in warp.polling
                polls = True
            warp.polling.clear()
        return moved, polls

    def _run_warp(self, warp: Warp) -> None:
        try:
            self._steps(warp)
        except PtxError as error:
            self._locate(error, warp)
            raise

    def _steps(self, warp: Warp) -> None:
        """Run until every thread of the slot waits, has left, or has given way."""
        ops, executed = self.code.ops, self.launch.counters.executed
        blocks, end = warp.blocks, len(ops)
        left = _SLICE
        while warp.ready:
            pc = min(warp.ready)
            mask = warp.ready.pop(pc)
            if pc >= end:
                warp.retire(mask)
                continue
            # This fragment is the only one below `limit`; there it may meet another.
            limit = min(warp.ready, default=end)
            weight = blocks if mask is None else _warps_in(mask)
            while True:
                warp.pc = pc
                outcome = ops[pc](warp, mask)
                executed[pc] += weight
                left -= 1
                if outcome is None:
                    pc += 1
                elif outcome >= 0:
                    pc = outcome
                else:
                    break
                if pc >= limit or left <= 0:
                    warp.add(pc, mask)
                    break
            if left <= 0 and warp.ready:
                lowest = min(warp.ready)
                warp.park(lowest, warp.ready.pop(lowest))
                self._count(_SLICE)
                left = _SLICE
        self._count(_SLICE - left)

    def _count(self, steps: int) -> None:
        counters = self.launch.counters
        counters.steps += steps
        if counters.steps > self.max_steps:
            raise Livelock(
                f"{counters.steps} steps and no end: threads wait for something that never comes"
            )

    def stuck(self) -> PtxError:
        """Why nothing can move any more."""
        for warp in self.warps:
            # Where threads are missing that poll, nothing is wrong with the collective.
            for pc, mask in () if warp.ready else warp.stalled.items():
                warp.pc = pc
                divergent = DivergentCollective(
                    "some threads of the warp never reach this instruction",
                    lane=int(np.flatnonzero(mask)[0]),
                )
                self._locate(divergent, warp)
                return divergent
        polling = next((w for w in self.warps if w.ready), None)
        if polling is not None:
            polling.pc = min(polling.ready)
            mask = polling.as_bools(polling.ready[polling.pc])
            error = self.launch.mbarriers.deadlock(int(np.flatnonzero(mask)[0]))
            self._locate(error, polling)
            return error
        error = self.launch.barriers.deadlock(self.warps)
        waiting = next(w for w in self.warps if w.waiting)
        waiting.pc = waiting.waiting[0].resume - 1
        self._locate(error, waiting)
        return error

    def _locate(self, error: PtxError, warp: Warp) -> None:
        """Say where: kernel, line, instruction, block and thread."""
        kernel = self.code.kernel
        instruction = kernel.code[min(warp.pc, len(kernel.code) - 1)]
        where = (
            f"{kernel.name}, line {instruction.line}: {instruction.mnemonic}; warp {warp.number}"
        )
        if error.lane is not None:
            number = int(self.launch.block_numbers[error.lane // LANES])
            x, y, _ = self.launch.geometry.grid
            block = (number % x, number // x % y, number // (x * y))
            where += f", block {block}, thread {int(warp.thread[error.lane])}"
        error.where = where


def run_together(batches: Sequence[Batch]) -> None:
    """Run batches to the end, round after round; more than one are the blocks of a cluster."""
    left = list(batches)
    idle = 0  # rounds in which threads only polled, and nothing happened
    while left:
        for i in left[0].turns(len(left)) if len(left) > 1 else (0,):
            left[i].advance()
        ended = [batch for batch in left if batch.done]
        for batch in ended:
            batch.launch.finish(batch.warps)
        left = [batch for batch in left if batch not in ended]
        settled = [batch.settle() for batch in left]
        moved = bool(ended) or any(m for m, _ in settled)
        idle = 0 if moved else idle + 1
        # Who polls for the first time has run up to there, which may have been progress.
        if not moved and (not any(p for _, p in settled) or idle > 1):
            raise left[0].stuck()


def _warps_in(mask: npt.NDArray[np.bool_]) -> int:
    return int(np.count_nonzero(mask.reshape(-1, LANES).any(axis=1)))
