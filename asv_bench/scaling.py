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
from tvwarray._cli.machine import machine_line

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
    print(machine_line())
    print(f"{ROWS} x {COLS} at 75 %, float32, n = {N} in chunks of {CHUNK}: seconds\n")
    print(
        "| | one call | `A @ x` | `parts=2` | blocks of rows | a task |\n|---|---|---|---|---|---|"
    )
    for workers in (1, 2):
        with (
            LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=None) as made,
            Client(made) as client,
        ):
            x = client.persist(drawn)
            cells = [f"{workers} worker{'s' * (workers > 1)}", f"{alone:.2f}"]
            for y in (A @ x, tvd.matmul(A, x, parts=2), A.to_dask(2) @ x):
                np.testing.assert_allclose(y.compute(), expected, rtol=1e-4, atol=1e-2)
                stay = median([timed(lambda y=y: y.sum().compute()) for _ in range(RUNS)])
                cells.append(f"{stay:.2f}")
            tiny = tvwarray.TVWMatrix(np.eye(64, dtype=np.float32))
            small = client.persist(da.ones((64, 6400), chunks=(64, 64), dtype=np.float32))
            (tiny @ small).compute()
            tasks = median([timed((tiny @ small).sum().compute) for _ in range(RUNS)])
            print(f"| {' | '.join(cells)} | {tasks / 100:.4f} |", flush=True)


if __name__ == "__main__":
    main()
