"""Run every shipped kernel under compute-sanitizer: python tests/gpu/sanitize.py [tool ...]

Needs a GPU, CuPy, and compute-sanitizer on the PATH or in CUDA_HOME. Without arguments all of
memcheck, racecheck, initcheck and synccheck run, on all kernels that the package ships; `--kernels`
names those that are to run. The exit status is that of the worst.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from unittest.mock import patch

from tvwarray._kernels import product
from tvwarray._kernels.compile import CompiledKernel, compile_kernel, shipped_sources

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from every_kernel import Place, cases, shipped_kernels

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
    """Run every config of the kernels; what `tool` watches."""
    import cupy
    from test_gpu import architecture, array_to_gpu
    from test_gpu_items import OneMultiprocessor

    from tvwarray._kernels.launch import CupyLauncher

    # Pools hide accesses beyond an array from the tools.
    cupy.cuda.set_allocator(None)

    def compiled(config: Any, target: str) -> CompiledKernel:
        told = tool == "racecheck" and config.kernel.startswith("sm90")
        return compile_kernel(config, target, every_lane_tells(config.kernel) if told else None)

    place = Place(architecture(), CupyLauncher(), OneMultiprocessor(), array_to_gpu)
    ran: Counter[str] = Counter()
    with patch.object(product, "_compiled", compiled):
        for case in cases(place):
            if case.kernel not in kernels:
                continue
            right = case.right()
            print("exact" if right else "WRONG", case.kernel, case.what, flush=True)
            if not right:
                raise SystemExit(1)
            ran[case.kernel] += 1
    for kernel in kernels:
        print(f"{kernel}: {ran[kernel]} runs", flush=True)


def main(tools: list[str], kernels: list[str]) -> int:
    """Run the workload under each tool; return the worst exit status."""
    worst = 0
    for tool in tools:
        # initcheck is told by all kernels what is initialised.
        watched = [] if tool == "initcheck" else kernels
        extra = [word for k in watched for word in ("--kernel-name", f"kernel_name={k}")]
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
    shipped = sorted(shipped_kernels())
    parser.add_argument("--kernels", nargs="+", default=shipped, choices=shipped, metavar="NAME")
    parser.add_argument("--workload", choices=TOOLS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if unknown := set(args.tools) - set(TOOLS):
        parser.error(f"there is no tool {', '.join(unknown)}; choose from {', '.join(TOOLS)}")
    if args.workload:
        workload(args.workload, args.kernels)
    else:
        raise SystemExit(main(args.tools or list(TOOLS), args.kernels))
