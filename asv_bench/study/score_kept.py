"""Score kept by every pattern on a MiniLM encoder: the table of docs/pruning.md.

    python asv_bench/study/score_kept.py                      every pattern at 50, 75, 87.5 %
    python asv_bench/study/score_kept.py --only tvw --time    the layouts alone, and what they take

Scores are the magnitudes of the 36 linear layers, ranked over all of them unless the name says
otherwise; printed are the share of their sum that is kept, and its ratio to what element-wise
pruning keeps.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from tvwarray import prune
from tvwarray._cli.model import read_header, read_tensor
from tvwarray._cli.weights import find_weights

PLAIN = {"permute": False, "group_rows": False}
EACH = (0.5, 0.75, 0.875)


def patterns():
    """Return (name, pattern, scope), those that peers rank per layer per layer."""
    yield "EW", prune.ElementWise(), "global"
    yield "EW, per layer", prune.ElementWise(), "layer"
    yield "VW, m = 4", prune.VectorWise(None, 4), "layer"
    yield "VW, m = 16", prune.VectorWise(None, 16), "layer"
    yield "V:2:M, V = 128", prune.VNM(128), "layer"
    yield "BW 32", prune.BlockWise(32), "global"
    for G in (64, 128):
        yield f"TW-1D {G}", prune.TileWise(G, rows_too=False, group_rows=False), "global"
        yield f"TW-2D {G}", prune.TileWise(G, group_rows=False), "global"
        yield f"TW-2D {G}, grouped", prune.TileWise(G), "global"
        yield f"TEW 5 % {G}", prune.TileElementWise(G, 0.05, group_rows=False), "global"
        yield f"TVW {G}", prune.TileVectorWise(G, **PLAIN), "global"
        yield f"TVW {G}, permuted", prune.TileVectorWise(G, group_rows=False), "global"
        yield f"TVW {G}, grouped", prune.TileVectorWise(G, permute=False), "global"
        yield f"TVW {G}, both", prune.TileVectorWise(G), "global"
        yield f"TVW {G}, both, per layer", prune.TileVectorWise(G), "layer"
        yield (
            f"TVW {G}, both, counts 0.5-1.5",
            prune.TileVectorWise(G, count_range=(0.5, 1.5)),
            "global",
        )
        yield f"TVW {G}, both, counts equal", prune.TileVectorWise(G, count_range=(1, 1)), "global"


def minilm(path=None):
    """Return the magnitudes of the 36 linear layers of the encoder."""
    path = find_weights(path)
    tensors, _ = read_header(path)
    return {
        t.name: prune.magnitude(read_tensor(path, t))
        for t in tensors
        if len(t.shape) == 2 and "encoder.layer" in t.name and t.name.endswith("weight")
    }


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", help="a .safetensors file of a BERT-like encoder")
    parser.add_argument("--only", default="", help="patterns whose name contains this")
    parser.add_argument("--sparsity", type=float, nargs="+", default=EACH)
    parser.add_argument("--time", action="store_true", help="seconds of each ranking as well")
    args = parser.parse_args()
    scores = minilm(args.weights)
    entries = sum(s.size for s in scores.values())
    print(
        f"{len(scores)} matrices, {entries / 1e6:.1f} M weights; score kept, and its share of EW's"
    )
    ceiling = {
        s: prune.score_kept(scores, prune.global_masks(scores, s, "ew", floor=0))
        for s in args.sparsity
    }
    print(f"{'pattern':34}" + "".join(f"{100 * s:>10.4g} %      " for s in args.sparsity))
    for name, pattern, scope in patterns():
        if args.only.lower() not in name.lower():
            continue
        line = f"{name:34}"
        for s in args.sparsity:
            start = time.perf_counter()
            made = prune.global_selections(scores, s, pattern, scope=scope)
            took = time.perf_counter() - start
            kept = prune.score_kept(scores, made)
            realised = 1 - sum(int(np.count_nonzero(m.mask)) for m in made.values()) / entries
            off = "" if abs(realised - s) <= 0.005 else f" at {realised:.4f}"
            line += f"{kept:10.4f} {kept / ceiling[s]:.4f}{off}" + f" {took:5.1f} s" * args.time
        print(line, flush=True)


if __name__ == "__main__":
    main()
