"""Skin tones of many images as a table, and how far they agree with people."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from allograft.cohort.manifest import is_missing
from allograft.cohort.readers import SUFFIXES, VOLUMES, read_image
from allograft.errors import ImageError, ManifestError, SpecError
from allograft.transforms.skin_tone import (
    PATCHES,
    THRESHOLDS,
    Skin,
    SkinTone,
    calibrate_thresholds,
    estimate_skin_tone,
    fitzpatrick_type,
)
from allograft.tree import write_bytes

Thresholds = Literal["default", "kinyanjui", "calibrate"]

PHOTOGRAPHS = tuple(suffix for suffix in SUFFIXES if suffix not in VOLUMES)


@dataclass(frozen=True)
class Labelled:
    """What was written.

    Args:
        tones: image name -> its tone.
        thresholds: the five angles in degrees that part the types.
        within_one: share of the images with a human type and a known one that differ by at most
            one; None without human types. With ``calibrate`` it is measured on the very labels that
            the thresholds were fitted to.
        judged, named: on how many images that is, and how many have a human type; an image of
            unknown tone is not judged.
    """

    tones: Mapping[str, SkinTone]
    thresholds: tuple[float, ...]
    within_one: float | None
    judged: int = 0
    named: int = 0

    @property
    def unknown(self) -> int:
        """Images whose type is unknown."""
        return sum(tone.type is None for tone in self.tones.values())

    @property
    def doubtful(self) -> int:
        """Images whose type is known and has a note."""
        return sum(tone.type is not None and bool(tone.note) for tone in self.tones.values())


def label_skin_tones(
    images: Iterable[Path],
    out: Path,
    *,
    skin: Skin = "patches",
    thresholds: Thresholds = "default",
    human: Path | None = None,
    column: str = "type",
) -> Labelled:
    """Write ``image,angle,type,patch,note`` for each image; see ``estimate_skin_tone``.

    ``type`` is 1 to 6 or "unknown", ``patch`` the upper-left corner ``row:column`` on the image at
    256 x 256. An image that holds no colours or cannot be read is unknown, with the reason in
    ``note``; so is what casts doubt on a type, see ``estimate_skin_tone``.

    Args:
        images: files and folders; of a folder all photographs below it, in order.
        out: a ``.csv`` file.
        thresholds: "calibrate" fits them to the human types.
        human: a CSV file with the columns ``image`` (as in ``out``, or the file's name) and
            ``column``.
        column: the column of human Fitzpatrick types, 1 to 6 (2.0 is 2); cells that are empty, nan
            or unknown do not count.

    Raises:
        ImageError: a path that does not exist, or a folder without photographs.
        ManifestError: human types that cannot be read, that are none of 1 to 6, or that no image
            has.
        SpecError: "calibrate" without human types, or with fewer than two among the images whose
            tone is known; ``out`` not a ``.csv``.
    """
    if out.suffix.lower() != ".csv":
        raise SpecError(f"{out}: the table is written as CSV, found '{out.suffix}'; expected {out.stem or 'tones'}.csv")
    if thresholds == "calibrate" and human is None:
        raise SpecError("thresholds: calibrate needs human types; give a CSV file with the columns image and type")
    asked = "default" if thresholds == "calibrate" else thresholds
    types = {} if human is None else _human_types(human, column)
    tones = {name: _tone(path, skin, asked) for name, path in _files(images)}
    named = {name: kind for name in tones if (kind := types.get(name, types.get(Path(name).name))) is not None}
    if human is not None and not named:
        raise ManifestError(
            f"{human}: no row with a type names any of {len(tones)} images; write image as in {out.name}, or the "
            "file's name"
        )
    judged = {name: kind for name, kind in named.items() if tones[name].type is not None}
    if human is not None and not judged:
        raise ManifestError(
            f"{human}: the tone of every image with a type ({len(named)}) is unknown; leave the types out to see why"
        )
    limits: tuple[float, ...] = THRESHOLDS[asked]
    if thresholds == "calibrate":
        if len(set(judged.values())) < 2:
            found = f"type {next(iter(judged.values()))} alone, on {len(judged)} image(s) whose tone is known"
            raise SpecError(
                f"thresholds: calibrate fits limits between types, found {found} in {human}; expected at least two "
                "types"
            )
        limits = calibrate_thresholds([tones[name].angle for name in judged], list(judged.values()))
        tones = {name: _again(tone, limits) for name, tone in tones.items()}
    near = [abs((tones[name].type or 0) - kind) <= 1 for name, kind in judged.items()]
    write_bytes(out, _table(tones))
    return Labelled(tones, limits, sum(near) / len(near) if near else None, len(judged), len(named))


def _files(images: Iterable[Path]) -> Iterator[tuple[str, Path]]:
    for given in map(Path, images):
        if given.is_dir():
            files = sorted(
                path for path in given.rglob("*") if path.is_file() and path.name.lower().endswith(PHOTOGRAPHS)
            )
            if not files:
                raise ImageError(f"{given}: holds no photograph; expected files ending in {', '.join(PHOTOGRAPHS)}")
            yield from ((path.as_posix(), path) for path in files)
        elif given.exists():
            yield given.as_posix(), given
        else:
            raise ImageError(f"{given}: no such file; expected photographs, or a folder of them")


def _tone(path: Path, skin: Skin, thresholds: str) -> SkinTone:
    try:
        picture = read_image([path])
        if len(picture.array) != 3 or picture.array.dtype != np.uint8 or len(picture.spatial) != 2:
            found = f"{picture.array.dtype} with {len(picture.array)} channels"
            return SkinTone(float("nan"), None, None, f"{found}; expected colours, 8 bits a channel")
        return estimate_skin_tone(picture.array.transpose(1, 2, 0), thresholds=thresholds, skin=skin)
    except ImageError as error:
        return SkinTone(float("nan"), None, None, str(error))


def _again(tone: SkinTone, limits: Sequence[float]) -> SkinTone:
    return tone if tone.type is None else replace(tone, type=fitzpatrick_type(tone.angle, limits))


def _human_types(path: Path, column: str) -> dict[str, int]:
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ManifestError(
            f"{path}: cannot be read ({error}); expected a CSV file with the columns image and {column}"
        ) from error
    if not rows or not {"image", column} <= set(rows[0]):
        found = ", ".join(rows[0]) if rows else "no rows"
        raise ManifestError(f"{path}: found {found}; expected the columns image and {column}")
    types = {}
    for line, row in enumerate(rows, start=2):
        text = (row[column] or "").strip()
        if not is_missing(text):
            types[row["image"]] = _human_type(text, f"{path}: row {line} ({row['image']})", column)
    return types


def _human_type(text: str, where: str, column: str) -> int:
    """A type as people write it, 2, and as pandas writes a column with gaps, 2.0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value not in range(1, 7):
        raise ManifestError(
            f"{where}: {column} is '{text}'; expected a Fitzpatrick type from 1 to 6, or nothing where it is not known"
        )
    return int(value)


def _table(tones: Mapping[str, SkinTone]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "angle", "type", "patch", "note"])
    for name, tone in tones.items():
        angle = "" if np.isnan(tone.angle) else f"{tone.angle:.2f}"
        patch = "" if tone.patch is None else "{}:{}".format(*PATCHES[tone.patch])
        writer.writerow([name, angle, tone.type or "unknown", patch, tone.note])
    return text.getvalue().encode()
