"""Permutation: which slots share a group, so that 2:4 keeps the most of a tile's scores.

In every row a group of four keeps its two largest scores. Give slot i's place to column j: with
``t_ri`` the second largest score of the three partners in row r, the column in the place adds
``relu(S_rj - t_ri)`` to what the partners keep without it, and since
``relu(a - b) = (|a - b| + a - b) / 2``, all replacements are one table of L1 distances::

    gains[i, j] = sum_r relu(S_rj - t_ri) - relu(S_ri - t_ri)

              columns j                 two slots of different groups that change places
            ┌───────────┐               gain gains[i, column of j] + gains[j, column of i]
    slots i │   gains   │
            └───────────┘

The search swaps slots of different groups, the best swaps first, each group once in a sweep: then
gains add up exactly. Scores are rounded to integers first, so few bits wide that all sums are
exact: NumPy and the compiled extension find the same order, bit for bit.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from tvwarray._errors import FormatError
from tvwarray._native import native
from tvwarray._storage import HostArray

_BITS: Final = 40
"""Scores are rounded to this many bits at most: 12 decimal digits of the largest."""

_WHOLE: Final = 2048
_PART: Final = 1024
"""A tile of more than `_WHOLE` columns is searched in parts of `_PART` at most, to which its groups
are dealt in turn: time goes with the square of the columns, and each has partners enough. Of the
gain at 4096 columns that keeps 94 %, in a sixth of the time."""

_EXACT: Final = 52
"""Bits up to which sums over rows, and differences of them, are exact in float64."""


def replacement_gains(scores: HostArray, groups: HostArray) -> HostArray:
    """Return what each group gains if one of its slots holds another column.

    Parameters
    ----------
    scores : float64 array, shape (rows, k)
        What keeping each entry of the tile is worth, in any unit; finite.
    groups : integer array, shape (g, 4)
        The columns of every group.

    Returns
    -------
    float64 array, shape (4 * g, k)
        For slot i, in the order of ``groups.ravel()``, and column j the change of the group's kept
        score if j takes the place. The error is at most ``2 * rows * eps`` times the sum of the
        absolute scores of the columns involved; integers below 2**40 give exact gains.
    """
    scores = _checked(scores)
    order = np.ascontiguousarray(groups, np.int64).reshape(-1)
    if (compiled := native()) is not None:
        gains: HostArray = compiled.replacement_gains(scores, order)
        return gains
    return _gains(np.ascontiguousarray(scores.T), order)


def permute_slots(scores: HostArray, *, sweeps: int = 16, tolerance: float = 1e-7) -> HostArray:
    """Search an order of a tile's columns in which 2:4 keeps most of the scores.

    Parameters
    ----------
    scores : real array, shape (rows, k)
        What keeping each entry is worth, at least 0 and finite.
    sweeps : int
        At most so many rounds of swaps; more than sixteen gain less than 0.01 %.
    tolerance : float
        A swap must gain more than this share of all scores.

    Returns
    -------
    int64 array, shape (4 * ceil(k / 4),)
        The column of every slot, groups of four after one another, ascending in a group; -1 is
        padding, where `k` is no multiple of four. The kept score is never less than that of the
        natural order, but for rounding scores to 40 bits of the largest.

    Raises
    ------
    FormatError
        If scores are negative or not finite.
    """
    scores = _checked(scores)
    k = scores.shape[1]
    if scores.size and scores.min() < 0:
        raise FormatError("a score is negative; scores say what keeping an entry is worth.")
    padded = np.zeros((scores.shape[0], -(-k // 4) * 4))
    largest = float(scores.max(initial=0))
    padded[:, :k] = rounded_scores(scores, terms=4 * scores.shape[0], largest=largest)
    threshold = tolerance * float(padded.sum())
    fours = np.arange(padded.shape[1]).reshape(-1, 4)
    parts = 1 if padded.shape[1] <= _WHOLE else -(-padded.shape[1] // _PART)
    order = np.concatenate(
        [_permuted(padded, fours[p::parts].reshape(-1), sweeps, threshold) for p in range(parts)]
    )
    groups = np.sort(order.reshape(-1, 4), axis=1).reshape(-1)
    return np.where(groups < k, groups, -1)


def _permuted(scores: HostArray, columns: HostArray, sweeps: int, threshold: float) -> HostArray:
    """Return `columns`, whose number is a multiple of four, in the order that the search finds."""
    scores = np.ascontiguousarray(scores[:, columns])
    start = np.arange(columns.size)
    if (compiled := native()) is not None:
        order: HostArray = compiled.permute_slots(scores, start, sweeps, threshold)
    else:
        order = _search(np.ascontiguousarray(scores.T), start, sweeps, threshold)
    found: HostArray = columns[order]
    return found


def _checked(scores: HostArray) -> HostArray:
    scores = np.ascontiguousarray(scores, np.float64)
    if scores.ndim != 2:
        raise FormatError(f"scores have {scores.ndim} dimensions; those of a tile have 2.")
    if not np.isfinite(scores).all():
        raise FormatError("a score is not finite; scores say what keeping an entry is worth.")
    return scores


def rounded_scores(scores: HostArray, *, terms: int, largest: float) -> HostArray:
    """Return float64 scores as integers of so few bits that sums of `terms` of them are exact.

    `largest` is the largest absolute score, of all that are to be added or compared.
    """
    if largest == 0:
        return scores
    bits = min(_BITS, _EXACT - terms.bit_length())
    rounded: HostArray = np.rint(np.ldexp(scores, bits - int(np.frexp(largest)[1])))
    return rounded


def _gains(columns: HostArray, order: HostArray) -> HostArray:
    """Return the gains of all slots of `order`; `columns` is (k, rows), scores by column."""
    from scipy.spatial.distance import cdist  # loads much that nothing else here needs

    if not order.size or not columns.size:
        return np.zeros((order.size, columns.shape[0]))
    members = columns[order].reshape(-1, 4, columns.shape[1])
    second: HostArray = np.empty_like(members)
    for i in range(4):
        a, b, c = (members[:, p] for p in range(4) if p != i)
        second[:, i] = np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c))
    second = second.reshape(order.size, -1)
    gains: HostArray = cdist(second, columns, "cityblock")
    gains += columns.sum(axis=1)
    gains /= 2  # less half the sum of `second`, which the subtraction of each slot's own cancels
    return gains - gains[np.arange(order.size), order][:, None]


def _search(columns: HostArray, order: HostArray, sweeps: int, threshold: float) -> HostArray:
    """Swap slots until no swap gains more than `threshold`; the twin of the compiled search."""
    order = order.copy()
    slots, groups = np.arange(order.size).reshape(-1, 4), order.size // 4
    gains = np.empty((order.size, columns.shape[0]))
    touched = np.ones(groups, bool)
    for _ in range(sweeps):
        gains[slots[touched].reshape(-1)] = _gains(columns, order[slots[touched]].reshape(-1))
        touched[:] = False
        pairs, places = _best_swaps(gains[:, order], threshold)
        for pair, place in zip(pairs.tolist(), places.tolist(), strict=True):
            a, b = divmod(pair, groups)
            if not touched[a] and not touched[b]:
                touched[a] = touched[b] = True
                i, j = 4 * a + place // 4, 4 * b + place % 4
                order[i], order[j] = order[j], order[i]
        if not touched.any():
            break
    return order


def _best_swaps(gains: HostArray, threshold: float) -> tuple[HostArray, HostArray]:
    """Return the pairs of groups ``a * groups + b``, best first, and of each the places ``4i + j``.

    Only the best swap between two groups can be taken, and it decides for all the others.
    `gains` is (slots, slots): what a slot's group gains by holding another slot's column.
    """
    groups = gains.shape[0] // 4
    swaps = (gains + gains.T).reshape(groups, 4, groups, 4).transpose(0, 2, 1, 3)
    swaps = swaps.reshape(groups * groups, 16)
    place = swaps.argmax(axis=1)
    gain = swaps[np.arange(groups * groups), place]
    a, b = np.divmod(np.arange(groups * groups), max(groups, 1))
    pairs = np.flatnonzero((a < b) & (gain > threshold))
    pairs = pairs[np.argsort(-gain[pairs], kind="stable")]
    return pairs, place[pairs]
