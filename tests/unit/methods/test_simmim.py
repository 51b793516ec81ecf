"""SimMIM: its masks and loss, what it refuses, and continual pre-training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.networks.tiny import images, made
from tests.unit.pretraining import a_pretraining, finished, pool_of, rng, vit

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.methods.simmim import MASK, Masked, MaskedRestoration, SimMim, masked_l1, masked_tokens, random_mask
from allograft.networks import AnyNetwork, build
from allograft.networks.load import load_weights
from allograft.networks.tokens import token_encoder
from allograft.seeds import Seeds
from allograft.transforms.sample import Sample
from allograft.tree import digest

CONTRACT = {
    "arguments": {"patch": 16},
    "study": {
        "pool": ["a", "d", "b"],
        "network": {
            "unetr": {
                "spatial_dims": 2,
                "image_size": 32,
                "feature_size": 4,
                "hidden_size": 12,
                "mlp_dim": 12,
                "num_heads": 2,
            }
        },
    },
    "options": {"patch": 32, "ratio": 0.3, "epochs": 1, "pool": ["a"]},
    "processes_study": {
        "network": {
            "unetr": {
                "spatial_dims": 2,
                "image_size": 32,
                "feature_size": 4,
                "hidden_size": 12,
                "mlp_dim": 12,
                "num_heads": 2,
            }
        }
    },
    "marks": (),
}


@settings(derandomize=True, deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 7), min_size=2, max_size=3), st.floats(0, 1), st.integers(1, 4))
def test_as_many_patches_are_masked_as_the_ratio_asks(grid: list[int], ratio: float, batch: int) -> None:
    mask = random_mask(grid, ratio, rng(), batch=batch)
    size = torch.zeros(grid).numel()
    assert mask.shape == (batch, *grid)
    for count in mask.flatten(1).sum(1).tolist():
        assert ratio * size - 1e-9 <= count < ratio * size + 1 + 1e-9


def test_ratio_0_masks_nothing_and_1_everything() -> None:
    image, restored = torch.rand(2, 3, 8, 8, generator=rng()), torch.rand(2, 3, 8, 8, generator=rng(1))
    nothing, everything = random_mask((2, 2), 0.0, rng(), batch=2), random_mask((2, 2), 1.0, rng(), batch=2)
    assert not nothing.any()
    assert everything.all()
    assert float(masked_l1(restored, image, nothing)) == 0
    torch.testing.assert_close(masked_l1(restored, image, everything), (restored - image).abs().mean())


def test_each_image_of_a_batch_has_its_own_mask_and_every_patch_is_as_likely() -> None:
    mask = random_mask((3, 3), 0.4, rng(), batch=4000)
    assert mask.unique(dim=0).shape[0] == 126  # 4 of 9
    assert (mask.float().mean(0) - 4 / 9).abs().max() < 0.04


@pytest.mark.parametrize("shape", [(8, 12), (4, 4, 8)])
def test_the_loss_is_a_loop_over_masked_pixels(shape: tuple[int, ...]) -> None:
    image, restored = torch.rand(2, 3, *shape, generator=rng()), torch.rand(2, 3, *shape, generator=rng(1))
    grid = [side // 4 for side in shape]
    mask = random_mask(grid, 0.5, rng(2), batch=2)
    total, count = 0.0, 0
    for where in torch.ones(2, *shape).nonzero().tolist():
        b, *pixel = where
        if mask[(b, *(p // 4 for p in pixel))]:
            for c in range(3):
                total += abs(float(restored[(b, c, *pixel)].double() - image[(b, c, *pixel)].double()))
                count += 1
    assert float(masked_l1(restored, image, mask)) == pytest.approx(total / count, rel=1e-5)
    changed = (
        restored + 5 * (~mask).float().repeat_interleave(4, 1).repeat_interleave(4, 2).unsqueeze(1)
        if len(shape) == 2
        else restored
    )
    assert float(masked_l1(changed, image, mask)) == pytest.approx(total / count, rel=1e-5)


def test_a_mask_that_does_not_divide_the_image_is_refused() -> None:
    image = torch.zeros(1, 1, 8, 12)
    for grid in ((3, 3), (2, 2)):
        with pytest.raises(SpecError, match="does not divide images"):
            masked_l1(image, image, torch.ones(1, *grid, dtype=torch.bool))
    with pytest.raises(SpecError, match="neither a generator nor a permutation"):
        random_mask((2, 2), 0.5, None)


@pytest.mark.parametrize("key", ["vit", "swin", "unetr"])
def test_nothing_of_a_masked_patch_reaches_the_network(key: str) -> None:
    """The token stands in the place of the embedding: pixels of masked patches have no gradient,
    and all that are left have one."""
    network = made(key).eval()
    image = images(key)
    patch = 16 if key == "unetr" else 2 * token_encoder(network, "test").token_size
    size = [max(side // patch, 1) * patch for side in image.shape[2:]]
    image = image[:, :, : size[0], : size[1]].clone().requires_grad_()
    mask = random_mask([side // patch for side in size], 0.5, rng(3), batch=2)
    with Seeds(0).everything():
        objective = MaskedRestoration(network, image, patch)
    batch = Batch(image, torch.zeros(2).long(), ("a", "b"), attributes={MASK: mask})
    restored = objective.restored(token_encoder(network, "test"), batch)
    assert restored.shape == image.shape
    (restored * torch.randn(restored.shape, generator=rng(4))).sum().backward()
    assert image.grad is not None
    hidden = mask.repeat_interleave(patch, 1).repeat_interleave(patch, 2)[:, None].expand_as(image)
    assert not image.grad[hidden].any()
    assert (image.grad[~hidden] != 0).float().mean() > 0.9
    loss = objective(network, batch)["restoration"]
    torch.testing.assert_close(loss, (restored - image).abs()[hidden].mean())


def test_the_token_takes_the_place_of_masked_embeddings_alone() -> None:
    tokens, token = torch.randn(2, 4, 4, 3, generator=rng()), torch.tensor([1.0, 2.0, 3.0])
    mask = torch.tensor([[[True, False], [False, False]], [[False, False], [False, True]]])
    replaced = masked_tokens(tokens, token, mask)
    assert (replaced[0, :2, :2] == token).all()
    assert (replaced[1, 2:, 2:] == token).all()
    assert torch.equal(replaced[0, 2:], tokens[0, 2:])
    assert torch.equal(replaced[0, :2, 2:], tokens[0, :2, 2:])
    assert torch.equal(masked_tokens(tokens, token, torch.zeros_like(mask)), tokens)


def test_the_mask_is_drawn_with_the_sample() -> None:
    case = Batch(torch.rand(1, 1, 8, 8, generator=rng()), torch.zeros(1).long(), ("a",))
    masked = Masked(Sample(), 2, 0.6)
    first, again, other = (masked(case, rng(seed)).attributes[MASK] for seed in (0, 0, 1))
    assert first.shape == (1, 4, 4)
    assert int(first.sum()) == 10
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(masked(case, rng()).image, case.image)  # nothing is zeroed in the image


def test_pretraining_learns_and_moves_all_of_the_encoder(tmp_path: Path) -> None:
    scenario, network = pool_of(tmp_path / "images", a=4), vit()
    stages, carry = finished(SimMim(patch=4), scenario, network, a_pretraining(tmp_path / "out", 40))
    (stage,) = stages
    assert stage.predictor is None
    assert stage.facts["steps"] == 40
    _, short = finished(SimMim(patch=4), scenario, network, a_pretraining(tmp_path / "out", 2))
    first = stages[0].facts["restoration"]
    (begun,), _ = finished(SimMim(patch=4), scenario, network, a_pretraining(tmp_path / "out", 2))
    assert float(first) < float(begun.facts["restoration"])
    before, after = network.state_dict(), carry.network.state_dict()
    still = [name for name in before if torch.equal(before[name], after[name])]
    assert not still, still
    assert set(short.network.state_dict()) == set(before)


def test_continual_pretraining_goes_on_where_the_first_ended(tmp_path: Path) -> None:
    """Each part has its own images, and the second begins with the first's weights."""
    scenario, network = pool_of(tmp_path / "images", a=4, b=4), vit()
    context = a_pretraining(tmp_path / "out")
    first = SimMim(patch=4, pool=("a",), epochs=30)
    recipe = SimMim(patch=4, pool=("b",), epochs=1, first=first)
    stages, carry = finished(recipe, scenario, network, context)
    assert [stage.recipe for stage in stages] == [first, recipe]
    _, begun = finished(first, scenario, network, context)
    start, middle, end = (net.state_dict() for net in (network, begun.network, carry.network))

    def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
        return sum(float((before[name] - after[name]).square().sum()) for name in before) ** 0.5

    assert 0 < moved(middle, end) < 0.3 * moved(start, middle)
    assert moved(start, end) > 0.7 * moved(start, middle)


