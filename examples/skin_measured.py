"""Add the skin tones that ``allograft label skin-tone`` measured to a manifest, and say how near they
are to those that it has.

The new manifest has one more column, ``measured``: 1 to 6, or unknown. It is written beside the old
one, whose paths it shares.

    python examples/skin_measured.py runs/skin/confounded/manifest.csv runs/skin/tones.csv measured.csv
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path


def main(manifest: Path, tones: Path, name: str) -> None:
    """Write ``name`` beside ``manifest``; every image must be in ``tones``."""
    with open(tones, newline="", encoding="utf-8") as file:
        types = {Path(row["image"]).resolve(): row["type"] for row in csv.DictReader(file)}
    with open(manifest, newline="", encoding="utf-8") as file:
        cases = list(csv.DictReader(file))
    absent = [case["image"] for case in cases if (manifest.parent / case["image"]).resolve() not in types]
    if absent:
        print(
            f"{tones}: has no row for {len(absent)} images of {manifest}, for example {absent[0]}; label them too",
            file=sys.stderr,
        )
        raise SystemExit(2)
    rows = [{**case, "measured": types[(manifest.parent / case["image"]).resolve()]} for case in cases]
    with open(manifest.parent / name, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    told = [row for row in rows if row["measured"] != "unknown"]
    known = [(int(row["tone"]), int(row["measured"])) for row in told if row.get("tone")]
    print(f"{len(rows)} images in {manifest.parent / name}, {len(rows) - len(told)} unknown")
    if known:
        exact, near = (sum(abs(a - b) <= most for a, b in known) / len(known) for most in (0, 1))
        print(f"as in the column tone: {exact:.1%}; within one type: {near:.1%} of {len(known)}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path, help="the manifest of the photographs")
    parser.add_argument("tones", type=Path, help="the CSV file that 'allograft label skin-tone' wrote")
    parser.add_argument("name", help="the file name of the new manifest, written to the old one's folder")
    arguments = parser.parse_args()
    if not arguments.manifest.is_file():
        parser.exit(
            2, f"{arguments.manifest}: no such manifest; run 'allograft phantom skin' or 'allograft import' first\n"
        )
    if not arguments.tones.is_file():
        images = arguments.manifest.parent / "images"
        command = f"allograft label skin-tone {images} -o {arguments.tones}"
        parser.exit(2, f"{arguments.tones}: no such file; expected the measured skin tones; run '{command}' first\n")
    main(arguments.manifest, arguments.tones, arguments.name)
