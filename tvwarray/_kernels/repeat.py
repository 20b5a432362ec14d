"""Launches that are started again: a product like one before needs no planning, only addresses.

What a launch depends on beside the addresses of X and the result - their types, shapes, strides
and alignment, and the stream - is its key in the packed matrix.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, NamedTuple, Protocol

import numpy as np

from tvwarray._kernels.compile import CompiledKernel
from tvwarray._kernels.hopper.tensor_map import Boxed
from tvwarray._kernels.launch import Launcher, Result, Scratch
from tvwarray._kernels.streams import capturing, settled
from tvwarray._kernels.transpose import copy_to
from tvwarray._namespace import Array, array_namespace, device_of

CHUNK: Final = 16
"""Bytes that a copy moves: what addresses and row lengths of X are multiples of."""

MOST_LAUNCHES: Final = 64
"""Of one matrix, kept to be started again."""


class Packed(Protocol):
    """A matrix in some kernel's order, with what is remembered of its products."""

    @property
    def values(self) -> Array:
        """Its values, on their device."""
        ...

    @property
    def memo(self) -> dict[Any, Any]:
        """Launches and scratch memory, among other things."""
        ...


@dataclass(frozen=True, eq=False)
class Launch:
    """A product ready to be started: all that a kernel is passed."""

    kernel: CompiledKernel
    grid: int
    args: tuple[Any, ...]
    borrowed: bool = False
    """Whether memory beside the operands is the caller's workspace."""

    def first(
        self, launcher: Launcher, packed: Packed, read: Array, written: Array,
        x: Array, out: Array, key: Hashable | None,
    ) -> Array:  # fmt: skip
        """Start it, deliver the result, and keep it if nothing was copied on the way."""
        launcher.launch(self.kernel, self.grid, self.args, x)
        scratch = any(isinstance(a, Scratch) for a in self.args)
        if (
            capturing(x) and not self.borrowed
        ):  # a graph reads and writes copies of operands whenever it is replayed
            packed.memo.setdefault("captured", []).append((self.args, written))
        if written is not out:
            copy_to(launcher, written, out)
        elif read is x and key is not None and not (scratch and self.borrowed):
            if sum(isinstance(kept, Repeated) for kept in packed.memo.values()) >= MOST_LAUNCHES:
                forget_launches(packed)
            read_at, written_at = self._places(x, out)
            args = list(self.args)
            # X and Y are not kept alive.
            read_arg = args[read_at]
            args[read_at] = read_arg._replace(array=None) if isinstance(read_arg, Boxed) else None
            args[written_at] = Result(None)
            start = launcher.bound(self.kernel, self.grid, args, x)
            kind: Any = type(out)
            empty = partial(kind, out.shape, out.dtype)  # half of what empty() takes
            packed.memo[key] = Repeated(start, empty, read_at, written_at, scratch)
        return out

    def _places(self, x: Array, out: Array) -> tuple[int, int]:
        """Return which arguments are X and the result."""
        (read,) = (
            i for i, a in enumerate(self.args)
            if a is x or (isinstance(a, Boxed) and a.array is x)
        )  # fmt: skip
        (written,) = (
            i for i, a in enumerate(self.args) if isinstance(a, Result) and a.array is out
        )
        return read, written


class Repeated(NamedTuple):
    """A `Launch` to be started with other arrays of the same shapes and strides."""

    launch: Callable[[Mapping[int, Array]], None]
    empty: Callable[[], Array]
    """Makes a result, on the current device."""
    read: int
    """Which argument is X."""
    written: int
    """And which the result."""
    uses_scratch: bool
    """Whether it writes to memory that is kept with the matrix."""

    def start(self, x: Array, out: Array | None) -> Array:
        """Run the product of `x`, on the current device."""
        if out is None:
            out = self.empty()
        self.launch({self.read: x, self.written: out})
        return out


def forget_launches(packed: Packed) -> None:
    """Let the next product of every shape be planned anew."""
    for key in [k for k, kept in packed.memo.items() if isinstance(kept, Repeated)]:
        packed.memo.pop(key, None)


def place_of(launcher: Launcher, x: Array | None) -> tuple[Any, ...]:
    """Return what a kernel's arguments depend on of an array, beside its address."""
    if x is None:
        return (None,)
    return x.dtype, x.shape, x.strides, launcher.address(x) % CHUNK == 0


def scratch(launcher: Launcher, packed: Packed, x: Array, dtype: Any, size: int) -> Scratch:
    """Return at least `size` elements of a matrix's own for one stream: kernels leave them zero.

    Products of one stream follow each other, so they may share; nothing is allocated twice.
    Sizes are powers of two, and none goes before the matrix does: a captured graph may write
    there.
    """
    room = 1 << max(size - 1, 0).bit_length()
    key = ("scratch", launcher.stream(x), np.dtype(dtype), room)
    if key not in packed.memo:
        xp = array_namespace(packed.values)
        with settled(x):
            packed.memo[key] = xp.zeros(room, dtype=dtype, device=device_of(x))
    return Scratch(packed.memo[key][:size])


def overlap(a: Array, b: Array) -> bool:
    """Say whether two arrays may share memory."""
    if isinstance(a, np.ndarray):
        return bool(np.may_share_memory(a, b))
    return bool(a.data.mem.ptr == b.data.mem.ptr)
