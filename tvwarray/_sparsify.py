"""`sparsify`: a dense matrix pruned into the format, in one call."""

from __future__ import annotations

from tvwarray._errors import FormatError
from tvwarray._frameworks import native
from tvwarray._matrix import TVWMatrix
from tvwarray._namespace import Array, to_host
from tvwarray._storage import DEFAULT_TILE_ROWS
from tvwarray.prune import magnitude, make_pattern
from tvwarray.prune.patterns import Pattern, PatternName


def sparsify(
    W: Array,
    sparsity: float,
    *,
    pattern: PatternName | Pattern = "tvw",
    tile_rows: int = DEFAULT_TILE_ROWS,
    scores: Array | None = None,
    permute: bool = True,
    group_rows: bool = False,
    count_range: tuple[float, float] | None = None,
) -> TVWMatrix:
    """Prune a dense matrix to tile-vector-wise sparsity, or to another pattern.

    Parameters
    ----------
    W : array, shape (rows, cols)
        Weights as ``Linear.weight`` stores them, (out_features, in_features); of any array library.
    sparsity : float
        Share of all entries of `W` to prune, 0.5 to 1 for "tvw"; met within half a point for
        matrices of 256 x 256 and larger.
    pattern : {"tvw", "tw", "tew", "ew", "vw", "bw", "vnm"} or prune.Pattern
        See `tvwarray.prune.patterns`. Where it makes no tiles of its own, the layout is found as
        for any sparse matrix.
    tile_rows : int
        Rows of a tile, 16 to 1024. Fewer rows keep more of the score and multiply slower.
    scores : array, shape (rows, cols), optional
        What each weight is worth, finite and not negative; ``|W|`` by default.
    permute : bool
        Search for each tile which columns share a group, so that 2:4 loses least.
    group_rows : bool
        Put rows into the tiles that keep most of them, instead of consecutive ones: 2 to 4 % more
        of the score. ``x @ A.T`` on the CPU takes up to 15 % longer, since a tile's results no
        longer lie side by side.
    count_range : (float, float), optional
        The fewest and the most columns of a tile, in units of their mean: ``(0.5, 1.5)`` makes
        tiles more alike. Options from `tile_rows` on, but `scores`, are those of a pattern given
        by name.

    Returns
    -------
    TVWMatrix
        In the library and on the device of `W`; kept values are unchanged.

    Raises
    ------
    FormatError
        If `W` is no matrix of a storable dtype, the scores do not fit it, or the pattern does not
        reach the sparsity.

    Examples
    --------
    >>> import numpy as np, tvwarray
    >>> W = np.random.default_rng(0).standard_normal((512, 1024), dtype=np.float32)
    >>> A = tvwarray.sparsify(W, 0.75)
    >>> A
    <TVWMatrix 512x1024 float32: 4 tiles of up to 128 rows, 2:4,
     131,072 nonzeros (25 %), 567 kB: 0.27 of dense, 0.54 of CSR>
    """
    W = native(W)
    host = to_host(W)
    if host.ndim != 2:
        raise FormatError(f"W has {host.ndim} dimensions; a matrix has 2.")
    given = magnitude(host) if scores is None else to_host(scores)
    if given.shape != host.shape:
        raise FormatError(
            f"scores have shape {given.shape}, W has {host.shape}; they must be equal."
        )
    chosen = make_pattern(
        pattern,
        tile_rows=tile_rows,
        permute=permute,
        group_rows=group_rows,
        count_range=count_range,
    )
    selection = chosen.select(given, sparsity)
    return TVWMatrix.from_selection(W, selection)
