"""Unlearning: its losses, each method's steps against a loop written from the equations, and
strength 0 = plain training."""

from __future__ import annotations

import copy
import math
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.directly import Left, left_by
from tests.contract.world import row_of, session_of, write_cohort
from tests.unit.tiny import VESSEL, a_context, read, write_photographs, write_rows
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Budget
from allograft.errors import SpecError
from allograft.methods.supervised import Supervised
from allograft.methods.unlearning import (
    Group,
    SecondaryHead,
    Unlearning,
    UnlearningStep,
    class_weights,
    confusion_loss,
    groups_of,
    negative_conditional_entropy,
    pooled,
    reverse_gradient,
)
from allograft.networks import build
from allograft.networks.network import Wrapped
from allograft.nn.adversarial import weighted_cross_entropy
from allograft.recipe import Scenario
from allograft.run.fabric import local_fabric
from allograft.study.plan import scenario_of

CONTRACT = {
    "arguments": {"attributes": ["scanner"]},
    "options": {
        "method": "clgr",
        "attributes": ["site"],
        "strength": 0.5,
        "reversal": 0.5,
        "entropy": 1.0,
        "confusion": 1.0,
        "head_lr": 0.5,
        "encoder_lr": 0.5,
        "hidden": 3,
        "variant": "released",
    },
    "under": {"confusion": {"arguments": {"method": "tabe"}}},
    "own_optimizers": True,
    "averages": True,
}

METHODS = ["lntl", "tabe", "clgr"]


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------- primitives
@pytest.mark.parametrize("strength", [0.0, 0.1, 2.5])
def test_the_reversed_gradient_is_minus_lambda_times_the_gradient(strength: float) -> None:
    x = torch.randn(4, 3, generator=rng(), dtype=torch.float64, requires_grad=True)
    plain = torch.autograd.grad((x**3).sum(), x)[0]
    turned = reverse_gradient(x, strength)
    assert torch.equal(turned, x)
    torch.testing.assert_close(torch.autograd.grad((turned**3).sum(), x)[0], -strength * plain)


def test_confusion_and_entropy_are_those_of_loops() -> None:
    logits = torch.randn(6, 4, generator=rng(), dtype=torch.float64)
    confusion = entropy = 0.0
    for row in logits.tolist():
        total = sum(math.exp(value) for value in row)
        chances = [math.exp(value) / total for value in row]
        confusion -= sum(math.log(p) / 4 for p in chances) / 6
        entropy += sum(p * math.log(p) for p in chances) / 6
    assert float(confusion_loss(logits)) == pytest.approx(confusion)
    assert float(negative_conditional_entropy(logits)) == pytest.approx(entropy)


def test_both_are_least_where_the_head_knows_nothing() -> None:
    nothing, sure = torch.zeros(2, 5), torch.tensor([[500.0, 0, 0, 0, 0]] * 2)
    assert float(confusion_loss(nothing)) == pytest.approx(math.log(5))
    assert float(confusion_loss(sure)) > math.log(5)
    assert float(negative_conditional_entropy(nothing)) == pytest.approx(-math.log(5))
    assert float(negative_conditional_entropy(sure)) == 0


def test_gradients_of_the_losses() -> None:
    logits = torch.randn(3, 4, generator=rng(), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(confusion_loss, logits)
    assert torch.autograd.gradcheck(negative_conditional_entropy, logits)


def test_class_weights_are_the_inverse_of_the_counts() -> None:
    assert class_weights(torch.tensor([10, 30, 60])).tolist() == pytest.approx([6 / 9, 2 / 9, 1 / 9])
    with pytest.raises(SpecError, match="no case"):
        class_weights(torch.tensor([1, 0]))


def test_cases_without_the_attribute_do_not_count() -> None:
    logits, weight = torch.randn(5, 3, generator=rng()), torch.tensor([0.2, 0.3, 0.5])
    target = torch.tensor([0, -100, 2, 1, -100])
    known = target >= 0
    expected = nn.functional.cross_entropy(logits[known], target[known], weight=weight)
    torch.testing.assert_close(weighted_cross_entropy(logits, target, weight), expected)
    assert float(weighted_cross_entropy(logits, torch.full((5,), -100), weight)) == 0


# ---------------------------------------------------------- steps
class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(6, 5), nn.Tanh())
        self.head = nn.Linear(5, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))[:, 0]


