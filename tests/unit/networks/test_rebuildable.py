"""A module that is no network of the table is made again from a place, JSON arguments and weights,
and from nothing else."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from allograft import table
from allograft.errors import ModelError, SpecError
from allograft.methods.adaptsegnet import Discriminator
from allograft.methods.cyclegan import patch_discriminator
from allograft.networks import build, rebuildable, remade
from allograft.networks.rebuildable import maker
from allograft.seeds import Seeds
from allograft.tree import digest

if TYPE_CHECKING:
    from allograft.context import Context

UNET = {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8]}}, "surgery": []}


class Scaled(nn.Module):
    """A plug-in's: a scale that starts at random."""

    def __init__(self, sizes: list[int], slope: float = 1.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(*sizes))
        self.slope = slope

    def forward(self, values: Tensor) -> Tensor:
        return values * self.scale * self.slope


def undeclared(size: int):  # type: ignore[no-untyped-def]
    return nn.Linear(size, 1)


def no_module(size: int) -> int:
    return size


def of_a_type_that_is_only_checked(context: Context) -> nn.Module:
    return nn.Identity()


@pytest.fixture
def plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    """This package brings a method."""
    monkeypatch.setitem(table.METHODS, "toy", f"{__name__}:Toy")


@pytest.mark.parametrize(
    ("make", "arguments"),
    [(Discriminator, {"classes": 2, "spatial_dims": 3}), (patch_discriminator, {"channels": 1, "width": 2})],
)
def test_a_critic_is_made_again(make: Any, arguments: dict[str, Any]) -> None:
    with Seeds(0).everything():
        live = rebuildable(make, **arguments)
    with Seeds(0).everything():
        plain = make(**arguments)
    assert digest(live) == digest(plain)  # it draws what the function draws
    before = torch.get_rng_state()
    again = remade(live.spec, live.state_dict())
    assert torch.equal(torch.get_rng_state(), before)
    assert digest(again) == digest(live)
    assert again.spec == live.spec == copy.deepcopy(live).spec
    assert type(again) is type(live)


def test_a_network_is_made_again_too() -> None:
    network, own = build(UNET), nn.Conv2d(1, 2, 1)
    assert digest(remade(network.spec, network.state_dict())) == digest(network)
    custom = build({"build": {"custom": {"class": "torch:Conv2d", "key": "mask"}}}, own)
    assert digest(remade(custom.spec, custom.state_dict(), own)) == digest(custom)


@pytest.mark.usefixtures("plugin")
def test_a_plugins_own_module_and_what_it_was_given() -> None:
    live = rebuildable(Scaled, sizes=[2, 3], slope=0.5)
    again = remade(live.spec, live.state_dict())
    assert isinstance(again, Scaled)
    assert torch.equal(again(torch.ones(2, 3)), live(torch.ones(2, 3)))


def test_a_package_without_a_method_is_not_called() -> None:
    with pytest.raises(
        SpecError, match=f"{__name__}:Scaled: makes no module that may be kept.*at the top of a module of allograft"
    ):
        rebuildable(Scaled, sizes=[1])


@pytest.mark.usefixtures("plugin")
@pytest.mark.parametrize(
    "place",
    [
        "os:system",
        "torch.hub:load",
        "torch.nn:Linear",
        "allograft.tree:remove",  # ours, but makes no module
        "allograft.networks.network:build",  # makes any network of any spec
        "allograft.networks.unet:torch",
        "allograft.methods.cyclegan:nn.Linear",
        "allograft.methods.cyclegan:Residual.forward",
        "allograft.methods.adaptsegnet:AuxiliaryHead.__init__",
        "allograft.networks.unet:Network",  # defined elsewhere
        "allograft.absent:Discriminator",
        "allograft.methods.cyclegan",
        "allograft.:x",
        ":",
        "",
        f"{__name__}:undeclared",
        f"{__name__}:no_module",
        f"{__name__}:of_a_type_that_is_only_checked",
        f"{__name__}:absent",
    ],
)
def test_no_other_place_is_called(place: str) -> None:
    with pytest.raises(ModelError, match="makes no module that may be kept; expected an"):
        maker(place)
    with pytest.raises(ModelError):
        remade({"make": {place: {}}}, {})


@pytest.mark.usefixtures("plugin")
def test_what_is_refused_before_it_is_made() -> None:
    with pytest.raises(
        SpecError, match=r"Scaled: sizes: expected a JSON value, found \(2, 3\); hand over numbers, texts, lists"
    ):
        rebuildable(Scaled, sizes=(2, 3))
    with pytest.raises(SpecError, match="slope: expected a JSON value, found tensor"):
        rebuildable(Scaled, sizes=[2], slope=torch.tensor(1.0))
    with pytest.raises(SpecError, match="makes no module that may be kept"):
        rebuildable(lambda: nn.Linear(1, 1))
    other = type("Scaled", (Scaled,), {"__module__": __name__, "__qualname__": "Scaled"})
    with pytest.raises(SpecError, match="Scaled is another object than the one given"):
        rebuildable(other, sizes=[1])
