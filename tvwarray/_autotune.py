"""`autotune`: measure the kernels of a product on the GPU at hand, and remember the fastest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np

from tvwarray._backends.cuda import BACKEND, CudaBackend
from tvwarray._errors import BackendError
from tvwarray._kernels import tuned
from tvwarray._kernels.launch import problem_of
from tvwarray._kernels.product import multiply
from tvwarray._kernels.repeat import forget_launches
from tvwarray._kernels.select import AnyConfig, Choice, variants
from tvwarray._matmul import packed_for
from tvwarray._namespace import from_host
from tvwarray._operands import Operand


def autotune(
    A: Operand,
    n: int,
    *,
    candidates: int = 6,
    repeats: int = 20,
    progress: Callable[[Sequence[Any]], Iterable[Any]] = iter,
    backend: CudaBackend = BACKEND,
) -> Choice:
    """Measure the kernels that may run ``A @ X`` for `n` right-hand sides, and keep the times.

    Later products of matrices with the same shape, dtype and tiles on the same GPU take the kernel
    that was fastest, in this process and others: times are kept in ``tuned-1.json`` in
    ``$TVWARRAY_CACHE_DIR`` (else ``~/.cache/tvwarray``), by GPU and version.

    Parameters
    ----------
    A : TVWMatrix, shape (rows, cols)
        On a GPU.
    n : int
        Columns of `X`.
    candidates : int
        How many kernels to measure, those first for which the cost model has the shortest times;
        then the fastest of them with other numbers of stages.
    repeats : int
        Launches of each; the median counts. The L2 cache is flushed before each launch.
    progress : callable, optional
        Wraps the list of kernels while they are measured, as ``tqdm.tqdm`` does.
    backend : CudaBackend, optional
        Whose launcher runs the kernels.

    Returns
    -------
    Choice
        Prints as a table of all candidates, with measured and modelled times.

    Raises
    ------
    BackendError
        If `A` is not on a GPU, or no kernel runs the product.
    """
    storage, launcher = A.storage, backend.launcher
    draw = np.random.default_rng(0)  # a GPU multiplies zeros faster than numbers
    values = draw.standard_normal((A.shape[1], n), dtype=np.float32)
    x = from_host(values.astype(storage.dtype), like=storage.data)
    if reason := backend.refusal(storage, x, transposed=A.transposed):
        raise BackendError(f"autotune runs kernels of the backend cuda, which {reason}.")
    whole = packed_for(storage, backend)
    packed = whole.of(transposed=A.transposed)
    ranked = [
        c.config
        for c in backend.plan(whole, x, transposed=A.transposed).candidates
        if not c.refusal
    ]
    out, device = multiply(launcher, packed, x), launcher.device(x)

    def seconds(config: AnyConfig) -> float:
        run = partial(multiply, launcher, packed, x, out, config)
        return launcher.seconds(run, like=x, repeats=repeats)

    times = {config: seconds(config) for config in progress(ranked[:candidates])}
    fastest = min(times, key=lambda config: times[config])
    times |= {config: seconds(config) for config in progress(variants(fastest, device))}
    tuned.record(problem_of(packed, n), device, {str(c): t for c, t in times.items()})
    packed.memo.pop((n, device), None)
    forget_launches(packed)  # of the kernels that ran until now
    return backend.plan(whole, x, transposed=A.transposed)
