"""One cohort, and one whole run of each method, for all tests of the contract."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest
from tests.contract.leaving import Leaves, leaving, published_weights
from tests.contract.undisturbed import Undisturbed, undisturbed_run, with_checkpoints
from tests.contract.world import write_cohort


@pytest.fixture(scope="session", autouse=True)
def _no_wait_for_the_disk() -> Iterator[None]:
    """A process that ends here leaves what it wrote; only a machine that ends would not, and many
    small files would wait for the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(scope="session")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = write_cohort(tmp_path_factory.mktemp("cohort"))
    (made.parent / "prepared").mkdir()
    return made


@pytest.fixture(scope="session")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Undisturbed]:
    """name -> its run, with models along the way or without; made once a method."""

    @cache
    def of(name: str, *, checkpoints: bool = False) -> Undisturbed:
        changes = with_checkpoints(name) if checkpoints else {}
        return undisturbed_run(name, manifest, tmp_path_factory.mktemp(name), **changes)

    return of


@pytest.fixture(scope="session")
def leaves(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Leaves]:
    """See ``leaving``; of a method each run is made once."""
    with published_weights(tmp_path_factory.mktemp("weights")):
        yield leaving(manifest, tmp_path_factory.mktemp)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """All tests of one method run in one process, so that what they share is made once."""
    here = Path(__file__).parent
    for item in items:
        if isinstance(item, pytest.Function) and item.path.is_relative_to(here) and hasattr(item, "callspec"):
            method = item.callspec.params.get("name")
            if method and item.get_closest_marker("xdist_group") is None:
                item.add_marker(pytest.mark.xdist_group(f"contract of {method}"))
