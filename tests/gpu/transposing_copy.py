"""Time the kernel ``transpose`` against CuPy's copy: python tests/gpu/transposing_copy.py [--sizes]

Needs a GPU and CuPy. A column-major matrix is brought into rows, the L2 cache flushed before each
launch; medians of single launches by CUDA events. Rates count the matrix once read, once written.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import cupy
from timings import median_us

from tvwarray._kernels.launch import CupyLauncher
from tvwarray._kernels.transpose import rows_of


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", nargs="*", default=["4096x4096", "8192x8192", "768x8192"])
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args()
    launcher = CupyLauncher()
    with cupy.cuda.Stream(non_blocking=True):
        for size in args.sizes:
            rows, n = map(int, size.split("x"))
            for dtype in (np.uint8, np.float16, np.float32, np.float64):
                values = cupy.random.standard_normal((n, rows), dtype=np.float32)
                x = values.astype(dtype).T
                moved = 2 * x.nbytes * 1e-6
                assert bool((rows_of(launcher, x, n) == x).all())
                ours = median_us(lambda x=x, n=n: rows_of(launcher, x, n), args.repeats)
                theirs = median_us(lambda x=x: cupy.ascontiguousarray(x), args.repeats)
                plain = median_us(lambda x=values: x.copy(), args.repeats)
                print(
                    f"{size} {np.dtype(dtype).name}: {ours:.1f} us, {moved / ours:.2f} TB/s; CuPy "
                    f"{theirs:.1f} us; a plain copy of float32 {plain:.1f} us"
                )


if __name__ == "__main__":
    main()
