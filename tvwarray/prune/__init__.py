"""Pruning: scores in, masks and layouts out; matrices are made of them by `tvwarray.sparsify`."""

from tvwarray.prune import adapters
from tvwarray.prune.compare import Comparison, compare
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
from tvwarray.prune.plots import plot_score_kept, plot_sparsity
from tvwarray.prune.ranking import apriori, global_masks, global_selections, mask
from tvwarray.prune.schedule import cubic, one_shot, paper_stages
from tvwarray.prune.scores import ScoreAccumulator, fisher, magnitude, taylor
from tvwarray.prune.selection import Apriori, Selection, score_kept
from tvwarray.prune.stages import StagePruner
from tvwarray.prune.state import StageRecord

__all__ = [
    "VNM",
    "Apriori",
    "BlockWise",
    "Comparison",
    "ElementWise",
    "Pattern",
    "RankedPattern",
    "ScoreAccumulator",
    "Selection",
    "StagePruner",
    "StageRecord",
    "TileElementWise",
    "TileVectorWise",
    "TileWise",
    "VectorWise",
    "adapters",
    "apriori",
    "compare",
    "cubic",
    "fisher",
    "global_masks",
    "global_selections",
    "magnitude",
    "make_pattern",
    "mask",
    "one_shot",
    "paper_stages",
    "plot_score_kept",
    "plot_sparsity",
    "score_kept",
    "taylor",
]
