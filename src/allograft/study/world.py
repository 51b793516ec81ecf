"""The world of a study: all its cases and where each subject stands; scenarios and test sets are
cut from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from allograft.cohort import Case, Cohort
from allograft.cohort.copies import find_duplicates
from allograft.cohort.gate import check_leakage, check_masks, contact_sheet, grouped, sides_of
from allograft.cohort.splits import Assignment, budget_order, draw_splits, read_splits
from allograft.errors import SpecError, SplitError
from allograft.metrics.label_free import KEYS
from allograft.recipe import Needs, Scenario
from allograft.seeds import Seeds
from allograft.study.cohorts import read_cohorts
from allograft.study.keys import Question, TargetLabels
from allograft.study.parts import shared_folder
from allograft.study.spec import Study

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
        """Whether these are training images of a target: judged without labels, for rules that need
        none."""
        return self.part == "train-unlabelled"


@dataclass(frozen=True)
class World:
    """All cases of a study and where each subject stands. Scenarios are cut from it; test sets
    never enter them.

    Args:
        study: its sides name sites, no cohort.
        cohorts: each with its own labels and preprocessing; they number all sites alike.
        assignments: subject -> train, val, test, or its fold.
        listed: the cases as the manifests name them, before subjects of near-duplicates are
            grouped.
    """

    study: Study
    cohorts: tuple[Cohort, ...]
    assignments: Mapping[str, Assignment]
    listed: tuple[Case, ...] = ()

    @staticmethod
    def read(study: Study, out: Path) -> World:
        """Read the manifests, apply the filters, and place every subject (as ``OUT/splits.csv`` has
        it, new subjects beside them)."""
        if study.is_parted:
            raise SpecError("this study is made of parts; run it with 'allograft study', or run_study in Python")
        study, cohorts = read_cohorts(study, shared_folder(out) / "cache")
        listed = tuple(case for cohort in cohorts for case in cohort.cases)
        cohorts, assignments = _assigned(study, cohorts, out)
        world = World(study, cohorts, assignments, listed)
        world.check()
        return world

    def check(self) -> None:
        """Raise for a source without training cases, a pool without images or a label budget that
        the target cannot meet."""
        key = self.study.made_task.key
        for site in self.study.source:
            if not self.part(site, "train", 0).labelled(key).cases:
                raise SplitError(f"source '{site}': no training case has a '{key}'; label some, or name another source")
        for site in self.study.pool:
            if not self.part(site, "train", 0).cases:
                raise SplitError(
                    f"pool '{site}': no image is left for pre-training; its subjects are all tested: name another site"
                )
        for phase in self.study.phases:
            for site in phase:
                if not self.part(site, "train", 0).labelled(key).cases:
                    raise SplitError(
                        f"stream: site '{site}' has no training case with a '{key}'; label some, or name another site"
                    )
        for question in self.study.questions:
            for fold in range(self.folds):
                self.scenario(question, 0, fold)

    def untested(self) -> dict[str, str]:
        """Target sites of which no subject is tested, so that no row is ever judged there, each
        with the reason and the mend."""
        lines = {}
        for site in self.study.target:
            if any(self.part(site, "test", fold).cases for fold in range(self.folds)):
                continue
            count = len({case.subject for case in self.cohort_of(site).cases if case.site == site})
            why = (
                "has one subject, which is used for training: no row can be evaluated there; add subjects"
                if count == 1
                else f"has {count} subjects and none is tested: no row can be evaluated there; raise test: "
                "{fraction: ...}, fix the manifest's split column, or choose another --out"
            )
            lines[site] = f"target '{site}' {why}"
        return lines

    def one_class(self) -> dict[str, str]:
        """Target sites where the task's headline, an area under the ROC curve, is undefined because
        all labelled test cases, over all folds, have one label; each with the mend."""
        task, lines = self.study.made_task, {}
        for site in self.study.target if task.headline == "auroc" else ():
            tested = [self.part(site, "test", fold).labelled(task.key) for fold in range(self.folds)]
            labels = {str(case.labels[task.key]) for cohort in tested for case in cohort.cases}
            if len(labels) == 1:
                lines[site] = (
                    f"target '{site}': every labelled test case is '{labels.pop()}', so {task.headline} is undefined "
                    "and no row is ranked there; add test subjects of another class"
                )
        return lines

    @property
    def folds(self) -> int:
        """How often the target's subjects rotate."""
        return self.study.test.folds

    @property
    def sites(self) -> tuple[str, ...]:
        """All sites, as batches number them."""
        return self.cohorts[0].sites

    def cases(self) -> Iterator[Case]:
        """All cases."""
        for cohort in self.cohorts:
            yield from cohort.cases

    def cohort_of(self, site: str) -> Cohort:
        """The cohort that holds a site."""
        return next(
            (cohort for cohort in self.cohorts if any(case.site == site for case in cohort.cases)), self.cohorts[0]
        )

    def named(self, case: str) -> Cohort:
        """One case, by its name."""
        matching = (cohort.where(lambda case_: case_.name == case) for cohort in self.cohorts)
        return next(cohort for cohort in matching if cohort.cases)

    def part(self, site: str, split: str, fold: int) -> Cohort:
        """The cases of a site that train, validate or test in a fold."""
        return self.cohort_of(site).where(
            lambda case: case.site == site and self.assignments[case.subject].in_fold(fold) == split
        )

    def scenario(self, question: Question, seed: int, fold: int, needs: Needs | None = None) -> Scenario:
        """What recipes may see: labelled source training cases, and of the target the labelled
        budget and the unlabelled rest.

        Args:
            needs: of the recipe, which may ask for more than that; see ``Needs``.
        """
        key, needs = self.study.made_task.key, needs or Needs()
        source = tuple(self.part(site, "train", fold).labelled(key) for site in self.study.source)
        targets = self.study.target if needs.every_target else question.sites
        asked = () if self.study.stream else tuple(site for site in targets if site not in self.study.source)
        seen = [
            cohort for site in asked for cohort in self._target(site, seed, fold, all_labels=needs.all_target_labels)
        ]
        pool = tuple(self.part(site, "train", fold) for site in self.study.pool)
        stream = tuple(self._phase(phase, fold) for phase in self.study.phases)
        return Scenario(source, tuple(seen), pool, stream, sites=self.sites)

    def _phase(self, sites: Sequence[str], fold: int) -> Cohort:
        """The labelled training cases of a stage of the stream, which lie in one cohort."""
        parts = [self.part(site, "train", fold).labelled(self.study.made_task.key) for site in sites]
        return replace(parts[0], cases=tuple(case for part in parts for case in part.cases))

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
            total, amount = len(cohort.subjects), wanted.amounts[0]
            count = int(amount) if wanted.subjects is not None else max(1, round(amount * total))
            if count > total:
                raise SplitError(
                    f"target_labels: asks for {count} subjects, site '{target}' has {total} labelled training "
                    "subjects; "
                    "ask for fewer, or lower test: {fraction: ...}"
                )
            return cohort.of(budget_order(cohort.subjects, seeds)[:count])
        if wanted.slices is not None and cohort.slices is None:
            raise SpecError(
                "target_labels: counts slices, but the study has none; set slices: {axis: 2}, or count cases or "
                "subjects"
            )
        count = int(wanted.amounts[0])
        if wanted.cases is not None:
            order = budget_order([case.name for case in cohort.cases], seeds)[:count]
            return self._enough(cohort.where(lambda case: case.name in order), count, target)
        return self._enough(cohort.few(count, seeds), count, target)

    def _enough(self, cohort: Cohort, count: int, target: str) -> Cohort:
        if len(cohort) < count and (cohort.slices is None or cohort.chosen is not None):
            raise SplitError(
                f"target_labels: asks for {count}, site '{target}' has {len(cohort)} labelled training cases; ask for "
                "fewer"
            )
        return cohort

    def tests(self, fold: int) -> list[TestSet]:
        """Every site's test cases, labelled or not, and the source sites' labelled validation
        cases."""
        key = self.study.made_task.key
        every = [TestSet(site, "val", 0, self.part(site, "val", fold).labelled(key)) for site in self.study.source]
        for site in dict.fromkeys((*self.study.source, *self.study.target)):
            rotates = site in self.study.target
            every.append(TestSet(site, "test", fold if rotates else 0, self.part(site, "test", fold)))
        return [test for test in every if test.cohort.cases]

    def unlabelled_training(self, fold: int) -> list[TestSet]:
        """At most ``WATCHED`` training images of each target, without labels, in an order that
        other images do not change.

        For selection rules without labels, which may look at training images and never at test
        cases. Subjects whose labels a recipe of the study may use are among them; which they are
        differs between seeds, so it is the rule that leaves them out.
        """
        if self.study.made_task.key not in KEYS or self.study.stream:
            return []
        made = []
        for site in (site for site in self.study.target if site not in self.study.source):
            images = self.part(site, "train", fold).unlabelled()
            turns = {case.name: Seeds(0, ("pool",)).number(case.name) for case in images.cases}
            kept = sorted(images.cases, key=lambda case: turns[case.name])[:WATCHED]
            made.append(TestSet(site, "train-unlabelled", fold, replace(images, cases=tuple(kept))))
        return [images for images in made if images.cohort.cases]


