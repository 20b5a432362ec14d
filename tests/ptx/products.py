"""``wgmma`` of one warp: products under way, groups, and who owns which registers until when.

A product is computed when it starts, from what shared memory holds then; its accumulators cannot be
used, and its operands not overwritten, until the warp has waited for its group. Registers that
other instructions wrote must pass a ``wgmma.fence`` before a product touches them.

Blocks run one at a time where there is wgmma, so that a register belongs to a product or does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NoReturn

from .errors import AccumulatorInUse, BarrierMisuse, DivergentCollective
from .shared import SharedMemory
from .warp import Array, Warp

__all__ = ["Product", "Products"]


class InUse:
    """What a register holds while a product owns it: using it is an error."""

    __slots__ = ("register",)

    def __init__(self, register: int) -> None:
        self.register = register

    def __getattr__(self, _: str) -> NoReturn:
        raise AccumulatorInUse(
            "a register is used which belongs to a wgmma that has not been waited for"
        )


@dataclass(slots=True)
class Product:
    """One ``wgmma.mma_async``."""

    sums: tuple[int, ...]
    inputs: list[tuple[int, Any]]
    chunks: list[Array]


class Products:
    """Products of one warp.

    Parameters
    ----------
    shared : SharedMemory
    warp : Warp
    """

    def __init__(self, shared: SharedMemory, warp: Warp) -> None:
        self.shared, self.warp = shared, warp
        self.open: list[Product] = []
        self.groups: list[list[Product]] = []
        # Sums under way, by their registers: the marker each register holds, and the values.
        self.values: dict[tuple[int, ...], tuple[InUse, Array]] = {}
        self.fenced: list[Any] | None = None
        # Registers that came back from complete products after the last fence: who has them now
        # may have used them.
        self.loose: set[int] = set()
        # What the warp has started, to be compared within its warpgroup.
        self.history = 0

    def fence(self) -> None:
        """``wgmma.fence``: products may use what registers hold now."""
        self.fenced = list(self.warp.regs)
        self.loose.clear()

    def check_fence(self, registers: tuple[int, ...]) -> None:
        """Refuse to overwrite registers that somebody may have used since the last fence."""
        if self.fenced is None or not self.loose.isdisjoint(registers):
            raise AccumulatorInUse("a wgmma overwrites registers with no wgmma.fence before it")

    def check_registers(self, registers: list[int], what: str) -> None:
        """Refuse registers that were written after the last fence."""
        for index in registers:
            now = self.warp.regs[index]
            if self.fenced is None or self.fenced[index] is not now:
                raise AccumulatorInUse(
                    f"{what} of a wgmma were written with no wgmma.fence after it"
                )

    def sums_of(self, sums: tuple[int, ...]) -> Array | None:
        """Values of sums under way in exactly these registers; None if none are under way."""
        found = self.values.get(sums)
        if found is not None:
            if any(self.warp.regs[i] is not found[0] for i in sums):
                raise AccumulatorInUse("accumulators were written while a wgmma was under way")
            return found[1]
        for others in self.values:
            if not set(others).isdisjoint(sums):
                raise AccumulatorInUse("a wgmma of another shape uses accumulators under way")
        return None

    def start(self, product: Product, values: Array, name: int) -> None:
        """Register a product; `name` says which instruction and operands it was."""
        held = self.values.get(product.sums)
        marker = held[0] if held is not None else InUse(product.sums[0])
        self.values[product.sums] = (marker, values)
        for index in product.sums:
            self.warp.regs[index] = marker
        self.open.append(product)
        self.history = hash((self.history, name))

    def commit(self) -> None:
        """``wgmma.commit_group``."""
        self.groups.append(self.open)
        self.open = []

    def wait(self, newest: int) -> list[tuple[tuple[int, ...], Array]]:
        """``wgmma.wait_group``: complete all but the `newest` groups.

        Returns
        -------
        list of (registers, values)
            Sums that no product owns any more.
        """
        done = self.groups[: len(self.groups) - newest] if newest else self.groups
        self.groups = self.groups[len(done) :]
        shadow = self.shared.shadow
        for product in (p for group in done for p in group):
            for index, held in product.inputs:
                if self.warp.regs[index] is not held:
                    raise AccumulatorInUse(
                        "a register which a wgmma under way reads was written before the wait"
                    )
            if shadow is not None:
                for chunks in product.chunks:
                    shadow.end_async_read(self.warp, chunks)
        left = {p.sums for group in [*self.groups, self.open] for p in group}
        out = []
        for sums in [s for s in self.values if s not in left]:
            marker, values = self.values.pop(sums)
            if any(self.warp.regs[i] is not marker for i in sums):
                raise AccumulatorInUse("accumulators were written while a wgmma was under way")
            out.append((sums, values))
        return out

    def returned(self, registers: tuple[int, ...]) -> None:
        """These registers hold the results of complete products: no fence is needed for them."""
        self.loose.update(registers)
        if self.fenced is not None:
            for index in registers:
                self.fenced[index] = self.warp.regs[index]

    def finish(self, leader: Warp) -> None:
        """The warp has left the kernel; `leader` is the first warp of its warpgroup."""
        if self.open or self.groups:
            raise BarrierMisuse("a warp has ended with a wgmma that nobody waited for")
        if self.history != leader.products.history:
            raise DivergentCollective(
                "the warps of a warpgroup have started different wgmma, or with other descriptors"
            )
