"""How long products take on one core of a CPU: what there is to do, times what each part costs.

For each kernel a few counts that its loops run over, and nanoseconds for each of them::

    engine, many   nonzeros x n, fetched rows of X x n, visits of panels x n, results, tiles
    engine, few    bytes of the stream, slots x n, fetched rows of X, columns x n, rows
    CSR            nonzeros, nonzeros x n, fetched rows of X x n, results, rows without nonzeros or
                   with other numbers of them than the row before
    BSR            blocks, their elements x n, rows x n
    dense          elements, elements x n

What is read from end to end costs more where a cache does not hold it (`_beyond`). Of rows of X a
cache holds those that the last rows of A wanted, as many as it has room for beside the entries and
results of these (`_fetched`).

The nanoseconds were fitted to products of `asv_bench/predictions.py`, which also says how far off
predictions are for matrices that were not fitted. `calibrate` scales them to the machine at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from tvwarray._costs.rates import NANOSECONDS
from tvwarray._costs.work import Work

FEW: Final = 16
"""Up to this many right-hand sides the engine reads A as one stream."""

WIDEST_PASS: Final = 8
"""Right-hand sides that the stream serves at once."""

LINE_BYTES: Final = 64
BLOCK_BYTES: Final = 8 * LINE_BYTES
L1_BYTES: Final = 48 << 10
L2_BYTES: Final = 2 << 20
L3_BYTES: Final = 80 << 20
"""Of the processor the nanoseconds were measured on: a vector register or cache line, a row of X in
a block, the caches; of the last one the part that one core had."""

PAGED_BYTES: Final = 12 << 20
"""Of so much memory the processor keeps the addresses of pages, mostly 4 kB each."""

NEAR_PAGED_BYTES: Final = 384 << 10
"""The part of it whose addresses are at hand at once."""

HELD: Final = 0.5, 1.0
"""Parts of a cache that X, A and the results share: the mean of both, for what a cache holds ends
gradually."""

RUN_ROWS: Final = L2_BYTES // 4 // BLOCK_BYTES
"""Rows of tiles that the engine takes together, panel by panel, so that the rows of X that
neighbouring tiles share stay in L2."""

GEMM_L3_BYTES: Final = 50 << 20
"""The part of L3 that serves a dense product of few right-hand sides, which reads A in strips."""

REUSED_BYTES: Final = 32 << 20
"""Larger results lie in pages that the system hands out anew for every product."""

VECTOR: Final = 4
"""Scipy's product of a block of BSR is compiled to go through its rows by so many elements, and
through what is left one by one."""

SMALL_GEMM: Final = 10**6
"""Up to this many multiplications OpenBLAS multiplies without packing."""

Way = Literal["tvw", "csr", "bsr", "dense"]

WAYS: Final[tuple[Way, ...]] = get_args(Way)


def counts(way: Way, work: Work, n: int) -> tuple[str, tuple[float, ...]]:
    """Return the kernel that multiplies `n` right-hand sides in some way, and its counts."""
    kernel, found = _COUNTS[way](work, n)
    return f"{kernel} {32 if work.value_bytes <= 4 else 64}", (1.0, *found)


def _tvw(w: Work, n: int) -> tuple[str, tuple[float, ...]]:
    (rows, cols), size = w.shape, w.value_bytes
    stream = w.streamed * (size + 0.25)
    passes = ceil(n / WIDEST_PASS)
    beyond = stream * _beyond(stream, L2_BYTES)
    if n == 1:
        near = _fetched(w, size, size + stream / max(1, rows), L2_BYTES, most=w.slots)
        return "tvw one", (stream, beyond, w.slots, near.all, rows, cols, w.tiles)
    if n <= FEW:
        whole = WIDEST_PASS * (passes - 1)
        width = whole + (1 << (n - whole - 1).bit_length())  # the last pass: 1, 2, 4 or 8
        row_bytes = min(width, WIDEST_PASS) * size
        close, near, paged = (
            _fetched(w, row_bytes, row_bytes + stream / max(1, rows), c, most=w.slots)
            for c in (L1_BYTES, L2_BYTES, PAGED_BYTES)
        )
        return "tvw few", (
            stream * passes,
            beyond * passes,
            w.streamed * width,
            w.slots * width,
            close.again * width,
            near.again * passes,
            paged.again * passes,
            rows,
            rows * n,
            cols * width,
            cols * width * _beyond(cols * width * size, L2_BYTES),
            w.tiles,
        )
    wide = ceil(n * size / LINE_BYTES) * LINE_BYTES / size
    blocks = ceil(wide * size / BLOCK_BYTES)
    # pieces of rows of X stand as far apart as whole rows, so that they share the places of these
    near, paged = (
        _fetched(w, wide * size, wide * size, c, most=_by_runs(w)) for c in (L2_BYTES, PAGED_BYTES)
    )
    far = _beyond((rows + w.windows[-1].footprint) * wide * size + stream, L3_BYTES)
    results, results_beyond, fresh = _results(rows * wide, size)
    return "tvw many", (
        w.nnz * wide,
        w.slots * wide,
        w.slots * wide if blocks > 1 else 0.0,  # pieces of rows, of which none announces the next
        near.in_order * wide,
        near.again * wide,
        paged.again * blocks,
        w.visits * wide,
        results,
        results_beyond,
        results_beyond if blocks > 1 else 0.0,  # each block leaves a piece of a row
        fresh,
        results * far,
        (rows - w.rows) * blocks,
    )


def _csr(w: Work, n: int) -> tuple[str, tuple[float, ...]]:
    rows, size = w.shape[0], w.value_bytes
    stream = w.nnz * (size + 4)
    row_bytes = n * size
    passing = row_bytes + stream / max(1, rows)
    if n == 1:
        return "csr one", (
            w.nnz,
            w.nnz * _beyond(stream, L2_BYTES),
            _fetched(w, LINE_BYTES, passing, L1_BYTES).all,
            _fetched(w, size, passing, NEAR_PAGED_BYTES).again,
            _fetched(w, size, passing, L2_BYTES).all,
            rows,
            w.uneven,
        )
    near, paged = (_fetched(w, row_bytes, passing, c) for c in (L2_BYTES, PAGED_BYTES))
    results, results_beyond, fresh = _results(rows * n, size)
    if n <= FEW:
        return "csr few", (
            w.nnz,
            w.nnz * n,
            near.again,
            paged.again,
            w.uneven,
            rows - w.rows,
            results,
            results_beyond,
        )
    far = _beyond((rows + w.windows[-1].footprint) * row_bytes + stream, L3_BYTES)
    return "csr many", (
        w.nnz,
        w.nnz * n,
        # the first line of a row comes in time: the processor runs ahead
        _fetched(w, row_bytes, passing, L1_BYTES).all * (n - LINE_BYTES // size),
        near.again,
        near.again * n,
        near.all * n * far,
        paged.again,
        paged.again * n,
        w.uneven,
        results,
        results_beyond,
        fresh,
        results * far,
    )


def _bsr(w: Work, n: int) -> tuple[str, tuple[float, ...]]:
    elements = w.blocks * w.block**2
    if n == 1:
        beyond = elements * _beyond(elements * w.value_bytes, L2_BYTES)
        return "bsr one", (w.blocks, elements, beyond)
    whole = w.block % VECTOR == 0
    by_vector, single = (elements * n, 0) if whole else (0, elements * n)
    return "bsr many", (w.blocks, by_vector, single, single / w.block, w.shape[0] * n)


def _dense(w: Work, n: int) -> tuple[str, tuple[float, ...]]:
    (rows, cols), size = w.shape, w.value_bytes
    elements = rows * cols
    far, farther = (elements * _beyond(elements * size, cache) for cache in (L2_BYTES, L3_BYTES))
    if n == 1:
        return "dense one", (elements, far, farther, rows)
    small = elements * n if elements * n <= SMALL_GEMM else 0
    large = elements * n - small
    if n <= FEW:
        farther = elements * _beyond(elements * size, GEMM_L3_BYTES)
        packed = elements if large else 0
        return "dense few", (elements, small, packed, large, far, farther, cols * n)
    return "dense many", (elements, small, large, farther, cols * n)


def _results(count: float, size: int) -> tuple[float, float, float]:
    """Return how many results there are, how many beyond L2, and in fresh pages of memory."""
    fresh = count * size >= REUSED_BYTES
    return count, count * _beyond(count * size, L2_BYTES), count if fresh else 0.0


class _Fetched(NamedTuple):
    """Rows of X that a cache does not hold when they are wanted."""

    in_order: float
    """For the first time, mostly one after another, so that a processor sees them coming."""
    again: float
    """Because others have driven them out."""

    @property
    def all(self) -> float:
        return self.in_order + self.again


def _fetched(
    w: Work, row_bytes: float, passing: float, cache: int, most: float = np.inf
) -> _Fetched:
    """Return how many rows of X are fetched past a cache, at most `most`.

    Parameters
    ----------
    w : Work
    row_bytes : float
        Of a row of X.
    passing : float
        Bytes of entries and results that pass for each row of A.
    cache : int
        Bytes. A window of rows of A fits if its distinct rows of X and what passes do; between the
        windows that were counted the logarithms are interpolated.
    most : float
        Rows at most.
    """
    rows, footprint, fetched = np.array(w.windows, np.float64).T
    needed = np.log(np.maximum(footprint * row_bytes + rows * passing, 1e-9))
    logs = np.log(np.maximum(fetched, 1))
    found = 0.0
    for part in HELD:
        held = np.log(part * cache)
        found += float(np.exp(np.interp(held, needed, logs))) if held < needed[-1] else 0.0
    found = min(most, found / len(HELD))
    first = min(found, float(footprint[-1]))
    return _Fetched(first, found - first)


def _by_runs(w: Work) -> float:
    """Return the rows of X that the engine fetches past L2 at most: once for each run of tiles."""
    rows, _, fetched = np.array(w.windows, np.float64).T
    again = np.exp(np.interp(np.log(RUN_ROWS), np.log(rows), np.log(np.maximum(fetched, 1))))
    return min(w.slots, max(float(again), w.windows[-1].footprint))


def _beyond(nbytes: float, cache: int) -> float:
    """Return the part of some bytes, read from end to end in each product, that comes from afar.

    What exceeds a cache drives out all of it before it is read again, other data and imperfect
    replacement some of it before that: measured, from 0.8 to 1.6 times the cache.
    """
    return min(1.0, max(0.0, (nbytes / cache - 0.8) / 0.8))


_COUNTS: Final[dict[Way, Callable[[Work, int], tuple[str, tuple[float, ...]]]]] = {
    "tvw": _tvw,
    "csr": _csr,
    "bsr": _bsr,
    "dense": _dense,
}


@dataclass(frozen=True)
class Machine:
    """What counts cost on a processor."""

    nanoseconds: Mapping[str, tuple[float, ...]]
    """Of every count of every kernel."""
    scales: Mapping[str, float]
    """How many times as long each kernel takes as these say; 1 where it is not listed."""

    def seconds(self, way: Way, work: Work, n: int) -> float:
        """Return how long a product with `n` right-hand sides takes on one core.

        Measured for float32 and float64; narrower values are summed in float32, and complex ones
        are taken as twice as many.
        """
        kernel, found = counts(way, work, n)
        total = float(np.dot(found, self.nanoseconds[kernel])) * max(1, work.value_bytes // 8)
        return 1e-9 * total * self.scales.get(kernel.rpartition(" ")[0], 1.0)


REFERENCE: Final = Machine(NANOSECONDS, {})
"""One core of an Intel Xeon (Sapphire Rapids), OpenBLAS 0.3.31, SciPy 1.17."""
