"""Sparsity patterns: which entries of matrices to keep, and the layout they make.

=================  ================================================================================
`ElementWise`      single entries, wherever they stand
`VectorWise`       n of every m consecutive entries of a row (2:4, 4:16, ...)
`BlockWise`        whole blocks
`VNM`              of every m columns of v rows four, and n of these in each row [1]_
`TileWise`         whole rows, then whole columns of tiles [2]_
`TileElementWise`  `TileWise`, and the best of the entries it dropped
`TileVectorWise`   whole columns of tiles, then n of every m of the kept ones in each row [3]_
=================  ================================================================================

`TileVectorWise`, the pattern of the library, prunes twice::

    tile of 128 rows   ████████████████     1. rank the (column, tile) vectors of all tiles
                                               together, drop the weakest: s_tw = 2 s - 1
    kept columns       ██ ███  ██ █  ██     2. pack the kept columns and keep, in every row,
    2 of every 4       █. █.█  .█ .  ██        the two best of each four: s = 1 - (1 - s_tw) / 2

References
----------
.. [1] R. L. Castro et al., "VENOM: A Vectorized N:M Format for Unleashing the Power of Sparse
   Tensor Cores", SC 2023.
.. [2] C. Guo et al., "Accelerating Sparse DNN Models without Hardware-Support via Tile-Wise
   Sparsity", SC 2020.
.. [3] C. Guo et al., "Accelerating Sparse DNNs Based on Tiled GEMM", IEEE Trans. Computers, 2024.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from tvwarray._errors import FormatError
from tvwarray._storage import DEFAULT_TILE_ROWS
from tvwarray.prune.base import Pattern, RankedPattern
from tvwarray.prune.elements import VNM, BlockWise, ElementWise, VectorWise
from tvwarray.prune.selection import Selection
from tvwarray.prune.tiled import TileElementWise, TileVectorWise, TileWise
from tvwarray.prune.tiles import CountRange

__all__ = [
    "VNM",
    "BlockWise",
    "ElementWise",
    "Pattern",
    "PatternName",
    "RankedPattern",
    "Selection",
    "TileElementWise",
    "TileVectorWise",
    "TileWise",
    "VectorWise",
    "make_pattern",
]

PatternName = Literal["ew", "vw", "bw", "vnm", "tw", "tew", "tvw"]


def make_pattern(
    pattern: PatternName | Pattern,
    *,
    tile_rows: int = DEFAULT_TILE_ROWS,
    permute: bool = True,
    group_rows: bool = True,
    count_range: CountRange = None,
) -> Pattern:
    """Return the pattern of a name; a pattern is returned as it is.

    The options are those of patterns made of tiles.

    Raises
    ------
    FormatError
        If the name is not known.

    Examples
    --------
    >>> from tvwarray import prune
    >>> prune.make_pattern("bw")
    BlockWise(shape=32)
    """
    if not isinstance(pattern, str):
        return pattern
    made: dict[str, Callable[[], Pattern]] = {
        "ew": ElementWise,
        "vw": VectorWise,
        "bw": BlockWise,
        "vnm": VNM,
        "tw": lambda: TileWise(tile_rows, group_rows=group_rows, count_range=count_range),
        "tew": lambda: TileElementWise(tile_rows, group_rows=group_rows, count_range=count_range),
        "tvw": lambda: TileVectorWise(
            tile_rows, permute=permute, group_rows=group_rows, count_range=count_range
        ),
    }
    if pattern not in made:
        names = ", ".join(f'"{name}"' for name in made)
        raise FormatError(f"pattern is {pattern!r}; it is {names} or an object with select(...).")
    return made[pattern]()
