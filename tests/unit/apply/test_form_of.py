"""What an export is to be: as it is asked for, whatever the file is called, or else by the end of its name."""

from __future__ import annotations

from pathlib import Path

import pytest

from allograft.apply.graph import form_of
from allograft.errors import ModelError


@pytest.mark.parametrize(
    ("name", "asked", "form"),
    [
        ("m.onnx", None, "onnx"),
        ("m.ONNX", None, "onnx"),
        ("m.pt2", None, "torch-export"),
        ("m.zip", None, None),
        ("m", None, None),
        ("m.zip", "onnx", "onnx"),
        ("m.onnx", "torch-export", "torch-export"),
        ("m.onnx", "zip", None),
    ],
)
def test_a_form_is_asked_for_or_told_by_the_name(name: str, asked: str | None, form: str | None) -> None:
    assert form_of(Path(name), asked) == form


@pytest.mark.parametrize("asked", ["", "pt2", "ONNX"])
def test_a_form_that_is_none_is_refused(asked: str) -> None:
    with pytest.raises(ModelError, match=rf"--format: found '{asked}', expected zip, onnx or torch-export"):
        form_of(Path("m.onnx"), asked)
