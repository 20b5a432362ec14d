"""Where the GPU kernels' time goes: python asv_bench/gpu_ablations.py [--parts ...] [--sizes ...]

Needs a GPU of compute capability 9.0, CuPy and PyTorch. Times shipped kernels whole, with parts
left out, in ways that are not shipped, and with fused epilogues: tables of docs/hopper.md,
docs/hopper8.md and docs/kernels.md. The kernels of a row take turns, with cuBLAS among them; times
are medians of CUDA graph replays by events, the L2 cache flushed before each. Whatever is to be
right is compared with float32 sums first; with parts left out nothing is.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cache
from typing import Any
from unittest.mock import patch

import torch
from gpu import edits, peers
from gpu.clock import Clock, empty_kernel
from gpu.problems import Problem, as_cupy, draw
from gpu_table import table

from tvwarray import Epilogue
from tvwarray._kernels import product
from tvwarray._kernels.compile import compile_kernel
from tvwarray._kernels.hopper.config import HopperConfig
from tvwarray._kernels.launch import CupyLauncher, choose_config
from tvwarray._kernels.pack import PackedMatrix, pack

SPARSITIES = (0.5, 0.75, 0.875, 0.95)
ACTIVATIONS = (None, "relu", "silu", "gelu")
LAUNCHER = CupyLauncher()

Run = Callable[[], object]


class Bench:
    """Products of one problem by configs and edited sources, to be timed."""

    def __init__(self, problem: Problem, result: torch.dtype = torch.bfloat16) -> None:
        self.problem = problem
        self.packed: PackedMatrix = pack(problem.A.storage)
        self.x = as_cupy(problem.x)
        self.y = torch.empty(problem.A.shape[0], problem.x.shape[1], dtype=result, device="cuda")
        self.cast = Epilogue(out_dtype=as_cupy(self.y).dtype)

    def ranked(self, kernel: str) -> list[Any]:
        """Return the shipped configs of a kernel with their modelled microseconds, best first."""
        choice = choose_config(self.packed, self.x.shape[1], LAUNCHER.device(self.x))
        return [
            (c.config, 1e6 * c.prediction.seconds)
            for c in choice.candidates
            if c.config.kernel == kernel and not c.refusal
        ]

    def best(self, kernel: str) -> Any:
        """Return the config of a kernel that ranks first."""
        return self.ranked(kernel)[0][0]

    def run(self, config: Any, changes: edits.Edits = (), epilogue: Epilogue | None = None) -> Run:
        """Return the product by `config`, whose sources are edited."""
        out, by = as_cupy(self.y), epilogue or self.cast

        def compiled(made: Any, architecture: str) -> Any:
            return _compiled(made, architecture, changes)

        def run() -> object:
            with patch.object(product, "_compiled", compiled):
                return product.multiply(LAUNCHER, self.packed, self.x, out, config, by)

        return run

    def checked(self, run: Run, after: Any = None) -> Run:
        """Return `run` if its product is within the error bound."""
        self.y.fill_(float("nan"))
        run()
        torch.cuda.synchronize()
        if not (error := self.problem.check(self.y, after)) <= 1:
            raise AssertionError(f"the product is {error:.3g} times its error bound away")
        return run


@cache
def _compiled(config: Any, architecture: str, changes: edits.Edits) -> Any:
    return compile_kernel(config, architecture, edits.altered(config.kernel, changes))


def show(title: str, header: list[str], rows: list[list[str]]) -> None:
    """Print a table."""
    print(f"{title}\n\n{table(header, rows)}\n", flush=True)


def cells(us: Iterable[float]) -> list[str]:
    """Return times as they are printed."""
    return [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in us]


def left_out(clock: Clock, sides: list[int]) -> None:
    """Time kernels with parts left out."""
    for kernel, sparsity, tile_rows, float8 in (
        ("sm90_tvw_gemm", 0.75, 256, False),
        ("sm90_tvw_gemm8", 0.75, 256, True),
        ("sm80_tvw_gemm", 0.5, 128, False),
    ):
        rows: list[list[str]] = []
        for side in sides:
            problem = draw(side, side, side, sparsity, tile_rows=tile_rows)
            runs = {"cuBLAS": peers.dense(side, side, problem.x)}
            bench = Bench(problem.in_float8() if float8 else problem)
            config = bench.best(kernel)
            runs["whole"] = bench.checked(bench.run(config))
            for name, changes in edits.LEFT_OUT[kernel].items():
                runs[name] = bench.run(config, changes)
            us = clock.medians_us(runs)
            rows.append([f"{side}^3", *cells(us.values())])
        kind = "float8_e4m3" if float8 else "bfloat16"
        title = f"{kernel}, {kind}, {100 * sparsity:g} %, tiles of {tile_rows} rows, us: {config}"
        show(title, ["", "cuBLAS, bfloat16" if float8 else "cuBLAS", *list(us)[1:]], rows)


def variants(clock: Clock, sides: list[int]) -> None:
    """Time what ``sm90_tvw_gemm`` might do otherwise, beside what it does."""
    for boxes, sparsity in ((False, 0.75), (True, 0.5)):
        columns: list[dict[str, float]] = []
        for side in sides:
            problem = draw(side, side, side, sparsity, tile_rows=256)
            bench, runs = Bench(problem), {"cuBLAS": peers.dense(side, side, problem.x)}
            shipped = [c for c, _ in bench.ranked("sm90_tvw_gemm")]
            for config in shipped:
                if boxes or config.block_rows * config.block_n == 256 * 128:
                    runs[f"shipped: {_short(config)}"] = bench.run(config)
            first = next(c for c in shipped if c.boxes == boxes and (boxes or c.cluster == 1))
            for name, changes in () if boxes else edits.OTHERWISE.items():
                runs[name] = bench.run(first, changes)
            for name, shape in (edits.BOXES if boxes else edits.GATHERS).items():
                runs[name] = bench.run(HopperConfig(True, *shape))
            if boxes:
                runs["arrivals at the scope of the cluster"] = bench.run(first, edits.FENCED)
            for name, run in runs.items():
                if name != "cuBLAS":
                    bench.checked(run)
            columns.append(clock.medians_us(runs))
        rows = [[name, *cells(us[name] for us in columns)] for name in runs]
        title = f"sm90_tvw_gemm, bfloat16, {100 * sparsity:g} %, tiles of 256 rows, us"
        show(title, ["", *(f"{side}^3" for side in sides)], rows)


def configs(clock: Clock, sides: list[int]) -> None:
    """Time shipped configs of ``sm90_tvw_gemm``, and what the model says of them."""
    rows: list[list[str]] = []
    for side in sides:
        for tile_rows in (256, 128, 64):
            found: dict[str, list[str]] = {}
            for i, sparsity in enumerate(SPARSITIES):
                problem = draw(side, side, side, sparsity, tile_rows=tile_rows)
                bench, runs = Bench(problem), {"cuBLAS": peers.dense(side, side, problem.x)}
                model = {_short(c): us for c, us in bench.ranked("sm90_tvw_gemm")}
                for config, _ in bench.ranked("sm90_tvw_gemm"):
                    if config.block_rows <= tile_rows or config.boxes:
                        runs[_short(config)] = bench.checked(bench.run(config))
                us = clock.medians_us(runs)
                for name in [n for n in us if n != "cuBLAS"]:
                    over, said = us["cuBLAS"] / us[name], model[name] / us[name]
                    shown = found.setdefault(name, ["-"] * len(SPARSITIES))
                    shown[i] = f"{over:.2f} ({cells([us[name]])[0]}, {said:.2f})"
            rows += [[f"{side}^3", str(tile_rows), name, *shown] for name, shown in found.items()]
    show(
        "sm90_tvw_gemm: times as fast as cuBLAS (us, modelled over measured time)",
        ["", "tile rows", "config", *(f"{100 * s:g} %" for s in SPARSITIES)], rows,
    )  # fmt: skip


def epilogues(clock: Clock, sides: list[int]) -> None:
    """Time a bias and activations, fused; and cuBLAS with kernels of their own behind it."""
    functions = {"relu": torch.relu, "silu": torch.nn.functional.silu, "gelu": _gelu}
    rows: list[list[str]] = []
    for side in sides:
        problem = draw(side, side, side, 0.75, tile_rows=256)
        bias = torch.randn(side, 1, device="cuda", dtype=torch.bfloat16)
        dense, x = torch.randn(side, side, device="cuda").bfloat16(), problem.x
        by = {
            name: Epilogue(bias=as_cupy(bias.float().flatten()), activation=name, out_dtype=None)
            for name in ACTIVATIONS
        }
        timed: dict[str, dict[str, Run]] = {}
        for kernel, what in (
            ("sm90_tvw_gemm", problem), ("sm80_tvw_gemm", problem),
            ("sm90_tvw_gemm8", problem.in_float8()),
        ):  # fmt: skip
            bench = Bench(what)
            runs = {"bare": bench.checked(bench.run(bench.best(kernel)))}
            for name, epilogue in by.items():
                fused = replace(epilogue, out_dtype=bench.cast.out_dtype)
                config = _fusing(bench, kernel, name)
                run = bench.run(config, epilogue=fused)
                if what is problem:
                    f = functions.get(name, lambda y: y)
                    bench.checked(run, lambda y, f=f, b=bias: f(y + b.float()))
                runs[name or "bias"] = run
            timed[kernel] = runs
        timed["cuBLAS, then PyTorch"] = {
            "bare": lambda x=x, d=dense: d @ x,
            "bias": lambda x=x, d=dense, b=bias: (d @ x).add_(b),
            "relu": lambda x=x, d=dense, b=bias: (d @ x).add_(b).relu_(),
            "silu": lambda x=x, d=dense, b=bias: torch.nn.functional.silu((d @ x).add_(b), True),
            "gelu": lambda x=x, d=dense, b=bias: _gelu((d @ x).add_(b)),
        }
        for kernel, runs in timed.items():
            rows.append([f"{side}^3", kernel, *cells(clock.medians_us(runs).values())])
    show(
        "Fused epilogues, 75 %, tiles of 256 rows, us",
        ["", "", "bare", "bias", "bias, relu", "bias, silu", "bias, gelu"], rows,
    )  # fmt: skip


def _gelu(y: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.gelu(y)


def _fusing(bench: Bench, kernel: str, activation: str | None) -> Any:
    """Return the config that ranks first of those with a variant for an activation."""
    for config, _ in bench.ranked(kernel):
        if not isinstance(config, HopperConfig) or config.can_fuse(activation or "none"):
            return config
    raise LookupError(f"no config of {kernel} fuses {activation}")


def _short(config: Any) -> str:
    """Return a config's name in a table."""
    shared = f", {'X' if config.boxes else 'A'} shared by {config.cluster}"
    return (
        f"{config.block_rows} x {config.block_n}{' boxes' if config.boxes else ''}"
        f"{shared if config.cluster > 1 else ''}"
    )


PARTS = {"left-out": left_out, "variants": variants, "configs": configs, "epilogues": epilogues}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--sizes", nargs="*", type=int, default=[4096, 8192])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    clock = Clock(args.repeats)
    properties = torch.cuda.get_device_properties(0)
    print(f"{properties.name}, CUDA {torch.version.cuda}, PyTorch {torch.__version__}")
    print(f"an empty kernel: {clock.median_us(empty_kernel()):.1f} us\n")
    for part in args.parts:
        PARTS[part](clock, args.sizes)


if __name__ == "__main__":
    main()
