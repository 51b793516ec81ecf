"""OCTL: algorithms 2 and 3 in slow loops, what of the old optimizer goes on, and what does not."""

from __future__ import annotations

import math
from functools import wraps
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from tests.contract.world import run, session_of, write_cohort
from torch import nn

from allograft.errors import NeedsError, SpecError
from allograft.methods.octl import Octl, continue_optimizer
from allograft.optim import AvaGrad
from allograft.step import named_state

CONTRACT = {
    "options": {"start_step": 1, "momentum": 0.5, "betas": (0.5, 0.9)},
    "under": {
        "momentum": {"study": {"optimizer": {"sgd": {"lr": 0.01, "momentum": 0.9}}}},
        "start_step": {"study": {"optimizer": {"adam": {"lr": 1e-3}}}},
        "betas": {"study": {"optimizer": {"adam": {"lr": 1e-3}}}},
    },
    # without momentum SGD has no history
    "processes_study": {"optimizer": {"sgd": {"lr": 0.1, "momentum": 0.9}}},
}

G = torch.tensor([[0.5, -1.0], [0.2, 0.4], [-0.3, 0.1], [0.7, 0.2], [-0.6, 0.9]], dtype=torch.float64)


def _net() -> nn.Module:
    return nn.Linear(2, 1, bias=False).double()


def _steps(optimizer: torch.optim.Optimizer, weight: torch.Tensor, gradients: torch.Tensor) -> None:
    for g in gradients:
        weight.grad = g[None].clone()
        optimizer.step()


@pytest.mark.parametrize("named", [False, True])
def test_algorithm_2(named: bool) -> None:
    net = _net()
    old = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    _steps(old, net.weight, G[:3])
    history = old.state[net.weight]["momentum_buffer"][0].tolist()
    w = net.weight[0].tolist()
    new = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.99)
    assert continue_optimizer(new, named_state(old, net) if named else old.state_dict(), network=net) == 1
    _steps(new, net.weight, G[3:])
    for g in G[3:].tolist():
        history = [0.99 * h + gi for h, gi in zip(history, g, strict=True)]
        w = [x - 0.05 * h for x, h in zip(w, history, strict=True)]
    torch.testing.assert_close(net.weight[0].tolist(), w, rtol=1e-12, atol=1e-12)
    assert new.param_groups[0]["momentum"] == 0.99
    assert not new.param_groups[0]["nesterov"]


@pytest.mark.parametrize("start_step", [100, 7])
def test_algorithm_3(start_step: int) -> None:
    net = _net()
    old = torch.optim.Adam(net.parameters(), lr=0.1)
    _steps(old, net.weight, G[:3])
    m, v = (old.state[net.weight][name][0].tolist() for name in ("exp_avg", "exp_avg_sq"))
    w = net.weight[0].tolist()
    new = torch.optim.Adam(net.parameters(), lr=0.05, betas=(0.99, 0.999), eps=1e-6)
    continue_optimizer(new, old.state_dict(), start_step=start_step)
    _steps(new, net.weight, G[3:])
    for t, g in enumerate(G[3:].tolist(), 1):
        for i in range(2):
            m[i] = 0.99 * m[i] + 0.01 * g[i]  # the paper prints g^2 here, a misprint
            v[i] = 0.999 * v[i] + 0.001 * g[i] ** 2
            mean, square = m[i] / (1 - 0.99 ** (t + start_step)), v[i] / (1 - 0.999 ** (t + start_step))
            w[i] -= 0.05 * mean / (math.sqrt(square) + 1e-6)
    torch.testing.assert_close(net.weight[0].tolist(), w, rtol=1e-10, atol=1e-10)
    assert old.state[net.weight]["step"] == 3


def test_the_history_that_was_given_stays_as_it_is() -> None:
    net = _net()
    old = torch.optim.Adam(net.parameters(), lr=0.1)
    _steps(old, net.weight, G[:3])
    before = {name: value.clone() for name, value in old.state[net.weight].items()}
    new = torch.optim.Adam(net.parameters(), lr=0.05, betas=(0.99, 0.999))
    continue_optimizer(new, old.state_dict())
    _steps(new, net.weight, G[3:])
    assert all(torch.equal(value, before[name]) for name, value in old.state[net.weight].items())


def test_new_parameters_and_other_shapes_start_empty() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2))
    old = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    old.step()
    grown = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 5), nn.Linear(5, 1))
    new = torch.optim.Adam(grown.parameters())
    assert continue_optimizer(new, named_state(old, net), network=grown) == 2
    assert set(new.state) == set(grown[0].parameters())
    grown(torch.ones(1, 2)).sum().backward()
    new.step()
    assert new.state[grown[0].weight]["step"] == 101
    assert new.state[grown[1].weight]["step"] == 1


@pytest.mark.parametrize("named", [False, True])
def test_every_group_of_the_optimizer_goes_on(named: bool) -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))

    def optimizer() -> torch.optim.Optimizer:
        return torch.optim.Adam([{"params": part.parameters()} for part in net])

    old = optimizer()
    net(torch.ones(1, 2)).sum().backward()
    old.step()
    new = optimizer()
    assert continue_optimizer(new, named_state(old, net) if named else old.state_dict(), network=net) == 4
    assert all(torch.equal(new.state[p]["exp_avg"], old.state[p]["exp_avg"]) for p in net.parameters())


