"""What a folder keeps of its model's validation: distances by the encoder's features, and a file that
is whole or refused."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.tiny import case
from torch import nn

from allograft.batch import collate
from allograft.errors import ModelError
from allograft.metrics.mahalanobis import TiedGaussian
from allograft.networks import build
from allograft.predictor import Direct, load_predictor, save_predictor
from allograft.predictor.deployment import (
    FILE,
    SLICES,
    Deployment,
    case_features,
    encoder_of,
    read_deployment,
    write_deployment,
)
from allograft.predictor.folder import holds_images, intact

GAUSSIAN = TiedGaussian(torch.zeros(1, 4, dtype=torch.float64), torch.eye(4, dtype=torch.float64))


def a_network(**changes: Any) -> Any:
    torch.manual_seed(0)
    spec = {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4], **changes}
    return build({"build": {"unet": spec}})


def slices(count: int) -> Any:
    return collate(
        [replace(case(f"c{n}"), image=torch.full((1, 1, 8, 8), float(n)) + torch.eye(8)) for n in range(count)]
    )


def test_the_distance_of_a_case_is_the_mean_over_slices_at_equal_steps() -> None:
    network, batch = a_network(), slices(3 * SLICES)
    made = Deployment(GAUSSIAN, torch.zeros(0), {})
    places = [round(n * (3 * SLICES - 1) / (SLICES - 1)) for n in range(SLICES)]
    with torch.no_grad():
        features = network.eval().encoder(batch.image[places])[-1].mean((2, 3)).double()
    assert torch.equal(case_features(network, batch), features)
    assert made.distance(network, batch) == pytest.approx(float(features.square().sum(1).mean()))
    assert Deployment().distance(network, batch) is None
    assert len(case_features(network, slices(3))) == 3


def test_features_are_of_the_network_as_it_answers_and_keep_no_graph() -> None:
    """With dropout and statistics of batches off, and back in the mode that it was in."""
    network = a_network(norm="batch", dropout=0.5).train()
    made = [case_features(network, slices(4)) for _ in range(2)]
    assert torch.equal(made[0], made[1])
    assert not made[0].requires_grad
    assert network.training


def test_the_first_network_with_an_encoder_is_asked() -> None:
    first, second = a_network(), a_network()

    @dataclass(frozen=True)
    class Both:
        opaque: nn.Module
        inner: Any

    assert encoder_of(Both(nn.Conv2d(1, 1, 1), (Direct(first), Direct(second)))) is first
    assert encoder_of(Both(nn.Conv2d(1, 1, 1), 3)) is None


@pytest.mark.parametrize("gaussian", [GAUSSIAN, None])
def test_written_and_read_it_is_the_same(gaussian: Any, tmp_path: Path) -> None:
    made = Deployment(gaussian, torch.tensor([1.0, 3.0], dtype=torch.float64), {"checksum": "abc", "notes": ["x"]})
    write_deployment(tmp_path, made)
    first = (tmp_path / FILE).read_bytes()
    again = read_deployment(tmp_path, "abc")
    assert again is not None
    assert torch.equal(again.held_out, made.held_out)
    assert again.facts == made.facts
    assert (again.gaussian is None) == (gaussian is None)
    if again.gaussian is not None:
        assert torch.equal(again.gaussian.means, GAUSSIAN.means)
        assert torch.equal(again.gaussian.precision, GAUSSIAN.precision)
    write_deployment(tmp_path, again)
    assert (tmp_path / FILE).read_bytes() == first
    with pytest.raises(ModelError, match="belongs to another model"):
        read_deployment(tmp_path, "xyz")


@pytest.mark.parametrize("what", ["held_out", "means", "precision"])
def test_a_number_that_was_changed_is_found(what: str, tmp_path: Path) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    write_deployment(tmp_path, Deployment(GAUSSIAN, torch.ones(2, dtype=torch.float64), {"checksum": "abc"}))
    with safe_open(tmp_path / FILE, "pt") as file:
        header = file.metadata()
        tensors = {key: file.get_tensor(key).clone() for key in ("held_out", "means", "precision")}
    tensors[what].view(-1)[0] += 1
    save_file(tensors, tmp_path / FILE, header)
    with pytest.raises(ModelError, match=r"damaged \(its content does not match its checksum\)"):
        read_deployment(tmp_path, "abc")


# ---------------------------------------------------------- folders
@dataclass(frozen=True)
class Holding:
    """Holds whatever it is given."""

    inner: Any
    contains_images: bool = False


@pytest.mark.parametrize(
    ("held", "images"),
    [
        (Holding(1), False),
        (Holding(1, True), True),
        (Holding((Holding(1), Holding(2, True))), True),
        ([Holding(Holding(Holding(1, True)))], True),
        (Holding((Holding(1),)), False),
        (Holding, False),
    ],
)
def test_images_of_patients_are_found_however_deep(held: Any, images: bool) -> None:
    assert holds_images(held) == images


def test_a_folder_is_loaded_on_the_device_that_is_asked_for_and_answers_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_predictor(Direct(a_network().train()), tmp_path, {"seed": 3})
    moved: list[Any] = []
    real = nn.Module.to
    monkeypatch.setattr(
        nn.Module, "to", lambda self, *words, **more: (moved.append(words), real(self, *words, **more))[1]
    )
    asked: list[str] = []
    import safetensors

    opened = safetensors.safe_open

    def noted(path: Any, kind: str, device: str = "cpu") -> Any:
        asked.append(device)
        return opened(path, kind, device="cpu")

    monkeypatch.setattr("safetensors.safe_open", noted)
    predictor, card = load_predictor(tmp_path, device=torch.device("cpu"))
    assert asked == ["cpu"]
    assert (torch.device("cpu"),) in moved
    assert not predictor.network.training  # type: ignore[attr-defined]
    assert card["seed"] == 3


@pytest.mark.parametrize("file", ["card.json", "model.safetensors"])
def test_a_folder_is_whole_or_not(file: str, tmp_path: Path) -> None:
    save_predictor(Direct(a_network()), tmp_path, {})
    assert intact(tmp_path)
    text = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(text.replace(b"direct", b"weight") if file == "card.json" else text[:-1] + b"\x00")
    assert not intact(tmp_path)
    (tmp_path / file).unlink()
    assert not intact(tmp_path)


def test_facts_of_a_card_are_its_own_and_cannot_be_set(tmp_path: Path) -> None:
    save_predictor(Direct(a_network()), tmp_path, {"format": 7, "contains_images": True, "checksum": "x", "mine": 1})
    _, card = load_predictor(tmp_path)
    assert (card["format"], card["contains_images"], card["mine"]) == (1, False, 1)


@pytest.mark.parametrize(("key", "value"), [("temperature", "hot"), ("temperature", True), ("word", 3), ("sure", 1)])
def test_a_field_of_another_kind_is_refused(
    key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allograft.predictor.folder.name_of", lambda kind, cls: "typed")
    monkeypatch.setattr("allograft.predictor.folder.find", lambda kind, name: Typed)
    save_predictor(Typed(), tmp_path / "right", {})  # type: ignore[arg-type]
    assert load_predictor(tmp_path / "right")[0] == Typed()
    save_predictor(replace(Typed(), **{key: value}), tmp_path / "wrong", {})  # type: ignore[arg-type]
    with pytest.raises(ModelError, match=rf"predictor\.{key}: expected"):
        load_predictor(tmp_path / "wrong")


@dataclass(frozen=True)
class Typed:
    """A predictor of plain fields."""

    temperature: float = 1
    sure: bool = True
    word: str = "x"
