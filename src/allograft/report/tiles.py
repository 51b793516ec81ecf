"""Small images in rows, as inline SVG."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from allograft.figure import TILE, Images
from allograft.report.drawn import NOTHING, WIDTH, Drawn, Hide
from allograft.report.svg import shortened, svg

FEWEST, GAP, LINE = 4, 4, 18
"""Images for which a row has room at least, units between two, and units of a line of words."""


def draw_images(figure: Images, hide: Hide, ordinals: Mapping[str, str]) -> Drawn:
    """Rows of images, each row under its name, each image above its caption and the ordinal of its
    subject.

    A subject that is not among the ordinals is not written.
    """
    title = hide(figure.title)
    if not any(figure.rows):
        return Drawn(title, NOTHING)
    size = min(TILE, (WIDTH + GAP) / max(FEWEST, *map(len, figure.rows)) - GAP)
    parts, y = [], 0.0
    for number, row in enumerate(figure.rows):
        if figure.names:
            name, fits = hide(figure.names[number]), WIDTH // 6
            parts.append(Markup('<text class="name" x="0" y="{}">{}</text>').format(y + 12, shortened(name, fits)))
            y += LINE
        words = _words(figure, number, hide, ordinals)
        parts += [_tile(png, words[at], (at * (size + GAP), y), size) for at, png in enumerate(row)]
        y += size + (LINE if any(words) else 0) + GAP
    return Drawn(title, svg(WIDTH, y, title, parts), note=hide(figure.note))


def _words(figure: Images, number: int, hide: Hide, ordinals: Mapping[str, str]) -> list[str]:
    """What is written below each image of a row."""
    empty = ("",) * len(figure.rows[number])
    captions = figure.captions[number] if figure.captions else empty
    subjects = figure.subjects[number] if figure.subjects else empty
    both = [(hide(caption), ordinals.get(subject, "")) for caption, subject in zip(captions, subjects, strict=True)]
    return [", ".join(filter(None, words)) for words in both]


def _tile(png: str, words: str, corner: tuple[float, float], size: float) -> Markup:
    x, y = corner
    box = Markup('<image x="{:.1f}" y="{:.1f}" width="{w:.1f}" height="{w:.1f}" href="{}"><title>{}</title></image>')
    image = box.format(x, y, f"data:image/png;base64,{png}", words, w=size)
    if not words:
        return image
    below = Markup('<text class="tick" text-anchor="middle" x="{:.1f}" y="{:.1f}">{}</text>')
    return image + below.format(x + size / 2, y + size + 13, shortened(words, int(size / 6.4)))
