"""Timing side by side, and how far from exact a product may be.

Times of one product taken now and of another one a second later differ by what the machine did in
between. So the contenders take turns: a round times each of them once, the next round begins with
another one, and what counts is the median over rounds, of times and of the ratios within a round.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter, sleep
from typing import Any, Final, NamedTuple

import ml_dtypes
import numpy as np
import scipy.sparse as sp

from tvwarray._dtypes import DType, accumulate_dtype
from tvwarray._storage import HostArray

_SAMPLE: Final = 2e-4
"""A sample repeats a product until it takes about so many seconds: far above the clock's grain."""

_MAX_ROUNDS: Final = 200


class Timing(NamedTuple):
    """Medians over rounds."""

    seconds: dict[str, float]
    """Of one call of each contender."""
    ratios: dict[str, float]
    """How many times longer than the first contender each one took."""
    rounds: int
    spread: float
    """The largest third quartile over first quartile of any contender: 1 without noise."""


NOISY: Final = 1.5
"""A `Timing` whose spread is larger tells more of what else ran on the machine."""


def measure(
    contenders: Mapping[str, Callable[[], object]],
    *,
    budget: float,
    min_rounds: int = 3,
    pause: float = 0.0,
) -> Timing:
    """Time functions in turn.

    Parameters
    ----------
    contenders : mapping of str to function
        The first is the one that others are compared with. All are called once before the clock
        counts, which packs matrices and starts threads.
    budget : float
        Seconds to spend; rounds are added until they are over.
    min_rounds : int
        So many rounds are measured in any case.
    pause : float
        Seconds before each sample in which nothing runs and no clock counts: threads that another
        contender left spinning have time to fall asleep.
    """
    names = list(contenders)
    repeats = {name: _repeats(run) for name, run in contenders.items()}
    samples: dict[str, list[float]] = {name: [] for name in names}
    start, rounds = perf_counter(), 0
    while rounds < min_rounds or (rounds < _MAX_ROUNDS and perf_counter() - start < budget):
        turn = rounds % len(names)
        for name in names[turn:] + names[:turn]:
            if pause:
                sleep(pause)
            samples[name].append(_sample(contenders[name], repeats[name]))
        rounds += 1
    times = {name: np.array(s) for name, s in samples.items()}
    first = times[names[0]]
    return Timing(
        {name: float(np.median(t)) for name, t in times.items()},
        {name: float(np.median(t / first)) for name, t in times.items()},
        rounds,
        max(float(np.divide(*np.quantile(t, (0.75, 0.25)))) for t in times.values()),
    )


def noise_note(timings: Sequence[Timing]) -> str:
    """Return a sentence on how noisy the measurements were, or an empty string."""
    noisy = sum(t.spread > NOISY for t in timings)
    if not noisy:
        return ""
    return (
        f"Noise: in {noisy} of {len(timings)} measurements the middle half of the times differs by "
        f"more than {NOISY}x;\nanother program may be running: do not trust the ratios, run this "
        "again, or with --threads 1."
    )


def fastest(contenders: Mapping[str, Callable[[], object]], tries: int = 3) -> str:
    """Return which of some functions is the fastest, by its best of a few calls."""
    best = dict.fromkeys(contenders, math.inf)
    for _ in range(tries):
        for name, run in contenders.items():
            best[name] = min(best[name], _sample(run, 1))
    return min(best, key=lambda name: best[name])


def _repeats(run: Callable[[], object]) -> int:
    run()
    return max(1, round(_SAMPLE / max(1e-9, _sample(run, 1))))


def _sample(run: Callable[[], object], repeats: int) -> float:
    start = perf_counter()
    for _ in range(repeats):
        run()
    return (perf_counter() - start) / repeats


def error_share(
    got: HostArray, exact: HostArray, size: HostArray, terms: int, product: DType
) -> float:
    """Return the largest error of a product as a share of its bound; at most 1 is right.

    Summed in any order, k rounded products of roundoff u are off by no more than [1]_::

        |got - exact| <= g |A| |X|,   g = k u / (1 - k u)

    and rounding the sum to a narrower type of roundoff v adds ``v |exact| + v g |A| |X|``. The
    float64 sums that stand for the exact ones are off by the same bound with their own u.

    Parameters
    ----------
    got, exact : array
        The product, and the same in float64.
    size : array
        ``|A| @ |X|`` in float64.
    terms : int
        k, the most nonzeros of a row of `A`; adding products with zero is exact.
    product : dtype
        The dtype of the product, which tells in which type it was summed.

    References
    ----------
    .. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2002, chapter 3.
    """
    summed = accumulate_dtype(product)
    u, v = _roundoff(summed), 0.0 if summed == product else _roundoff(product)
    exact_too = _gamma(terms + 1, _roundoff(np.dtype(np.float64)))
    # The smallest number of each type: products and results may fall below it.
    floor = terms * _smallest(summed) + (_smallest(product) if v else 0.0)
    bound = (1 + v) * (_gamma(terms + 1, u) + exact_too) * size + v * abs(exact) + floor
    error = abs(got.astype(exact.dtype) - exact)
    if not np.isfinite(error).all():
        return math.inf
    if not terms:
        return math.inf if error.any() else 0.0
    return float((error / bound).max(initial=0.0))


def rows_longest(csr: Any) -> int:
    """Return the most entries a row of a CSR matrix has."""
    return int(np.diff(csr.indptr).max(initial=0))


def csr_ways(csr: Any, x: HostArray) -> dict[str, Callable[[], object]]:
    """Return the two ways in which scipy multiplies activations by a sparse weight.

    Parameters
    ----------
    csr : csr_array, shape (rows, cols)
    x : array, shape (n, cols)

    Returns
    -------
    {name: function}
        One goes along the rows of the weight; the other, by its transpose in CSR, along the
        columns. (``x @ csr.T`` itself is the first.)
    """
    transposed = sp.csr_array(csr.T)
    return {"csr @ x.T": lambda: csr @ x.T, "x @ csr.T.tocsr()": lambda: x @ transposed}


def _gamma(terms: int, u: float) -> float:
    return terms * u / (1 - terms * u) if terms * u < 1 else math.inf


def _roundoff(dtype: DType) -> float:
    return float(_finfo(dtype).eps) / 2


def _smallest(dtype: DType) -> float:
    return float(_finfo(dtype).smallest_subnormal)


def _finfo(dtype: DType) -> Any:
    return ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
