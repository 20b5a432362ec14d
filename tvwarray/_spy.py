"""`spy`: a matplotlib picture of a matrix, tiles and fill, bounded however large the matrix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tvwarray._namespace import nonzero_mask, to_host
from tvwarray._plot import cell_areas, kept_share, matplotlib_modules
from tvwarray._storage import HostArray, TVWStorage
from tvwarray._two_four import positions_24

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DEFAULT_CELLS: Final = 512
_BATCH: Final = 2**22
"""Entries that are counted at a time."""

_BACKGROUND: Final = "#f2f4f8"
_FILL: Final = ("#c3d6ec", "#1f5fa8", "#0b2545")
"""Kept and empty, half full, full."""
_REMAINDER: Final = "#e07b00"


def spy(
    storage: TVWStorage,
    ax: Axes | None = None,
    *,
    transposed: bool = False,
    cells: int = DEFAULT_CELLS,
    colorbar: bool = True,
) -> Axes:
    """Draw the kept columns of every tile and how full they are; see `TVWMatrix.spy`."""
    pyplot, colors = matplotlib_modules()
    if ax is None:
        _, ax = pyplot.subplots(layout="constrained")
    share, fill, beside = raster(storage, cells)
    if transposed:
        share, fill, beside = share.T, fill.T, beside.T
    rows, cols = storage.shape[::-1] if transposed else storage.shape
    ax.set_facecolor(_BACKGROUND)
    # Cells in which little is kept are pale, so that sparse tiles of a large matrix stay visible.
    image = ax.imshow(
        np.ma.masked_where(share == 0, fill),
        alpha=np.where(share > 0, 0.25 + 0.75 * share, 0.0),
        extent=(0, max(cols, 1), max(rows, 1), 0),
        cmap=colors.LinearSegmentedColormap.from_list("fill", _FILL),
        vmin=0,
        vmax=1,
        interpolation="nearest",
        aspect="auto",
    )
    y, x = np.nonzero(beside)
    if x.size:
        step = np.array([max(cols, 1) / share.shape[1], max(rows, 1) / share.shape[0]])
        places = (x + 0.5) * step[0], (y + 0.5) * step[1]
        ax.plot(*places, "s", ms=1.2, mew=0, color=_REMAINDER, label="remainder")
        ax.legend(loc="upper right", markerscale=5)
    ax.set_xlabel("column")
    ax.set_ylabel("row")
    tiles = "1 tile" if storage.num_tiles == 1 else f"{storage.num_tiles} tiles"
    ax.set_title(f"{rows} x {cols} {storage.dtype.name}, {tiles}")
    if colorbar:
        ax.figure.colorbar(image, ax=ax, label="nonzeros of what the tiles keep")
    return ax


def raster(storage: TVWStorage, cells: int) -> tuple[HostArray, HostArray, HostArray]:
    """Return what `spy` draws, on a grid of at most `cells` cells a side.

    Returns
    -------
    share : float64, 0 to 1
        How much of a cell's area lies in kept columns.
    fill : float64, 0 to 1
        Nonzeros of the tiles over that area.
    beside : bool
        Where the remainder has entries.
    """
    rows, cols = storage.shape
    share = kept_share(storage, cells)
    shape = share.shape
    down, across = _cells_of(rows, shape[0]), _cells_of(cols, shape[1])
    counts = np.zeros(share.size, np.int64)
    for row, col in _nonzeros(storage):
        counts += np.bincount(down(row) * shape[1] + across(col), minlength=share.size)
    kept = share * cell_areas(storage.shape, shape)
    fill = np.minimum(1.0, counts.reshape(shape) / np.maximum(kept, 1))
    beside = np.zeros(shape, np.bool_)
    if remainder := storage.remainder:
        row = np.repeat(np.arange(rows), np.diff(to_host(remainder.indptr)))
        beside[down(row), across(to_host(remainder.indices))] = True
    return share, fill, beside


def _cells_of(length: int, cells: int) -> Any:
    return lambda index: np.asarray(index, np.int64) * cells // max(1, length)


def _nonzeros(storage: TVWStorage) -> Iterator[tuple[HostArray, HostArray]]:
    """Yield rows and columns of the tiles' nonzeros, in batches of bounded size."""
    batch: list[tuple[HostArray, HostArray]] = []
    size = 0
    for t in range(storage.num_tiles):
        tile = storage.tile(t)
        rows, cols = to_host(tile.rows), to_host(tile.cols)
        at = np.broadcast_to(np.arange(cols.size), (rows.size, cols.size))
        if tile.meta is not None:
            groups = 4 * np.repeat(np.arange(cols.size // 4), 2)
            at = groups + to_host(positions_24(tile.meta))
        col = cols[at]
        stored = to_host(nonzero_mask(tile.data)) & (col >= 0)
        row = np.repeat(rows, stored.sum(axis=1))
        batch.append((row, col[stored]))
        size += row.size
        if size >= _BATCH:
            yield _joined(batch)
            batch, size = [], 0
    if batch:
        yield _joined(batch)


def _joined(batch: list[tuple[HostArray, HostArray]]) -> tuple[HostArray, HostArray]:
    return np.concatenate([row for row, _ in batch]), np.concatenate([col for _, col in batch])
