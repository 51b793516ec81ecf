"""The page of two models in a browser: on a phone, on a desk and on paper."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.unit.apply.test_compare import folders, of_masks  # noqa: F401
from tests.unit.report.test_browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH; install it, or name it in CHROMIUM")


def test_it_fits_screens_and_paper(folders: Path, tmp_path: Path) -> None:  # noqa: F811
    of_masks(folders, out=folders / "out", names=("an old model with a long name", "new"))
    browser = Browser.start(tmp_path / "profile")
    try:
        for width, media, columns in ((390, "screen", 1), (1200, "screen", 2), (720, "print", 2)):
            browser.open(folders / "out" / "compare.html", width)
            browser("Emulation.setEmulatedMedia", media=media)
            assert browser.complaints == []
            assert browser.ask("document.documentElement.scrollWidth") <= width
            lefts = "Array.from(document.querySelectorAll('.compared > div')).map(one => one.offsetLeft)"
            assert len(set(browser.ask(lefts))) == columns, (width, media)
            # the two of a case are beside each other
            tops = (
                "Array.from(document.querySelectorAll('.case')).every(one => new Set(Array.from(one.querySelectorAll("
                "'figure')).map(figure => figure.offsetTop)).size === 1)"
            )
            assert browser.ask(tops)
            assert browser.ask("document.querySelectorAll('.case').length") == 10
        assert browser.ask("getComputedStyle(document.querySelector('.legend i')).printColorAdjust") == "exact"
    finally:
        browser.stop()
