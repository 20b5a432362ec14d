"""Where the GPU kernels' time goes: python asv_bench/gpu_ablations.py [--parts ...] [--out FOLDER]

Needs a GPU of compute capability 9.0, CuPy and PyTorch. Times shipped kernels whole, with parts
left out, in ways that are not shipped, and with fused epilogues: tables of docs/hopper.md,
docs/hopper8.md and docs/kernels.md. The kernels of a row take turns, with cuBLAS among them; times
are medians of CUDA graph replays by events, the L2 cache flushed before each. Whatever is to be
right is compared with float32 sums first; with parts left out nothing is.
"""

from __future__ import annotations

import argparse
import traceback
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
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
from tvwarray._kernels.elements import form_of
from tvwarray._kernels.hopper.config import HopperConfig
from tvwarray._kernels.launch import CupyLauncher, choose_config
from tvwarray._kernels.pack import PackedMatrix, pack

SPARSITIES = (0.5, 0.75, 0.875, 0.95)
SHARES = [f"{100 * s:g} %" for s in SPARSITIES]
LAUNCHER = CupyLauncher()

Run = Callable[[], object]


class Bench:
    """Products of one problem by configs and edited sources, to be timed."""

    def __init__(
        self, problem: Problem, precision: str = "default", result: torch.dtype = torch.bfloat16
    ) -> None:
        self.problem, stored = problem, problem.A.storage
        self.packed: PackedMatrix = pack(stored, form_of(stored.dtype, precision))
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
        self.y.fill_(float("nan") if self.y.is_floating_point() else -1)
        run()
        torch.cuda.synchronize()
        if not (error := self.problem.check(self.y, after)) <= 1:
            raise AssertionError(f"the product is {error:.3g} times its error bound away")
        return run


@cache
def _compiled(config: Any, architecture: str, changes: edits.Edits) -> Any:
    return compile_kernel(config, architecture, edits.altered(config.kernel, changes))


class Tables:
    """Prints tables, and keeps them in a file for the pages; see gpu_table.py."""

    def __init__(self, out: Path | None, name: str) -> None:
        if out:
            out.mkdir(parents=True, exist_ok=True)
        self._file = (out / name).open("w") if out else None

    def show(self, name: str, title: str, header: list[str], rows: list[list[str]]) -> None:
        """Print a table, with the comments between which it stands on its page."""
        text = f"<!-- {name} -->\n{title}\n\n{table(header, rows)}\n<!-- end -->\n"
        print(text, flush=True)
        if self._file:
            self._file.write(text + "\n")
            self._file.flush()


def cells(us: Iterable[float]) -> list[str]:
    """Return times as they are printed."""
    return [f"{value:.3g}" if value < 100 else f"{value:.0f}" for value in us]


def left_out(clock: Clock, tables: Tables, sides: list[int]) -> None:
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
        title = f"`{config}`, {100 * sparsity:g} %, tiles of {tile_rows} rows, us:"
        header = ["", "cuBLAS, bfloat16" if float8 else "cuBLAS", *list(us)[1:]]
        tables.show(f"left out of {kernel}", title, header, rows)


