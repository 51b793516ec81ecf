"""What a study leaves open is filled in from its images, said in a line each, and kept; what cannot be is refused."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contract.world import METHODS, contract, request, row_of, session_of, write_cohort
from tests.unit.tiny import write_brains, write_photographs, write_rows
from torch import nn

from allograft.apply import load
from allograft.errors import AllograftError, SpecError
from allograft.results.record import read_all
from allograft.run.closing import Result
from allograft.run.fabric import local_fabric
from allograft.run.session import Session
from allograft.studies import rebuild, run_study
from allograft.study.reading import kept_study, make_study

QUICK: dict[str, Any] = {"seeds": 1, "budget": {"steps": 2, "adapt_steps": 2, "batch_size": 2}, "baselines": False}
TINY = {"unet": {"channels": [4, 8], "num_res_units": 1}}


def five(manifest: Path, recipes: Sequence[Any] = ("supervised",), **more: Any) -> dict[str, Any]:
    """A study of five keys, and what makes it quick."""
    task = {"segmentation": {"classes": ["vessel"]}}
    return {
        "cohort": str(manifest),
        "task": task,
        "source": ["a"],
        "target": ["b"],
        "recipes": list(recipes),
        **QUICK,
        **more,
    }


def completed(tree: dict[str, Any], out: Path) -> tuple[Session, list[str]]:
    """The session with its defaults, and what was said."""
    lines: list[str] = []
    session = Session(make_study(tree), out, None, local_fabric(accelerator="cpu"), 0, 60.0, lines.append)
    return session.completed(), lines


def of_sizes(folder: Path, count: int, *sizes: tuple[int, int]) -> Path:
    """``count`` photographs of each size, of sites "a", "b" and so on; the manifest's path."""
    sites = zip("abc", sizes, strict=False)
    return joined(
        folder, *(write_photographs(folder / site, {site: count}, size, seed=ord(site)) for site, size in sites)
    )


def joined(folder: Path, *manifests: Path) -> Path:
    """One manifest of several, whose files lie in folders beside it."""
    rows = []
    for manifest in manifests:
        place = manifest.parent.relative_to(folder)
        for row in csv.DictReader(manifest.read_text().splitlines()):
            rows.append({**row, "image": f"{place}/{row['image']}", "mask": f"{place}/{row['mask']}"})
    return write_rows(folder / "manifest.csv", rows)


def test_images_that_fit_leave_a_study_as_it_is(tmp_path: Path) -> None:
    tree = five(write_photographs(tmp_path / "images", {"a": 4, "b": 4}))
    session, lines = completed(tree, tmp_path / "out")
    assert session.study == make_study(tree)
    assert lines == ["preparing 8 images"]


def test_one_odd_size_is_padded_to_the_networks_multiple(tmp_path: Path) -> None:
    """The default U-Net halves three times: 21 x 30 becomes 24 x 32."""
    tree = five(write_photographs(tmp_path / "images", {"a": 4, "b": 4}, size=(21, 30)), augmentation="none")
    session, lines = completed(tree, tmp_path / "out")
    assert session.study.patch == (24, 32)
    assert lines[1:] == ["patch: [24, 32], because images have 21 x 30: they are padded to it for training"]
    world = session.prepare()
    row = session.plan(world).rows[0]
    batch = next(session.context(0).loader([world.part("a", "train", 0)], "x")(0))
    assert batch.image.shape == (2, 1, 24, 32)
    # what is padding has no label, so its logits do not count
    mask = batch.labels["mask"]
    assert isinstance(mask, torch.Tensor)
    assert (mask >= 0).sum((1, 2, 3)).tolist() == [21 * 30] * 2
    session.run(world, row, "")
    assert {record.status for record in read_all(tmp_path / "out").values()} == {"done"}


def test_several_sizes_are_cut_to_the_median_rounded_down_and_at_most_128(tmp_path: Path) -> None:
    manifest = of_sizes(tmp_path, 4, (21, 30), (37, 47), (37, 150))
    session, lines = completed(five(manifest, target=["b", "c"]), tmp_path / "out")
    assert session.study.patch == (32, 40)  # medians 37 and 47, by eights
    assert "because images have 3 sizes from 21 x 30 to 37 x 150" in lines[-1]
    named, lines = completed(five(manifest, target=["b", "c"], patch=[16, 16]), tmp_path / "named")
    assert (named.study.patch, len(lines)) == ((16, 16), 1)


