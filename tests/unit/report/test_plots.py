"""The plots of a report: outlines that invent nothing, curves with gaps, colours that mean what the
scale says."""

from __future__ import annotations

import math
import re
from itertools import pairwise

import numpy as np
import pytest
from scipy.stats import gaussian_kde

from allograft.figure import TILE, Figure, Heatmap, Images, Lines, Points
from allograft.report.disagreement import HEAT
from allograft.report.drawn import WIDTH, Drawn
from allograft.report.facts import name_hider
from allograft.report.figures import MOST_POINTS, draw_figure
from allograft.report.plots import Strip, density, strip_plot
from allograft.report.svg import SCALE, Scale, colour_at, is_light, number, ticks
from allograft.report.target import fitting_figures


def _luminance(colour: str) -> float:
    red, green, blue = (int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5))
    return 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2


def _plain(text: str) -> str:
    return text


def _draw(figure: Figure) -> Drawn:
    return draw_figure(figure, _plain)


def test_density_is_that_of_scipy_with_silvermans_bandwidth() -> None:
    values = np.random.default_rng(0).normal(0.7, 0.1, 40)
    found = density(values.tolist())
    assert found is not None
    spread = min(values.std(ddof=1), np.subtract(*np.percentile(values, (75, 25))) / 1.34)
    kde = gaussian_kde(values, bw_method=0.9 * spread * 40**-0.2 / values.std(ddof=1))
    expected = kde(found[0])
    np.testing.assert_allclose(found[1], expected / expected.max(), rtol=1e-9)
    # nothing beyond the subjects
    assert (found[0][0], found[0][-1]) == (values.min(), values.max())


@pytest.mark.parametrize(
    ("values", "drawn"),
    [
        ([0.1 * n for n in range(7)], False),
        ([0.1 * n for n in range(8)], True),
        ([0.5] * 20, False),
        ([0.5] * 18 + [0.6, 0.7], True),
        ([], False),
    ],
)
def test_an_outline_needs_eight_subjects_that_differ(values: list[float], drawn: bool) -> None:
    assert (density(values) is not None) == drawn
    dots = {f"S{n:03d}": value for n, value in enumerate(values)}
    svg = strip_plot([Strip("a", dots, 0.5)], "dice", None)
    assert ("<polygon" in svg) == drawn
    assert svg.count("<circle") == len(values)


def test_an_outline_lies_around_its_row_and_between_its_dots() -> None:
    dots = {f"S{n:03d}": 0.4 + 0.01 * n * n for n in range(9)}
    svg = strip_plot([Strip("a", dots, 0.5)], "dice", None)
    corners = [tuple(map(float, pair.split(","))) for pair in re.findall(r'points="([^"]+)"', svg)[0].split()]
    places = [float(x) for x in re.findall(r'<circle class="dot" cx="([\d.]+)"', svg)]
    middle = float(re.findall(r'class="base"[^>]*y1="([\d.]+)"', svg)[0])
    assert min(x for x, _ in corners) == min(places)
    assert max(x for x, _ in corners) == max(places)
    # as much above as below
    assert sum(y - middle for _, y in corners) == pytest.approx(0, abs=1e-6)
    assert max(abs(y - middle) for _, y in corners) == pytest.approx(16, abs=0.06)


def test_curves_have_gaps_and_their_places() -> None:
    drawn = _draw(
        Lines(
            "loss",
            (0.0, 1.0, 2.0, 4.0),
            {"dice": (0.0, None, 1.0, 0.5), "total": (1.0, math.nan, math.inf, 0.0)},
            "step",
            "loss",
        )
    )
    first, second = re.findall(r'<path class="curve c(\d)" d="([^"]+)"', drawn.picture)
    # 0 at the bottom left, 1 at the top, x = 2 half way to 4
    assert first == ("0", "M58 238M253 24L448 131")
    assert second == ("1", "M58 24L448 238".replace("L", "M"))
    assert [re.sub("<[^>]+>", "", one) for one in drawn.legend] == ["dice", "total"]
    assert "dice: 0.5 at the end" in drawn.picture
    assert 'role="img" aria-label="loss: dice, total"' in drawn.picture


