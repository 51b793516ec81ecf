"""Every shipped study plans, and some plan as their headers say, on phantoms in the place of the
images."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from PIL import Image
from tests.unit.tiny import write_rows

from allograft.phantoms.brain import write_brain
from allograft.phantoms.fundus import write_fundus
from allograft.recipe import title, total_needs
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.study.keys import GradualStream, Question, TargetLabels, TransformedStream
from allograft.study.parts import parts_of
from allograft.study.plan import Plan, scenario_of
from allograft.study.reading import read_study
from allograft.study.spec import Study
from allograft.study.world import World

EXAMPLES = Path(__file__).parents[2] / "examples"


FEWEST = {
    "gradient_transfer": 8,
    "gradient_transfer_classes": 88,
    "skin_automatic": 12,
    "paired_brain": 24,
    "spottunet_policy": 40,
    "united": 12,
    "united_radiographs": 12,
}
"""Labelled subjects without whom a row of an example is refused; the others plan with two."""
SUBJECTS = {"luna": 44}
"""Subjects of a cohort without whom a row of an example is refused; others have 8."""
CROPPED = {"united": 16, "united_paper": 16, "united_radiographs": 16}
"""Examples that cut crops at places: pixels along a side of these, in images of ``SMALLEST``; their network
is made small."""
SMALLEST = 24
"""Pixels along a side, which CycleGAN asks for; a multiple of what every network of the examples needs."""
SIDES = {
    "diffmic": 112,
    "diffmic_pneumonia": 64,
    "catenorm_vessels": 32,
    "united": 24,
    "united_radiographs": 24,
    **dict.fromkeys(("organs_metamedseg", "organs_all_data", "organs_losses"), 24),
}
"""Pixels along a side that an example needs: regions are chosen among the cells of the last feature,
a normalisation needs two, crops have several places, or the network takes tiles of a multiple of 4."""


def sites_of(study: Study) -> tuple[str, ...]:
    """The sites that a study names, of a stream those that its stages are made of."""
    if isinstance(study.stream, GradualStream):
        return study.stream.gradual.sites
    if isinstance(study.stream, TransformedStream):
        return study.stream.transformed.sites
    parts = {study.where.part_of(site) for site in study.source}
    stages = (site for stage in study.stream or () for site in stage)
    named = (*study.source, *(site for site in study.target if site not in parts), *study.pool, *stages)
    return tuple(dict.fromkeys(named))


def stand_in(study: Study, folder: Path, labelled: int = 2) -> Path:
    """A cohort of noise with the sites, classes and attributes that a study names."""
    # a filter leaves some
    count = labelled + (22 if study.where.source or study.stream else 20 if labelled > 2 else 8)
    return write_noise(study, sites_of(study), folder, count)


def stand_ins(study: Study, folder: Path) -> list[str]:
    """A cohort of noise for each of several, as overrides of the study: one site, or those it is
    named with."""
    named, changes = sites_of(study), []
    for name, spec in study.cohorts.items():
        sites = dict.fromkeys(site.partition("/")[2] or "one" for site in named if site.partition("/")[0] == name)
        sites = sites or {"one": None}
        values = None if spec.classes is None else [v for given in spec.classes.values() for v in given]
        (folder / name).mkdir()
        count = SUBJECTS.get(name, 8)
        made = write_noise(study, sites, folder / name, count, values, spec.slices is not None)
        changes.append(f"cohorts.{name}.manifest={made}")
    return changes


def write_noise(
    study: Study,
    sites: Iterable[str],
    folder: Path,
    count: int,
    values: Sequence[int | str] | None = None,
    sliced: bool | None = None,
) -> Path:
    """Noise, and masks of noise with these values, by default of every class; volumes where the
    study, or its cohort, cuts slices."""
    rng = np.random.default_rng(list(folder.name.encode()))  # two cohorts of a study share no image
    volumes = (study.slices is not None if sliced is None else sliced) or len(study.preprocessing.size or ()) == 3
    volumes = volumes or any(
        (arguments or {}).get("spatial_dims") == 3 or name == "unetr" for name, arguments in study.network.items()
    )
    names, rows = getattr(study.made_task, "names", ("none",)), []
    coding = study.made_task.coding
    classes, count_of_values = tuple(coding.label) or names, len(coding.mask or names) + 1
    for site in sites:
        for number in range(count):
            shape = (8, 8, 8)[: 3 if volumes else 2]
            stem, mask = f"{site}{number}", rng.integers(0, count_of_values, shape, dtype=np.uint8)
            if values is not None:
                mask = np.asarray([0, *values], np.uint8)[rng.integers(0, len(values) + 1, shape)]
            if volumes:
                nibabel.save(
                    nibabel.Nifti1Image(rng.random(mask.shape, np.float32), np.eye(4)), folder / f"{stem}.nii.gz"
                )  # type: ignore[attr-defined]
                nibabel.save(nibabel.Nifti1Image(mask, np.eye(4)), folder / f"{stem}-mask.nii.gz")  # type: ignore[attr-defined]
            else:
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / f"{stem}.png")
                Image.fromarray(mask).save(folder / f"{stem}-mask.png")
            ending = "nii.gz" if volumes else "png"
            seen = {"image": f"{stem}.{ending}", "mask": f"{stem}-mask.{ending}"}
            seen |= {"label": classes[number % len(classes)]}
            if study.made_task.key == "paired":
                seen["paired"] = seen["mask"]  # grey
            if study.made_task.key == "boxes":
                seen["boxes"] = f"{stem}.json"
                (folder / seen["boxes"]).write_text(json.dumps({"boxes": [[1, 1, 6, 6]], "labels": [names[0]]}))
            tone = str(number // 2 % 6 + 1)
            rows.append({**seen, "subject": stem, "site": site, "tone": tone, "measured": tone})
    return write_rows(folder / "manifest.csv", rows)


@pytest.mark.filterwarnings("ignore:mixcl. class:UserWarning")  # masks of a few pixels
@pytest.mark.filterwarnings("ignore:groupdro. 'drive' is the only source site:UserWarning")  # as dg_rows says
@pytest.mark.parametrize("name", sorted(file.stem for file in EXAMPLES.glob("*.yaml")))
def test_every_example_plans(name: str, tmp_path: Path) -> None:
    check_plans(name, tmp_path)


EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence"


def evidence_studies() -> list[tuple[str, str, tuple[str, ...]]]:
    """(page, example, overrides) of every ``allograft study`` of the evidence pages that is not the
    example as it stands, with the first value of a loop."""
    found = []
    for page in sorted(EVIDENCE.glob("*.md")):
        for words in commands_in(page.read_text(encoding="utf-8")):
            if "study" not in words:
                continue
            loop = re.match(r"for (\w+) in (\w+)", " ".join(words))
            if loop is not None:
                words = [word.replace(f"${loop[1]}", loop[2]).rstrip(";") for word in words]
            changes = tuple(after for word, after in pairwise(words) if word == "--set")
            if any(not change.startswith("seeds=") for change in changes):
                found.append((page.stem, Path(words[words.index("study") + 1]).stem, changes))
    return found


def commands_in(text: str) -> Iterator[list[str]]:
    """The commands of the indented blocks of a page, as a shell splits them."""
    left = ""
    for line in text.splitlines():
        if not (line.startswith("    ") or left):
            continue
        left += line.removesuffix("\\") + "\n"
        if line.endswith("\\"):
            continue
        try:
            words = shlex.split(left, comments=True)
        except ValueError:  # a quotation goes on
            continue
        left = ""
        if words:
            yield words


@pytest.mark.parametrize(("page", "name", "changes"), evidence_studies())
def test_every_study_of_an_evidence_page_plans(page: str, name: str, changes: tuple[str, ...], tmp_path: Path) -> None:
    check_plans(name, tmp_path, changes)


def check_plans(name: str, folder: Path, changes: Sequence[str] = ()) -> None:
    """A shipped study with these overrides plans on noise."""
    study = read_study(EXAMPLES / f"{name}.yaml", changes)
    side, labelled = SIDES.get(name, SMALLEST if "cyclegan" in str(study.recipes).lower() else 16), FEWEST.get(name, 2)
    small = [f"preprocessing.size={[side] * len(study.preprocessing.size)}"] if study.preprocessing.size else []
    small += ["start=scratch"] if study.start != "scratch" and not study.start_path.exists() else []  # of a package
    if isinstance(study.target_labels, TargetLabels):
        counted = "cases" if study.target_labels.cases is not None else "subjects"
        small += [f"target_labels={{{counted}: {labelled}}}"]
    small += [f"patch={[CROPPED.get(name, side)] * len(study.patch)}"] if study.patch else []
    if study.each:
        small += [f"each.{key}.patch={[side] * 3}" for key, change in study.each.items() if "patch" in change]
        heads = {key: _inner(change) for key, change in study.each.items() if "upsampling_head" in str(change)}
        small += [f"each.{key}.network={SMALL[net]}" for key, net in heads.items()]
        check_each(name, study, folder, changes, small if heads else [])
        return
    small += [
        f"cohorts.{key}.preprocessing.size={[side] * len(spec.preprocessing['size'])}"
        for key, spec in study.cohorts.items()
        if "size" in spec.preprocessing
    ]
    manifest = [*stand_ins(study, folder)] or stand_in(study, folder, labelled)
    for number, part in enumerate([study] if study.pairs == "listed" else parts_of(study).values()):
        sides = [] if part is study else ["pairs=listed", f"source={list(part.source)}", f"target={list(part.target)}"]
        out = folder / "pairs" / str(number)
        everything = (*changes, "allow_duplicates=[]", "near_duplicates=warn", *sides, *small)
        world, plan = planned(name, manifest, out, *everything)
        assert len(plan.rows) == len(study.rows) * len(part.questions) * world.folds
        assert plan.units


SMALL = {
    "unet": "{upsampling_head: {network: {unet: {spatial_dims: 3, channels: [4, 8]}}}}",
    "swin_unetr": "{upsampling_head: {network: {dynunet: {spatial_dims: 3, channels: [4, 8, 8]}}}}",
    "diffusion_unet": "{upsampling_head: {network: {diffusion_unet: {channels: [4, 4, 4], head_channels: 4, "
    "norm_groups: 4, num_res_blocks: 1}}}}",
}
"""In the place of the networks of examples that have several."""


def _inner(change: Mapping[str, Any]) -> str:
    """The network below an added up-sampling head."""
    return next(iter(change["network"]["upsampling_head"]["network"]))


def check_each(name: str, study: Study, folder: Path, changes: Sequence[str], small: Sequence[str]) -> None:
    """Every part of a study of named settings plans, at the sizes that it states, or at small ones
    where its networks are made small."""
    cohorts = stand_ins(study, folder) or [f"cohort={stand_in(study, folder, FEWEST.get(name, 2))}"]
    given = [*changes, "allow_duplicates=[]", "near_duplicates=warn", "seeds=1", *cohorts, *small]
    if isinstance(study.target_labels, TargetLabels) and not study.target_labels.subjects:
        given += [f"target_labels={{subjects: {FEWEST.get(name, 2)}}}"]
    if name in CROPPED:
        dims = len(study.preprocessing.size or ())
        given += [f"preprocessing.size={[SMALLEST] * dims}"]
        given += [f"patch={[CROPPED[name]] * dims}"] if study.patch else []
        given += [f"network={{unet: {{spatial_dims: {dims}, channels: [4, 8]}}}}"]
    for number, part in enumerate(parts_of(read_study(EXAMPLES / f"{name}.yaml", given)).values()):
        session = Session(
            part, folder / "parts" / str(number), None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None
        )
        plan = session.plan(session.prepare())
        assert len(plan.rows) == len(part.rows) * max(1, len(part.target)) * part.test.folds * part.seeds
        assert plan.units
        pretexts = {row.recipe.first for row in plan.rows if hasattr(row.recipe, "first")}
        alone = {row.unit for row in plan.rows if total_needs(row.recipe).only_pool}
        listed = {row.recipe for row in plan.rows}
        assert (
            not alone or not pretexts <= listed or len(alone) == len(pretexts) * part.seeds
        )  # trained once, whatever is tuned


def planned(name: str, manifest: Path | Sequence[str], out: Path, *changes: str) -> tuple[World, Plan]:
    """A shipped study's world and plan for one seed."""
    cohorts = (f"cohort={manifest}",) if isinstance(manifest, Path) else manifest
    study = read_study(EXAMPLES / f"{name}.yaml", (*changes, *cohorts, "seeds=1"))
    session = Session(study, out, None, local_fabric(accelerator="cpu"), 0, 60.0, lambda line: None)
    world = session.prepare()
    return world, session.plan(world)