@pytest.mark.parametrize(
    ("recipe", "network", "message"),
    [
        (SimMim(patch=6), {}, r"simmim: patch 6 is no multiple of the network's own patches of 4"),
        (SimMim(patch=32), {}, r"samples of 16x16 \('a0.png'\) are smaller than a patch of 32; raise preprocessing"),
        (SimMim(patch=12), {}, r"samples of 16x16 \('a0.png'\) cannot be cut into patches of 12 pixels"),
        (SimMim(patch=4, pool=("c",)), {}, r"simmim: pool: .*'c'.*"),
    ],
)
def test_what_cannot_be_cut_is_refused(recipe: SimMim, network: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=message):
        recipe.check(pool_of(tmp_path / "images", a=2, b=2), vit(**network), a_pretraining(tmp_path / "out"))


def test_a_pool_of_one_image_and_a_network_without_tokens_are_refused(tmp_path: Path) -> None:
    context = a_pretraining(tmp_path / "out")
    with pytest.raises(SpecError, match=r"simmim: the pool has one image; expected at least 2"):
        SimMim(patch=4).check(pool_of(tmp_path / "one", a=1), vit(), context)
    with pytest.raises(SpecError, match=r"simmim: network 'unet' embeds no patches"):
        SimMim(patch=4).check(pool_of(tmp_path / "two", a=2), made("unet"), context)


