"""What every test stands on: one thread, no screen, the same draws each time, and real data where
they lie."""

from __future__ import annotations

import os
from pathlib import Path

# Before torch is imported, and for the processes that tests start: sums depend on the number of
# threads.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["MPLBACKEND"] = "Agg"

import hypothesis
import pytest
import torch

torch.set_num_threads(1)

hypothesis.settings.register_profile(
    "allograft", derandomize=True, deadline=None, database=None, max_examples=50, print_blob=False
)
hypothesis.settings.load_profile("allograft")


def _folder(variable: str, what: str) -> Path:
    value = os.environ.get(variable)
    if not value:
        pytest.skip(f"{what}: set {variable} to the folder that holds them")
    folder = Path(value).resolve()
    if not folder.is_dir():
        pytest.fail(f"{variable} is '{value}', which is not a folder; correct it, or unset it to skip these tests")
    return folder


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real cohorts; the test skips where there is none."""
    return _folder("ALLOGRAFT_DATA", "real cohorts are not here")


@pytest.fixture(scope="session")
def vectors_root() -> Path:
    """The folder of reference arrays; the test skips where there is none."""
    return _folder("ALLOGRAFT_VECTORS", "reference arrays are not here")