def test_one_curve_needs_no_legend_and_long_ones_no_dots() -> None:
    short = _draw(Lines("loss", (1.0, 2.0), {"dice": (1.0, 0.5)}, "step", "loss"))
    assert not short.legend
    assert short.picture.count("<circle") == 2
    long = _draw(
        Lines("loss", tuple(map(float, range(200))), {"dice": tuple(1 / (n + 1) for n in range(200))}, "step", "loss")
    )
    assert long.picture.count("<circle") == 0
    assert long.picture.count("L") == 199


def test_the_ninth_curve_is_dashed() -> None:
    drawn = _draw(Lines("loss", (0.0, 1.0), {f"curve {n}": (0.0, n) for n in range(1, 10)}, "step", "loss"))
    styles = re.findall(r'<path class="curve c(\d)"( stroke-dasharray="[^"]+")? d="M58', drawn.picture)
    assert len(set(styles)) == 9
    assert styles[8] == ("0", ' stroke-dasharray="7 3"')
    assert re.search(r'class="curve c0" stroke-dasharray="7 3"', drawn.legend[8])
    assert "dasharray" not in "".join(drawn.legend[:8])


def test_a_heatmap_shows_each_number_where_it_stands() -> None:
    values = ((0.0, 0.5), (None, 1.0))
    drawn = _draw(Heatmap("similarity", ("a", "b"), ("x", "y"), values))
    cells = re.findall(r'<rect x="([\d.]+)" y="([\d.]+)" [^>]*fill="([^"]+)"><title>([^<]+)', drawn.picture)
    assert [told for *_, told in cells] == ["a / x: 0", "a / y: 0.5", "b / y: 1"]
    assert [fill for *_, fill, _ in cells] == [colour_at(0.0), colour_at(0.5), colour_at(1.0)]
    (x0, y0), (x1, y1), (x2, y2) = [(float(x), float(y)) for x, y, *_ in cells]
    assert x0 < x1 == x2
    assert y0 == y1 < y2
    assert re.findall(r'class="in"[^>]*fill="([^"]+)">([^<]+)', drawn.picture) == [
        ("#fff", "0"),
        ("#000", "0.5"),
        ("#000", "1"),
    ]
    assert "linear-gradient" in drawn.legend[0]


def test_a_heatmaps_scale_can_be_given_and_values_beyond_it_are_at_its_ends() -> None:
    drawn = _draw(Heatmap("gain", ("a",), ("x", "y"), ((-5.0, 0.0),), low=-1.0, high=1.0))
    assert re.findall(r'<rect[^>]*fill="([^"]+)"', drawn.picture) == [colour_at(0.0), colour_at(0.5)]
    assert "−1<" in drawn.legend[0]


def test_many_cells_have_no_numbers_and_very_many_are_one_picture() -> None:
    def heat(size: int) -> str:
        names = tuple(f"row {n}" for n in range(size))
        return str(
            _draw(
                Heatmap(
                    "similarity", names, names, tuple(tuple(float(n * m) for m in range(size)) for n in range(size))
                )
            ).picture
        )

    assert heat(20).count("<rect") == 400
    assert 'class="in"' not in heat(20)
    assert heat(60).count("<rect") == 0
    assert heat(60).count("data:image/png;base64,") == 1


def test_points_have_symbols_by_group_and_colours_by_class_or_scale() -> None:
    places = {"x": (0.0, 1.0, 2.0), "y": (0.0, 1.0, 0.0), "group": ("source", "target", "source")}
    groups, classes, scale = (
        _draw(Points("features", **places, **more))  # type: ignore[arg-type]
        for more in (
            {},
            {"colour": (3, 9, 3), "colour_axis": "class"},
            {"colour": (0.0, 1.0, 0.5), "colour_axis": "score"},
        )
    )
    shape = r'<path class="point ([^"]*)"( style="fill:[^"]+")? transform="[^"]+" d="([^"]+)">'
    first, second, third = re.findall(shape, groups.picture)
    assert first == third
    assert first[2] != second[2]
    assert (first[0], second[0]) == ("c0", "c1")
    assert [kind for kind, *_ in re.findall(shape, classes.picture)] == ["c3", "c1 hollow", "c3"]
    assert [re.sub("<[^>]+>", "", one) for one in classes.legend] == [
        "sourcesource",
        "targettarget",
        "class 3",
        "class 9",
    ]
    assert [fill for _, fill, _ in re.findall(shape, scale.picture)] == [
        f' style="fill:{colour_at(each)}"' for each in (0, 1, 0.5)
    ]
    assert "source, score 0.5" in scale.picture
    assert scale.legend[-1].endswith("score")


