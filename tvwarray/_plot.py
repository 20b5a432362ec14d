"""Pictures of a matrix: where its tiles are and which columns each of them keeps."""

from __future__ import annotations

from typing import Any, Final

import numpy as np

from tvwarray._namespace import to_host
from tvwarray._storage import HostArray, TVWStorage

COLORS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#1b1b1b")
"""Of lines and bars: Okabe and Ito's, which people tell apart however they see colours."""

MARKERS: Final = "os^Dv<>"
"""One for each colour."""

_CELLS = 64
"""A picture has at most this many cells a side, however large the matrix."""

_SHADES = 8


def tiles_svg(storage: TVWStorage, *, size: int = 240) -> str:
    """Return an SVG of the kept columns of every tile, of bounded length.

    Parameters
    ----------
    storage : TVWStorage
    size : int
        The longer side, in pixels.

    Returns
    -------
    str
        Rows of the matrix run down and columns across; the darker a cell, the more of its area
        lies in kept columns. At most 64 x 64 cells, 60 kB.
    """
    share = kept_share(storage, _CELLS)
    rows, cols = storage.shape
    scale = size / max(rows, cols, 1)
    width, height = max(8, round(cols * scale)), max(8, round(rows * scale))
    shade = np.ceil(share * _SHADES).astype(np.int64)
    paths = []
    for level in range(1, _SHADES + 1):
        cells = "".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(shade == level))
        if cells:
            paths.append(f'<path fill-opacity="{level / _SHADES:.3g}" d="{cells}"/>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {share.shape[1]} {share.shape[0]}" preserveAspectRatio="none" '
        'role="img" aria-label="kept columns of each tile">'
        '<rect width="100%" height="100%" fill="#f2f4f8"/>'
        f'<g fill="#1f5fa8" shape-rendering="crispEdges">{"".join(paths)}</g></svg>'
    )


def kept_share(storage: TVWStorage, cells: int) -> HostArray:
    """Return how much of each cell of a grid lies in kept columns, float64 0 to 1.

    The grid has at most `cells` rows and columns and never more than the matrix.
    """
    rows, cols = storage.shape
    grid_rows, grid_cols = max(1, min(cells, rows)), max(1, min(cells, cols))
    covered = np.zeros((grid_rows, grid_cols))
    row_indices, col_indices = to_host(storage.row_indices), to_host(storage.col_indices)
    row_indptr, col_indptr = storage.host_indptr
    for t in range(storage.num_tiles):
        r = row_indices[row_indptr[t] : row_indptr[t + 1]].astype(np.int64)
        c = np.unique(col_indices[col_indptr[t] : col_indptr[t + 1]]).astype(np.int64)
        down = np.bincount(r * grid_rows // max(1, rows), minlength=grid_rows)
        across = np.bincount(c[c >= 0] * grid_cols // max(1, cols), minlength=grid_cols)
        touched = np.flatnonzero(down)
        covered[touched] += np.outer(down[touched], across)
    area = cell_areas(storage.shape, covered.shape)
    return np.asarray(covered / np.maximum(area, 1))


def cell_areas(shape: tuple[int, int], grid: tuple[int, ...]) -> HostArray:
    """Return how many entries of a matrix each cell of a grid holds, int64."""
    return np.outer(_sizes(shape[0], grid[0]), _sizes(shape[1], grid[1]))


def _sizes(length: int, cells: int) -> HostArray:
    """Return how many of `length` indices i have ``i * cells // length`` equal to each cell."""
    starts = -(-np.arange(cells + 1, dtype=np.int64) * length // cells)
    return np.asarray(np.diff(starts))


def matplotlib_modules() -> tuple[Any, Any]:
    """Return matplotlib's ``pyplot`` and ``colors``, or say how to get them."""
    try:
        from matplotlib import colors, pyplot
    except ImportError as e:
        raise ImportError("pictures need matplotlib: install tvwarray[plot].") from e
    return pyplot, colors
