"""SpotTUNet: which copy an image goes through, what is frozen, and what the policy learns from."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import run, session_of, write_cohort
from tests.unit.tiny import VESSEL, a_context, write_photographs
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Store
from allograft.errors import SpecError
from allograft.figure import Heatmap
from allograft.methods import spottunet
from allograft.methods.spottunet import (
    PolicyObjective,
    PolicyStep,
    SpotTunet,
    SpotTunetPredictor,
    gumbel_policy,
    policy_figure,
    tuned_share,
)
from allograft.networks import Wrapped, build, rebuilt
from allograft.networks.network import operate
from allograft.seeds import Seeds
from allograft.table import find

CONTRACT = {
    "options": {
        "policy_network": "resnet34",
        "temperature": 1.0,
        "penalty": 0.5,
        "policy_rate": 1.0,
        "policy_decay": 0.5,
        "optimizer": {"sgd": {"lr": 0.1}},
        "slices": 1,
    },
    # a policy that moves ten times as fast makes much of rounding
    "processes": {"policy_rate": 1.0},
}


def _spotted(norm: str = "instance", channels: tuple[int, ...] = (4, 8, 8), **changes: Any) -> Any:
    torch.manual_seed(0)
    arguments = {"in_channels": 1, "outputs": {"mask": 2}, "channels": list(channels), "num_res_units": 1, "norm": norm}
    options = {"policy": "small", "in_channels": 1, "spatial_dims": 2, "temperature": 0.1, **changes}
    return operate(build({"build": {"unet": arguments}}), "spottunet", **options)


def _fixed(network: Any, gates: Tensor) -> None:
    network.policy = nn.Module()
    network.policy.forward = lambda image: torch.stack([-gates, gates], -1).expand(len(image), -1, -1)


def test_fresh_copies_change_nothing_whatever_the_policy() -> None:
    network = _spotted().eval()
    plain = build({"build": network.spec["build"]})
    plain.load_state_dict(
        {key: value for key, value in network.state_dict().items() if not key.startswith(("frozen", "policy"))}
    )
    image = torch.rand(3, 1, 16, 16)
    torch.testing.assert_close(network(image)["mask"], plain.eval()(image)["mask"])
    assert network(image)["policy"].shape == (3, 4)  # three levels, one up


def test_one_is_frozen_and_zero_is_tuned_image_by_image() -> None:
    network = _spotted().eval()
    image = torch.rand(2, 1, 16, 16)
    with torch.no_grad():
        before = network(image)["mask"]
        for block in spottunet.blocks(network):
            for p in block.parameters():
                p.add_(0.3 * torch.randn(p.shape))
    _fixed(network, torch.ones(1, 4))
    torch.testing.assert_close(network(image)["mask"], before)
    _fixed(network, -torch.ones(1, 4))
    tuned = network(image)["mask"]
    assert not torch.allclose(tuned, before, atol=1e-3)
    _fixed(network, torch.tensor([[1.0] * 4, [-1.0] * 4]))
    mixed = network(image)["mask"]
    torch.testing.assert_close(mixed[0], before[0])
    torch.testing.assert_close(mixed[1], tuned[1])


def test_the_noise_has_its_say_in_which_blocks_are_tuned() -> None:
    network = _spotted().eval()
    noise = torch.zeros(2, 4, 2)
    noise[0, :, 1] = noise[1, :, 0] = 1e3
    assert network(torch.rand(2, 1, 16, 16), noise)["policy"].tolist() == [[1.0] * 4, [0.0] * 4]


def test_the_frozen_copy_stays_as_it_is_and_in_evaluation_mode() -> None:
    network = _spotted("batch").train()
    assert not any(module.training for module in network.frozen.modules())
    assert not any(p.requires_grad for p in network.frozen.parameters())
    before = {key: value.clone() for key, value in network.state_dict().items()}
    network(torch.rand(2, 1, 16, 16), torch.zeros(2, 4, 2))["mask"].sum().backward()
    assert all(p.grad is None for p in network.frozen.parameters())
    assert network.policy.last.weight.grad is not None
    after = network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before if key.startswith("frozen."))
    assert any(
        not torch.equal(after[key], before[key]) for key in before if key.startswith("encoder.") and "running" in key
    )


def test_forward_is_hard_and_backward_is_the_softmax() -> None:
    logits = torch.randn(3, 5, 2, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, 5, 2, dtype=torch.float64)
    gates = gumbel_policy(logits, 0.7, noise)
    assert set(gates.unique().tolist()) == {0.0, 1.0}
    weight = torch.randn(3, 5, dtype=torch.float64)
    (gates * weight).sum().backward()
    twin = logits.detach().clone().requires_grad_()
    (torch.sigmoid((twin + noise)[..., 1].sub((twin + noise)[..., 0]) / 0.7) * weight).sum().backward()
    torch.testing.assert_close(logits.grad, twin.grad)
    assert gumbel_policy(torch.zeros(1, 2, 2), 0.1).tolist() == [[0.0, 0.0]]
    for wrong in (
        lambda: gumbel_policy(logits, 0.0),
        lambda: gumbel_policy(logits, 1.0, noise[:1]),
        lambda: gumbel_policy(logits[..., :1], 1.0),
    ):
        with pytest.raises(SpecError):
            wrong()


def test_the_penalty_is_the_share_of_tuned_gates() -> None:
    network = _spotted()
    task = type("Task", (), {"loss": staticmethod(lambda outputs, batch: {"loss": outputs["mask"].mean()})})
    _fixed(network, torch.tensor([[1.0, 1.0, 1.0, -1.0]]))
    batch = Batch(torch.rand(2, 1, 16, 16), torch.tensor([0, 0]), ("a", "b"))
    assert PolicyObjective(task, 0.012)(network, batch)["tuned"].item() == pytest.approx(0.012 / 4)
    assert set(PolicyObjective(task, 0.0)(network, batch)) == {"loss"}


def test_the_noise_of_a_step_is_gumbels() -> None:
    objective = PolicyObjective(None, SpotTunet().penalty)
    inner: Any = type("Inner", (), {"objective": objective, "__call__": lambda self, batch: {}})()
    batch = Batch(torch.zeros(3, 1, 2, 2), torch.zeros(3, dtype=torch.int64), ("a", "b", "c"))
    step = PolicyStep(inner, Seeds(0), gates=4000)
    step(batch)
    noise = objective.noise
    assert noise is not None
    assert noise.shape == (3, 4000, 2)
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.03)  # Euler's constant
    assert noise.std().item() == pytest.approx(math.pi / math.sqrt(6), abs=0.03)
    step(batch)
    assert not torch.equal(objective.noise, noise)
    assert SpotTunet().temperature == 0.1


@pytest.mark.parametrize("policy", ["small", "resnet34"])
def test_it_can_be_rebuilt_and_an_images_policy_does_not_depend_on_its_neighbours(policy: str) -> None:
    network = _spotted(policy=policy).eval()
    image = torch.rand(3, 1, 40, 40)
    twin = rebuilt(network.spec, network.state_dict()).eval()
    with torch.no_grad():
        assert torch.equal(twin(image)["mask"], network(image)["mask"])
        torch.testing.assert_close(network.policy(image)[1:2], network.policy(image[1:2]), rtol=1e-4, atol=1e-5)
    predicted = SpotTunetPredictor(network)(Batch(image[..., :39], torch.tensor([0, 0, 0]), ("a", "b", "c")))
    assert predicted["mask"].shape == (3, 2, 40, 39)
    assert predicted["policy"].shape == (3, 4)
    assert find("predictor", "spottunet") is SpotTunetPredictor


def test_networks_without_levels_and_volumes_for_resnet34_are_refused() -> None:
    wrapped = Wrapped(nn.Conv2d(1, 2, 1), "mask")
    wrapped.spec = {"build": {}, "surgery": []}
    with pytest.raises(SpecError, match="levels"):
        operate(wrapped, "spottunet", policy="small", in_channels=1, spatial_dims=2, temperature=0.1)
    with pytest.raises(SpecError, match="2-D"):
        _spotted(policy="resnet34", spatial_dims=3)


def test_a_run_tunes_blocks_and_policy_at_their_own_rates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[tuple[str, list[float]]] = []
    moved: list[int] = []
    real = spottunet.PolicyStep.__call__

    def watched(self: Any, batch: Batch) -> Any:
        rates.append(
            (type(self.inner.optimizer).__name__, [group["lr"] for group in self.inner.optimizer.param_groups])
        )
        moved.append(sum(p.numel() for group in self.inner.optimizer.param_groups for p in group["params"]))
        return real(self, batch)

    monkeypatch.setattr(spottunet.PolicyStep, "__call__", watched)
    manifest = write_cohort(tmp_path / "cohort")
    for optimizer in (None, {"avagrad": {"lr": 0.5}}):
        request = {"spottunet": {"penalty": 0.01, "optimizer": optimizer, "first": "start"}}
        _, row, records = run(session_of(manifest, tmp_path / "out", request, optimizer={"sgd": {"lr": 0.01}}))
        assert all(record.status == "done" for record in records.values())
        assert {record.cost["trainable_parameters"] for record in records.values() if record.stage == "tuned"} == {
            moved[-1]
        }
        shown = Store(tmp_path / "out" / "units" / row.unit).figures()["policy"]
        assert isinstance(shown, Heatmap)
        assert shown.rows == ("level 1", "level 2")
        assert all(
            value in (0.0, 0.5, 1.0) for line in shown.values for value in line if value is not None
        )  # of two labelled images
    assert rates[0] == ("SGD", pytest.approx([0.01, 0.1]))
    assert rates[-1] == ("AvaGrad", pytest.approx([0.5, 5.0]))


def _cohort(tmp_path: Path, subjects: int = 5) -> Cohort:
    return Cohort.read(write_photographs(tmp_path / "photographs", {"a": subjects}), VESSEL.coding)


def test_the_heat_map_counts_the_images_for_which_a_block_is_tuned(tmp_path: Path) -> None:
    """Level 1 is tuned for images that are bright on average, level 2 always, the others never."""
    cohort = _cohort(tmp_path)
    means = [float(cohort.case(index).image.mean()) for index in range(5)]
    middle = sorted(means)[2]
    network = _spotted(channels=(4, 8, 8, 8)).train()

    class Policy(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            bright = (image.mean((1, 2, 3)) > middle).float()
            frozen = torch.ones(len(image), 6)
            frozen[:, 0], frozen[:, 1] = 1 - bright, 0.0
            return torch.stack([1 - frozen, frozen], -1)

    network.policy = Policy()
    parts = [replace(cohort, cases=cases) for cases in (cohort.cases[:2], cohort.cases[2:])]
    share = tuned_share(network, parts, a_context().fabric)
    assert share.tolist() == pytest.approx([2 / 5, 1.0, *[0.0] * 4])
    assert network.training
    figure = policy_figure(network, torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0, 0.125]))
    # the bottom has no up; the first up takes the skip of level 3, the second that of level 2; the
    # last stands in the head
    assert figure.rows == ("level 1", "level 2", "level 3", "level 4")
    assert figure.columns == ("encoder", "decoder")
    assert figure.values == ((0.0, None), (0.25, 0.125), (0.5, 1.0), (0.75, None))
    assert (figure.low, figure.high) == (0.0, 1.0)


def test_fewer_slices_are_among_more_and_too_many_are_refused(tmp_path: Path) -> None:
    cohort = _cohort(tmp_path)
    names = {n: {case.name for one in SpotTunet(slices=n).chosen([cohort], 3) for case in one.cases} for n in (1, 3, 5)}
    assert names[1] < names[3] < names[5] == {case.name for case in cohort.cases}
    assert SpotTunet().chosen([cohort], 3) == [cohort]
    with pytest.raises(SpecError, match="asks for 6, the label budget has 5"):
        SpotTunet(slices=6).chosen([cohort], 3)
    with pytest.raises(SpecError, match="avagrad"):
        SpotTunet(optimizer={"avagrat": {}})
