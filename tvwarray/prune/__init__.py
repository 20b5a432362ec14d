"""Pruning: scores in, masks and layouts out; matrices are made of them by `tvwarray.sparsify`."""

from tvwarray.prune import adapters
from tvwarray.prune.patterns import (
    VNM,
    BlockWise,
    ElementWise,
    Pattern,
    RankedPattern,
    TileElementWise,
    TileVectorWise,
    TileWise,
    VectorWise,
    make_pattern,
)
from tvwarray.prune.ranking import apriori, global_masks, global_selections, mask
from tvwarray.prune.scores import ScoreAccumulator, fisher, magnitude, taylor
from tvwarray.prune.selection import Apriori, Selection, score_kept

__all__ = [
    "VNM",
    "Apriori",
    "BlockWise",
    "ElementWise",
    "Pattern",
    "RankedPattern",
    "ScoreAccumulator",
    "Selection",
    "TileElementWise",
    "TileVectorWise",
    "TileWise",
    "VectorWise",
    "adapters",
    "apriori",
    "fisher",
    "global_masks",
    "global_selections",
    "magnitude",
    "make_pattern",
    "mask",
    "score_kept",
    "taylor",
]
