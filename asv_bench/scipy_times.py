"""The table of docs/scipy.md: operations beside those of a csr_array of the same matrix.

    python asv_bench/scipy_times.py

Milliseconds by wall time, one thread, medians; the two take turns. Results are compared first. The
three matrices have about a million nonzeros each, in float32.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from scipy.sparse import linalg
from suite import finite_elements

import tvwarray
from tvwarray._cli.machine import machine_line, threads
from tvwarray._cli.measure import measure

BUDGET = 0.15

Operation = Callable[[Any, Any, Any], Any]

OPERATIONS: dict[str, Operation] = {
    "`tocsr()`": lambda A, D, S: A.tocsr(copy=True),
    "`T.tocsr()`": lambda A, D, S: A.T.tocsr(),
    "`tocoo()`": lambda A, D, S: A.tocoo(),
    "`sum()`": lambda A, D, S: A.sum(),
    "`sum(0)`": lambda A, D, S: A.sum(0),
    "`sum(1)`": lambda A, D, S: A.sum(1),
    "`max()`": lambda A, D, S: A.max(),
    "`max(0)`": lambda A, D, S: A.max(0),
    "`argmax(0)`": lambda A, D, S: A.argmax(0),
    "`count_nonzero(0)`": lambda A, D, S: A.count_nonzero(0),
    "`diagonal()`": lambda A, D, S: A.diagonal(),
    "`linalg.norm(A)`": lambda A, D, S: linalg.norm(A),
    "`A + 2 A`": lambda A, D, S: A + D,
    "`A * 2 A`": lambda A, D, S: A * D,
    "`A + S`": lambda A, D, S: A + S,
    "`A != S`": lambda A, D, S: A != S,
    "`A[::2]`": lambda A, D, S: A[::2],
}
"""Of a matrix A in either form, D = 2 A in the same form, and a csr_array S of the same places."""


def matrices() -> dict[str, tvwarray.TVWMatrix]:
    """Return a matrix pruned to TVW, one pruned without a pattern, and one of finite elements."""
    W = np.random.default_rng(0).standard_normal((2000, 2000), dtype=np.float32)
    scattered = np.where(abs(W) >= np.quantile(abs(W), 0.75), W, 0)
    return {
        "TVW 75 %, 2000 x 2000": tvwarray.sparsify(W, 0.75),
        "random 75 %, 2000 x 2000": tvwarray.TVWMatrix(scattered),
        "27-point elements, 34 x 34 x 34": tvwarray.TVWMatrix(
            finite_elements(34, 34, 34).astype(np.float32)
        ),
    }


def cell(of: Operation, A: tvwarray.TVWMatrix) -> str:
    """Return the milliseconds of an operation on the matrix, and on it as a csr_array."""
    S = A.tocsr()
    other = S.copy()
    ways = {
        "tvw": lambda D=A * 2: of(A, D, other),
        "csr": lambda D=S * 2: of(S, D, other),
    }
    got, expected = (way() for way in ways.values())
    if hasattr(got, "nnz"):
        assert (abs(sp.csr_array(got) - sp.csr_array(expected)) > 1e-4).nnz == 0
    else:
        np.testing.assert_allclose(np.asarray(got), np.asarray(expected), rtol=1e-4, atol=1e-3)
    seconds = measure(ways, budget=BUDGET).seconds
    return " / ".join(shown(1e3 * seconds[name]) for name in ways)


def shown(ms: float) -> str:
    return f"{ms:.2f}" if ms < 1 else f"{ms:.1f}" if ms < 100 else f"{ms:.0f}"


def main() -> None:
    given = matrices()
    with threads(1):
        print(machine_line(), "\n")
        print("| | " + " | ".join(given) + " |")
        print("|---" * (1 + len(given)) + "|")
        for name, of in OPERATIONS.items():
            print(f"| {name} | {' | '.join(cell(of, A) for A in given.values())} |", flush=True)


if __name__ == "__main__":
    main()
