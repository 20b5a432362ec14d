"""The tables of the GPU run: python asv_bench/gpu_table.py [FOLDER] [--write]

FOLDER holds the ``products.csv`` that `gpu_run.py` wrote, by default asv_bench/results/h200, the
run that the pages show. With --write its tables and those that `gpu_ablations.py`, `gpu_items.py`
and `gpu_profile.py` wrote beside it are put into docs/, each between a comment with its name and
one that says "end", and two rows into the README.
"""

from __future__ import annotations

import argparse
import csv
import re
from pathlib import Path

HERE = Path(__file__).resolve().parent
RUN = HERE / "results" / "h200"
DOCS = HERE.parent / "docs"

WAYS = (
    "TVW 256", "TVW 128", "TVW 64", "TVW 32", "TW 128", "cuSPARSELt 2:4", "BSR 32", "BSR 64",
    "BSR 128", "cuSPARSE BSR 32", "cuSPARSE BSR 64", "CSR",
)  # fmt: skip
SPARSITIES = ("0.5", "0.75", "0.875", "0.95")
LAYER_WAYS = (
    ("cuBLAS", "0.0"), *(("TVW 256", s) for s in SPARSITIES), ("TVW 128", "0.75"),
    ("TVW 128", "0.95"), ("cuSPARSELt 2:4", "0.5"), ("BSR 64", "0.75"), ("CSR", "0.75"),
)  # fmt: skip


BUSY = ("at work", "data pipe", "tensor cores")

Counted = dict[tuple[str, str], dict[str, str]]


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
    for way in [w for w in WAYS if any(w == what for _, what, _ in found)]:
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
        known = {(r["what"], r["sparsity"]) for r in rows}
        for what, sparsity in (way for way in LAYER_WAYS if way in known):
            cells = []
            for n in ns:
                r = found.get((*shape, n, what, sparsity))
                speed = "" if what == "cuBLAS" or r is None else f" ({float(r['speedup']):.2f}x)"
                cells.append("-" if r is None else f"{float(r['us']):.1f}{speed}")
            shared = what in ("cuBLAS", "cuSPARSELt 2:4")
            name = what if shared else f"{what}, {100 * float(sparsity):g} %"
            lines.append(["x".join(shape), name, *cells])
    return table(["layer", "", *(f"n = {n}" for n in ns)], lines)


def skewed(rows: list[dict[str, str]]) -> str:
    """Return times of equal tiles and of unequal ones of the same work."""
    found = {(r["rows"], r["cols"], r["n"], r["sparsity"], r["what"]): float(r["us"]) for r in rows}
    lines = []
    for *size, sparsity, what in found:
        if what == "TVW 128, 1:20":
            equal, unequal = (found[(*size, sparsity, f"TVW 128, 1:{k}")] for k in (1, 20))
            more = f"{100 * (unequal / equal - 1):.0f} %"
            pruned = f"{100 * float(sparsity):g} %"
            lines.append(["x".join(size), pruned, f"{equal:.1f}", f"{unequal:.1f}", more])
    return table(["", "pruned", "equal tiles, us", "1 to 20, us", "longer"], lines)


def ceilings(rows: list[dict[str, str]]) -> str:
    """Return what a copy and a large dense product reach."""
    us = {r["what"]: float(r["us"]) for r in rows}
    copied = 2 * 2 * 32768**2 / us["copy"] / 1e6
    rate = 2 * 8192**3 / us["cuBLAS"] / 1e6
    return f"copy {copied:.2f} TB/s, read and written; cuBLAS at 8192^3 {rate:.0f} TFLOP/s"


def parts(rows: list[dict[str, str]]) -> str:
    """Return where the time of a product goes."""
    lines = []
    for r in rows:
        size = "x".join((r["rows"], r["cols"], r["n"]))
        lines.append(["" if size == "0x0x0" else size, _named(r), f"{float(r['us']):.1f}"])
    return table(["product", "", "us"], lines)


def host(rows: list[dict[str, str]]) -> str:
    """Return what calls take of the host."""
    sizes = list(dict.fromkeys((r["rows"], r["cols"], r["n"]) for r in rows))
    found = {(r["rows"], r["cols"], r["n"], r["what"]): float(r["us"]) for r in rows}
    lines = []
    for what in dict.fromkeys(r["what"] for r in rows):
        times = [found.get((*size, what)) for size in sizes]
        lines.append([what, *("-" if us is None else f"{us:.1f}" for us in times)])
    return table(["us", *("x".join(size) for size in sizes)], lines)