def test_what_a_pretraining_leaves_starts_a_network_of_other_windows(tmp_path: Path) -> None:
    """By the file, so that the network is the study's own: 6 x 6 windows in pre-training, 7 x 7 in
    tuning, as in the paper."""

    def swin(window: int) -> AnyNetwork:
        arguments = {"embed_dim": 8, "depths": [2, 2], "num_heads": [2, 2], "drop_path": 0.0, "patch_size": 1}
        size = {"image_size": 2 * window, "window_size": window}
        with Seeds(0).everything():
            return build({"build": {"swin": {"in_channels": 1, "outputs": {}, **arguments, **size}}})

    context = a_pretraining(tmp_path / "out")
    (stage,), carry = finished(SimMim(patch=4), pool_of(tmp_path / "images", a=3), swin(6), context)
    file = tmp_path / "out" / stage.unit / "stages" / "pretrained" / "model.safetensors"
    assert file.is_file()
    same, wider = swin(6), swin(7)
    unchanged, resampled = load_weights(same, file), load_weights(wider, file)
    assert not unchanged.reshaped
    assert not unchanged.missing
    assert digest(same) == digest(carry.network)
    tables = [name for name in wider.state_dict() if name.endswith("relative_position_bias_table")]
    assert len(resampled.reshaped) == len(tables) == 4
    assert not resampled.missing
    for name in tables:
        assert wider.state_dict()[name].shape[0] == 13**2
    assert torch.equal(
        wider.state_dict()["encoder.body.layers.0.blocks.0.attn.qkv.weight"],
        carry.network.state_dict()["encoder.body.layers.0.blocks.0.attn.qkv.weight"],
    )
