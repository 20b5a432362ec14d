"""The table of docs/scaling.md: a matrix of 1e6 x 1e6 on many GPUs, by arithmetic alone.

    python asv_bench/on_paper.py

The rate of cuBLAS and the speed-ups over it are those measured on one H200, in docs/benchmarks.md,
at 4096 x 4096 x 4096 with tiles of 128 rows; what links carry is assumed.
"""

from __future__ import annotations

SIDE, N, TILE_ROWS = 10**6, 1024, 128
CUBLAS = 2 * 8192**3 / 1472e-6
"""Operations a second, bfloat16, at 8192^3."""
SPEEDUPS = {0.75: 2.20, 0.95: 5.20}
NODE = 8
BETWEEN_NODES = NODE * 50e9
"""Bytes a second into a node, over a link for each of its GPUs."""
WITHIN_NODE = 450e9
"""Bytes a second into a GPU from the others of its node."""


def stored_bytes(sparsity: float) -> float:
    """Return the bytes of A: values, metadata, column lists."""
    slots = 2 * (1 - sparsity) * SIDE
    return SIDE * slots * (1 + 1 / 8) + SIDE / TILE_ROWS * slots * 4


def compute_seconds(sparsity: float, gpus: int) -> float:
    return 2 * SIDE * SIDE * N / (CUBLAS * SPEEDUPS[sparsity] * gpus)


def receive_seconds(gpus: int) -> float:
    """Return how long it takes until every GPU has all of X, which they share at first."""
    x, nodes = 2 * SIDE * N, gpus // NODE
    return x * (1 - 1 / nodes) / BETWEEN_NODES + x * (1 - 1 / NODE) / WITHIN_NODE


def main() -> None:
    for sparsity in SPEEDUPS:
        print(f"A at {100 * sparsity:g} %: {stored_bytes(sparsity) / 1e9:.0f} GB")
    print(f"X and Y: {2 * SIDE * N / 1e9:.2f} GB each\n")
    print("| GPUs | " + " | ".join(
        f"{100 * s:g} %: A on each | compute | X | sum | overlapped" for s in SPEEDUPS
    ) + " |")  # fmt: skip
    print("|---" * (1 + 5 * len(SPEEDUPS)) + "|")
    for gpus in (8, 16, 64, 256, 1024):
        cells = [str(gpus)]
        for s in SPEEDUPS:
            compute, receive = compute_seconds(s, gpus), receive_seconds(gpus)
            times = (compute, receive, compute + receive, max(compute, receive))
            cells.append(f"{stored_bytes(s) / gpus / 1e9:.1f} GB")
            cells += [f"{1e3 * t:.1f} ms" for t in times]
        print("| " + " | ".join(cells) + " |")
    for s in SPEEDUPS:
        most = next(g for g in range(8, 4096, 8) if compute_seconds(s, g) < receive_seconds(g))
        print(f"\nat {100 * s:g} %, X takes longer than the product from {most} GPUs on")


if __name__ == "__main__":
    main()