def test_a_crop_is_at_most_128(tmp_path: Path) -> None:
    session, _ = completed(five(of_sizes(tmp_path, 4, (300, 140), (280, 40))), tmp_path / "out")
    assert session.study.patch == (128, 40)


def test_a_batch_of_large_images_is_cut_where_no_study_asks_for_whole_ones(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path / "images", {"a": 4, "b": 4}, size=(384, 320))
    budget = {"steps": 1, "adapt_steps": 1, "batch_size": 16}
    session, lines = completed(five(manifest, budget=budget), tmp_path / "out")
    assert session.study.patch == (128, 128)
    assert "because images have 384 x 320, and training on complete ones is slow" in lines[-1]
    for number, change in enumerate(({"preprocessing": {"size": [384, 320]}}, {"budget": {**budget, "batch_size": 8}})):
        whole, _ = completed(five(manifest, **{"budget": budget, **change}), tmp_path / str(number))
        assert whole.study.patch is None


def test_where_a_label_is_of_the_whole_all_are_padded_to_the_largest(tmp_path: Path) -> None:
    manifest = of_sizes(tmp_path, 4, (20, 30), (33, 16))
    rows = [{**row, "label": "xy"[n % 2]} for n, row in enumerate(csv.DictReader(manifest.read_text().splitlines()))]
    write_rows(manifest, rows)
    task = {"classification": {"classes": ["x", "y"]}}
    session, lines = completed(five(manifest, task=task), tmp_path / "out")
    assert session.study.patch == (40, 32)
    assert lines[-1].startswith("patch: [40, 32], because images have 2 sizes from 20 x 30 to 33 x 16")
    for row in rows[:1]:
        Image.fromarray(np.zeros((600, 30), np.uint8)).save(tmp_path / row["image"])
        Image.fromarray(np.zeros((600, 30), np.uint8)).save(tmp_path / row["mask"])
    with pytest.raises(SpecError, match=r"may not show what a label says: set preprocessing: \{size: \[32, 16\]\}"):
        completed(five(manifest, task=task), tmp_path / "large")


def test_volumes_get_a_network_of_three_dimensions_and_slices_one_of_two(tmp_path: Path) -> None:
    manifest = write_brains(tmp_path / "brains", (26, 24, 20))
    task = {"segmentation": {"classes": ["tissue"]}}
    session, lines = completed(five(manifest, task=task), tmp_path / "out")
    assert session.study.network == {"unet": {"spatial_dims": 3}}
    assert session.study.patch == (32, 24, 24)
    assert lines[1] == "network: unet with spatial_dims: 3, as the images have"
    named, _ = completed(five(manifest, task=task, network=TINY), tmp_path / "named")
    assert named.study.network == {"unet": {**TINY["unet"], "spatial_dims": 3}}
    cut, _ = completed(five(manifest, task=task, slices={"axis": 2}), tmp_path / "slices")
    assert (cut.study.network, cut.study.patch) == ({"unet": None}, (32, 24))


@pytest.mark.parametrize("recipe", ["adabn", "dsbn", "msnet", {"finetune": {"first": "dsbn"}}])
def test_the_default_network_has_batch_normalisation_where_a_recipe_is_about_it(recipe: Any, tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path / "images", {"a": 4, "b": 4})
    session, lines = completed(five(manifest, [recipe], target_labels="all"), tmp_path / "out")
    assert session.study.network == {"unet": {"norm": "batch"}}
    assert lines[1].startswith("network: unet with batch normalisation, which ")
    session.prepare()
    named, _ = completed(five(manifest, [recipe], target_labels="all", network=TINY), tmp_path / "named")
    assert named.study.network == TINY
    with pytest.raises(SpecError, match=r"\{unet: \{norm: batch\}\}"):
        named.prepare()


