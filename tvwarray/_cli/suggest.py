"""What somebody may have meant who wrote something else."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``"; did you mean ...?"`` of the name that `word` resembles most, or an empty string.

    A beginning that only one name has, such as ``"conv"``, is as good as a likeness.
    """
    names = list(dict.fromkeys(known))
    folded = {name.casefold(): name for name in reversed(names)}
    close = get_close_matches(word.casefold(), folded, n=1, cutoff=0.6)
    begun = [name for name in names if word and name.casefold().startswith(word.casefold())]
    found = [folded[c] for c in close] or (begun if len(begun) == 1 else [])
    return f"; did you mean {found[0]}?" if found else ""