def squared(network: Tiny, batch: Batch) -> dict[str, Tensor]:
    return {"squared": ((network(batch.image) - batch.labels["label"]) ** 2).mean()}  # type: ignore[operator]


def tiny_step(recipe: Unlearning, **changes: Any) -> UnlearningStep:
    torch.manual_seed(0)
    network = Tiny().double()
    heads = nn.ModuleList([SecondaryHead(5, Group("tone", (0, 1, 2), (4, 2, 2)), recipe.hidden).double()])
    return UnlearningStep(
        network,
        heads,
        squared,
        torch.optim.SGD(network.parameters(), lr=0.1),
        torch.optim.SGD(heads.parameters(), lr=0.5),
        torch.optim.SGD(network.encoder.parameters(), lr=0.3) if recipe.reverses else None,
        local_fabric(accelerator="cpu"),
        recipe,
        **changes,
    )


def tiny_batch() -> Batch:
    image, label = (
        torch.randn(8, 6, generator=rng(1), dtype=torch.float64),
        torch.randn(8, generator=rng(2), dtype=torch.float64),
    )
    return Batch(image, torch.zeros(8), ("",) * 8, {"label": label}, {"tone": torch.tensor([0, 1, 2, 0, 0, 1, 2, 0])})


def by_hand(recipe: Unlearning, batch: Batch, steps: int) -> list[Tensor]:
    """Plain gradient descent on the paper's losses, term by term, with no optimizer and no reversal
    layer."""
    step = tiny_step(recipe)
    p = [q.detach().clone() for q in (*step.network.parameters(), *step.heads.parameters())]
    weight = torch.tensor([1 / 4, 1 / 2, 1 / 2], dtype=torch.float64)
    target = batch.attributes["tone"]
    for _ in range(steps):

        def secondary(We: Tensor, be: Tensor, Wa: Tensor, ba: Tensor) -> Tensor:
            chances = ((batch.image @ We.T + be).tanh() @ Wa.T + ba).softmax(1)
            each = -chances[torch.arange(8), target].log() * weight[target]
            return each.sum() / weight[target].sum()

        def primary(We: Tensor, be: Tensor, Wc: Tensor, bc: Tensor, Wa: Tensor, ba: Tensor) -> Tensor:
            feature = (batch.image @ We.T + be).tanh()
            loss = (((feature @ Wc.T + bc)[:, 0] - batch.labels["label"]) ** 2).mean()  # type: ignore[operator]
            chances = (feature @ Wa.T + ba).softmax(1)
            if recipe.method == "lntl":
                return loss + 0.01 * (chances * chances.log()).sum(1).mean()
            return loss + 0.03 * -(chances.log() / 3).sum(1).mean()

        gradients = torch.func.grad(secondary, argnums=(0, 1, 2, 3))(p[0], p[1], p[4], p[5])
        if recipe.method != "tabe":  # the encoder climbs, a tenth as fast
            p[0], p[1] = p[0] + 0.3 * 0.1 * gradients[0], p[1] + 0.3 * 0.1 * gradients[1]
        p[4], p[5] = p[4] - 0.5 * gradients[2], p[5] - 0.5 * gradients[3]
        moves = torch.func.grad(primary, argnums=(0, 1, 2, 3))(*p)
        p[:4] = [q - 0.1 * move for q, move in zip(p[:4], moves, strict=True)]
    return p


@pytest.mark.parametrize("method", METHODS)
def test_each_method_is_descent_on_the_papers_losses(method: Any) -> None:
    recipe, batch = Unlearning(method=method, attributes=("tone",)), tiny_batch()
    step = tiny_step(recipe)
    for _ in range(3):
        step(batch)
    for found, expected in zip(
        (*step.network.parameters(), *step.heads.parameters()), by_hand(recipe, batch, 3), strict=True
    ):
        torch.testing.assert_close(found.detach(), expected)


