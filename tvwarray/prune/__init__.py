"""Pruning: scores in, masks and layouts out; matrices are made of them by `tvwarray.sparsify`."""

from tvwarray.prune import adapters
from tvwarray.prune.patterns import Pattern, Selection, TileVectorWise, make_pattern, mask
from tvwarray.prune.scores import magnitude

__all__ = [
    "Pattern",
    "Selection",
    "TileVectorWise",
    "adapters",
    "magnitude",
    "make_pattern",
    "mask",
]
