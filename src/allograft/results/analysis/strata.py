"""The error of made images by what the manifest calls their subject, grades of a disease say (Chen
and Niethammer 2023, table 2)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from allograft.cohort import Case
from allograft.results.analysis.sheet import Sheet
from allograft.results.scores import seed_cases
from allograft.results.select import Line

MEDIAN, DEVIATION = "median_error", "mad_error"
ALL = "all"


def strata_sheet(lines: Sequence[Line], cases: Iterable[Case], target: str) -> Sheet | None:
    """Median ± MAD of the absolute error at a target, a column for each value of the manifest's
    column ``label`` and one for all images: means over a subject's images, subjects and seeds.

    None where no image was made, or fewer than two values are known.
    """
    stratum = {case.name: str(case.labels["label"]) for case in cases if "label" in case.labels}
    rows: dict[str, dict[str, str]] = {}
    counts: dict[str, set[str]] = {}
    for line in (line for line in lines if line.target == target):
        by_seed: list[dict[str, list[Mapping[str, Any]]]] = []
        for made in seed_cases(line, target).values():
            parted: dict[str, list[Mapping[str, Any]]] = {}
            for case in (case for case in made if case.get(MEDIAN) is not None):
                for name in (stratum.get(str(case["case"])), ALL):
                    if name is not None:
                        parted.setdefault(name, []).append(case)
                        counts.setdefault(name, set()).add(str(case["case"]))
            by_seed.append(parted)
        names = dict.fromkeys(name for parted in by_seed for name in parted)
        rows[line.title] = {name: _spread([parted[name] for parted in by_seed if name in parted]) for name in names}
    strata = sorted(counts.keys() - {ALL})
    if len(strata) < 2:
        return None
    columns = ("recipe", *(f"{name} ({len(counts[name])} images)" for name in (*strata, ALL)))
    body = tuple((title, *(cells.get(name, "") for name in (*strata, ALL))) for title, cells in rows.items())
    notes = ("Median ± median absolute deviation of the absolute error over an image's pixels, in its unit.",)
    return Sheet("Error of synthesised images by label", columns, body, notes)


def _spread(seeds: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    median, deviation = (fmean(_over_subjects(cases, name) for cases in seeds) for name in (MEDIAN, DEVIATION))
    return f"{median:.3f} ± {deviation:.3f}"


def _over_subjects(cases: Sequence[Mapping[str, Any]], name: str) -> float:
    subjects: dict[str, list[float]] = {}
    for case in cases:
        subjects.setdefault(str(case["subject"]), []).append(float(case[name]))
    return fmean(map(fmean, subjects.values()))
