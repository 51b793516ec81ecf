"""The page of two models, from comparisons made by hand whose every number is another."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from allograft.report.gallery import Picture
from allograft.report.head_to_head import (
    _by_subject,
    _left_out,
    _metrics,
    _sites,
    _strips,
    sentence,
    site_lines,
    write_page,
)
from allograft.report.overlay import class_colour
from allograft.results.comparison import Comparison
from allograft.results.head_to_head import ALL, Difference, HeadToHead, Unmatched

CASES = [
    # case, subject, site, dice of each, hd95 of each
    ("x1", "p9", "x", 0.5, 0.9, 8.0, 2.0),
    ("x2", "p9", "x", 0.7, 0.7, 4.0, 4.0),
    ("x3", "p2", "x", 0.4, 0.6, 9.0, 6.0),
    ("y1", "p9", "y", 0.8, 0.5, 1.0, 3.0),
]


def cases(which: int) -> list[dict[str, Any]]:
    return [
        {"case": case, "subject": subject, "site": site, "dice": scores[which], "hd95": scores[2 + which]}
        for case, subject, site, *scores in CASES
    ]


OVERALL = Comparison(3, 0.1, 0.02, 0.18, p=0.031, adjusted=None, false_claim=0.014, cases=4)
AT_X = Comparison(2, 0.25, -0.011, 0.511, p=0.004, adjusted=0.008, false_claim=0.022, cases=3, undefined=(1, 2))
AT_Y = Comparison(1, -0.3, note="one subject: no interval", cases=1)
FARTHER = Comparison(2, -3.456, -5.0, -2.0, p=0.2, false_claim=0.3, cases=3)
FOUND = HeadToHead(
    ("old", "new"),
    "dice",
    cases(0),
    cases(1),
    (
        Difference(ALL, "dice", 0.6, 0.7, OVERALL),
        Difference("x", "dice", 0.5, 0.75, AT_X),
        Difference("y", "dice", 0.8, 0.5, AT_Y),
        Difference("x", "hd95", 7.456, 4.0, FARTHER),
        Difference("y", "hd95", 1.0, None, None),
    ),
    (Unmatched("z1", "p1", "z", "new", "none"), Unmatched("z2", "p1", "z", "new", "none")),
    unlabelled=3,
)


def text_of(table: Any) -> list[list[tuple[str, str]]]:
    return [[(cell.text, cell.small) for cell in cells] for _, cells in table.rows]


def test_every_number_of_a_site_stands_in_its_column() -> None:
    table = _sites(FOUND)
    assert [(column.name, column.small) for column in table.columns][:5] == [
        ("site", ""),
        ("subjects", "cases"),
        ("old", "dice"),
        ("new", "dice"),
        ("difference", "new minus old"),
    ]
    limits = "−0.011 to +0.511"
    undefined = "3 cases\n1 undefined in old\n2 undefined in new"
    assert text_of(table) == [
        [(ALL, ""), ("3", "4 cases"), ("0.600", ""), ("0.700", ""), ("+0.100", "+0.020 to +0.180"), ("0.031", ""),
         ("0.014", "for new")],
        [("x", ""), ("2", undefined), ("0.500", ""), ("0.750", ""), ("+0.250", limits), ("0.008", "raw 0.004"),
         ("0.022", "for new")],
        [("y", ""), ("1", "1 case"), ("0.800", ""), ("0.500", ""), ("−0.300", AT_Y.note), ("–", ""), ("–", "")],
        [("z", "no case that both have"), *[("–", "")] * 6],
    ]  # fmt: skip
    assert [cell.value for cell in table.rows[1][1]] == [1, 2, 0.5, 0.75, 0.25, 0.008, 0.022]


def test_further_metrics_have_their_own_digits_and_say_which_way_is_better() -> None:
    table = _metrics(FOUND)
    assert table is not None
    assert [column.small for column in table.columns[2:4]] == ["mean", "mean"]
    assert text_of(table) == [
        [("hd95 at x", "lower is better"), ("2", "3 cases"), ("7.46", ""), ("4.00", ""),
         ("−3.46", "−5.00 to −2.00"), ("0.200", ""), ("0.300", "for new")],
        [("hd95 at y", "lower is better"), ("–", ""), ("1.00", ""), ("undefined", ""), *[("–", "")] * 3],
    ]  # fmt: skip
    assert _metrics(replace(FOUND, differences=FOUND.differences[:3])) is None
    one_site = replace(FOUND, differences=(FOUND.differences[1], FOUND.differences[3]))
    table = _metrics(one_site)
    assert table is not None
    assert table.rows[0][1][0].text == "hd95"


def test_a_subject_has_the_mean_of_its_cases_at_each_site() -> None:
    table = _by_subject(FOUND)
    assert [(column.name, column.small) for column in table.columns][3:] == [
        ("old", "dice"),
        ("new", "dice"),
        ("difference", "new less old"),
    ]
    # p1 has no case that both have, so p2 is S002 and p9 S003
    assert [[text for text, _ in row] for row in text_of(table)] == [
        ["S002", "x", "1", "0.400", "0.600", "+0.200"],
        ["S003", "x", "2", "0.600", "0.800", "+0.200"],
        ["S003", "y", "1", "0.800", "0.500", "−0.300"],
    ]
    assert table.rows[2][1][5].value == pytest.approx(-0.3)


def test_dots_are_differences_and_the_mark_is_the_mean_of_their_site() -> None:
    drawn = str(_strips(FOUND))
    assert re.findall(r"<title>(S\d+: [-\d.]+)</title>", drawn) == ["S002: 0.200", "S003: 0.200", "S003: -0.300"]
    assert re.findall(r"score of the table: ([-\d.]+)", drawn) == ["0.250", "-0.300"]
    assert ">dice: new minus old<" in drawn
    assert "<title>no difference</title>" in drawn
    assert "by site" in drawn


def test_the_marks_of_dots_are_means_of_what_dots_show() -> None:
    """Of class probabilities the headline is an area, and dots are probabilities of the truth."""
    first, second = (
        [{"case": str(n), "subject": f"p{n}", "site": "x", "label": n % 2, "probabilities": [1 - p, p]}
         for n, p in enumerate(every)]
        for every in ((0.4, 0.5), (0.3, 0.9))
    )  # fmt: skip
    areas = Difference("x", "auroc", 0.25, 0.75, Comparison(2, 0.5))
    dots = Difference("x", "true_probability", 0.55, 0.8, Comparison(2, 0.25))
    found = HeadToHead(("old", "new"), "auroc", first, second, (areas, dots))
    drawn = str(_strips(found))
    assert "score of the table: 0.250" in drawn
    assert ">true_probability: new minus old<" in drawn
    assert [text for text, _ in text_of(_by_subject(found))[1]][3:] == ["0.500", "0.900", "+0.400"]
    (row,) = text_of(_metrics(found))
    assert row[0] == ("true_probability", "")


def sides(words: str) -> HeadToHead:
    """A headline whose first difference is replaced."""
    made = {
        "clear": OVERALL,
        "worse": replace(OVERALL, difference=-0.1, low=-0.18, high=-0.02),
        "unclear": replace(OVERALL, low=-0.02),
        "one": AT_Y,
        "none": None,
    }[words]
    return replace(FOUND, differences=(Difference(ALL, "dice", 0.6, 0.7, made), *FOUND.differences[1:]))


@pytest.mark.parametrize(
    ("words", "head", "rest"),
    [
        (
            "clear",
            "new is ahead of old",
            "new minus old is +0.100 dice, 95 % from +0.020 to +0.180 over 3 subjects and 4 cases, p 0.031; the "
            "probability that new is no better is 0.014.",
        ),
        (
            "worse",
            "old is ahead of new",
            "new minus old is −0.100 dice, 95 % from −0.180 to −0.020 over 3 subjects and 4 cases, p 0.031; the "
            "probability that old is no better is 0.014.",
        ),
        (
            "unclear",
            "old and new cannot be told apart",
            "new minus old is +0.100 dice, 95 % from −0.020 to +0.180 over 3 subjects and 4 cases, p 0.031; the "
            "probability that new is no better is 0.014.",
        ),
        (
            "one",
            "old and new cannot be told apart",
            "old is ahead by 0.300 dice over 1 subject and 1 case; one subject: no interval.",
        ),
        ("none", "old and new cannot be compared", "no case has a defined dice in both."),
    ],
)
def test_the_sentence_says_who_is_ahead_by_the_interval(words: str, head: str, rest: str) -> None:
    assert sentence(sides(words)) == (head, rest)


def test_of_a_distance_the_one_with_less_is_ahead() -> None:
    found = replace(FOUND, headline="hd95", differences=FOUND.differences[3:])
    assert sentence(found)[0] == "new is ahead of old"
    assert sentence(found)[1].startswith("new minus old is −3.46 hd95, 95 % from −5.00 to −2.00")
    assert sentence(found)[1].endswith("the probability that new is no better is 0.300.")
    assert text_of(_sites(found))[0][6] == ("0.300", "for new")


def test_the_terminal_has_a_line_for_each_site() -> None:
    assert site_lines(FOUND) == [
        "all sites: dice old 0.600, new 0.700, difference +0.100 (+0.020 to +0.180), p 0.031, false claim 0.014; "
        "3 subjects, 4 cases",
        "x: dice old 0.500, new 0.750, difference +0.250 (-0.011 to +0.511), p 0.004, false claim 0.022; "
        "2 subjects, 3 cases",
        "y: dice old 0.800, new 0.500, difference -0.300; 1 subject, 1 case; one subject: no interval",
        "z: no case that both have a prediction for",
    ]
    assert site_lines(sides("none"))[0] == "all sites: no case has a defined dice in both"


def test_what_is_left_out_is_counted_by_whose_prediction_is_missing() -> None:
    assert _left_out(FOUND) == ["2 cases without a prediction of new", "3 cases without a label"]


def test_the_page_shows_each_case_as_the_two_see_it(tmp_path: Path) -> None:
    def seen(case: str, name: str) -> Picture:
        return Picture(case, f"dice of {case} by {name}", f"{case}{name}".encode())

    pictures = [(number, (seen(str(number), "old"), seen(str(number), "new"))) for number in (2, 3)]
    path = tmp_path / "compare.html"
    given: dict[str, Any] = {"task": "finding spots", "kinds": ("model", "masks"), "classes": ("spot", "blot")}
    write_page(path, FOUND, pictures=pictures, **given)
    page = path.read_text(encoding="utf-8")
    # the third case is of p2 at x, the fourth of p9 at y
    assert re.findall(r"<h3>(S\d+ at \w)</h3>", page) == ["S002 at x", "S003 at y"]
    assert re.findall(r"<figcaption><strong>(\w+)</strong> ([^<]*)</figcaption>", page) == [
        ("old", "dice of 2 by old"),
        ("new", "dice of 2 by new"),
        ("old", "dice of 3 by old"),
        ("new", "dice of 3 by new"),
    ]
    facts = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", page))
    assert facts == {
        "Task": "finding spots",
        "old": "model",
        "new": "masks",
        "Compared": "4 cases of 2 subjects",
        "Sites": "x, y, z",
    }
    assert re.findall(r'background:(#\w+)"></i>(\w+)<', page) == [(class_colour(1), "spot"), (class_colour(2), "blot")]
    assert "p\u00a00.031" in page
    assert "Left out: 2 cases without a prediction of new" in page


def test_a_case_that_fits_only_halfway_is_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, one = tmp_path / "compare.html", Picture("worst", "", b"x" * 3000)
    given: dict[str, Any] = {"task": "", "kinds": ("model", "masks")}
    write_page(path, FOUND, pictures=[], **given)
    monkeypatch.setattr("allograft.report.head_to_head.LIMIT", len(path.read_bytes()) + 20_000 + 3 * 5_100)
    write_page(path, FOUND, pictures=[(number, (one, one)) for number in (0, 1)], **given)
    page = path.read_text(encoding="utf-8")
    assert page.count("<h3>S003 at x</h3>") == 1
    assert "1 picture left out" in page
