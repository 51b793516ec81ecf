"""POPAR: patches and their order, both losses, its sub-tasks, and what it refuses."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.unit.networks.tiny import images, made
from tests.unit.pretraining import a_pretraining, pool_of, rng, vit

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.methods.popar import (
    CLEAN,
    ORDER,
    Distorted,
    OrderAndAppearance,
    Popar,
    permute_patches,
    popar_loss,
    popar_terms,
)
from allograft.parts.patches import from_patches, in_patches, permutations, pixels_of
from allograft.seeds import Seeds
from allograft.transforms.genesis import Genesis
from allograft.transforms.sample import Sample

CONTRACT = {
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
    "options": {
        "order_weight": 0.9,
        "tasks": "order",
        "reduction": "paper",
        "mix_channels": True,
        "epochs": 1,
        "pool": ["a"],
    },
    "under": {
        "mix_channels": {
            "arguments": {"tasks": "distorted"},
            "study": {
                "cohort": "patches/manifest.csv",
                "pool": ["a", "d", "b"],
                "task": {"classification": {"classes": ["small", "large"]}},
            },
        }
    },
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


@settings(derandomize=True, deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=3), st.integers(1, 3), st.integers(0, 99))
def test_patches_come_back_and_a_permutation_is_undone_by_its_inverse(grid: list[int], patch: int, seed: int) -> None:
    image = torch.randn(2, 3, *(side * patch for side in grid), generator=rng(seed))
    assert torch.equal(from_patches(in_patches(image, patch), grid), image)
    order = permutations(2, math.prod(grid), rng(seed))
    assert torch.equal(permute_patches(permute_patches(image, order, patch), order.argsort(1), patch), image)
    alone = [permute_patches(image[b : b + 1], order[b], patch) for b in range(2)]
    assert torch.equal(permute_patches(image, order, patch), torch.cat(alone))


def test_the_identity_changes_nothing() -> None:
    image = torch.randn(2, 1, 8, 12, generator=rng())
    assert torch.equal(permute_patches(image, torch.arange(6), 4), image)


@pytest.mark.parametrize("shape", [(8, 12), (4, 8, 4)])
def test_position_l_holds_the_patch_of_its_label(shape: tuple[int, ...]) -> None:
    image = torch.randn(1, 2, *shape, generator=rng())
    grid = [side // 4 for side in shape]
    (order,) = permutations(1, math.prod(grid), rng(1))
    shuffled = permute_patches(image, order, 4)
    cells = list(torch.ones(grid).nonzero().tolist())
    for position, cell in enumerate(cells):
        source = cells[int(order[position])]
        here = tuple(slice(4 * c, 4 * c + 4) for c in cell)
        there = tuple(slice(4 * c, 4 * c + 4) for c in source)
        assert torch.equal(shuffled[(0, slice(None), *here)], image[(0, slice(None), *there)])


def test_pixels_of_a_linear_layer_are_channels_first_in_row_major_order() -> None:
    values = torch.arange(2 * 3 * 4 * 2.0).view(1, 24, 2, 1)  # 6 channels, patches of 2 x 2
    pixels = pixels_of(values, 2)
    assert pixels.shape == (1, 6, 4, 2)
    for channel in range(6):
        for row in range(4):
            for column in range(2):
                inside = channel * 4 + (row % 2) * 2 + column % 2
                assert pixels[0, channel, row, column] == values[0, inside, row // 2, column // 2]


def test_the_loss_is_the_papers_sum_and_the_released_mean() -> None:
    logits, order = torch.randn(2, 4, 4, generator=rng()).double(), permutations(2, 4, rng(1))
    image, restored = (torch.randn(2, 3, 4, 4, generator=rng(seed)).double() for seed in (2, 3))
    entropy, squares = 0.0, 0.0
    for b in range(2):
        for position in range(4):
            shares = torch.exp(logits[b, position]) / torch.exp(logits[b, position]).sum()
            entropy -= math.log(float(shares[order[b, position]]))
        for difference in (restored[b] - image[b]).flatten().tolist():
            squares += difference**2
    expected = {"paper": (entropy / 2, squares / 2), "released": (entropy / 8, squares / 96)}
    for reduction, (first, second) in expected.items():
        terms = popar_terms(logits, order, restored, image, reduction)  # type: ignore[arg-type]
        assert [float(term) for term in terms] == pytest.approx([first, second])
        loss = popar_loss(logits, order, restored, image, 0.3, reduction=reduction)  # type: ignore[arg-type]
        assert float(loss) == pytest.approx(0.3 * first + 0.7 * second)
    assert float(popar_loss(logits, order, restored, image, 0.5)) == pytest.approx(sum(expected["paper"]) / 2)


def sampled(shuffled: float, seed: int, size: int = 32) -> tuple[Batch, Batch]:
    case = Batch(torch.rand(1, 1, size, size, generator=rng(9)), torch.zeros(1).long(), ("a",))
    return case, Distorted(Sample(), 8, Genesis(shuffle=1.0), shuffled)(case, rng(seed))


def test_a_sample_is_shuffled_or_distorted_and_never_both() -> None:
    kinds = []
    for seed in range(60):
        case, made_of = sampled(0.5, seed)
        order = made_of.attributes[ORDER]
        assert torch.equal(made_of.views[CLEAN], case.image)
        in_order = torch.equal(order, torch.arange(16)[None])
        kinds.append(in_order)
        if in_order:
            assert not torch.equal(made_of.image, case.image)
        else:
            assert torch.equal(made_of.image, permute_patches(case.image, order, 8))
    assert 18 < sum(kinds) < 42
    for seed in range(5):
        assert not torch.equal(sampled(1.0, seed)[1].attributes[ORDER], torch.arange(16)[None])
        assert torch.equal(sampled(0.0, seed)[1].attributes[ORDER], torch.arange(16)[None])


@pytest.mark.parametrize(
    ("tasks", "share", "weights"),
    [
        ("all", 0.5, {"order": 0.3, "restoration": 0.7}),
        ("order", 1.0, {"order": 1.0}),
        ("order_misplaced", 1.0, {"order": 0.3, "restoration": 0.7}),
        ("distorted", 0.0, {"restoration": 1.0}),
    ],
)
def test_each_sub_task_has_its_images_and_its_terms(tasks: Any, share: float, weights: dict[str, float]) -> None:
    recipe, network, image = Popar(0.3, tasks), made("vit").eval(), images("vit")[:, :, :12, :16].clone()
    assert recipe.shuffled_share == share
    with Seeds(0).everything():
        objective = OrderAndAppearance(network, 12, 1, 2, recipe)
    order = permutations(2, 12, rng())
    batch = Batch(image, torch.zeros(2).long(), ("a", "b"), attributes={ORDER: order}, views={CLEAN: image + 1})
    terms = objective(network, batch)
    feature = network.encoder(image)[-1]
    logits = torch.stack([objective.order(feature)[:, :, row, column] for row in range(3) for column in range(4)], 1)
    restored = pixels_of(objective.appearance(feature), 4)
    plain = dict(
        zip(("order", "restoration"), popar_terms(logits, order, restored, image + 1, "released"), strict=True)
    )
    assert set(terms) == set(weights)
    for name, weight in weights.items():
        torch.testing.assert_close(terms[name], weight * plain[name])


def test_an_image_is_shown_as_what_was_done_to_it() -> None:
    network, image = made("vit").eval(), images("vit")[:1, :, :8, :8].clone()
    objective = OrderAndAppearance(network, 4, 1, 2, Popar())
    for order, word in ((torch.arange(4)[None], "distorted"), (torch.tensor([[1, 0, 2, 3]]), "shuffled")):
        batch = Batch(image, torch.zeros(1).long(), ("a",), attributes={ORDER: order}, views={CLEAN: image + 1})
        with torch.no_grad():
            shown = objective.pictures(network, batch)
        assert list(shown) == [word, "restored", "true"]
        assert torch.equal(shown[word], image)
        assert torch.equal(shown["true"], image + 1)


@pytest.mark.parametrize(
    ("size", "patch", "expected"), [(224, 16, 196), (448, 32, 196), (224, 32, 49)]
)  # ViT, Swin, and Swin where Table 1 prints 47
def test_patch_counts_are_the_papers(size: int, patch: int, expected: int) -> None:
    assert (size // patch) ** 2 == expected
    assert in_patches(torch.zeros(1, 1, size, size), patch).shape[1] == expected


def test_bad_input_is_refused_and_sums_are_warned_of(tmp_path: Path) -> None:
    context, scenario = a_pretraining(tmp_path / "out"), pool_of(tmp_path / "images", a=3)
    Popar().check(scenario, vit(), context)
    with pytest.raises(SpecError, match=r"popar: network 'resnet' embeds no patches"):
        Popar().check(scenario, made("resnet"), context)
    with pytest.raises(SpecError, match=r"samples of 16x16 \('a0.png'\) are smaller than a patch of 32"):
        Popar().check(scenario, vit(patch_size=32, image_size=32), context)
    with pytest.raises(SpecError, match=r"samples of 16x16 \('a0.png'\) cannot be cut into patches of 12"):
        Popar().check(scenario, vit(patch_size=12, image_size=24), context)
    with pytest.raises(SpecError, match=r"popar: samples of 16x16 are one patch of 16 pixels, which has no order"):
        Popar().check(scenario, vit(patch_size=16), context)
    with pytest.raises(SpecError, match=r"popar: the pool has one image"):
        Popar().check(pool_of(tmp_path / "single", a=1), vit(), context)
    with pytest.warns(UserWarning, match="reduction 'paper' sums over patches and pixels"):
        Popar(reduction="paper").check(scenario, vit(), context)
    with pytest.raises(SpecError, match=r"permute_patches: 3 positions for images of \(8, 8\) in patches of 4"):
        permute_patches(torch.zeros(1, 1, 8, 8), torch.arange(3), 4)