def variants(clock: Clock, tables: Tables, sides: list[int]) -> None:
    """Time what ``sm90_tvw_gemm`` might do otherwise, beside what it does."""
    for boxes, sparsity in ((False, 0.75), (True, 0.5)):
        columns: list[dict[str, float]] = []
        for side in sides:
            problem = draw(side, side, side, sparsity, tile_rows=256)
            bench, runs = Bench(problem), {"cuBLAS": peers.dense(side, side, problem.x)}
            shipped = [c for c, _ in bench.ranked("sm90_tvw_gemm")]
            shipped.sort(key=lambda c: (not c.boxes, -c.block_rows, c.cluster, c.wg_rows))
            for config in shipped:
                if config.block_rows * config.block_n == 256 * 128:
                    runs[f"shipped: {short(config)}"] = bench.run(config)
            first = next(c for c in shipped if c.boxes == boxes)
            for name, changes in () if boxes else edits.OTHERWISE.items():
                runs[f"{short(first)}, {name}"] = bench.run(first, changes)
            for name, shape in (edits.BOXES if boxes else edits.GATHERS).items():
                runs[name] = bench.run(HopperConfig(True, *shape))
            if boxes:
                runs["boxes, arrivals at the scope of the cluster"] = bench.run(first, edits.FENCED)
            for name, run in runs.items():
                if name != "cuBLAS":
                    bench.checked(run)
            columns.append(clock.medians_us(runs))
        rows = [[name, *cells(us[name] for us in columns)] for name in runs]
        title = f"`sm90_tvw_gemm`, bfloat16, {100 * sparsity:g} %, tiles of 256 rows, us:"
        name = "boxes and otherwise" if boxes else "gathers and otherwise"
        tables.show(name, title, ["", *(f"{side}^3" for side in sides)], rows)


def configs(clock: Clock, tables: Tables, sides: list[int]) -> None:
    """Time shipped configs, and say what the model says of them."""
    for kernel, few in (("sm90_tvw_gemm", 9), ("sm80_tvw_gemm", 3)):
        rows: list[list[str]] = []
        for side in sides:
            for tile_rows in (256, 128, 64):
                found: dict[str, list[str]] = {}
                for i, sparsity in enumerate(SPARSITIES):
                    problem = draw(side, side, side, sparsity, tile_rows=tile_rows)
                    bench, runs = Bench(problem), {"cuBLAS": peers.dense(side, side, problem.x)}
                    model: dict[str, float] = {}
                    for config, us in bench.ranked(kernel)[:few]:
                        if config.block_rows <= tile_rows <= 2 * config.block_rows:
                            model[short(config)] = us
                            runs[short(config)] = bench.checked(bench.run(config))
                    times = clock.medians_us(runs)
                    for name, said in model.items():
                        over = times["cuBLAS"] / times[name]
                        shown = found.setdefault(name, ["-"] * len(SPARSITIES))
                        (us_text,) = cells([times[name]])
                        shown[i] = f"{over:.2f} ({us_text}, {said / times[name]:.2f})"
                rows += [[f"{side}^3", str(tile_rows), n, *shown] for n, shown in found.items()]
        title = f"`{kernel}`, bfloat16: times as fast as cuBLAS (us, modelled over measured time):"
        tables.show(f"configs of {kernel}", title, ["", "tile rows", "block", *SHARES], rows)


def eight_bits(clock: Clock, tables: Tables, sides: list[int]) -> None:
    """Time ``sm90_tvw_gemm8`` against dense products of 8-bit values."""
    rows: list[list[str]] = []
    for side in sides:
        theirs = {
            "float8": peers.dense_float8(side, fast=True),
            "float8, promoted": peers.dense_float8(side, fast=False),
            "int8": peers.dense_int8(side),
        }
        dense = clock.medians_us(theirs)
        for name, us in dense.items():
            rows.append([f"{side}^3", "", f"dense {name}", f"({us:.0f})", "", "", ""])
        for tile_rows in (256, 128):
            found: dict[str, list[str]] = {name: [] for name in theirs}
            for sparsity in SPARSITIES:
                problem = draw(side, side, side, sparsity, tile_rows=tile_rows)
                for name, bench in (
                    ("float8", Bench(problem.in_float8())),
                    ("float8, promoted", Bench(problem.in_float8(), "high")),
                    ("int8", Bench(problem.in_int8(), result=torch.int32)),
                ):
                    config, said = bench.ranked("sm90_tvw_gemm8")[0]
                    run = bench.checked(bench.run(config))
                    times = clock.medians_us({"dense": theirs[name], "ours": run})
                    (text,) = cells([times["ours"]])
                    over = times["dense"] / times["ours"]
                    found[name].append(f"{over:.2f} ({text}, {said / times['ours']:.2f})")
            rows += [[f"{side}^3", str(tile_rows), name, *shown] for name, shown in found.items()]
    title = "Times as fast as the dense product (us, modelled over measured time):"
    tables.show("eight bits", title, ["", "tile rows", "", *SHARES], rows)