def test_avagrad_is_the_whole_factorial_study(tmp_path: Path) -> None:
    sites = {"a": "none", "b": "severe", "c": "medium", "d": "none"}
    manifest = write_brain(tmp_path / "cohort", sites=sites, subjects=3, size=32)
    world, plan = planned("avagrad", manifest, tmp_path / "out", "preprocessing.size=[32, 32]")
    factors = set()
    for recipe in world.study.rows:
        ((optimizer, _),) = (recipe.optimizer or world.study.optimizer).items()
        factors.add(
            (optimizer, recipe.epochs or world.study.budget.epochs, recipe.augmentation or world.study.augmentation)
        )
    assert factors == {(o, e, a) for o in ("sgd", "adam", "avagrad") for e in (5, 10, 100) for a in ("strong", "none")}
    # one training each, judged at all targets
    assert len(world.study.rows) == len(plan.units) == 18
    # tables 1 and 2 test every column against SGD with augmentation for many epochs
    assert plan.reference == "supervised augmentation=strong"
    shown = {next(iter(recipe.optimizer or {"sgd": {}})) for recipe in world.study.rows if recipe.show_updates}
    assert shown == {"sgd", "avagrad"}


@pytest.mark.parametrize("name", ["catenorm_deeplab", "catenorm_norms"])
def test_the_longer_batch_normalisation_has_the_updates_of_two_passes(name: str) -> None:
    study = read_study(EXAMPLES / f"{name}.yaml")
    epochs, per_epoch = study.budget.epochs, study.budget.steps_per_epoch
    assert epochs is not None
    assert per_epoch is not None
    longer = next(row.epochs for row in study.recipes if getattr(row, "epochs", None))
    shares = {row.warmup for row in study.recipes if title(row).startswith("catenorm")}
    # every iteration after the warm-up is two steps
    assert {epochs * per_epoch * (share + 2 * (1 - share)) for share in shares} == {longer * per_epoch}


