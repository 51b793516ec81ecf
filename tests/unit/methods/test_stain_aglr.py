"""Stain-AgLr and stain normalisation as recipes: batches, schedules, figures, restarts, and what
they refuse."""

from __future__ import annotations

import base64
import io
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.tiny import VESSEL, a_context, write_rows

from allograft.cohort import Cohort, Preprocessing
from allograft.context import Budget, Context
from allograft.context.journal import Journal
from allograft.errors import SpecError
from allograft.figure import Images, Points
from allograft.methods import stain_aglr
from allograft.methods.stain_aglr import ALTERED, StainAgLr, TwoViews, balanced, show_stains
from allograft.methods.stain_normalisation import (
    StainNormalisation,
    StainNormalised,
    draw_reference,
    source_stains,
    white_level,
)
from allograft.networks import build
from allograft.networks.network import Wrapped
from allograft.networks.stain_cnn import StainDecoder
from allograft.parts.adapted_images import middle_items
from allograft.parts.held_out import mean_loss
from allograft.phantoms.histology import CLASSES, write_histology
from allograft.recipe import Scenario, parse_recipe
from allograft.step import GradientStep
from allograft.tasks.classification import Classification
from allograft.transforms.sample import Sample
from allograft.transforms.stain_separation import find_stains, restain
from allograft.tree import digest

CONTRACT = {
    "study": {
        "cohort": "patches/manifest.csv",
        "task": {"classification": {"classes": ["small", "large"]}},
        "preprocessing": {"intensity": "unit"},
    },
    "options": {
        "regeneration": 1.0,
        "consistency": 1.0,
        "jitter": "strong",
        "balanced": True,
        "elastic": False,
        "patience": 0,
        "held_out": 0.5,
    },
    "under": {
        "patience": {"study": {"budget": {"steps": 24, "batch_size": 2}, "optimizer": {"sgd": {"lr": 0.5}}}},
        "held_out": {"arguments": {"patience": 0}},
        "jitter: none": {"arguments": {"regeneration": 0.0, "consistency": 0.0}},
    },
}

TASK = Classification(CLASSES)
AS_STORED = Preprocessing(intensity="none")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_histology(tmp_path_factory.mktemp("cohort"), sites={"a": "none", "b": "severe"}, subjects=8, size=32)


@pytest.fixture
def cohort(manifest: Path) -> Cohort:
    return Cohort.read(manifest, TASK.coding, preprocessing=AS_STORED)


def a_network(**arguments: Any) -> Any:
    torch.manual_seed(3)
    return build(
        {
            "build": {
                "stain_cnn": {"in_channels": 3, "outputs": {"label": 2}, "channels": [4, 8], "hidden": 8, **arguments}
            }
        }
    )


def finished(cohorts: tuple[Cohort, ...], recipe: Any, context: Context | None = None, network: Any = None) -> Any:
    context = replace(context or a_context(), task=TASK)
    run: Generator[Any, None, Any] = recipe.run(
        Scenario(source=cohorts, sites=("a", "b")), network or a_network(), context
    )
    stage = next(run)
    with pytest.raises(StopIteration):
        next(run)
    return stage


# ---------------------------------------------------------- batches
def test_every_image_has_a_jitter_of_its_own_that_workers_and_processes_share(cohort: Cohort) -> None:
    loader = a_context().loader((cohort,), "source")
    loader = replace(loader, transform=TwoViews(Sample(), "light", 255.0))
    first = next(loader(0))
    again = [next(replace(loader, rank=rank, world=2)(0)) for rank in range(2)]
    assert first.attributes[ALTERED].shape == first.image.shape
    for rank in range(2):
        assert torch.equal(again[rank].attributes[ALTERED], first.attributes[ALTERED][rank::2])
    change = (first.attributes[ALTERED] - first.image).mean((2, 3))
    assert not torch.allclose(change[0], change[1], atol=0.5)
    assert not torch.equal(next(loader(4)).attributes[ALTERED], first.attributes[ALTERED])


