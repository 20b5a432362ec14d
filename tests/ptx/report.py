"""What a launch counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

__all__ = ["Conflicts", "Counters", "Report"]


@dataclass(slots=True)
class Conflicts:
    """Bank conflicts of one instruction.

    Attributes
    ----------
    line, mnemonic
        Which instruction.
    accesses : int
        Phases: groups of threads which the hardware serves together.
    degree : int
        Most wavefronts a phase took; 1 is conflict-free.
    extra : int
        Wavefronts beyond one a phase, in all.
    """

    line: int
    mnemonic: str
    accesses: int = 0
    degree: int = 0
    extra: int = 0

    def add(self, phases: int, degree: int, extra: int) -> None:
        self.accesses += phases
        self.degree = max(self.degree, degree)
        self.extra += extra


@dataclass(slots=True)
class Counters:
    """Counts of a launch across its batches: executions by instruction, steps of warp slots."""

    executed: list[int]
    conflicts: dict[int, Conflicts] = field(default_factory=dict)
    steps: int = 0


@dataclass(frozen=True)
class Report:
    """What a launch did.

    Attributes
    ----------
    kernel : str
    instructions : Counter of str
        Instructions executed, counted once a warp, by full mnemonic.
    conflicts : tuple of Conflicts
        One for each shared-memory instruction that was executed.
    shared_bytes : int
        Static and dynamic shared memory of a block.
    blocks, threads : int
        Blocks of the grid and threads of a block.
    """

    kernel: str
    instructions: Counter[str]
    conflicts: tuple[Conflicts, ...]
    shared_bytes: int
    blocks: int
    threads: int

    def count(self, prefix: str) -> int:
        """Executed instructions whose mnemonic starts with `prefix`, e.g. ``"mma.sp"``."""
        return sum(n for name, n in self.instructions.items() if name.startswith(prefix))

    def worst_conflict(self, prefix: str = "") -> int:
        """Worst bank-conflict degree among instructions that start with `prefix`; 1 is none."""
        return max((c.degree for c in self.conflicts if c.mnemonic.startswith(prefix)), default=1)

    def extra_wavefronts(self, prefix: str = "") -> int:
        """Wavefronts lost to bank conflicts by instructions that start with `prefix`."""
        return sum(c.extra for c in self.conflicts if c.mnemonic.startswith(prefix))
