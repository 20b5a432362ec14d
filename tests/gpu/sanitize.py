"""Run every shipped kernel under compute-sanitizer: python tests/gpu/sanitize.py [tool ...]

Needs a GPU, CuPy, and compute-sanitizer on the PATH or in CUDA_HOME. Without arguments all of
memcheck, racecheck, initcheck and synccheck run; the exit status is that of the worst.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

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


def workload() -> None:
    """Run small, ragged products through every config; what the tools watch."""
    sys.path.insert(0, str(HERE.parent))
    import cupy
    import numpy as np
    from kernel_problems import BFLOAT16, FLOAT16, Product, draw_tiles, exact, integers, storage_of

    from tvwarray._kernels.hopper.config import hopper_configs
    from tvwarray._kernels.launch import CupyLauncher
    from tvwarray._kernels.pack import pack
    from tvwarray._kernels.product import multiply
    from tvwarray._kernels.select import configs
    from tvwarray._storage import ARRAY_FIELDS, TVWStorage

    # Pools hide accesses beyond an array from the tools.
    cupy.cuda.set_allocator(None)
    architecture = str(cupy.cuda.Device().compute_capability)
    for dtype in (FLOAT16, BFLOAT16):
        for sparse in (True, False):
            rng = np.random.default_rng(1)
            rows, tiles = draw_tiles(rng, [128, 5, 140, 33], [208, 320, 64, 0], 20, 300)
            storage = storage_of((rows, 300), tiles, dtype, sparse, integers(rng), rng)
            product = Product(storage, integers(rng)((300, 72)).astype(dtype))
            arrays = {name: getattr(storage, name) for name in ARRAY_FIELDS}
            moved = {k: None if v is None else cupy.asarray(v) for k, v in arrays.items()}
            packed = pack(TVWStorage(storage.shape, 256, storage.vector, **moved))
            x, expected = cupy.asarray(product.x), exact(product)[0].astype(dtype)
            what = architecture, dtype, sparse
            for config in (*configs(*what), *hopper_configs(*what)):
                got = multiply(CupyLauncher(), packed, x, config=config).get()
                print("exact" if np.array_equal(got, expected) else "WRONG", config, flush=True)
                if not np.array_equal(got, expected):
                    raise SystemExit(1)


def main(tools: list[str]) -> int:
    """Run the workload under each tool; return the worst exit status."""
    worst = 0
    for tool in tools or TOOLS:
        extra = ["--leak-check=no"] if tool == "memcheck" else []
        command = [
            sanitizer(), f"--tool={tool}", *extra, "--error-exitcode=9", "--kernel-name",
            "kernel_substring=_tvw_gemm", sys.executable, __file__, "--workload",
        ]  # fmt: skip
        print("==", tool, flush=True)
        status = subprocess.run(command, check=False).returncode
        print("==", tool, "clean" if status == 0 else f"FAILED ({status})", flush=True)
        worst = max(worst, status)
    return worst


if __name__ == "__main__":
    if sys.argv[1:] == ["--workload"]:
        workload()
    else:
        raise SystemExit(main(sys.argv[1:]))
