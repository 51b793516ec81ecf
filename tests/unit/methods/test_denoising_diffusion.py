"""Denoising diffusion as a pretext: its steps forth and back, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.schedulers import DDPMScheduler
from tests.unit.tiny import a_context, read, write_photographs

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.methods.denoising_diffusion import (
    NOISE,
    TIME,
    DenoisingDiffusion,
    Noisy,
    denoised,
    noised,
    predicted_noise,
    reverse_step,
)
from allograft.networks import Network, build
from allograft.parts.pretexts import RANGE, Ranged
from allograft.recipe import Scenario
from allograft.transforms.sample import Sample

CONTRACT = {
    "arguments": {"drop": 1.0, "inference_steps": 2},
    "study": {
        "pool": ["a", "d", "b"],
        "network": {
            "diffusion_unet": {
                "spatial_dims": 2,
                "channels": [4, 8],
                "attention": [False, True],
                "num_res_blocks": 1,
                "head_channels": 8,
                "norm_groups": 4,
            }
        },
    },
    "options": {
        "loss": "noise",
        "train_steps": 30,
        "inference_steps": 3,
        "beta_start": 1e-3,
        "beta_end": 0.1,
        "epochs": 1,
        "drop": 0.34,
        "held_out": 0.6,
        "ssim": {"window": 7},
    },
    "processes_study": {
        "network": {
            "diffusion_unet": {
                "spatial_dims": 2,
                "channels": [4, 8],
                "attention": [False, True],
                "num_res_blocks": 1,
                "head_channels": 8,
                "norm_groups": 4,
            }
        },
    },
    "marks": (),
}


def a_network() -> Network:
    torch.manual_seed(0)
    study = CONTRACT["study"]["network"]["diffusion_unet"]
    network = build({"build": {"diffusion_unet": {"in_channels": 1, "outputs": {"paired": 1}, **study}}})
    assert isinstance(network, Network)
    return network


def a_batch(size: int = 16) -> Batch:
    rng = torch.Generator().manual_seed(3)
    image, noise = torch.randn(2, 3, 1, size, size, generator=rng).unbind()
    attributes = {TIME: torch.tensor([0, 10, 29]), RANGE: torch.tensor([4.0, 5.0, 6.0])}
    return Batch(image, torch.zeros(3).long(), ("a", "b", "c"), views={NOISE: noise}, attributes=attributes)


def test_what_is_kept_is_monais_scaled_linear_schedule() -> None:
    theirs = DDPMScheduler(1000, "scaled_linear_beta", beta_start=5e-3, beta_end=2e-2).alphas_cumprod
    torch.testing.assert_close(DenoisingDiffusion().kept.float(), theirs, rtol=1e-4, atol=1e-7)


def test_noise_is_added_as_monai_adds_it_and_taken_off_again() -> None:
    scheduler = DDPMScheduler(30, "scaled_linear_beta", beta_start=5e-3, beta_end=2e-2)
    batch, recipe = a_batch(), DenoisingDiffusion(train_steps=30, inference_steps=2)
    time, noise = batch.attributes[TIME], batch.views[NOISE]
    kept = recipe.kept[time]
    diffused = noised(batch.image, noise, kept)
    torch.testing.assert_close(diffused, scheduler.add_noise(batch.image, noise, time), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(denoised(diffused, noise, kept), batch.image, rtol=1e-4, atol=1e-4)


def test_a_step_back_by_one_is_monais() -> None:
    scheduler = DDPMScheduler(30, "scaled_linear_beta", clip_sample=False, beta_start=5e-3, beta_end=2e-2)
    batch, kept = a_batch(), DenoisingDiffusion(train_steps=30, inference_steps=2).kept
    image, predicted = batch.image, batch.views[NOISE]
    for time in (29, 4, 1):
        theirs, estimate = scheduler.step(predicted, time, image, generator=torch.Generator().manual_seed(1))
        drawn = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
        ours = reverse_step(image, estimate, drawn, (kept[time].float(), kept[time - 1].float()))
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_step_at_0_gives_the_estimate_whatever_the_noise() -> None:
    batch, kept = a_batch(), DenoisingDiffusion().kept
    first = reverse_step(
        batch.image, batch.views[NOISE], torch.full_like(batch.image, 1e3), (kept[0], kept.new_ones(()))
    )
    torch.testing.assert_close(first, batch.views[NOISE].double(), rtol=1e-5, atol=1e-5, check_dtype=False)


def test_a_network_that_knows_the_noise_restores_the_image(monkeypatch: pytest.MonkeyPatch) -> None:
    batch, recipe = a_batch(), DenoisingDiffusion(inference_steps=5)

    def known(network: object, image: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        kept = recipe.kept.to(image)[time].reshape(-1, 1, 1, 1)
        return (image - kept.sqrt() * batch.image) / (1 - kept).sqrt()

    monkeypatch.setattr("allograft.methods.denoising_diffusion.predicted_noise", known)
    torch.testing.assert_close(recipe.sampled(a_network(), batch.image), batch.image, rtol=1e-3, atol=1e-3)
    terms = recipe.objective(
        a_network(), replace(batch, attributes={**batch.attributes, TIME: torch.tensor([0, 9, 99])})
    )
    assert terms["restoration"].item() == pytest.approx(0, abs=1e-4)


def test_a_restoration_is_named_by_its_image_alone() -> None:
    batch, recipe = a_batch(), DenoisingDiffusion(inference_steps=3)
    together = recipe.sampled(a_network(), batch.image)
    torch.testing.assert_close(recipe.sampled(a_network(), batch.image[1:2]), together[1:2])
    assert bool((together >= batch.image.amin((1, 2, 3), keepdim=True) - 1e-5).all())


def test_the_loss_of_noise_is_its_mean_square() -> None:
    batch, network = a_batch(), a_network()
    recipe = DenoisingDiffusion(loss="noise", train_steps=30, inference_steps=2)
    time, noise = batch.attributes[TIME], batch.views[NOISE]
    kept = recipe.kept.float()[time].reshape(-1, 1, 1, 1)
    predicted = predicted_noise(network, kept.sqrt() * batch.image + (1 - kept).sqrt() * noise, time)
    assert recipe.objective(network, batch)["noise"].item() == pytest.approx(((predicted - noise) ** 2).mean().item())


def test_the_validation_loss_is_of_all_probed_steps_in_evaluation_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def watched(network: Network, image: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        seen.append((network.training, *time.unique().tolist()))
        return torch.full_like(image, len(seen))

    monkeypatch.setattr("allograft.methods.denoising_diffusion.predicted_noise", watched)
    network = a_network().train()
    recipe, batch = DenoisingDiffusion(loss="noise", train_steps=32, inference_steps=2), a_batch(64)
    loss = recipe.validation_loss(network, batch)
    assert seen == [(False, 4), (False, 12), (False, 20), (False, 28)]
    assert network.training
    assert float(loss) == pytest.approx(sum(1 + n * n for n in (1, 2, 3, 4)) / 4, rel=0.05)  # of noise of variance 1


def test_noise_and_steps_are_drawn_in_the_loader() -> None:
    case = Batch(torch.rand(1, 1, 16, 16), torch.tensor([0]), ("a",))
    drawn = [Noisy(Ranged(Sample("none")), 30)(case, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
    assert torch.equal(drawn[0].views[NOISE], drawn[1].views[NOISE])
    assert not torch.equal(drawn[0].views[NOISE], drawn[2].views[NOISE])
    times = [
        int(Noisy(Ranged(Sample("none")), 3)(case, torch.Generator().manual_seed(s)).attributes[TIME])
        for s in range(40)
    ]
    assert set(times) == {0, 1, 2}


def test_what_it_refuses(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="inference_steps is 25, of 9 train_steps"):
        DenoisingDiffusion(train_steps=9)
    with pytest.raises(SpecError, match=r"beta_start is 0\.5, above beta_end"):
        DenoisingDiffusion(beta_start=0.5)
    pool = (read(write_photographs(tmp_path, {"a": 3})),)
    network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}})
    with pytest.raises(SpecError, match=r"network 'unet' is given no time step; choose network: \{diffusion_unet"):
        DenoisingDiffusion().check(Scenario(pool=pool), network, a_context())
