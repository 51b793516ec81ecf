"""Malformed manifests."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.hostile.world import Hostile

HEADER = "image,mask,subject,site"
ROW = "images/a-000.png,masks/a-000.png,a-000,a"


def text(*lines: str, encoding: str = "utf-8", ending: str = "\n") -> Callable[[Path], Any]:
    return lambda path: path.write_bytes((ending.join(lines) + ending).encode(encoding))


def raw(content: bytes) -> Callable[[Path], Any]:
    return lambda path: path.write_bytes(content)


def row(**cells: str) -> Callable[[Path], Any]:
    """The first row with these cells; new columns are empty in the others."""

    def make(path: Path) -> None:
        with open(path, newline="") as file:
            table = list(csv.DictReader(file))
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(dict.fromkeys([*table[0], *cells])), restval="")
            writer.writeheader()
            writer.writerows([{**one, **(cells if number == 0 else {})} for number, one in enumerate(table)])

    return make


def appended(line: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(path.read_text() + line + "\n")


def replaced(old: str, new: str) -> Callable[[Path], Any]:
    return lambda path: path.write_text(path.read_text().replace(old, new))


def link(target: str, place: str = "link.png") -> Callable[[Path], Any]:
    def make(path: Path) -> None:
        (path.parent.parent / "secret.png").write_bytes((path.parent / "images" / "a-000.png").read_bytes())
        (path.parent / place).symlink_to(target)
        row(image=place)(path)

    return make


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def pipe(path: Path) -> None:
    os.mkfifo(path.parent / "pipe.png")  # reading it would wait for ever
    row(image="pipe.png")(path)


def manifest_is_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def damaged(change: Callable[[Path], Any], command: str = "study") -> Callable[[Path], list[Any]]:
    """The cohort's manifest after a change, given to a command."""

    def make(world: Path) -> list[Any]:
        path = world / "cohort" / "manifest.csv"
        change(path)
        if command == "predict":
            return ["predict", world / "model", path, "-o", world / "out"]
        return (
            ["doctor", path]
            if command == "doctor"
            else ["study", world / "cohort" / "study.yaml", "--out", world / "out"]
        )

    return make


def parquet(content: bytes | None) -> Callable[[Path], list[Any]]:
    def make(world: Path) -> list[Any]:
        path = world / "cohort" / "manifest.parquet"
        if content is None:
            import pandas as pd

            pd.DataFrame({"image": [{"nested": [1]}], "subject": [b"\xff"], "site": [float("inf")]}).to_parquet(path)
        else:
            path.write_bytes(content)
        return ["doctor", path]

    return make