def test_a_strong_jitter_changes_more(cohort: Cohort) -> None:
    far = {}
    for preset in ("light", "strong"):
        views = TwoViews(Sample(), preset, 255.0)  # type: ignore[arg-type]
        made = [views(cohort.case(i % 8), torch.Generator().manual_seed(i)) for i in range(24)]
        far[preset] = np.mean([float((one.attributes[ALTERED] - one.image).mean((2, 3)).abs().mean()) for one in made])
    assert far["strong"] > 1.5 * far["light"]


def test_balanced_batches(cohort: Cohort) -> None:
    rare = cohort.where(lambda case: case.labels["label"] == "small" or case.subject in ("a-001", "b-003"))
    sites = tuple(rare.site(name) for name in ("a", "b"))
    loader = balanced(sites, a_context(budget=Budget(batch_size=6)))
    drawn = [next(loader(step)).labels["label"].tolist() for step in range(4)]  # type: ignore[union-attr]
    assert [labels.count(1) for labels in drawn] == [3, 3, 3, 3]
    odd = balanced(sites, a_context(budget=Budget(batch_size=3)))
    assert [next(odd(step)).labels["label"].tolist().count(1) for step in range(4)] in ([1, 2, 1, 2], [2, 1, 2, 1])  # type: ignore[union-attr]
    seen: list[Any] = []
    real = GradientStep.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            GradientStep,
            "__call__",
            lambda self, batch: (seen.append(batch.labels["label"].tolist()), real(self, batch))[1],
        )
        finished(sites, StainAgLr(balanced=True), a_context(budget=Budget(steps=2, batch_size=4)))
    assert [labels.count(1) for labels in seen] == [2, 2]