@pytest.mark.parametrize("count", [12, 21])
def test_every_class_has_a_look_of_its_own_and_its_legend_shows_it(count: int) -> None:
    places = tuple(map(float, range(2 * count)))
    groups, classes = ("source",) * count + ("target",) * count, (*range(count), *reversed(range(count)))
    drawn = _draw(Points("clusters", places, places, groups, classes, "cluster"))
    looks = re.findall(r'<path class="point ([^"]*)" transform="[^"]+" d="([^"]+)">', drawn.picture)
    source, target = [kind for kind, _ in looks[:count]], [kind for kind, _ in looks[count:]]
    assert len(set(source)) == count
    assert target == source[::-1]  # what is matched looks the same
    assert len({shape for _, shape in looks}) == 2  # the shape says the side, and nothing else
    assert [re.findall(r'<rect class="point ([^"]*)"', str(one)) for one in drawn.legend[2:]] == [
        [kind] for kind in source
    ]


def test_of_very_many_points_some_are_drawn_and_the_page_says_so() -> None:
    many = tuple(map(float, range(2 * MOST_POINTS + 1)))
    drawn = _draw(Points("features", many, many, ("a",) * len(many)))
    assert drawn.picture.count("<path") == 667
    assert drawn.note == "one in 3 of 2001 points is drawn"


@pytest.mark.parametrize(
    "figure",
    [
        Lines("loss", (), {}, "step", "loss"),
        Lines("loss", (1.0,), {"a": (None,)}, "step", "loss"),
        Heatmap("h", (), (), ()),
        Heatmap("h", ("a",), ("x",), ((None,),)),
        Points("p", (), (), ()),
        Points("p", (math.nan,), (0.0,), ("a",)),
        Images("i", ()),
        Images("i", ((), ())),
    ],
)
def test_nothing_to_draw_is_said(figure: Figure) -> None:
    assert "no values" in _draw(figure).picture


@pytest.mark.parametrize(
    "figure",
    [
        Lines("loss", (5.0,), {"a": (0.0,)}, "step", "loss"),
        Lines("loss", (1.0, 2.0), {"a": (1e-12, 1e-12)}, "step", "loss"),
        Lines("loss", (1.0, 2.0), {"a": (-1e9, 1e300)}, "step", "loss"),
        Heatmap("h", ("a",), ("x",), ((2.0,),)),
        Points("p", (1.0,), (1.0,), ("a",), (math.nan,), "c"),
    ],
)
def test_odd_numbers_are_drawn(figure: Figure) -> None:
    drawn = _draw(figure)
    assert "<svg" in drawn.picture
    assert "nan" not in drawn.picture.replace("c nan", "")
    assert "inf" not in drawn.picture


def test_words_are_escaped_and_patients_taken_out() -> None:
    bad = "<b>\"'&"
    for figure in (
        Lines(bad, (1.0, 2.0), {bad: (1.0, 2.0), f"{bad}2": (1.0, 1.0)}, bad, bad),
        Heatmap(bad, (bad,), (bad,), ((1.0,),)),
        Points(bad, (1.0, 2.0), (1.0, 2.0), (bad, "a"), (1.0, 2.0), bad),
        Images(bad, (("aa",),), (bad,), ((bad,),), ((bad,),), bad),
    ):
        drawn = _draw(figure)
        assert "<b>" not in drawn.picture + "".join(drawn.legend)
        assert "&lt;b&gt;" in drawn.picture
        hidden = draw_figure(figure, lambda text: text.replace(bad, "S001"))
        assert "&lt;b&gt;" not in hidden.picture + "".join(hidden.legend) + hidden.title
        assert bad not in hidden.note
    assert name_hider([])("loss/dice") == "loss/dice"  # a slash in our own words is no path


def _tiles(drawn: Drawn) -> list[tuple[str, float, float, float, float]]:
    """(base64, x, y, width, height) of each image."""
    numbers = r'x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="([\d.]+)"'
    found = re.findall(rf'<image {numbers} href="data:image/png;base64,([^"]+)">', drawn.picture)
    return [(png, *map(float, place)) for *place, png in found]  # type: ignore[misc]


