"""The judge: it alone holds the named test sets, and is called at each yield, because the network
moves on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from allograft import __version__
from allograft.cohort import Whole
from allograft.context.store import Kept
from allograft.errors import AllograftError
from allograft.metrics.label_free import mean_entropy
from allograft.predictor.whole import case_facts, case_prediction
from allograft.recipe import Recipe, Stage, title
from allograft.results.analysis.kept_features import Keeper, write_features
from allograft.results.analysis.label_free import calibration, pooled, watched
from allograft.results.record import LABEL_FREE, Part, Record, measured, read_record, record_name
from allograft.seeds import Seeds
from allograft.study.world import TestSet
from allograft.tasks import Task
from allograft.tasks.segmentation import mean_over_subjects
from allograft.tree import DamagedFile, content_hash, plain

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Facts = Callable[[Mapping[str, Any], Whole], dict[str, object]]
"""A prediction, and the complete case that it is of -> what a record keeps of it."""


@dataclass(frozen=True)
class Judge:
    """Scores stages and writes their records.

    Args:
        tests: the named test sets.
        task: how a prediction is measured.
        folder: where records go.
        fabric: the device.
    """

    tests: tuple[TestSet, ...]
    task: Task
    folder: Path
    fabric: Fabric

    def __call__(self, stage: Stage, ordinal: int, seed: int) -> None:
        """Judge one stage on every test set that has no fresh record of it; one that leaves weights
        only has a record that says so."""
        if stage.predictor is None:
            return self._base(stage, ordinal, seed, "", "weights").write(self.folder)
        for test in self.tests:
            if self._fresh(stage, test) is None:
                self._record(stage, ordinal, seed, test).write(self.folder)

    def complete(self, unit: str, stages: Iterable[Stage]) -> bool:
        """Whether every test set has a fresh record of these stages of a unit, and one that left
        weights only the record that says so."""
        return all(self._written(replace(stage, unit=unit)) for stage in stages)

    def scores(self, stage: Stage) -> str:
        """What its records say of a stage, in words: the headline at each test set."""
        cases = []
        for test in self.tests if stage.predictor is not None else ():
            record = self._fresh(stage, test)
            value = None if record is None else record.metrics.get(self.task.headline)
            if value is not None:
                cases.append(f"{value:.3f} at {test.site}" + ("" if test.part == "test" else f" ({test.part})"))
        return f"{self.task.headline} " + ", ".join(cases) if cases else "no score"

    def _written(self, stage: Stage) -> bool:
        if stage.predictor is None:
            return (self.folder / f"{record_name(stage.unit, stage.name, '', 'weights', 0)}.json").exists()
        return all(self._fresh(stage, test) is not None for test in self.tests)

    def _fresh(self, stage: Stage, test: TestSet) -> Record | None:
        path = self.folder / f"{record_name(stage.unit, stage.name, test.site, test.part, test.fold)}.json"
        if not path.exists():
            return None
        try:
            record = read_record(path)
        except AllograftError:
            return None  # damaged: judged again
        return record if record.data == self._data(test) else None

    def _record(self, stage: Stage, ordinal: int, seed: int, test: TestSet) -> Record:
        began = time.perf_counter()
        if isinstance(stage.predictor, Kept):  # whoever looks into a predictor has to find its network
            stage = replace(stage, predictor=stage.predictor.on(str(self.fabric.device)))
        keeper = Keeper.of(stage.predictor, test.cohort)
        cases = self.watch(stage, test) if test.is_unlabelled_training else self.measure(stage, test, keeper)
        seconds = time.perf_counter() - began
        base = self._base(stage, ordinal, seed, test.site, test.part)
        record = replace(
            base,
            fold=test.fold,
            metrics=pooled(cases, self.task) if test.is_unlabelled_training else self._pooled(cases),
            cases=tuple(cases),
            cost={**base.cost, "predict_seconds": round(seconds, 3)},
            data=self._data(test),
        )
        write_features(self.folder, record, keeper.kept)
        return record

    def _base(self, stage: Stage, ordinal: int, seed: int, site: str, part: Part) -> Record:
        """What a record says of the stage, before anything is measured."""
        name = next(iter(plain(stage.recipe)))
        return Record(
            unit=stage.unit,
            recipe={"name": name, "title": title(stage.recipe), "parameters": plain(stage.recipe)[name]},
            seed=seed,
            stage=stage.name,
            ordinal=ordinal,
            seen=stage.seen,
            source=stage.saw.source,
            target="+".join(stage.saw.target) or None,
            stream=stage.saw.stream,
            labelled_subjects=stage.saw.labelled_subjects,
            site=site,
            part=part,
            facts=dict(stage.facts),
            cost=dict(stage.cost),
            environment=environment(self.fabric),
        )

    def measure(self, stage: Stage, test: TestSet, keeper: Keeper | None = None) -> list[dict[str, object]]:
        """Every case's metrics; global generators are as they were before.

        Args:
            keeper: of the features of cases.
        """

        def facts(prediction: Mapping[str, Any], whole: Whole) -> dict[str, object]:
            labelled = self.task.measure(prediction, whole) if self.task.key in whole.case.labels else {}
            kept = calibration(prediction, self.task, whole, validates=test.part == "val")
            return {**self._label_free(prediction), **case_facts(prediction), **labelled, **kept}

        return self._each(stage, test, facts, keeper)

    def watch(self, stage: Stage, images: TestSet) -> list[dict[str, object]]:
        """What rules without labels know of every unlabelled training image."""
        return self._each(stage, images, lambda prediction, whole: watched(prediction, self.task, whole.case.name))

    def _each(self, stage: Stage, test: TestSet, facts: Facts, keeper: Keeper | None = None) -> list[dict[str, object]]:
        # a predictor that knows sites numbers them as its unit did
        cohort = replace(test.cohort, sites=stage.sites)
        cases = []
        assert stage.predictor is not None
        with Seeds(0, (stage.unit, stage.name)).everything("judge"):
            for whole in cohort.wholes():
                with nullcontext() if keeper is None else keeper.look(whole):
                    prediction = case_prediction(stage.predictor, whole, self.task, self.fabric.device)
                cases.append({"case": whole.case.name, "subject": whole.case.subject, **facts(prediction, whole)})
        return cases

    def _data(self, test: TestSet) -> str:
        """Fingerprint of the cases alone, and of what is asked of them beyond the usual measures:
        another site in the study leaves the records of this one as they are."""
        masks = getattr(self.task, "segmentation", self.task)
        missed, tolerance = getattr(masks, "missed", "undefined"), getattr(masks, "surface_dice", None)
        asked = [*([missed] if missed != "undefined" else []), *([] if tolerance is None else [["mm", tolerance]])]
        return content_hash(replace(test.cohort, sites=()).fingerprint(), *asked)

    def _label_free(self, prediction: Mapping[str, Any]) -> dict[str, float]:
        if self.task.key not in ("mask", "label"):
            return {}
        return {"entropy": mean_entropy(prediction[self.task.key], several=self.task.coding.several)}

    def _pooled(self, cases: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
        """The task's metrics of the labelled cases; label-free scores of all, under names of their
        own."""
        labelled = measured(cases)
        numbers = [key for key in LABEL_FREE if key != "prediction"]  # which is one of each class
        free = [{key: case[key] for key in ("case", "subject", *numbers) if key in case} for case in cases]
        label_free = {f"label-free/{key}": value for key, value in mean_over_subjects(free).items()}
        return {**(self.task.aggregate(labelled) if labelled else {}), **label_free}


def environment(fabric: Fabric) -> dict[str, object]:
    """What same bytes depend on."""
    return {
        "allograft": __version__,
        "torch": torch.__version__,
        "device": str(fabric.device),
        "threads": torch.get_num_threads(),
        "processes": fabric.world_size,
    }


def failed_record(
    unit: str, recipe: Recipe, seed: int, target: str, fold: int, error: Exception, fabric: Fabric
) -> Record:
    """The record of a unit that went wrong: shown, never averaged away."""
    name = next(iter(plain(recipe)))
    message = str(error) if isinstance(error, (AllograftError, DamagedFile)) else f"{type(error).__name__}: {error}"
    return Record(
        unit=unit,
        recipe={"name": name, "title": title(recipe), "parameters": plain(recipe)[name]},
        seed=seed,
        stage="failed",
        ordinal=0,
        site=target,
        part="test",
        target=target,
        fold=fold,
        status="failed",
        error=message,
        environment=environment(fabric),
    )