def _named(row: dict[str, str]) -> str:
    share = float(row["sparsity"])
    return row["what"] if share in (0, 1) else f"{row['what']}, {100 * share:g} %"


def goals(rows: list[dict[str, str]], counted: Counted) -> str:
    """Return what was aimed at, what was measured at 4096^3 and 8192^3, and what limits it.

    `counted` is what the profiler counted (`counts`); without it limits that it knows are "-".
    """
    named = ("part", "rows", "cols", "n", "what", "sparsity")
    us = {tuple(r[name] for name in named): float(r["us"]) for r in rows}

    def over(other: str, tvw: str, sparsity: str, of: str = "") -> list[str]:
        """Return how often ours fits into the other's time, at both sizes."""
        cells = []
        for side in ("4096", "8192"):
            theirs = us.get(("square", side, side, side, other, of or sparsity))
            mine = us.get(("square", side, side, side, tvw, sparsity))
            cells.append("-" if theirs is None or mine is None else f"{theirs / mine:.2f}")
        return cells

    lines = []
    for s, tile_rows, aim in (
        ("0.5", 256, "1.6"), ("0.75", 128, "2.0"), ("0.75", 256, "2.5, 3.0"),
        ("0.875", 256, "3.5, 5"), ("0.95", 256, "7, 10"),
    ):  # fmt: skip
        of = f"{100 * float(s):g} %, {tile_rows}"
        limit = [busy(counted.get((f"{side}x{side}x{side}", of))) for side in (4096, 8192)]
        if s == "0.95":
            limit[0] = _stored(us) + "; " + limit[0]
        found = over("cuBLAS", f"TVW {tile_rows}", s, "0.0")
        lines.append([f"over cuBLAS, {of} rows", aim, *found, " / ".join(limit)])
    for other, aim in (("BSR 32", "5"), ("BSR 128", "1.8")):
        each = [over(other, "TVW 256", s) for s in SPARSITIES]
        both = [" / ".join(column) for column in zip(*each, strict=True)]
        lines.append([f"over {other}, 50 / 75 / 87.5 / 95 %", aim, *both, "as above"])
    lines.append(["over CSR, 75 %", "100", *over("CSR", "TVW 256", "0.75"), ""])
    for layer in (("3072", "768", "4096"), ("768", "3072", "4096")):
        if ("layer", *layer, "cuBLAS", "0.0") in us:
            best = min(us[("layer", *layer, f"TVW {t}", "0.75")] for t in (128, 256))
            cells = [f"{us[('layer', *layer, 'cuBLAS', '0.0')] / best:.2f}", ""]
            limit = [busy(counted.get(("x".join(layer), "75 %, 256")))]
            lines.append([f"over cuBLAS, BERT, {'x'.join(layer)}, 75 %", "2.0", *cells, *limit])
    one = [us.get(("layer", "4096", "4096", "1", f"TVW {t}", "0.75")) for t in (128, 256)]
    if found := [time for time in one if time is not None]:
        limit = [_alone(us, counted)]
        lines.append(["n = 1, 4096x4096, 75 %, us", "5", f"{min(found):.1f}", "", *limit])
    sizes = [key[1:4] for key in us if key[0] == "host" and key[4] == "A @ X"]
    if sizes:
        calls, kernel, array = (
            " / ".join(f"{us[('host', *size, what, '0.75')]:.1f}" for size in sizes)
            for what in ("A @ X", "an empty kernel", "a new array")
        )
        limit = [f"an empty kernel {kernel}, a new array {array}"]
        lines.append(["host time of `A @ X`, three sizes, us", "15", calls, "", *limit])
    return table(["", "goal", "4096^3", "8192^3", "what limits it, measured"], lines)


def busy(counts: dict[str, str] | None) -> str:
    """Return how busy a product keeps the chip, as the profiler counts it."""
    if counts is None:
        return "-"
    work, pipe, cores = (f"{float(counts[f'{of}, %']):.0f} %" for of in BUSY)
    clock = float(counts["cycles"]) / float(counts["us"]) / 1e3
    return f"at work {work}, data pipe {pipe}, tensor cores {cores}, {clock:.2f} GHz"


