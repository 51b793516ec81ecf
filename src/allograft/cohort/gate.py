"""The leakage gate: no patient, and no copy of a picture, on two sides of a split."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np

from allograft.cohort.manifest import Case
from allograft.cohort.near_duplicates import (
    Fingerprint,
    correlate_pairs,
    fingerprint,
    near_duplicate_pairs,
    thumbnail,
    without_common,
)
from allograft.cohort.prepared_images import file_hash
from allograft.cohort.readers import read_image, read_mask
from allograft.cohort.splits import Assignment
from allograft.errors import ImageError, LeakageError, ManifestError, SpecError
from allograft.tree import content_hash, write_bytes, write_json

NearDuplicates = Literal["group", "warn", "stop"]
NEAR, WEAK = 0.99, 0.95
# of what lies beyond the site's mean image; measured: fundus photographs of two patients up to
# 0.73, weak copies from 0.79
_OWN = 0.78
_VERSION = 1  # of what a kept findings file says; raise it when fingerprints or the search change


@dataclass(frozen=True, order=True)
class Pair:
    """Two cases that are, or may be, one: ``why`` is "subject", "pixels", "near" or "weak"."""

    first: str
    second: str
    why: str
    correlation: float = 1.0

    def __str__(self) -> str:
        reason = {"subject": "same subject", "pixels": "same pixels"}.get(
            self.why, f"correlation {self.correlation:.3f}"
        )
        return f"'{self.first}' and '{self.second}' ({reason})"


@dataclass(frozen=True)
class Findings:
    """What was found among the images of some cases; JSON values throughout.

    Args:
        subjects: case -> subject.
        pixels: case -> hash of its decoded pixels; a model card keeps those of its training images.
        near: pairs of different subjects whose thumbnails correlate above the threshold; of equal
            pictures one stands for all.
        weak: pairs between 0.95 and the threshold, alike beyond what all images of their sites
            share: worth a look.
    """

    __pydantic_config__: ClassVar[dict[str, str]] = {"extra": "forbid"}

    subjects: dict[str, str] = field(default_factory=dict)
    pixels: dict[str, str] = field(default_factory=dict)
    near: tuple[Pair, ...] = ()
    weak: tuple[Pair, ...] = ()

    @cached_property
    def copies(self) -> tuple[tuple[str, ...], ...]:
        """Groups of cases with the same pixels, two or more in each."""
        return _groups(self.pixels)

    def alike(self) -> Iterator[Pair]:
        """``near`` between all copies of the two pictures, each pair once."""
        copies = {name: group for group in self.copies for name in group}
        seen: set[frozenset[str]] = set()
        for pair in self.near:
            for first, second in product(*(copies.get(name, (name,)) for name in (pair.first, pair.second))):
                if (both := frozenset((first, second))) not in seen:
                    seen.add(both)
                    yield replace(pair, first=first, second=second)


def find_duplicates(cases: Sequence[Case], *, threshold: float = NEAR, cache: Path | None = None) -> Findings:
    """Read every image and find exact copies, near-duplicates and weak ones. Volumes are compared
    by exact pixels only.

    Args:
        threshold: a pair of different subjects whose aligned 64 x 64 thumbnails correlate above it
            is a near-duplicate.
        cache: a folder that keeps the findings under the hash of all files, so that a second call
            reads no image.

    Raises:
        ImageError: an image that cannot be read.
    """
    if not WEAK <= threshold < 1:
        raise SpecError(f"threshold: found {threshold}, expected a correlation from {WEAK} to below 1")
    path = None
    if cache is not None:
        key = content_hash(
            _VERSION,
            threshold,
            sorted([case.name, case.subject, case.site, *map(file_hash, case.image)] for case in cases),
        )
        path = cache / f"duplicates-{key}.json"
        if (kept := _kept(path)) is not None:
            return kept
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding leaves Python's lock
        prints = pool.map(lambda case: fingerprint(read_image(case.image, nan=0.0)), cases)
        findings = compare(dict(zip((case.name for case in cases), prints, strict=True)), cases, threshold=threshold)
    if path is not None:
        write_json(path, asdict(findings))
    return findings


def _kept(path: Path) -> Findings | None:
    from pydantic import TypeAdapter, ValidationError

    try:
        return TypeAdapter(Findings).validate_json(path.read_bytes(), strict=True)
    except (OSError, ValidationError):
        return None


def compare(prints: Mapping[str, Fingerprint], cases: Iterable[Case], *, threshold: float = NEAR) -> Findings:
    """Findings from fingerprints; the cases that have none are left out."""
    known = {case.name: case for case in cases if case.name in prints}
    pixels = {name: prints[name].pixels for name in known}
    first_of: dict[tuple[str, str], str] = {}
    for name in sorted(known):  # equal pictures are compared with others once for each subject
        if prints[name].thumbnail is not None:
            first_of.setdefault((pixels[name], known[name].subject), name)
    names = sorted(first_of.values())
    stack = (
        np.stack([np.asarray(prints[name].thumbnail) for name in names]) if names else np.zeros((0, 1, 1), np.float32)
    )
    own = without_common(stack, [known[name].site for name in names])
    found = [
        (i, j, value)
        for i, j, value in near_duplicate_pairs(stack, [known[name].subject for name in names], WEAK)
        if pixels[names[i]] != pixels[names[j]]
    ]
    doubtful = np.array([(i, j) for i, j, value in found if value <= threshold], np.int64).reshape(-1, 2)
    beyond = dict(zip(map(tuple, doubtful.tolist()), correlate_pairs(own, doubtful), strict=True))
    pairs = [
        Pair(names[i], names[j], "near" if value > threshold else "weak", round(value, 4))
        for i, j, value in found
        if value > threshold or beyond[i, j] > _OWN
    ]
    pairs.sort(key=lambda pair: (-pair.correlation, pair))
    near, weak = (tuple(pair for pair in pairs if pair.why == why) for why in ("near", "weak"))
    return Findings({name: case.subject for name, case in known.items()}, pixels, near, weak)


def sides_of(cases: Iterable[Case], assignments: Mapping[str, Assignment]) -> dict[str, str]:
    """Case -> its side: train, val, test, or the fold in which it is tested."""
    found = ((case.name, assignments[case.subject]) for case in cases if case.subject in assignments)
    return {name: f"fold {place.fold}" if place.split == "fold" else place.split for name, place in found}


def check_leakage(
    sides: Mapping[str, str],
    findings: Findings,
    *,
    near_duplicates: NearDuplicates = "stop",
    allow: Sequence[tuple[str, str]] = (),
) -> tuple[Pair, ...]:
    """Refuse the same subject, the same pixels or near-duplicates on two sides; within one side
    nothing happens.

    Args:
        sides: case -> train, val, test, pool, a fold, or whatever must not share; cases that are
            not in it count nowhere.
        near_duplicates: "warn" lets near-duplicates pass; "group" stops on those that ``grouped``
            could not bring together.
        allow: pairs of cases, by name, that may stand on two sides.

    Returns:
        The pairs across sides that only warn, strongest first: show them with ``contact_sheet``.

    Raises:
        LeakageError: with at most ten pairs, how many there are, and the mend.

    >>> found = Findings({"a": "1", "b": "2"}, {"a": "x", "b": "x"})
    >>> check_leakage({"a": "train", "b": "train"}, found)
    ()
    >>> check_leakage({"a": "train", "b": "test"}, found)
    Traceback (most recent call last):
    ...
    allograft.errors.LeakageError: 1 pair of cases is on two sides: 'a' and 'b' (same pixels): train and test. ...
    """
    allowed = _allowed(allow, findings)

    def across(pairs: Iterable[Pair]) -> list[Pair]:
        placed = (
            pair
            for pair in pairs
            if pair.first in sides and pair.second in sides and sides[pair.first] != sides[pair.second]
        )
        return [pair for pair in placed if frozenset((pair.first, pair.second)) not in allowed]

    near = across(findings.alike())
    stopping = [] if near_duplicates == "warn" else near
    leaks = {frozenset((pair.first, pair.second)): pair for pair in (*stopping, *across(_certain(findings, sides)))}
    if leaks:
        raise LeakageError(_refusal(sorted(leaks.values(), key=_rank), sides, near_duplicates))
    return (*near, *across(findings.weak))


def shared_masks(cases: Iterable[Case]) -> tuple[tuple[Case, ...], ...]:
    """Cases whose one mask file is named for several subjects: of all but one it is not theirs. The
    images of one subject may share a mask, and those in which nothing is to be found a blank
    one."""
    named: dict[Path | str, list[Case]] = {}
    for case in cases:
        if (mask := case.labels.get("mask")) is not None:
            named.setdefault(mask, []).append(case)
    several = {mask: each for mask, each in named.items() if len({case.subject for case in each}) > 1}
    return tuple(tuple(each) for mask, each in several.items() if not _is_blank(Path(mask)))


def _is_blank(mask: Path) -> bool:
    """Whether a mask that can be read marks nothing."""
    try:
        return not read_mask(mask).array.any()
    except ImageError:
        return False


def check_masks(cases: Iterable[Case]) -> None:
    """Refuse one mask file for several subjects, before subjects are grouped.

    Raises:
        ManifestError: the first of them, how many there are, and the mend.
    """
    found = shared_masks(cases)
    if found:
        first = found[0]
        more = f" (and {len(found) - 1} more such files)" if len(found) > 1 else ""
        images = ", ".join(repr(case.name) for case in first[:5])
        raise ManifestError(
            f"mask '{Path(first[0].labels['mask']).name}' is named for {len({case.subject for case in first})} "
            f"subjects, by images {images}{more}; give each subject a mask of its own, "
            "or leave the cell empty where there is none"
        )


def _allowed(allow: Sequence[tuple[str, str]], findings: Findings) -> set[frozenset[str]]:
    for name in (name for pair in allow for name in pair):
        if name not in findings.subjects:
            raise SpecError(f"allow_duplicates: no case '{name}'; write both images as the manifest does")
    return {frozenset(pair) for pair in allow}


def _certain(findings: Findings, sides: Mapping[str, str]) -> Iterator[Pair]:
    placed = {name: subject for name, subject in findings.subjects.items() if name in sides}
    for why, groups in (("pixels", findings.copies), ("subject", _groups(placed))):
        for group in groups:
            if len({sides.get(name) for name in group}) > 1:
                yield from (Pair(first, second, why) for first, second in combinations(group, 2))


def _rank(pair: Pair) -> tuple[int, float, Pair]:
    return ("subject", "pixels", "near").index(pair.why), -pair.correlation, pair


def _refusal(leaks: Sequence[Pair], sides: Mapping[str, str], near_duplicates: NearDuplicates) -> str:
    shown = "; ".join(f"{pair}: {sides[pair.first]} and {sides[pair.second]}" for pair in leaks[:10])
    more = f"; and {len(leaks) - 10} more" if len(leaks) > 10 else ""
    count = "1 pair of cases is" if len(leaks) == 1 else f"{len(leaks)} pairs of cases are"
    if near_duplicates == "group" or all(pair.why == "subject" for pair in leaks):
        fixed = "their sides are fixed (by the manifest's split column, OUT/splits.csv or the pool)"
        mend = f"{fixed}: give them one split, remove one of each, or choose another --out"
    else:
        mend = "near_duplicates: group gives them one split"
    one = leaks[0]
    return (
        f"{count} on two sides: {shown}{more}. Fix: {mend}, or allow a pair by name: allow_duplicates: "
        f"[['{one.first}', '{one.second}']]"
    )


def grouped(
    cases: Iterable[Case],
    findings: Findings,
    *,
    allow: Sequence[tuple[str, str]] = (),
    known: Mapping[str, Assignment] | None = None,
) -> tuple[Case, ...]:
    """The cases with one subject for all who share a picture, so that ``draw_splits`` treats them
    as one patient.

    A group is named after a member that ``known`` has placed (it keeps its place), otherwise after
    the first in sorted order.

    Raises:
        LeakageError: members that the manifest's split column, or ``known``, has put on different
            sides.
    """
    cases, known = tuple(cases), known or {}
    allowed = _allowed(allow, findings)
    copies = (both for group in findings.copies for both in (combinations(group, 2) if allow else pairwise(group)))
    near = ((pair.first, pair.second) for pair in findings.alike())
    alike = [both for both in (*copies, *near) if frozenset(both) not in allowed]
    merged = _union(
        [case.subject for case in cases],
        [(findings.subjects[first], findings.subjects[second]) for first, second in alike],
    )
    joined: dict[str, list[str]] = {}
    for subject, root in merged.items():
        joined.setdefault(root, []).append(subject)
    names = {
        root: min(members, key=lambda subject: (subject not in known, subject)) for root, members in joined.items()
    }
    fixed = {case.name: case.split for case in cases if case.split is not None}
    check_leakage({**sides_of(cases, known), **fixed}, findings, near_duplicates="group", allow=allow)
    return tuple(replace(case, subject=names[merged[case.subject]]) for case in cases)


def _union(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Name -> the representative of its connected part."""
    parent = {name: name for name in names}

    def root(name: str) -> str:
        while parent[name] != name:
            parent[name] = name = parent[parent[name]]
        return name

    for first, second in pairs:
        if first in parent and second in parent:
            parent[root(first)] = root(second)
    return {name: root(name) for name in parent}


