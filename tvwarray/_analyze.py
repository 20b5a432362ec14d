"""`analyze`: whether the tile-vector-wise format suits a matrix, without converting it.

For each height of tiles the rows are ordered and the slots found as a conversion would, for large
matrices of a sample of the tiles; values are never moved. Times come from two models: one CPU core
(`_costs.cpu`) and the GPUs known by name (`_kernels.cost`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Final, Literal

import numpy as np
import scipy.sparse as sp

from tvwarray._advice import recommend
from tvwarray._convert.sparse import canonical
from tvwarray._costs.calibrate import this_machine
from tvwarray._costs.cpu import WAYS, Machine, Way
from tvwarray._costs.gpu import gpu_seconds
from tvwarray._costs.work import Csr, Work, csr_work, tile_work
from tvwarray._describe import bytes_text, time_text
from tvwarray._dtypes import BFLOAT16, FLOAT16, FLOAT32, NARROW_FLOATS, DType, value_dtype
from tvwarray._errors import FormatError
from tvwarray._kernels.devices import DEVICES, Device, named_device
from tvwarray._layouts.find import pruned_tiles
from tvwarray._layouts.pattern import Pattern, pattern_of_mask
from tvwarray._layouts.slots import FORMS, lay_out
from tvwarray._layouts.tiles import (
    OrderName,
    RowTiles,
    choose_tiles,
)
from tvwarray._namespace import dtype_of, nonzero_mask, to_host
from tvwarray._storage import HostArray, Vector, check_header

HEIGHTS: Final = (16, 32, 64, 128)
"""The heights of tiles that are analyzed."""

_SAMPLE_TILES: Final = 64
_SAMPLE_ENTRIES: Final = 1_000_000
"""Tiles are laid out until there are so many of both; more matrices than not are laid out whole."""

Structure = Literal["empty", "2:4", "TVW", "TVW, permuted", "fits as it stands", "packed"]


@dataclass(frozen=True, eq=False)
class TileReport:
    """What the format makes of a matrix with tiles of one height."""

    tile_rows: int
    row_order: OrderName
    """Which order of the rows needs the fewest slots."""
    structure: Structure
    """"2:4" and "TVW" as it stands, full; the same behind a permutation of columns; columns that
    fit in ascending order, but do not fill the tiles; or packed."""
    tiles: int
    slots: int
    """Slots of all tiles, multiples of 16 in each; of many tiles estimated from a sample."""
    bound: int
    """The fewest slots these tiles can have."""
    longest: int
    """Slots of the longest tile; of its bound, where tiles were sampled."""
    stored: int
    """Values stored, padding included."""
    nbytes: int
    """Bytes of the whole matrix."""
    work: Work
    """What the time of products depends on."""
    heights: HostArray
    """int64 (tiles,): the rows of each tile."""
    widths: HostArray
    """int64 (tiles,): the slots of each tile."""

    @property
    def cost(self) -> float:
        """Slots times rows of all tiles over twice the elements: tensor-core time of dense."""
        rows, cols = self.work.shape
        return self.stored / max(1, rows * cols)

    @property
    def fill(self) -> float:
        """Nonzeros for each slot and row of a tile, at most 0.5 with 2:4."""
        return self.work.nnz / max(1, 2 * self.stored)

    @property
    def rho(self) -> float:
        """Nonzeros for each slot: how often a fetched row of X is used."""
        return self.work.nnz / max(1, self.slots)

    @property
    def mean(self) -> float:
        """Slots of a tile on average."""
        return self.slots / max(1, self.tiles)


@dataclass(frozen=True, eq=False)
class DeviceTimes:
    """Predicted seconds of one product."""

    device: str
    """"CPU, one core", or a GPU's name."""
    dtype: str
    """Of the values: GPUs multiply 16-bit ones, which a wider matrix would have to be cast to."""
    seconds: dict[Way, float]
    """Of "tvw", with the tiles that suit the device best, "csr", "bsr" and "dense"."""
    tile_rows: int
    """The height of those tiles."""

    @property
    def fastest(self) -> Way:
        """The way that is predicted to be the fastest."""
        return min(self.seconds, key=lambda way: self.seconds[way])


