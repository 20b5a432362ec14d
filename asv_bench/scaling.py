"""What Dask costs and gains: products by a cluster of processes against one call.

    pip install "tvwarray[dask]" && python asv_bench/scaling.py

Medians; every product is checked before it is timed, and summed so that it stays on the workers.
One thread a process, so that processes and not threads share the work.
"""

from __future__ import annotations

import os
import time

os.environ["TVWARRAY_NUM_THREADS"] = "1"

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster

import tvwarray
import tvwarray.dask as tvd

ROWS = COLS = 4096
N, CHUNK, RUNS = 2048, 256, 3


def timed(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def median(times: list[float]) -> float:
    return float(np.median(times))


def main() -> None:
    rng = np.random.default_rng(0)
    A = tvwarray.sparsify(rng.standard_normal((ROWS, COLS)).astype(np.float32), 0.75)
    drawn = da.random.default_rng(0).standard_normal((COLS, N), chunks=(COLS, CHUNK))
    drawn = drawn.astype(np.float32)
    X = drawn.compute()
    expected = A @ X
    alone = median([timed(lambda: A @ X) for _ in range(RUNS)])
    print(f"{ROWS} x {COLS} at 75 %, float32, n = {N} in chunks of {CHUNK}; one call {alone:.3f} s")
    for workers in (1, 2):
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as made,
            Client(made) as client,
        ):
            x = client.persist(drawn)
            ways = {
                "A @ x": A @ x,
                "parts=2": tvd.matmul(A, x, parts=2),
                "blocks": A.to_dask(2) @ x,
            }
            for name, y in ways.items():
                np.testing.assert_allclose(y.compute(), expected, rtol=1e-4, atol=1e-2)
                stay = median([timed(lambda y=y: y.sum().compute()) for _ in range(RUNS)])
                print(f"{workers} workers, {name}: {stay:.3f} s, {alone / stay:.2f} of one call")
            tiny = tvwarray.TVWMatrix(np.eye(64, dtype=np.float32))
            small = client.persist(da.ones((64, 6400), chunks=(64, 64), dtype=np.float32))
            (tiny @ small).compute()
            tasks = median([timed((tiny @ small).sum().compute) for _ in range(RUNS)])
            print(f"{workers} workers, a task: {tasks / 100 * 1e3:.2f} ms of overhead")


if __name__ == "__main__":
    main()
