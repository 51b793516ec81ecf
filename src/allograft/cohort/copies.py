"""Copies of one picture among the cases of a cohort: the same pixels, or nearly the same."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import ClassVar

import numpy as np

from allograft.cohort.manifest import Case
from allograft.cohort.near_duplicates import (
    Fingerprint,
    correlate_pairs,
    fingerprint,
    near_duplicate_pairs,
    without_common,
)
from allograft.cohort.prepared_images import file_hash
from allograft.cohort.readers import read_image
from allograft.errors import SpecError
from allograft.tree import content_hash, write_json

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
        return groups_of_equal(self.pixels)

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
    alike = [
        (i, j, value)
        for i, j, value in near_duplicate_pairs(stack, [known[name].subject for name in names], WEAK)
        if pixels[names[i]] != pixels[names[j]]
    ]
    doubtful = np.array([(i, j) for i, j, value in alike if value <= threshold], np.int64).reshape(-1, 2)
    beyond = dict(zip(map(tuple, doubtful.tolist()), correlate_pairs(own, doubtful), strict=True))
    pairs = [
        Pair(names[i], names[j], "near" if value > threshold else "weak", round(value, 4))
        for i, j, value in alike
        if value > threshold or beyond[i, j] > _OWN
    ]
    pairs.sort(key=lambda pair: (-pair.correlation, pair))
    near, weak = (tuple(pair for pair in pairs if pair.why == why) for why in ("near", "weak"))
    return Findings({name: case.subject for name, case in known.items()}, pixels, near, weak)


def groups_of_equal(values: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """Names of one value, where there are two or more, in sorted order."""
    counts, groups = Counter(values.values()), {}  # type: ignore[var-annotated]
    for name in sorted(values):
        if counts[values[name]] > 1:
            groups.setdefault(values[name], []).append(name)
    return tuple(map(tuple, groups.values()))
