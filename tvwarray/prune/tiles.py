"""Tiles of several layers: which columns each keeps, and which rows stand together.

A tile ranks its columns by worth and offers them in chunks of whole groups; the chunks of all tiles
of all layers compete (`budget`)::

    tile 0   c7 c2 c9 c0 | c4 c1 .. | ..        a chunk is worth the mean of its columns, so that
    tile 1   c3 c8 c5 c7 | c2 ..    | ..        counts are whole groups and nothing is rounded

Rows are grouped by turns: columns are ranked given the tiles, then rows change places between tiles
given the columns (`_layouts.exchange`), so that each stands where its scores are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

from tvwarray._layouts.exchange import exchange_rows, kept_sums, whole_scores
from tvwarray._layouts.find import Layout, make_layout
from tvwarray._layouts.permute import permute_slots
from tvwarray._storage import HostArray, Vector
from tvwarray.prune.blocks import n_of_m
from tvwarray.prune.budget import Regions, choose
from tvwarray.prune.selection import TOLERANCE, Contest, Selection, count_entries, floors_of
from tvwarray.prune.vectors import best_of_group

_ROUNDS: Final = 10
"""How often columns and rows take turns; what more would gain is below 0.1 %."""

CountRange = tuple[float, float] | None
"""The fewest and the most columns of a tile, in units of the mean count of its layer."""


class Layer(NamedTuple):
    """A layer whose tiles are to be chosen."""

    scores: HostArray
    """(rows, cols)"""
    kept: HostArray | None
    """bool (rows, cols): what element-wise pruning keeps, for `Contest.classes`"""
    tiles: list[HostArray]
    """int32: the rows of each tile, ascending"""


@dataclass(frozen=True)
class Share:
    """How many entries tiles keep in all, and how the tiles of a layer share them."""

    entries: float
    floors: Sequence[float]
    nm: tuple[int, int] = (1, 1)
    """Of every m columns of a tile a row keeps n."""
    steps: tuple[int, ...] = (16, 4, 1)
    """Column counts are multiples of the first that is fine enough for the budget to be met."""
    count_range: CountRange = None

    @staticmethod
    def of(
        layers: Sequence[HostArray],
        keep: float,
        contest: Contest,
        *,
        nm: tuple[int, int] = (1, 1),
        count_range: CountRange = None,
    ) -> Share:
        """Return the share of tiles that keep `keep` of all entries."""
        # A group of 2:4 is four slots whatever it holds.
        steps = (16, 4) if nm == (2, 4) else (16, 4, 1)
        entries = keep * count_entries(layers)
        return Share(entries, floors_of(layers, keep, contest), nm, steps, count_range)

    def row_entries(self, counts: HostArray) -> HostArray:
        """Return how many entries a row keeps of so many columns."""
        n, m = self.nm
        if self.nm == (2, 4):
            kept: HostArray = 2 * (counts // 4) + np.minimum(counts % 4, 2)
        else:
            kept = -(-n * counts // m)
        return kept


def consecutive(rows: HostArray, tile_rows: int) -> list[HostArray]:
    """Return tiles of `tile_rows` rows each, in order."""
    rows = rows.astype(np.int32)
    return [rows[i : i + tile_rows] for i in range(0, rows.size, tile_rows)]


def choose_columns(
    layers: Sequence[Layer], share: Share, contest: Contest
) -> list[list[HostArray]]:
    """Return the columns each tile of each layer keeps, int32, ascending."""
    offers = [_Offer.of(layer, contest) for layer in layers]
    counts = _counts(offers, share)
    return [
        [np.sort(ranked[:k]).astype(np.int32) for ranked, k in zip(o.order, c, strict=True)]
        for o, c in zip(offers, counts, strict=True)
    ]


def group_rows(layers: Sequence[Layer], share: Share, contest: Contest) -> list[Layer]:
    """Return layers whose rows stand in the tiles that keep most of their scores.

    Tiles keep their heights. Where nothing is gained, layers are returned as they are.
    """
    natural = list(layers)
    columns = choose_columns(natural, share, contest)
    pairs = list(zip(natural, columns, strict=True))
    if all(c.size == layer.scores.shape[1] for layer, kept in pairs for c in kept):
        return natural
    least = _covered(natural, columns)
    grouped = [_by_total(layer) for layer in natural]
    whole = [whole_scores(layer.scores) for layer in natural]
    for _ in contest.steps(range(_ROUNDS)):
        columns = choose_columns(grouped, share, contest)
        moved = [_exchanged(*given) for given in zip(grouped, whole, columns, strict=True)]
        still = all(m is g for m, g in zip(moved, grouped, strict=True))
        grouped = moved
        if still:
            break
    gained = _covered(grouped, choose_columns(grouped, share, contest)) > least
    return grouped if gained else natural


def _by_total(layer: Layer) -> Layer:
    """Return the layer with rows of like totals in a tile: where exchanges begin.

    Tiles of strong and of weak rows differ most in what they can drop.
    """
    if not layer.tiles:
        return layer
    rows = np.concatenate(layer.tiles)
    totals = layer.scores[rows].sum(axis=1, dtype=np.float64)
    rows = rows[np.argsort(-totals, kind="stable")]
    ends = np.cumsum([r.size for r in layer.tiles])[:-1]
    return layer._replace(tiles=[np.sort(r) for r in np.split(rows, ends)])


def _exchanged(layer: Layer, whole: HostArray, columns: list[HostArray]) -> Layer:
    """Return the layer after rows changed places between tiles that keep these columns."""
    if len(layer.tiles) < 2:
        return layer
    rows = np.concatenate(layer.tiles)
    tile_of = np.repeat(np.arange(len(layer.tiles)), [r.size for r in layer.tiles])
    moved = exchange_rows(kept_sums(whole, rows, columns), tile_of)
    if np.array_equal(moved, tile_of):
        return layer
    tiles = [np.sort(rows[moved == t]) for t in range(len(layer.tiles))]
    return layer._replace(tiles=tiles)


def _covered(layers: Sequence[Layer], columns: list[list[HostArray]]) -> float:
    """Return the sum of the scores that tiles cover."""
    return sum(
        float(layer.scores[rows[:, None], cols].sum(dtype=np.float64))
        for layer, kept in zip(layers, columns, strict=True)
        for rows, cols in zip(layer.tiles, kept, strict=True)
    )


def tile_selection(
    layer: Layer,
    columns: list[HostArray],
    tile_rows: int,
    *,
    nm: tuple[int, int] | None = None,
    permute: bool = False,
    contest: Contest,
) -> Selection:
    """Return the mask and the layout of tiles that keep these columns, `nm` of them if not None.

    Slots are permuted for 2:4 if wanted; other n:m have no layout of their own.
    """
    scores, tiles = layer.scores, layer.tiles
    mask = np.zeros(scores.shape, np.bool_)
    used = [t for t, cols in enumerate(columns) if cols.size and tiles[t].size]
    slots = []
    for t in contest.steps(used) if permute else used:
        rows, cols = tiles[t][:, None], columns[t]
        if nm is None:
            mask[rows, cols] = True
        elif permute and nm == (2, 4):
            cols = _permuted(scores[rows, cols], cols)
            held = cols >= 0
            kept = best_of_group(np.where(held, scores[rows, cols], 0), 2, 4)
            mask[rows, cols[held]] = (kept & held)[:, held]
        else:
            best = best_of_group if nm == (2, 4) else n_of_m
            mask[rows, cols] = best(scores[rows, cols], *nm)
        slots.append(cols)
    if nm not in (None, (2, 4)):
        return Selection(mask, None)
    vector: Vector = None if nm is None else (2, 4)
    shape = (int(scores.shape[0]), int(scores.shape[1]))
    layout: Layout = make_layout(shape, tile_rows, vector, [tiles[t] for t in used], slots)
    return Selection(mask, layout)


def _permuted(scores: HostArray, columns: HostArray) -> HostArray:
    """Return the slots of a tile, groups of four that 2:4 loses least in; -1 is padding."""
    if columns.size % 4 == 1:
        # Spread padding would let a row keep one entry more; the weakest column stays alone.
        alone = int(np.argmin(scores.sum(axis=0, dtype=np.float64)))
        others = np.delete(np.arange(columns.size), alone)
        order = np.append(others[permute_slots(scores[:, others])], alone)
    else:
        order = permute_slots(scores)
    slots: HostArray = np.where(order < 0, np.int32(-1), columns[order])
    return slots


@dataclass(frozen=True)
class _Offer:
    """The columns of a layer's tiles, ranked."""

    heights: HostArray
    """(tiles,)"""
    order: HostArray
    """(tiles, cols): columns, the best first"""
    worth: HostArray
    """(tiles, cols), in this order"""
    classes: HostArray
    """int8 (tiles, cols), in this order"""

    @staticmethod
    def of(layer: Layer, contest: Contest) -> _Offer:
        heights = np.array([r.size for r in layer.tiles], np.int64)
        sums = _sums(contest.prepared(layer.scores), layer.tiles)
        worth = contest.worth(sums, heights[:, None])
        classes = np.zeros(worth.shape, np.int8)
        if layer.kept is not None:
            classes = contest.classes(_sums(layer.kept, layer.tiles) / heights[:, None])
        order = np.lexsort((-worth, -classes), axis=1)
        return _Offer(
            heights,
            order,
            np.take_along_axis(worth, order, axis=1),
            np.take_along_axis(classes, order, axis=1),
        )

    @property
    def entries(self) -> int:
        """How many entries the tiles have."""
        return int(self.heights.sum() * self.worth.shape[1])

    def kept(self, counts: HostArray, share: Share) -> float:
        """Return how many entries tiles of so many columns keep."""
        return float((share.row_entries(counts) * self.heights).sum())

    def chunks(self, step: int, share: Share) -> Regions:
        """Return chunks of `step` columns: the first of every tile, then the second, ..."""
        cols = self.worth.shape[1]
        starts = np.arange(0, cols, step)
        if not self.worth.size:
            return Regions(np.empty(0), np.empty(0), np.empty(0, np.int8))
        ends = np.minimum(starts + step, cols)
        worth = np.add.reduceat(self.worth, starts, axis=1) / (ends - starts)
        cost = self.heights[:, None] * (share.row_entries(ends) - share.row_entries(starts))
        return Regions(worth.T.ravel(), cost.T.ravel(), self.classes[:, starts].T.ravel())

    def counts(self, chosen: HostArray, step: int) -> HostArray:
        """Return the columns of each tile, from its chunks that were chosen."""
        tiles, cols = self.worth.shape
        if not tiles:
            return np.empty(0, np.int64)
        chunks = chosen.reshape(-1, tiles).sum(axis=0)
        counts: HostArray = np.minimum(chunks * step, cols)
        return counts

    def evened(self, counts: HostArray, step: int, share: Share) -> HostArray:
        """Return counts in range, in units of their mean, of which as many entries are kept."""
        regions = self.chunks(step, share)
        if share.count_range is None or not counts.any():
            return counts
        limits = np.array(share.count_range) * float((counts * self.heights).sum())
        low, high = limits / self.heights.sum() / step
        place = np.arange(regions.worth.size) // self.heights.size  # chunks before a chunk
        classes = np.where(place < np.ceil(low), 2, regions.classes).astype(np.int8)
        inside = place < max(np.floor(high), np.ceil(low), 1)
        chosen = np.zeros(place.size, np.bool_)
        budget = self.kept(counts, share)
        fitting = Regions(regions.worth[inside], regions.cost[inside], classes[inside])
        chosen[inside] = choose([fitting], budget, [0.0])[0]
        return self.counts(chosen, step)


