"""Domain-specific batch normalisation: each site by its own statistics, other sites by the mean of
all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import session_of
from tests.unit.tiny import a_context, read, write_photographs
from torch import Tensor, nn

from allograft.apply.evaluate import evaluate
from allograft.batch import Batch
from allograft.errors import SpecError
from allograft.methods.dsbn import Dsbn, SiteLoss, SitePredictor
from allograft.methods.supervised import Supervised
from allograft.networks import build
from allograft.networks.network import Wrapped, operate
from allograft.nn.dsbn import DomainBatchNorm, at_domains
from allograft.phantoms.brain import write_brain
from allograft.predictor import load_predictor, save_predictor
from allograft.recipe import Scenario
from allograft.tasks.segmentation import Segmentation

CONTRACT = {}

SITE = torch.tensor([1, 0, 1, 0, 0])


def a_network(norm: str = "batch", **arguments: Any) -> Any:
    torch.manual_seed(0)
    return build(
        {"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [4, 8], "norm": norm, **arguments}}}
    )


def changed(sites: int = 2) -> Any:
    network = operate(a_network(), "dsbn", sites=[f"s{number}" for number in range(sites)])
    # sites that differ, as after some training
    for number, (_, layer) in enumerate(layers(network)):
        for which, branch in enumerate(layer.branches):
            branch.running_mean.add_(0.1 * which + 0.01 * number)
            branch.weight.data.mul_(1 + 0.5 * which)
            branch.bias.data.add_(0.2 * which)
    return network


def layers(network: nn.Module) -> list[tuple[str, DomainBatchNorm]]:
    return [(name, module) for name, module in network.named_modules() if isinstance(module, DomainBatchNorm)]


def images(count: int = 5, size: int = 8) -> Tensor:
    return torch.randn(count, 1, size, size, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------- the layer
@pytest.mark.parametrize("space", [(4, 3), (3, 2, 4)])
def test_the_layer_is_that_of_a_loop_over_the_domains(space: tuple[int, ...]) -> None:
    plain = (nn.BatchNorm2d if len(space) == 2 else nn.BatchNorm3d)(3).double()
    layer = DomainBatchNorm(plain, 3)
    for which, branch in enumerate(layer.branches):
        branch.weight.data.fill_(1 + which)  # type: ignore[union-attr,operator]
        branch.bias.data.fill_(-which)  # type: ignore[union-attr,operator]
    x = torch.randn(5, 3, *space, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 2 + 1
    with at_domains(layer, SITE):
        found = layer(x)
    for image, (site, one) in enumerate(zip(SITE.tolist(), found, strict=True)):
        rows = [r for r in range(5) if SITE[r] == site]
        for c in range(3):
            values = [float(v) for r in rows for v in x[r, c].flatten()]
            mean = sum(values) / len(values)
            variance = sum((v - mean) ** 2 for v in values) / len(values)
            torch.testing.assert_close(one[c], (1 + site) * (x[image, c] - mean) / (variance + 1e-5) ** 0.5 - site)
            branch = layer.branches[site]
            assert float(branch.running_mean[c]) == pytest.approx(0.1 * mean)  # type: ignore[index,arg-type]
            unbiased = variance * len(values) / (len(values) - 1)
            assert float(branch.running_var[c]) == pytest.approx(0.9 + 0.1 * unbiased)  # type: ignore[index,arg-type]
    assert [int(branch.num_batches_tracked) for branch in layer.branches] == [1, 1, 0]  # type: ignore[arg-type]


def test_the_layer_wants_to_know_the_domains() -> None:
    layer = DomainBatchNorm(nn.BatchNorm2d(2), 2)
    with pytest.raises(SpecError, match="domains are unknown"):
        layer(torch.zeros(1, 2, 3, 3))
    with pytest.raises(SpecError, match=r"domains \[0, 2\].*knows 0 to 1"), at_domains(layer, torch.tensor([0, 2])):
        pass
    with pytest.raises(ValueError, match="mine"), at_domains(layer, SITE):
        raise ValueError("mine")
    assert layer.domain is None


def test_one_pixel_of_one_image_has_no_spread() -> None:
    layer = DomainBatchNorm(nn.BatchNorm2d(2), 2)
    with (
        at_domains(layer, torch.tensor([0, 0, 1])),
        pytest.raises(SpecError, match=r"1 image of 1x1 pixels.*batch_size"),
    ):
        layer(torch.randn(3, 2, 1, 1))
    with at_domains(layer.eval(), torch.tensor([0, 0, 1])):
        assert layer(torch.randn(3, 2, 1, 1)).isfinite().all()


# ---------------------------------------------------------- the network
def test_another_contrast_at_a_site_of_its_own_is_undone() -> None:
    """Images whose intensities are scaled and shifted at site 1 leave the first normalisation as
    those of site 0 do."""
    network = operate(a_network(), "dsbn", sites=["a", "b"]).train()
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "replicate"  # zeros at the border would not scale along
    x = images(2)
    layer = layers(network)[0][1]
    seen: list[Tensor] = []
    layer.register_forward_hook(lambda *call: seen.append(call[2]))
    for branch in layer.branches:
        branch.eps = 1e-12  # type: ignore[assignment]
    network(torch.cat([x, 3 * x + 0.7]), torch.tensor([0, 0, 1, 1]))
    torch.testing.assert_close(seen[0][:2], seen[0][2:], rtol=1e-4, atol=1e-4)
    network(torch.cat([x, 3 * x + 0.7]), torch.tensor([0, 0, 0, 0]))
    assert not torch.allclose(seen[1][:2], seen[1][2:], atol=0.1)


def test_each_site_skips_the_others_step() -> None:
    network = operate(a_network(), "dsbn", sites=["a", "b"]).train()
    x = images(2)
    batch = Batch(x, torch.tensor([1, 1]), ("a", "b"), {"mask": torch.ones(2, 1, 8, 8, dtype=torch.int64)})
    sum(SiteLoss(Segmentation(("vessel",)))(network, batch).values()).backward()  # type: ignore[union-attr]
    for name, p in network.named_parameters():
        assert (p.grad is None) == ("branches.0" in name), name
    assert all([int(b.num_batches_tracked) for b in layer.branches] == [0, 1] for _, layer in layers(network))  # type: ignore[arg-type]


def test_a_batch_is_a_loop_of_singles_and_an_unknown_site_the_mean_of_all() -> None:
    network, x = changed(3).eval(), images()
    site = torch.tensor([2, -1, 0, -1, 1])
    whole = network(x, site)["mask"]
    at = [network(x, torch.full((5,), which))["mask"] for which in range(3)]
    assert not torch.allclose(at[0], at[1], atol=1e-3)
    for image, which in enumerate(site.tolist()):
        expected = at[which] if which >= 0 else (at[0] + at[1] + at[2]) / 3
        torch.testing.assert_close(whole[image], expected[image])
    torch.testing.assert_close(network(x)["mask"], (at[0] + at[1] + at[2]) / 3)


def test_surgery_changes_nothing_until_sites_differ() -> None:
    x, network = images(), operate(a_network(), "dsbn", sites=["a", "b"]).eval()
    plain = a_network().eval()(x)["mask"]
    torch.testing.assert_close(network(x, SITE)["mask"], plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(network(x)["mask"], plain, rtol=0, atol=1e-6)


def test_every_batch_normalisation_is_replaced() -> None:
    network = operate(a_network(), "dsbn", sites=["a", "b"])
    plain = [name for name, module in a_network().named_modules() if type(module) is nn.BatchNorm2d]
    assert len(plain) > 1
    assert sorted(name for name, _ in layers(network)) == sorted(plain)


def test_what_cannot_be_operated_on_is_refused() -> None:
    with pytest.raises(SpecError, match="norm: batch"):
        operate(a_network("instance"), "dsbn", sites=["a"])
    with pytest.raises(SpecError, match="0 sites"):
        operate(a_network(), "dsbn", sites=[])
    opaque = Wrapped(nn.BatchNorm2d(1), "mask")
    opaque.spec = {"build": {}, "surgery": []}
    with pytest.raises(SpecError, match="Wrapped"):
        operate(opaque, "dsbn", sites=["a"])


def test_three_dimensions() -> None:
    network = operate(a_network(spatial_dims=3), "dsbn", sites=["a", "b"])
    assert network(torch.randn(3, 1, 8, 8, 8), torch.tensor([0, 1, -1]))["mask"].shape == (3, 2, 8, 8, 8)


# ---------------------------------------------------------- the recipe
def test_with_one_source_site_it_is_plain_training_bit_for_bit(tmp_path: Path) -> None:
    cohort = read(write_photographs(tmp_path, {"a": 4}))
    scenario, x = Scenario((cohort,), sites=("a",)), images(2, 16)
    ours, plain = (next(recipe.run(scenario, a_network(), a_context())).predictor for recipe in (Dsbn(), Supervised()))
    for site in (0, -1):
        batch = Batch(x, torch.tensor([site, site]), ("x", "y"))
        assert torch.equal(ours(batch)["mask"], plain(batch)["mask"])  # type: ignore[misc]


def test_the_saved_predictor_knows_the_sites(tmp_path: Path) -> None:
    live = SitePredictor(changed())
    save_predictor(live, tmp_path, {})
    kept, card = load_predictor(tmp_path)
    assert card["contains_images"] is False
    for site in ([0, 1], [1, 0], [-1, 1]):
        batch = Batch(images(2, 7), torch.tensor(site), ("x", "y"))  # padded to 8
        assert torch.equal(kept(batch)["mask"], live(batch)["mask"])
    assert kept.network.sites == ("s0", "s1")


# ---------------------------------------------------------- the study
def test_a_kept_model_knows_its_sites_wherever_it_is_used(tmp_path: Path) -> None:
    """The report's pictures and features, and ``evaluate`` on a manifest that numbers sites
    otherwise, all see what the judge saw."""
    manifest = write_brain(tmp_path / "c", sites={"a": "none", "b": "severe", "c": "medium"}, subjects=4, size=32)
    norm = {"network": {"unet": {"channels": [4, 8], "num_res_units": 1, "norm": "batch"}}}
    session = session_of(
        manifest, tmp_path / "out", "dsbn", source=["c", "a"], target=["b"], target_labels="none", **norm
    )
    world = session.prepare()
    plan = session.plan(world)
    session.run_all(world, plan, (1, 1), report=False)
    result = session.finish(world, plan, report=True)
    assert "What the features see" in (tmp_path / "out/report.html").read_text()
    tested = {case.name for site in ("a", "b", "c") for case in world.part(site, "test", 0).cases}
    header, *rows = manifest.read_text().splitlines()
    (manifest.parent / "tested.csv").write_text(
        "\n".join([header, *(row for row in rows if row.split(",")[0] in tested)]) + "\n"
    )
    found = evaluate(result.models["dsbn", "b"], manifest.parent / "tested.csv")
    line = next(line for line in result.lines if line.title == "dsbn")
    assert {site: found.metrics[site]["dice"] for site in ("a", "b", "c")} == {
        site: line.score(site) for site in ("a", "b", "c")
    }
