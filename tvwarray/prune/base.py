"""What every pattern has in common: `select`, and regions that compete across layers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._namespace import Array
from tvwarray._storage import DEFAULT_TILE_ROWS, HostArray, check_header
from tvwarray.prune.scores import checked_scores
from tvwarray.prune.selection import Contest, Selection


class Pattern(Protocol):
    """A family of masks; `select` picks the best one at a sparsity."""

    def select(self, scores: HostArray, sparsity: float) -> Selection:
        """Keep the best ``1 - sparsity`` of all entries that the pattern allows."""
        ...


class RankedPattern(ABC):
    """A pattern whose regions compete across layers."""

    @abstractmethod
    def check_sparsity(self, sparsity: float) -> None:
        """Refuse a sparsity that the pattern does not reach.

        Raises
        ------
        FormatError
            That says which ones it reaches.
        """

    @abstractmethod
    def select_all(
        self, layers: Sequence[HostArray], sparsity: float, contest: Contest
    ) -> list[Selection]:
        """Keep the best ``1 - sparsity`` of all layers together.

        Parameters
        ----------
        layers : sequence of arrays, each of shape (rows, cols)
            Scores that have been checked.
        sparsity : float
            That `check_sparsity` lets pass.
        contest : Contest
            How regions compete.
        """

    def select(self, scores: Array, sparsity: float) -> Selection:
        """Keep the best ``1 - sparsity`` of all entries that the pattern allows.

        Parameters
        ----------
        scores : array, shape (rows, cols)
            Finite and not negative.
        sparsity : float
            Share of all entries to prune; met within half a point for matrices of 256 x 256 and
            larger.

        Raises
        ------
        FormatError
            If the scores cannot be ranked or the pattern does not reach the sparsity.
        """
        return select_checked(self, [checked_scores(scores)], sparsity, Contest())[0]


def select_checked(
    pattern: RankedPattern, layers: Sequence[HostArray], sparsity: float, contest: Contest
) -> list[Selection]:
    """Return what a pattern selects, if it reaches the sparsity and the layers can be stored."""
    pattern.check_sparsity(sparsity)
    for scores in layers:
        check_header(scores.shape, DEFAULT_TILE_ROWS, None)
    return pattern.select_all(_in_range(layers), sparsity, contest)


def _in_range(layers: Sequence[HostArray]) -> Sequence[HostArray]:
    """Return scores on a scale on which sums and squares do not overflow; ranks are the same."""
    largest = max((float(s.max(initial=0)) for s in layers), default=0.0)
    if largest < 2.0**40:
        return layers
    scale = -int(np.frexp(largest)[1])
    return [np.ldexp(s.astype(np.float64), scale) for s in layers]


def check_range(sparsity: float, least: float, what: str, why: str = "") -> None:
    """Refuse a sparsity outside of `least` to 1."""
    if not least <= sparsity <= 1:
        raise FormatError(f"sparsity is {sparsity}; {what} reaches {least:.4g} to 1{why}.")


def check_nm(n: int | None, m: int) -> None:
    """Refuse what is no n:m."""
    if not (isinstance(m, int) and 2 <= m <= 1024):
        raise FormatError(f"m is {m!r}; it is an integer from 2 to 1024.")
    if n is not None and not (isinstance(n, int) and 1 <= n <= m):
        raise FormatError(f"n is {n!r}; 1 to {m} of every {m} entries are kept.")
