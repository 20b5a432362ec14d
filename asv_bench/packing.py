"""How many slots real matrices need, and how long finding them takes: for docs/matrices.md.

    python asv_bench/packing.py [--quick] [--weights model.safetensors]

Every matrix is converted with 64 rows a tile and back, and compared bit for bit. "cost" is the
slots of all tiles times their rows over twice the elements: multiplications against the dense
product's, of which sparse tensor cores do two in the time of one. "rho" is nonzeros for each slot:
how often a fetched row of X is used. Needs pyamg.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator
from functools import partial
from time import process_time

import numpy as np
import scipy.sparse as sp
import suite

import tvwarray
from tvwarray._cli.machine import machine_line
from tvwarray._convert.sparse import canonical
from tvwarray._layouts.slots import FORMS, lay_out
from tvwarray._layouts.tiles import choose_tiles

HEIGHTS = (16, 32, 64, 128)

MADE = {
    "exact 2:4, 1024": partial(suite.two_four, 1024),
    "exact TVW 75 %, 64 rows a tile": partial(suite.tvw, 1024, 2048, 0.75, 64),
    "dense 512": partial(suite.unstructured, 512, 512, 0.0),
    "random 30 %, 2048": partial(suite.unstructured, 2048, 2048, 0.3),
    "random 50 %, 2048": partial(suite.unstructured, 2048, 2048, 0.5),
    "random 75 %, 4096": partial(suite.unstructured, 4096, 4096, 0.75),
    "random 90 %, 4096": partial(suite.unstructured, 4096, 4096, 0.9),
    "random 99 %, 4096": partial(suite.unstructured, 4096, 4096, 0.99),
    "noisy blocks of 64, 4096": partial(suite.noisy_blocks, 4096, 64, shuffle=False),
    "the same, hidden": partial(suite.noisy_blocks, 4096, 64, shuffle=True),
    "5-point Laplacian, 316 x 316": partial(suite.poisson, 316, 316),
    "9-point elements, 316 x 316": partial(suite.finite_elements, 316, 316),
    "7-point Laplacian, 46 x 46 x 46": partial(suite.poisson, 46, 46, 46),
    "27-point elements, 46 x 46 x 46": partial(suite.finite_elements, 46, 46, 46),
    "the same, renumbered": lambda: suite.shuffled(suite.finite_elements(46, 46, 46)),
    "plane elasticity, 150 x 150": partial(suite.elasticity, 150),
    **{f"pyamg {name}": partial(suite.example, name) for name in suite.EXAMPLES},
    "community graph, 32768": partial(suite.communities, 32768, 256),
    "RMAT graph, 32768": partial(suite.rmat, 15),
    "Barabasi-Albert graph, 1e5": partial(suite.preferential, 100_000),
    "8 at random in each of 1e5 rows": partial(suite.scattered, 100_000, 8),
}
QUICK = ("exact 2:4, 1024", "pyamg bar", "pyamg knot", "dense 512")


def main() -> None:
    """Print the table, in Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four small matrices")
    parser.add_argument("--weights", help="the encoder's model.safetensors; by default downloaded")
    args = parser.parse_args()
    warnings.simplefilter("ignore", tvwarray.EfficiencyWarning)
    print(machine_line())
    print()
    print(
        "| matrix | nonzeros | rows | cost at 16 / 32 / 64 / 128 rows | slots / bound | rho "
        "| bytes / CSR | BSR 32 | seconds |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, a in matrices(args):
        print(row(name, a.astype(np.float32)), flush=True)


def matrices(args: argparse.Namespace) -> Iterator[tuple[str, sp.csr_array]]:
    """Make one matrix after another."""
    for name, make in MADE.items():
        if not args.quick or name in QUICK:
            yield name, make()
    if args.quick:
        return
    layers = suite.layers(args.weights)
    for sparsity in (0.5, 0.75, 0.9, 0.95):
        w = layers["L0.intermediate.dense"]
        yield f"MiniLM 1536 x 384, {100 * sparsity:g} %", suite.magnitude_pruned(w, sparsity)


def row(name: str, a: sp.csr_array) -> str:
    """Return one line of the table."""
    pattern, _ = canonical(a, a.shape, a.dtype)
    costs, shown = [], {}
    for height in HEIGHTS:
        tiles = choose_tiles(pattern, height, (2, 4))
        slots = lay_out(pattern, tiles, (2, 4), spread=True)
        widths = np.diff(slots.indptr).astype(np.int64)
        costs.append(float((widths * tiles.heights).sum()) / (2 * a.shape[0] * a.shape[1]))
        if height == 64:
            order = tiles.order_name
            if order == "natural" and not (slots.forms == FORMS.index("packed")).any():
                order = "as it is"
            shown = {"order": order, "gap": widths.sum() / max(1, tiles.bounds.sum())}
            rho = a.nnz / max(1, int(widths.sum()))
    start = process_time()
    A = tvwarray.TVWMatrix(a, tile_rows=64)
    seconds = process_time() - start
    back = A.tocsr()
    same = (back.indptr == a.indptr).all() and (back.indices == a.indices).all()
    if not same or back.data.tobytes() != a.data.tobytes():
        raise AssertionError(f"{name} did not come back as it was")
    csr = a.nnz * 8 + 4 * (a.shape[0] + 1)
    cost = " / ".join(f"{c:.2g}" for c in costs)
    coo = a.tocoo()
    blocks = np.unique(coo.coords[0] // 32 * np.int64(a.shape[1]) + coo.coords[1] // 32).size
    bsr = min(1.0, blocks * 1024 / (a.shape[0] * a.shape[1]))
    return (
        f"| {name} | {a.nnz:.3g} | {shown['order']} | {cost} | {shown['gap']:.3f} | {rho:.3g} "
        f"| {A.nbytes / csr:.2g} | {bsr:.2g} | {seconds:.2g} |"
    )


if __name__ == "__main__":
    main()
