"""Record what this GPU makes of single tensor-core instructions: python tests/gpu/record.py [FILE]

Needs a GPU of compute capability 9.0 and CuPy. Writes `tests/data/tensor_cores_sm_90.npz`, which
`tests/test_ptx_recorded.py` holds the interpreter to; says where the two differ.
"""

from __future__ import annotations

import sys
from pathlib import Path

import cupy
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ptx import snippets
from tensor_core_records import FILE, Mma, Wgmma, instructions, save, warpgroup_products


class Hardware(snippets.Backend):
    """Runs snippets on the GPU."""

    def launch(self, text: str, grid: int, block: int, args: list[np.ndarray]) -> None:
        run(text, grid, block, args)


def run(text: str, grid: int, block: int, args: list[np.ndarray], shared: int = 0) -> None:
    """Assemble PTX, run its kernel ``k`` on arrays, and bring back what it changed."""
    module = cupy.cuda.function.Module()
    module.load(text.encode())
    device = [cupy.asarray(array) for array in args]
    module.get_function("k")((grid,), (block,), tuple(device), shared_mem=shared)
    for array, moved in zip(args, device, strict=True):
        array[...] = moved.get()


def on_hardware(case: Mma | Wgmma) -> np.ndarray:
    """Return what the GPU makes of an instruction."""
    if isinstance(case, Mma):
        before, snippets.backend = snippets.backend, Hardware()
        try:
            return case.run()
        finally:
            snippets.backend = before
    out = case.empty()
    image, words = (x.copy() for x in case.operands)
    run(case.text(), 1, 128, [image, words, out], image.nbytes)
    return out


def main(path: Path) -> None:
    """Record every case."""
    results = []
    for case in (*instructions(), *warpgroup_products()):
        got = on_hardware(case)
        results.append((case, got))
        if not np.array_equal(got, case.run()):
            worst = abs(got.view(np.float32) - case.run().view(np.float32)).max()
            print(f"{case.name}: differs from the interpreter, by {worst:.3g} at most")
    save(path, results)
    print(f"{len(results)} instructions in {path}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if sys.argv[1:] else FILE)
