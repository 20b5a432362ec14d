"""Tables (Markdown, printed) and plots of the accuracy study, from what `run.py` wrote.

    python asv_bench/study/report.py asv_bench/study/results docs/_static

Needs matplotlib.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot as plt

STAGES = (0.5, 0.75, 0.875, 0.9375)
ACROSS = (
    "EW", "TEW", "TEW grouped", "TVW both", "TVW both, 128 rows", "TVW both, counts 0.5-1.5",
    "TVW grouped", "TVW permuted", "TVW", "TW grouped", "TW-2D", "TW-1D", "BW 32",
)  # fmt: skip
WITHIN = (
    "EW, layer", "TEW, layer", "TVW both, layer", "TVW permuted, layer", "TVW, layer",
    "TW-2D, layer", "TW-1D, layer", "BW 32, layer", "VW", "V:N:M 128",
)  # fmt: skip

# The colours of Okabe and Ito, which people tell apart however they see colours.
STYLES = {
    "EW": ("black", "o"), "TEW": ("#cc79a7", "P"), "TVW both": ("#0072b2", "s"),
    "TVW permuted": ("#56b4e9", "D"), "TVW": ("#009e73", "^"), "TW-2D": ("#e69f00", "v"),
    "BW 32": ("#d55e00", "X"), "VW": ("#999999", "<"), "V:N:M 128": ("#666666", ">"),
}  # fmt: skip

Results = dict[tuple[str, float], np.ndarray]
"""Of a contestant at a sparsity: a value for each seed, seeds in order."""


def load(path: Path, task: str, key: str = "test") -> Results:
    """Return the results of a task."""
    with path.open() as file:
        rows = [json.loads(line) for line in file][1:]
    found: dict[tuple[str, float], dict[int, float]] = {}
    for row in rows:
        if row["task"] == task and key in row:
            found.setdefault((row["contestant"], row["target"]), {})[row["seed"]] = row[key]
    return {k: np.array([v[s] for s in sorted(v)]) for k, v in found.items()}


def table(results: Results, names: Sequence[str], stages: Sequence[float] = STAGES) -> str:
    """Return means and their standard errors over the seeds."""
    lines = ["| pattern | " + " | ".join(f"{100 * s:g} %" for s in stages) + " |"]
    lines.append("|:--|" + "--:|" * len(stages))
    for name in names:
        cells = [_cell(results.get((name, s))) for s in stages]
        lines.append(f"| {name.removesuffix(', layer')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def differences(results: Results, pairs: Sequence[tuple[str, str]]) -> str:
    """Return means of differences within a seed, and their standard errors."""
    lines = ["| difference | " + " | ".join(f"{100 * s:g} %" for s in STAGES) + " |"]
    lines.append("|:--|" + "--:|" * len(STAGES))
    for a, b in pairs:
        both = [(results.get((a, s)), results.get((b, s))) for s in STAGES]
        cells = [_cell(None if x is None or y is None else x - y, "+") for x, y in both]
        lines.append(f"| {a} − {b} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(values: np.ndarray | None, sign: str = "") -> str:
    if values is None:
        return "–"
    error = values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():{sign}.4f} ± {error:.4f}".replace("0.", ".").replace("-", "−")


def plot_text(results: Results, path: Path) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(9.5, 4.2), sharey=True, layout="constrained")
    dense = results["dense", 0.0].mean()
    for ax, suffix, title in zip(
        axes,
        ("", ", layer"),
        ("all layers ranked", "each layer for itself"),
        strict=True,
    ):
        for name, (color, marker) in STYLES.items():
            full = name if name in ("VW", "V:N:M 128") else name + suffix
            if not suffix and full in ("VW", "V:N:M 128"):
                continue
            _line(ax, results, full, name, STAGES, color, marker)
        ax.axhline(dense, color="gray", lw=0.8, ls="--", label="dense")
        ax.set(title=title, xlabel="pruned", ylim=(0.5, 0.77))
        ax.legend(fontsize=7.5, loc="lower left")
    axes[0].set_ylabel("Pearson's r, test split")
    _save(figure, path)


def plot_images(results: Results, path: Path) -> None:
    stages = (*STAGES, 0.96875)
    figure, ax = plt.subplots(figsize=(5.6, 3.8), layout="constrained")
    for name in ("EW", "TVW both", "TVW", "TW-2D", "BW 32"):
        _line(ax, results, f"{name}, floor 0.25", name, stages, *STYLES[name])
    _line(ax, results, "TVW, floor 0", "TVW, no floor", stages, STYLES["TVW"][0], "x", ls=":")
    ax.set(xlabel="pruned", ylabel="share of digits right, test split", ylim=(0.3, 1))
    ax.legend(fontsize=8)
    _save(figure, path)


def _line(
    ax: Any, results: Results, name: str, label: str, stages: Sequence[float],
    color: str, marker: str, ls: str = "-",
) -> None:  # fmt: skip
    values = [results[name, s] for s in stages]
    places = np.arange(len(stages))
    errors = [v.std(ddof=1) / len(v) ** 0.5 for v in values]
    ax.errorbar(
        places, [v.mean() for v in values], errors,
        color=color, marker=marker, ms=4, lw=1.2, ls=ls, capsize=2, label=label,
    )  # fmt: skip
    ax.set_xticks(places, [f"{100 * s:g} %" for s in stages])


def _save(figure: Any, path: Path) -> None:
    # Equal results make equal files, and text stays text.
    plt.rcParams |= {"svg.hashsalt": "study", "svg.fonttype": "none"}
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def main() -> None:
    source, target = (Path(a) for a in sys.argv[1:3])
    text = load(source / "study.jsonl", "text")
    images = load(source / "study.jsonl", "images")
    ablations = load(source / "ablations.jsonl", "text")
    print(f"dense {_cell(text['dense', 0.0])}, images {_cell(images['dense', 0.0])}\n")
    print(table(text, (*ACROSS, "not pruned")), "\n")
    print(table(text, WITHIN), "\n")
    pairs = [("TVW both", "EW"), ("TVW both", "TVW"), ("EW", "TEW"), ("TEW", "TVW both")]
    pairs += [("TVW both", "TW grouped"), ("TVW", "TW-2D"), ("TW-2D", "BW 32"), ("TVW", "VW")]
    print(differences(text, pairs), "\n")
    kinds = ("", ", no floor", ", from 75 %", ", frozen")
    print(table(ablations, [f"{n}{k}" for k in kinds for n in ("EW", "TVW both", "TVW")]), "\n")
    print(
        differences(ablations, [(f"TVW both{k}", f"{n}{k}") for k in kinds for n in ("EW", "TVW")])
    )
    print(differences(ablations, [("TVW both, 32 rows", "EW")]), "\n")
    stages = (*STAGES, 0.96875)
    flat = [
        f"{n}, floor {f}" for n in ("EW", "TVW both", "TVW", "TW-2D", "BW 32") for f in (0.25, 0)
    ]
    print(table(images, flat, stages), "\n")
    print(table(load(source / "study.jsonl", "images", "least"), flat, stages), "\n")
    print("share of the score that is kept, text\n")
    print(table(load(source / "study.jsonl", "text", "score_kept"), ACROSS))
    plot_text(text, target / "study_text.svg")
    plot_images(images, target / "study_images.svg")


if __name__ == "__main__":
    main()
