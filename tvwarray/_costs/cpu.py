"""How long products take on one core of a CPU: what there is to do, times what each part costs.

For each kernel a few counts that its loops run over, and nanoseconds for each of them::

    engine, many   nonzeros x n, fetched slots x n (dearer where X outgrows L2), rows x panels x n
    engine, few    bytes of the stream, stored values x n, slots x n, columns x n
    CSR            nonzeros, nonzeros x n, rows x n (dearer where X outgrows L2)
    BSR            blocks, their elements, elements x n, rows x n
    dense          elements, elements x n

The nanoseconds were fitted to products of `asv_bench/predictions.py`, which also says how far off
predictions are for matrices that were not fitted. `calibrated` scales them to the machine at hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal, NamedTuple, get_args

import numpy as np

from tvwarray._storage import TVWStorage

FEW: Final = 16
"""Up to this many right-hand sides the engine reads A as one stream."""

WIDEST_PASS: Final = 8
"""Right-hand sides that the stream serves at once."""

VECTOR_BYTES: Final = 64
BLOCK_BYTES: Final = 8 * VECTOR_BYTES
PANEL_COLUMNS: Final = 64
L1_BYTES: Final = 48 << 10
L2_BYTES: Final = 2 << 20
"""Of the processor the nanoseconds were measured on: a vector register, a row of X in a block, the
columns of a panel, the caches."""

REUSED_BYTES: Final = 24 << 20
"""Larger results lie in pages that the system hands out anew for every product."""

Way = Literal["tvw", "csr", "bsr", "dense"]

WAYS: Final[tuple[Way, ...]] = get_args(Way)


class Work(NamedTuple):
    """What there is to do for a matrix, whatever is multiplied with it."""

    shape: tuple[int, int]
    value_bytes: int
    nnz: int
    rows: int
    """Rows in tiles."""
    slots: int
    """Slots of all tiles that are not padding."""
    stored: int
    """Values that tiles store, zeros included."""
    visits: int
    """Rows of each tile times the panels that its slots are cut into."""
    near: int
    """Distinct columns of every 64 consecutive rows, added up: rows of X that CSR fetches anew."""
    uneven: int
    """Rows with another number of nonzeros than the row before: a processor guesses their ends
    wrong."""
    blocks: int
    """Blocks of the BSR form."""
    block: int
    """The side of those blocks."""


def work_of(storage: TVWStorage) -> Work:
    """Return the work of a storage.

    Of its CSR form it is assumed that rows differ in length and that it fetches as many rows of X
    as the tiles; BSR is left out.
    """
    valid = np.zeros(storage.num_tiles, np.int64)
    tile = np.repeat(np.arange(storage.num_tiles), storage.slots_of)
    valid += np.bincount(tile[storage.col_indices >= 0], minlength=storage.num_tiles)
    cells = int((storage.rows_of * storage.slots_of).sum())
    return Work(
        shape=storage.shape,
        value_bytes=storage.dtype.itemsize,
        nnz=storage.nnz,
        rows=int(storage.rows_of.sum()),
        slots=int(valid.sum()),
        stored=cells // 2 if storage.vector else cells,
        visits=int((storage.rows_of * -(-valid // PANEL_COLUMNS)).sum()),
        near=int(valid.sum()),
        uneven=storage.shape[0],
        blocks=0,
        block=1,
    )


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
        stream = w.stored * (size + 0.25) * passes
        far = stream * _streamed(stream)
        return "tvw few", (
            stream, far, w.stored * width, w.slots, w.slots * width, cols * width, rows, rows * n,
        )  # fmt: skip
    wide = ceil(n * size / VECTOR_BYTES) * VECTOR_BYTES / size
    far = _beyond(cols * min(wide * size, BLOCK_BYTES), L2_BYTES)
    return "tvw many", (
        w.nnz, w.nnz * wide, w.slots, w.slots * wide, w.slots * wide * far, w.visits,
        w.visits * wide, *_results(rows * wide, size),
    )  # fmt: skip


def _csr(w: Work, n: int) -> tuple[str, tuple[float, ...]]:
    (rows, cols), size = w.shape, w.value_bytes
    x_bytes = cols * n * size
    if n == 1:
        far = w.nnz * _streamed(w.nnz * (size + 4))
        return "csr one", (w.nnz, w.near * _beyond(x_bytes, L1_BYTES), rows, w.uneven, far)
    return "csr many", (
        w.nnz, w.nnz * n, w.near * n * _beyond(x_bytes, L2_BYTES),
        w.nnz * n * _beyond(x_bytes, L2_BYTES), *_results(rows * n, size),
    )  # fmt: skip


def _bsr(w: Work, n: int) -> tuple[str, tuple[float, ...]]:
    elements = w.blocks * w.block**2
    return "bsr one" if n == 1 else "bsr many", (
        w.blocks, elements, elements * n, elements * n * (w.block % 2), w.blocks * w.block * n,
        *_results(w.shape[0] * n, w.value_bytes),
    )  # fmt: skip


def _dense(w: Work, n: int) -> tuple[str, tuple[float, ...]]:
    (rows, cols), size = w.shape, w.value_bytes
    elements = rows * cols
    far = elements * _streamed(elements * size)
    kernel = "dense one" if n == 1 else "dense few" if n <= FEW else "dense many"
    return kernel, (elements, far, elements * n, cols * n, *_results(rows * n, size))


def _results(count: float, size: int) -> tuple[float, float]:
    """Return how many results there are, and how many in fresh pages of memory."""
    return count, count * _beyond(count * size, REUSED_BYTES)


def _streamed(nbytes: float) -> float:
    """Return the part of some bytes, read from end to end in each product, that comes from afar.

    What exceeds a cache drives out all of it before it is read again.
    """
    return min(1.0, max(0.0, 2 * nbytes / L2_BYTES - 1))


def _beyond(nbytes: float, cache: float) -> float:
    """Return the part of some bytes that a cache does not hold."""
    return max(0.0, 1 - cache / max(1.0, nbytes))


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
    "bsr many 32": (3.872e04, 0, 0, 0.352, 0.4095, 0.02137, 0.2283, 0),
    "bsr many 64": (6.597e04, 1.111, 0.1349, 0.2817, 0.07126, 0.4161, 0, 3.047),
    "bsr one 32": (5054, 0, 0.2294, 0, 0.2131, 0.8087, 0, 0),
    "bsr one 64": (4.637e04, 0, 0.3405, 0, 0, 0, 0, 0),
    "csr many 32": (2857, 1.2, 0.09839, 0.1471, 0, 0, 1.188),
    "csr many 64": (3086, 0.9805, 0.1931, 0.3124, 0.0112, 0.06458, 2.012),
    "csr one 32": (1919, 0.3706, 0.07736, 0.2677, 6.159, 0.1436),
    "csr one 64": (1824, 0.4194, 0.143, 0.0683, 6.869, 0.1251),
    "dense few 32": (386, 0, 0.2174, 0.01726, 0, 0, 0),
    "dense few 64": (507.5, 0, 0.6243, 0.02732, 0, 0, 0),
    "dense many 32": (1763, 0.09363, 0.1917, 0.01051, 0, 0, 0),
    "dense many 64": (3759, 0.1858, 1.037, 0.02327, 0.03134, 0, 0),
    "dense one 32": (549.6, 0, 0.1049, 0.0378, 0, 0, 0),
    "dense one 64": (899.4, 0, 0.2159, 0.07839, 0, 0, 0),
    "tvw few 32": (9113, 0.01035, 0.02438, 0.007513, 0.8061, 0, 1.872, 0.734, 0.8198),
    "tvw few 64": (8617, 0.01842, 0.02244, 0.01562, 0.5303, 0, 3.715, 2.113, 0),
    "tvw many 32": (5316, 0.1649, 0.01236, 0, 0.1518, 0.1722, 0, 0.0543, 0.1244, 2.78),
    "tvw many 64": (1486, 0, 0.03041, 0, 0.4124, 0.06607, 0, 0.05235, 0.3575, 5.996),
}
"""For 1, and for each count of a kernel."""

REFERENCE: Final = Machine(_NANOSECONDS, {})
"""One core of an Intel Xeon (Sapphire Rapids), OpenBLAS 0.3.31, SciPy 1.17."""
