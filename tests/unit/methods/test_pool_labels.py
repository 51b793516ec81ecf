"""Supervised pre-training on the pool: its classes, its share, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import row_of, session_of, write_cohort
from tests.unit.networks.tiny import made
from tests.unit.pretraining import a_pretraining, finished, pool_of
from tests.unit.tiny import write_photographs, write_rows

from allograft.cohort import Coding, Cohort
from allograft.errors import SpecError
from allograft.methods import octl
from allograft.methods.pool_labels import CLASS, Classes, PoolLabels, classes_of, named, shared
from allograft.networks import reheaded
from allograft.recipe import Scenario
from allograft.study.plan import scenario_of

CONTRACT = {
    "study": {"pool": ["a", "d", "b"]},
    "options": {"share": 0.5, "epochs": 1, "pool": ["a", "d"]},
    "marks": (),
}


def two_datasets(folder: Path) -> tuple[Cohort, ...]:
    """One of two labels in two sites, one image without; one with no labels in two sites."""
    rows = [
        {"image": f"a{n}.png", "subject": f"a{n}", "site": "a" if n < 3 else "b", "label": label}
        for n, label in enumerate(["cat", "dog", "cat", "dog", ""])
    ]
    write_photographs(folder / "first", {"a": 5})
    first = Cohort.read(write_rows(folder / "first" / "manifest.csv", rows), Coding(label=("healthy", "ill")))
    second = Cohort.read(write_photographs(folder / "second", {"c": 2, "d": 2}))
    return first.site("a"), first.site("b"), second.site("c"), second.site("d")


def test_a_class_is_a_label_of_a_data_set_or_a_site_without_labels(tmp_path: Path) -> None:
    pool = two_datasets(tmp_path)
    assert classes_of(pool) == {"a: cat": 0, "a: dog": 1, "c": 2, "d": 3}
    by_case = {case.subject: name for case, name in named(pool)}
    assert by_case == {
        "a0": "a: cat", "a1": "a: dog", "a2": "a: cat", "a3": "a: dog", "c0": "c", "c1": "c", "d0": "d", "d1": "d",
    }  # fmt: skip


def test_a_smaller_share_lies_in_a_larger_one(tmp_path: Path) -> None:
    pool = two_datasets(tmp_path)
    subjects = [{s for cohort in shared(pool, share) for s in cohort.subjects} for share in (0.25, 0.5, 1.0)]
    assert subjects[0] < subjects[1] < subjects[2]
    assert subjects[2] == {"a0", "a1", "a2", "a3", "c0", "c1", "d0", "d1"}  # the image without a label has no class
    assert len(subjects[1] - {"a0", "a1", "a2", "a3"}) == 2


def test_it_learns_classes_that_the_task_does_not_have(tmp_path: Path) -> None:
    pool = two_datasets(tmp_path / "images")
    scenario, (network, _) = Scenario(pool=pool, sites=("a", "b", "c", "d")), reheaded(made("resnet"), {})
    (stage,), carry = finished(PoolLabels(), scenario, network, a_pretraining(tmp_path / "out", 30))  # type: ignore[arg-type]
    assert stage.predictor is None
    assert stage.facts["classes"] == 4
    assert stage.facts["images"] == 8
    (short,), _ = finished(PoolLabels(), scenario, network, a_pretraining(tmp_path / "out", 2))  # type: ignore[arg-type]
    assert float(stage.facts["cross_entropy"]) < float(short.facts["cross_entropy"])
    before = network.state_dict()
    assert any(not torch.equal(value, before[name]) for name, value in carry.network.state_dict().items())


def test_the_loss_is_that_of_the_mean_feature(tmp_path: Path) -> None:
    from allograft.batch import Batch

    network, objective = made("resnet").eval(), Classes(512, 3)
    image = torch.randn(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    batch = Batch(image, torch.zeros(2).long(), ("a", "b"), attributes={CLASS: torch.tensor([2, 0])})
    logits = objective.linear(network.encoder(image)[-1].mean((2, 3)))
    shares = logits.softmax(1)
    expected = -(shares[0, 2].log() + shares[1, 0].log()) / 2
    torch.testing.assert_close(objective(network, batch)["cross_entropy"], expected)


def test_bad_input_is_refused(tmp_path: Path) -> None:
    context, network = a_pretraining(tmp_path / "out"), made("resnet")
    with pytest.raises(SpecError, match="pool_labels: all images of the pool are of one class, a;"):
        PoolLabels().check(pool_of(tmp_path / "one", a=3), network, context)
    with pytest.raises(SpecError, match="pool_labels: the pool has one image"):
        PoolLabels().check(pool_of(tmp_path / "single", a=1), network, context)
    with pytest.raises(SpecError, match="share is 2; expected at most 1"):
        PoolLabels(share=2)


def test_octl_continues_its_optimizer_in_the_encoder_under_a_new_head(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Goodman et al. 2022, table 5: labels of another set at the source."""
    continued: list[tuple[set[str], int]] = []
    real = octl.continue_optimizer

    def watched(optimizer: torch.optim.Optimizer, state: Any, *, start_step: int, network: torch.nn.Module) -> int:
        count = real(optimizer, state, start_step=start_step, network=network)
        continued.append((set(state["state"]), count))
        return count

    monkeypatch.setattr(octl, "continue_optimizer", watched)
    recipe = {"octl": {"first": "pool_labels"}}
    session = session_of(write_cohort(tmp_path / "cohort"), tmp_path / "out", recipe, pool=["a", "d"])
    world = session.prepare()
    row = row_of(session, world)
    network = session.start(world, row.seed)
    list(session.context(row.seed).run(row.recipe, scenario_of(world, row), network))
    ((names, count),) = continued
    encoder = {name for name, _ in network.named_parameters() if name.startswith("encoder.")}
    assert names == encoder
    assert count == len(encoder)
