"""Which subjects train, validate and test: drawn once, written down, never moved."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from allograft.cohort.manifest import SPLITS, Case
from allograft.errors import SplitError
from allograft.seeds import Seeds
from allograft.tree import write_bytes


@dataclass(frozen=True)
class Assignment:
    """Where a subject stands: ``split`` is train, val, test, or "fold" (test in fold ``fold``,
    train in the others)."""

    split: str
    fold: int = -1

    def in_fold(self, fold: int) -> str:
        """train, val or test in one fold of the study."""
        if self.split != "fold":
            return self.split
        return "test" if self.fold == fold else "train"


def draw_splits(
    cases: Iterable[Case],
    sources: Sequence[str],
    *,
    test: float | Mapping[str, float] = 0.3,
    val: float = 0.2,
    folds: int = 1,
    known: Mapping[str, Assignment] | None = None,
) -> dict[str, Assignment]:
    """Give every subject its place, by subject and then by site.

    The manifest's own ``split`` column wins; a subject in ``known`` never moves; new subjects fill
    whichever part of their site is short. Validation subjects are drawn at source sites only: at a
    target site every label that a recipe may use counts as label budget. With ``folds`` > 1 the
    subjects of the other sites rotate through the test set; a source that is to rotate too is not
    among ``sources``.

    Args:
        test, val: shares of a site's subjects, test by site where they differ; val is a share of
            what the test set leaves. At least one subject stays for training.
        known: assignments drawn earlier.
    """
    assignments = dict(known or {})
    by_site: dict[str, set[str]] = {}
    for case in cases:
        by_site.setdefault(case.site, set()).add(case.subject)
        # of one image: it holds for all images of the subject, at every site
        if case.split is not None:
            assignments[case.subject] = Assignment(case.split)
    for site, subjects in sorted(by_site.items()):
        new = [subject for subject in _shuffled(subjects, site) if subject not in assignments]
        here = [assignments[subject] for subject in subjects if subject in assignments]
        if folds > 1 and site not in sources:
            _fill_folds(assignments, new, here, folds, site)
        else:
            share = test[site] if isinstance(test, Mapping) else test
            _fill_parts(assignments, new, here, share, val if site in sources else 0.0)
    return assignments


def _shuffled(subjects: Iterable[str], site: str) -> list[str]:
    names = sorted(subjects)
    # by name, so that a subject's turn does not depend on who else is there
    seeds = Seeds(0, ("splits", site))
    return sorted(names, key=seeds.number)


def _fill_parts(
    assignments: dict[str, Assignment], new: list[str], here: list[Assignment], test: float, val: float
) -> None:
    total = len(new) + len(here)
    wanted_test = min(max(1, round(test * total)), total - 1) if test > 0 and total > 1 else 0
    rest = total - wanted_test
    wanted_val = min(max(1, round(val * rest)), rest - 1) if val > 0 and rest > 1 else 0
    tests, vals = (sum(assigned.split == part for assigned in here) for part in ("test", "val"))
    for subject in new:
        if tests < wanted_test:
            assignments[subject], tests = Assignment("test"), tests + 1
        elif vals < wanted_val:
            assignments[subject], vals = Assignment("val"), vals + 1
        else:
            assignments[subject] = Assignment("train")


def _fill_folds(
    assignments: dict[str, Assignment], new: list[str], here: list[Assignment], folds: int, site: str
) -> None:
    if len(new) + len(here) < folds:
        raise SplitError(
            f"site '{site}' has {len(new) + len(here)} subjects; test: {{folds: {folds}}} needs at least {folds}"
        )
    sizes = [sum(assigned.fold == fold for assigned in here) for fold in range(folds)]
    for subject in new:
        fold = sizes.index(min(sizes))
        assignments[subject] = Assignment("fold", fold)
        sizes[fold] += 1
    if 0 in sizes:
        raise SplitError(
            f"site '{site}': fold {sizes.index(0)} has no test subject, because its subjects were placed otherwise "
            "before and never move; "
            "choose another --out, remove 'split' from the manifest, or keep test: {folds: ...} as it was"
        )


def read_splits(path: Path) -> dict[str, Assignment]:
    """Read ``splits.csv``; {} when there is none yet."""
    if not path.exists():
        return {}
    assignments = {}
    for number, row in enumerate(_split_rows(path), 2):
        if row.get("split") not in (*SPLITS, "fold") or not re.fullmatch(r"-?\d+", row.get("fold") or ""):
            raise SplitError(
                f"{path}, row {number}: found {row}; expected subject,site,split,fold; fix it, or choose another --out"
            )
        assignments[row["subject"]] = Assignment(row["split"], int(row["fold"]))
    return assignments


def _split_rows(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def write_splits(path: Path, assignments: Mapping[str, Assignment], cases: Iterable[Case]) -> None:
    """Write ``subject,site,split,fold``, sorted by site and subject; a subject at two sites has a
    row for each.

    Rows of subjects that a filter leaves out today stay, so that they find their place again
    tomorrow.
    """
    earlier = {
        (row["site"], row["subject"])
        for row in (_split_rows(path) if path.exists() else ())
        if row["subject"] in assignments
    }
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["subject", "site", "split", "fold"])
    for site, subject in sorted(earlier | {(case.site, case.subject) for case in cases}):
        writer.writerow([subject, site, assignments[subject].split, assignments[subject].fold])
    write_bytes(path, text.getvalue().encode())


def budget_order(subjects: Iterable[str], seeds: Seeds) -> list[str]:
    """The order in which subjects get labelled: nested budgets are prefixes of it; it changes with
    the seed.

    >>> budget_order(["c", "a", "b"], Seeds(0)) == budget_order(["b", "c", "a"], Seeds(0))
    True
    """
    names = sorted(set(subjects))
    return [names[i] for i in torch.randperm(len(names), generator=seeds.rng("budget")).tolist()]
