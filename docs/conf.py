"""Sphinx configuration: ``sphinx-build -W docs docs/_build/html``, with tvwarray installed.

The gallery's scripts are run by it, on one thread: their figures then mean the same everywhere.
"""

import os
from importlib.metadata import version as installed_version

for variable in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TVWARRAY_NUM_THREADS"):
    os.environ[variable] = "1"

project = "tvwarray"
author = "The tvwarray developers"
copyright = "2026, the tvwarray developers"
version = release = installed_version("tvwarray")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.doctest",
    "sphinx_design",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

autosummary_generate = True
autodoc_typehints = "none"  # numpydoc sections say more than annotations
numpydoc_show_class_members = False

myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3

doctest_global_setup = """
import numpy as np
import scipy.sparse as sp
import tvwarray
"""
trim_doctest_flags = True
doctest_test_doctest_blocks = ""  # those of docstrings are run by pytest

sphinx_gallery_conf = {
    "examples_dirs": ["../examples"],
    "gallery_dirs": ["gallery"],
    "filename_pattern": r"/plot_",
    "abort_on_example_error": True,
    "backreferences_dir": "reference/examples",
    "doc_module": ("tvwarray",),
    "reference_url": {"tvwarray": None},
    "download_all_examples": False,
    "show_memory": False,
    "show_signature": False,
    "matplotlib_animations": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "tvwarray"
html_static_path = ["_static"]
html_css_files = ["tvwarray.css"]
html_theme_options = {
    "navigation_depth": 2,
    "show_toc_level": 2,
    "header_links_before_dropdown": 4,
    "footer_start": ["copyright"],
    "footer_end": [],
}
# A sidebar where there is something below a page: its names, its scripts.
html_sidebars = {
    page: []
    for page in (
        "index", "tutorial", "matrices", "pruning", "scipy", "interop", "scaling", "migration",
        "format", "cpu", "kernels", "hopper", "hopper8", "plans", "benchmarks", "study", "citation",
    )
}  # fmt: skip