def epilogues(clock: Clock, tables: Tables, sides: list[int]) -> None:
    """Time a bias and activations, fused; and cuBLAS with kernels of their own behind it."""
    functions = {
        "bias": lambda y: y, "relu": torch.relu, "silu": torch.nn.functional.silu,
        "gelu": torch.nn.functional.gelu,
    }  # fmt: skip
    rows: list[list[str]] = []
    for side in sides:
        problem = draw(side, side, side, 0.75, tile_rows=256)
        bias = torch.randn(side, 1, device="cuda", dtype=torch.bfloat16)
        added = as_cupy(bias.float().flatten())
        timed: dict[str, dict[str, Run]] = {}
        for name, kernel, given in (
            ("`sm90_tvw_gemm`, bfloat16", "sm90_tvw_gemm", problem),
            ("`sm80_tvw_gemm`, bfloat16", "sm80_tvw_gemm", problem),
            ("`sm90_tvw_gemm8`, float8", "sm90_tvw_gemm8", problem.in_float8()),
        ):
            bench = Bench(given)
            config = bench.best(kernel)
            timed[name] = {"bare": bench.checked(bench.run(config))}
            for what, f in functions.items():
                activation = None if what == "bias" else what
                by = Epilogue(bias=added, activation=activation, out_dtype=bench.cast.out_dtype)
                run = bench.run(config, epilogue=by)
                timed[name][what] = bench.checked(run, lambda y, f=f, b=bias: f(y + b.float()))
        dense = peers.dense(side, side, problem.x)
        timed["cuBLAS, then PyTorch"] = {
            "bare": dense,
            **{n: lambda f=f, b=bias, d=dense: f(d().add_(b)) for n, f in functions.items()},
        }
        for name, runs in timed.items():
            rows.append([f"{side}^3", name, *cells(clock.medians_us(runs).values())])
    header = ["", "", "bare", "bias", "bias, relu", "bias, silu", "bias, gelu"]
    tables.show("epilogues", "75 %, tiles of 256 rows, us:", header, rows)


def short(config: Any) -> str:
    """Return a config's name in a table."""
    if config.kernel == "sm80_tvw_gemm":
        return f"{config.block_rows} x {config.block_n}{', persistent' * config.persistent}"
    shared = f", {'X' if config.boxes else 'A'} shared by {config.cluster}"
    return (
        f"{config.block_rows} x {config.block_n}{' boxes' * config.boxes}{', cut' * config.cut}"
        f"{shared if config.cluster > 1 else ''}"
    )


PARTS = {
    "left-out": left_out, "variants": variants, "epilogues": epilogues, "configs": configs,
    "eight-bits": eight_bits,
}  # fmt: skip


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, help="a folder for ablations.md, as the pages want it")
    parser.add_argument("--parts", nargs="*", default=list(PARTS), choices=list(PARTS))
    parser.add_argument("--sizes", nargs="*", type=int, default=[4096, 8192])
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    clock, tables = Clock(args.repeats), Tables(args.out, "ablations.md")
    properties = torch.cuda.get_device_properties(0)
    print(f"{properties.name}, CUDA {torch.version.cuda}, PyTorch {torch.__version__}")
    print(f"an empty kernel: {clock.median_us(empty_kernel()):.1f} us\n")
    failed = [part for part in args.parts if not done(PARTS[part], clock, tables, args.sizes)]
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


def done(part: Any, *given: Any) -> bool:
    """Run a part; say whether it came to its end. The others are worth having if it did not."""
    try:
        part(*given)
    except Exception:
        traceback.print_exc()
        return False
    return True


if __name__ == "__main__":
    main()
