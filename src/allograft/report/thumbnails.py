"""A few images of each site with the outlines of their masks, small."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from allograft.cohort.alignment import aligned
from allograft.cohort.manifest import Case
from allograft.cohort.readers import read_image, read_mask
from allograft.errors import AllograftError
from allograft.grey import plane
from allograft.report.overlay import draw_overlay, largest, slice_of
from allograft.seeds import Seeds

EACH, MOST = 4, 120
"""Thumbnails of a site, and of a page."""


@dataclass(frozen=True)
class Thumbnail:
    """One image as the template takes it.

    Args:
        source: a data URL.
        caption: its row in the manifest, and its subject as an ordinal.
    """

    source: str
    caption: str


def thumbnails(cases: Sequence[Case], codes: Sequence[int]) -> dict[str, list[Thumbnail]]:
    """Site -> its thumbnails, of cases drawn by name; those whose files cannot be drawn are left
    out.

    Args:
        cases: all of a manifest, in its order.
        codes: the mask values of the cohort but 0, in the order of their colours.
    """
    ordinals = {subject: f"S{number:03d}" for number, subject in enumerate(sorted({case.subject for case in cases}), 1)}
    rows = {case.name: number for number, case in enumerate(cases, 2)}  # row 1 is the header
    sites = sorted({case.site for case in cases})
    each = max(1, min(EACH, MOST // len(sites))) if sites else 0
    made: dict[str, list[Thumbnail]] = {}
    for site in sites[:MOST]:
        here = [case for case in cases if case.site == site]
        order = sorted(here, key=lambda case: ("mask" not in case.labels, Seeds(0, ("style",)).number(case.name)))
        for case in order[: 3 * each]:  # some may be unreadable
            png = _drawn(case, codes)
            if png is not None and len(made.setdefault(site, [])) < each:
                source = "data:image/png;base64," + base64.b64encode(png).decode()
                made[site].append(Thumbnail(source, f"row {rows[case.name]}, {ordinals[case.subject]}"))
            if len(made.get(site, ())) == each:
                break
    return made


def _drawn(case: Case, codes: Sequence[int]) -> bytes | None:
    try:
        picture = read_image(case.image, nan=0.0)
        index = np.zeros(picture.spatial, np.int64)
        if "mask" in case.labels:
            path = Path(case.labels["mask"])
            values = aligned(read_mask(path), picture.grid, path, "its image").array[0]
            for number, code in enumerate(codes, 1):
                index[values == code] = number
        chosen = slice_of(picture.array, largest(index)) if index.ndim == 3 else 0
        return draw_overlay(plane(picture.array, chosen), None, plane(index[None], chosen), classes=max(2, len(codes)))
    except (AllograftError, ValueError):
        return None