def test_grey_and_colour_images_share_a_network(tmp_path: Path) -> None:
    parts = [write_photographs(tmp_path / name, {name: 3}, seed=ord(name)) for name in "ab"]
    for path in (tmp_path / "b").glob("b?.png"):
        Image.open(path).convert("RGB").save(path)
    manifest = joined(tmp_path, *parts)
    session, lines = completed(five(manifest), tmp_path / "out")
    assert session.study.preprocessing.channels == 3
    assert lines[1] == ("preprocessing.channels: 3, because some images have 3 and others 1, which is repeated")
    world = session.prepare()
    grey = world.part("a", "train", 0).case(0).image
    assert torch.equal(grey, grey[:, :1].expand_as(grey))


def test_all_rows_that_cannot_be_run_are_named_at_once(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path / "images", {"a": 4, "b": 4})
    recipes = ["adabn", "finetune", {"catenorm": {"position": 9}}, "zscore"]
    session, _ = completed(five(manifest, recipes, network=TINY), tmp_path / "out")
    with pytest.raises(AllograftError) as error:
        session.prepare()
    head, *lines = str(error.value).splitlines()
    assert head == "3 rows cannot be run, so nothing was trained:"
    assert [line.split()[1].rstrip(":") for line in lines] == ["recipe", "adabn", "catenorm"]
    assert not (tmp_path / "out" / "units").exists()


class Fixed(nn.Module):
    """A network for images of 16 x 16."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if image.shape[2:] != (16, 16):
            raise RuntimeError("expected 16 x 16")
        found: torch.Tensor = self.layer(image)
        return found


def test_a_network_that_cannot_predict_whole_images_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    for side, fits in ((16, True), (20, False)):
        manifest = write_photographs(tmp_path / f"{side}", {"a": 4, "b": 4}, size=(side, 16))
        study = make_study(five(manifest, patch=[16, 16]))
        session = Session(study, tmp_path / "out", Fixed(), local_fabric(accelerator="cpu"), 0, 60.0, lambda _: None)
        session = replace(session, out=tmp_path / f"out-{side}").completed()
        with nullcontext() if fits else pytest.raises(SpecError, match=r"shape \(1, 20, 16\) \(expected 16 x 16\)"):
            session.prepare()


def test_a_study_of_five_keys_runs_and_is_kept_as_it_was_run(tmp_path: Path) -> None:
    tree = five(of_sizes(tmp_path, 4, (19, 21), (23, 18)), ["adabn"])
    lines: list[str] = []
    made = run_study(tree, tmp_path / "out", say=lines.append)
    assert isinstance(made, Result)
    assert made.failed == 0
    kept = kept_study(tmp_path / "out")
    assert (kept.patch, kept.network) == ((16, 16), {"unet": {"norm": "batch"}})
    table = (tmp_path / "out" / "results.csv").read_bytes()
    again = rebuild(tmp_path / "out")
    assert isinstance(again, Result)
    assert (tmp_path / "out" / "results.csv").read_bytes() == table
    lines.clear()
    run_study(tree, tmp_path / "out", say=lines.append)
    assert not [line for line in lines if line.startswith("[")]  # nothing is run again
    model = load(next(iter(made.models.values())))
    (one,) = model.predict([tmp_path / "b" / "b0.png"])
    assert one.answer.mask is not None
    assert one.answer.mask.shape == (23, 18)


def test_each_part_is_rebuilt_with_its_own_defaults(tmp_path: Path) -> None:
    manifest = write_photographs(tmp_path / "images", {"a": 4, "b": 4}, size=(17, 19))
    tree = five(manifest, network=TINY, each={"one": {"augmentation": "none"}, "two": {"patch": [8, 8]}})
    del tree["baselines"]
    run_study(tree, tmp_path / "out", report=False)
    kept = {name: kept_study(tmp_path / "out" / "parts" / name).patch for name in ("one", "two")}
    assert kept == {"one": (18, 20), "two": (8, 8)}
    before = (tmp_path / "out" / "results.csv").read_text()
    rebuild(tmp_path / "out")
    assert (tmp_path / "out" / "results.csv").read_text() == before


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_images_that_the_network_cannot_halve(name: str, manifest: Path, tmp_path: Path) -> None:
    preprocessing = {**contract(name).study.get("preprocessing", {}), "size": [30, 27]}
    session = session_of(manifest, tmp_path, request(name), preprocessing=preprocessing).completed()
    assert session.study.patch is not None
    world = session.prepare()
    session.run(world, row_of(session, world), "")
    assert {(record.status, record.error) for record in read_all(tmp_path).values()} == {("done", "")}