def _groups(values: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    counts, groups = Counter(values.values()), {}  # type: ignore[var-annotated]
    for name in sorted(values):
        if counts[values[name]] > 1:
            groups.setdefault(values[name], []).append(name)
    return tuple(map(tuple, groups.values()))


def contact_sheet(pairs: Sequence[Pair], cases: Iterable[Case], path: Path, *, most: int = 40) -> None:
    """Write a PNG of the first ``most`` pairs side by side, numbered in their order, with the
    reason; nobody is named."""
    from io import BytesIO

    from PIL import Image, ImageDraw

    files = {case.name: case.image for case in cases}
    side, gap, columns = 128, 18, 4
    shown = [pair for pair in pairs[:most] if pair.first in files and pair.second in files]
    rows = max(1, -(-len(shown) // columns))
    sheet = Image.new("L", (columns * (2 * side + gap), rows * (side + gap)), 255)
    pen = ImageDraw.Draw(sheet)
    for number, pair in enumerate(shown):
        left, top = number % columns * (2 * side + gap), number // columns * (side + gap)
        pen.text((left + 2, top + 3), f"{number + 1}: {pair.why} {pair.correlation:.3f}", fill=0)
        for place, name in enumerate((pair.first, pair.second)):
            sheet.paste(
                Image.fromarray(_shown(read_image(files[name], nan=0.0).array, side)), (left + place * side, top + gap)
            )
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    write_bytes(path, buffer.getvalue())


def _shown(array: np.ndarray, side: int) -> np.ndarray:
    """(C, *spatial) -> (side, side) uint8: a volume by its middle plane."""
    flat = array if array.ndim == 3 else array[..., array.shape[-1] // 2]
    small = thumbnail(flat, side)
    low, high = float(small.min()), float(small.max())
    return np.asarray((small - low) / (high - low or 1.0) * 255, np.uint8)