def _counts(offers: Sequence[_Offer], share: Share) -> list[HostArray]:
    """Return the columns of each tile of each layer."""
    coarsest = share.steps.index(_step(offers, share))
    for step in share.steps[coarsest:]:
        chosen = choose([o.chunks(step, share) for o in offers], share.entries, share.floors)
        counts = [o.counts(c, step) for o, c in zip(offers, chosen, strict=True)]
        if share.count_range is None:
            break
        counts = [o.evened(c, step, share) for o, c in zip(offers, counts, strict=True)]
        kept = sum(o.kept(c, share) for o, c in zip(offers, counts, strict=True))
        # Few multiples of a coarse step lie in range: of a mean of 20 columns only 16, say.
        if abs(kept - share.entries) <= TOLERANCE * sum(o.entries for o in offers):
            break
    return counts


def _step(offers: Sequence[_Offer], share: Share) -> int:
    """Return the coarsest step of columns that keeps no more than the tolerance of all entries."""
    tallest = max((int(o.heights.max(initial=0)) for o in offers), default=0)
    entries = sum(o.entries for o in offers)
    fine = [
        s for s in share.steps if s * tallest * share.nm[0] / share.nm[1] <= TOLERANCE * entries
    ]
    return fine[0] if fine else share.steps[-1]


def _sums(x: HostArray, tiles: Sequence[HostArray]) -> HostArray:
    """Return the sum of each column over the rows of each tile, float64 (tiles, cols)."""
    sums = np.zeros((len(tiles), x.shape[1]))
    for t, rows in enumerate(tiles):
        straight = rows.size and rows[-1] - rows[0] == rows.size - 1
        block = x[rows[0] : rows[-1] + 1] if straight else x[rows]
        block.sum(axis=0, dtype=np.float64, out=sums[t])
    return sums