def test_images_are_in_rows_under_their_names_and_above_their_words() -> None:
    figure = Images("i", (("aa", "bb"), ("cc",)), ("first", "second"), (("x", ""), ("y",)), note="How to read it.")
    drawn = _draw(figure)
    assert [tile[0] for tile in _tiles(drawn)] == ["aa", "bb", "cc"]
    (_, ax, ay, width, height), (_, bx, by, *_), (_, cx, cy, *_) = _tiles(drawn)
    assert width == height == TILE
    assert (ax, ay) == (cx, by)
    assert bx > ax + width
    assert cy > ay + height
    texts = [(words, float(y)) for y, words in re.findall(r'<text [^>]*y="([\d.]+)">([^<]*)</text>', drawn.picture)]
    assert [words for words, _ in texts] == ["first", "x", "second", "y"]
    (_, first), (_, x), (_, second), (_, y) = texts
    assert first < ay < ay + height < x < second < cy < cy + height < y
    assert drawn.note == "How to read it."


@pytest.mark.parametrize("count", [1, 4, 5, 12])
def test_a_row_of_any_length_has_room(count: int) -> None:
    tiles = _tiles(_draw(Images("i", (("aa",) * count,), captions=(("a caption that is much too long",) * count,))))
    assert len(tiles) == count
    assert tiles[-1][1] + tiles[-1][3] <= WIDTH + 0.1
    assert all(after[1] >= before[1] + before[3] for before, after in pairwise(tiles))


def test_a_subject_is_an_ordinal_or_nothing() -> None:
    figure = Images("i", (("aa", "bb", "cc"),), captions=(("image", "", "classes"),), subjects=(("4", "jane", ""),))
    words = r'<text class="tick"[^>]*>([^<]*)</text>'
    assert re.findall(words, draw_figure(figure, _plain, {"4": "S001", "jane": "S002"}).picture) == [
        "image, S001",
        "S002",
        "classes",
    ]
    assert re.findall(words, _draw(figure).picture) == ["image", "classes"]
    assert "jane" not in _draw(figure).picture


def test_the_same_bytes_twice() -> None:
    rng = np.random.default_rng(1)
    x, y = (tuple(rng.normal(size=50).tolist()) for _ in range(2))
    figure = Points("p", x, y, ("a", "b") * 25, tuple(range(50)), "c")
    assert _draw(figure) == _draw(figure)
    strips = [Strip("a", {f"S{n}": value for n, value in enumerate(x)}, 0.5)]
    assert strip_plot(strips, "dice", 0.4) == strip_plot(list(strips), "dice", 0.4)


@pytest.mark.parametrize("colours", [SCALE, HEAT])
def test_a_scale_grows_lighter_all_the_way(colours: tuple[str, ...]) -> None:
    light = [_luminance(colour_at(n / 50, colours)) for n in range(51)]
    assert all(later > earlier for earlier, later in pairwise(light))


def test_numbers_in_cells_can_be_read() -> None:
    def contrast(one: float, other: float) -> float:
        return (max(one, other) + 0.05) / (min(one, other) + 0.05)

    for colour in (colour_at(n / 50) for n in range(51)):
        assert contrast(_luminance(colour), 0.0 if is_light(colour) else 1.0) > 4.3


def test_the_first_figure_of_every_line_goes_before_the_second_of_any() -> None:
    one = Lines("loss", (1.0, 2.0), {"dice": (1.0, 0.5)}, "step", "loss")
    size = _draw(one).size
    figures = {(title, "b"): {"first": one, "second": one} for title in ("r1", "r2", "r3")}
    kept, lost = fitting_figures(figures, _plain, 4 * size, {})
    assert {key[0]: len(every) for key, every in kept.items()} == {"r1": 2, "r2": 1, "r3": 1}
    assert lost == 2


def test_axes() -> None:
    assert ticks(-3.2e-7, 4e-7)[0] <= -3.2e-7
    assert len(set(ticks(1e-12, 5e-12))) > 3
    assert ticks(-50.0, -50.0)[0] < -50.0 < ticks(-50.0, -50.0)[-1]
    assert Scale(0.0, 2.0, 10.0, 110.0)(0.5) == 35.0
    assert (number(float("nan")), number(-1234.5)) == ("nan", "−1,234")
