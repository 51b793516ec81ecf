"""The world of a study: all its cases and where each subject stands; scenarios and test sets are cut from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from allograft.cohort import Case, Cohort
from allograft.cohort.gate import check_leakage, contact_sheet, find_duplicates, grouped, sides_of
from allograft.cohort.splits import Assignment, budget_order, draw_splits, read_splits
from allograft.errors import SpecError, SplitError
from allograft.metrics.label_free import KEYS
from allograft.recipe import Needs, Scenario
from allograft.seeds import Seeds
from allograft.study.parts import PAIRS
from allograft.study.spec import Study, TargetLabels
from allograft.study.where import take_sides

WATCHED = 16
"""Training images of a target that label-free selection rules look at."""


@dataclass(frozen=True)
class TestSet:
    """Cases of one site that a judge holds."""

    __test__ = False

    site: str
    part: Literal["val", "test", "train-unlabelled"]
    fold: int
    cohort: Cohort

    @property
    def is_unlabelled_training(self) -> bool:
        """Whether these are training images of a target: judged without labels, for rules that need none."""
        return self.part == "train-unlabelled"


@dataclass(frozen=True)
class World:
    """All cases of a study and where each subject stands. Scenarios are cut from it; test sets never enter them.

    ``listed`` are the cases as the manifest names them, before subjects of near-duplicates are grouped.
    """

    study: Study
    cohort: Cohort
    assignments: Mapping[str, Assignment]
    listed: tuple[Case, ...] = ()

    @staticmethod
    def read(study: Study, out: Path) -> World:
        """Read the manifest, apply the filters, and place every subject (as ``OUT/splits.csv`` has it, new subjects beside them)."""
        if study.pairs != "listed":
            raise SpecError(f"pairs: {study.pairs} makes several studies; run it with 'allograft study', or run_pairs in Python")
        task = study.made_task
        cohort = Cohort.read(study.manifest, task.coding, preprocessing=study.preprocessing, cache=cache_of(out), slices=study.slices)
        cohort = take_sides(cohort, study.source, study.target, study.where)
        grouped_cohort, assignments = _assigned(study, cohort, out)
        world = World(study, grouped_cohort, assignments, cohort.cases)
        world.check()
        return world

    def check(self) -> None:
        """Raise for a source without training cases or a label budget that the target cannot meet."""
        key = self.study.made_task.key
        for site in self.study.source:
            if not self.part(site, "train", 0).labelled(key).cases:
                raise SplitError(f"source '{site}': no training case has a '{key}'; label some, or name another source")
        for target in self.study.target:
            for fold in range(self.folds):
                self.scenario(target, 0, fold)

    @property
    def folds(self) -> int:
        """How often the target's subjects rotate."""
        return self.study.test.folds

    def part(self, site: str, split: str, fold: int) -> Cohort:
        """The cases of a site that train, validate or test in a fold."""
        return self.cohort.where(lambda case: case.site == site and self.assignments[case.subject].in_fold(fold) == split)

    def scenario(self, target: str, seed: int, fold: int, needs: Needs | None = None) -> Scenario:
        """What recipes may see: labelled source training cases, and of the target the labelled budget and the unlabelled rest.

        Args:
            needs: of the recipe, which may ask for more than that; see ``Needs``.
        """
        key, needs = self.study.made_task.key, needs or Needs()
        source = tuple(self.part(site, "train", fold).labelled(key) for site in self.study.source)
        targets = self.study.target if needs.every_target else (target,)
        seen = [cohort for one in targets for cohort in self._target(one, seed, fold, all_labels=needs.all_target_labels)]
        return Scenario(source, tuple(seen), sites=self.cohort.sites)

    def _target(self, target: str, seed: int, fold: int, *, all_labels: bool) -> list[Cohort]:
        images = self.part(target, "train", fold)
        labelled = self._budget(images.labelled(self.study.made_task.key), target, seed, all_labels=all_labels)
        names = {case.name for case in labelled.cases} if labelled else set()
        rest = images.where(lambda case: case.name not in names).unlabelled()
        return [cohort for cohort in (labelled, rest) if cohort and cohort.cases]

    def _budget(self, cohort: Cohort, target: str, seed: int, *, all_labels: bool) -> Cohort | None:
        wanted = self.study.target_labels
        if wanted == "none" and not all_labels:
            return None
        if wanted in ("all", "none") or all_labels:
            return cohort
        assert isinstance(wanted, TargetLabels)
        seeds = Seeds(seed, ("budget", target))
        if wanted.subjects is not None or wanted.fraction is not None:
            total = len(cohort.subjects)
            count = wanted.subjects if wanted.subjects is not None else max(1, round((wanted.fraction or 0) * total))
            if count > total:
                raise SplitError(
                    f"target_labels: asks for {count} subjects, site '{target}' has {total} labelled training subjects; "
                    "ask for fewer, or lower test: {fraction: ...}"
                )
            return cohort.of(budget_order(cohort.subjects, seeds)[:count])
        if wanted.slices is not None and self.study.slices is None:
            raise SpecError("target_labels: counts slices, but the study has none; set slices: {axis: 2}, or count cases or subjects")
        count = wanted.cases or wanted.slices or 0
        if wanted.cases is not None:
            order = budget_order([case.name for case in cohort.cases], seeds)[:count]
            return self._enough(cohort.where(lambda case: case.name in order), count, target)
        return self._enough(cohort.few(count, seeds), count, target)

    def _enough(self, cohort: Cohort, count: int, target: str) -> Cohort:
        if len(cohort) < count and (self.study.slices is None or cohort.chosen is not None):
            raise SplitError(f"target_labels: asks for {count}, site '{target}' has {len(cohort)} labelled training cases; ask for fewer")
        return cohort

    def tests(self, fold: int) -> list[TestSet]:
        """Every site's test cases, labelled or not, and the source sites' labelled validation cases."""
        key = self.study.made_task.key
        every = [TestSet(site, "val", 0, self.part(site, "val", fold).labelled(key)) for site in self.study.source]
        for site in (*self.study.source, *self.study.target):
            rotates = site in self.study.target
            every.append(TestSet(site, "test", fold if rotates else 0, self.part(site, "test", fold)))
        return [test for test in every if test.cohort.cases]

    def unlabelled_training(self, fold: int) -> list[TestSet]:
        """At most ``WATCHED`` training images of each target, without labels, in an order that other images do not change.

        For selection rules without labels, which may look at training images and never at test cases. Subjects whose labels a recipe of
        the study may use are among them; which they are differs between seeds, so it is the rule that leaves them out.
        """
        if self.study.made_task.key not in KEYS:
            return []
        made = []
        for site in self.study.target:
            images = self.part(site, "train", fold).unlabelled()
            turns = {case.name: Seeds(0, ("pool",)).number(case.name) for case in images.cases}
            kept = sorted(images.cases, key=lambda case: turns[case.name])[:WATCHED]
            made.append(TestSet(site, "train-unlabelled", fold, replace(images, cases=tuple(kept))))
        return [images for images in made if images.cohort.cases]

    def cases(self) -> Iterator[Case]:
        """All cases."""
        yield from self.cohort.cases


