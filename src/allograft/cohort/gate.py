"""The leakage gate: no patient, and no copy of a picture, on two sides of a split."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from allograft.cohort.copies import Findings, Pair, groups_of_equal
from allograft.cohort.manifest import Case
from allograft.cohort.near_duplicates import thumbnail
from allograft.cohort.readers import read_image, read_mask
from allograft.cohort.splits import Assignment
from allograft.errors import ImageError, LeakageError, ManifestError, SpecError
from allograft.tree import write_bytes

NearDuplicates = Literal["group", "warn", "stop"]


def sides_of(cases: Iterable[Case], assignments: Mapping[str, Assignment]) -> dict[str, str]:
    """Case -> its side: train, val, test, or the fold in which it is tested."""
    assigned = ((case.name, assignments[case.subject]) for case in cases if case.subject in assignments)
    return {name: f"fold {side.fold}" if side.split == "fold" else side.split for name, side in assigned}


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
    shared = shared_masks(cases)
    if shared:
        first = shared[0]
        more = f" (and {len(shared) - 1} more such files)" if len(shared) > 1 else ""
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
    for why, groups in (("pixels", findings.copies), ("subject", groups_of_equal(placed))):
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
    leak = leaks[0]
    return (
        f"{count} on two sides: {shown}{more}. Fix: {mend}, or allow a pair by name: allow_duplicates: "
        f"[['{leak.first}', '{leak.second}']]"
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
        for column, name in enumerate((pair.first, pair.second)):
            sheet.paste(
                Image.fromarray(_shown(read_image(files[name], nan=0.0).array, side)), (left + column * side, top + gap)
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
