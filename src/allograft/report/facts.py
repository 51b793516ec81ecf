"""What a report says besides its numbers: who is who, what went wrong, the protocol, the papers,
the versions."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from allograft.recipe import title, total_needs
from allograft.results.record import Record
from allograft.results.select import NOT_YET, Line
from allograft.study.keys import TargetLabels
from allograft.study.plan import Plan
from allograft.study.spec import Study
from allograft.study.world import World
from allograft.tree import plain

UNLABELLED = "It sees predictions on training images of the target, without labels, and no score."
MAY_SEE = {
    "last": "It sees no score at all.",
    "source-val": "It sees scores on validation subjects of the source, and nothing of the target.",
    **dict.fromkeys(("entropy", "infomax", "snd"), UNLABELLED),
    "oracle": "It sees the test scores themselves: what it chooses is optimistic and no guide to new patients. There "
    "is no verdict.",
}
_FILE = re.compile(
    r"[^\s'\"]*[/\\][^\s'\"]*|[^\s'\"]+\.(?:png|jpe?g|tiff?|bmp|nii|gz|npz|npy|dcm|csv|parquet)\b", re.IGNORECASE
)


@dataclass(frozen=True)
class Failure:
    """Why a run failed, with names of patients and files taken out."""

    recipe: str
    target: str
    seed: int
    error: str


def records_of(lines: Sequence[Line]) -> Iterator[Record]:
    """Every test record that the table stands on; one that answers several lines comes several
    times."""
    for line in lines:
        for run in line.runs:
            for records in run.tests.values():
                yield from records


def ordinals(lines: Sequence[Line], further: Iterable[str] = ()) -> dict[str, str]:
    """Subject -> S001, S002, ... in sorted order: a hash of a hospital number could be reversed by
    counting.

    Args:
        further: subjects without a record, such as those in a figure of training images; they
            come after all others.
    """
    subjects = {str(case["subject"]) for record in records_of(lines) for case in record.cases}
    order = (*sorted(subjects), *sorted(set(further) - subjects))
    return {subject: f"S{number:03d}" for number, subject in enumerate(order, 1)}


def name_hider(lines: Sequence[Line], further: Iterable[str] = ()) -> Callable[[str], str]:
    """Puts ordinals in the place of subjects, and takes out names of cases; for words of ours, in
    which a slash is no path."""
    names = {str(case["case"]): "[case]" for record in records_of(lines) for case in record.cases}
    names |= {subject: "[subject]" for record in records_of(lines) for subject in record.labelled_subjects}
    names |= ordinals(lines, further)
    long = sorted(
        (name for name in names if len(name) > 2), key=lambda name: (-len(name), name)
    )  # "4" is a number, not a patient
    pattern = re.compile(r"(?<![\w.])(?:" + "|".join(map(re.escape, long)) + r")(?!\w)") if long else None
    return lambda text: text if pattern is None else pattern.sub(lambda matched: names[matched[0]], text)


def hider(lines: Sequence[Line]) -> Callable[[str], str]:
    """Makes a message of our own or of a recipe fit to be shown: its first line, subjects as
    ordinals, no case names, no paths."""
    unnamed = name_hider(lines)

    def hide(text: str) -> str:
        text = _FILE.sub("[file]", unnamed(next(iter(text.strip().splitlines()), "")))
        return text if len(text) <= 400 else text[:399] + "…"

    return hide


def failures(lines: Sequence[Line], hide: Callable[[str], str]) -> list[Failure]:
    """Every failed run, in the order of the table and by seed; runs that are still to come are
    none."""
    failed = [
        (line, run)
        for line in lines
        for run in sorted(line.runs, key=lambda run: run.row.seed)
        if run.error and run.error != NOT_YET
    ]
    return [Failure(line.title, line.target, run.row.seed, hide(run.error)) for line, run in failed]


def protocol(study: Study) -> str:
    """Every key of the study with its value, defaults included, as YAML. Of absolute paths the last
    two parts."""
    import yaml

    tree = plain(study)
    for key in ("cohort", "start"):
        path = PurePath(tree[key])
        if path.is_absolute():
            tree[key] = "/".join(("...", *path.parts[-2:]))
    return yaml.safe_dump(tree, sort_keys=False, default_flow_style=None, allow_unicode=True, width=96)


def label_budget(study: Study) -> str:
    """How many target labels a recipe may use, in words."""
    wanted = study.target_labels
    if not isinstance(wanted, TargetLabels):
        return wanted
    if wanted.unit == "fraction":
        return f"{listed([f'{amount:.0%}' for amount in wanted.amounts], 'or')} of subjects"
    noun = wanted.unit.removesuffix("s") if wanted.amounts == (1,) else wanted.unit
    return f"{listed([f'{amount:g}' for amount in wanted.amounts], 'or')} {noun}"


def splits(study: Study, lines: Sequence[Line], world: World | None) -> list[tuple[str, str, dict[str, str]]]:
    """(site, source or target, part -> "8 subjects, 16 cases"). Without a world only the test sets
    are known."""
    placed: dict[str, dict[str, list[tuple[str, str]]]] = {site: {} for site in (*study.source, *study.target)}
    if world is not None:
        for case in world.cases():
            placed.setdefault(case.site, {}).setdefault(world.assignments[case.subject].split, []).append(
                (case.subject, case.name)
            )
    else:
        seen = {
            (record.site, str(case["subject"]), str(case["case"]))
            for record in records_of(lines)
            for case in record.measured
        }
        for site, subject, name in sorted(seen):
            placed.setdefault(site, {}).setdefault("test", []).append((subject, name))
    return [
        (site, "source" if site in study.source else "target", {part: _counted(cases) for part, cases in parts.items()})
        for site, parts in placed.items()
    ]


def upper_bounds(plan: Plan) -> list[str]:
    """Titles of the recipes that use target labels beyond the budget."""
    return list(dict.fromkeys(title(row.recipe) for row in plan.rows if total_needs(row.recipe).all_target_labels))


def environment(lines: Sequence[Line]) -> dict[str, str]:
    """What the records say they were made with; several values are all shown, with the number of
    records of each."""
    unique = {(record.name, record.seed): record for record in records_of(lines)}
    counts: dict[str, Counter[str]] = {}
    for record in unique.values():
        for key, value in record.environment.items():
            counts.setdefault(key, Counter())[str(value)] += 1
    return {
        key: next(iter(values))
        if len(values) == 1
        else ", ".join(f"{value} ({number} records)" for value, number in sorted(values.items()))
        for key, values in sorted(counts.items())
    }


def listed(words: Sequence[str], last: str = "and") -> str:
    """``a, b and c``.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return f" {last} ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else "".join(words)


def counted(number: int, noun: str) -> str:
    """``1 subject``, ``2 subjects``."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def task_in_words(study: Study, plan: Plan) -> str:
    """``segmentation of vessel``."""
    names: Sequence[str] = getattr(plan.task, "names", ())
    return next(iter(study.task)) + (f" of {listed(names)}" if names else "")


def _counted(cases: Sequence[tuple[str, str]]) -> str:
    return f"{counted(len({subject for subject, _ in cases}), 'subject')}, {counted(len(cases), 'case')}"
