"""Notebooks of the documentation: run in place, and shown as pages.

``python docs/notebook_pages.py FILE.ipynb`` runs the code cells in order in a temporary folder and writes
what they show into the file. A page is made of the file as it is, and runs nothing.
"""

from __future__ import annotations

import ast
import base64
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from pathlib import Path
from typing import Any

Node = dict[str, Any]
KINDS = (("_repr_png_", "image/png"), ("_repr_html_", "text/html"))
"""What the last line of a cell may show beside its text, as in Jupyter."""


def execute(cells: list[Node], replaced: dict[str, str] | None = None) -> dict[str, Any]:
    """Run the code cells in the current folder, write their outputs into them, and return the names
    that they leave.

    Args:
        replaced: text -> another, in the code: to make it quick.
    """
    names: dict[str, Any] = {"__name__": "__main__"}
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    for count, cell in enumerate(code, 1):
        text = "".join(cell["source"])
        for old, new in (replaced or {}).items():
            text = text.replace(old, new)
        printed = io.StringIO()
        with redirect_stdout(printed):
            shown = _run(text, names)
        cell["execution_count"] = count
        cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": _lines(printed.getvalue())}]
        cell["outputs"] = cell["outputs"] if printed.getvalue() else []
        if shown is not None:
            cell["outputs"].append({"output_type": "execute_result", "execution_count": count, "metadata": {}})
            cell["outputs"][-1]["data"] = _data(shown)
    return names


def _run(text: str, names: dict[str, Any]) -> object:
    """Run a cell; the value of its last line, where that is an expression."""
    tree = ast.parse(text)
    last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "<cell>", "exec"), names)
    return eval(compile(ast.Expression(last.value), "<cell>", "eval"), names) if last is not None else None


def _data(shown: object) -> Node:
    data: Node = {"text/plain": _lines(repr(shown))}
    for method, kind in KINDS:
        if (made := getattr(shown, method, lambda: None)()) is not None:
            data[kind] = base64.b64encode(made).decode() if isinstance(made, bytes) else _lines(made)
    return data


def _lines(text: str) -> list[str]:
    return text.splitlines(keepends=True)


def page(file: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook as Markdown, and its pictures by file name."""
    parts, pictures = list[str](), dict[str, bytes]()
    for cell in json.loads(file.read_text(encoding="utf-8"))["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] != "code":
            parts.append(text)
            continue
        parts.append(f"```python\n{text}\n```")
        for output in cell["outputs"]:
            for kind, content in _contents(output):
                if kind == "image/png":
                    name = f"{file.stem}-{len(pictures) + 1}.png"
                    pictures[name] = base64.b64decode(content)
                    parts.append(f"![What the cell above shows]({name})")
                elif kind == "text/html":
                    table = re.sub(r"<style.*?</style>\s*", "", content, flags=re.S)
                    table = table.replace('border="1" class="dataframe"', 'class="docutils"')  # the theme's
                    parts.append(f"```{{raw}} html\n{table}\n```")
                else:
                    parts.append(f"```text\n{content.rstrip()}\n```")
    return "\n\n".join(parts) + "\n", pictures


def _contents(output: Node) -> Iterator[tuple[str, str]]:
    """The text of a stream, or the richest form of a value."""
    if output["output_type"] == "stream":
        yield "text/plain", "".join(output["text"])
    else:
        kind = next(kind for kind in ("image/png", "text/html", "text/plain") if kind in output["data"])
        yield kind, "".join(output["data"][kind])


def main(file: Path) -> None:
    """Run a notebook and keep what it shows."""
    notebook = json.loads(file.read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        execute(notebook["cells"])
    file.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("COLUMNS", "100")
    main(Path(sys.argv[1]).resolve())
