"""``tvwarray bench --cpu``: the engine against every product a CPU user has, in one table.

``x @ A.T`` with x of shape (M, K), row-major, and A of shape (N, K), float32, written M x K x N.
Contenders take turns (`measure`); "cold" means that other memory is swept before each call, so that
no operand is in a cache. PyTorch takes part where it is installed: dense, CSR, and a weight packed
once by oneDNN.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from time import perf_counter
from typing import Any, Final

import numpy as np

import tvwarray
from tvwarray._cli.machine import machine_line, threads
from tvwarray._cli.measure import csr_ways, error_share, fastest, measure, noise_note, rows_longest
from tvwarray._cli.progress import progress
from tvwarray._cli.table import markdown_table, percent_text, ratio_text, text_table
from tvwarray._dtypes import FLOAT32
from tvwarray._matrix import TVWMatrix
from tvwarray._storage import HostArray

SHAPES: Final = (
    (1, 768, 3072),
    (8, 768, 3072),
    (128, 768, 3072),
    (512, 1024, 4096),
    (1, 4096, 4096),
    (8, 4096, 4096),
    (1024, 4096, 4096),
)
"""M, K, N."""

SPARSITIES: Final = (0.5, 0.75, 0.875, 0.95)

_COLD_ROUNDS: Final = 7
_SWEEP_BYTES: Final = 1 << 28

Contenders = dict[str, Callable[[], object]]


def run(args: Namespace, shapes: tuple[tuple[int, int, int], ...] = SHAPES) -> int:
    """Print the table; exit status 1 if a product is outside its error bound."""
    counts = [1, 2] if args.threads is None else [args.threads]
    cases = [(count, shape, s) for count in counts for shape in shapes for s in SPARSITIES]
    rows, notes, worst = [], [], 0.0
    for count, shape, sparsity in progress(cases, "product"):
        with threads(count):
            A, x = _operands(shape, sparsity)
            contenders = _contenders(A, x)
            error = _error(A, x)
            timing = measure(contenders, budget=args.seconds)
            cold = cold_ratio(contenders["tvwarray"], contenders["dense"])
        worst = max(worst, error)
        notes.append(timing)
        sparse = min(timing.ratios[name] for name in contenders if "csr" in name.lower())
        peers = [timing.ratios.get(name) for name in ("torch dense", "oneDNN packed")]
        rows.append(
            (
                "x".join(map(str, shape)),
                percent_text(sparsity),
                str(count),
                *map(ratio_text, (timing.ratios["dense"], cold, sparse)),
                *("-" if peer is None else ratio_text(peer) for peer in peers),
                f"{error:.3f}",
            )
        )
    print(machine_line())
    print(f"x @ A.T, float32, backend: {_backend(A, x)}; how many times longer the others take\n")
    print((markdown_table if args.markdown else text_table)(_HEADER, rows))
    if note := noise_note(notes):
        print(f"\n{note}")
    return 0 if worst <= 1 else 1


_HEADER: Final = (
    "M x K x N", "pruned", "threads", "vs\ndense", "cold", "vs best\nCSR", "vs torch\ndense",
    "vs oneDNN\npacked", "error\n/bound",
)  # fmt: skip


def _operands(shape: tuple[int, int, int], sparsity: float) -> tuple[TVWMatrix, HostArray]:
    m, k, n = shape
    rng = np.random.default_rng(0)
    W = rng.standard_normal((n, k), dtype=np.float32)
    return tvwarray.sparsify(W, sparsity), rng.standard_normal((m, k), dtype=np.float32)


def _contenders(A: TVWMatrix, x: HostArray) -> Contenders:
    W, csr = A.toarray(), A.tocsr()
    out = np.empty((x.shape[0], A.shape[0]), np.float32)
    ways = csr_ways(csr, x)
    found: Contenders = {
        "tvwarray": lambda: tvwarray.linear(x, A),
        "dense": lambda: np.matmul(x, W.T, out=out),
        "scipy csr": ways[fastest(ways)],
    }
    if find_spec("torch") is not None:
        found |= _torch_contenders(import_module("torch"), W, csr, x)
    return found


def _torch_contenders(torch: Any, W: HostArray, csr: Any, x: HostArray) -> Contenders:
    weight, activations = torch.from_numpy(W), torch.from_numpy(x)
    parts = (torch.from_numpy(a.astype(np.int64)) for a in (csr.indptr, csr.indices))
    sparse = torch.sparse_csr_tensor(*parts, torch.from_numpy(csr.data), size=csr.shape)
    flipped = torch.from_numpy(np.ascontiguousarray(x.T))
    found: Contenders = {
        "torch dense": lambda: torch.nn.functional.linear(activations, weight),
        "torch csr": lambda: sparse @ flipped,
    }
    if torch.backends.mkldnn.is_available():
        layer = torch.nn.Linear(*W.shape[::-1], bias=False).requires_grad_(False)
        layer.weight.copy_(weight)
        packed = import_module("torch.utils.mkldnn").to_mkldnn(layer)
        operand = activations.to_mkldnn()
        found["oneDNN packed"] = lambda: packed(operand)
    return found


def _error(A: TVWMatrix, x: HostArray) -> float:
    W, wide = A.toarray().astype(np.float64), x.astype(np.float64)
    exact, size = wide @ W.T, abs(wide) @ abs(W).T
    return error_share(tvwarray.linear(x, A), exact, size, rows_longest(A.tocsr()), FLOAT32)


def cold_ratio(ours: Callable[[], object], theirs: Callable[[], object]) -> float:
    """Return how many times longer `theirs` takes when neither finds its operands in a cache."""
    sweep, ratios = np.ones(_SWEEP_BYTES, np.uint8), []
    for _ in range(_COLD_ROUNDS):
        times = []
        for product in (ours, theirs):
            sweep += 1
            start = perf_counter()
            product()
            times.append(perf_counter() - start)
        ratios.append(times[1] / times[0])
    return float(np.median(ratios))


def _backend(A: TVWMatrix, x: HostArray) -> str:
    backend = tvwarray.select_backend(A, x.T).backend
    return backend.name if backend else "none"
