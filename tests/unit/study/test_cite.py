"""BibTeX of what a study used."""

from __future__ import annotations

from dataclasses import replace

from allograft.recipe import parse_recipe
from allograft.study.cite import OURS, bibtex, papers
from allograft.table import rows


def test_a_recipe_cites_what_it_is_built_on_each_once():
    nested = parse_recipe({"octl": {"first": {"fourier": {}}}})
    assert {paper.key for paper in papers([nested, nested])} == {nested.paper.key, nested.first.paper.key}


def test_a_doi_is_as_it_is_and_a_title_is_escaped():
    entry = bibtex(replace(OURS, title="A_B", doi="10.1/a_b"))
    assert r"title = {A\_B}," in entry
    assert "doi = {10.1/a_b}," in entry


def test_every_method_with_a_paper_gives_an_entry_with_braces_that_close():
    every = papers([parse_recipe(name) for name in rows("method")])
    assert len(every) > 5
    for paper in (OURS, *every):
        entry = bibtex(paper)
        assert entry.count("{") == entry.count("}")
        assert entry.startswith("@")
        assert str(paper.year) in entry
