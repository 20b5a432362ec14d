"""Pictures of what pruning did, with matplotlib: by layer, for one or several sets of masks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from tvwarray._namespace import Array, to_host
from tvwarray._plot import COLORS, matplotlib_modules
from tvwarray._storage import HostArray
from tvwarray.prune.selection import Selection, score_kept

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Masks = Mapping[str, HostArray | Selection]


def plot_sparsity(masks: Masks, ax: Axes | None = None) -> Axes:
    """Draw how much of each layer is pruned.

    Parameters
    ----------
    masks : mapping of str to bool array or Selection
        By layer, as `global_masks` and `global_selections` return them.
    ax : matplotlib.axes.Axes, optional
        By default one of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        A bar a layer, in their order from the top; the line is the share of all entries.

    Raises
    ------
    ImportError
        If matplotlib is not installed; it comes with ``tvwarray[plot]``.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> scores = {name: np.random.default_rng(0).random((256, 256)) for name in "ab"}
    >>> ax = prune.plot_sparsity(prune.global_masks(scores, 0.75))
    >>> ax.get_xlabel()
    'pruned, % (all layers: 75.0)'
    """
    found = {name: _mask(chosen) for name, chosen in masks.items()}
    pruned = [100 * (1 - m.mean()) if m.size else 0.0 for m in found.values()]
    entries = sum(m.size for m in found.values())
    total = 100 * (1 - sum(int(m.sum()) for m in found.values()) / max(1, entries))
    ax = _bars(list(found), {"pruned": pruned}, ax)
    ax.axvline(total, color="#1b1b1b", lw=1)
    ax.set_xlabel(f"pruned, % (all layers: {total:.1f})")
    return ax


def plot_score_kept(
    scores: Mapping[str, Array], masks: Mapping[str, Masks], ax: Axes | None = None
) -> Axes:
    """Draw how much of each layer's score different masks keep.

    Parameters
    ----------
    scores : mapping of str to array, each of shape (rows, cols)
        By layer.
    masks : mapping of str to masks
        ``{label: masks of every layer}``: one colour each, such as patterns at one sparsity.
    ax : matplotlib.axes.Axes, optional
        By default one of a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        Bars of the labels side by side for each layer; the legend has the share over all layers.

    Raises
    ------
    ImportError
        If matplotlib is not installed; it comes with ``tvwarray[plot]``.

    Examples
    --------
    >>> import numpy as np
    >>> from tvwarray import prune
    >>> scores = {name: np.random.default_rng(0).random((256, 256)) for name in "ab"}
    >>> masks = {p: prune.global_masks(scores, 0.75, p) for p in ("ew", "tvw")}
    >>> ax = prune.plot_score_kept(scores, masks)
    >>> ax.get_xlabel()
    'score kept, %'
    """
    shares = {}
    for label, chosen in masks.items():
        kept = [100 * score_kept({n: s}, {n: chosen[n]}) for n, s in scores.items()]
        shares[f"{label}: {100 * score_kept(scores, chosen):.1f} %"] = kept
    ax = _bars(list(scores), shares, ax)
    ax.set_xlabel("score kept, %")
    columns = 4 if sum(map(len, shares)) < 80 else 2
    ax.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, frameon=False)
    return ax


def _mask(chosen: HostArray | Selection) -> HostArray:
    return to_host(chosen.mask if isinstance(chosen, Selection) else chosen)


def _bars(names: list[str], series: Mapping[str, list[float]], ax: Axes | None) -> Axes:
    """Draw a group of horizontal bars for each name, the first on top."""
    if ax is None:
        pyplot, _ = matplotlib_modules()
        height = max(2.0, (0.12 + 0.13 * max(1, len(series))) * len(names) + 1)
        _, ax = pyplot.subplots(figsize=(7, min(height, 40)), layout="constrained")
    at, width = np.arange(len(names)), 0.8 / max(1, len(series))
    for i, (label, values) in enumerate(series.items()):
        color = COLORS[i % len(COLORS)]
        ax.barh(at + (i - (len(series) - 1) / 2) * width, values, width, label=label, color=color)
    ax.set_yticks(at, names, fontsize=9 if len(names) <= 12 else 7)
    ax.set_xlim(0, 100)
    ax.set_ylim(max(len(names), 1) - 0.5, -0.5)
    return ax
