"""The patterns that compete, and how each is ranked.

A contestant is a pattern with everything that decides its masks. All get the same scores, stages
and fine-tuning. Where a peer ranks layer by layer (n:m and V:N:M cannot do otherwise), the other
patterns run per layer as well, so that like stands beside like.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tvwarray.prune import (
    VNM,
    BlockWise,
    ElementWise,
    Selection,
    TileElementWise,
    TileVectorWise,
    TileWise,
    VectorWise,
)
from tvwarray.prune.patterns import Pattern

TILE_ROWS = 64


STAGES = (0.5, 0.75, 0.875, 0.9375)


class Contestant(NamedTuple):
    name: str
    pattern: Pattern
    ranking: dict[str, Any]
    stages: tuple[float, ...] = STAGES
    regrow: bool = True


class Everything:
    """Nothing is pruned: what the training of the stages does by itself."""

    def select(self, scores: np.ndarray, sparsity: float) -> Selection:
        return Selection(np.ones(scores.shape, np.bool_), None)


def _tvw(tile_rows: int = TILE_ROWS, *, permute: bool, group_rows: bool, **more: Any) -> Pattern:
    return TileVectorWise(tile_rows, permute=permute, group_rows=group_rows, **more)


PATTERNS: dict[str, Pattern] = {
    "EW": ElementWise(),
    "TEW": TileElementWise(TILE_ROWS, delta=0.05, group_rows=False),
    "TEW grouped": TileElementWise(TILE_ROWS, delta=0.05),
    "TVW both": _tvw(permute=True, group_rows=True),
    "TVW both, 128 rows": _tvw(128, permute=True, group_rows=True),
    "TVW both, counts 0.5-1.5": _tvw(permute=True, group_rows=True, count_range=(0.5, 1.5)),
    "TVW grouped": _tvw(permute=False, group_rows=True),
    "TVW permuted": _tvw(permute=True, group_rows=False),
    "TVW": _tvw(permute=False, group_rows=False),
    "TW-1D": TileWise(TILE_ROWS, rows_too=False, group_rows=False),
    "TW-2D": TileWise(TILE_ROWS, rows_too=True, group_rows=False),
    "TW grouped": TileWise(TILE_ROWS, rows_too=False),
    "BW 32": BlockWise(32),
    "VW": VectorWise(None, 16),
    "V:N:M 128": VNM(128, 2, None),
    "not pruned": Everything(),
}

PER_LAYER_ONLY = frozenset({"VW", "V:N:M 128", "not pruned"})
"""Each row, or each block of rows, keeps a fixed share: there is nothing to rank across layers."""

ALSO_PER_LAYER = ("EW", "TEW", "TVW both", "TVW permuted", "TVW", "TW-1D", "TW-2D", "BW 32")


def contestants() -> list[Contestant]:
    """Return all of them, those that need most time first."""
    across = [Contestant(n, p, {"scope": _scope(n)}) for n, p in PATTERNS.items()]
    within = [Contestant(f"{n}, layer", PATTERNS[n], {"scope": "layer"}) for n in ALSO_PER_LAYER]
    return sorted([*across, *within], key=lambda c: "both" not in c.name)


def floors() -> list[Contestant]:
    """Return contestants with the floor of a layer and without it, up to a higher sparsity."""
    return [
        Contestant(f"{n}, floor {f:g}", PATTERNS[n], {"floor": f}, (*STAGES, 0.96875))
        for n in ("EW", "TVW both", "TVW", "TW-2D", "BW 32")
        for f in (0.25, 0.0)
    ]


def ablations() -> list[Contestant]:
    """Return what might explain a result: the floor, the first stage, frozen masks, tile rows."""
    names = ("TVW both", "EW", "TVW", "TVW permuted")
    return [
        *(Contestant(n, PATTERNS[n], {}) for n in names),
        *(Contestant(f"{n}, no floor", PATTERNS[n], {"floor": 0.0}) for n in names),
        *(Contestant(f"{n}, from 75 %", PATTERNS[n], {}, STAGES[1:]) for n in names),
        *(Contestant(f"{n}, frozen", PATTERNS[n], {}, regrow=False) for n in names[:3]),
        Contestant("TVW both, 32 rows", _tvw(32, permute=True, group_rows=True), {}),
    ]


SETS = {
    "text": ("text", contestants),
    "images": ("images", floors),
    "ablations": ("text", ablations),
}
"""The parts of the study: the task of each and who takes part."""


def _scope(name: str) -> str:
    return "layer" if name in PER_LAYER_ONLY else "global"
