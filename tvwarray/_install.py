"""Which tvwarray this is: its version, and whether the wrong copy of it was imported."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final


def _installed_version() -> str:
    try:
        return version("tvwarray")
    except PackageNotFoundError:  # a source folder on the path
        return "0+unknown"


__version__: Final = _installed_version()


def warn_of_source_folder() -> None:
    """Warn if this is a clone's source folder while the package is installed beside it.

    ``python -m pytest`` and a session started inside a clone import the source folder, which has no
    compiled extension; an editable installation is what it seems to be and passes.
    """
    here = Path(__file__).resolve().parent
    if not (here.parent / "pyproject.toml").exists():
        return
    from importlib.metadata import distribution

    try:
        installed = distribution("tvwarray")
    except PackageNotFoundError:
        return
    place = Path(str(installed.locate_file("tvwarray"))).resolve()
    if place != here and place.is_dir():
        warnings.warn(
            f"tvwarray was imported from the source folder {here}, which has no compiled "
            f"extension, and not from its installation in {place}. Run pytest instead of "
            "python -m pytest, or start Python outside the clone.",
            stacklevel=3,
        )
