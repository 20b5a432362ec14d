"""Where a kernel's time goes: time it with one part left out. python tests/gpu/ablations.py

Needs what `timings.py` needs. Results of the altered kernels are wrong on purpose; their times
bound what the part costs beside all others. A variant is a set of replacements in the sources.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import cupy
import numpy as np
from kernel_problems import BFLOAT16
from timings import dense_us, matrix, median_us

from tvwarray._kernels import product
from tvwarray._kernels.compile import compile_kernel, shipped_sources
from tvwarray._kernels.config import KernelConfig
from tvwarray._kernels.hopper.config import HopperConfig, hopper_configs
from tvwarray._kernels.launch import CupyLauncher
from tvwarray._kernels.pack import pack
from tvwarray._kernels.product import multiply
from tvwarray._kernels.select import configs

GATHER = "if (i * of / gathers == share) gather(stage, columns, i);"
VALUES = "if (i * of / value_copies == share) copy_values(stage, brick, i);"
META = "if (of - 1 - i * of / meta_copies == share) copy_meta(stage, brick, i);"
PRODUCT = "                multiply(i);"
LAST_PRODUCT = "            multiply(micro_steps - 1);"
LOAD = "                load_fragments(read, i + 1);"
LAST_LOAD = "            if (step + 1 < block.steps) load_fragments(read, 0);"
BARRIER = "            block_barrier();\n            write = read;"
STORE = "if (to_row[i] < 0) continue;"

NO_GATHER = {GATHER: ";"}
NO_VALUES = {VALUES: ";", META: ";"}
NO_PRODUCT = {PRODUCT: "", LAST_PRODUCT: ""}
NO_LOADS = {LOAD: "", LAST_LOAD: ""}
NO_BARRIER = {BARRIER: "            write = read;"}

MMA_ABLATIONS: dict[str, dict[str, str]] = {
    "everything": {},
    "no gather of X": NO_GATHER,
    "no copies of A": NO_VALUES,
    "no copies": {**NO_GATHER, **NO_VALUES},
    "no products": NO_PRODUCT,
    "no fragment loads": NO_LOADS,
    "no barrier": NO_BARRIER,
    "no stores": {STORE: "if (to_row[i] < 0 || chunk.word[0] != 0x12345) continue;"},
    "copies alone": {**NO_PRODUCT, **NO_LOADS},
    "products and loads alone": {**NO_GATHER, **NO_VALUES, **NO_BARRIER},
    "products alone": {**NO_GATHER, **NO_VALUES, **NO_BARRIER, **NO_LOADS},
    "loads alone": {**NO_GATHER, **NO_VALUES, **NO_BARRIER, **NO_PRODUCT},
}


WGMMA_GATHER = {"column >= 0 && my_n + a * atom_columns < n);": "false);"}
WGMMA_VALUES = {
    "arrive_expecting(my_full, bytes);": "arrive(my_full);",
    "copy_bulk(stage + x_bytes, slabs + slab * slab_bytes, bytes, my_full);": "",
}

WGMMA_ABLATIONS: dict[str, dict[str, str]] = {
    "everything": {},
    "X gathered as zeros": WGMMA_GATHER,
    "no copies of A": WGMMA_VALUES,
    "products alone": {**WGMMA_GATHER, **WGMMA_VALUES},
    "copies alone": {
        "multiply_async<0, false>(c[m], a, b, meta[m]);": ";",
        "multiply_async<1, false>(c[m], a + next_a, b + next_x, meta[m]);": (
            "if (first) multiply_async<1, false>(c[m], a + next_a, b + next_x, meta[m]);"
        ),
    },
    "no stores": {
        "if (to_row[i] >= 0) store(": "if (chunk.word[0] == 0x12345 && to_row[i] >= 0) store("
    },
}
ABLATIONS = {"sm80_tvw_gemm": MMA_ABLATIONS, "sm90_tvw_gemm": WGMMA_ABLATIONS}


def altered(kernel: str, changes: dict[str, str]) -> dict[str, str]:
    """Return a kernel's source with replacements, each of which must be found once."""
    file = f"{kernel}.cu"
    text = shipped_sources(kernel)[file]
    for old, new in changes.items():
        if text.count(old) != 1:
            raise SystemExit(f"found {text.count(old)} times in {file}: {old!r}")
        text = text.replace(old, new)
    return {file: text}


def time_variant(
    config: KernelConfig | HopperConfig,
    changes: dict[str, str],
    packed: Any,
    x: Any,
    out: Any,
    repeats: int,
) -> float:
    """Return the time of an altered kernel in microseconds."""
    launcher = CupyLauncher()
    kernel = compile_kernel(
        config, launcher.device(x).architecture, altered(config.kernel, changes)
    )
    if kernel.usage.spill_bytes:
        print(f"      (spills {kernel.usage.spill_bytes} bytes)")
    kept, product._compiled = product._compiled, lambda *_: kernel
    try:
        return median_us(lambda: multiply(launcher, packed, x, out, config), repeats)
    finally:
        product._compiled = kept


def main() -> None:
    """Print a table for each config."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--size", default="4096x4096x4096")
    parser.add_argument("--sparsity", type=float, default=0.5)
    parser.add_argument("--tile-rows", type=int, default=128)
    parser.add_argument("--configs", nargs="*", type=int, default=[0, 2])
    parser.add_argument("--stages", nargs="*", type=int, default=[])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    with cupy.cuda.Stream(non_blocking=True):
        rows, cols, n = map(int, args.size.split("x"))
        print(f"{args.size}: dense {dense_us(rows, cols, n, args.repeats):.1f} us")
        packed = pack(matrix(rows, cols, args.tile_rows, args.sparsity, True))
        values = np.random.default_rng(2).standard_normal((cols, n), dtype=np.float32)
        x, out = cupy.asarray(values.astype(BFLOAT16)), None
        out = cupy.empty((rows, n), dtype=x.dtype)
        what = CupyLauncher().device(x).architecture, BFLOAT16, True
        shipped = [*configs(*what), *hopper_configs(*what)]
        for i in args.configs:
            print(shipped[i], flush=True)
            for name, changes in ABLATIONS[shipped[i].kernel].items():
                us = time_variant(shipped[i], changes, packed, x, out, args.repeats)
                print(f"  {us:7.1f} us  {name}", flush=True)
            for stages in args.stages:
                config = replace(shipped[i], stages=stages)
                us = time_variant(config, {}, packed, x, out, args.repeats)
                print(f"  {us:7.1f} us  {stages} stages", flush=True)


if __name__ == "__main__":
    main()
