"""What is asked of Fabric reaches it: devices, precision, strategy and the processes of
``torchrun``."""

from __future__ import annotations

from typing import Any

import lightning_fabric
import pytest
import torch

from allograft.errors import SpecError
from allograft.run import fabric as room
from allograft.run.fabric import check_precision, find_device, local_fabric


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each Fabric that is made was asked for, and whether it was launched; every device is
    there."""
    made: list[dict[str, Any]] = []

    class Fabric:
        def __init__(self, **words: Any) -> None:
            made.append(words)

        def launch(self) -> None:
            made[-1]["launched"] = True

    monkeypatch.setattr(lightning_fabric, "Fabric", Fabric)
    monkeypatch.setattr(room, "find_device", torch.device)
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((3, "bf16-mixed", "ddp_spawn", "cpu"), ("cpu", 3, 1, "bf16-mixed", "ddp_spawn")),
        ((2, "16-mixed", "auto", "cuda"), ("cuda", 2, 1, "16-mixed", "auto")),
        ((1, "32-true", "auto", "cuda:1"), ("cuda", [1], 1, "32-true", "auto")),
    ],
)
def test_every_word_reaches_it(words: Any, expected: tuple[Any, ...], asked: list[dict[str, Any]]) -> None:
    local_fabric(*words)
    ((*names,),) = [("accelerator", "devices", "num_nodes", "precision", "strategy")]
    assert tuple(asked[0][name] for name in names) == expected
    assert asked[0]["launched"]


def test_torchrun_says_how_many_processes_and_machines_there_are(
    asked: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "LOCAL_WORLD_SIZE": "2", "WORLD_SIZE": "6"}.items():
        monkeypatch.setenv(name, value)
    local_fabric(accelerator="cpu")
    assert (asked[0]["devices"], asked[0]["num_nodes"]) == (2, 3)


def test_one_numbered_device_is_no_several(asked: list[dict[str, Any]]) -> None:
    with pytest.raises(SpecError, match=r"device: 'cuda:1' is one device, and devices is 2; choose device cuda"):
        local_fabric(2, accelerator="cuda:1")
    assert asked == []


@pytest.mark.parametrize("error", [ValueError, TypeError, RuntimeError, ImportError])
def test_what_it_refuses_is_an_error_of_the_study(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**_: Any) -> None:
        raise error("first line\nsecond line")

    monkeypatch.setattr(lightning_fabric, "Fabric", refused)
    with pytest.raises(SpecError, match=r"devices 1, strategy odd, on cpu: cannot be used here \(first line\)"):
        local_fabric(strategy="odd", accelerator="cpu")


@pytest.mark.parametrize(
    ("precision", "device", "said"),
    [
        ("16-mixed", "cpu", "16-mixed needs a GPU"),
        ("64-true", "cpu", "found '64-true'"),
        ("16-mixed", "cuda", ""),
        ("bf16-mixed", "cpu", ""),
        ("32-true", "cpu", ""),
    ],
)
def test_which_precision_goes_where(precision: str, device: str, said: str) -> None:
    if said:
        with pytest.raises(SpecError, match=said):
            check_precision(precision, torch.device(device))
    else:
        check_precision(precision, torch.device(device))


def test_a_device_is_named_or_found() -> None:
    assert find_device("cpu") == torch.device("cpu")
    for absent in ("cuda:63", "nonsense"):
        with pytest.raises(SpecError, match=f"device: '{absent}' cannot be used here"):
            find_device(absent)