def test_spottunet_is_two_optimizers_by_two_budgets(tmp_path: Path) -> None:
    sites = {"a": "none", "b": "severe", "d": "none"}
    manifest = write_brain(tmp_path / "cohort", sites=sites, subjects=60, size=32)
    world, plan = planned("spottunet_policy", manifest, tmp_path / "out", "preprocessing.size=[32, 32]")
    spotted = [row for row in plan.rows if title(row.recipe).startswith("spottunet") and row.target == "b"]
    assert {(next(iter(row.recipe.optimizer or {"sgd": {}})), row.recipe.slices) for row in spotted} == {
        (optimizer, count) for optimizer in ("sgd", "avagrad") for count in (7, 40)
    }
    assert all(row.recipe.first.optimizer == row.recipe.optimizer for row in spotted)
    assert all(row.recipe.chosen(list(scenario_of(world, row).target[:1]), 0) for row in spotted)


def test_gradient_transfer_is_two_optimizers_by_four_budgets() -> None:
    made = parts_of(read_study(EXAMPLES / "gradient_transfer.yaml"))
    labels = [part.target_labels for part in made.values()]
    assert {(*part.optimizer, label.subjects) for part, label in zip(made.values(), labels, strict=True)} == {
        (optimizer, count) for optimizer in ("sgd", "adam") for count in (1, 2, 4, 8)
    }
    tuned = {"finetune", "finetune scope=first", "l2sp", "spottunet", "octl", "mmtl"}
    assert all(tuned < {title(row) for row in part.rows} for part in made.values())