def cache_of(out: Path) -> Path:
    """Where a study keeps its images as prepared; those of many pairs of sites share one."""
    return (out.parent if out.parent.name == PAIRS else out) / "cache"


def _assigned(study: Study, cohort: Cohort, out: Path) -> tuple[Cohort, dict[str, Assignment]]:
    """Every subject's place, once the leakage gate has let the cohort through.

    With ``near_duplicates: group`` the subjects of near-duplicates count as one patient; each keeps a row of its own in ``splits.csv``.
    """
    known = read_splits(out / "splits.csv")
    findings = find_duplicates(cohort.cases, cache=cache_of(out))
    before = cohort.cases
    if study.near_duplicates == "group":
        cohort = replace(cohort, cases=grouped(before, findings, allow=study.allow_duplicates, known=known))
    test = study.test
    assignments = draw_splits(cohort.cases, study.source, test=test.fraction, val=test.val, folds=test.folds, known=known)
    assignments |= {old.subject: assignments[new.subject] for old, new in zip(before, cohort.cases, strict=True)}
    sides = sides_of(cohort.cases, assignments)
    warned = check_leakage(sides, findings, near_duplicates=study.near_duplicates, allow=study.allow_duplicates)
    if warned:
        contact_sheet(warned, cohort.cases, out / "similar.png")
    return cohort, assignments