# ---------------------------------------------------------- schedule, figures
def rates_of(
    cohort: Cohort, recipe: StainAgLr, losses: list[float], monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[list[float], Any, Context]:
    """The learning rate of each step where the held-out subjects have these losses, one an epoch,
    the last for ever; each step adds 1 to one bias of the network."""
    rates: list[float] = []
    told = iter(losses)

    def stepped(self: GradientStep, batch: Any) -> dict[str, torch.Tensor]:
        rates.append(self.optimizer.param_groups[0]["lr"])
        with torch.no_grad():
            self.network.heads["label"].layers[-1].bias += 1.0  # type: ignore[union-attr, index, operator]
        return {"rising": torch.tensor(float(len(rates)))}

    monkeypatch.setattr(GradientStep, "__call__", stepped)
    monkeypatch.setattr(stain_aglr, "mean_loss", lambda *_: next(told, losses[-1]))
    context, network = a_context(**settings), a_network()
    with torch.no_grad():
        network.heads["label"].layers[-1].bias.zero_()
    stage = finished((cohort,), recipe, context, network)
    return rates, stage.predictor.network.heads["label"].layers[-1].bias[0].item(), context


def test_the_papers_schedule_stops_at_1e_5(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """From 1e-2, times 0.1 when more than 2 epochs bring nothing. 3 of 16 subjects are held out, so
    an epoch is 4 steps of 4 cases: 1 + 3 epochs, then 3 and 3. A training loss that rises is not
    looked at."""
    settings = {"budget": Budget(steps=1000, batch_size=4), "optimizer": {"adam": {"lr": 1e-2}}}
    rates, _, context = rates_of(cohort, StainAgLr(patience=2), [1.0], monkeypatch, **settings)
    assert rates == pytest.approx([1e-2] * 16 + [1e-3] * 12 + [1e-4] * 12)
    assert list(context.meter.figures) == ["loss-train", "features", "stains"]
    assert len(context.meter.figures["loss-train"].x) == 40  # type: ignore[union-attr]


def test_a_validation_loss_that_falls_keeps_the_rate(cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = [1 / number for number in range(1, 9)]
    settings = {"budget": Budget(steps=32, batch_size=4), "optimizer": {"adam": {"lr": 1e-2}}}
    rates, bias, _ = rates_of(cohort, StainAgLr(patience=0), losses, monkeypatch, **settings)
    assert rates == pytest.approx([1e-2] * 32)
    assert bias == 32


@pytest.mark.parametrize(("losses", "best"), [([3.0, 1.0, 2.0], 8), ([3.0, 2.0, 1.0], 10), ([1.0, 1.0, 1.0], 4)])
def test_the_weights_are_those_of_the_lowest_validation_loss(
    losses: list[float], best: int, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After 4 steps, 8, and 10, where the budget ends."""
    budget = Budget(steps=10, batch_size=4)
    rates, bias, _ = rates_of(cohort, StainAgLr(patience=100), losses, monkeypatch, budget=budget)
    assert len(rates) == 10
    assert bias == best


@pytest.mark.parametrize(("share", "count"), [(0.2, 3), (0.5, 8), (0.01, 1), (0.99, 15)])
def test_subjects_are_held_out_and_never_trained_on(
    share: float, count: int, cohort: Cohort, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: set[str] = set()
    asked: list[Any] = []
    real, plain = GradientStep.__call__, stain_aglr.mean_loss
    monkeypatch.setattr(GradientStep, "__call__", lambda self, batch: seen.update(batch.cases) or real(self, batch))
    monkeypatch.setattr(stain_aglr, "mean_loss", lambda *given: asked.append(given[2]) or plain(*given))
    budget = Budget(steps=12, batch_size=4)
    sites = (cohort.site("a"), cohort.site("b"))
    finished(sites, StainAgLr(patience=0, held_out=share), a_context(budget=budget))
    out = {case.name for view in asked[0] for case in view.cases}
    assert len({case.subject for view in asked[0] for case in view.cases}) == count
    assert seen | out == {case.name for case in cohort.cases}
    assert not seen & out


def test_the_validation_loss_is_that_of_images_as_they_are(cohort: Cohort) -> None:
    """A loop over single images, the mean over all of them; the network stays as it was."""
    context, network = replace(a_context(budget=Budget(batch_size=3)), task=TASK), a_network()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    found = mean_loss(network, TASK, [cohort.site("a"), cohort.site("b").where(lambda case: False)], context)
    assert network.training
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    network.eval()
    each = []
    for index in range(8):
        case = cohort.site("a").case(index)
        each.append(-network(case.image)["label"].log_softmax(1)[0, int(case.labels["label"])].item())  # type: ignore[arg-type]
    assert found == pytest.approx(float(np.mean(each)), rel=1e-5)


def test_a_training_that_was_killed_keeps_its_lowest_loss(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed three times, it ends at the weights of one that was not; these are not the last."""

    def ran(folder: Path) -> Any:
        settings = {"budget": Budget(steps=14, batch_size=4), "optimizer": {"adam": {"lr": 1e-2}}}
        context, recipe = replace(a_context(folder, **settings), task=TASK), StainAgLr(patience=0)
        running = context.run(recipe, Scenario(source=(cohort,), sites=("a", "b")), a_network())
        while True:
            try:
                next(running)
            except StopIteration as stop:
                return stop.value.network

    losses: list[float] = []
    real, step = mean_loss, GradientStep.__call__
    monkeypatch.setattr(stain_aglr, "mean_loss", lambda *given: losses.append(real(*given)) or losses[-1])
    whole = ran(tmp_path / "whole")
    assert min(losses) < losses[-1]
    monkeypatch.setattr(Journal, "due", lambda self: True)
    calls: list[int] = []

    def dying(self: Any, batch: Any) -> Any:
        calls.append(1)
        if len(calls) in (3, 8, 10):
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(GradientStep, "__call__", dying)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            ran(tmp_path / "killed")
    assert digest(ran(tmp_path / "killed")) == digest(whole)


def test_one_subject_cannot_be_held_out(cohort: Cohort) -> None:
    alone = cohort.where(lambda case: case.subject == "a-001")
    with pytest.raises(SpecError, match=r"stain_aglr: 1 subject to train on.*two at least, or leave out patience"):
        finished((alone,), StainAgLr(patience=1))


def test_features_of_training_images_are_shown_by_laboratory_and_class(cohort: Cohort) -> None:
    context = a_context()
    finished((cohort.site("a"), cohort.site("b")), StainAgLr(), context)
    shown = context.meter.figures["features"]
    assert isinstance(shown, Points)
    assert (shown.group, shown.colour) == (("a",) * 8 + ("b",) * 8, (0, 1) * 8)
    assert len(set(shown.x)) == len(set(shown.y)) == 16
    few = a_context()
    finished((cohort.site("a"),), StainAgLr(), few)
    assert "features" not in few.meter.figures


@pytest.mark.parametrize(
    ("weights", "names"),
    [({}, ["as it is", "other stains", "regenerated"]), ({"regeneration": 0.0}, ["as it is", "other stains"])],
)
def test_images_are_shown_in_other_stains_and_regenerated(
    weights: dict[str, float], names: list[str], cohort: Cohort
) -> None:
    shown = []
    for _ in range(2):
        context = a_context()
        finished((cohort.site("a"), cohort.site("b")), StainAgLr(**weights), context)  # type: ignore[arg-type]
        shown.append(context.meter.figures["stains"])
    figure = shown[0]
    assert isinstance(figure, Images)
    assert shown[0] == shown[1]
    assert list(figure.names) == names
    assert [len(row) for row in figure.rows] == [4] * len(names)
    assert figure.subjects[0] == figure.subjects[-1]
    assert len({row for row in figure.rows}) == len(names)
    plain = a_context()
    finished((cohort.site("a"),), StainAgLr(0.0, 0.0, "none"), plain)
    assert "stains" not in plain.meter.figures


def test_what_a_decoder_makes_of_one_pixel_is_shown_too(cohort: Cohort) -> None:
    """A feature of one pixel, and a single image, have no spread of their own to normalise by."""
    network = a_network()
    decoder = StainDecoder(8, 1)
    shown = cohort.where(lambda case: case.name == cohort.cases[0].name)
    context = a_context()
    tiny = replace(shown, prepared=replace(shown.prepared, preprocessing=Preprocessing(intensity="unit", size=(2, 2))))
    show_stains(network, decoder, TwoViews(None, "light", 1.0, elastic=False), [tiny], context)
    assert len(context.meter.figures["stains"].rows) == 3  # type: ignore[union-attr]


# ---------------------------------------------------------- normalisation
def test_recoloured_images_are_shown(cohort: Cohort) -> None:
    context = a_context()
    stage = finished((cohort.site("a"),), StainNormalisation("macenko"), context)
    figure = context.meter.figures["recoloured"]
    assert isinstance(figure, Images)
    assert figure.names == ("as it is", "macenko")
    given: list[torch.Tensor] = []
    stage.predictor.inner.network.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    (site,) = (cohort.site("a").unlabelled(),)
    ((_, index), *_) = middle_items([site])
    stage.predictor(site.case(index))
    png = io.BytesIO(base64.b64decode(figure.rows[1][0]))
    colours = np.asarray(Image.open(png).convert("RGB"), np.float32).transpose(2, 0, 1)
    assert np.abs(colours - given[0][0].numpy()).mean() < 6  # of 255, in 64 colours


def test_training_and_test_images_are_recoloured_alike(cohort: Cohort) -> None:
    """What the network is trained on is what the predictor makes of the same image."""
    seen: list[Any] = []
    real = GradientStep.__call__
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(GradientStep, "__call__", lambda self, batch: (seen.append(batch), real(self, batch))[1])
        stage = finished((cohort.site("a"),), StainNormalisation("macenko"))
    assert isinstance(stage.predictor, StainNormalised)
    given: list[torch.Tensor] = []
    stage.predictor.inner.network.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0]))
    cases = {case.name: index for index, case in enumerate(cohort.cases)}
    for batch in seen:
        for image, name in zip(batch.image, batch.cases, strict=True):
            stored = cohort.case(cases[name]).unlabelled()
            stage.predictor(stored)
            torch.testing.assert_close(given[-1][0], image)
            assert float((image - stored.image[0]).abs().mean()) > 0.01 or len(batch) == 1


def test_a_test_image_is_recoloured_by_hand(cohort: Cohort) -> None:
    found = source_stains((cohort.site("a"),), "macenko", 255.0)
    assert len(found) == 8
    reference = draw_reference(found, torch.Generator().manual_seed(0))
    own = [find_stains(cohort.case(i).image[0] / 255, "macenko") for i in range(8)]
    assert sum(one is not None and torch.equal(one.vectors, reference.vectors) for one in own) == 1
    drawn = {tuple(draw_reference(found, torch.Generator().manual_seed(seed)).most.tolist()) for seed in range(20)}
    assert len(drawn) > 3
    given = []
    inner = lambda batch: given.append(batch.image) or {}  # type: ignore[func-returns-value]  # noqa: E731
    two = replace(cohort.case(0), image=torch.cat([cohort.case(8).image, torch.full((1, 3, 32, 32), 250.0)]))
    StainNormalised(inner, "macenko", reference.vectors, reference.most, 255.0)(two)
    image = two.image[0] / 255
    torch.testing.assert_close(given[0][0], restain(image, find_stains(image, "macenko"), reference, "macenko") * 255)
    assert torch.equal(given[0][1], two.image[1])  # empty glass stays


# ---------------------------------------------------------- refusals
def test_what_makes_no_sense_is_refused(cohort: Cohort, manifest: Path) -> None:
    scaled = Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="zscore"))
    for recipe in (StainAgLr(), StainNormalisation("macenko")):
        with pytest.raises(SpecError, match=r"preprocessing.intensity is 'zscore'.*intensity: unit"):
            finished((scaled,), recipe)
    with pytest.raises(SpecError, match="expected task"):
        next(StainAgLr().run(Scenario(source=(cohort,)), a_network(), replace(a_context(), task=VESSEL)))
    with pytest.raises(SpecError, match="opaque"):
        finished((cohort,), StainAgLr(), network=Wrapped(torch.nn.Conv2d(3, 2, 1), "label"))
    with pytest.raises(SpecError, match="leaves nothing to restore"):
        parse_recipe({"stain_aglr": {"jitter": "none"}})
    with pytest.raises(SpecError, match=r'jitter: found "weak"; expected light, strong or none$'):
        parse_recipe({"stain_aglr": {"jitter": "weak"}})
    with pytest.raises(SpecError, match="no source image shows stained tissue"):
        draw_reference({"a": torch.zeros(0, 3)}, torch.Generator())


