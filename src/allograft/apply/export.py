"""Hand a model on: one zip of its folder, without patients' images unless they are asked for."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from allograft.errors import ModelError
from allograft.predictor.card import read_card
from allograft.tree import write_bytes


def export_model(model: Path, out: Path, *, with_images: bool = False) -> Path:
    """Write ``out``, a zip of a model folder; the same model gives the same bytes.

    Raises:
        ModelError: no model folder, or one that holds patients' images and ``with_images`` is not
            given.
    """
    card = read_card(model)
    if card.get("contains_images") and not with_images:
        raise ModelError(
            f"{model}: holds images of patients (contains_images: true in its card), which would leave with "
            "the model; allow it with --with-images, or choose a recipe that keeps none"
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(path for path in model.rglob("*") if path.is_file()):
            member = zipfile.ZipInfo(
                f"{model.resolve().name}/{file.relative_to(model).as_posix()}"
            )  # dated 1980: no clock in the bytes
            archive.writestr(member, file.read_bytes(), zipfile.ZIP_DEFLATED)
    write_bytes(out, packed.getvalue())
    return out
