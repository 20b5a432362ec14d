"""What the tensor cores of one GPU made of single instructions, and the operands they had.

`tests/gpu/record.py` writes the file on a GPU, `test_ptx_recorded.py` holds the interpreter to it
anywhere. Operands are kept as registers, so that nothing but the instruction lies between the two:
a mistake that interpreter and oracle share would show here alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import test_ptx_wgmma as wgmma
from ptx.fragments import (
    A_PLACES,
    B_PLACES,
    FAMILY,
    SELECTORS,
    WIDTH,
    accumulator,
    c_place,
    encode,
    integers,
    run_mma,
    sparse_operand,
    spread,
)
from ptx.machine import Interpreter
from test_ptx_tensor import DENSE, SPARSE
from test_ptx_wgmma_bytes import CASES, DEPTH, DTYPES, ByteProblem

FILE = Path(__file__).parent / "data" / "tensor_cores_sm_90.npz"

FLOATS = ("f16", "bf16", "tf32")
HALVES = [(64, 128, 128), (128, 64, 64), (256, 64, 64)]
"""Widths, depths and swizzles of 16-bit ``wgmma``."""
_WARPS = 1


@dataclass(frozen=True)
class Mma:
    """An instruction of a warp, with operands: integers, whose sums are exact, or normals."""

    mnemonic: str
    selector: int
    values: str
    operands: tuple[np.ndarray, ...]
    """Registers of A, B and C, shape (warps, registers, 32), and words of metadata."""

    @property
    def name(self) -> str:
        return f"{self.mnemonic} {self.selector} {self.values}"

    def run(self) -> np.ndarray:
        """Return registers of D, by what runs snippets: the interpreter, or a GPU in its place."""
        a, b, c, words = self.operands
        metadata = words if words.size > 1 else None
        return run_mma(self.mnemonic, a, b, c, metadata, self.selector)


def instructions() -> Iterator[Mma]:
    """Draw operands for every shape, type, selector and form, every lane and register another."""
    for values, (shape, kind), form in product(
        ("integers", "normals"), SPARSE, ("sp::ordered_metadata", "sp")
    ):
        family = FAMILY[kind]
        if values == "normals" and (kind not in FLOATS or form == "sp"):
            continue
        for selector in range(SELECTORS[shape, family]):
            rng = np.random.default_rng(selector)
            _, a, words = sparse_operand(rng, shape, kind, _WARPS, selector, ordered=form != "sp")
            if values == "normals":
                k = int(shape[6:]) // 2
                a = _registers(rng, kind, (16, k), A_PLACES[shape, family, True])
            name = f"mma.{form}.sync.aligned.{shape}.row.col"
            yield _with(rng, name, shape, kind, values, a, words, selector)
    for values, (shape, kind) in product(("integers", "normals"), DENSE):
        if values == "normals" and kind not in FLOATS:
            continue
        rng = np.random.default_rng(1)
        place, matrix = A_PLACES[shape, FAMILY[kind], False], (16, int(shape[6:]))
        a = _registers(rng, kind, matrix, place, values)
        name = f"mma.sync.aligned.{shape}.row.col"
        yield _with(rng, name, shape, kind, values, a, np.zeros(1, np.uint32), 0)


def _with(
    rng: np.random.Generator, name: str, shape: str, kind: str, values: str,
    a: np.ndarray, words: np.ndarray, selector: int,
) -> Mma:  # fmt: skip
    """Draw B and C."""
    b = _registers(rng, kind, (int(shape[6:]), 8), B_PLACES[FAMILY[kind]], values)
    sums, dtype = accumulator(kind)
    c = rng.integers(-1000, 1000, (_WARPS, 16, 8))
    if values == "normals":
        c = rng.standard_normal((_WARPS, 16, 8))
    spread_c = np.stack([spread(m.astype(dtype).view(np.uint32), c_place, 32) for m in c])
    return Mma(f"{name}.{sums}.{kind}.{kind}.{sums}", selector, values, (a, b, spread_c, words))


def _registers(
    rng: np.random.Generator, kind: str, shape: tuple[int, int], place, values: str = "normals"
) -> np.ndarray:
    drawn = rng.standard_normal((_WARPS, *shape))
    if values == "integers":
        drawn = integers(rng, kind, (_WARPS, *shape))
    return np.stack([spread(encode(m, kind), place, WIDTH[FAMILY[kind]]) for m in drawn])


@dataclass(frozen=True)
class Wgmma:
    """``wgmma.sp`` on an image of shared memory."""

    n: int
    depth: int
    swizzle: int
    kind: str
    other: str
    """The type of X, which may differ from that of A where both have 8 bits."""
    operands: tuple[np.ndarray, ...]
    """The image, and words of metadata."""

    @property
    def name(self) -> str:
        return f"wgmma.sp {self.n} {self.depth} {self.swizzle} {self.kind} {self.other}"

    def text(self) -> str:
        """Return the PTX, which takes the image, the words and the sums of every thread."""
        problem = _problem(self.n, self.depth, self.swizzle, self.kind, self.other)
        body = f"{wgmma.BEGIN} {problem.steps()} {wgmma.COMMIT} {wgmma.WAIT}"
        return problem.text(body, wgmma.FENCE)

    def empty(self) -> np.ndarray:
        """Return sums of every thread that nobody has written."""
        return np.full((128, self.n // 2), wgmma.NEVER, accumulator(self.kind)[1])

    def run(self) -> np.ndarray:
        """Return the sums of every thread, by the interpreter."""
        out = self.empty()
        image, words = self.operands
        Interpreter(self.text()).launch("k", 1, 128, [image, words, out], image.nbytes)
        return out


def _problem(n: int, depth: int, swizzle: int, kind: str, other: str) -> wgmma.Problem:
    if kind in DTYPES:
        return ByteProblem(n, kind, other)
    return wgmma.Problem(n, depth, swizzle, kind)


def warpgroup_products() -> Iterator[Wgmma]:
    """Draw operands of integers for each width, layout and type."""
    half = [(*shape, kind, kind) for shape, kind in product(HALVES, ("f16", "bf16"))]
    byte = [(n, DEPTH, 64, kind, other or kind) for kind, other, n in CASES if n <= 128]
    for shape in (*half, *byte):
        drawn = _problem(*shape)
        yield Wgmma(*shape, (drawn.image, drawn.words))


def save(path: Path, results: list[tuple[Mma | Wgmma, np.ndarray]]) -> None:
    """Write operands and results."""
    arrays = {}
    for case, result in results:
        for i, operand in enumerate(case.operands):
            arrays[f"{case.name}|{i}"] = operand
        arrays[f"{case.name}|result"] = result
    np.savez_compressed(path, **arrays)


def load(path: Path = FILE) -> dict[str, tuple[Mma | Wgmma, np.ndarray]]:
    """Return the recorded cases by name, each with what the hardware made of it."""
    found: dict[str, tuple[Mma | Wgmma, np.ndarray]] = {}
    with np.load(path) as file:
        for name in dict.fromkeys(key.partition("|")[0] for key in file):
            result, what = file[f"{name}|result"], name.split()
            count = sum(key.startswith(f"{name}|") for key in file) - 1
            operands = tuple(file[f"{name}|{i}"] for i in range(count))
            if what[0] == "wgmma.sp":
                n, depth, swizzle = map(int, what[1:4])
                found[name] = Wgmma(n, depth, swizzle, *what[4:], operands), result
            else:
                found[name] = Mma(what[0], int(what[1]), what[2], operands), result
    return found
