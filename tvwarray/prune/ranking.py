"""Ranking over many layers: `{name: scores}` in, masks and layouts out."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Literal

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._namespace import Array
from tvwarray._storage import DEFAULT_TILE_ROWS, HostArray
from tvwarray.prune.base import select_checked
from tvwarray.prune.patterns import (
    ElementWise,
    Pattern,
    PatternName,
    RankedPattern,
    make_pattern,
)
from tvwarray.prune.scores import checked_scores
from tvwarray.prune.selection import (
    DEFAULT_FLOOR,
    Apriori,
    Contest,
    Normalization,
    Progress,
    Selection,
)
from tvwarray.prune.tiles import CountRange

Scope = Literal["global", "layer"] | Iterable[Collection[str]]
"""Which layers compete: all, none with another, or those of a group."""


def mask(
    scores: Array,
    sparsity: float,
    pattern: PatternName | Pattern = "tvw",
    *,
    tile_rows: int = DEFAULT_TILE_ROWS,
    permute: bool = True,
    group_rows: bool = True,
    count_range: CountRange = None,
) -> HostArray:
    """Return which entries `pattern` keeps, bool (rows, cols).

    Parameters
    ----------
    scores : array, shape (rows, cols)
        Finite and not negative, as `magnitude` returns them.
    sparsity : float
        Share of all entries to prune.
    pattern : {"tvw", "tw", "tew", "ew", "vw", "bw", "vnm"} or Pattern
    tile_rows, permute, group_rows, count_range
        Options of a pattern given by name; see `TileVectorWise`.

    Raises
    ------
    FormatError
        If the scores cannot be ranked or the pattern does not reach the sparsity.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> scores = prune.magnitude(np.random.default_rng(0).standard_normal((256, 512)))
    >>> kept = prune.mask(scores, 0.75)
    >>> kept.shape, float(1 - kept.mean())
    ((256, 512), 0.75)
    """
    made = make_pattern(
        pattern,
        tile_rows=tile_rows,
        permute=permute,
        group_rows=group_rows,
        count_range=count_range,
    )
    return made.select(checked_scores(scores), sparsity).mask


def global_masks(
    scores: Mapping[str, Array],
    sparsity: float,
    pattern: PatternName | Pattern = "tvw",
    *,
    scope: Scope = "global",
    floor: float = DEFAULT_FLOOR,
    normalize: Normalization = "mean",
    apriori: Apriori | None = None,
    progress: Progress | None = None,
    tile_rows: int = DEFAULT_TILE_ROWS,
    permute: bool = True,
    group_rows: bool = True,
    count_range: CountRange = None,
) -> dict[str, HostArray]:
    """Return which entries of each layer to keep; `global_selections` returns layouts as well.

    Parameters are those of `global_selections`.

    Returns
    -------
    dict of bool arrays
        In the shapes of the scores.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> rng = np.random.default_rng(0)
    >>> layers = {"weak": rng.random((256, 256)), "strong": 4 * rng.random((256, 256))}
    >>> masks = prune.global_masks(layers, 0.75)
    >>> bool(masks["weak"].mean() < 0.25 < masks["strong"].mean())
    True
    """
    made = global_selections(
        scores,
        sparsity,
        pattern,
        scope=scope,
        floor=floor,
        normalize=normalize,
        apriori=apriori,
        progress=progress,
        tile_rows=tile_rows,
        permute=permute,
        group_rows=group_rows,
        count_range=count_range,
    )
    return {name: selection.mask for name, selection in made.items()}


def global_selections(
    scores: Mapping[str, Array],
    sparsity: float,
    pattern: PatternName | Pattern = "tvw",
    *,
    scope: Scope = "global",
    floor: float = DEFAULT_FLOOR,
    normalize: Normalization = "mean",
    apriori: Apriori | None = None,
    progress: Progress | None = None,
    tile_rows: int = DEFAULT_TILE_ROWS,
    permute: bool = True,
    group_rows: bool = True,
    count_range: CountRange = None,
) -> dict[str, Selection]:
    """Choose what to keep of many layers that compete with one another.

    Parameters
    ----------
    scores : mapping of str to array, each of shape (rows, cols)
        What each weight is worth, finite, not negative, and of one unit in all layers.
    sparsity : float
        Share of all entries to prune. Layers differ as their scores do.
    pattern : {"tvw", "tw", "tew", "ew", "vw", "bw", "vnm"} or Pattern
    scope : {"global", "layer"} or iterable of collections of names
        Rank all layers together, each for itself, or groups of them; every name is in one group.
        Each scope is pruned to `sparsity`.
    floor : float
        Each layer keeps at least this share of what it would keep if all were pruned alike; 0
        allows layers to be emptied.
    normalize : {"mean", "sqrt", "none"}
        What a region is worth: the mean of its scores, their root mean square, or their sum.
    apriori : Apriori, optional
        Regions to empty and to protect, from `tvwarray.prune.apriori`.
    progress : callable, optional
        Called with a list of what is to be done, yields it again: ``tqdm.tqdm`` is one.
    tile_rows, permute, group_rows, count_range
        Options of a pattern given by name; see `TileVectorWise`.

    Returns
    -------
    dict of Selection
        For each name the mask and the layout, if the pattern makes one.

    Raises
    ------
    FormatError
        If scores cannot be ranked, the pattern does not reach the sparsity, or the scope does not
        name each layer once.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> rng = np.random.default_rng(0)
    >>> scores = {"up": rng.random((512, 256)), "down": 3 * rng.random((256, 512))}
    >>> made = prune.global_selections(scores, 0.75, tile_rows=64)
    >>> sum(int(s.mask.sum()) for s in made.values()) / (2 * 512 * 256)
    0.25
    >>> made["up"].sparsity > made["down"].sparsity
    True
    """
    made = make_pattern(
        pattern,
        tile_rows=tile_rows,
        permute=permute,
        group_rows=group_rows,
        count_range=count_range,
    )
    checked = {name: _checked(name, s) for name, s in scores.items()}
    groups = _groups(list(checked), scope)
    if not isinstance(made, RankedPattern):
        if any(len(group) > 1 for group in groups):
            raise FormatError(
                f"{type(made).__name__} has no select_all(...), so that it cannot rank layers "
                'together.\nPass scope="layer", or make it a subclass of prune.RankedPattern.'
            )
        return {name: made.select(s, sparsity) for name, s in checked.items()}
    selected: dict[str, Selection] = {}
    for group in groups:
        contest = Contest(
            floor,
            normalize,
            None if apriori is None else [_kept(apriori, n, checked[n]) for n in group],
            0.0 if apriori is None else apriori.empty,
            1.0 if apriori is None else apriori.dense,
            progress,
        )
        layers = [checked[name] for name in group]
        selected.update(zip(group, select_checked(made, layers, sparsity, contest), strict=True))
    return {name: selected[name] for name in checked}


def apriori(
    scores: Mapping[str, Array],
    sparsity: float,
    *,
    empty: float = 0.0,
    dense: float = 1.0,
    scope: Scope = "global",
) -> Apriori:
    """Return which regions to empty and which to protect, from what element-wise pruning keeps.

    Parameters
    ----------
    scores : mapping of str to array, each of shape (rows, cols)
    sparsity : float
        Of the element-wise masks; usually that of the ranking they are for.
    empty : float
        Regions of which element-wise pruning keeps no larger share are ranked after all others.
    dense : float
        Regions of which it keeps this share or a larger one are ranked before all others.
    scope
        See `global_selections`.

    Returns
    -------
    Apriori
        For ``apriori=`` of `global_selections` and `global_masks`. A region is what a pattern
        prunes as a whole: a row, a block, a column of a tile. Element-wise and vector-wise
        patterns have none.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> scores = {"w": np.random.default_rng(0).random((256, 256))}
    >>> scores["w"][:, :64] = 0  # what any ranking drops
    >>> found = prune.apriori(scores, 0.5)
    >>> masks = prune.global_masks(scores, 0.5, "tw", apriori=found)
    >>> int(masks["w"][:, :64].sum())
    0
    """
    if not 0 <= empty < dense <= 1:
        raise FormatError(
            f"empty is {empty} and dense {dense}; they are shares, 0 <= empty < dense <= 1."
        )
    kept = global_masks(scores, sparsity, ElementWise(), scope=scope, floor=0.0)
    return Apriori(kept, empty, dense)


def _checked(name: str, scores: Array) -> HostArray:
    try:
        return checked_scores(scores)
    except FormatError as e:
        raise FormatError(f"{name}: {e}") from e


def _kept(apriori: Apriori, name: str, scores: HostArray) -> HostArray:
    kept = apriori.kept.get(name)
    if kept is None or kept.shape != scores.shape:
        held = "none" if kept is None else f"one of shape {kept.shape}"
        raise FormatError(f"apriori has {held} for {name}, whose scores have {scores.shape}.")
    return np.asarray(kept)


def _groups(names: list[str], scope: Scope) -> list[list[str]]:
    """Return the names of the layers that compete, group by group."""
    if isinstance(scope, str):
        if scope == "global":
            return [names] if names else []
        if scope == "layer":
            return [[name] for name in names]
        raise FormatError(f'scope is {scope!r}; it is "global", "layer" or groups of names.')
    groups = [[group] if isinstance(group, str) else list(group) for group in scope]
    named = [name for group in groups for name in group]
    for name in named:
        if name not in names:
            raise FormatError(f"scope names {name!r}, of which there are no scores.")
        if named.count(name) > 1:
            raise FormatError(f"scope names {name!r} twice; a layer competes in one group.")
    if missing := [name for name in names if name not in named]:
        raise FormatError(
            f"scope does not name {missing[0]!r}; put every layer into a group, alone if need be."
        )
    return [group for group in groups if group]
