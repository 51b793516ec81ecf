"""The report of a study: one self-contained HTML file that works without a network, and the
overlays in it."""

from allograft.report.annotate import write_annotate
from allograft.report.facts import ordinals
from allograft.report.gallery import DISAGREEMENT, Picture, Slice
from allograft.report.overlay import draw_overlay, slice_of
from allograft.report.page import Shows, write_report
from allograft.report.target import Extra

__all__ = [
    "DISAGREEMENT",
    "Extra",
    "Picture",
    "Shows",
    "Slice",
    "draw_overlay",
    "ordinals",
    "slice_of",
    "write_annotate",
    "write_report",
]
