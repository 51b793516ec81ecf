"""The report in a real browser, from ``file://``: nothing is refused by its own policy, headings
sort, the slider moves, names fit."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.unit.report import test_report
from tests.unit.report.test_report import a_study, a_table, standing

from allograft.figure import Heatmap, Images, Lines, Points
from allograft.report import Picture, Shows, Slice, draw_overlay, write_report
from allograft.results.standing import Standing

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
)
FLAGS += (
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)
SECONDS = 60.0

pytestmark = [
    pytest.mark.skipif(not CHROMIUM, reason="no chromium on PATH; install it, or name it in CHROMIUM"),
    pytest.mark.skipif(not shutil.which("bash"), reason="no bash to hand chromium its pipes"),
]


@dataclass
class Browser:
    """Chromium over its debugging pipe: commands are JSON objects that end with a zero byte, and so
    are what it answers."""

    process: subprocess.Popen[bytes]
    send: int
    receive: int
    session: str = ""
    number: int = 0
    rest: bytes = b""
    events: list[dict[str, Any]] = field(default_factory=list)

    @staticmethod
    def start(folder: Path) -> Browser:
        theirs_in, send = os.pipe()
        receive, theirs_out = os.pipe()
        # out of the way of 3 and 4
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 20) for end in (theirs_in, theirs_out)]
        command = f'exec "$0" "$@" 3<&{ends[0]} 4>&{ends[1]}'
        words = ["bash", "-c", command, CHROMIUM, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        quiet = subprocess.DEVNULL
        process = subprocess.Popen(words, pass_fds=ends, stdin=quiet, stdout=quiet, stderr=quiet)
        for end in (*ends, theirs_in, theirs_out):
            os.close(end)
        browser = Browser(process, send, receive)
        target = next(one for one in browser("Target.getTargets")["targetInfos"] if one["type"] == "page")["targetId"]
        browser.session = browser("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log"):
            browser(f"{domain}.enable")
        return browser

    def __call__(self, method: str, **arguments: Any) -> dict[str, Any]:
        """What the browser answers to one command."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": arguments} | (
            {"sessionId": self.session} if self.session else {}
        )
        os.write(self.send, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]  # type: ignore[no-any-return]
            self.events.append(answer)

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + SECONDS
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.receive], [], [], max(0.0, until - time.monotonic()))
            part = os.read(self.receive, 1 << 20) if ready else b""
            if not part:
                raise TimeoutError("chromium does not answer")
            self.rest += part
        message, _, self.rest = self.rest.partition(b"\0")
        return json.loads(message)  # type: ignore[no-any-return]

    def open(self, path: Path, width: int = 1280, *, scripts: bool = True, dark: bool = False) -> None:
        """Load a file and wait for it."""
        self("Emulation.setScriptExecutionDisabled", value=not scripts)
        self(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )
        self("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        self.events.clear()
        self("Page.navigate", url=path.resolve().as_uri())
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._next())

    def ask(self, expression: str) -> Any:
        """The value of an expression in the page."""
        found = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    @property
    def complaints(self) -> list[Any]:
        """Errors of scripts, of the page's own policy, and whatever it asked the network for."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [event["params"] for event in self.events if event.get("method") in kinds]

    def picture(self, clip: Sequence[float] | None = None) -> bytes:
        """A PNG of the whole page, or of (x, y, width, height) of it."""
        more = {"clip": dict(zip(("x", "y", "width", "height"), clip, strict=True), scale=1)} if clip else {}
        return base64.b64decode(self("Page.captureScreenshot", captureBeyondViewport=True, **more)["data"])

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(SECONDS)
        os.close(self.send)
        os.close(self.receive)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser.start(tmp_path_factory.mktemp("profile"))
    yield started
    started.stop()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    study = a_study()
    plan, table = a_table(study, subjects=9)
    mask = np.eye(32, dtype=int)
    slices = [draw_overlay(np.eye(32) * number, mask, np.roll(mask, number)) for number in range(5)]
    volume = Picture("worst", "S001, dice 0.100", slices[2], 2, 9, tuple(Slice(n, slices[n]) for n in (0, 4, 1, 3)))
    curves = Lines("loss", (1.0, 2.0, 3.0), {"dice": (1.0, None, 0.5), "total": (2.0, 1.0, 0.9)}, "step", "loss")
    heat = Heatmap("similarity", ("a", "b"), ("x", "y"), ((0.0, 0.5), (None, 1.0)))
    dots = Points("features", (0.0, 1.0, 2.0), (0.0, 1.0, 0.5), ("source", "target", "target"), (0, 1, 1), "class")
    grey = (np.eye(40) * 252).astype(np.uint8)
    words = {
        "names": ["source, 12 in the cluster"] * 2,
        "captions": [["a caption far too long for it"] * 4, ["channel 4"]],
    }
    tiles = Images.from_arrays("examples", [[grey] * 4, [grey]], **words, note="Nearest first.")
    figures = {(table[0].title, "chase"): {"loss": curves, "heat": heat, "points": dots, "tiles": tiles}}
    path = tmp_path_factory.mktemp("report") / "report.html"
    shows = Shows({(table[0].title, "chase"): [volume, Picture("best", "S002, dice 0.900", slices[0])]}, figures)
    write_report(path, study=study, plan=plan, standing=Standing(tuple(table), {}, 18, 18), shows=shows)
    return path


def test_nothing_is_refused_and_nothing_is_asked_of_the_network(browser: Browser, report: Path) -> None:
    browser("Network.enable")
    browser.open(report)
    browser.ask("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.complaints == []
    asked = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert [url for url in asked if not url.startswith("data:")] == [report.resolve().as_uri()]
    assert browser.ask("Array.from(document.images).every(image => image.complete && image.naturalWidth > 0)")


def test_a_script_that_is_not_ours_does_not_run(browser: Browser, report: Path, tmp_path: Path) -> None:
    changed = tmp_path / "changed.html"
    changed.write_text(report.read_text().replace("</main>", "<script>document.title = 'taken over'</script></main>"))
    browser.open(changed)
    assert browser.ask("document.title") != "taken over"
    assert browser.complaints  # so the test above would have seen it


def test_headings_sort(browser: Browser, report: Path) -> None:
    browser.open(report)
    names = (
        "Array.from(document.querySelector('table.sortable').tBodies[0].rows).map(row => "
        "row.cells[0].firstChild.textContent)"
    )
    click = "document.querySelector('table.sortable').querySelectorAll('thead button')[{}].click()"
    heads = "document.querySelector('table.sortable').querySelectorAll('thead tr:last-child th')"
    state = f"{heads}[1].getAttribute('aria-sort')"
    first = browser.ask(names)
    browser.ask(click.format(1))
    assert browser.ask(names) == ["finetune scope=top", "fourier beta=0.02", "supervised"]
    assert browser.ask(state) == "descending"
    browser.ask(click.format(1))
    assert browser.ask(names) == ["supervised", "fourier beta=0.02", "finetune scope=top"]
    assert browser.ask(state) == "ascending"
    browser.ask(click.format(0))
    assert browser.ask(names) == first
    assert browser.complaints == []


def test_the_slider_moves_through_the_slices(browser: Browser, report: Path) -> None:
    browser.open(report)
    shown = (
        "Array.from(document.querySelectorAll('[data-slices] img')).filter(image => !image.hidden).map(image => "
        "image.dataset.place)"
    )
    told = "document.querySelector('[data-slices] output').textContent"
    assert browser.ask(shown) == ["slice 3 of 9"]
    assert browser.ask("getComputedStyle(document.querySelector('[data-slices] label')).display") == "flex"
    browser.ask("document.querySelector('[data-slices] input').focus()")
    for kind in ("keyDown", "keyUp"):
        browser("Input.dispatchKeyEvent", type=kind, key="ArrowRight", code="ArrowRight", windowsVirtualKeyCode=39)
    assert browser.ask(shown) == ["slice 4 of 9"]
    assert browser.ask(told) == "slice 4 of 9"
    assert browser.ask("document.querySelector('[data-slices] input').getAttribute('aria-valuetext')") == "slice 4 of 9"
    visible = (
        "Array.from(document.querySelectorAll('[data-slices] img')).filter(image => image.offsetHeight > 0).length"
    )
    assert browser.ask(visible) == 1


def test_without_scripts_the_central_slice_shows_and_no_dead_slider(browser: Browser, report: Path) -> None:
    browser.open(report, scripts=False)
    visible = "Array.from(document.querySelectorAll('[data-slices] img')).filter(image => image.offsetHeight > 0)"
    assert browser.ask(f"{visible}.map(image => image.dataset.place)") == ["slice 3 of 9"]
    assert browser.ask("document.querySelector('[data-slices] label').offsetHeight") == 0


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rows and two targets, of two classes, with pictures of five subjects each."""
    from allograft.recipe import parse_recipe, title

    recipes = (
        "supervised",
        {"supervised": {"augmentation": "strong"}},
        "target_supervised",
        "joint",
        *({"fourier": {"beta": beta}} for beta in (0.02, 0.05)),
        *({"finetune": {"scope": scope}} for scope in ("top", "first")),
    )
    levels = {title(parse_recipe(recipe)): 0.45 + 0.03 * number for number, recipe in enumerate(recipes)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(test_report, "RECIPES", recipes)
        patch.setattr(test_report, "LEVEL", levels)
        study = a_study(recipes=recipes, task={"segmentation": {"classes": ["vessel", "disc"]}})
        plan, table = a_table(study, subjects=9)
    mask = np.zeros((64, 64), dtype=int)
    mask[8:24, 8:24], mask[40:56, 40:56] = 1, 2
    png = draw_overlay(np.eye(64), mask, np.roll(mask, 3), classes=2)
    words = ("worst", "lower quarter", "median", "upper quarter", "best")
    pictures = {
        (line.title, line.target): [
            Picture(f"{word}, S00{n}", f"dice 0.{n}00", png, 2, 9, (Slice(0, png), Slice(8, png)))
            for n, word in enumerate(words)
        ]
        for line in table
    }
    path = tmp_path_factory.mktemp("full") / "report.html"
    write_report(path, study=study, plan=plan, standing=standing(study, plan, table), shows=Shows(pictures))
    return path


def test_eight_rows_and_two_targets_take_at_most_8000_pixels(browser: Browser, full: Path) -> None:
    browser.open(full, 1200)
    assert browser.ask("document.documentElement.scrollHeight") <= 8000
    # the table needs no scrolling
    room = (
        "Array.from(document.querySelectorAll('.tabled .scroll')).filter(one => one.offsetHeight)"
        ".map(one => one.scrollWidth - one.clientWidth)"
    )
    assert browser.ask(room) == [0, 0]


def test_details_show_on_demand_without_scripts_too(browser: Browser, full: Path) -> None:
    shown = (
        "Array.from(document.querySelectorAll('table.sortable')[0].querySelectorAll('thead tr:last-child th'))"
        ".filter(one => one.offsetWidth).map(one => one.textContent)"
    )
    for scripts in (True, False):
        browser.open(full, 1200, scripts=scripts)
        before = browser.ask(shown)
        assert "worstsite" not in before
        x, y = browser.ask(
            "(() => { const box = document.querySelector('.more input').getBoundingClientRect();"
            " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            browser("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        assert set(before) < set(browser.ask(shown))
        assert "worstsite" in browser.ask(shown)


def test_one_picker_shows_one_subject_of_every_row_and_one_slider_moves_all(browser: Browser, full: Path) -> None:
    browser.open(full, 1200)
    seen = (
        "Array.from(document.querySelectorAll('#target-1 .gallery img')).filter(one => one.offsetHeight)"
        ".map(one => one.alt)"
    )
    first = browser.ask(seen)
    assert len(first) == 8
    assert all(alt.startswith("worst, S000, ") and alt.endswith(", slice 3 of 9") for alt in first)
    browser.ask("document.querySelector('#target-1 .gallery label[for$=\"-5\"]').click()")
    second = browser.ask(seen)
    assert [alt.replace("worst, S000", "best, S004") for alt in first] == second
    slider = "document.querySelectorAll('#target-1 .gallery input[type=range]')[4]"
    browser.ask(f"{slider}.value = 2; {slider}.dispatchEvent(new Event('input'))")
    assert [alt.replace("slice 3", "slice 9") for alt in second] == browser.ask(seen)
    other = browser.ask(seen.replace("target-1", "target-2"))
    assert all(alt.startswith("worst, S000, ") for alt in other)
    browser.open(full, 1200, scripts=False)
    browser.ask("document.querySelector('#target-1 .gallery label[for$=\"-5\"]').click()")
    assert browser.ask(seen) == second
    assert browser.complaints == []


def test_paper_has_the_colours_of_the_legend_and_all_of_the_protocol(browser: Browser, full: Path) -> None:
    browser.open(full, 720)
    browser("Emulation.setEmulatedMedia", media="print")
    exact = "getComputedStyle(document.querySelector('.legend i')).printColorAdjust"
    assert browser.ask(exact) == "exact"
    assert browser.ask("document.documentElement.scrollWidth") <= 720
    assert browser.ask("document.querySelector('#protocol pre').checkVisibility({contentVisibilityAuto: true})")
    assert browser.ask("document.querySelectorAll('.gallery img').length") > 0
    shown = "document.querySelector('#target-1 .case {}').checkVisibility()"
    assert [browser.ask(shown.format(part)) for part in ("output", "input")] == [True, False]  # nobody slides on paper


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_a_full_page_is_no_wider_than_the_screen(browser: Browser, full: Path, width: int, dark: bool) -> None:
    browser.open(full, width, dark=dark)
    assert browser.ask("document.documentElement.scrollWidth") <= width
    browser.ask("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    browser.ask("document.querySelectorAll('.more input').forEach(one => { one.click(); })")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    over = (
        "Array.from(document.querySelectorAll('tbody th, tbody td'))"
        ".filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent)"
    )
    assert browser.ask(over) == []


@pytest.mark.parametrize("width", [390, 1200])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_is_no_wider_than_the_screen_and_words_can_be_read(
    browser: Browser, report: Path, width: int, dark: bool
) -> None:
    browser.open(report, width, dark=dark)
    browser.ask("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    assert browser.ask("document.documentElement.scrollWidth") <= width
    clipped = """Array.from(document.querySelectorAll('svg[role=img] text')).filter(text => {
        var box = text.getBBox(), view = text.closest('svg').viewBox.baseVal;
        return box.width && !text.hasAttribute('transform')
            && (box.x < -1 || box.x + box.width > view.width + 1 || box.y < -2);
    }).map(text => text.textContent)"""
    assert browser.ask(clipped) == []
    contrast = """(() => {
        const linear = v => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
        const light = c => { const [r, g, b] = c.match(/[\\d.]+/g).map(v => linear(v / 255));
            return .2126 * r + .7152 * g + .0722 * b; };
        const paper = light(getComputedStyle(document.body).backgroundColor);
        return Array.from(document.querySelectorAll('p, td, th, small, h2, figcaption, svg text:not(.in)')).map(one => {
            const style = getComputedStyle(one), ink = light(one instanceof SVGElement ? style.fill : style.color);
            return (Math.max(ink, paper) + .05) / (Math.min(ink, paper) + .05);
        }).reduce((a, b) => Math.min(a, b)); })()"""
    assert browser.ask(contrast) >= 4.5  # WCAG 2, level AA