@pytest.mark.parametrize("method", METHODS)
def test_several_attributes_have_a_head_each_and_their_losses_are_added(method: Any) -> None:
    """Two attributes, of three values and of two, against one step of descent on the sums of their
    losses."""
    recipe, batch = Unlearning(method=method, attributes=("tone", "scanner")), tiny_batch()
    batch.attributes["scanner"] = torch.tensor([1, 0, 0, -100, 1, 0, 1, 0])  # type: ignore[index]
    step = tiny_step(recipe)
    step.heads.append(SecondaryHead(5, Group("scanner", (0, 1), (4, 3))).double())
    step.head_optimizer = torch.optim.SGD(step.heads.parameters(), lr=0.5)
    twin = copy.deepcopy((step.network, step.heads))
    step(batch)
    network, heads = twin
    weights = [torch.tensor(w, dtype=torch.float64) for w in ([1 / 4, 1 / 2, 1 / 2], [1 / 4, 1 / 3])]
    codes = [batch.attributes["tone"], batch.attributes["scanner"]]
    feature = network.encoder(batch.image)
    total = torch.zeros((), dtype=torch.float64)
    for head, weight, code in zip(heads, weights, codes, strict=True):
        known = code >= 0
        each = -head(feature).softmax(1)[known, code[known]].log() * weight[code[known]]
        total = total + each.sum() / weight[code[known]].sum()
    theirs, ours = [*network.encoder.parameters()], [*heads.parameters()]
    gradients = torch.autograd.grad(total, [*theirs, *ours])
    climb = 0 if method == "tabe" else 0.3 * 0.1
    with torch.no_grad():
        for p, gradient, rate in zip([*theirs, *ours], gradients, [climb] * 2 + [-0.5] * 4, strict=True):
            p += rate * gradient
    feature = network.encoder(batch.image)
    loss = ((network.head(feature)[:, 0] - batch.labels["label"]) ** 2).mean()
    for head in heads:
        chances = head(feature).softmax(1)
        if method == "lntl":
            loss = loss + 0.01 * (chances * chances.log()).sum(1).mean()
        else:
            loss = loss - 0.03 * chances.log().mean(1).mean()
    moves = torch.autograd.grad(loss, [*network.parameters()])
    expected = [*(p - 0.1 * move for p, move in zip(network.parameters(), moves, strict=True)), *ours]
    for found, other in zip((*step.network.parameters(), *step.heads.parameters()), expected, strict=True):
        torch.testing.assert_close(found.detach(), other.detach())


@pytest.mark.parametrize("method", METHODS)
def test_without_reversal_the_secondary_loss_leaves_the_encoder_alone(method: Any) -> None:
    recipe = Unlearning(method=method, attributes=("tone",), reversal=0, entropy=0, confusion=0)
    step, batch = tiny_step(recipe), tiny_batch()
    alone, head = tiny_step(recipe), step.heads[0].layers[0].weight.detach().clone()
    for _ in range(3):
        step(batch)
        alone.optimizer.zero_grad()
        sum(squared(alone.network, batch).values()).backward()  # type: ignore[union-attr]
        alone.optimizer.step()
    for one, other in zip(step.network.parameters(), alone.network.parameters(), strict=True):
        assert torch.equal(one, other)
    assert not torch.equal(step.heads[0].layers[0].weight, head)


def test_the_released_tabe_without_reversal_learns_to_predict_the_attribute() -> None:
    recipe, batch = Unlearning(method="tabe", attributes=("tone",), variant="released", confusion=0), tiny_batch()
    step = tiny_step(recipe)
    step.encoder_optimizer = torch.optim.SGD(step.network.encoder.parameters(), lr=0.0)
    step.head_optimizer = torch.optim.SGD(step.heads.parameters(), lr=0.0)
    step.objective = lambda network, batch: {"nothing": 0 * network(batch.image).sum()}
    losses = [float(step(batch)["secondary/tone"]) for _ in range(20)]
    assert losses[-1] < losses[0] - 0.01  # only the encoder can move


def test_a_two_layer_head_and_a_batch_of_one() -> None:
    step = tiny_step(Unlearning(method="clgr", attributes=("tone",), hidden=7))
    assert [type(layer).__name__ for layer in step.heads[0].layers] == ["Linear", "ReLU", "Linear"]
    batch = tiny_batch()
    one = Batch(
        batch.image[:1], batch.site[:1], ("",), {"label": batch.labels["label"][:1]}, {"tone": torch.tensor([-100])}
    )  # type: ignore[index]
    terms = step(one)
    assert float(terms["secondary/tone"]) == 0
    assert all(value.isfinite() for value in terms.values())


def test_the_networks_gradients_are_clipped() -> None:
    recipe = Unlearning(method="tabe", attributes=("tone",))
    step = tiny_step(recipe, clip=1e-3)
    before = [p.detach().clone() for p in step.network.parameters()]
    step(tiny_batch())
    moved = sum(((p.detach() - q) ** 2).sum() for p, q in zip(step.network.parameters(), before, strict=True))
    assert float(moved) ** 0.5 == pytest.approx(0.1 * 1e-3, rel=1e-3)