@dataclass(frozen=True, eq=False)
class Analysis:
    """What `analyze` found; prints as a table and a recommendation."""

    shape: tuple[int, int]
    dtype: str
    nnz: int
    longest_row: int
    n: int
    """Right-hand sides that times are predicted for."""
    tiles: tuple[TileReport, ...]
    csr_nbytes: int
    dense_nbytes: int
    bsr_block: int
    """The side of the square blocks that suit BSR best, 1 if none do."""
    bsr_cost: float
    """Elements of those blocks over the elements of the matrix."""
    times: tuple[DeviceTimes, ...]
    """For the device asked for, or the CPU and every GPU known by name."""

    @property
    def best(self) -> TileReport:
        """The tiles that suit the first of `times`."""
        return next(t for t in self.tiles if t.tile_rows == self.times[0].tile_rows)

    @property
    def density(self) -> float:
        """Nonzeros over elements."""
        return self.nnz / max(1, self.shape[0] * self.shape[1])

    @property
    def recommendation(self) -> str:
        """What to do with the matrix, and why, in words."""
        best, times = self.best, self.times[0]
        return recommend(
            n=self.n,
            device=times.device,
            seconds=times.seconds,
            tile_rows=best.tile_rows,
            rho=best.rho,
            density=self.density,
            bytes_of_csr=best.nbytes / max(1, self.csr_nbytes),
        )

    def __str__(self) -> str:
        rows, cols = self.shape
        lines = [
            f"{rows}x{cols} {self.dtype}, {self.nnz:,} nonzeros ({100 * self.density:.3g} %), "
            f"longest row {self.longest_row:,}",
            "tile rows  row order  structure          slots   /bound  mean  longest   cost   fill"
            "    rho     bytes  of CSR  of dense",
        ]
        lines += [
            (
                f"{t.tile_rows:9}  {t.row_order:9}  {t.structure:17} {t.slots:7,} "
                f"{t.slots / max(1, t.bound):7.3f} {t.mean:6.0f} {t.longest:8,} {t.cost:7.2g} "
                f"{t.fill:6.2g} {t.rho:6.3g} {bytes_text(t.nbytes):>9} "
                f"{t.nbytes / max(1, self.csr_nbytes):7.2g} "
                f"{t.nbytes / max(1, self.dense_nbytes):9.2g}"
            )
            for t in self.tiles
        ]
        blocks = f"blocks of {self.bsr_block}, {self.bsr_cost:.2g} of all elements"
        lines.append(f"BSR: {blocks if self.bsr_block > 1 else 'no blocks'}")
        lines.append(f"predicted for n = {self.n}:")
        for d in self.times:
            parts = [f"{way} {time_text(d.seconds[way])}" for way in WAYS if way in d.seconds]
            lines.append(f"  {d.device} ({d.dtype}, {d.tile_rows} rows): {', '.join(parts)}")
        return "\n".join([*lines, *wrap(self.recommendation, 110)])


def analyze(
    A: Any, n: int = 512, *, device: str | None = None, vector: Vector = (2, 4)
) -> Analysis:
    """Say whether the tile-vector-wise format suits a matrix, without converting it.

    Parameters
    ----------
    A : sparse matrix, TVWMatrix or dense array, shape (rows, cols)
        A TVWMatrix is analyzed as the matrix it stands for, not in the tiles it has.
    n : int
        Right-hand sides, the columns of `X`, that times are predicted for.
    device : str, optional
        "cpu", a GPU by name or architecture as `plan` takes them ("H200", "sm_90"), which need not
        be there. By default the CPU, which the recommendation is for, and every GPU known by name.
    vector : (2, 4) or None
        Values stored for each group of slots.

    Returns
    -------
    Analysis
        Prints as a table. For each height of tiles: slots and their bound, cost, fill, nonzeros a
        slot, bytes; predicted times of TVW, CSR, BSR and dense; a recommendation in words.

    Raises
    ------
    FormatError
        If `A` is no matrix of a storable dtype.
    ValueError
        If `n` is not positive or `device` not known.

    Notes
    -----
    CPU times are those of one core. The first call measures this machine for a fifth of a second,
    and scales what was fitted on another one. Predictions were within 30 % of measured medians for
    410 of 416 products, of twenty matrices in two types that nothing was fitted to: see
    ``docs/matrices.md``. Of GPUs, only the H200's TVW and dense times were compared with measured
    ones; CSR and BSR are bounds by memory and cache.

    Examples
    --------
    >>> import scipy.sparse as sp, tvwarray
    >>> A = sp.random_array((500, 400), density=0.1, rng=0, format="csr")
    >>> found = tvwarray.analyze(A, n=64)
    >>> found.nnz, [t.tile_rows for t in found.tiles]
    (20000, [16, 32, 64, 128])
    """
    if n < 1:
        raise ValueError(f"n is {n}; a product has 1 right-hand side or more.")
    gpus = () if device == "cpu" else _gpus(device)
    pattern, dtype = _pattern_of(A)
    check_header(pattern.shape, HEIGHTS[0], vector)
    narrow, _ = pattern.narrowed()
    csr = csr_work(narrow)
    tiles = tuple(_report(narrow, pattern.shape, h, vector, dtype, csr) for h in HEIGHTS)
    times = [_gpu_times(tiles, n, dtype, gpu, vector) for gpu in gpus]
    if device in (None, "cpu"):
        times.insert(0, _cpu_times(tiles, n, dtype, this_machine()))
    rows, cols = pattern.shape
    value = FLOAT32.itemsize if dtype in NARROW_FLOATS else dtype.itemsize
    return Analysis(
        shape=pattern.shape,
        dtype=dtype.name,
        nnz=pattern.size,
        longest_row=int(pattern.held.max(initial=0)),
        n=n,
        tiles=tiles,
        csr_nbytes=pattern.size * (value + 4) + 4 * (rows + 1),
        dense_nbytes=rows * cols * dtype.itemsize,
        bsr_block=csr.block,
        bsr_cost=csr.blocks * csr.block**2 / max(1, rows * cols),
        times=tuple(times),
    )


