"""What Stain-AgLr must leave equal: plain training without jitter, the sample, and the classifier
without the decoder."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import a_context

from allograft.batch import Batch
from allograft.cohort import Cohort, Preprocessing
from allograft.methods import stain_aglr
from allograft.methods.stain_aglr import (
    ALTERED,
    StainAgLr,
    StainObjective,
    TwoViews,
    consistency_loss,
    regeneration_loss,
)
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.networks.network import count_parameters
from allograft.phantoms.histology import CLASSES, write_histology
from allograft.predictor import Direct
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification
from allograft.transforms.augmentation import Draw, apply, draw
from allograft.transforms.elastic import deform, draw_displacement
from allograft.transforms.sample import Sample
from allograft.transforms.stain import StainJitter

TASK = Classification(CLASSES)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    manifest = write_histology(
        tmp_path_factory.mktemp("cohort"), sites={"a": "none", "b": "severe"}, subjects=6, size=32
    )
    return Cohort.read(manifest, TASK.coding, preprocessing=Preprocessing(intensity="none"))


def a_network() -> Any:
    """With dropout and running statistics, both of which a second forward pass would disturb."""
    torch.manual_seed(3)
    return build({"build": {"stain_cnn": {"in_channels": 3, "outputs": {"label": 2}, "channels": [4, 8], "hidden": 8}}})


class Eye(torch.nn.Module):
    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return [image]


def by_mean_colour() -> Any:
    """A network whose feature is the image, with one layer on its mean colour."""
    network = a_network()
    network.encoder, network.heads["label"].layers = Eye(), torch.nn.Linear(3, 2)
    return network


def finished(cohort: Cohort, recipe: Any, folder: Path | None = None) -> tuple[list[Any], Any]:
    context = replace(a_context(folder), task=TASK)
    run: Generator[Any, None, Any] = recipe.run(Scenario(source=(cohort,), sites=cohort.sites), a_network(), context)
    stages = []
    while True:
        try:
            stages.append(next(run))
        except StopIteration as stop:
            return stages, stop.value.network


def same(one: Any, other: Any) -> bool:
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_without_jitter_and_at_weights_zero_it_is_supervised_bit_for_bit(cohort: Cohort) -> None:
    """The same batches, one cross-entropy of each image, no second view: the same weights and
    running statistics."""
    _, plain = finished(cohort, Supervised())
    _, found = finished(cohort, StainAgLr(regeneration=0, consistency=0, jitter="none"))
    assert same(plain, found)
    _, jittered = finished(cohort, StainAgLr(regeneration=0, consistency=0))
    assert not same(plain, jittered)


@pytest.mark.parametrize("weights", [(0.1, 0.0), (0.0, 10.0)])
def test_each_loss_moves_the_encoder_elsewhere(weights: tuple[float, float], cohort: Cohort) -> None:
    _, alone = finished(cohort, StainAgLr(regeneration=0, consistency=0))
    _, found = finished(cohort, StainAgLr(*weights))
    assert any(
        not torch.equal(p, q) for p, q in zip(alone.encoder.parameters(), found.encoder.parameters(), strict=True)
    )


def test_what_is_judged_is_the_plain_classifier(cohort: Cohort) -> None:
    """Parameters, names and layers run for an image are those of ``supervised``: no decoder, one
    pass."""
    (plain,), (found,) = finished(cohort, Supervised())[0], finished(cohort, StainAgLr())[0]
    calls: dict[str, list[str]] = {"plain": [], "found": []}
    for name, stage in (("plain", plain), ("found", found)):
        assert type(stage.predictor) is Direct
        for module in stage.predictor.network.modules():
            module.register_forward_hook(lambda m, i, o, name=name: calls[name].append(type(m).__name__))
        stage.predictor(cohort.case(0).unlabelled())
    assert calls["plain"] == calls["found"]
    assert count_parameters(plain.predictor.network) == count_parameters(found.predictor.network)
    assert list(plain.predictor.network.state_dict()) == list(found.predictor.network.state_dict())


def test_the_other_view_has_the_pixels_of_the_sample_in_other_colours(cohort: Cohort) -> None:
    sample = Sample("none", (24, 20))
    alone = sample(cohort.case(0), torch.Generator().manual_seed(5))
    both = TwoViews(sample, "light", 255.0, elastic=False)(cohort.case(0), torch.Generator().manual_seed(5))
    assert torch.equal(both.image, alone.image)
    altered = both.attributes[ALTERED]
    assert altered.shape == both.image.shape
    assert 0 <= float(altered.min()) <= float(altered.max()) <= 255
    assert float((altered - both.image).abs().mean()) > 1


@pytest.mark.parametrize("strength", ["light", "strong"])
def test_the_raw_view_moves_and_keeps_its_colours_and_the_other_moves_with_it(strength: str, cohort: Cohort) -> None:
    """What is restored, and whose prediction comes first, is the raw image: the study's noise,
    brightness and so on are not in it."""
    still = turned = 0
    for seed in range(60):
        case = cohort.case(seed % len(cohort))
        drawn = draw(strength, 2, torch.Generator().manual_seed(seed))
        views = TwoViews(Sample(strength), "light", 255.0, elastic=False)
        both = views(case, torch.Generator().manual_seed(seed))
        (raw,), (altered,) = both.image, both.attributes[ALTERED]
        moved, _ = apply(case.image[0], {}, Draw(drawn.angles, drawn.log_scale, drawn.flips), torch.Generator())
        assert torch.equal(raw, moved)
        if not any(drawn.angles) and not drawn.log_scale:  # at most flips: the very values
            assert torch.equal(raw.flatten(1).sort().values, case.image[0].flatten(1).sort().values)
            still += 1
        else:
            assert case.image.min() - 1e-3 <= raw.min() <= raw.max() <= case.image.max() + 1e-3
            turned += 1
        with (
            pytest.MonkeyPatch.context() as patch
        ):  # without new colours and noise the other view is the raw one, place by place
            patch.setattr(StainJitter, "apply", lambda self, image, scale, bias: image)
            patch.setattr(stain_aglr, "draw", lambda *_: Draw())
            same = views(case, torch.Generator().manual_seed(seed))
        torch.testing.assert_close(same.attributes[ALTERED][0], raw)
        assert not torch.allclose(altered, raw, atol=1)
    assert still > 5
    assert turned > 5


@pytest.mark.parametrize("preset", ["light", "strong"])
def test_both_views_are_deformed_alike(preset: str, cohort: Cohort, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without new colours and noise x' is x, and x is the image deformed by the first draws after
    those of the sample."""
    monkeypatch.setattr(StainJitter, "apply", lambda self, image, scale, bias: image)
    monkeypatch.setattr(stain_aglr, "draw", lambda *_: Draw())
    made = TwoViews(None, preset, 255.0)(cohort.case(2), torch.Generator().manual_seed(7))  # type: ignore[arg-type]
    torch.testing.assert_close(made.attributes[ALTERED], made.image)
    stored = cohort.case(2).image[0]
    moved = draw_displacement((32, 32), torch.Generator().manual_seed(7))
    assert torch.equal(made.image[0], deform(stored, moved))
    assert not torch.allclose(made.image[0], stored, atol=5)
    plain = TwoViews(None, preset, 255.0, elastic=False)(cohort.case(2), torch.Generator().manual_seed(7))  # type: ignore[arg-type]
    assert torch.equal(plain.image[0], stored)


