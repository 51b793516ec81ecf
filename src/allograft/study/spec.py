"""A study: one question, its sides, its rows and its settings."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from allograft.cohort import Preprocessing, Slices
from allograft.context import Budget, Settings
from allograft.context.settings import Strength
from allograft.errors import SpecError
from allograft.recipe import AnyRow, Grid, Needs, Recipe, candidates, title, total_needs
from allograft.strict import validated
from allograft.study.checks import check_keys, check_rows, check_sides, check_stream
from allograft.study.keys import CohortSpec, GradualStream, Question, Statistics, TargetLabels, Test, TransformedStream
from allograft.study.rows import rooted, rows_of
from allograft.study.where import Where
from allograft.table import find
from allograft.tasks import Task
from allograft.tree import plain


@dataclass(frozen=True, kw_only=True)
class Study:
    """One question: which recipe adapts a model from ``source`` to each ``target`` best, evaluated
    over ``seeds``.

    The fields are the keys of the study file; five are enough: ``cohort``, ``task``, ``source``,
    ``target`` and ``recipes``.

    Args:
        cohort: the manifest, a CSV or Parquet file with one row per image. It is looked for next to
            the study file, in the current folder, and below the folder in ``ALLOGRAFT_DATA``.
            Example: ``cohort: data/vessels/manifest.csv``.
        cohorts: several manifests by name, instead of ``cohort``. Cases, subjects and sites are
            then called NAME/..., and a cohort's name stands for all its sites.
            Example: ``cohorts: {a: {manifest: a.csv}, b: {manifest: b.csv}}``.
        task: what is predicted: one {name: arguments} of the tasks.
            Example: ``task: {segmentation: {classes: [vessel]}}``.
        loss: what training minimises instead of the task's own loss, for segmentation and
            classification: one {name: arguments} of MONAI's losses as monai.CLASS, or of PyTorch's
            as torch.CLASS; {} is the task's own. Recipes whose paper has a loss of its own are
            refused. Example: ``loss: {monai.DiceFocalLoss: {gamma: 2.0}}``.
        recipes: the methods to compare, each a name or one {name: settings}. Settings that are left
            out have the paper's values. ``grid`` in the settings tries several values of a setting.
            Example: ``recipes: [fourier, {finetune: {scope: full}}]``.
        primary: the row named beforehand: it is tested alone, so that the number of other rows does
            not count against it. Example: ``primary: {finetune: {scope: full}}``.
        reference: the row that the tables compare all others with, instead of no adaptation.
            The verdict still compares with no adaptation, where a row does that. Where the
            reference failed, nothing is compared.
            Example: ``reference: {supervised: {augmentation: strong}}``.
        baselines: whether to add, unasked, strong augmentation and, with target labels, target only
            and source + target. No adaptation is always there. Example: ``baselines: false``.
        source: sites to train on; [] with a ``start`` is source-free. Example: ``source: [drive]``.
        target: sites to adapt to and test. A site that is a source too is tested on other subjects
            of its own. Example: ``target: [chase]``.
        pool: sites whose images a pre-training may see, without labels; never a test subject's.
            Example: ``pool: [a, b]``.
        stream: sites that arrive one after another, in stages, instead of ``source`` and
            ``target``. Example: ``stream: [[a], [b, c]]``.
        each: named overrides of other keys; each is a part of the study, and all share one table.
            Example: ``each: {small: {seeds: 1}, large: {seeds: 5}}``.
        pairs: ``listed`` runs the sources together on each target; ``all`` every source-target
            pair; ``leave-one-site-out`` each target from all other sources. Without ``target``,
            the targets are the sources. Example: ``pairs: all``.
        network: one {name: arguments} of the networks, or of MONAI's as {monai.CLASS: arguments}.
            Example: ``network: {unet: {channels: [16, 32, 64]}}``.
        start: the weights of every run: ``scratch``, a model folder, a weights file (safetensors or
            a plain state dict), or a name as timm:NAME or hf:NAME.
            Example: ``start: runs/old/models/supervised@b``.
        preprocessing: what is done to every image before a network sees it.
            Example: ``preprocessing: {spacing: [1, 1, 1], size: [96, 96, 96]}``.
        slices: cut volumes into slices, for a 2-D network. Example: ``slices: {axis: 2}``.
        augmentation: random changes of training images. ``strong`` follows nnU-Net; ``light``
            turns, scales and changes the contrast a little. Example: ``augmentation: strong``.
        patch: size of the training crops along each axis; null trains on complete images.
            Example: ``patch: [96, 96]``.
        where: which cases count on each side: column -> value, or a list of values.
            Example: ``where: {source: {sex: f}, target: {sex: m}}``.
        target_labels: how many target labels a recipe may use, validation included; those of test
            subjects are never among them. Example: ``target_labels: {subjects: 4}``.
        selection: the rule that picks the stage of a run, the setting of a grid and the seed:
            ``last``; ``source-val`` by the source's validation subjects; ``entropy``, ``infomax``
            or ``snd`` by predictions on target training images without labels; ``oracle`` by the
            test score, reported as optimistic. Example: ``selection: source-val``.
        test: which subjects are tested. Example: ``test: {fraction: 0.4}``.
        statistics: how rows are compared with no adaptation, or with ``reference``.
            Example: ``statistics: {margin: 0.02}``.
        near_duplicates: what happens when two subjects have nearly the same image: ``stop``,
            ``group`` them in one split, or ``warn``. Example: ``near_duplicates: group``.
        allow_duplicates: pairs of images that look alike and are two patients.
            Example: ``allow_duplicates: [[a.png, b.png]]``.
        seeds: trainings of each recipe: 1 for a first look, 3 to 5 for a result.
            Example: ``seeds: 5``.
        budget: how long to train. Example: ``budget: {steps: 600, batch_size: 16}``.
        optimizer: one {name: arguments} of the optimizers.
            Example: ``optimizer: {adam: {lr: 1e-3}}``.
        schedule: how the learning rate changes: a name, or one {name: arguments}.
            Example: ``schedule: cosine``.
        clip: the largest gradient norm; null does not clip. Example: ``clip: 1.0``.
        channels_last: lay weights out for bfloat16, with ``--precision bf16-mixed``: faster in 3-D.
            Example: ``channels_last: true``.
        file: the study file; not a key.
    """

    cohort: str = ""
    cohorts: dict[str, CohortSpec] = field(default_factory=dict)
    task: dict[str, Any]
    loss: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    recipes: tuple[AnyRow, ...]
    primary: AnyRow | None = None
    reference: AnyRow | None = None
    baselines: bool = True
    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    pool: tuple[str, ...] = ()
    stream: tuple[tuple[str, ...], ...] | GradualStream | TransformedStream = ()
    each: dict[str, dict[str, Any]] = field(default_factory=dict)
    pairs: Literal["listed", "all", "leave-one-site-out"] = "listed"
    network: dict[str, dict[str, Any] | None] = field(default_factory=lambda: {"unet": None})
    start: str = "scratch"
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    slices: Slices | None = None
    augmentation: Strength = "light"
    patch: tuple[int, ...] | None = None
    where: Where = field(default_factory=Where)
    target_labels: Literal["none", "all"] | TargetLabels = "none"
    selection: Literal["last", "source-val", "entropy", "infomax", "snd", "oracle"] = "last"
    test: Test = field(default_factory=Test)
    statistics: Statistics = field(default_factory=Statistics)
    near_duplicates: Literal["group", "warn", "stop"] = "stop"
    allow_duplicates: tuple[tuple[str, str], ...] = ()
    seeds: int = 3
    budget: Budget = field(default_factory=Budget)
    optimizer: dict[str, dict[str, Any] | None] = field(default_factory=lambda: {"adam": {"lr": 1e-3}})
    schedule: str | dict[str, dict[str, Any] | None] = "constant"
    clip: float | None = None
    channels_last: bool = False
    file: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        check_keys(self)
        named = self.target
        if self.stream:
            check_stream(self)
            named = tuple(site for phase in self.phases for site in phase)
        elif self.pairs != "listed":
            named = self.target or self.source
        if not named:
            raise SpecError("target: names no site; expected at least one, for example target: [b]")
        object.__setattr__(self, "target", self.where.parted(self.source, named) if self.pairs == "listed" else named)
        check_sides(self)
        check_rows(self)

    @property
    def primary_title(self) -> str:
        """The title of the row named beforehand; "" where none is."""
        return self._title_of(self.primary)

    @property
    def reference_title(self) -> str:
        """The title of the row that tables compare with; "" where none is named."""
        return self._title_of(self.reference)

    def _title_of(self, row: Recipe | Grid | None) -> str:
        return "" if row is None else title(row if self.source else rooted(row))

    @property
    def is_parted(self) -> bool:
        """Whether the study consists of several: pairs, named settings, or several numbers of
        target labels."""
        several = isinstance(self.target_labels, TargetLabels) and len(self.target_labels.amounts) > 1
        return self.pairs != "listed" or bool(self.each) or several

    @property
    def phases(self) -> tuple[tuple[str, ...], ...]:
        """The sites of each stage of the stream."""
        if isinstance(self.stream, GradualStream):
            return tuple((name,) for name in self.stream.gradual.names)
        if isinstance(self.stream, TransformedStream):
            return tuple((name,) for name in self.stream.transformed.names)
        return self.stream

    @property
    def within(self) -> tuple[str, ...]:
        """Sites that are source and target: trained on some subjects and tested on others."""
        return tuple(site for site in self.target if site in self.source) if self.pairs == "listed" else ()

    @property
    def questions(self) -> tuple[Question, ...]:
        """What every row is asked: about each target, or about the stream as a whole."""
        if self.stream:
            return (Question("stream", self.target),)
        return tuple(Question(target, (target,)) for target in self.target)

    @cached_property
    def made_task(self) -> Task:
        """The task object."""
        ((name, arguments),) = self.task.items()
        task: Task = validated(find("task", name), arguments, f"task.{name}")
        return task

    @property
    def settings(self) -> Settings:
        """What training is told."""
        optimizer = {name: arguments or {} for name, arguments in self.optimizer.items()}
        schedule = (
            {self.schedule: {}} if isinstance(self.schedule, str) else {n: a or {} for n, a in self.schedule.items()}
        )
        loss = {name: arguments or {} for name, arguments in self.loss.items()}
        return Settings(self.budget, optimizer, self.augmentation, self.patch, self.clip, schedule, loss)

    @property
    def manifest(self) -> Path:
        """The manifest of a study with one cohort."""
        return self.find_manifest(self.cohort)

    def find_manifest(self, named: str) -> Path:
        """A manifest: beside the study file, in the current folder, or below the folder that
        ``ALLOGRAFT_DATA`` names."""
        folders = [self.file.parent] if self.file is not None else []
        folders += [Path(), Path(os.environ.get("ALLOGRAFT_DATA", "data"))]
        path = next((folder / named for folder in folders if os.path.isfile(folder / named)), None)
        if path is None:
            looked = ", ".join(str(folder.resolve()) for folder in dict.fromkeys(folders))
            raise SpecError(
                f"cohort: no manifest '{named}' in {looked}; correct the path, or set ALLOGRAFT_DATA to the data's "
                "folder"
            )
        return path

    @property
    def start_path(self) -> Path:
        """Where ``start`` lies: in the current folder, or beside the study file; a name as it
        is."""
        path = Path(self.start)
        if self.start.startswith(("timm:", "hf:")):
            return path
        beside = self.file.parent / path if self.file is not None else path
        # a name too long is no error here
        return path if path.is_absolute() or os.path.exists(path) else beside

    def spelt_out(self) -> dict[str, Any]:
        """As ``study.json`` keeps it: JSON values, its paths whole."""
        path = self.start_path
        start = str(path.resolve()) if self.start != "scratch" and os.path.exists(path) else self.start
        cohorts = {
            name: replace(member, manifest=str(self.find_manifest(member.manifest).resolve()))
            for name, member in self.cohorts.items()
        }
        cohort = str(self.manifest.resolve()) if self.cohort else ""
        return {
            **plain(self),
            "cohort": cohort,
            "cohorts": {name: plain(member) for name, member in cohorts.items()},
            "start": start,
        }

    @property
    def rows(self) -> tuple[Recipe | Grid, ...]:
        """The recipes of the table: those every study has, then the listed ones, each once.

        Do-nothing and its strongly augmented twin (itself, where the study's augmentation is
        strong) are always there; target-only and source + target where target labels exist. Without
        a source, do-nothing is the start itself, and what other recipes would train on the source
        first is replaced by it. With ``baselines: false`` only do-nothing is there unasked.
        """
        return rows_of(self)

    def needs(self) -> Needs:
        """What all rows together need."""
        total = Needs()
        for recipe in (recipe_ for row in self.rows for recipe_ in candidates(row)):
            total = total | total_needs(recipe)
        return total
