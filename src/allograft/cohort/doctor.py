"""``allograft doctor``: what a cohort holds, what stops a study of it, and how far its sites are
apart. JSON values throughout."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from allograft.cohort.checks import check_duplicates, check_files, check_headers, check_places, check_shared_masks
from allograft.cohort.coding import Coding
from allograft.cohort.copies import compare
from allograft.cohort.findings import Finding, Named, Site
from allograft.cohort.histograms import Histogram, histograms
from allograft.cohort.manifest import read_manifest
from allograft.cohort.preprocessing import Preprocessing
from allograft.cohort.site_checks import check_grids, check_intensity, check_labels, check_subjects
from allograft.cohort.splits import draw_splits
from allograft.cohort.survey import Look, Style, survey


@dataclass(frozen=True)
class Gap:
    """How far two sites' mean images are apart, and how far an image is from its own site's mean: a
    shift where ``between`` is larger."""

    between: float
    within: float


@dataclass(frozen=True)
class Distance:
    """Two sites and one measure: style by ``intensity`` or ``spectrum``, content by ``layout`` or
    ``labels`` (not measured where None).

    ``intensity``: mean difference of quantile functions, in standard deviations of an image.
    ``spectrum``: mean difference of log10 amplitude by radius. ``layout``: mean difference of 8 x 8
    thumbnails of mean 0 and deviation 1. ``labels``: total variation between the shares of classes,
    0 to 1.
    """

    sites: tuple[str, str]
    measure: str
    before: Gap | None
    after: Gap | None


@dataclass(frozen=True)
class Diagnosis:
    """What ``examine`` found; ``preprocessing`` is the one that "after" means."""

    manifest: str
    cases: int
    subjects: int
    sites: tuple[Site, ...]
    findings: tuple[Finding, ...]
    distances: tuple[Distance, ...]
    preprocessing: Mapping[str, Any]
    histograms: tuple[Histogram, ...] = ()

    @property
    def worst(self) -> str:
        """The highest severity: stop, warning, note, or "well" when nothing was found."""
        severities = {finding.severity for finding in self.findings}
        return next((severity for severity in ("stop", "warning", "note") if severity in severities), "well")


def examine(
    manifest: Path | str, *, preprocessing: Preprocessing | None = None, coding: Coding | None = None
) -> Diagnosis:
    """Read everything that a manifest names, once, and say what is there.

    Args:
        preprocessing: what "after the preprocessing" means; the default one (RAS, per-image
            z-score) when None.
        coding: the classes of a task, so that mask values without a class are found.

    Raises:
        ManifestError: the manifest itself cannot be used; files that it names never raise.
    """
    preprocessing = preprocessing or Preprocessing()
    cases = read_manifest(manifest)
    looks = survey(cases, preprocessing, coding)
    ordinals = {subject: f"S{number:03d}" for number, subject in enumerate(sorted({case.subject for case in cases}), 1)}

    def name(look: Look, detail: str) -> Named:
        return Named(look.row, look.case.name, ordinals[look.case.subject], _hidden(detail, look))

    sites = tuple(
        _site(site, [look for look in looks if look.case.site == site])
        for site in sorted({case.site for case in cases})
    )
    read = {look.case.name: look for look in looks if look.print is not None}
    duplicates = compare({printed: look.print for printed, look in read.items() if look.print}, cases)
    distances = tuple(_distances(sites, looks))
    findings = (
        *check_files(looks, name),
        *check_headers(looks, preprocessing, name),
        *check_places(looks, name),
        *check_grids(sites, looks, preprocessing),
        *check_subjects(sites),
        *check_labels(sites),
        *check_intensity(sites, preprocessing),
        *check_shared_masks(looks, name),
        *check_duplicates(duplicates, read, name),
        *_shifts(distances),
    )
    order = ("stop", "warning", "note")
    ranked = tuple(sorted(findings, key=lambda finding: order.index(finding.severity)))
    described = asdict(preprocessing)
    return Diagnosis(
        Path(manifest).name, len(cases), len(ordinals), sites, ranked, distances, described, histograms(looks)
    )


def _hidden(text: str, look: Look) -> str:
    """``text`` without the paths of a case, which often hold a patient's number."""
    paths = [
        *look.case.image,
        *(label for label in look.case.labels.values() if isinstance(label, Path)),
        *filter(None, [look.case.region]),
    ]
    names = {part for path in paths for part in (str(path), path.name)} | {look.case.name}
    text = re.sub("|".join(map(re.escape, sorted(names, key=len, reverse=True))), "[file]", text)
    return text if len(text) <= 300 else text[:299] + "…"


