"""Gamma and beta over an image: the numbers of the second pass, cut as the image was padded, and where the report shows them."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.contract.world import session_of, write_cohort
from tests.unit.tiny import read, write_photographs

from allograft.batch import Batch
from allograft.grey import grey_of, window_of
from allograft.methods.catenorm import TwoPass
from allograft.networks import build
from allograft.networks.network import Network, operate
from allograft.report.gallery import MODULATION
from allograft.report.thumbnails import GAP, SIDE, small
from allograft.run.modulation import draw_modulation, modulation_over
from allograft.studies import run_study


def _predictor(*, shared: bool = True) -> TwoPass:
    torch.manual_seed(0)
    plain = build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 3}, "channels": [4, 8, 8], "num_res_units": 1, "norm": "batch"}}}
    )
    return TwoPass(operate(plain, "catenorm", classes=3, blocks=2)) if shared else TwoPass(operate(plain, "catenorm", classes=3), _plain())


def _plain() -> Network:
    made: Network = build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 3}, "channels": [4, 8], "norm": "batch"}}})
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
    guide, gamma, beta = modulation_over(predictor, batch)
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
    (_, full, _), (guide, gamma, beta) = (modulation_over(predictor, batch) for batch in (whole, cut))
    stride = 16 // full.shape[-2]
    assert guide.shape == (3, 13, 21)
    assert gamma.shape[-2:] == beta.shape[-2:] == (round(13 / stride), round(21 / stride))


def test_what_stands_where(tmp_path: Path) -> None:
    predictor, cohort = _predictor(), read(write_photographs(tmp_path, {"a": 1}))
    picture = draw_modulation(predictor, (cohort, 0), "catenorm", "S001")
    guide, gamma, beta = modulation_over(predictor, cohort.case(0))
    order = gamma.flatten(1).std(1).argsort(descending=True)[:3]
    assert re.fullmatch(r"S001; channels (\d, \d, \d): gamma -?\d.\d\d to -?\d.\d\d, beta -?\d.\d\d to -?\d.\d\d", picture.caption)
    assert [int(one) - 1 for one in re.findall(r"\d", picture.caption.split(": ")[0])[3:]] == order.tolist()
    pixels = np.asarray(Image.open(io.BytesIO(picture.png)).convert("L")).astype(int)
    step = SIDE + GAP
    expected = {(0, 0): small((cohort, 0)), (1, 0): np.array([0, 128, 252], np.uint8)[guide.argmax(0).numpy()]}
    for row, maps in enumerate((gamma, beta)):
        window = window_of(maps[order].numpy())
        expected |= {(row, 1 + n): grey_of(maps[channel].numpy(), window) for n, channel in enumerate(order)}
    for (row, column), grey in expected.items():
        drawn = np.asarray(Image.fromarray(grey).resize((SIDE, SIDE), Image.Resampling.BICUBIC)).astype(int)
        assert np.abs(pixels[row * step :, column * step :][:SIDE, :SIDE] - drawn).max() < 4, (row, column)


def test_the_report_shows_it_for_rows_of_catenorm_alone(tmp_path: Path) -> None:
    recipes = [{"catenorm": {"warmup": 0.34}}, {"catenorm": {"warmup": 0.34, "shared": False}}]
    changes = {"network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch"}}, "target_labels": "none"}
    study = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", "catenorm", recipes=recipes, **changes).study
    assert not run_study(study, tmp_path / "out", say=lambda line: None).failed
    html = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    (section,) = re.findall(rf"<h3>{MODULATION}</h3>.*?(?=<h3>)", html, re.DOTALL)
    assert re.findall(r"<strong>([^<]+)</strong> S\d{3}; channels", section) == [
        "catenorm warmup=0.34",
        "catenorm shared=False warmup=0.34",
    ]
