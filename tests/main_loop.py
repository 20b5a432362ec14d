"""The main loop of a kernel, counted in its text, and the limits that follow from the counts.

A loop of PTX is what stands between a label and a branch back to it; the main loop is the one that
holds the products. Counts are those of one warp and one step; a multiprocessor runs all warps::

    tensor cores    products x clocks of one
    shared memory   bytes that lanes read, and copies write, / 128 a clock
    L2              bytes of a stage / rate of a multiprocessor
    issue           instructions / 4 schedulers

The share of their peak that tensor cores can reach is their clocks over the longest of these.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.config import KernelConfig
from tvwarray._kernels.cost import RATES
from tvwarray._kernels.devices import generation

L2_BYTES = {"80": 5120 / 108, "86": 20.0, "89": 20.0, "90": 8.3e12 / 132 / 1.755e9, "120": 20.0}
"""Bytes a clock for a multiprocessor: the A100's 5120 for 108 [NVIDIA A100 white paper]; an H200's
measured 8.3 TB/s; of the others what the cost model assumes."""

WIDTH = {"ld.shared.v4": 512, "ld.shared.v2": 256, "ld.shared.b32": 128, "ldmatrix": 512}


@dataclass(frozen=True)
class Limits:
    """Counts of a step in one warp, and clocks of a step on a multiprocessor."""

    counts: Counter[str]
    instructions: int
    clocks: dict[str, float]

    @property
    def share(self) -> float:
        """Of the tensor cores' peak."""
        return self.clocks["tensor cores"] / max(self.clocks.values())

    @property
    def bound(self) -> str:
        """What takes longest."""
        return max(self.clocks, key=lambda name: self.clocks[name])


def main_loop(ptx: str) -> list[str]:
    """Return the instructions of the loop that holds the most products."""
    lines = [line.strip() for line in ptx.splitlines()]
    places = {line[:-1]: i for i, line in enumerate(lines) if re.fullmatch(r"\$L\w+:", line)}
    best: list[str] = []
    for i, line in enumerate(lines):
        target = re.search(r"\bbra(?:\.uni)?\s+(\$L\w+);", line)
        if target and places[target[1]] < i:
            body = lines[places[target[1]] : i + 1]
            body = [x for x in body if x and not x.startswith(("//", "$", "{", "}", "."))]
            if sum("mma" in x for x in body) > sum("mma" in x for x in best):
                best = body
    return best


def limits(config: KernelConfig, architecture: str) -> Limits:
    """Count the main loop of a config and say what it allows on an architecture."""
    body = main_loop(compile_kernel(config, architecture).ptx)
    kinds = (
        "mma.sp", "mma.sync", *WIDTH, "cp.async.cg", "ld.global", "shfl", "bar.sync",
    )  # fmt: skip
    counts = Counter(k for x in body for k in kinds if re.search(rf"(^|\s){re.escape(k)}", x))
    rates, key = RATES[generation(architecture)], generation(architecture)
    product = rates.sparse_clocks if config.sparse else rates.dense_clocks
    read = sum(width * counts[kind] for kind, width in WIDTH.items())
    clocks = {
        "tensor cores": config.warps * (counts["mma.sp"] + counts["mma.sync"]) * product,
        "shared memory": (config.warps * read + config.stage_bytes) / 128,
        "L2": config.stage_bytes / L2_BYTES[key],
        "issue": config.warps * len(body) / 4,
    }
    return Limits(counts, len(body), clocks)
