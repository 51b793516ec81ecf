"""A figure as the page takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, RIGHT = 460, 12
"""Of a figure, and its margin at the right."""
NOTHING = Markup('<p class="quiet">no values</p>')
Hide = Callable[[str], str]
"""Takes names of patients out of words."""


@dataclass(frozen=True)
class Drawn:
    """A figure as the page takes it.

    Args:
        title: a sentence fragment.
        picture: SVG, or words in its place.
        legend: what colours and symbols mean.
        note: what is not drawn, or "".
    """

    title: str
    picture: Markup
    legend: tuple[Markup, ...] = ()
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes it takes of the page, about."""
        return len(self.picture.encode()) + sum(len(swatch.encode()) for swatch in self.legend) + 400