def _assigned(study: Study, cohorts: tuple[Cohort, ...], out: Path) -> tuple[tuple[Cohort, ...], dict[str, Assignment]]:
    """Every subject's assignment, once the leakage gate has let the cohorts through.

    With ``near_duplicates: group`` the subjects of near-duplicates count as one patient; each keeps
    a row of its own in ``splits.csv``. Subjects of sites that are in the pool alone train.
    """
    for cohort in cohorts:
        check_masks(cohort.cases)
    known = read_splits(out / "splits.csv")
    before = tuple(case for cohort in cohorts for case in cohort.cases)
    findings = find_duplicates(before, cache=shared_folder(out) / "cache")
    cases = before
    if study.near_duplicates == "group":
        cases = grouped(before, findings, allow=study.allow_duplicates, known=known)
    test, judged = study.test, {*study.source, *study.target}
    drawn = [case for case in cases if case.site in judged]
    shares = dict.fromkeys(judged, test.fraction)
    if test.source_fraction is not None:
        shares |= dict.fromkeys(judged - {*study.target}, test.source_fraction)
    alone = [site for site in study.source if test.folds == 1 or site not in study.target]
    assignments = draw_splits(drawn, alone, test=shares, val=test.val, folds=test.folds, known=known)
    for case in cases:
        assignments.setdefault(case.subject, Assignment(case.split or "train"))
    assignments |= {old.subject: assignments[new.subject] for old, new in zip(before, cases, strict=True)}
    warned = check_leakage(
        sides_of(cases, assignments), findings, near_duplicates=study.near_duplicates, allow=study.allow_duplicates
    )
    if warned:
        contact_sheet(warned, cases, out / "similar.png")
    return _with_cases(cohorts, cases), assignments


def _with_cases(cohorts: tuple[Cohort, ...], cases: Sequence[Case]) -> tuple[Cohort, ...]:
    """The cohorts with these cases in the place of their own, in the same order."""
    made, start = [], 0
    for cohort in cohorts:
        made.append(replace(cohort, cases=tuple(cases[start : start + len(cohort.cases)])))
        start += len(cohort.cases)
    return tuple(made)
