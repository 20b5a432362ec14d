"""Sparsity patterns: which entries of a matrix to keep, and the layout they make.

`TileVectorWise`, the pattern of the library [1]_, prunes twice::

    tile of 128 rows   ████████████████     1. rank the (column, tile) vectors of all tiles
                                               together, drop the weakest: s_tw = 2 s - 1
    kept columns       ██ ███  ██ █  ██     2. pack the kept columns and keep, in every row,
    2 of every 4       █. █.█  .█ .  ██        the two best of each four: s = 1 - (1 - s_tw) / 2

References
----------
.. [1] C. Guo et al., "Accelerating Sparse DNNs Based on Tiled GEMM", IEEE Trans. Computers, 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, Protocol

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._layout import Layout, make_layout
from tvwarray._namespace import Array
from tvwarray._storage import HostArray, check_header
from tvwarray.prune.scores import checked_scores

PatternName = Literal["tvw"]

_FINEST_STEP: Final = 0.005
"""Column counts are rounded to whole groups as long as one step changes the sparsity by no more."""


class Selection(NamedTuple):
    """What a pattern keeps of a matrix."""

    mask: HostArray
    """bool (rows, cols): the entries to keep."""
    layout: Layout
    """Where they go."""

    @property
    def sparsity(self) -> float:
        """The share of all entries that is pruned."""
        return 1.0 - float(np.count_nonzero(self.mask)) / max(1, self.mask.size)


class Pattern(Protocol):
    """A family of masks; `select` picks the best one at a sparsity."""

    def select(self, scores: HostArray, sparsity: float) -> Selection:
        """Keep the best ``1 - sparsity`` of all entries that the pattern allows."""
        ...


@dataclass(frozen=True)
class TileVectorWise:
    """Whole columns of tiles pruned first, then two of every four in each row (TVW-4).

    Parameters
    ----------
    tile_rows : int
        Rows of a tile, 16 to 1024. Fewer rows lose less of the score and multiply slower.
    """

    tile_rows: int = 128

    def select(self, scores: HostArray, sparsity: float) -> Selection:
        """Keep the best ``1 - sparsity`` of all entries that the pattern allows.

        Parameters
        ----------
        scores : array, shape (rows, cols)
            Finite and not negative.
        sparsity : float
            Share of all entries to prune, 0.5 to 1; met within half a point for matrices of
            256 x 256 and larger.

        Raises
        ------
        FormatError
            If the scores cannot be ranked or the sparsity is out of the pattern's range.
        """
        scores = checked_scores(scores)
        check_header(scores.shape, self.tile_rows, (2, 4))
        if not 0.5 <= sparsity <= 1:
            raise FormatError(
                f"sparsity is {sparsity}; tile-vector-wise pruning reaches 0.5 to 1, since 2:4 "
                "alone prunes half."
            )
        shape = (int(scores.shape[0]), int(scores.shape[1]))
        tiles = [
            np.arange(i, min(i + self.tile_rows, shape[0]), dtype=np.int32)
            for i in range(0, shape[0], self.tile_rows)
        ]
        columns = _best_columns(scores, tiles, keep=2 * (1 - sparsity))
        mask = np.zeros(shape, np.bool_)
        for rows, cols in zip(tiles, columns, strict=True):
            kept = _best_two_of_four(scores[rows[0] : rows[-1] + 1][:, cols])
            mask[rows[:, None], cols] = kept
        used = [i for i, cols in enumerate(columns) if cols.size]
        layout = make_layout(
            shape, self.tile_rows, (2, 4), [tiles[i] for i in used], [columns[i] for i in used]
        )
        return Selection(mask, layout)


def make_pattern(pattern: PatternName | Pattern, *, tile_rows: int = 128) -> Pattern:
    """Return the pattern of a name; a pattern is returned as it is.

    Raises
    ------
    FormatError
        If the name is not known.
    """
    if not isinstance(pattern, str):
        return pattern
    if pattern != "tvw":
        raise FormatError(f'pattern is {pattern!r}; it is "tvw" or an object with select(...).')
    return TileVectorWise(tile_rows)


def mask(
    scores: Array,
    sparsity: float,
    pattern: PatternName | Pattern = "tvw",
    *,
    tile_rows: int = 128,
) -> HostArray:
    """Return which entries `pattern` keeps, bool (rows, cols).

    Parameters
    ----------
    scores : array, shape (rows, cols)
        Finite and not negative, as `magnitude` returns them.
    sparsity : float
        Share of all entries to prune.
    pattern : "tvw" or Pattern
    tile_rows : int
        Rows of a tile, for a pattern given by name.
    """
    return make_pattern(pattern, tile_rows=tile_rows).select(checked_scores(scores), sparsity).mask


def _best_columns(scores: HostArray, tiles: list[HostArray], *, keep: float) -> list[HostArray]:
    """Return the columns each tile keeps, ascending, so that tiles cover `keep` of all entries."""
    cols = scores.shape[1]
    if not tiles or not cols:
        return [np.empty(0, np.int32) for _ in tiles]
    value = np.stack([scores[r[0] : r[-1] + 1].mean(axis=0, dtype=np.float64) for r in tiles])
    heights = np.array([r.size for r in tiles])
    counts = _column_counts(value, heights, keep * scores.size)
    ranked = np.argsort(-value, axis=1, kind="stable")
    return [np.sort(ranked[t, :count]).astype(np.int32) for t, count in enumerate(counts)]


def _column_counts(value: HostArray, heights: HostArray, budget: float) -> HostArray:
    """Return how many columns each tile keeps when all (column, tile) vectors compete.

    Counts are whole groups of 16 slots, of 4 where 16 would be too coarse a step, or all columns.
    """
    tiles, cols = value.shape
    order = np.argsort(-value, axis=None, kind="stable")
    covered = np.cumsum(heights[order // cols])
    chosen = order[: int(np.searchsorted(covered, budget * (1 + 1e-12), side="right"))]
    wanted = np.bincount(chosen // cols, minlength=tiles)

    step = 16 if 8 * heights.max() <= _FINEST_STEP * heights.sum() * cols else 4
    counts = wanted // step * step
    spare = budget - float((counts * heights).sum())
    # Largest remainder first; a step is taken when it brings the total nearer to the budget.
    for t in np.argsort(counts - wanted, kind="stable"):
        grown = min(int(counts[t]) + step, cols)
        cost = (grown - int(counts[t])) * float(heights[t])
        if cost and spare >= cost / 2:
            counts[t] = grown
            spare -= cost
    return counts


def _best_two_of_four(scores: HostArray) -> HostArray:
    """Return which entries are among the two best of their group of four; ties keep the first."""
    rows, cols = scores.shape
    padded = np.full((rows, -(-cols // 4) * 4), -1, np.result_type(scores.dtype, np.int8))
    padded[:, :cols] = scores
    a, b, c, d = (padded[:, p::4] for p in range(4))
    # An entry is kept if at most one of the others beats it; an equal one before it does.
    kept = np.empty_like(padded, np.bool_)
    kept[:, 0::4] = (b > a).view(np.int8) + (c > a) + (d > a) < 2
    kept[:, 1::4] = (a >= b).view(np.int8) + (c > b) + (d > b) < 2
    kept[:, 2::4] = (a >= c).view(np.int8) + (b >= c) + (d > c) < 2
    kept[:, 3::4] = (a >= d).view(np.int8) + (b >= d) + (c >= d) < 2
    return kept[:, :cols]
