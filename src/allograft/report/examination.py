"""The page of ``allograft doctor``: what a cohort holds and what stops a study of it, in the hand
of a study's report."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from allograft.cohort.doctor import Diagnosis
from allograft.cohort.doctor_text import distance_rows, site_facts
from allograft.cohort.histograms import Histogram
from allograft.cohort.manifest import read_manifest
from allograft.figure import Lines
from allograft.report.drawn import Drawn
from allograft.report.figures import draw_figure
from allograft.report.overlay import class_colour
from allograft.report.page import template
from allograft.report.spans import span_plot, spans
from allograft.report.thumbnails import thumbnails
from allograft.tree import write_bytes

MOST_SITES, MOST_CODES = 12, 14
"""Curves in a plot of grey values, and mask values in the legend; colours come round again."""


def write_examination(path: Path, diagnosis: Diagnosis, manifest: Path | None) -> None:
    """Write a page without scripts, escaped: cases by their row in the manifest, subjects as
    ordinals. An older one is replaced whole or not at all.

    Args:
        manifest: read again for a few images of each site; None for a page without images.

    Raises:
        OutputError: the file cannot be written.
    """
    codes = sorted({int(code) for site in diagnosis.sites for code in site.codes} - {0})
    sizes = spans({site.name: site.sizes for site in diagnosis.sites if site.sizes})
    spacings = spans({site.name: site.spacings for site in diagnosis.sites if site.spacings})
    facts = {site.name: dict(site_facts(site)) for site in diagnosis.sites}
    page = template("examination.html.j2").render(
        diagnosis=diagnosis,
        names=list(dict.fromkeys(name for values in facts.values() for name in values)),
        facts=facts,
        distances=distance_rows(diagnosis),
        codes=[(f"mask value {code}", class_colour(number)) for number, code in enumerate(codes[:MOST_CODES], 1)],
        thumbnails={} if manifest is None else thumbnails(read_manifest(manifest), codes),
        plots=[
            ("Sizes", span_plot(sizes, "pixels along an axis")),
            ("Spacings", span_plot(spacings, "mm between pixels")),
        ],
        histograms=[_drawn(histogram) for histogram in diagnosis.histograms],
    )
    write_bytes(path, page.encode())


def _drawn(histogram: Histogram) -> Drawn:
    """A curve for each site; beyond a dozen sites the first ones."""
    middles = tuple((low + high) / 2 for low, high in pairwise(histogram.edges))
    title = {"before": "as stored", "after": "after the preprocessing"}[histogram.when]
    shown = dict(list(histogram.shares.items())[:MOST_SITES])
    title += f", the first {MOST_SITES} of {len(histogram.shares)} sites" if len(histogram.shares) > MOST_SITES else ""
    roots = {site: tuple(share**0.5 for share in shares) for site, shares in shown.items()}
    return draw_figure(Lines(title, middles, roots, "grey value", "square root of the share of pixels"), str)