def _stored(us: dict[tuple[str, ...], float]) -> str:
    """Return how much of a product at 95 % is taken by storing Y."""
    cube = ("parts", *("4096",) * 3)
    zeros, whole = us.get((*cube, "zeros stored", "1.0")), us.get((*cube, "TVW 256", "0.95"))
    if zeros is None or whole is None:
        return "-"
    return f"of {whole:.1f} us {zeros:.1f} store Y without a product"


def _alone(us: dict[tuple[str, ...], float], counted: Counted) -> str:
    """Return what a product with one vector cannot do without, and what it takes of memory."""
    empty = us.get(("parts", "0", "0", "0", "empty kernel", "0.0"))
    one = counted.get(("4096x4096x1", "75 %, 128"))
    if empty is None or one is None:
        return "-"
    read, time = float(one["from memory, MB"]), float(one["us"])
    return (
        f"an empty kernel {empty:.1f} us; by the profiler's clock {time:.1f} us, in which "
        f"{read:.1f} MB come at {read / time:.1f} TB/s"
    )


SHOWN = {
    "square": squares, "layer": layers, "skew": skewed, "float16": squares,
    "float16 layer": layers, "ceilings": ceilings, "parts": parts, "A.T": parts, "host": host,
    "end to end": host,
}  # fmt: skip


def counts(folder: Path) -> Counted:
    """Return what `gpu_profile.py` counted, by size and by share pruned and height of tiles."""
    profile = finished(folder).get("profile", "")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in profile.split("\n")]
    return {(line[0], line[1]): dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def tables(folder: Path) -> dict[str, str]:
    """Return the tables of a run by name, in the order of the page."""
    rows = list(csv.DictReader((folder / "products.csv").read_text().splitlines()))
    found = {part: [r for r in rows if r["part"] == part] for part in SHOWN}
    shown = {part: SHOWN[part](of) for part, of in found.items() if of}
    return {**shown, "goals": goals(rows, counts(folder))}


def finished(folder: Path) -> dict[str, str]:
    """Return the tables that `gpu_ablations.py` and `gpu_profile.py` wrote, by name."""
    text = "\n".join(file.read_text() for file in sorted(folder.glob("*.md")))
    return dict(re.findall(r"<!-- (.+?) -->\n(.*?)\n<!-- end -->", text, flags=re.S))


def written(page: str, made: dict[str, str]) -> str:
    """Return the page with its tables replaced, those that have a place in it."""
    for name, text in made.items():
        place = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(\n<!-- end -->)", re.S)
        page = place.sub(lambda m, t=text: f"{m[1]}{t}{m[2]}", page)
    return page


def readme(text: str, folder: Path) -> str:
    """Return the README with its two rows of the run."""
    rows = csv.DictReader((folder / "products.csv").read_text().splitlines())
    speedups = {
        (r["rows"], r["sparsity"]): f"{float(r['speedup']):.1f}"
        for r in rows
        if r["part"] == "square" and r["what"] == "TVW 256" and r["rows"] == r["cols"] == r["n"]
    }
    for start, side in (("one H200, 8192", "8192"), ("the same, 4096", "4096")):
        cells = " | ".join(speedups[side, s] for s in SPARSITIES)
        text, count = re.subn(rf"(?m)^(\| {start}[^|]*\|).*\|$", rf"\1 {cells} |", text)
        if count != 1:
            raise SystemExit(f"the README has {count} rows that begin with {start!r}, not one.")
    return text


def pages() -> dict[Path, str]:
    """Return the pages of the kept run, as they are to be."""
    made = {**tables(RUN), **finished(RUN)}
    found = {page: page.read_text() for page in sorted(DOCS.glob("*.md"))}
    for name in made:
        places = sum(text.count(f"<!-- {name} -->\n") for text in found.values())
        if places != 1:
            raise SystemExit(f"the pages have {places} places for the table {name!r}, not one.")
    first = HERE.parent / "README.md"
    return {
        first: readme(first.read_text(), RUN),
        **{page: written(text, made) for page, text in found.items()},
    }


def main() -> None:
    """Print the tables, or write them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=RUN)
    parser.add_argument("--write", action="store_true", help="put what is kept into the pages")
    args = parser.parse_args()
    if args.write:
        for page, text in pages().items():
            page.write_text(text)
    else:
        made = tables(args.folder)
        print("\n\n".join(f"{name}\n\n{text}" for name, text in made.items()))


if __name__ == "__main__":
    main()
