"""The report of a study: one self-contained HTML file that works without a network, and the overlays in it."""

from allograft.study.report.facts import ordinals
from allograft.study.report.overlay import draw_overlay, plane, slice_of
from allograft.study.report.page import Picture, write_report

__all__ = ["Picture", "draw_overlay", "ordinals", "plane", "slice_of", "write_report"]
