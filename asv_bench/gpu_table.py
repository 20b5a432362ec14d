"""The tables of docs/benchmarks.md from a run: python asv_bench/gpu_table.py FOLDER.

FOLDER holds the ``products.csv`` that `gpu_run.py` wrote.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

WAYS = (
    "TVW 256", "TVW 128", "TVW 64", "TVW 32", "TW 128", "cuSPARSELt 2:4", "BSR 32", "BSR 64",
    "BSR 128", "CSR",
)  # fmt: skip
SPARSITIES = ("0.5", "0.75", "0.875", "0.95")


def table(header: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def squares(rows: list[dict[str, str]]) -> str:
    """Return speed over dense by size and way, at each sparsity."""
    found, dense, sizes = {}, {}, []
    for r in rows:
        size = r["rows"], r["cols"], r["n"]
        if size not in sizes:
            sizes.append(size)
        found[size, r["what"], r["sparsity"]] = float(r["speedup"])
        if r["what"] == "cuBLAS":
            dense[size] = float(r["us"])
    header = ["", *(f"{'x'.join(s)}" for s in sizes)]
    lines = [["cuBLAS, us", *(f"{dense[s]:.0f}" for s in sizes)]]
    for way in WAYS:
        cells = [[found.get((s, way, p)) for p in SPARSITIES] for s in sizes]
        if way.startswith("cuSPARSELt"):
            cells = [c[:1] for c in cells]
        shown = [" / ".join("-" if v is None else f"{v:.2f}" for v in c) for c in cells]
        lines.append([way, *shown])
    return table(header, lines)


def layers(rows: list[dict[str, str]]) -> str:
    """Return times of layers by right-hand sides: ours and the dense product's."""
    found = {(r["rows"], r["cols"], r["n"], r["what"], r["sparsity"]): r for r in rows}
    shapes = list(dict.fromkeys((r["rows"], r["cols"]) for r in rows))
    ns = list(dict.fromkeys(r["n"] for r in rows))
    lines = []
    for shape in shapes:
        for what, sparsity in (("cuBLAS", "0.0"), ("TVW 128", "0.75"), ("TVW 256", "0.75"),
                               ("TVW 128", "0.95")):  # fmt: skip
            cells = []
            for n in ns:
                r = found.get((*shape, n, what, sparsity))
                speed = "" if what == "cuBLAS" or r is None else f" ({float(r['speedup']):.2f}x)"
                cells.append("-" if r is None else f"{float(r['us']):.1f}{speed}")
            name = what if what == "cuBLAS" else f"{what}, {100 * float(sparsity):g} %"
            lines.append(["x".join(shape), name, *cells])
    return table(["layer", "", *(f"n = {n}" for n in ns)], lines)


def main() -> None:
    """Print the tables."""
    rows = list(csv.DictReader(Path(sys.argv[1], "products.csv").read_text().splitlines()))
    print(squares([r for r in rows if r["part"] == "square"]), end="\n\n")
    print(layers([r for r in rows if r["part"] == "layer"]))


if __name__ == "__main__":
    main()
