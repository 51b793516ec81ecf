"""``allograft compare`` in the terminal."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Command
from tests.unit.apply.test_compare import folders  # noqa: F401


def test_two_folders_of_masks(allograft: Command, folders: Path) -> None:  # noqa: F811
    (folders / "B" / "a" / "2_mask.png").unlink()
    places = (folders / "A", folders / "B", folders / "data" / "manifest.csv", "-o", folders / "out")
    done = allograft("compare", *places, "--classes", "blob", "--names", "old,new")
    assert done.code == 0, done.err
    lines = done.out.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["all sites", "a", "b"]
    # six subjects: .4 and .2 in turn
    assert "b: dice old 0.400, new 0.700, difference +0.300 (+0.185 to +0.415), p 0.031, false claim <0.001" in done.out
    assert "left out: a/2.png: new holds no prediction for 'a/2.png'" in done.out
    assert "new is ahead of old: new minus old is" in done.out
    assert sorted(path.name for path in (folders / "out").iterdir()) == ["cases.csv", "compare.html", "summary.csv"]


def test_mistakes_end_with_2_and_a_line(allograft: Command, folders: Path) -> None:  # noqa: F811
    places = (folders / "A", folders / "B", folders / "data" / "manifest.csv", "-o", folders / "out")
    done = allograft("compare", *places)
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "--classes vessel" in done.err
    done = allograft("compare", *places, "--classes", "blob", "--names", "old")
    assert (done.code, "--names old,new" in done.err) == (2, True)
    assert not (folders / "out").exists()


def test_the_help_has_an_example(allograft: Command) -> None:
    done = allograft("compare", "--help")
    assert "Example: allograft compare old-masks/ new-masks/" in " ".join(done.out.split())
