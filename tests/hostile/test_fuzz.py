"""Drawn inputs: of the readers of studies, manifests and cards nothing but an ``AllograftError``
may escape."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from allograft.cohort.manifest import read_manifest
from allograft.errors import AllograftError
from allograft.predictor.card import read_card
from allograft.predictor.folder import load_predictor, save_predictor
from allograft.strict import parse_yaml
from allograft.study.reading import make_study, read_study

FEW = settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
YAML = st.text(st.sampled_from(list("ab:-[]{}&*!?|>'\"%@`#,.\n\t 0123e_~<=\x00\x85\ud7ff")), max_size=60)
CELLS = st.lists(
    st.lists(st.text(max_size=6) | st.sampled_from(["image", "subject", "site", "..", "/", "\0", '"']), max_size=4),
    max_size=4,
)
KEYS = (
    "cohort",
    "task",
    "network",
    "source",
    "target",
    "recipes",
    "test",
    "budget",
    "optimizer",
    "schedule",
    "preprocessing",
    "target_labels",
    "patch",
    "where",
)
STUDY = {
    "cohort": "m.csv",
    "task": {"segmentation": {"classes": ["a"]}},
    "source": ["a"],
    "target": ["b"],
    "recipes": ["finetune"],
}


@FEW
@given(st.one_of(YAML, st.binary(max_size=60).map(lambda raw: raw.decode("latin-1"))))
def test_yaml(text: str) -> None:
    with contextlib.suppress(AllograftError):
        parse_yaml(text, "study.yaml")


@FEW
@given(st.binary(max_size=80))
def test_a_study_file_of_bytes(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "study.yaml").write_bytes(content)
    with pytest.raises(AllograftError, match="stud"):
        read_study(tmp_path / "study.yaml")


@FEW
@given(st.sampled_from(KEYS), JSON)
def test_a_study_with_any_value(key: str, value: object) -> None:
    with contextlib.suppress(AllograftError):
        made = make_study({**STUDY, key: value})
        assert made.settings is not None
        assert made.rows


@FEW
@given(
    st.one_of(
        st.binary(max_size=80),
        CELLS.map(lambda rows: "\n".join(",".join(row) for row in rows).encode("utf-8", "surrogatepass")),
    )
)
def test_a_manifest(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "manifest.csv"
    path.write_bytes(content)
    with pytest.raises(AllograftError, match=r"manifest\.csv"):
        read_manifest(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from allograft.networks import build
    from allograft.predictor import Direct

    folder = tmp_path_factory.mktemp("model")
    save_predictor(
        Direct(build({"build": {"unet": {"in_channels": 1, "outputs": {"mask": 2}, "channels": [2, 4]}}})), folder, {}
    )
    return folder


@FEW
@given(st.binary(max_size=80) | JSON.map(lambda tree: json.dumps(tree).encode()))
def test_a_card_of_anything(model: Path, content: bytes) -> None:
    sound = (model / "card.json").read_bytes()
    try:
        (model / "card.json").write_bytes(content)
        with pytest.raises(AllograftError, match="card"):
            read_card(model)
    finally:
        (model / "card.json").write_bytes(sound)


@FEW
@given(st.data())
def test_a_card_with_any_value_anywhere(model: Path, data: st.DataObject) -> None:
    sound = (model / "card.json").read_bytes()
    card = json.loads(sound)
    card.pop("checksum")
    place = card
    while True:  # down to some key
        key = data.draw(st.sampled_from(sorted(place)))
        if not (isinstance(place[key], dict) and place[key]) or data.draw(st.integers(0, 4)) == 0:
            break
        place = place[key]
    place[key] = data.draw(JSON)
    try:
        (model / "card.json").write_text(json.dumps(card))
        with contextlib.suppress(AllograftError):
            load_predictor(model)
    finally:
        (model / "card.json").write_bytes(sound)
