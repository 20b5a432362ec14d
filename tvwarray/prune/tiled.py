"""Patterns made of tiles, which keep columns of their own."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._storage import DEFAULT_TILE_ROWS, HostArray, check_header
from tvwarray.prune import blocks
from tvwarray.prune.base import RankedPattern, check_nm, check_range
from tvwarray.prune.budget import choose, choose_elements
from tvwarray.prune.selection import Contest, Selection, count_entries, floors_of
from tvwarray.prune.tiles import (
    CountRange,
    Layer,
    Share,
    choose_columns,
    consecutive,
    group_rows,
    tile_selection,
)


@dataclass(frozen=True)
class TileWise(RankedPattern):
    """Whole rows, then whole columns of tiles of the rows that are left (TW).

    Parameters
    ----------
    tile_rows : int
        Rows of a tile, 16 to 1024.
    rows_too : bool
        Drop rows and then columns (TW-2D), each ``1 - sqrt(1 - sparsity)`` of them, or columns
        alone (TW-1D).
    group_rows : bool
        Put rows into the tiles that keep most of them, instead of consecutive ones.
    count_range : (float, float), optional
        The fewest and the most columns of a tile, in units of the mean count of its layer.
    """

    tile_rows: int = DEFAULT_TILE_ROWS
    rows_too: bool = True
    group_rows: bool = True
    count_range: CountRange = None

    def __post_init__(self) -> None:
        _check_tiles(self.tile_rows, self.count_range)

    def check_sparsity(self, sparsity: float) -> None:
        """Refuse what is no share."""
        check_range(sparsity, 0, "tile-wise pruning")

    def select_all(
        self, layers: Sequence[HostArray], sparsity: float, contest: Contest
    ) -> list[Selection]:
        """Keep the best rows of all layers, and then the best columns of all tiles."""
        keep = 1 - sparsity
        alive = [np.arange(s.shape[0]) for s in layers]
        if self.rows_too:
            chosen = choose(
                [blocks.row_regions(s, contest.kept_of(i), contest) for i, s in enumerate(layers)],
                math.sqrt(keep) * count_entries(layers),
                floors_of(layers, math.sqrt(keep), contest),
            )
            alive = [np.flatnonzero(c) for c in chosen]
        share = Share.of(layers, keep, contest, count_range=self.count_range)
        tiled, columns = _tiles(layers, alive, self.tile_rows, share, self.group_rows, contest)
        return [
            tile_selection(layer, cols, self.tile_rows, contest=contest)
            for layer, cols in zip(tiled, columns, strict=True)
        ]


@dataclass(frozen=True)
class TileElementWise(RankedPattern):
    """`TileWise` at a higher sparsity, and the best of the entries it dropped (TEW).

    Parameters
    ----------
    tile_rows : int
        Rows of a tile, 16 to 1024.
    delta : float
        Share of all entries that are kept for themselves, usually 0.01 to 0.05; where less than
        that is kept at all, tiles are empty.
    rows_too, group_rows, count_range
        See `TileWise`.
    """

    tile_rows: int = DEFAULT_TILE_ROWS
    delta: float = 0.05
    rows_too: bool = True
    group_rows: bool = True
    count_range: CountRange = None

    def __post_init__(self) -> None:
        _check_tiles(self.tile_rows, self.count_range)
        if not 0 <= self.delta <= 1:
            raise FormatError(f"delta is {self.delta}; it is a share of all entries, 0 to 1.")

    def check_sparsity(self, sparsity: float) -> None:
        """Refuse what is no share."""
        check_range(sparsity, 0, "tile-element-wise pruning")

    def select_all(
        self, layers: Sequence[HostArray], sparsity: float, contest: Contest
    ) -> list[Selection]:
        """Keep tiles, and then single entries of all layers."""
        tile_wise = TileWise(self.tile_rows, self.rows_too, self.group_rows, self.count_range)
        held = tile_wise.select_all(layers, min(1.0, sparsity + self.delta), contest)
        kept = [int(np.count_nonzero(h.mask)) for h in held]
        missing = round((1 - sparsity) * count_entries(layers)) - sum(kept)
        floors = floors_of(layers, 1 - sparsity, contest)
        short = [max(0.0, f - k) for f, k in zip(floors, kept, strict=True)]
        # Raised by one, so that a dropped entry of score 0 goes before what is kept already.
        dropped = [np.where(h.mask, 0, s + 1.0) for h, s in zip(held, layers, strict=True)]
        extra = choose_elements(dropped, missing, short)
        return [Selection(h.mask | e, h.layout) for h, e in zip(held, extra, strict=True)]


@dataclass(frozen=True)
class TileVectorWise(RankedPattern):
    """Whole columns of tiles, then `n` of every `m` of the kept ones in each row (TVW).

    Parameters
    ----------
    tile_rows : int
        Rows of a tile, 16 to 1024. Fewer rows lose less of the score and multiply slower.
    n, m : int
        2 of 4 are what sparse tensor cores multiply (TVW-4). With another `m`, `n` may be None:
        tiles and vectors then prune about ``1 - sqrt(1 - sparsity)`` each (TVW-16).
    permute : bool
        Search for each tile which kept columns share a group, so that 2:4 loses least.
    group_rows, count_range
        See `TileWise`.

    Notes
    -----
    Permuted slots cost nothing at run time: tiles gather their columns in any case. Grouped rows
    make ``x @ A.T`` slower on the CPU where tiles are many (docs/pruning.md has the figures). Both
    are layouts of 2:4; other n:m have natural order.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> scores = np.random.default_rng(0).random((256, 512))
    >>> chosen = prune.TileVectorWise(tile_rows=64).select(scores, 0.75)
    >>> float(1 - chosen.mask.mean())
    0.75
    """

    tile_rows: int = DEFAULT_TILE_ROWS
    n: int | None = 2
    m: int = 4
    permute: bool = True
    group_rows: bool = True
    count_range: CountRange = None

    def __post_init__(self) -> None:
        _check_tiles(self.tile_rows, self.count_range)
        check_nm(self.n, self.m)

    def check_sparsity(self, sparsity: float) -> None:
        """Refuse what the vectors alone exceed."""
        least = 0 if self.n is None else 1 - self.n / self.m
        why = f", since {self.n}:{self.m} alone prunes {least:.4g}" if least else ""
        check_range(sparsity, least, "tile-vector-wise pruning", why)

    def select_all(
        self, layers: Sequence[HostArray], sparsity: float, contest: Contest
    ) -> list[Selection]:
        """Keep the best columns of all tiles, and the best of every group of them."""
        n, two_four = self._n(sparsity), (self.n, self.m) == (2, 4)
        share = Share.of(
            layers, 1 - sparsity, contest, nm=(n, self.m), count_range=self.count_range
        )
        alive = [np.arange(s.shape[0]) for s in layers]
        grouped = self.group_rows and two_four
        # 2:4 keeps the larger half of what a tile covers, so larger scores count for more: with a
        # power of 1.5 masks keep about 0.1 % more. Plain patterns rank as they are published.
        ranked = _emphasised(layers) if grouped else layers
        tiled, columns = _tiles(ranked, alive, self.tile_rows, share, grouped, contest)
        return [
            tile_selection(
                layer._replace(scores=scores),
                cols,
                self.tile_rows,
                nm=(n, self.m),
                permute=self.permute,
                contest=contest,
            )
            for layer, scores, cols in zip(tiled, layers, columns, strict=True)
        ]

    def _n(self, sparsity: float) -> int:
        if self.n is not None:
            return self.n
        least = math.ceil(self.m * (1 - sparsity) - 1e-9)
        return min(self.m, max(1, least, round(self.m * math.sqrt(1 - sparsity))))


def _tiles(
    layers: Sequence[HostArray],
    alive: Sequence[HostArray],
    tile_rows: int,
    share: Share,
    grouped: bool,
    contest: Contest,
) -> tuple[list[Layer], list[list[HostArray]]]:
    """Return the tiles of each layer and the columns they keep."""
    tiled = [
        Layer(s, contest.kept_of(i), consecutive(rows, tile_rows))
        for i, (s, rows) in enumerate(zip(layers, alive, strict=True))
    ]
    if grouped:
        tiled = group_rows(tiled, share, contest)
    return tiled, choose_columns(tiled, share, contest)


def _emphasised(layers: Sequence[HostArray]) -> list[HostArray]:
    """Return scores to the power 1.5, on a scale of their own."""
    largest = max((float(s.max(initial=0)) for s in layers), default=0.0) or 1.0
    scaled = (s / largest for s in layers)
    return [s * np.sqrt(s) for s in scaled]


def _check_tiles(tile_rows: int, count_range: CountRange) -> None:
    check_header((0, 0), tile_rows, None)
    if count_range is None:
        return
    if not (len(count_range) == 2 and 0 <= count_range[0] <= 1 <= count_range[1]):
        raise FormatError(
            f"count_range is {count_range!r}; it is the fewest and the most columns of a tile in "
            "units of the mean, such as (0.5, 1.5): the first 0 to 1, the second at least 1."
        )
