"""What a record of scores holds, number by number, and which files are no such record."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from allograft.apply import travelling
from allograft.apply.evaluate import Evaluation
from allograft.apply.travelling import LONGEST, SiteRecord, read_site_record, site_record
from allograft.cohort import Case
from allograft.errors import ModelError, OutputError, SpecError

CARD = {"unit": "u", "stage": "tuned", "checksum": "sum", "task": {"segmentation": {"classes": ["blob"]}}}
PLACES = [("a.png", "q", "north"), ("b.png", "p", "south"), ("c.png", "q", "north"), ("d.png", "r", "south")]


@pytest.fixture
def cases(tmp_path: Path) -> tuple[Case, ...]:
    made = []
    for name, subject, site in PLACES:
        for path in (tmp_path / name, tmp_path / f"mask-{name}"):
            path.write_bytes(path.name.encode())
        labels = {"mask": tmp_path / f"mask-{name}"}
        made.append(Case(name, subject, site, (tmp_path / name,), labels=labels))
    return tuple(made)


def recorded(cases: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch, **how: Any) -> SiteRecord:
    rows = [
        {
            "case": case.name,
            "subject": case.subject,
            "site": case.site,
            "dice": 0.25 * n,
            "dice/blob": None,
            "k": [n, 2],
        }
        for n, case in enumerate(cases)
        if n != 1
    ]
    monkeypatch.setattr(travelling, "_card", lambda model: CARD)
    monkeypatch.setattr(travelling, "read_manifest", lambda path: cases)
    return site_record(Evaluation({}, tuple(rows), 5), Path("model"), Path("m.csv"), **how)


def test_cases_subjects_and_sites_are_numbers_and_the_rest_is_as_it_was_measured(
    cases: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = recorded(cases, monkeypatch, sites=("n", "s"), surface_dice=1.5)
    assert [(each["case"], each["subject"], each["site"]) for each in made.cases] == [(1, 1, 1), (3, 1, 1), (4, 3, 2)]
    assert [(each["dice"], each["dice/blob"], each["k"]) for each in made.cases] == [
        (0.0, None, [0, 2]),
        (0.5, None, [2, 2]),
        (0.75, None, [3, 2]),
    ]
    assert (made.unit, made.stage, made.model, made.sites) == ("u", "tuned", "sum", ("n", "s"))
    assert (made.unlabelled, made.surface_dice) == (5, 1.5)
    assert recorded(cases, monkeypatch).sites == ("", "")
    assert recorded(cases, monkeypatch).surface_dice is None


def test_the_data_are_known_by_the_bytes_of_images_and_labels_and_not_by_their_names(
    cases: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = recorded(cases, monkeypatch).data
    (tmp_path / "b.png").rename(tmp_path / "else.png")
    moved = (cases[0], replace(cases[1], image=(tmp_path / "else.png",)), *cases[2:])
    assert recorded(moved, monkeypatch).data == before
    for name in ("d.png", "mask-d.png"):
        kept = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(b"other")
        assert recorded(moved, monkeypatch).data != before
        (tmp_path / name).write_bytes(kept)


@pytest.mark.parametrize(
    ("sites", "said"),
    [
        (("n",), "found 1 names, and the manifest has 2 sites"),
        (("n", "s", "x"), "found 3 names, and the manifest has 2 sites"),
        (("n", "n"), "a name is given twice in n, n"),
        (("n", " "), "' ' is no name"),
        (("n", "a\tb"), "is no name"),
        (("n", "x" * (LONGEST + 1)), f"is no name; expected 1 to {LONGEST} printable characters"),
    ],
)
def test_names_of_sites_are_one_for_each(
    sites: tuple[str, ...], said: str, cases: tuple[Case, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SpecError, match=said):
        recorded(cases, monkeypatch, sites=sites)
    recorded(cases, monkeypatch, sites=("n", "x" * LONGEST))


@pytest.mark.parametrize("key", ["unit", "stage", "checksum"])
def test_a_card_that_does_not_say_which_model_it_is_of_is_refused(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "card.json").touch()
    monkeypatch.setattr(travelling, "read_card", lambda folder: {**CARD, key: ""})
    with pytest.raises(ModelError, match=f"names no {key}, so no table would know the record's model"):
        travelling._card(tmp_path)
    monkeypatch.setattr(travelling, "read_card", lambda folder: CARD)
    assert travelling._card(tmp_path) == CARD


# ---------------------------------------------------------- the file
PLAIN = SiteRecord("u", "tuned", "sum", "d", ("n", ""), ({"case": 1, "subject": 1, "site": 2, "dice": 0.5},), 3, 1.0)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    PLAIN.write(tmp_path / "r.json")
    assert read_site_record(tmp_path / "r.json") == PLAIN
    assert len({PLAIN.hash, *(replace(PLAIN, **change).hash for change in CHANGES)}) == 1 + len(CHANGES)


CHANGES: list[dict[str, Any]] = [
    {"unit": "v"},
    {"stage": "x"},
    {"model": "y"},
    {"data": "e"},
    {"sites": ("n", "s")},
    {"cases": ({**PLAIN.cases[0], "dice": 0.6},)},
    {"unlabelled": 4},
    {"surface_dice": 2.0},
    {"allograft": "0"},
]


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_that_was_changed_by_hand_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    tree = {**asdict(PLAIN), "checksum": PLAIN.hash, **change}
    (tmp_path / "r.json").write_text(json.dumps(tree))
    with pytest.raises(OutputError, match="its content does not match its checksum"):
        read_site_record(tmp_path / "r.json")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"sites": ("a\tb", "")}, "it names a site as none can be named"),
        ({"cases": ({**PLAIN.cases[0], "site": 3},)}, "its cases are of sites that it does not list"),
        ({"cases": ({**PLAIN.cases[0], "site": 0},)}, "its cases are of sites that it does not list"),
        ({"schema": 2}, "schema 2, written by Allograft .*expected schema 1"),
    ],
)
def test_a_record_that_nobody_can_have_written_is_refused(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    replace(PLAIN, **change).write(tmp_path / "r.json")
    with pytest.raises(OutputError, match=said):
        read_site_record(tmp_path / "r.json")


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"schema": 1}', "null"])
def test_another_file_is_no_record(text: str, tmp_path: Path) -> None:
    (tmp_path / "r.json").write_text(text)
    with pytest.raises(OutputError, match="not a record of 'allograft evaluate'"):
        read_site_record(tmp_path / "r.json")