def _site(name: str, looks: Sequence[Look]) -> Site:
    cases = [look.case for look in looks]
    tested = {subject for subject, assigned in draw_splits(cases, ()).items() if assigned.split == "test"}
    tests = len({case.subject for case in cases if case.labels and case.subject in tested})
    read = [look for look in looks if look.print is not None]
    planes = [look for look in read if look.spacing is not None]

    def scale(values: Iterable[float | None]) -> float:
        return float(np.median([value for value in values if value is not None] or [0.0]))

    return Site(
        name=name,
        cases=len(cases),
        subjects=len({case.subject for case in cases}),
        test_subjects=tests,
        smallest_p=min(1.0, 2.0 ** (1 - tests)),
        sizes=_counts(_size(look.size) for look in read),
        prepared=_counts(_size(look.prepared) for look in read if look.prepared),
        channels=_counts(str(look.channels) for look in read),
        depths=_counts(look.kind for look in read),
        orientations=_counts(look.orientation for look in planes),
        spacings=_counts(" x ".join(f"{mm:g}" for mm in look.spacing or ()) for look in planes),
        codes=_counts(str(code) for look in read for code in look.codes),
        labels=_counts(
            part.strip() for case in cases if "label" in case.labels for part in str(case.labels["label"]).split("|")
        ),
        boxes=_counts(label for look in read for label, number in look.boxes.items() for _ in range(number)),
        labelled=_counts(key for case in cases for key in case.labels),
        scale=scale(look.scale for look in read),
        scale_after=scale(look.scale_after for look in read),
    )


def _size(size: Sequence[int]) -> str:
    return " x ".join(map(str, size))


def _counts(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))


def _distances(sites: Sequence[Site], looks: Sequence[Look]) -> Iterator[Distance]:
    shares = {site.name: _shares(site, [look for look in looks if look.case.site == site.name]) for site in sites}
    for first, second in combinations((site.name for site in sites), 2):
        looks_of = [[look for look in looks if look.case.site == name] for name in (first, second)]
        for measure in ("intensity", "spectrum", "layout"):
            before, after = (_gap(looks_of, when, measure) for when in ("before", "after"))
            if before or after:
                yield Distance((first, second), measure, before, after)
        if shares[first] and shares[second]:
            apart = (
                sum(
                    abs(shares[first].get(key, 0) - shares[second].get(key, 0))
                    for key in {*shares[first], *shares[second]}
                )
                / 2
            )
            yield Distance((first, second), "labels", Gap(round(apart, 4), 0.0), None)


def _shares(site: Site, looks: Sequence[Look]) -> dict[str, float]:
    """Class -> its share: of cases by label, of boxes, or of pixels by mask value (0 and 255 as 0
    and 1)."""
    counts: dict[str, float] = dict(site.labels or site.boxes)
    if not counts:
        for look in looks:
            binary = set(look.codes) <= {0, 255}
            for code, number in look.codes.items():
                key = "1" if binary and code == 255 else str(code)
                counts[key] = counts.get(key, 0) + number
    total = sum(counts.values())
    return {key: number / total for key, number in counts.items()}


def _gap(both_sites: Sequence[Sequence[Look]], when: str, measure: str) -> Gap | None:
    styles: list[list[Style]] = [
        [style for look in side if (style := getattr(look, when)) is not None] for side in both_sites
    ]
    if not all(styles):
        return None
    one, other = (np.stack([getattr(style, measure) for style in side]) for side in styles)
    unit = float(np.mean([style.spread for side in styles for style in side])) if measure == "intensity" else 1.0
    within = np.mean([np.abs(side - side.mean(0)).mean() for side in (one, other)])
    between = np.abs(one.mean(0) - other.mean(0)).mean()
    return Gap(round(float(between) / (unit or 1.0), 4), round(float(within) / (unit or 1.0), 4))


def _shifts(distances: Sequence[Distance]) -> Iterator[Finding]:
    """Which differences between sites the preprocessing removes, and which it leaves for the
    recipes."""
    for distance in distances:
        pair = f"'{distance.sites[0]}' and '{distance.sites[1]}'"
        if distance.measure == "labels" and distance.before and distance.before.between > 0.2:
            yield Finding(
                "note",
                "content",
                f"class frequencies of {pair} differ by {distance.before.between:.2f} (0 to 1): part of the shift is "
                "in the labels",
            )
        before, after = distance.before, distance.after
        if distance.measure == "labels" or before is None or after is None:
            continue
        topic = "content" if distance.measure == "layout" else "style"
        was, now = before.between > before.within, after.between > after.within
        numbers = f"{after.between:.2g} between, {after.within:.2g} within"
        if now:
            text = (
                f"{distance.measure} of {pair} differs after the preprocessing ({numbers}): a shift for the recipes "
                "to treat"
            )
            yield Finding("note", topic, text)
        elif was:
            yield Finding(
                "note",
                topic,
                f"{distance.measure} of {pair} differs as stored; the preprocessing removes it ({numbers})",
            )
