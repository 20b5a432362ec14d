"""Run every shipped kernel under compute-sanitizer: python tests/gpu/sanitize.py [tool ...]

Needs a GPU, CuPy, and compute-sanitizer on the PATH or in CUDA_HOME. Without arguments all of
memcheck, racecheck, initcheck and synccheck run; `--kernels` names those that are to run, as their
source files are called. The exit status is that of the worst.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tvwarray._kernels.compile import CompiledKernel, compile_kernel, shipped_sources

HERE = Path(__file__).resolve().parent
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")


def sanitizer() -> str:
    """Return where compute-sanitizer is."""
    home = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda"))
    found = shutil.which("compute-sanitizer") or shutil.which(
        "compute-sanitizer",
        path=os.pathsep.join([str(home / "bin"), str(home / "compute-sanitizer")]),
    )
    if found is None:
        raise SystemExit("compute-sanitizer is not installed (it comes with the CUDA toolkit)")
    return found


def every_lane_tells(kernel: str) -> dict[str, str]:
    """Return a Hopper kernel's sources, changed so that all lanes of a warp tell its barriers.

    As shipped, one lane does so behind a warp barrier, and racecheck orders that lane alone: it
    reports every second use of a stage, and says the same of two warps that share one word.
    """
    found = {}
    for name, text in shipped_sources(kernel).items():
        lines = [
            re.sub(r"(config::gather_warps|multiply_warps)", r"32 * \1", line)
            if "init_barrier(full" in line or "init_barrier(empty" in line
            else line
            for line in text.split("\n")
        ]
        told = re.sub(r"if \((lane|thread % 32) == 0\) arrive\(", "arrive(", "\n".join(lines))
        told = told.replace(
            "if (lane < config::cluster) arrive_remotely(map_to(barrier, lane));",
            "for (int b = 0; b < config::cluster; ++b) arrive_remotely(map_to(barrier, b));",
        )
        if told != text:
            found[name] = told
    return found


def workload(tool: str, kernels: list[str]) -> None:
    """Run small, ragged products through every config of the kernels; what `tool` watches."""
    sys.path.insert(0, str(HERE.parent))
    import cupy
    import numpy as np
    from kernel_problems import BFLOAT16, FLOAT16, Product, exact
    from test_gpu import architecture, array_to_gpu, shipped, to_gpu
    from test_gpu_items import OneMultiprocessor, variants_of
    from test_hopper_boxes import plain
    from test_hopper_bytes import E4M3
    from test_hopper_bytes import ragged as byte_problem
    from test_kernels_types import problem as type_problem

    from tvwarray import Epilogue
    from tvwarray._kernels import product
    from tvwarray._kernels.config import few_config
    from tvwarray._kernels.elements import form_of, refusal
    from tvwarray._kernels.hopper.config import hopper_configs
    from tvwarray._kernels.hopper.config8 import byte_configs
    from tvwarray._kernels.launch import CupyLauncher
    from tvwarray._kernels.pack import pack
    from tvwarray._kernels.select import configs, configs_of

    # Pools hide accesses beyond an array from the tools.
    cupy.cuda.set_allocator(None)
    here, launcher = architecture(), CupyLauncher()

    def report(what: Any, right: bool) -> None:
        print("exact" if right else "WRONG", what, flush=True)
        if not right:
            raise SystemExit(1)

    def compiled(config: Any, target: str) -> CompiledKernel:
        told = tool == "racecheck" and config.kernel.startswith("sm90")
        return compile_kernel(config, target, every_lane_tells(config.kernel) if told else None)

    def run(problem: Product, config: Any, form: Any = None, fused: bool = False) -> None:
        if kernels and config.kernel not in kernels:
            return
        packed, x = pack(to_gpu(problem.storage), form), array_to_gpu(problem.x)
        exactly = exact(problem)[0]
        by: dict[str, Any] = {}
        if fused:
            bias = np.arange(len(exactly), dtype=np.float32)
            by = {"epilogue": Epilogue(bias=cupy.asarray(bias), activation="relu")}
            exactly = np.maximum(exactly + bias[:, None], 0)
        by_columns = getattr(config, "column_major", False)
        out = cupy.empty(exactly.shape, x.dtype, order="F") if by_columns else None
        start = OneMultiprocessor() if getattr(config, "persistent", False) else launcher
        with patch.object(product, "_compiled", compiled):
            got = product.multiply(start, packed, x, out, config, **by).get()
        right = np.array_equal(got, exactly.astype(got.dtype))
        report(f"{config} with an epilogue" if fused else config, right)

    for dtype in (FLOAT16, BFLOAT16):
        for sparse in (True, False):
            problem, own = _problem(dtype, sparse, 72), configs(here, dtype, sparse)
            for config in shipped(here, dtype, sparse):
                run(problem, config)
                if dtype == FLOAT16 and sparse:
                    run(problem, config, fused=True)
                    for variant in variants_of(config) if config in own else ():
                        run(problem, variant)
                        run(problem, variant, fused=True)
            for n in (1, 5, 64):
                config = few_config(dtype.name, sparse, n, _problem(dtype, sparse, n).x.shape[0])
                run(_problem(dtype, sparse, n), config)
                run(_problem(dtype, sparse, n), config, fused=True)
    for config in hopper_configs(here, FLOAT16, True, every_column=True):
        if config.boxes:
            run(plain([200, 75], 400, 264, dropped=9), config)
    for kind, precision in (
        (np.dtype(np.int8), "default"), (E4M3, "default"), (E4M3, "highest"),
        (np.dtype(np.float32), "highest"), (np.dtype(np.float32), "tf32"),
    ):  # fmt: skip
        form = form_of(kind, precision)
        for config in byte_configs(here, form, True):
            run(byte_problem(kind), config, form)
        if not refusal(form, here):
            for config in configs_of(here, form, True):
                run(type_problem(kind, precision, True), config, form)


def _problem(dtype: Any, sparse: bool, n: int) -> Any:
    """Return a ragged product: its longest tile is several blocks, or fills a ring twice."""
    import numpy as np
    from kernel_problems import Product, draw_tiles, integers, storage_of

    rng = np.random.default_rng(1)
    rows, tiles = draw_tiles(rng, [128, 5, 140, 33], [208, 1024, 64, 0], 20, 300)
    storage = storage_of((rows, 300), tiles, dtype, sparse, integers(rng), rng)
    return Product(storage, integers(rng)((300, n)).astype(dtype))


def main(tools: list[str], kernels: list[str]) -> int:
    """Run the workload under each tool; return the worst exit status."""
    worst = 0
    for tool in tools:
        extra = [] if tool == "initcheck" else ["--kernel-name", "kernel_substring=_tvw_"]
        extra += ["--leak-check=no"] if tool == "memcheck" else []
        command = [
            sanitizer(), f"--tool={tool}", *extra, "--error-exitcode=9",
            sys.executable, __file__, "--workload", tool, "--kernels", *kernels,
        ]  # fmt: skip
        print("==", tool, flush=True)
        status = subprocess.run(command, check=False).returncode
        print("==", tool, "clean" if status == 0 else f"FAILED ({status})", flush=True)
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tools", nargs="*", metavar="tool", help=f"of {', '.join(TOOLS)}")
    parser.add_argument("--kernels", nargs="*", default=[], metavar="NAME")
    parser.add_argument("--workload", choices=TOOLS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.tools) - set(TOOLS):
        parser.error(f"there is no tool {', '.join(unknown)}; choose from {', '.join(TOOLS)}")
    if args.workload:
        workload(args.workload, args.kernels)
    else:
        raise SystemExit(main(args.tools or list(TOOLS), args.kernels))