# ---------------------------------------------------------- recipe
@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    """Two sites; a tone of 1, 2 or none, a scanner, a constant, a weight that is a measurement."""
    folder = tmp_path_factory.mktemp("cohort")
    lines = write_photographs(folder, {"a": 4, "b": 3}).read_text().splitlines()
    rows = []
    for number, line in enumerate(lines[1:]):
        row = dict(zip(lines[0].split(","), line.split(","), strict=True))
        tone, scanner = ("1", "2", "")[number % 3], ("old", "new")[number % 2]
        rows.append({**row, "tone": tone, "scanner": scanner, "same": "x"})
    return read(write_rows(folder / "manifest.csv", rows))


def scenario(cohort: Cohort) -> Scenario:
    return Scenario(source=(cohort,), sites=cohort.sites)


def a_network(**arguments: Any) -> Any:
    torch.manual_seed(3)
    return build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], **arguments}}})


def finished(run: Generator[Any, None, Any]) -> Any:
    while True:
        try:
            next(run)
        except StopIteration as stop:
            return stop.value


SETTINGS: list[dict[str, Any]] = [
    {},
    {"schedule": {"cosine": {}}, "clip": 0.5, "optimizer": {"sgd": {"lr": 0.1, "momentum": 0.9}}},
    {"schedule": {"plateau": {"every": 1, "patience": 0}}},
]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", ["paper", "released"])
@pytest.mark.parametrize("settings", SETTINGS, ids=["adam", "cosine, clipped", "plateau"])
def test_strength_zero_is_plain_training_bit_for_bit(
    method: Any, variant: Any, settings: dict[str, Any], cohort: Cohort
) -> None:
    """In a study too, where each recipe draws for itself; with dropout and running statistics,
    which a second pass would disturb."""
    network = {"norm": "batch", "dropout": 0.3}
    plain = finished(a_context(**settings).run(Supervised(), scenario(cohort), a_network(**network))).network
    recipe = Unlearning(method, ("site", "tone", "scanner"), strength=0, variant=variant)
    found = finished(a_context(**settings).run(recipe, scenario(cohort), a_network(**network))).network
    for (name, one), other in zip(plain.state_dict().items(), found.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_every_method_moves_the_encoder_elsewhere(method: Any, variant: Any, cohort: Cohort) -> None:
    plain = finished(Supervised().run(scenario(cohort), a_network(), a_context())).network
    found = finished(
        Unlearning(method, ("scanner",), variant=variant).run(scenario(cohort), a_network(), a_context())
    ).network
    assert any(
        not torch.equal(p, q) for p, q in zip(plain.encoder.parameters(), found.encoder.parameters(), strict=True)
    )


def a_step(cohort: Cohort, recipe: Unlearning, **settings: Any) -> UnlearningStep:
    """The step as the recipe makes it."""
    network = a_network()
    heads = nn.ModuleList(SecondaryHead(8, groups_of((cohort,), name)) for name in recipe.attributes)
    return recipe.step(network, heads, a_context(**settings), 3)


def parameters(optimizer: torch.optim.Optimizer) -> set[int]:
    return {id(p) for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_at_strength_zero_the_encoder_is_in_no_auxiliary_optimizer_and_features_are_detached(
    method: Any, variant: Any, cohort: Cohort
) -> None:
    step = a_step(cohort, Unlearning(method, ("scanner",), strength=0, variant=variant))
    assert step.encoder_optimizer is None
    assert parameters(step.head_optimizer) == {id(p) for p in step.heads.parameters()}
    shown: list[Tensor] = []
    step.heads[0].register_forward_pre_hook(lambda _module, inputs: shown.append(inputs[0]))
    step(next(a_context().loader((cohort,), "source")(0)))
    assert [one.requires_grad for one in shown] == [False]


@pytest.mark.parametrize("method", METHODS)
def test_the_papers_settings_are_the_defaults(method: Any, cohort: Cohort) -> None:
    recipe = Unlearning(method, ("scanner",))
    step = a_step(cohort, recipe)
    assert (recipe.entropy, recipe.confusion, recipe.reverses) == (0.01, 0.03, 0.0 if method == "tabe" else 0.1)
    assert type(step.head_optimizer) is torch.optim.SGD
    (heads,) = step.head_optimizer.param_groups
    assert (heads["lr"], heads["momentum"], heads["weight_decay"]) == (3e-4 if method == "lntl" else 3e-3, 0.9, 0)
    if method == "tabe":  # L_s updates its head only
        assert step.encoder_optimizer is None
        return
    assert type(step.encoder_optimizer) is torch.optim.SGD
    (encoder,) = step.encoder_optimizer.param_groups
    assert (encoder["lr"], encoder["momentum"], encoder["weight_decay"]) == (3e-4, 0.9, 0)
    assert parameters(step.encoder_optimizer) == {id(p) for p in step.network.encoder.parameters()}


def test_the_studys_schedule_is_the_networks_alone(cohort: Cohort) -> None:
    step = a_step(
        cohort, Unlearning("clgr", ("scanner",)), schedule={"step": {"at": [0.5]}}, optimizer={"sgd": {"lr": 0.1}}
    )
    rates = []
    for batch, _ in zip(a_context().loader((cohort,), "source")(0), range(3), strict=False):
        step(batch)
        rates.append(step.optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.1, 0.01, 0.01])
    assert (step.head_optimizer.param_groups[0]["lr"], step.encoder_optimizer.param_groups[0]["lr"]) == (3e-3, 3e-4)  # type: ignore[union-attr]


@pytest.mark.parametrize("method", METHODS)
def test_batches_of_one_with_and_without_a_value_are_defined(method: Any, cohort: Cohort) -> None:
    """Two of seven cases have no tone; each is a batch of its own."""
    budget = Budget(steps=7, batch_size=1)
    found = finished(Unlearning(method, ("tone",)).run(scenario(cohort), a_network(), a_context(budget=budget))).network
    assert all(p.isfinite().all() for p in found.parameters())


@pytest.mark.parametrize(
    ("words", "codes"), [(["1", "2", "nan", "NaN", ""], 2), (["light", "dark", "unknown", "nan", ""], 2)]
)
def test_nan_unknown_and_empty_cells_are_missing(words: list[str], codes: int, tmp_path: Path) -> None:
    lines = write_photographs(tmp_path, {"a": 5}).read_text().splitlines()
    rows = [
        dict(zip(lines[0].split(","), line.split(","), strict=True)) | {"tone": word}
        for line, word in zip(lines[1:], words, strict=True)
    ]
    toned = read(write_rows(tmp_path / "toned.csv", rows))
    group = groups_of((toned,), "tone")
    assert group.counts == (1,) * codes
    targets = [int(group.target(toned.whole(which).batch)) for which in range(5)]
    assert sorted(targets[:2]) == [0, 1]
    assert targets[2:] == [-100] * 3
    with pytest.raises(SpecError, match=r"'tone' has 0 value\(s\).*unknown or empty in all .* the column 'tone'"):
        groups_of((replace(toned, cases=toned.cases[2:]),), "tone")


def test_a_measurement_is_no_group(cohort: Cohort) -> None:
    case = cohort.cases[0]
    cases = tuple(replace(case, attributes={**case.attributes, "tone": str(number)}) for number in range(51))
    with pytest.raises(
        SpecError, match=r"51 value\(s\).*expected 2 to 50, .*; a measurement is no group: write ranges"
    ):
        groups_of((replace(cohort, cases=cases),), "tone")


@pytest.mark.parametrize(("values", "refused"), [(14, True), (8, True), (7, False), (2, False)])
def test_a_column_with_a_value_of_its_own_for_nearly_every_case_is_a_measurement(
    values: int, refused: bool, cohort: Cohort
) -> None:
    """A typology angle, say: few cases have no 51 values, and each angle would be a class of its
    own."""
    case = cohort.cases[0]
    given = [replace(case, attributes={**case.attributes, "tone": str(number % values)}) for number in range(14)]
    found = replace(cohort, cases=(*given, replace(case, attributes={**case.attributes, "tone": "unknown"})))
    if not refused:
        assert len(groups_of((found,), "tone").codes) == values
        return
    said = rf"^recipes: unlearning.attributes: 'tone' has {values} value\(s\) among 14 training case\(s\).*write ranges"
    with pytest.raises(SpecError, match=said):
        groups_of((found,), "tone")


def test_sites_of_one_case_each_are_groups(tmp_path: Path) -> None:
    assert groups_of((read(write_photographs(tmp_path, {"a": 1, "b": 1, "c": 1})),), "site").counts == (1, 1, 1)


def test_sites_of_all_cohorts_are_counted_by_code_and_fifty_values_are_groups(tmp_path: Path, cohort: Cohort) -> None:
    both = read(write_photographs(tmp_path, {"a": 2, "b": 3}))
    found = groups_of((both.site("b"), both.site("a")), "site")
    assert (found.codes, found.counts) == ((0, 1), (2, 3))
    case = cohort.cases[0]
    many = tuple(replace(case, attributes={**case.attributes, "tone": str(number % 50)}) for number in range(100))
    assert groups_of((replace(cohort, cases=many),), "tone").counts == (2,) * 50


def test_values_are_counted_and_found_again_in_batches(cohort: Cohort) -> None:
    tone, scanner, site = (groups_of((cohort,), name) for name in ("tone", "scanner", "site"))
    # a number keeps its value; two cases have none
    assert (tone.codes, tone.counts) == ((1.0, 2.0), (3, 2))
    assert (scanner.codes, scanner.counts) == ((0, 1), (3, 4))  # new, old
    assert (site.codes, site.counts) == ((0, 1), (4, 3))
    batch = Batch(
        torch.zeros(4, 1, 2, 2),
        torch.tensor([1, 0, -1, 0]),
        ("",) * 4,
        {},
        {"tone": torch.tensor([2.0, float("nan"), 1.0, 6.0]), "scanner": torch.tensor([1, -100, 0, 5])},
    )
    assert tone.target(batch).tolist() == [1, -100, 0, -100]
    assert scanner.target(batch).tolist() == [1, -100, 0, -100]
    assert site.target(batch).tolist() == [1, 0, -100, 0]


def test_attributes_that_cannot_be_unlearned_are_refused(cohort: Cohort) -> None:
    with pytest.raises(SpecError, match="several source sites"):
        groups_of((cohort.site("a"),), "site")
    with pytest.raises(SpecError, match=r"1 value\(s\)"):
        groups_of((cohort,), "same")
    with pytest.raises(SpecError, match="did you mean 'scanner'"):
        groups_of((cohort,), "scaner")
    one_site = Scenario(source=(cohort.site("a"),), sites=cohort.sites)
    with pytest.raises(SpecError, match="'site' has 1 value"):
        finished(Unlearning().run(one_site, a_network(), a_context()))


def test_a_network_without_an_encoder_is_refused(cohort: Cohort) -> None:
    network = Wrapped(nn.Conv2d(1, 2, 1), VESSEL.key)
    with pytest.raises(SpecError, match="opaque"):
        finished(Unlearning().run(scenario(cohort), network, a_context()))


def test_the_pooled_feature_is_the_mean_over_space() -> None:
    features = [torch.rand(2, 4, 8, 8), torch.rand(2, 6, 3, 5)]
    torch.testing.assert_close(pooled(features), features[1].mean((2, 3)))
    assert torch.equal(pooled(features[1][:, :, 0, 0]), features[1][:, :, 0, 0])


def test_a_rare_value_weighs_more() -> None:
    assert SecondaryHead(3, Group("tone", (0, 1), (1, 3))).weight.tolist() == pytest.approx([0.75, 0.25])


def test_a_study_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort")
    for attributes, told in ((["scaner"], "unknown attribute 'scaner'"), (["site"], "'site' has 1 value")):
        with pytest.raises(SpecError, match=told):
            session_of(manifest, tmp_path / "out", {"unlearning": {"attributes": attributes}}, source=["a"]).prepare()
    session_of(manifest, tmp_path / "out", {"unlearning": {"attributes": ["scanner"]}}, source=["a"]).prepare()


@pytest.mark.parametrize("method", METHODS)
def test_strength_multiplies_reversal_entropy_and_confusion(method: str, tmp_path: Path) -> None:
    arguments = {"method": method, "attributes": ["scanner"]}
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", {"unlearning": arguments})
    world = session.prepare()
    row = row_of(session, world)

    def left(**changes: Any) -> Left:
        return left_by(replace(row.recipe, **changes), scenario_of(world, row), session, world)

    doubled = {"reversal": 0.2, "entropy": 0.02, "confusion": 0.06}
    whole = left()
    assert left(strength=0.5, **doubled) == whole
    for key in ["reversal"] * (method != "tabe") + ["entropy" if method == "lntl" else "confusion"]:
        assert left(strength=0.5, **{**doubled, key: doubled[key] / 2}) != whole
