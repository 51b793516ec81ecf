"""The pictures of the gallery: ``python docs/gallery.py FOLDER`` runs its study there, or what is
left of it, and takes them from the report with a headless Chromium."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

PAGE = Path(__file__).with_name("gallery.md")
PICTURES = Path(__file__).with_name("pictures")
PARTS = {
    "verdict": [".advice"],
    "table": [".tabled"],
    "subjects": ["figure.wide"],
    "predictions": ["h3:has(+ .legend)", ".legend", ".gallery"],
    "no-labels": ["details:has([aria-label*='as if it had no labels'])"],
    "features": ["details:has([aria-label*='features predict the site']) + details"],
}
"""Picture -> the parts of the report's section of a target that it shows."""
MARK = (255, 0, 255)
"""Colour of the line between two pictures on one long page."""
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
SCRIPT = """<script>
const section = document.querySelector("#target-1"), parts = PARTS, kept = [];
for (const selectors of parts) {
  const mark = document.createElement("div");
  mark.style = "height: 6px; margin: 24px 0; background: rgb(255, 0, 255)";
  kept.push(...selectors.map((each) => section.querySelector(each)), mark);
}
for (const details of document.querySelectorAll("details"))
  details.open = details.matches(".further, :has([aria-label*='as if it had no labels'])");
section.style = "border: none";
section.replaceChildren(...kept);
for (let node = section; node != document.body; node = node.parentNode) node.parentNode.replaceChildren(node);
</script>"""


def main(folder: Path) -> None:
    """Run the page's study in a folder, and take the pictures of its report."""
    folder.mkdir(parents=True, exist_ok=True)
    text = PAGE.read_text(encoding="utf-8")
    study, commands = (re.search(rf"^```{kind}\n(.*?)^```", text, flags=re.M | re.S) for kind in ("yaml", "bash"))
    assert study is not None
    assert commands is not None
    (folder / "study.yaml").write_text(study.group(1), encoding="utf-8")
    for command in commands.group(1).splitlines():
        program, *words = shlex.split(command)
        if words[0] != "phantom" or not (folder / words[2]).exists():
            subprocess.run([sys.executable, "-m", program, *words], cwd=folder, check=True)
    take((folder / "runs/gallery/report.html").resolve(), folder)


def take(report: Path, folder: Path) -> None:
    """One long page of the parts, and a picture of each."""
    page, shot = folder / "parts.html", folder / "parts.png"
    text = re.sub(r'<meta[^>]*"Content-Security-Policy"[^>]*>', "", report.read_text(encoding="utf-8"))
    script = SCRIPT.replace("PARTS", json.dumps(list(PARTS.values())))
    page.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    chromium = os.environ.get("CHROMIUM", "chromium")
    arguments = (f"--user-data-dir={folder / 'chromium'}", "--window-size=1100,9000", f"--screenshot={shot}")
    subprocess.run([chromium, *FLAGS, *arguments, page.resolve().as_uri()], check=True, stderr=subprocess.DEVNULL)
    PICTURES.mkdir(exist_ok=True)
    with Image.open(shot) as whole:
        for name, picture in zip(PARTS, parts(whole.convert("RGB")), strict=True):
            picture.quantize(96, dither=Image.Dither.NONE).save(PICTURES / f"{name}.png", optimize=True)


def parts(whole: Image.Image) -> list[Image.Image]:
    """What lies above each mark, without the empty border."""
    pixels = np.asarray(whole)
    marked = (pixels == MARK).all(2).any(1)
    ends = [row for row in range(1, len(marked)) if marked[row] and not marked[row - 1]]
    starts = [0, *(row + 1 for row in range(len(marked) - 1) if marked[row] and not marked[row + 1])]
    made = []
    for start, end in zip(starts, ends, strict=False):
        drawn = (pixels[start:end] != pixels[end - 3, 0]).any(2)
        rows, columns = np.nonzero(drawn.any(1))[0], np.nonzero(drawn.any(0))[0]
        box = (columns[0] - 12, start + rows[0] - 12, columns[-1] + 13, start + rows[-1] + 13)
        made.append(whole.crop((max(0, box[0]), max(0, box[1]), min(whole.width, box[2]), box[3])))
    return made


if __name__ == "__main__":
    main(Path(sys.argv[1]))
