"""The further sections of a tiny study: every finished line shows its features, all but two of them
in a fold."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from tests.contract.world import session_of, write_cohort
from tests.unit.results.analysis.test_forgetting import PLAN, a_folder, run_of

from allograft.figure import Points
from allograft.report import sections
from allograft.results.analysis import embedding, features, robustness
from allograft.results.record import read_all
from allograft.studies import run_study


def judged_cases(out: Path) -> list[dict[str, Any]]:
    return [case for record in read_all(out).values() if record.part in ("val", "test") for case in record.cases]


def test_every_finished_line_shows_its_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipes = ["finetune", {"fourier": {"beta": 0.1, "donors": 2}}]
    study = session_of(
        write_cohort(tmp_path / "cohort"), tmp_path / "out", "finetune", recipes=recipes, target=["b"]
    ).study
    sizes: dict[str, int] = {}
    real = embedding.embedding

    def watched(*positional: Any, **named: Any) -> Any:
        sizes[named["title"]] = named["most"]
        return real(*positional, **named)

    monkeypatch.setattr(embedding, "embedding", watched)
    seen_before: list[int] = []
    look = robustness.cloud_of
    monkeypatch.setattr(robustness, "cloud_of", lambda *given: (seen_before.append(len(given[5])), look(*given))[1])
    predicted: list[str] = []
    again = features._look
    monkeypatch.setattr(features, "_look", lambda *given: (predicted.append(given[3].case.name), again(*given))[1])
    made: list[Any] = []
    draw = sections.sections_of

    def kept(*positional: Any, **named: Any) -> Any:
        made.append(draw(*positional, **named))
        return made[-1]

    monkeypatch.setattr(sections, "sections_of", kept)
    result = run_study(study, tmp_path / "out", say=lambda line: None)
    assert not result.failed
    assert len(seen_before) == len(result.lines)
    assert all(seen_before)  # of each model, features that its figure has already
    assert predicted
    assert not {*predicted} & {case["case"] for case in judged_cases(tmp_path / "out")}
    (extra,) = [one for one in made[-1]["b"] if one.title == "What the features see"]
    first = [line.title for line in result.lines if line.chosen or line.title == "supervised"]
    others = [line.title for line in result.lines if line.title not in first]
    assert len(others) >= 3
    assert [figure.title for figure in extra.figures] == [f"features of {title} at b" for title in first]
    assert [figure.title for figure in extra.folded.figures] == [f"features of {title} at b" for title in others]
    for figure in (*extra.figures, *extra.folded.figures):
        assert isinstance(figure, Points)
        assert set(figure.group) == {"source", "target, training", "target, test"}
        assert figure.colour_axis == "loss"
    assert {sizes[f"{title} at b"] for title in others} == {embedding.FURTHER}
    assert {sizes[f"{title} at b"] for title in first} == {embedding.MOST}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    (fold,) = re.findall(
        r"<details>\s*<summary>The features of the other recipes</summary>.*?</details>", page, re.DOTALL
    )
    assert all(f"features of {title} at b" in fold for title in others)


def test_forgetting_is_a_section_where_it_says_more_than_the_table() -> None:
    world = cast(Any, SimpleNamespace(study=SimpleNamespace(source=("a",))))
    every = {record.name: record for record in a_folder()}
    (section,) = sections._forgetting(PLAN, every, world, "b")
    assert len(section.sheets) == 2
    one_budget = [*run_of("supervised", 0, 0, 0.8, 0.3), *run_of("finetune", 2, 0, 0.5, 0.6)]
    assert sections._forgetting(PLAN, {record.name: record for record in one_budget}, world, "b") == []
