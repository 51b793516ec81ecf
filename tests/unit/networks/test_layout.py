"""Channels last: the same function, kept in the spec, and asked for by a key of the study."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.contract.world import session_of, write_cohort

from allograft.networks import build, rebuilt, reheaded
from allograft.networks.network import operate
from allograft.run.session import Session
from allograft.seeds import Seeds

FORMATS = {2: torch.channels_last, 3: torch.channels_last_3d}


def network(dims: int) -> Any:
    with Seeds(0).everything():
        arguments = {"in_channels": 2, "outputs": {"mask": 2}, "channels": [4, 8], "spatial_dims": dims}
        return build({"build": {"unet": arguments}}).eval()


def has_layout(net: torch.nn.Module, dims: int) -> bool:
    """Whether all convolutions have it; one of a single channel has both."""
    weights = [one for one in net.parameters() if one.dim() == dims + 2]
    return bool(weights) and all(one.is_contiguous(memory_format=FORMATS[dims]) for one in weights)


@pytest.mark.parametrize("dims", [2, 3])
def test_the_function_stays_and_the_layout_is_handed_on(dims: int) -> None:
    plain, laid = network(dims), operate(network(dims), "channels_last")
    assert has_layout(laid, dims)
    assert not has_layout(plain, dims)
    image = torch.randn(2, 2, *(8,) * dims, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(laid(image)["mask"], plain(image)["mask"], rtol=1e-4, atol=1e-5)
    assert has_layout(rebuilt(laid.spec, plain.state_dict()), dims)
    assert has_layout(reheaded(laid, {"mask": 3})[0].encoder, dims)


@pytest.mark.parametrize("wanted", [True, False])
def test_a_study_asks_for_it_by_a_key(wanted: bool, tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort")
    session: Session = session_of(manifest, tmp_path / "out", "supervised", channels_last=wanted)
    world = session.prepare()
    assert has_layout(session.start(world, 0), 2) is wanted
    (row, *_) = session.plan(world).rows
    session.run(world, row, "1 of 1")
    carry, *_ = session.store(row.unit).load()  # type: ignore[misc]
    assert has_layout(carry.network, 2) is wanted