def test_by_name_without_a_network() -> None:
    net = _net()
    old = torch.optim.Adam(net.parameters())
    _steps(old, net.weight, G[:1])
    assert continue_optimizer(torch.optim.Adam(net.named_parameters()), named_state(old, net)) == 1
    assert continue_optimizer(torch.optim.Adam(net.parameters()), named_state(old, net)) == 1
    with pytest.raises(SpecError, match="network=NETWORK"):
        continue_optimizer(torch.optim.Adam([*net.parameters(), nn.Parameter(torch.ones(1))]), named_state(old, net))


def test_without_a_history_it_says_so() -> None:
    net = _net()
    new = torch.optim.Adam(net.parameters())
    for empty in ({"state": {}, "param_groups": []}, {"kind": "adam", "state": {}}):
        with pytest.raises(NeedsError, match="no gradient history"):
            continue_optimizer(new, empty)
    with pytest.raises(SpecError, match="'sgd'"):
        continue_optimizer(new, {"kind": "sgd", "state": {}})


KINDS: dict[str, Any] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "plain sgd": lambda p: torch.optim.SGD(p, lr=0.1),
    "adam": torch.optim.Adam,
    "amsgrad": lambda p: torch.optim.Adam(p, amsgrad=True),
    "avagrad": AvaGrad,
    "released": lambda p: AvaGrad(p, variant="released"),
}
KEPT = {
    "sgd": ["momentum_buffer"],
    "plain sgd": ["none"],
    "adam": ["exp_avg", "exp_avg_sq", "step"],
    "amsgrad": ["max_exp_avg_sq"],
    "avagrad": ["eta, eta_norm"],
    "released": ["eta_norm", "step"],
}


@pytest.mark.parametrize(("old", "new"), [pair for pair in permutations(KINDS, 2) if pair[0] != "plain sgd"])
def test_a_state_of_another_kind_is_refused_before_anything_is_changed(old: str, new: str) -> None:
    net = _net()
    first, second = KINDS[old](net.parameters()), KINDS[new](net.parameters())
    _steps(first, net.weight, G[:2])
    with pytest.raises(SpecError, match="use one optimizer") as error:
        continue_optimizer(second, first.state_dict())
    holds, keeps = str(error.value).split("the new optimizer")
    assert all(word in holds for word in KEPT[old])
    assert all(word in keeps for word in KEPT[new])
    assert not second.state


@pytest.mark.parametrize("kind", ["sgd", "adam", "amsgrad", "avagrad", "released"])
def test_a_state_of_the_same_kind_goes_on(kind: str) -> None:
    net = _net()
    first, second = KINDS[kind](net.parameters()), KINDS[kind](net.parameters())
    _steps(first, net.weight, G[:2])
    assert continue_optimizer(second, first.state_dict()) == 1
    _steps(second, net.weight, G[2:])


START = {"octl": {"first": "start"}}


@pytest.mark.parametrize("recipe", ["octl", START, {"fourier": {"first": START}}])
def test_a_start_has_no_optimizer_so_it_is_refused_before_anything_is_trained(recipe: Any, tmp_path: Path) -> None:
    manifest, weights = write_cohort(tmp_path / "cohort"), tmp_path / "model.safetensors"
    other = session_of(manifest, tmp_path / "other", "finetune")
    save_file(other.start(other.prepare(), 0).state_dict(), weights)
    source_free = (
        {"source": [], "start": str(weights)} if recipe == "octl" else {}
    )  # 'start' stands for 'supervised' there
    session = session_of(manifest, tmp_path / "out", recipe, **source_free)
    with pytest.raises(
        NeedsError,
        match=r"'start' leaves none; .*name the source, source: \[SITE\], and first: supervised, or drop octl",
    ):
        session.prepare()
    assert not (tmp_path / "out" / "study.json").exists()


def test_a_first_that_left_no_history_is_an_error(tmp_path: Path) -> None:
    optimizer = {"sgd": {"lr": 1e-3, "momentum": 0.0}}
    _, _, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "octl", optimizer=optimizer))
    (failed,) = [record for record in records.values() if record.status == "failed"]
    assert "left no gradient history" in failed.error


def test_a_first_that_left_no_optimizer_is_an_error(tmp_path: Path) -> None:
    recipe = {"octl": {"first": {"fourier": {"beta": 0.1, "donors": 2}}}}
    _, _, records = run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe))
    assert [
        "choose another first, e.g. supervised" in record.error
        for record in records.values()
        if record.status == "failed"
    ] == [True]


def test_it_tunes_with_the_papers_decay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Any] = []
    real = torch.optim.Adam.__init__

    @wraps(real)
    def watched(self: Any, *positional: Any, **named: Any) -> None:
        found.append(named)
        real(self, *positional, **named)

    monkeypatch.setattr(torch.optim.Adam, "__init__", watched)
    run(session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", {"octl": {}}))
    assert found[-1]["betas"] == (0.99, 0.999)
    assert Octl(momentum=0.5).request({"sgd": {"lr": 1}}) == {"sgd": {"lr": 1, "momentum": 0.5, "nesterov": False}}
    assert Octl().request({"sgd": {"lr": 1}})["sgd"]["momentum"] == 0.99
