"""What a pattern is asked for and what it answers: `Contest` in, `Selection` out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple, get_args

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._layouts.find import Layout
from tvwarray._namespace import Array, to_host
from tvwarray._storage import HostArray

DEFAULT_FLOOR: Final = 0.25

TOLERANCE: Final = 0.005
"""Realised sparsity is this near to the one asked for, where a layer is 256 x 256 or larger."""

Normalization = Literal["mean", "sqrt", "none"]
"""What a region is worth: the mean of its scores, their root mean square, or their sum.

The first two do not depend on how long a region is. The sum does: of two regions alike the longer
is kept.
"""

Progress = Callable[[Sequence[Any]], Iterable[Any]]
"""Takes the pieces of a long work and yields them, as ``tqdm.tqdm`` does."""


class Selection(NamedTuple):
    """What a pattern keeps of a matrix."""

    mask: HostArray
    """bool (rows, cols): the entries to keep."""
    layout: Layout | None
    """Where they go. What has no place there is kept beside the tiles; None leaves the layout to
    the lossless conversion of the mask."""

    @property
    def sparsity(self) -> float:
        """The share of all entries that is pruned."""
        return 1.0 - float(np.count_nonzero(self.mask)) / max(1, self.mask.size)


class Apriori(NamedTuple):
    """Regions whose fate is known before they are ranked; `tvwarray.prune.apriori` makes it."""

    kept: dict[str, HostArray]
    """bool (rows, cols) for each layer: what element-wise pruning keeps."""
    empty: float
    """A region of which it keeps no larger share than this is ranked last."""
    dense: float
    """A region of which it keeps this share, or a larger one, is ranked first."""


@dataclass(frozen=True)
class Contest:
    """How regions of several layers compete; layers are in the order of the scores."""

    floor: float = DEFAULT_FLOOR
    """Every layer keeps at least this share of what it would keep if all kept alike, and at
    least one region if the share is not zero."""
    normalize: Normalization = "mean"
    kept: Sequence[HostArray] | None = None
    """What element-wise pruning keeps of each layer, for `Apriori`."""
    empty: float = 0.0
    dense: float = 1.0
    progress: Progress | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.floor <= 1:
            raise FormatError(
                f"floor is {self.floor}; it is a share of what a layer would keep if all layers "
                "were pruned alike, 0 to 1."
            )
        if self.normalize not in get_args(Normalization):
            raise FormatError(f'normalize is {self.normalize!r}; it is "mean", "sqrt" or "none".')

    def steps(self, items: Sequence[Any]) -> Iterable[Any]:
        """Yield `items`, showing progress if it is wanted."""
        return items if self.progress is None else self.progress(items)

    def kept_of(self, layer: int) -> HostArray | None:
        """Return what element-wise pruning keeps of a layer, if that is to decide anything."""
        return None if self.kept is None else self.kept[layer]

    def prepared(self, scores: HostArray) -> HostArray:
        """Return what is to be added up over a region for its worth."""
        return np.square(scores, dtype=np.float64) if self.normalize == "sqrt" else scores

    def worth(self, sums: HostArray, lengths: HostArray) -> HostArray:
        """Return the worth of regions from the sums of prepared scores."""
        if self.normalize == "none":
            return sums
        means = sums / np.maximum(lengths, 1)
        return np.sqrt(means) if self.normalize == "sqrt" else means

    def classes(self, shares: HostArray) -> HostArray:
        """Return 1 for regions to protect, -1 for those to empty, else 0, by their shares."""
        made: HostArray = np.where(shares <= self.empty, -1, shares >= self.dense).astype(np.int8)
        return made


def score_kept(scores: Mapping[str, Array], masks: Mapping[str, HostArray | Selection]) -> float:
    """Return the share of all scores that masks keep, 0 to 1.

    Parameters
    ----------
    scores : mapping of str to array, each of shape (rows, cols)
    masks : mapping of str to bool array or Selection
        For the same names.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> scores = {"w": np.random.default_rng(0).random((256, 256))}
    >>> best = prune.score_kept(scores, prune.global_masks(scores, 0.75, "ew"))
    >>> ours = prune.score_kept(scores, prune.global_masks(scores, 0.75, "tvw"))
    >>> bool(0.8 < ours / best < 1)
    True
    """
    kept = total = 0.0
    for name, score in scores.items():
        chosen = masks[name]
        mask = chosen.mask if isinstance(chosen, Selection) else chosen
        host = to_host(score)
        kept += float(host.sum(where=mask, dtype=np.float64))
        total += float(host.sum(dtype=np.float64))
    return kept / total if total else 1.0


def count_entries(layers: Sequence[HostArray]) -> int:
    """Return the entries of all layers."""
    return sum(scores.size for scores in layers)


def floors_of(layers: Sequence[HostArray], keep: float, contest: Contest) -> list[float]:
    """Return the entries that each layer keeps at least, where `keep` of all are kept."""
    return [contest.floor * keep * scores.size for scores in layers]
