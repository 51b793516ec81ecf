"""Sphinx: MyST pages, and pages generated from the code into ``generated/``."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

from generate import write_pages  # noqa: E402 - the path is set above

from allograft import __version__  # noqa: E402

project = "Allograft"
author = "The Allograft authors"
release = version = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
source_suffix = {".md": "markdown"}
myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
suppress_warnings = ["myst.xref_missing"]  # evidence pages link to files of the repository
html_theme = "furo"
html_title = f"Allograft {version}"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"


def plainly(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Shapes such as (B, *spatial) and norms such as |x| are no markup."""
    for number, line in enumerate(lines):
        if not line.lstrip().startswith((">>>", "...")):
            words, *pairs = re.split(r"(``.*?``)", line)  # what stands in back quotes is code
            lines[number] = "".join(
                one if one.startswith("``") else re.sub(r"([*|])", r"\\\1", one) for one in (words, *pairs)
            )


def setup(app: Any) -> None:
    """Write the generated pages before anything is read."""
    write_pages(HERE / "generated")
    app.connect("autodoc-process-docstring", plainly)
