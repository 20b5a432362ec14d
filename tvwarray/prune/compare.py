"""How good masks are: the score they keep beside what other patterns keep of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tvwarray._namespace import Array
from tvwarray._storage import DEFAULT_TILE_ROWS, HostArray
from tvwarray.prune.elements import ElementWise
from tvwarray.prune.ranking import Scope, global_masks
from tvwarray.prune.selection import Selection, score_kept
from tvwarray.prune.tiled import TileVectorWise


class Comparison(NamedTuple):
    """Shares of all scores that are kept at one sparsity."""

    sparsity: float
    """The share of all entries that is pruned."""
    kept: float
    """What the masks keep."""
    element_wise: float
    """What single entries keep, the most that any mask does in this scope."""
    plain: float | None
    """What plain tile-vector-wise pruning keeps; None below a sparsity of 0.5."""

    def __str__(self) -> str:
        text = f"{100 * self.sparsity:.4g} % pruned, {self.kept:.4f} of the score kept: "
        text += f"{self.kept / (self.element_wise or 1.0):.3f} of element-wise"
        if self.plain is not None:
            text += f", {self.kept / (self.plain or 1.0):.3f} of plain TVW"
        return text


def compare(
    scores: Mapping[str, Array],
    masks: Mapping[str, HostArray | Selection],
    *,
    scope: Scope = "global",
    tile_rows: int = DEFAULT_TILE_ROWS,
) -> Comparison:
    """Compare what masks keep with element-wise and plain tile-vector-wise pruning.

    Parameters
    ----------
    scores : mapping of str to array, each of shape (rows, cols)
    masks : mapping of str to bool array or Selection
        For the same names.
    scope
        Which layers compete in the other two; see `global_selections`.
    tile_rows : int
        Of plain tile-vector-wise pruning.

    Returns
    -------
    Comparison
        At the sparsity that the masks have together.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> scores = {"layer": np.random.default_rng(0).exponential(1, (256, 256))}
    >>> masks = prune.global_masks(scores, 0.75, tile_rows=64)
    >>> print(prune.compare(scores, masks, tile_rows=64))
    75 % pruned, 0.4667 of the score kept: 0.780 of element-wise, 1.074 of plain TVW
    """
    plain_masks = {n: m.mask if isinstance(m, Selection) else m for n, m in masks.items()}
    entries = sum(m.size for m in plain_masks.values())
    kept = sum(int(np.count_nonzero(m)) for m in plain_masks.values())
    sparsity = 1 - kept / entries if entries else 0.0
    others = [
        score_kept(scores, global_masks(scores, sparsity, ElementWise(), floor=0, scope=scope))
    ]
    if sparsity >= 0.5:
        pattern = TileVectorWise(tile_rows, permute=False, group_rows=False)
        others.append(score_kept(scores, global_masks(scores, sparsity, pattern, scope=scope)))
    return Comparison(sparsity, score_kept(scores, masks), others[0], (*others, None)[1])
