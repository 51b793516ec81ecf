"""Gamma and beta over an image: the numbers of the second pass, cut as the image was padded, and
which image shows them."""

from __future__ import annotations

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from tests.unit.methods.test_catenorm import a_network
from tests.unit.tiny import a_context, read, write_photographs, write_volumes

from allograft.batch import Batch
from allograft.cohort import Slices
from allograft.context import Store
from allograft.context.journal import Journal
from allograft.figure import Images
from allograft.grey import grey_of, window_of
from allograft.methods import catenorm
from allograft.methods.catenorm import CateNorm, TwoPass, TwoPassStep, example, modulation_images
from allograft.networks import build
from allograft.networks.catenorm import modulation_over
from allograft.networks.network import Network, operate
from allograft.parts.thumbnails import thumbnail
from allograft.recipe import Scenario
from allograft.tree import digest


def _predictor(*, shared: bool = True) -> TwoPass:
    torch.manual_seed(0)
    plain = build(
        {
            "build": {
                "unet": {
                    "in_channels": 1,
                    "outputs": {"mask": 3},
                    "channels": [4, 8, 8],
                    "num_res_units": 1,
                    "norm": "batch",
                }
            }
        }
    )
    return (
        TwoPass(operate(plain, "catenorm", classes=3, blocks=2))
        if shared
        else TwoPass(operate(plain, "catenorm", classes=3), _plain())
    )


def _plain() -> Network:
    made: Network = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 3}, "channels": [4, 8], "norm": "batch"}}}
    )
    return made


def _batch(height: int, width: int) -> Batch:
    image = torch.randn(1, 1, height, width, generator=torch.Generator().manual_seed(1))
    return Batch(image, torch.zeros(1, dtype=torch.int64), ("x",))


@pytest.mark.parametrize("shared", [True, False])
def test_it_is_the_modulation_by_the_first_pass(shared: bool) -> None:
    predictor, batch = _predictor(shared=shared), _batch(16, 24)
    network = predictor.network.eval()
    with torch.no_grad():
        mask = (predictor.first or network).eval()(batch.image)["mask"].softmax(1)
    norms = [module for module in network.encoder.levels[0].modules() if type(module).__name__ == "CategoricalNorm2d"]
    guide, gamma, beta = modulation_over(network, batch.image, lambda: predictor(batch))
    torch.testing.assert_close(guide, mask[0])
    expected = norms[-1].modulation(mask, gamma.shape[-2:])
    assert gamma.shape[0] == 4
    for found, wanted in zip((gamma, beta), expected, strict=True):
        torch.testing.assert_close(found, wanted[0])
    assert not norms[-1]._forward_hooks


def test_of_a_padded_image_the_padding_is_cut() -> None:
    predictor = _predictor()
    whole, cut = _batch(16, 24), _batch(16, 24)
    cut = Batch(cut.image[..., :13, :21], cut.site, cut.cases)
    assert predictor.network.multiple == 4
    (_, full, _), (guide, gamma, beta) = (
        modulation_over(predictor.network, batch.image, lambda batch=batch: predictor(batch))  # type: ignore[misc]
        for batch in (whole, cut)
    )
    stride = 16 // full.shape[-2]
    assert guide.shape == (3, 13, 21)
    assert gamma.shape[-2:] == beta.shape[-2:] == (round(13 / stride), round(21 / stride))


def _pixels(png: str) -> NDArray[np.uint8]:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))))


