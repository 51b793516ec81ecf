"""MixCL: its losses against loops, whom it pairs, which pixels it reads, and what it refuses."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.unit.networks.tiny import made
from tests.unit.pretraining import a_pretraining, finished, rng
from tests.unit.tiny import write_photographs, write_rows

from allograft.batch import Batch, collate
from allograft.cohort import Coding, Cohort
from allograft.errors import SpecError
from allograft.methods.mixcl import (
    CLASSES,
    PIXELS,
    MixCl,
    Mixed,
    Sampled,
    boundary_weights,
    identity_loss,
    label_loss,
)
from allograft.networks import reheaded
from allograft.parts.patch_pairs import PatchPairs
from allograft.parts.pool import feature_shapes
from allograft.parts.views import SECOND, UNDISTORTED, Views
from allograft.recipe import Scenario
from allograft.seeds import Seeds
from allograft.transforms.free_form import deform, draw_displacement
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
        "label_weight": 0.5,
        "restoration_weight": 0.5,
        "balance": 0.5,
        "temperature": 1.0,
        "pixels": 5,
        "mu": 1.0,
        "epsilon": 5.0,
        "centred": True,
        "positives": "outside",
        "reduction": "sum",
        "epochs": 1,
        "pool": ["a"],
        "identity_weight": 0.5,
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
    "own_settings": ("augmentation",),
    "marks": (),
}


# ------------------------------------------------------------------ losses
def identity_looped(z: np.ndarray, other: np.ndarray, balance: float) -> float:
    pixels, channels = z.shape
    total = 0.0
    for i in range(channels):
        for j in range(channels):
            product = sum(z[m, i] * other[m, j] for m in range(pixels))
            lengths = math.sqrt(sum(z[m, i] ** 2 for m in range(pixels)) * sum(other[m, j] ** 2 for m in range(pixels)))
            c = product / lengths
            total += (1 - c) ** 2 if i == j else balance * c**2
    return total


def label_looped(z1: Any, labels1: Any, z2: Any, labels2: Any, tau: float) -> tuple[float, float]:
    """Inside and outside, over all pairs of pixels in float64."""
    above = below = 0.0
    outside = []
    for i, a in enumerate(labels1):
        row, positives = 0.0, []
        for j, b in enumerate(labels2):
            if a < 0 or b < 0 or (a == 0 and b == 0):
                continue
            cosine = float(z1[i] @ z2[j] / np.linalg.norm(z1[i]) / np.linalg.norm(z2[j]))
            weight = math.exp(cosine / tau)
            row += weight
            if a == b:
                positives.append(weight)
        above, below = above + sum(positives), below + row
        outside += [-math.log(weight / row) for weight in positives]
    return -math.log(above / below), sum(outside) / len(outside)


def test_identity_is_equation_4_of_two_views() -> None:
    z, other = (torch.randn(11, 4, generator=rng(seed)).double() + 0.4 for seed in (0, 1))
    expected = identity_looped(z.numpy(), other.numpy(), 0.3)
    assert float(identity_loss(z, other, 0.3)) == pytest.approx(expected, rel=1e-5)
    centred = identity_looped((z - z.mean(0)).numpy(), (other - other.mean(0)).numpy(), 0.3)
    assert float(identity_loss(z, other, 0.3, centred=True)) == pytest.approx(centred, rel=1e-5)
    assert expected != pytest.approx(centred, rel=1e-2)
    # the printed formula, with one view in both places and the diagonal in both sums, is another
    assert float(identity_loss(z, z, 0.3)) != pytest.approx(expected, rel=1e-2)
    assert float(identity_loss(z, -other, 0.3)) > expected
    torch.testing.assert_close(identity_loss(z, 7 * other, 0.3), identity_loss(z, other, 0.3))


def test_identity_is_barlow_twins_where_channels_have_no_mean() -> None:
    from monai.losses import BarlowTwinsLoss

    z, other = (torch.randn(40, 5, generator=rng(seed)) for seed in (0, 1))
    z, other = z - z.mean(0), other - other.mean(0)
    # MONAI divides by N where its variance divides by N - 1, and adds 1e-6
    scale = 40 / 39
    theirs = BarlowTwinsLoss(lambd=0.005)(z * math.sqrt(scale), other * math.sqrt(scale))
    ours = identity_loss(z, other, 0.005)
    assert float(ours) == pytest.approx(float(theirs), rel=0.06)


@pytest.mark.parametrize("seed", range(4))
def test_the_label_loss_is_a_loop_over_all_pairs(seed: int) -> None:
    z1, z2 = torch.randn(14, 3, generator=rng(seed)), torch.randn(9, 3, generator=rng(seed + 50))
    labels1 = torch.randint(-1, 4, (14,), generator=rng(seed))
    labels2 = torch.randint(-1, 4, (9,), generator=rng(seed + 7))
    labels1[0], labels2[0] = 2, 2
    labels1[labels1 < 0] = -100
    doubled = z1.double().numpy(), labels1.tolist(), z2.double().numpy(), labels2.tolist()
    inside, outside = label_looped(*doubled, 0.1)
    assert float(label_loss(z1, labels1, z2, labels2, 0.1)) == pytest.approx(inside, rel=1e-4)
    assert float(label_loss(z1, labels1, z2, labels2, 0.1, positives="outside")) == pytest.approx(outside, rel=1e-4)


def test_background_pairs_do_not_count_and_its_pairs_with_labels_are_negative() -> None:
    z = torch.nn.functional.normalize(torch.randn(6, 3, generator=rng()), dim=1)
    labels = torch.tensor([0, 0, 1, 1, 2, -100])
    before = label_loss(z, labels, z, labels, 0.1)
    alone = [0, 2, 3, 4]  # without the second background pixel and the one without a label
    assert float(label_loss(z[alone], labels[alone], z[alone], labels[alone], 0.1)) < float(before)
    kept = [0, 1, 2, 3, 4]
    torch.testing.assert_close(label_loss(z[kept], labels[kept], z[kept], labels[kept], 0.1), before)
    background = torch.zeros(6, dtype=torch.int64)
    assert float(label_loss(z, background, z, background, 0.1)) == 0
    assert float(label_loss(z, labels.clamp(max=0), z, labels, 0.1)) == 0  # no positive pair
    one_label = torch.ones(6, dtype=torch.int64)
    assert float(label_loss(z, one_label, z, one_label, 0.1)) == pytest.approx(0, abs=1e-5)


def test_gradients_pull_positives_together() -> None:
    z1, z2 = torch.eye(2)[:1].clone().requires_grad_(), torch.tensor([[0.6, 0.8], [0.8, -0.6]])
    label_loss(z1, torch.tensor([1]), z2, torch.tensor([1, 0]), 0.1).backward()
    assert z1.grad is not None
    assert z1.grad[0, 1] < 0  # towards the positive


# ------------------------------------------------------------------ which pixels
@settings(derandomize=True, deadline=None, max_examples=20)
@given(st.lists(st.integers(2, 6), min_size=2, max_size=3), st.integers(0, 99))
def test_weights_are_equation_7_of_the_distance_to_another_label(shape: list[int], seed: int) -> None:
    mask = torch.randint(0, 3, shape, generator=rng(seed))
    weights = boundary_weights(mask, mu=3, epsilon=0.1)
    voxels = torch.ones(shape).nonzero()
    for voxel in voxels:
        others = [v for v in voxels if mask[tuple(v)] != mask[tuple(voxel)]]
        distance = min((float((v - voxel).double().norm()) for v in others), default=0.0)
        expected = math.sqrt(distance) * math.exp(-distance / 3) / 2 + 0.1
        assert float(weights[tuple(voxel)]) == pytest.approx(expected)


def test_weights_have_their_maximum_at_half_of_mu_and_leave_unlabelled_pixels_out() -> None:
    line = torch.tensor([[1] * 3 + [0] * 30])
    weights = boundary_weights(line)
    assert int(weights[0, 3:].argmax()) == 3  # a distance of 4
    unlabelled = boundary_weights(torch.tensor([[1, -100, 0]]))
    assert float(unlabelled[0, 1]) == 0
    assert (boundary_weights(torch.ones(3, 3).long()) == 0.05).all()


def case_of(mask: torch.Tensor, seed: int = 0) -> Batch:
    size = mask.shape
    image = torch.rand(1, 1, *size, generator=rng(seed))
    return Batch(image, torch.zeros(1).long(), ("a",), {"mask": mask[None, None]})


def still(pixels: int = 4) -> Sampled:
    return Sampled(Views(Sample(), moved=0, distorted=0), (8, 8), 2, MixCl(pixels=pixels))


def test_pixels_are_of_their_class_on_the_layers_grid_and_all_of_a_small_class_are_taken() -> None:
    mask = torch.zeros(16, 16, dtype=torch.int64)
    mask[2:10, 2:10] = 1
    mask[12:14, 12:14] = 2
    coarse = mask[1::2, 1::2]
    seen = still()(case_of(mask), rng())
    places, classes = seen.attributes[PIXELS][0], seen.attributes[CLASSES][0]
    assert places.shape == classes.shape == (12,)
    assert classes.tolist() == [0] * 4 + [1] * 4 + [2] + [-100] * 3
    known = classes >= 0
    assert torch.equal(coarse.flatten()[places[known]], classes[known])
    assert len(set(places[known].tolist())) == 9
    assert (places[~known] == -100).all()
    assert not seen.labels
    hidden = still()(replace(case_of(mask), labels={}), rng())
    assert (hidden.attributes[CLASSES] == -100).all()


def test_pixels_near_half_of_mu_are_drawn_more_often() -> None:
    mask = torch.zeros(64, 64, dtype=torch.int64)
    mask[:, :3] = 1
    sampled = Sampled(Views(Sample(), moved=0, distorted=0), (64, 64), 1, MixCl(pixels=32))
    columns = [sampled(case_of(mask), rng(seed)).attributes[PIXELS][0, :32] % 64 for seed in range(40)]
    counts = torch.cat(columns).bincount(minlength=64).float()
    assert counts[:3].sum() == 0
    assert counts[3:12].mean() > 3 * counts[40:].mean() > 0


def test_views_move_image_and_mask_alike_and_differ_in_intensity_alone() -> None:
    mask = torch.zeros(32, 32, dtype=torch.int64)
    mask[8:24, 6:20] = 1
    case = replace(case_of(mask), image=mask[None, None].float())
    moved = Views(Sample(), moved=1, distorted=0)(case, rng(3))
    inside = moved.labels["mask"] == 1
    assert torch.equal(moved.image, moved.views[SECOND])
    assert torch.equal(moved.image, moved.views[UNDISTORTED])
    assert not torch.equal(moved.image, case.image)
    assert (moved.image[inside] > 0.4).float().mean() > 0.95
    assert (moved.image[moved.labels["mask"] == 0] < 0.6).float().mean() > 0.95
    for seed in range(5):
        distorted = Views(Sample(), moved=0, distorted=1)(case_of(mask), rng(seed))
        assert torch.equal(distorted.views[UNDISTORTED], case_of(mask).image)
        assert not torch.equal(distorted.image, distorted.views[SECOND])
        assert torch.equal(distorted.labels["mask"], mask[None, None])


def test_no_displacement_changes_nothing_and_a_constant_one_shifts() -> None:
    for shape in ((6, 7), (5, 6, 4)):
        image = torch.rand(2, *shape, generator=rng())
        labels = {"mask": torch.randint(0, 3, (1, *shape), generator=rng())}
        zero = torch.zeros(len(shape), *(3,) * len(shape))
        same, kept = deform(image, labels, zero)
        torch.testing.assert_close(same, image)
        assert torch.equal(kept["mask"], labels["mask"])
        shift = zero.clone()
        shift[0] = 1
        moved, moved_labels = deform(image, labels, shift)
        torch.testing.assert_close(moved[:, :-1], image[:, 1:])
        assert torch.equal(moved_labels["mask"][:, :-1], labels["mask"][:, 1:])
    drawn = torch.stack([draw_displacement((40, 80), rng(seed)) for seed in range(300)])
    assert drawn[:, 0].std() == pytest.approx(2, rel=0.1)
    assert drawn[:, 1].std() == pytest.approx(4, rel=0.1)


# ------------------------------------------------------------------ pairs
def two_datasets(folder: Path) -> tuple[Cohort, ...]:
    """One has the class "square", the other the class "bar", and one image without a mask; of the
    first, two sites."""
    first = Cohort.read(write_photographs(folder / "first", {"a": 2, "b": 2}), Coding({"square": (1,), "bar": ()}))
    manifest = write_photographs(folder / "second", {"c": 3})
    rows = [
        {"image": f"c{n}.png", "mask": "" if n == 2 else f"c{n}-mask.png", "subject": f"c{n}", "site": "c"}
        for n in range(3)
    ]
    for n in range(2):
        bar = np.zeros((16, 16), np.uint8)
        bar[4:8, 2:14] = 2
        Image.fromarray(bar).save(folder / "second" / f"c{n}-mask.png")
    write_rows(manifest, rows)
    second = Cohort.read(manifest, Coding({"square": (), "bar": (2,)}))
    return first.site("a"), first.site("b"), second


def test_both_patches_are_of_one_data_set_and_of_one_image_half_of_the_time(tmp_path: Path) -> None:
    pool = two_datasets(tmp_path)
    order = PatchPairs(pool, 2, Seeds(0))
    assert [len(items) for items in order.datasets] == [4, 3]
    same, firsts = 0, []
    for step in range(200):
        keys = order(step)
        assert len(keys) == 4
        for first, second in (keys[:2], keys[2:]):
            assert {first[0], second[0]} <= {0, 1} or {first[0], second[0]} == {2}
            same += first[:2] == second[:2]
            firsts.append(first[:2])
            assert first[2] != second[2]
    assert 160 < same < 240
    # data sets take turns, and each image comes as often as P1
    assert all((first[0] == 2) == bool(number % 2) for number, first in enumerate(firsts))
    counts = {item: firsts.count(item) for item in firsts}
    assert {counts[item] for item in order.datasets[0]} == {50}


def test_processes_share_the_pairs_of_one(tmp_path: Path) -> None:
    pool = two_datasets(tmp_path)
    alone, together = PatchPairs(pool, 4, Seeds(0)), PatchPairs(pool, 4, Seeds(0), world=2)
    for step in range(5):
        whole, shares = alone(step), [together(step)[rank::2] for rank in range(2)]
        pairs = {(whole[n], whole[n + 1]) for n in range(0, 8, 2)}
        assert {(share[n], share[n + 1]) for share in shares for n in range(0, 4, 2)} == pairs
    with pytest.raises(SpecError, match="batch_size 3 pairs cannot be divided among 2 processes"):
        PatchPairs(pool, 3, Seeds(0), world=2)


# ------------------------------------------------------------------ the whole
def test_the_objective_reads_the_second_level_and_restores_the_undistorted_patch(tmp_path: Path) -> None:
    recipe = MixCl(label_weight=0.5, restoration_weight=2.0, pixels=6, identity_weight=3.0)
    network, _ = reheaded(made("unetr"), {"paired": 1})
    network.train()
    shapes = feature_shapes(network, (1, 1, 16, 16))
    with Seeds(0).everything():
        objective = Mixed([shape[1] for shape in shapes], 2, recipe)
    pool = two_datasets(tmp_path)
    transform = Sampled(Views(Sample()), tuple(shapes[1][2:]), 2, recipe)
    cases = [transform(pool[0].case(n % 2), rng(n)) for n in range(4)]
    batch = collate(cases)
    terms = objective(network, batch)

    def projected(image: torch.Tensor) -> list[torch.Tensor]:
        return [
            layer(feature).flatten(2).mT[0]
            for layer, feature in zip(objective.projectors, network.encoder(image), strict=True)
        ]

    identity, label, restoration = [], [], []
    for n in (0, 2):
        first, second, other = (
            projected(cases[n].image),
            projected(cases[n].views[SECOND]),
            projected(cases[n + 1].image),
        )
        identity.append(sum(identity_loss(a, b, 0.005) for a, b in zip(first, second, strict=True)))
        taken = [case.attributes[PIXELS][0] for case in cases[n : n + 2]]
        known = [case.attributes[CLASSES][0] for case in cases[n : n + 2]]
        label.append(
            label_loss(first[1][taken[0].clamp_min(0)], known[0], other[1][taken[1].clamp_min(0)], known[1], 0.1)
        )
    views = [(c.image, c.views[UNDISTORTED]) for c in cases]
    views += [(c.views[SECOND], c.views[UNDISTORTED]) for c in cases[::2]]
    restoration = [(network(view)["paired"] - clean).square().mean() for view, clean in views]
    torch.testing.assert_close(terms["identity"], 3 * sum(identity) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["label"], 0.5 * sum(label) / 2, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(terms["restoration"], 2 * sum(restoration) / 6, rtol=1e-4, atol=1e-5)
    assert set(Mixed([4, 8, 16, 32, 12], 2, MixCl(label_weight=0))(network, batch)) == {"identity", "restoration"}
    assert set(Mixed([4, 8, 16, 32, 12], 2, MixCl(restoration_weight=0))(network, batch)) == {"identity", "label"}
    alone = Mixed([4, 8, 16, 32, 12], 2, MixCl(identity_weight=0, restoration_weight=0))(network, batch)
    assert set(alone) == {"label"}
    with pytest.raises(SpecError, match="mixcl: all three weights are 0"):
        MixCl(identity_weight=0, label_weight=0, restoration_weight=0)
    layers = [type(layer).__name__ for layer in objective.projectors[1]]  # type: ignore[arg-type]
    assert layers == ["Conv2d", "GroupNorm", "ReLU", "Conv2d", "GroupNorm", "ReLU", "Conv2d"]
    assert [objective.projectors[1][n].out_channels for n in (0, 3, 6)] == [8, 8, 16]  # type: ignore[index]


def test_projectors_of_volumes_are_of_volumes() -> None:
    feature = torch.rand(1, 4, 3, 3, 3, generator=rng())
    assert Mixed([4], 3, MixCl()).projectors[0](feature).shape == (1, 8, 3, 3, 3)


def test_the_encoder_alone_is_carried_over(tmp_path: Path) -> None:
    pool = two_datasets(tmp_path / "images")
    scenario = Scenario(pool=pool, sites=("a", "b", "c"))
    network, _ = reheaded(made("unetr"), {})
    stages, carry = finished(MixCl(pixels=4), scenario, network, a_pretraining(tmp_path / "out"))  # type: ignore[arg-type]
    (stage,) = stages
    assert stage.predictor is None
    assert stage.facts["datasets"] == 2
    assert {"identity", "label", "restoration"} <= set(stage.facts)
    before, after = network.state_dict(), carry.network.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if not name.startswith("encoder."))
    moved = [name for name in before if name.startswith("encoder.") and not torch.equal(before[name], after[name])]
    assert len(moved) > 0.8 * sum(name.startswith("encoder.") for name in before)


def test_bad_input_is_refused_and_a_small_class_is_warned_of(tmp_path: Path) -> None:
    context, pool = a_pretraining(tmp_path / "out"), two_datasets(tmp_path / "images")
    scenario, network = Scenario(pool=pool, sites=("a", "b", "c")), made("unetr")
    MixCl(pixels=4).check(scenario, network, context)
    with pytest.warns(UserWarning, match=r"class 'square' has at most \d+ pixels in an image, fewer than the 64"):
        MixCl().check(replace(scenario, pool=pool[:2]), network, context)
    bare = replace(scenario, pool=(*pool[:2], pool[2].unlabelled()))
    with pytest.raises(SpecError, match=r"mixcl: c: no image has a mask; drop it from pool, or add its masks"):
        MixCl(pixels=4).check(bare, network, context)
    with pytest.raises(SpecError, match="mixcl: the pool has one image"):
        MixCl().check(replace(scenario, pool=(pool[0].of(["a0"]),)), network, context)
    with pytest.raises(SpecError, match="network vit"):
        MixCl(pixels=4).check(scenario, made("vit"), context)