@pytest.mark.parametrize(
    ("array", "said"), [(np.full((16, 16), 90, np.uint8), r"shape \(1, 16, 16\)"), (None, "values 0 to 600")]
)
def test_images_without_colours_are_refused(array: Any, said: str, tmp_path: Path) -> None:
    if array is None:
        np.savez(tmp_path / "x.npz", image=np.array([0, 600], np.uint16).repeat(384).reshape(3, 16, 16))
        name = "x.npz"
    else:
        name = "x.png"
        Image.fromarray(array).save(tmp_path / name)
    file = write_rows(tmp_path / "manifest.csv", [{"image": name, "label": "small", "subject": "a", "site": "a"}])
    grey = Cohort.read(file, TASK.coding, preprocessing=AS_STORED)
    with pytest.raises(SpecError, match=said):
        white_level((grey,), "stain_aglr")


def test_white_is_255_of_photographs_and_1_of_shares(cohort: Cohort) -> None:
    assert white_level((cohort,), "stain_aglr") == 255
    cohort.prepared.memory.update()
    share = replace(cohort)
    object.__setattr__(share, "case", lambda index: replace(cohort.case(index), image=cohort.case(index).image / 255))
    object.__setattr__(share, "unlabelled", lambda: share)
    assert white_level((share,), "stain_aglr") == 1
