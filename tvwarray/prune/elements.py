"""Patterns without tiles: entries, vectors and blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._storage import HostArray
from tvwarray.prune import blocks
from tvwarray.prune.base import RankedPattern, check_nm, check_range
from tvwarray.prune.budget import choose, choose_elements
from tvwarray.prune.selection import TOLERANCE, Contest, Selection, count_entries, floors_of
from tvwarray.prune.vectors import best_of_group, runner_up


@dataclass(frozen=True)
class ElementWise(RankedPattern):
    """Single entries (EW): the most a mask can keep, and the least a machine can use."""

    def check_sparsity(self, sparsity: float) -> None:
        """Refuse what is no share."""
        check_range(sparsity, 0, "element-wise pruning")

    def select_all(
        self, layers: Sequence[HostArray], sparsity: float, contest: Contest
    ) -> list[Selection]:
        """Keep the best entries of all layers."""
        entries = count_entries(layers)
        budget = round((1 - sparsity) * entries)
        masks = choose_elements(layers, budget, floors_of(layers, 1 - sparsity, contest))
        return [Selection(mask, None) for mask in masks]


@dataclass(frozen=True)
class VectorWise(RankedPattern):
    """The best of every `m` consecutive entries of a row (VW).

    Parameters
    ----------
    n : int or None
        How many are kept. None keeps as many as the sparsity asks for: where that is no whole
        number, the groups with the best next entry keep one more than the others.
    m : int
        2 to 1024. ``VectorWise(2, 4)`` is what sparse tensor cores multiply.
    """

    n: int | None = None
    m: int = 4

    def __post_init__(self) -> None:
        check_nm(self.n, self.m)

    def check_sparsity(self, sparsity: float) -> None:
        """Refuse all but ``1 - n / m``, if there is an `n`."""
        check_range(sparsity, 0, "vector-wise pruning")
        if self.n is not None and abs(1 - self.n / self.m - sparsity) > TOLERANCE:
            raise FormatError(
                f"sparsity is {sparsity}; {self.n}:{self.m} reaches {1 - self.n / self.m:.6g} and "
                "nothing else.\nPass n=None for other sparsities."
            )

    def select_all(
        self, layers: Sequence[HostArray], sparsity: float, contest: Contest
    ) -> list[Selection]:
        """Keep as many of every group, or nearly as many, whatever the layer."""
        if self.n is not None:
            return [Selection(blocks.n_of_m(s, self.n, self.m), None) for s in layers]
        masks = [np.zeros(s.shape, np.bool_) for s in layers]
        pieces = [p for s, mask in zip(layers, masks, strict=True) for p in self._pieces(s, mask)]
        least = [math.floor(m * (1 - sparsity) + 1e-9) for _, _, m in pieces]
        for (scores, mask, m), n in zip(pieces, least, strict=True):
            mask[:] = best_of_group(scores, n, m)
        missing = round((1 - sparsity) * count_entries(layers))
        missing -= sum(int(np.count_nonzero(mask)) for mask in masks)
        following = [runner_up(s, n, m) for (s, _, m), n in zip(pieces, least, strict=True)]
        shares = floors_of([s for s, _, _ in pieces], 1 - sparsity, contest)
        floors = [0.0 if n else share for n, share in zip(least, shares, strict=True)]
        extra = choose_elements([values for _, values in following], missing, floors)
        for (_, mask, _), (columns, _), more in zip(pieces, following, extra, strict=True):
            rows, groups = np.nonzero(more & (columns >= 0))
            mask[rows, columns[rows, groups]] = True
        return [Selection(mask, None) for mask in masks]

    def _pieces(self, scores: HostArray, mask: HostArray) -> list[tuple[HostArray, HostArray, int]]:
        """Return the whole groups, and those at the end that are shorter, with their lengths."""
        whole, rest = scores.shape[1] // self.m * self.m, scores.shape[1] % self.m
        pieces = [(scores[:, :whole], mask[:, :whole], self.m)] if whole else []
        return pieces + ([(scores[:, whole:], mask[:, whole:], rest)] if rest else [])


@dataclass(frozen=True)
class BlockWise(RankedPattern):
    """Whole blocks (BW), ranked over all layers.

    Parameters
    ----------
    shape : int or (int, int)
        Rows and columns of a block; those at the edges are what is left. Sparsity is met to half a
        block.
    """

    shape: int | tuple[int, int] = 32

    def __post_init__(self) -> None:
        if not all(isinstance(n, int) and n >= 1 for n in self._shape):
            raise FormatError(f"shape is {self.shape!r}; a block has at least one row and column.")

    @property
    def _shape(self) -> tuple[int, int]:
        return (self.shape, self.shape) if isinstance(self.shape, int) else self.shape

    def check_sparsity(self, sparsity: float) -> None:
        """Refuse what is no share."""
        check_range(sparsity, 0, "block-wise pruning")

    def select_all(
        self, layers: Sequence[HostArray], sparsity: float, contest: Contest
    ) -> list[Selection]:
        """Keep the best blocks of all layers."""
        chosen = choose(
            [
                blocks.block_regions(s, contest.kept_of(i), self._shape, contest)
                for i, s in enumerate(layers)
            ],
            (1 - sparsity) * count_entries(layers),
            floors_of(layers, 1 - sparsity, contest),
        )
        return [
            Selection(blocks.block_mask(c, s.shape, self._shape), None)
            for c, s in zip(chosen, layers, strict=True)
        ]


@dataclass(frozen=True)
class VNM(RankedPattern):
    """Of every `m` columns of `v` rows four, and `n` of these in each row (V:N:M).

    Parameters
    ----------
    v : int
        Rows of a block.
    n : int
        1 to 4; sparse tensor cores multiply 2.
    m : int or None
        4 or more. None takes the one that the sparsity asks for, ``n / (1 - sparsity)``.
    """

    v: int = 128
    n: int = 2
    m: int | None = None

    def __post_init__(self) -> None:
        if not (isinstance(self.v, int) and self.v >= 1):
            raise FormatError(f"v is {self.v!r}; a block has at least one row.")
        if not (isinstance(self.n, int) and 1 <= self.n <= 4):
            raise FormatError(f"n is {self.n!r}; 1 to 4 of four columns are kept.")
        if self.m is not None and not (isinstance(self.m, int) and self.m >= 4):
            raise FormatError(f"m is {self.m!r}; four columns are taken of m, so it is 4 or more.")

    def check_sparsity(self, sparsity: float) -> None:
        """Refuse all but ``1 - n / m``."""
        check_range(sparsity, 1 - self.n / 4, "V:N:M pruning")
        m = self._m(sparsity)
        if sparsity == 1 and self.m is None:
            return
        if abs(1 - self.n / m - sparsity) > TOLERANCE:
            near = [m] if self.m else sorted({max(4, m - 1), m, m + 1})
            reached = ", ".join(f"{1 - self.n / x:.4g} (m = {x})" for x in near)
            raise FormatError(f"sparsity is {sparsity}; V:{self.n}:M reaches {reached}.")

    def _m(self, sparsity: float) -> int:
        return self.m or max(4, round(self.n / max(1 - sparsity, 1e-6)))

    def select_all(
        self, layers: Sequence[HostArray], sparsity: float, contest: Contest
    ) -> list[Selection]:
        """Keep as many columns of every block, whatever the layer."""
        if sparsity == 1:
            return [Selection(np.zeros(s.shape, np.bool_), None) for s in layers]
        m = self._m(sparsity)
        return [Selection(blocks.vnm(s, self.v, self.n, m), None) for s in layers]