def test_a_batch_of_two_views_is_two_batches_where_nothing_normalises_over_it(cohort: Cohort) -> None:
    network = build(
        {"build": {"unet": {"in_channels": 3, "outputs": {"label": 2}, "channels": [4, 8], "num_res_units": 1}}}
    )
    views = TwoViews(None, "strong", 255.0)
    batch = views(cohort.case(0), torch.Generator().manual_seed(0))
    objective = StainObjective(StainAgLr(regeneration=0, jitter="strong"), TASK, None, 255.0)
    terms = objective(network, batch)  # type: ignore[arg-type]
    raw, other = network(batch.image)["label"], network(batch.attributes[ALTERED])["label"]
    torch.testing.assert_close(terms["cross_entropy/raw"], TASK.loss({"label": raw}, batch)["cross_entropy"] / 2)
    torch.testing.assert_close(terms["cross_entropy/altered"], TASK.loss({"label": other}, batch)["cross_entropy"] / 2)
    torch.testing.assert_close(terms["consistency"], 10 * consistency_loss(raw, other), rtol=1e-4, atol=1e-6)


def test_equal_views_agree_and_are_restored() -> None:
    logits, image = torch.randn(4, 3, dtype=torch.float64), torch.rand(2, 3, 5, 5)
    # a softmax does not see a shift
    assert float(consistency_loss(logits, logits + 7)) == pytest.approx(0, abs=1e-12)
    assert float(regeneration_loss(image, image)) == 0
    double = consistency_loss(logits.repeat(2, 1), logits.flip(1).repeat(2, 1))
    # a mean over the batch, not a sum
    torch.testing.assert_close(double, consistency_loss(logits, logits.flip(1)))
    assert float(consistency_loss(logits, logits.flip(1))) > 0


def test_the_decoder_sees_the_altered_image_and_is_compared_with_the_raw_one(cohort: Cohort) -> None:
    class Kept(torch.nn.Module):
        def forward(self, feature: torch.Tensor, size: Any) -> torch.Tensor:
            return feature / 255

    network = by_mean_colour()
    batch = TwoViews(None, "strong", 255.0)(cohort.case(1), torch.Generator().manual_seed(0))
    objective = StainObjective(StainAgLr(regeneration=0.5, consistency=0), TASK, Kept(), 255.0)  # type: ignore[arg-type]
    expected = 0.5 * ((batch.attributes[ALTERED] - batch.image) / 255).square().mean() * 3
    torch.testing.assert_close(objective(network, batch)["regeneration"], expected)
    still = Batch(batch.image, batch.site, batch.cases, batch.labels, {ALTERED: batch.image})
    assert float(objective(network, still)["regeneration"]) == 0


def test_the_altered_prediction_is_drawn_to_the_raw_one_by_the_papers_weight(cohort: Cohort) -> None:
    network = by_mean_colour()
    network.heads["label"].layers.weight.data = torch.tensor([[0.05, -0.05, 0.0], [-0.05, 0.05, 0.0]])
    batch = TwoViews(None, "strong", 255.0)(cohort.case(1), torch.Generator().manual_seed(0))
    raw, altered = (
        network(image)["label"].detach().double().softmax(1) for image in (batch.image, batch.attributes[ALTERED])
    )
    one, other = ((p * (p / q).log()).sum(1).mean().item() for p, q in ((raw, altered), (altered, raw)))
    assert one != pytest.approx(other, rel=1e-2)
    terms = StainObjective(StainAgLr(), TASK, None, 255.0)(network, batch)
    assert terms["consistency"].item() == pytest.approx(10 * one, rel=1e-4)
    assert StainAgLr().regeneration == 0.1
