"""What the recipes of a session start from and run in, seed by seed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tests.contract.world import session_of, write_cohort
from torch import Tensor, nn

from allograft.run.session import Session


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cohort(tmp_path_factory.mktemp("cohort"))


class Own(nn.Module):
    """A network of one's own."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image)  # type: ignore[no-any-return]


def weights(session: Session, seed: int) -> list[float]:
    return torch.cat([p.flatten() for p in session.start_of(1, seed).parameters()]).tolist()


def test_every_seed_draws_its_own_network_and_a_module_of_ones_own_is_the_start_of_all(
    manifest: Path, tmp_path: Path
) -> None:
    plain = session_of(manifest, tmp_path / "out", "supervised")
    module = Own()
    for session, alike in (
        (plain, False),
        (replace(plain, network=Own), False),
        (replace(plain, network=module), True),
    ):
        first = weights(session, 0)
        assert weights(session, 0) == first
        assert (weights(session, 1) == first) == alike
    made = replace(plain, network=module).start_of(1, 0)
    with torch.no_grad():
        for p in made.parameters():
            p.add_(1.0)
    assert weights(replace(plain, network=module), 0) != torch.cat([p.flatten() for p in made.parameters()]).tolist()
    template = replace(plain, network=module).context(3).template
    assert template is module
    assert isinstance(replace(plain, network=Own).context(3).template, Own)
    assert plain.context(3).template is None


def test_a_network_has_the_channels_and_the_layout_that_the_study_asks_for(manifest: Path, tmp_path: Path) -> None:
    plain = session_of(manifest, tmp_path / "out", "supervised")
    first = next(iter(plain.start_of(3, 0).parameters()))
    assert first.shape[1] == 3
    last = replace(plain, study=replace(plain.study, channels_last=True)).start_of(3, 0)
    assert last.spec["surgery"] != plain.start_of(3, 0).spec["surgery"]


def test_a_context_is_of_its_seed_and_keeps_no_optimizer_that_nobody_continues(manifest: Path, tmp_path: Path) -> None:
    session = replace(session_of(manifest, tmp_path / "out", "supervised"), progress=False, continued=frozenset({"x"}))
    context = session.context(5)
    assert (context.seeds.seed, context.progress, context.continues) == (5, False, False)
    assert (context.continued, context.folder) == (frozenset({"x"}), session.out / "units")
    assert (context.task, context.settings) == (session.study.made_task, session.study.settings)
