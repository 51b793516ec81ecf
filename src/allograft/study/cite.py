"""What to cite for a study: the papers of its recipes and of the recipes these build on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import fields

from allograft import __version__
from allograft.recipe import Paper, Recipe, is_recipe

OURS = Paper(
    key="allograft",
    authors="The Allograft authors",
    title=f"Allograft {__version__}: Carry a Medical-Imaging Model from One Hospital to the Next",
    venue="",
    year=2026,
)


def papers(recipes: Iterable[Recipe]) -> list[Paper]:
    """The papers of recipes and of those in their fields, each once, by author."""
    by_key = {paper.key: paper for recipe in recipes for paper in _papers(recipe)}
    return sorted(by_key.values(), key=lambda paper: (paper.authors, paper.year, paper.key))


def bibtex(paper: Paper) -> str:
    """One BibTeX entry.

    >>> print(bibtex(Paper("a2020b", "A, B. and C, D.", "On E & F", "Proc. G", 2020, "10.1/x")))
    @inproceedings{a2020b,
      author = {A, B. and C, D.},
      title = {On E \\& F},
      booktitle = {Proc. G},
      year = {2020},
      doi = {10.1/x},
    }
    """
    kind, where = ("inproceedings", "booktitle") if paper.venue else ("software", "")
    rows = {
        "author": paper.authors,
        "title": paper.title,
        where: paper.venue,
        "year": str(paper.year),
        "doi": paper.doi,
    }
    body = [f"  {key} = {{{value if key == 'doi' else _escaped(value)}}}," for key, value in rows.items() if value]
    return "\n".join([f"@{kind}{{{paper.key},", *body, "}"])


def _papers(recipe: Recipe) -> Iterator[Paper]:
    if recipe.paper is not None:
        yield recipe.paper
    for field in fields(recipe):
        if is_recipe(value := getattr(recipe, field.name)):
            yield from _papers(value)


def _escaped(text: str) -> str:
    for sign in ("&", "%", "_", "#"):
        text = text.replace(sign, f"\\{sign}")
    return text