def test_what_is_where(tmp_path: Path) -> None:
    predictor, cohort = _predictor(), read(write_photographs(tmp_path, {"a": 1}))
    figure = modulation_images(predictor, (cohort, 0), a_context())
    batch = cohort.case(0)
    guide, gamma, beta = modulation_over(predictor.network, batch.image, lambda: predictor(batch))
    order = gamma.flatten(1).std(1).argsort(descending=True)[:3]
    channels = [f"channel {number + 1}" for number in order.tolist()]
    assert figure.captions == (("image", *channels), ("classes", *channels))
    assert figure.subjects == (("a0", "", "", ""), ("", "", "", ""))
    expected = [[thumbnail((cohort, 0))], [np.array([0, 128, 252], np.uint8)[guide.argmax(0).numpy()]]]
    for name, row, maps in zip(figure.names, expected, (gamma, beta), strict=True):
        low, high = window_of(maps[order].numpy())
        assert [float(one.replace("−", "-")) for one in re.findall(r"(−?[\d.]+)", name)] == pytest.approx(
            [low, high], abs=0.005
        )
        row += [grey_of(maps[channel].numpy(), (low, high)) for channel in order]
    assert [name.split(",")[0] for name in figure.names] == ["gamma", "beta"]
    for drawn, wanted in zip(figure.rows, expected, strict=True):
        for png, grey in zip(drawn, wanted, strict=True):
            assert np.array_equal(_pixels(png), grey // 4 * 4)


def test_it_is_the_middle_of_the_first_source_case_without_its_label(tmp_path: Path) -> None:
    volumes = read(write_volumes(tmp_path / "volumes", [(5, 4, 3), (5, 4, 7)]), slices=Slices(2))
    cohort, index = example(Scenario((replace(volumes, cases=volumes.cases[::-1]),), sites=("a",)))
    assert [case.name for case in cohort.cases] == [min(case.name for case in volumes.cases)]
    assert cohort.items[index] == (0, 1)  # of three slices
    assert not cohort.case(index).labels


def _ran(folder: Path, scenario: Scenario, recipe: CateNorm) -> tuple[Path, Any]:
    """The unit's folder and its carry."""
    context, network = a_context(folder), a_network(classes=2)
    running = context.run(recipe, scenario, network)
    while True:
        try:
            next(running)
        except StopIteration as stop:
            return folder / context.unit(recipe, scenario, network), stop.value


@pytest.mark.parametrize("shared", [True, False])
def test_what_is_shown_changes_nothing_and_is_the_same_after_a_kill(
    shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cohort, recipe = (
        read(write_photographs(tmp_path / "cohort", {"a": 3, "b": 2})),
        CateNorm(warmup=0.34, shared=shared),
    )
    scenario = Scenario((cohort.site("a"),), (cohort.site("b").unlabelled(),), sites=("a", "b"))
    whole, carry = _ran(tmp_path / "whole", scenario, recipe)
    told, figures = (whole / "figures.json").read_bytes(), Store(whole).figures()
    over = figures["modulation-over-image"]
    assert isinstance(over, Images)
    assert over.subjects[0][0] == "a0"
    assert set(figures) - set(Store(whole).figures(images=False)) == {"modulation-over-image"}
    _ran(tmp_path / "whole", scenario, recipe)  # loaded
    assert (whole / "figures.json").read_bytes() == told
    with monkeypatch.context() as patched:
        patched.setattr(catenorm, "modulation_images", lambda *given: over)
        _, other = _ran(tmp_path / "bare", scenario, recipe)
    assert digest(other.network) == digest(carry.network)

    monkeypatch.setattr(Journal, "due", lambda self: True)
    real, calls = TwoPassStep.__call__, []

    def dying(self: TwoPassStep, batch: Batch) -> Any:
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(self, batch)

    monkeypatch.setattr(TwoPassStep, "__call__", dying)
    with pytest.raises(KeyboardInterrupt):
        _ran(tmp_path / "killed", scenario, recipe)
    again, _ = _ran(tmp_path / "killed", scenario, recipe)
    assert len(calls) == 3
    assert (again / "figures.json").read_bytes() == told


def test_the_random_numbers_and_the_modes_outside_stay(tmp_path: Path) -> None:
    predictor, cohort = _predictor(), read(write_photographs(tmp_path, {"a": 1}))
    predictor.network.train()
    weights, state = digest(predictor.network), torch.random.get_rng_state()
    modulation_images(predictor, (cohort, 0), a_context())
    assert digest(predictor.network) == weights
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in predictor.network.modules())
