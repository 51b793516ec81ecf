"""``adapt``: the study that it asks, from the model's card and the new manifest, and what it keeps
of the old model."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.unit.tiny import write_rows

from allograft import adapt
from allograft.adapt import adapt_model, adaptation
from allograft.errors import ModelError
from allograft.methods.finetune import Finetune
from allograft.recipe import title
from allograft.results.verdict import Verdict
from allograft.run.closing import Result
from allograft.study.rows import source_free

CARD: dict[str, Any] = {
    "format": 1,
    "task": {"segmentation": {"classes": {"lesion": [7]}}},
    "preprocessing": {"intensity": "none", "spacing": [1.0, 2.0, 3.0]},
    "slices": {"axis": 1, "neighbours": 2},
}


def model(folder: Path, **changes: Any) -> Path:
    """A folder with a card; no study reads its weights before it runs."""
    folder.mkdir(parents=True, exist_ok=True)
    card = {key: value for key, value in {**CARD, **changes}.items() if value != "absent"}
    (folder / "card.json").write_text(json.dumps(card))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def manifest(folder: Path, *masks: str) -> Path:
    """A case of a site each, with a mask or without."""
    rows = [{"image": f"{n}.png", "mask": mask, "subject": f"s{n}", "site": "zab"[n]} for n, mask in enumerate(masks)]
    for row in rows:
        for name in filter(None, (row["image"], row["mask"])):
            (folder / name).write_bytes(b"")
    return write_rows(folder / "new.csv", rows)


def test_images_are_prepared_as_the_model_was_trained_on_them(tmp_path: Path) -> None:
    old, new = model(tmp_path / "old"), manifest(tmp_path, "m.png", "", "")
    study = adaptation(old, new, "finetune")
    assert study.task == CARD["task"]
    assert (study.preprocessing.intensity, study.preprocessing.spacing) == ("none", (1.0, 2.0, 3.0))
    assert study.slices is not None
    assert (study.slices.axis, study.slices.neighbours) == (1, 2)
    assert (study.start, study.source, study.target) == (str(old.resolve()), (), ("a", "b", "z"))
    assert Path(str(study.cohort)) == new.resolve()
    assert (study.seeds, study.baselines) == (1, False)
    assert [title(row) for row in study.recipes] == [title(Finetune())]
    assert adaptation(model(tmp_path / "planes", slices="absent"), new, "finetune").slices is None


def test_all_labels_may_be_used_where_any_case_has_one(tmp_path: Path) -> None:
    old = model(tmp_path / "old")
    for name, masks, labels in (("none", ("", ""), "none"), ("last", ("", "m.png"), "all")):
        (tmp_path / name).mkdir()
        assert adaptation(old, manifest(tmp_path / name, *masks), "adabn").target_labels == labels


def test_rows_to_compare_with_and_further_keys_come_where_they_are_asked_for(tmp_path: Path) -> None:
    old, new = model(tmp_path / "old"), manifest(tmp_path, "m.png")
    asked = adaptation(old, new, "finetune", compare=True, overrides={"seeds": 3, "budget": {"adapt_steps": 7}})
    assert (asked.baselines, asked.seeds, asked.budget.adapt_steps) == (True, 3, 7)


@pytest.mark.parametrize("key", ["task", "preprocessing"])
def test_a_card_without_what_preparing_images_needs_is_refused(key: str, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"the card lacks '{key}'; use a folder below models/"):
        adaptation(model(tmp_path / "old", **{key: "absent"}), manifest(tmp_path, "m.png"), "finetune")


def test_the_study_is_run_as_it_is_asked_and_the_old_model_is_kept_where_the_new_one_loses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new, out = model(tmp_path / "old"), manifest(tmp_path, "m.png", "m.png"), tmp_path / "out"
    told: list[Any] = []
    said: list[str] = []
    marks: dict[str, dict[str, tuple[str, ...]]] = {"a": {}, "z": {}}

    def run_study(study: Any, out: Path, **options: Any) -> Result:
        told.append((study, out, options))
        verdicts = {target: Verdict("keep", "", marks=of) for target, of in marks.items()}
        return Result(out, study, None, (), {}, SimpleNamespace(verdicts=verdicts))  # type: ignore[arg-type]

    monkeypatch.setattr(adapt, "run_study", run_study)
    fabric = object()

    def again() -> Path:
        adapt_model(
            old,
            new,
            "finetune",
            out,
            compare=True,
            overrides={"seeds": 2},
            fabric=fabric,
            say=said.append,
            progress=False,
        )
        return out / "models" / "before"

    assert not again().exists()
    ((study, where, options),) = told
    assert (study.baselines, study.seeds, where) == (True, 2, out)
    assert options == {"fabric": fabric, "say": said.append, "progress": False}
    marks["z"] = {"start": ("loses 0.1 at z",)}  # the old model itself, and what is only compared with
    marks["a"] = {"target_supervised": ("loses 0.2 at a",)}
    assert not again().exists()
    assert said == []
    ours = title(source_free(Finetune()))
    marks["a"] = {ours: ("loses 0.2 at a", "forgets 0.1 at b")}
    before = again()
    assert {path.name for path in before.iterdir()} == {"card.json", "model.safetensors"}
    assert said == [
        f"the new model is worse somewhere: {ours} loses 0.2 at a, forgets 0.1 at b. The old one is kept next to it: "
        f"{before}"
    ]
    (before / "stale").write_text("of an earlier run")
    assert not (again() / "stale").exists()