DEEP = "/".join(["a"] * 5000)
CHANGES: dict[str, tuple[Callable[[Path], Any], tuple[str, ...]]] = {
    "no image column": (text("mask,subject,site", "x,y,z"), ("column 'image' is missing",)),
    "no subject column": (text("image,site", "images/a-000.png,a"), ("column 'subject' is missing",)),
    "no site column": (text("image,subject", "images/a-000.png,a"), ("column 'site' is missing",)),
    "an empty file": (raw(b""), ("manifest.csv: holds no rows",)),
    "blank lines only": (raw(b"\n\n\n"), ("manifest.csv",)),
    "one zero byte": (raw(b"\0"), ("manifest.csv",)),
    "zero bytes in a cell": (text(HEADER, ROW.replace("a-000.png", "a-\0.png")), ("manifest.csv, row 2", "not a path")),
    "UTF-16": (text(HEADER, ROW, encoding="utf-16"), ("manifest.csv", "UTF-8")),
    "UTF-32": (text(HEADER, ROW, encoding="utf-32"), ("manifest.csv",)),
    "Latin-1": (
        text(HEADER, ROW.replace(",a", ",Köln"), encoding="latin-1"),
        ("manifest.csv: not a CSV file in UTF-8",),
    ),
    "random bytes": (raw(bytes(range(256)) * 20), ("manifest.csv",)),
    "a PNG": (
        lambda path: path.write_bytes((path.parent / "images" / "a-000.png").read_bytes()),
        ("manifest.csv", "UTF-8"),
    ),
    "a cell of a million characters": (row(image="x" * 10**6), ("manifest.csv", "field larger")),
    "a path of 100,000 characters": (row(image="x" * 10**5), ("manifest.csv, row 2", "not a path")),
    "a path 5,000 folders deep": (row(image=DEEP), ("manifest.csv, row 2",)),
    "a quote that never ends": (text(HEADER, '"images/a-000.png,masks/a-000.png,a-000,a', ROW), ("manifest.csv",)),
    "more cells than columns": (text(HEADER, ROW + ",x"), ("row 2", "more cells")),
    "fewer cells than columns": (text(HEADER, "images/a-000.png"), ("row 2", "fewer cells than the header")),
    "a column twice": (text(HEADER + ",site", ROW + ",b"), ("is in the header twice",)),
    "semicolons for commas": (text(HEADER.replace(",", ";"), ROW.replace(",", ";")), ("expected commas between",)),
    "a duplicate row": (appended(ROW), ("row 8", "earlier row")),
    "a link that climbs out": (link("../secret.png", "unused.png"), ("manifest.csv, row 2",)),
    "two dots": (row(image="../secret.png"), ("'../secret.png' leaves the data folder",)),
    "two dots in the mask": (row(mask="../../../../etc/passwd"), ("row 2, mask", "leaves the data folder")),
    "two dots in the region": (row(region="images/../../x.png"), ("row 2, region", "leaves the data folder")),
    "two dots in the second channel": (row(image="images/a-000.png;../x.png"), ("leaves the data folder",)),
    "an absolute path": (row(image="/etc/passwd"), ("'/etc/passwd' leaves the data folder",)),
    "a file address": (row(image="file:///etc/passwd"), ("row 2, image", "no file")),
    "a link out of the root": (link("../../secret.png"), ("'link.png' leaves the data folder",)),
    "a link to itself": (link("link.png"), ("row 2, image",)),
    "a device": (row(image="/dev/zero"), ("leaves the data folder",)),
    "a pipe": (pipe, ("pipe.png",)),
    "a folder for a mask": (row(mask="masks"), ("masks",)),
    "an empty channel": (row(image="images/a-000.png;"), ("cohort",)),
    "the manifest as its own image": (row(image="manifest.csv"), ("manifest.csv",)),
    "a folder instead of a file": (folder, ("manifest",)),
    "an unknown split": (row(split="train;drop"), ("split is 'train;drop'",)),
    "only white space for a subject": (row(subject="  "), ("'subject' is empty",)),
    "a file name with a line break": (row(image="images/a\n000.png"), ("row",)),
    "an unpaired surrogate": (raw(f"{HEADER}\n".encode() + b"images/\xed\xa0\x80.png,,a,a\n"), ("manifest.csv",)),
}
MANIFESTS: dict[str, Hostile] = {
    **{f"manifest: {name}": Hostile(damaged(change), told) for name, (change, told) in CHANGES.items()},
    **{
        f"doctor: {name}": Hostile(
            damaged(CHANGES[name][0], "doctor"), CHANGES[name][1] if name != "a folder for a mask" else ()
        )
        for name in (
            "UTF-16",
            "a link to itself",
            "two dots",
            "random bytes",
            "a cell of a million characters",
            "a folder instead of a file",
        )
    },
    **{
        f"predict: {name}": Hostile(damaged(CHANGES[name][0], "predict"), CHANGES[name][1])
        for name in ("an absolute path", "zero bytes in a cell", "a pipe", "a duplicate row")
    },
    "manifest: a pipe instead of a file": Hostile(damaged(manifest_is_pipe), ("manifest",)),
    "parquet: garbage": Hostile(parquet(b"PAR1" + bytes(200) + b"PAR1"), ("manifest.parquet: not a Parquet file",)),
    "parquet: empty": Hostile(parquet(b""), ("manifest.parquet: not a Parquet file",)),
    "parquet: a CSV": Hostile(parquet(f"{HEADER}\n{ROW}\n".encode()), ("manifest.parquet: not a Parquet file",)),
    "parquet: nested cells": Hostile(parquet(None), ("manifest.parquet",)),
    "manifest: a byte order mark": Hostile(
        damaged(lambda path: path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes()), "doctor"), success=True
    ),
    "manifest: formulas in cells": Hostile(damaged(replaced(",a-00", ",=cmd|'/C calc'!A"), "doctor"), success=True),
    "manifest: scripts in names": Hostile(
        damaged(replaced(",a\n", ",<script>alert(1)</script>\n"), "doctor"), success=True
    ),
    "manifest: names from right to left": Hostile(
        damaged(replaced(",b-00", ",\u202eb-"), "doctor"), ("an invisible character",)
    ),
}
