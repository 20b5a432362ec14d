"""Regions of a matrix that are kept or pruned as a whole: rows, blocks, groups of columns."""

from __future__ import annotations

import numpy as np

from tvwarray._storage import HostArray
from tvwarray.prune.budget import Regions
from tvwarray.prune.selection import Contest
from tvwarray.prune.vectors import best_of_group


def row_regions(scores: HostArray, kept: HostArray | None, contest: Contest) -> Regions:
    """Return the rows of a matrix as regions."""
    return block_regions(scores, kept, (1, max(1, scores.shape[1])), contest)


def block_regions(
    scores: HostArray, kept: HostArray | None, shape: tuple[int, int], contest: Contest
) -> Regions:
    """Return the blocks of a matrix as regions, row after row; those at the edges are smaller."""
    heights, widths = (_parts(n, b) for n, b in zip(scores.shape, shape, strict=True))
    sizes = np.outer(heights, widths).ravel()
    worth = contest.worth(_block_sums(contest.prepared(scores), shape), sizes)
    classes = np.zeros(sizes.size, np.int8)
    if kept is not None:
        classes = contest.classes(_block_sums(kept, shape) / np.maximum(sizes, 1))
    return Regions(worth, sizes, classes)


def block_mask(chosen: HostArray, shape: tuple[int, ...], block: tuple[int, int]) -> HostArray:
    """Return the entries of the chosen blocks, bool in the shape of the matrix."""
    heights, widths = (_parts(n, b) for n, b in zip(shape, block, strict=True))
    grid = chosen.reshape(heights.size, widths.size)
    mask: HostArray = np.repeat(np.repeat(grid, heights, axis=0), widths, axis=1)
    return mask


def n_of_m(scores: HostArray, n: int, m: int) -> HostArray:
    """Return the best `n` of every `m`; a shorter last group keeps its share, rounded up."""
    cols = scores.shape[1]
    whole, rest = cols // m * m, cols % m
    mask = np.empty(scores.shape, np.bool_)
    mask[:, :whole] = best_of_group(scores[:, :whole], n, m)
    if rest:
        mask[:, whole:] = best_of_group(scores[:, whole:], -(-n * rest // m), rest)
    return mask


def vnm(scores: HostArray, v: int, n: int, m: int) -> HostArray:
    """Return of every `m` columns of `v` rows the best four, and of these the `n` best of each row.

    A narrower last block keeps its share of columns, and of entries a row, rounded up.
    """
    rows, cols = scores.shape
    mask = np.zeros(scores.shape, np.bool_)
    whole, rest = cols // m * m, cols % m
    for start in range(0, rows, v):
        block, out = scores[start : start + v], mask[start : start + v]
        _vnm_block(block[:, :whole], out[:, :whole], m, 4, n)
        if rest:
            _vnm_block(block[:, whole:], out[:, whole:], rest, -(-4 * rest // m), -(-n * rest // m))
    return mask


def _vnm_block(block: HostArray, out: HostArray, m: int, width: int, n: int) -> None:
    groups = block.shape[1] // m
    sums = block.sum(axis=0, dtype=np.float64).reshape(groups, m)
    best = np.sort(np.argsort(-sums, axis=1, kind="stable")[:, :width], axis=1)
    columns = (best + m * np.arange(groups)[:, None]).ravel()
    out[:, columns] = best_of_group(block[:, columns], min(n, width), width)


def _parts(length: int, part: int) -> HostArray:
    """Return the lengths of the parts that a length is cut into."""
    starts = np.arange(0, length, part)
    return np.minimum(length - starts, part)


def _block_sums(x: HostArray, shape: tuple[int, int]) -> HostArray:
    """Return the sum of each block, float64, flat."""
    if not x.size:
        return np.zeros(_parts(x.shape[0], shape[0]).size * _parts(x.shape[1], shape[1]).size)
    across = np.add.reduceat(x, np.arange(0, x.shape[1], shape[1]), axis=1, dtype=np.float64)
    sums = np.add.reduceat(across, np.arange(0, x.shape[0], shape[0]), axis=0)
    return sums.ravel()