def test_vessels_have_one_set_of_test_children_for_every_budget(tmp_path: Path) -> None:
    manifest = write_fundus(tmp_path / "cohort", sites={"drive": "none", "chase": "severe"}, subjects=8, size=64)
    small = ("preprocessing.size=[64, 64]", "patch=[32, 32]", "task={segmentation: {classes: [vessel]}}")
    tested, labelled, free = [], [], []
    for count in (1, 4):
        world, plan = planned("vessels_adapt", manifest, tmp_path / "out", *small, f"target_labels.subjects={count}")
        tested.append(world.part("chase", "test", 0).subjects)
        seen = world.scenario(Question("chase", ("chase",)), 0, 0).target
        labelled.append({subject for one in seen if one.has_labels for subject in one.subjects})
        needs = {row.unit: total_needs(row.recipe) for row in plan.rows}
        unlabelled = [
            row for row in plan.rows if not (needs[row.unit].target_labels or needs[row.unit].all_target_labels)
        ]
        free.append({title(row.recipe): row.unit for row in unlabelled})
    assert tested[0] == tested[1]
    assert len(tested[0]) == 4
    assert [len(one) for one in labelled] == [1, 4]
    assert labelled[0] < labelled[1]
    assert free[0] == free[1]
    assert {"supervised", "fourier", "histogram", "zscore", "adabn", "aiva", "adaptsegnet", "segjdot"} <= set(free[0])
    titles = {title(row.recipe) for row in plan.rows}
    with_labels = {"finetune", "mmtl drop=1.0", "octl", "spottunet", "target_supervised labels=all"}
    assert {"adabn", "aiva", "adaptsegnet", "segjdot"} | with_labels <= titles
    back, _ = planned("vessels_adapt", manifest, tmp_path / "back", *small, "source=[chase]", "target=[drive]")
    assert back.study.source == ("chase",)


@pytest.mark.parametrize("intensity", ["zscore", "none"])
def test_the_scale_study_plans_as_the_control_and_at_a_fixed_scale(intensity: str, tmp_path: Path) -> None:
    sites = {"intensity-mid": "none", "intensity-high": "severe", "intensity-low": "medium"}
    manifest = write_brain(tmp_path / "cohort", sites=sites, subjects=8, size=32, dims=3)
    changes = ("preprocessing.size=[32, 32, 32]", f"preprocessing.intensity={intensity}")
    world, plan = planned("hippocampus_scale", manifest, tmp_path / "out", *changes)
    assert world.study.preprocessing.intensity == intensity
    assert {"zscore", "histogram"} <= {title(row.recipe) for row in plan.rows}
