"""``tvwarray prune``: the matrices of a file, or the weights of a whole model, pruned together."""

from __future__ import annotations

import json
import os
from argparse import Namespace
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from tvwarray._cli.files import Entry, as_dense, open_source, plural
from tvwarray._cli.output import FIGURES, check_output, figures, safe_name, write
from tvwarray._cli.progress import progress
from tvwarray._cli.table import printable, text_table
from tvwarray._errors import FormatError
from tvwarray._io.safely import replacing
from tvwarray._plot import tiles_svg
from tvwarray._sparsify_model import NOT_ASKED_FOR, SparsifiedModel, spared, sparsify_model


def run(args: Namespace) -> int:
    """Prune what `args.input` holds to `args.sparsity`, by magnitude."""
    source = open_source(args.input, any_rank=True)
    entries = [*source.matrices, *source.others]
    only = list(args.only) or (["*"] if len(entries) == 1 else [])
    left_alone = {e.name: why for e in entries if (why := spared(e.name, e.shape, e.dtype, only))}
    chosen = [e for e in entries if e.name not in left_alone]
    if not chosen:
        _refuse(args, left_alone)
    check_output(args.output, len(chosen))
    for folder in (args.report and os.path.dirname(args.report), args.pictures):
        if folder and not os.path.isdir(folder):
            raise FormatError(f"there is no folder {folder}; make it first.")
    weights = {e.name: _array(e) for e in progress(chosen, "matrix")}
    model = sparsify_model(
        weights,
        args.sparsity,
        pattern=args.pattern,
        only=["*"],
        progress=_bar,
        scope=args.scope,
        floor=args.floor,
        tile_rows=args.tile_rows,
        permute=args.permute,
        group_rows=args.group_rows,
    )
    write(args.output, model.matrices)
    _say(args, model, left_alone)
    if args.report:
        _write_report(args, model, left_alone)
    if args.pictures:
        for i, (name, A) in enumerate(model.matrices.items()):
            place = Path(args.pictures, f"{i:03}-{safe_name(name)}.svg")
            with replacing(place) as file:
                file.write(tiles_svg(A.storage, size=480).encode())
        print(f"Drew {len(model.matrices)} of them in {args.pictures}.")
    return 0


def _refuse(args: Namespace, left_alone: dict[str, str]) -> NoReturn:
    reasons = [why for why in left_alone.values() if why != NOT_ASKED_FOR]
    if not args.only and not reasons:
        raise FormatError(f"{args.input}: it holds no arrays.")
    why = reasons[0] if reasons else f"it has no name like {' or '.join(args.only)}"
    raise FormatError(f"{args.input}: nothing to prune: {why}; choose matrices with --only NAME.")


def _array(entry: Entry) -> Any:
    """Return a matrix dense; weights of more dimensions come from a file of arrays as they are."""
    held = entry.read()
    return held if len(entry.shape) != 2 else as_dense(held)


def _bar(items: Sequence[Any]) -> Iterable[Any]:
    return progress(items, "step")


def _say(args: Namespace, model: SparsifiedModel, left_alone: dict[str, str]) -> None:
    rows = [
        (*figures(layer.name, model.matrices[layer.name]), f"{layer.score_kept:.3f}")
        for layer in model.layers
    ]
    print(text_table((*FIGURES, "score\nkept"), rows))
    reasons: dict[str, list[str]] = {}
    for name, why in left_alone.items():
        reasons.setdefault(why, []).append(name)
    for why, names in reasons.items():
        listed = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        print(printable(f"Left alone, since {why}: {listed}."))
    total, dense = (sum(getattr(x, n) for x in model.layers) for n in ("nbytes", "dense_nbytes"))
    print(
        f"Wrote {args.output}: {model.sparsity:.2%} of "
        f"{plural(len(model.layers), 'matrix', 'matrices')} pruned, "
        f"{total / max(dense, 1):.3f} of their bytes."
    )


def _write_report(args: Namespace, model: SparsifiedModel, left_alone: dict[str, str]) -> None:
    told = {
        "input": args.input,
        "output": args.output,
        "target": args.sparsity,
        "pattern": args.pattern,
        "scope": args.scope,
        "tile_rows": args.tile_rows,
    }
    text = json.dumps(told | model.report() | {"left_alone": left_alone}, indent=1)
    with replacing(args.report) as file:
        file.write(text.encode() + b"\n")
