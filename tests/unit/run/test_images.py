"""Images that a recipe shows: on the page of its row under ordinals, and on no page that is made
without images."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.contract.world import session_of, write_cohort

from allograft import table
from allograft.context import Context, Store
from allograft.figure import Images, to_json
from allograft.parts.thumbnails import subject_of, thumbnail
from allograft.predictor import Direct
from allograft.recipe import Carry, Needs, Scenario, Stage
from allograft.studies import rebuild, run_study
from allograft.tree import write_json


@dataclass(frozen=True)
class Showing:
    """Shows what it was given, and trains nothing."""

    paper: ClassVar[None] = None
    needs: ClassVar[Needs] = Needs(source_images=True, target_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Generator[Stage, None, Carry]:
        """A row per side."""
        rows = [
            [(cohort, index) for cohort in side for index in range(2)] for side in (scenario.source, scenario.target)
        ]
        words = {
            "names": ["source", "target"],
            "captions": [[f"of {subject_of(item)}" for item in row] for row in rows],
        }
        subjects = [list(map(subject_of, row)) for row in rows]
        context.show(
            "toy", Images.from_arrays("toys", [list(map(thumbnail, row)) for row in rows], **words, subjects=subjects)
        )
        yield Stage("shown", Direct(network))
        return Carry(network)


RECIPES = [
    "showing",
    {"aiva": {"rounds": 1, "clusters": 2, "first": "start"}},
    {"catenorm": {"warmup": 0.34}},
    {"fourier": {"beta": 0.3, "donors": 2, "show_images": True, "first": "start"}},
    {"cyclegan": {"first": "start"}},
]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A finished study, whose page has images."""
    folder = tmp_path_factory.mktemp("images")
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(table.METHODS, "showing", f"{__name__}:Showing")
        real = table.find
        patched.setattr(table, "find", lambda kind, name: Showing if name == "showing" else real(kind, name))
        patched.setattr("allograft.recipe.parse.find", table.find)
        changes: dict[str, Any] = {"network": {"unet": {"channels": [4, 8], "norm": "batch"}}, "source": ["a"]}
        changes |= {"target_labels": "none", "recipes": RECIPES}
        study = session_of(write_cohort(folder / "cohort"), folder / "out", "catenorm", **changes).study
        assert not run_study(study, folder / "out", say=lambda line: None).failed
        yield folder / "out"


def _page(out: Path) -> str:
    return (out / "report.html").read_text(encoding="utf-8")


def _shown(html: str) -> dict[str, list[str]]:
    """Title -> the words of each of its images."""
    every = re.findall(r"<h5>([^<]*)</h5>\s*(<svg.*?</svg>)", html, re.DOTALL)
    return {title: words for title, svg in every if (words := re.findall(r"<image [^>]*><title>([^<]*)</title>", svg))}


def test_a_page_shows_them_with_their_row_and_names_nobody(made: Path) -> None:
    html = _page(made)
    shown = _shown(html)
    assert next(iter(shown)) == "toys"
    assert all(re.fullmatch(r"of S\d{3}, S\d{3}", words) for words in shown["toys"])
    assert len(shown["toys"]) == 4
    clusters = [title for title in shown if title.startswith("cluster ")]
    assert len(clusters) == 2
    assert all(re.fullmatch(r"S\d{3}", words) for title in clusters for words in shown[title])
    over = shown["gamma and beta over a training image"]
    assert re.fullmatch(r"image, S\d{3}", over[0])
    assert len(over) == 8
    subjects = [line.split(",")[0] for line in (made / "splits.csv").read_text().splitlines()[1:]]
    assert subjects
    assert not [subject for subject in subjects if subject in html]


def test_a_page_without_images_has_none_and_all_else(made: Path) -> None:
    html = _page(made)
    kept = [figure for unit in made.glob("units/*") for figure in Store(unit).figures().values() if figure.shows_images]
    assert {figure.title for figure in kept} == set(_shown(html))
    assert len(kept) >= len(RECIPES)
    pngs = {png for figure in kept if isinstance(figure, Images) for row in figure.rows for png in row}
    assert all(png in html for png in pngs)
    rebuild(made, pictures=False)
    bare = _page(made)
    rebuild(made)
    assert _page(made) == html
    assert "data:image" in html
    assert "data:image" not in bare
    assert not [png for png in pngs if png in bare]
    assert not _shown(bare)
    assert "<h5>gamma and beta by class</h5>" in bare


def test_a_folder_of_an_earlier_version_has_a_page_without_them(made: Path) -> None:
    kept = {path: path.read_bytes() for path in made.glob("units/*/figures.json")}
    try:
        for path in kept:
            write_json(
                path, {name: to_json(figure) for name, figure in Store(path.parent).figures(images=False).items()}
            )
        rebuild(made)
    finally:
        for path, told in kept.items():
            path.write_bytes(told)
    assert not _shown(_page(made))
    assert "<img" in _page(made)
