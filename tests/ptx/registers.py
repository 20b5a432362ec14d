"""``setmaxnreg``: how the registers of a multiprocessor move between warpgroups."""

from __future__ import annotations

from .errors import BarrierMisuse, InvalidOperand

__all__ = ["RegisterPool"]

_REGISTERS = 65536
_GROUP = 4


class RegisterPool:
    """Registers of each warp of one block, which has the multiprocessor for itself.

    What one warp gives up is all that another can get: registers that the launch has not taken for
    the block stay out of reach.

    Parameters
    ----------
    warps : int
        Warps of the block. Each starts with an even share, in steps of 8, of at most 255.
    """

    def __init__(self, warps: int) -> None:
        share = min(255, _REGISTERS // (warps * 32) // 8 * 8)
        self.held = [share] * warps
        self.free = 0
        # What each warpgroup has asked for so far, and how much of that each warp has done.
        self.asked: dict[int, list[tuple[str, int]]] = {}
        self.done = [0] * warps

    def ask(self, warp: int, action: str, count: int) -> bool:
        """One warp executes ``setmaxnreg.inc`` or ``.dec``; False if it must wait for registers."""
        if not 24 <= count <= 256 or count % 8:
            raise InvalidOperand(f"setmaxnreg takes a multiple of 8 from 24 to 256, not {count}")
        held = self.held[warp]
        if (count < held) if action == "inc" else (count > held):
            raise InvalidOperand(f"setmaxnreg.{action} {count} of a warp that has {held} registers")
        if (count - held) * 32 > self.free:
            return False
        asked = self.asked.setdefault(warp // _GROUP, [])
        if self.done[warp] == len(asked):
            asked.append((action, count))
        if asked[self.done[warp]] != (action, count):
            raise BarrierMisuse(
                f"warp {warp} asks for {count} registers where its warpgroup asked for "
                f"{asked[self.done[warp]][1]}"
            )
        self.done[warp] += 1
        self.free -= (count - held) * 32
        self.held[warp] = count
        return True
