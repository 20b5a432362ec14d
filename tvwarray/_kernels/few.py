"""What ``sm80_tvw_few`` is told of the work: pieces of long tiles, and blocks that are all alike.

A block finds out what it computes from its entry of the work list: a trip to memory before any
other can start. Of tiles of equal height and length, which follow each other in the packed matrix,
it needs none: what differs from block to block is a multiple of its number.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple, Protocol

import numpy as np

from tvwarray._kernels.config import BRICK_ROWS, FEW_PIECE_STEPS, FewConfig
from tvwarray._kernels.tiles import Tiles

HostArray = np.ndarray[Any, Any]


class Sized(Protocol):
    """Tiles by their sizes: `Tiles`, or the problem that they are."""

    @property
    def bricks(self) -> HostArray:
        """int64 (tiles,): 16-row bricks of each tile in height."""
        ...

    @property
    def steps(self) -> HostArray:
        """int64 (tiles,): steps of each tile."""
        ...


class Alike(NamedTuple):
    """Blocks that arithmetic knows: struct Alike of ``sm80_tvw_few.cu``."""

    first: int
    number: int
    bricks: int
    steps: int
    brick: int
    slots: int
    rows: int


def most_steps(tiles: Sized, config: FewConfig, multiprocessors: int) -> int:
    """Return of how many steps a block may be at most, or 0 if no tile is to be cut."""
    cuts = -(-tiles.bricks // (config.block_rows // BRICK_ROWS))
    total = int((cuts * tiles.steps).sum())
    limit = max(FEW_PIECE_STEPS, -(-total // (multiprocessors * config.min_blocks)))
    return limit if int(tiles.steps.max(initial=0)) > 2 * limit else 0


def alike(tiles: Tiles, block_rows: int, limit: int) -> Alike:
    """Return the blocks of the largest run of equal tiles; none of them is a piece."""
    last = tiles.source.size - 1  # the rows that are zero
    size = np.stack([tiles.bricks[:last], tiles.steps[:last]])
    ends = np.flatnonzero(np.any(size[:, 1:] != size[:, :-1], axis=0)) + 1
    start, stop = max(pairwise([0, *map(int, ends), last]), key=lambda run: run[1] - run[0])
    steps = int(tiles.steps[start]) if stop > start else 0
    if steps == 0 or (limit and steps > limit):
        return Alike(0, 0, 1, 0, 0, 0, 0)
    blocks = tiles.blocks(block_rows, limit)
    (first,) = np.flatnonzero((blocks[:, 0] == tiles.first_brick[start]) & (blocks[:, 3] > 0))
    bricks = int(tiles.bricks[start])
    cuts = -(-bricks // (block_rows // BRICK_ROWS))
    return Alike(
        int(first), (stop - start) * cuts, bricks, steps, int(tiles.first_brick[start]),
        int(tiles.first_slot[start]), int(tiles.first_row[start]),
    )  # fmt: skip
