"""MinEnt: the entropy against loops and another library, weight 0, masks and classes in 2-D and
3-D, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import entropy as scipy_entropy
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import VESSEL, a_context

from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.methods.minent import MinEnt, SourceAndEntropy
from allograft.networks import build
from allograft.parts.entropy import mean_entropies, sigmoid_entropy, softmax_entropy
from allograft.recipe import Scenario
from allograft.tasks.classification import Classification
from allograft.tasks.multilabel import Multilabel
from allograft.tasks.synthesis import Synthesis

CONTRACT = {"options": {"weight": 1.0}}

F64 = torch.float64


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def a_network(outputs: dict[str, int], dims: int = 2) -> Any:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "outputs": outputs, "channels": [4, 8], "num_res_units": 1, "spatial_dims": dims}
    return build({"build": {"unet": arguments}})


# ---------------------------------------------------------- the entropy
@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(1, 3), st.integers(2, 5), st.sampled_from([(3, 2), (2, 2, 2)]))
def test_the_entropy_is_that_of_scipy_pixel_by_pixel(
    seed: int, count: int, classes: int, size: tuple[int, ...]
) -> None:
    logits = 3 * torch.randn(count, classes, *size, generator=rng(seed), dtype=F64)
    expected = scipy_entropy(logits.softmax(1).numpy(), axis=1)
    torch.testing.assert_close(softmax_entropy(logits), torch.from_numpy(expected))
    batch = Batch(torch.zeros(count, 1, *size), torch.zeros(count), ("",) * count)
    result = mean_entropies({"mask": logits}, batch, several=False, share=True)["mask"]
    assert float(result) == pytest.approx(expected.mean() / math.log(classes))


def test_each_class_of_a_multi_label_has_an_entropy_of_its_own() -> None:
    logits = torch.randn(4, 3, generator=rng(), dtype=F64)
    loop = 0.0
    for value in logits.flatten().tolist():
        p = 1 / (1 + math.exp(-value))
        loop -= (p * math.log(p) + (1 - p) * math.log(1 - p)) / logits.numel()
    batch = Batch(torch.zeros(4, 1, 2, 2), torch.zeros(4), ("",) * 4)
    assert float(mean_entropies({"label": logits}, batch, several=True)["label"]) == pytest.approx(loop)
    assert float(mean_entropies({"label": logits}, batch, several=True, share=True)["label"]) == pytest.approx(
        loop / math.log(2)
    )
    one_class = torch.stack([torch.zeros(4, dtype=F64), logits[:, 0]], 1)
    torch.testing.assert_close(sigmoid_entropy(logits[:, :1])[:, 0], softmax_entropy(one_class))


def test_sure_is_0_unsure_is_1_and_nothing_is_not_a_number() -> None:
    batch = Batch(torch.zeros(1, 1, 1, 2), torch.zeros(1), ("",))
    sure = torch.tensor([500.0, -500.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2).clone().requires_grad_()
    result = mean_entropies({"mask": sure}, batch, several=False, share=True)["mask"]
    result.backward()
    assert (float(result.detach()), float(sure.grad.abs().max())) == (0.0, 0.0)
    unsure = mean_entropies({"mask": torch.zeros(1, 7, 1, 2)}, batch, several=False, share=True)["mask"]
    assert float(unsure) == pytest.approx(1.0)


def test_pixels_outside_the_region_do_not_count_and_images_count_alike() -> None:
    logits = torch.randn(3, 2, 4, 4, generator=rng(), dtype=F64)
    region = torch.ones(3, 1, 4, 4, dtype=torch.bool)
    region[0, :, :, :3] = False
    region[2] = False
    batch = Batch(torch.zeros(3, 1, 4, 4), torch.zeros(3), ("",) * 3, region=region)
    entropy = softmax_entropy(logits)
    expected = (entropy[0, :, 3].mean() + entropy[1].mean()) / 2
    torch.testing.assert_close(mean_entropies({"mask": logits}, batch, several=False)["mask"], expected)


# ---------------------------------------------------------- the objective
def pairs(labels: dict[str, Any], dims: int = 2) -> Batch:
    return Batch(torch.rand(4, 1, *(8,) * dims, generator=rng()), torch.tensor([0, 0, 1, 1]), tuple("abcd"), labels)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(
    ("task", "classes", "several"),
    [
        (VESSEL, 2, False),
        (Classification(("no", "yes", "both")), 3, False),
        (Multilabel(("one", "two", "three")), 2, True),
    ],
)
def test_the_loss_is_that_of_the_source_and_the_entropy_of_the_target(
    task: Any, classes: int, several: bool, dims: int
) -> None:
    network = a_network(dict(task.outputs), dims).eval()
    key = task.key
    label = {
        "mask": torch.randint(0, 2, (4, 1, *(8,) * dims), generator=rng()),
        "label": torch.randint(0, 2, (4, 3), generator=rng()).float() if several else torch.tensor([0, 2, 1, 1]),
    }[key]
    batch = pairs({key: label}, dims)
    terms = SourceAndEntropy(task, 0.25)(network, batch)
    plain = task.objective(network, batch[:2])
    logits = network(batch.image[2:])[key]
    entropy = sigmoid_entropy(logits) if several else softmax_entropy(logits)
    assert {name: float(terms[name].detach()) for name in plain} == {
        name: float(value.detach()) for name, value in plain.items()
    }
    torch.testing.assert_close(terms[f"entropy/{key}"], 0.25 * entropy.mean() / math.log(classes))
    # the target's labels are not looked at
    other = pairs({key: torch.cat([label[:2], label[2:].flip(-1) * 0])}, dims)
    assert torch.equal(SourceAndEntropy(task, 0.25)(network, other)[f"entropy/{key}"], terms[f"entropy/{key}"])
    assert float(SourceAndEntropy(task, 0.0)(network, batch)[f"entropy/{key}"]) == 0


def test_a_step_makes_the_target_surer() -> None:
    network = a_network({"mask": 2})
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5)
    batch, result = pairs({"mask": torch.zeros(4, 1, 8, 8, dtype=torch.int64)}), []
    for _ in range(5):
        entropy = SourceAndEntropy(VESSEL, 1.0)(network, batch)["entropy/mask"]
        optimizer.zero_grad()
        entropy.backward()
        optimizer.step()
        result.append(float(entropy.detach()))
    assert result == sorted(result, reverse=True)
    assert result[-1] < result[0] - 0.01


# ---------------------------------------------------------- the recipe
def test_the_papers_weight_is_the_default() -> None:
    assert MinEnt().weight == 1e-3


def test_a_task_without_probabilities_is_refused() -> None:
    context = a_context()
    object.__setattr__(context, "task", Synthesis())
    with pytest.raises(SpecError, match="minent: works on class probabilities, and the task gives paired"):
        next(MinEnt().run(Scenario(), a_network({"mask": 2}), context))


@pytest.mark.parametrize("kind", ["segmentation", "classification"])
def test_a_study_of_masks_and_one_of_classes_run(kind: str, tmp_path: Path) -> None:
    classes = {"cohort": "patches/halves.csv", "task": {"classification": {"classes": ["small", "large"]}}}
    study = classes if kind == "classification" else {}
    budget = {"steps": 1, "adapt_steps": 1, "batch_size": 2}
    recipe = {"minent": {"first": "start"}}
    _, _, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe, budget=budget, **study))
    assert {record.status for record in records.values()} == {"done"}


def test_at_weight_0_the_target_still_enters_batch_statistics() -> None:
    """So that a row at 0 shows what the term adds, and not what normalising over the target does."""
    labels = {"mask": torch.zeros(2, 1, 8, 8, dtype=torch.int64)}
    image = torch.cat([torch.zeros(1, 1, 8, 8), torch.full((1, 1, 8, 8), 9.0)])
    batch = Batch(image, torch.tensor([0, 1]), ("a", "b"), labels)
    network = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "norm": "batch"}}}
    ).train()
    (layer, *_) = (module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d))
    SourceAndEntropy(VESSEL, 0.0)(network, batch)
    assert int(layer.num_batches_tracked) == 2  # a pass of the source, and one of the target