def _gpus(device: str | None) -> Iterable[Device]:
    return DEVICES.values() if device is None else (named_device(device),)


def _pattern_of(A: Any) -> tuple[Pattern, DType]:
    matrix = A.tocoo() if hasattr(A, "storage") else A  # TVWMatrix
    matrix = matrix.get() if type(matrix).__module__.startswith("cupyx.") else matrix
    if _is_sparse(matrix):
        if matrix.ndim != 2:
            raise FormatError(f"the sparse array has {matrix.ndim} dimensions; a matrix has 2.")
        dtype = value_dtype(matrix.dtype, where="the sparse matrix")
        pattern, _ = canonical(matrix, (int(matrix.shape[0]), int(matrix.shape[1])), dtype)
        return pattern, dtype_of(A.storage.data) if hasattr(A, "storage") else dtype
    host = to_host(A) if hasattr(A, "dtype") else np.asarray(A)
    if host.ndim != 2:
        raise FormatError(f"the array has {host.ndim} dimensions; a matrix has 2.")
    dtype = value_dtype(host.dtype, where="the array")
    return pattern_of_mask(nonzero_mask(host)), dtype


def _is_sparse(x: Any) -> bool:
    return sp.issparse(x)


def _report(
    pattern: Pattern,
    shape: tuple[int, int],
    tile_rows: int,
    vector: Vector,
    dtype: DType,
    csr: Csr,
) -> TileReport:
    pruned = pruned_tiles(pattern, tile_rows, vector)
    if pruned is not None:
        tiles, slots = pruned
        sample = tiles
    else:
        tiles = choose_tiles(pattern, tile_rows, vector)
        sample = _sample(tiles, pattern)
        slots = lay_out(pattern, sample, vector, spread=True)
    found = np.diff(slots.indptr).astype(np.int64)
    widths = found
    if sample.size < tiles.size:
        more = found.sum() / max(1, sample.bounds.sum())
        widths = np.ceil(tiles.bounds * more / 16).astype(np.int64) * 16
    heights = tiles.heights
    cells = int((widths * heights).sum())
    stored = cells // 2 if vector else cells
    values = stored * dtype.itemsize + (cells // 8 if vector else 0)
    valid = float((slots.columns >= 0).sum()) / max(1, slots.columns.size)
    work = tile_work(
        csr, shape, dtype.itemsize, pattern.size, heights, widths, widths * valid, vector
    )
    return TileReport(
        tile_rows=tile_rows,
        row_order=tiles.order_name,
        structure=_structure(slots.forms, pattern.size / max(1, stored), vector),
        tiles=tiles.size,
        slots=int(widths.sum()),
        bound=int(tiles.bounds.sum()),
        longest=int(widths.max(initial=0)),
        stored=stored,
        nbytes=values + 4 * (int(widths.sum()) + int(heights.sum()) + 2 * tiles.size + 2),
        work=work,
        heights=heights,
        widths=widths,
    )


def _sample(tiles: RowTiles, pattern: Pattern) -> RowTiles:
    """Return all tiles, or evenly spaced ones of them if they are many."""
    share = max(_SAMPLE_TILES / max(1, tiles.size), _SAMPLE_ENTRIES / max(1, pattern.size))
    if share >= 1:
        return tiles
    chosen = np.unique(np.linspace(0, tiles.size - 1, max(1, int(share * tiles.size))).astype(int))
    return tiles.take(chosen)


def _structure(forms: HostArray, filled: float, vector: Vector) -> Structure:
    if not forms.size:
        return "empty"
    if (forms == FORMS.index("packed")).any():
        return "packed"
    if filled < 0.9 or vector is None:
        return "fits as it stands"
    if (forms == FORMS.index("hidden")).any():
        return "TVW, permuted"
    return "2:4" if (forms == FORMS.index("absolute")).all() else "TVW"


def _cpu_times(
    tiles: tuple[TileReport, ...], n: int, dtype: DType, machine: Machine
) -> DeviceTimes:
    best = min(tiles, key=lambda t: machine.seconds("tvw", t.work, n))
    ways = [w for w in WAYS if w != "bsr" or best.work.block > 1]
    seconds = {w: machine.seconds(w, best.work, n) for w in ways}
    return DeviceTimes("CPU, one core", dtype.name, seconds, best.tile_rows)


def _gpu_times(
    tiles: tuple[TileReport, ...], n: int, dtype: DType, gpu: Device, vector: Vector
) -> DeviceTimes:
    narrow = dtype if dtype in (FLOAT16, BFLOAT16) else FLOAT16
    made = [
        (gpu_seconds(t.work, t.heights, t.widths, n, narrow, gpu, sparse=vector is not None), t)
        for t in tiles
    ]
    seconds, best = min(made, key=lambda m: m[0]["tvw"])
    return DeviceTimes(gpu.name, narrow.name, seconds, best.tile_rows)
