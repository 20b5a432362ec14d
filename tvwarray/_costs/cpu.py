"""How long products take on one core of a CPU: what there is to do, times what each part costs.

For each kernel a few counts that its loops run over, and nanoseconds for each of them::

    engine, many   slots x n, fetched rows of X x n, visits of panels x n, results, tiles
    engine, few    bytes of the stream, stored values x n, slots x n, columns x n
    CSR            nonzeros, nonzeros x n, fetched rows of X x n, rows x n
    BSR            blocks, their elements, elements x n, rows x n
    dense          elements, elements x n

What is read from end to end costs more where a cache does not hold it (`_beyond`); of rows of X a
cache holds those of some consecutive rows of A, and what it fetches anew is read off the distinct
columns of such windows (`_fetched`).

The nanoseconds were fitted to products of `asv_bench/predictions.py`, which also says how far off
predictions are for matrices that were not fitted. `calibrate` scales them to the machine at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal, NamedTuple, get_args

import numpy as np

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

GEMM_L3_BYTES: Final = 50 << 20
"""The part of L3 that serves a dense product of few right-hand sides, which reads A in strips."""

REUSED_BYTES: Final = 32 << 20
"""Larger results lie in pages that the system hands out anew for every product."""

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
    if n <= FEW:
        passes = ceil(n / WIDEST_PASS)
        whole = WIDEST_PASS * (passes - 1)
        width = whole + (1 << (n - whole - 1).bit_length())  # the last pass: 1, 2, 4 or 8
        stream = w.stored * (size + 0.25)
        return "tvw few", (
            stream * passes,
            stream * passes * _beyond(stream, L2_BYTES),
            w.stored * width,
            w.slots,
            w.slots * width,
            *_gathered(w, width),
            cols * width,
            rows,
            rows * n,
            w.tiles,
        )
    wide = ceil(n * size / LINE_BYTES) * LINE_BYTES / size
    blocks = ceil(wide * size / BLOCK_BYTES)
    row_bytes = min(wide * size, BLOCK_BYTES)
    near = _fetched(w, row_bytes, L2_BYTES, most=w.slots)
    results, beyond, fresh = _results(rows * wide, size)
    return "tvw many", (
        w.nnz * wide,
        w.slots * wide,
        near.in_order * wide,
        near.again * wide,
        w.visits * blocks,
        w.visits * wide,
        results,
        beyond,
        beyond if blocks > 1 else 0.0,  # each block leaves a piece of a row
        fresh,
        w.tiles * blocks,
    )


def _gathered(w: Work, width: int) -> tuple[float, float]:
    """Return the elements of X that slots take from beyond the L1 and the L2 cache."""
    nbytes = w.shape[1] * width * w.value_bytes
    near, far = (_beyond(nbytes, cache) for cache in (L1_BYTES, L2_BYTES))
    return w.slots * width * near, w.slots * width * far


def _csr(w: Work, n: int) -> tuple[str, tuple[float, ...]]:
    rows, size = w.shape[0], w.value_bytes
    if n == 1:
        stream = w.nnz * (size + 4)
        return "csr one", (
            w.nnz,
            w.nnz * _beyond(stream, L2_BYTES),
            _fetched(w, LINE_BYTES, L1_BYTES).all,
            w.nnz * _beyond(w.shape[1] * size, L2_BYTES // 4),
            rows,
            w.uneven,
        )
    row_bytes = n * size
    near, far = (_fetched(w, row_bytes, cache) for cache in (L2_BYTES, L3_BYTES))
    return "csr many", (
        w.nnz,
        w.nnz * n,
        _fetched(w, row_bytes, L1_BYTES).all * n,
        near.again,
        near.again * n,
        far.again * n,
        rows,
        *_results(rows * n, size),
    )


def _bsr(w: Work, n: int) -> tuple[str, tuple[float, ...]]:
    elements = w.blocks * w.block**2
    if n == 1:
        beyond = elements * _beyond(elements * w.value_bytes, L2_BYTES)
        return "bsr one", (w.blocks, elements, beyond)
    sides, odd = w.blocks * w.block, elements * n * (w.block % 2)
    return "bsr many", (w.blocks, elements * n, odd, sides * n, w.shape[0] * n)


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
        return "dense few", (small, large, far, farther, cols * n)
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


def _fetched(w: Work, row_bytes: float, cache: int, most: float = np.inf) -> _Fetched:
    """Return how many rows of X are fetched past a cache, at most `most`.

    Half of the cache holds rows of X: those of so many consecutive rows of A that their distinct
    columns fit. Between the windows that were counted the logarithms are interpolated.
    """
    distinct = w.windows[-1].fetched
    beyond = _beyond(distinct * row_bytes, cache)
    if not beyond:
        return _Fetched(0.0, 0.0)
    held = max(1.0, cache / 2 / row_bytes)
    footprints, fetched = np.log(np.maximum(w.windows, 1e-9)).T
    rows = float(np.exp(np.interp(np.log(held), np.maximum.accumulate(footprints), fetched)))
    rows = min(most, rows * beyond)
    first = min(rows, distinct * beyond)
    return _Fetched(first, rows - first)


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


_NANOSECONDS: Final = {
    "bsr many 32": (5168, 1.614, 0.2677, 0.2402, 0.6596, 0.8179),
    "bsr many 64": (5196, 3.7, 0.3179, 0.09538, 0.2861, 0),
    "bsr one 32": (2697, 3.434, 0.1979, 0.0463),
    "bsr one 64": (2446, 2.649, 0.2265, 0.08951),
    "csr many 32": (2365, 1.243, 0.06938, 0.03191, 1.274, 0.09932, 0, 0, 0.1737, 0.1009, 0.7128),
    "csr many 64": (
        2639,
        0.9551,
        0.1396,
        0.04424,
        9.675,
        0.1142,
        3.865,
        5.375,
        0.2787,
        0.2378,
        1.427,
    ),
    "csr one 32": (1847, 0.3561, 0.1382, 0.05087, 0, 0.5054, 4.982),
    "csr one 64": (1951, 0.3699, 0.1021, 0.09068, 0, 0.6502, 4.863),
    "dense few 32": (917.1, 0.01651, 0.03055, 0.07729, 0.09952, 0),
    "dense few 64": (737.2, 0.02499, 0.05901, 0.194, 0.5183, 0.3978),
    "dense many 32": (705.6, 0.2057, 0.007274, 0.0105, 0, 0.04589),
    "dense many 64": (690.4, 0.6294, 0.01566, 0.02434, 0.7775, 0.05884),
    "dense one 32": (496.9, 0.03707, 0.09982, 0, 1.142),
    "dense one 64": (434.1, 0.07739, 0.196, 0.203, 1.44),
    "tvw few 32": (
        8427,
        0.01054,
        0.02501,
        0.00632,
        0.7684,
        0.003021,
        0,
        0,
        1.841,
        0,
        0.9889,
        4.618,
    ),
    "tvw few 64": (7662, 0.01173, 0.0269, 0.009874, 0.3839, 0.08492, 0, 0, 0.2661, 3.507, 3.912, 0),
    "tvw many 32": (
        7092,
        0.01114,
        0.1036,
        0,
        0.1147,
        0,
        0.0576,
        0.1341,
        0.1918,
        0.2931,
        1.079,
        32.14,
    ),
    "tvw many 64": (
        7731,
        0.02249,
        0.1964,
        0.4419,
        0.2306,
        11.84,
        2.119e-08,
        0.1361,
        0.1113,
        0.8217,
        1.772,
        2.281,
    ),
}
"""For 1, and for each count of a kernel."""

REFERENCE: Final = Machine(_NANOSECONDS, {})
"""One core of an Intel Xeon (Sapphire Rapids), OpenBLAS 0.3.31, SciPy 1.17."""
