"""``tvwarray env``: what an issue report should begin with."""

from __future__ import annotations

import json
from argparse import Namespace

import tvwarray


def run(args: Namespace) -> int:
    """Print `tvwarray.show_config`, as text or JSON."""
    if args.json:
        print(json.dumps(tvwarray.show_config(mode="dicts"), indent=1))
    else:
        tvwarray.show_config()
    return 0
