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

PAGED_BYTES: Final = 8 << 20
"""Of so much memory the processor keeps the addresses of all pages, 4 kB each."""

NEAR_PAGED_BYTES: Final = 384 << 10
"""The part of it whose addresses are at hand at once."""

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
    near, paged = (_fetched(w, row_bytes, c, most=w.slots) for c in (L2_BYTES, PAGED_BYTES))
    results, beyond, fresh = _results(rows * wide, size)
    return "tvw many", (
        w.nnz * wide,
        w.slots * wide,
        near.in_order * wide,
        near.again * wide,
        paged.again * blocks,
        paged.again * wide,
        w.visits * blocks,
        w.visits * wide,
        results,
        beyond,
        beyond if blocks > 1 else 0.0,  # each block leaves a piece of a row
        fresh,
        w.tiles * blocks,
    )


def _gathered(w: Work, width: int) -> tuple[float, float]:
    """Return the elements of X past L1, and its rows past L2, that slots take in no order."""
    row_bytes = width * w.value_bytes
    near, far = (_fetched(w, row_bytes, c, most=w.slots).again for c in (L1_BYTES, L2_BYTES))
    return near * width, far


def _csr(w: Work, n: int) -> tuple[str, tuple[float, ...]]:
    rows, size = w.shape[0], w.value_bytes
    if n == 1:
        stream = w.nnz * (size + 4)
        return "csr one", (
            w.nnz,
            w.nnz * _beyond(stream, L2_BYTES),
            _fetched(w, LINE_BYTES, L1_BYTES).all,
            _fetched(w, size, NEAR_PAGED_BYTES).again,
            rows,
            w.uneven,
        )
    row_bytes = n * size
    near, paged, far = (_fetched(w, row_bytes, c) for c in (L2_BYTES, PAGED_BYTES, L3_BYTES))
    return "csr many", (
        w.nnz,
        w.nnz * n,
        _fetched(w, row_bytes, L1_BYTES).all * n,
        near.again,
        near.again * n,
        paged.again,
        paged.again * n,
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
    "bsr many 32": (5257, 1.641, 0.2688, 0.2412, 0.6492, 0.8437),
    "bsr many 64": (5196, 3.539, 0.3164, 0.09631, 0.2905, 0),
    "bsr one 32": (2704, 3.433, 0.1977, 0.04648),
    "bsr one 64": (2445, 2.643, 0.2269, 0.08913),
    "csr many 32": (
        2279,
        1.138,
        0.06865,
        0.03467,
        9.243,
        0.05176,
        39.93,
        0.06017,
        2.121,
        2.275,
        0.1552,
        0.03257,
        0.6682,
    ),
    "csr many 64": (
        2684,
        0.9183,
        0.1316,
        0.05305,
        15.02,
        0.05052,
        29.25,
        0.07449,
        1.588,
        6.748,
        0.259,
        0.1948,
        1.621,
    ),
    "csr one 32": (1821, 0.3445, 0.1458, 0.05649, 4.159, 0.7608, 5.046),
    "csr one 64": (1930, 0.3573, 0.1225, 0.08174, 1.992, 0.8181, 5.222),
    "dense few 32": (917.7, 0.01652, 0.03055, 0.07675, 0.1004, 0),
    "dense few 64": (717.3, 0.02481, 0.05891, 0.1941, 0.5165, 0.4466),
    "dense many 32": (748.7, 0.2055, 0.007166, 0.01048, 0, 0.04546),
    "dense many 64": (690.4, 0.6297, 0.0156, 0.02431, 0.7639, 0.06358),
    "dense one 32": (499.9, 0.03724, 0.09964, 0, 1.086),
    "dense one 64": (440.8, 0.07757, 0.196, 0.2029, 1.385),
    "tvw few 32": (
        8425,
        0.01066,
        0.02617,
        0.00586,
        0.6242,
        0.02236,
        0,
        20.66,
        1.882,
        0,
        0.9264,
        28.9,
    ),
    "tvw few 64": (
        7678,
        0.0111,
        0.0286,
        0.0106,
        0.1158,
        0.07662,
        2.234e-06,
        61.06,
        0.06233,
        4.371,
        3.908,
        21.52,
    ),
    "tvw many 32": (
        7115,
        0.01109,
        0.1039,
        0,
        0.1046,
        66.1,
        0,
        0,
        0.05778,
        0.1367,
        0.1956,
        0.2867,
        0.963,
        18.29,
    ),
    "tvw many 64": (
        7589,
        0.02227,
        0.1713,
        0.135,
        0.2019,
        63.13,
        0.0001126,
        12.37,
        5.7e-05,
        0.1741,
        0.3463,
        0.7152,
        1.841,
        0,
    ),
}
"""For 1, and for each count of a kernel."""

REFERENCE: Final = Machine(_NANOSECONDS, {})
"""One core of an Intel Xeon (Sapphire Rapids), OpenBLAS 0.3.31, SciPy 1.17."""
