"""Tables of evidence pages are what their kept files say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGES = sorted(folder.name for folder in (DOCS / "evidence" / "data").glob("*") if folder.is_dir())
HARDWARE = {"machine", "threads", "cuda", "torch"}


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_built_from_the_kept_files(page: str, tables: ModuleType) -> None:
    path = DOCS / "evidence" / f"{page}.md"
    text = path.read_text(encoding="utf-8")
    assert "<!-- table " in text, f"docs/evidence/{page}.md has kept files and no table of them"
    assert tables.rebuilt(path) == text, f"docs/evidence/{page}.md: run 'make tables'"


def test_the_readme_shows_kept_numbers(tables: ModuleType) -> None:
    text = (DOCS.parent / "README.md").read_text(encoding="utf-8")
    assert "<!-- table " in text
    assert tables.rebuilt(DOCS.parent / "README.md") == text, "README.md: run 'make tables'"


@pytest.mark.parametrize("page", PAGES)
def test_kept_files_say_how_they_were_made(page: str) -> None:
    folder = DOCS / "evidence" / "data" / page
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert set(run) == {"before", "studies"}
    for name, study in run["studies"].items():
        assert set(study) - {"stages", "count"} == {"command", "commit", "seeds", "hardware"}
        assert set(study["hardware"]) == HARDWARE
        if not study["command"].startswith("allograft study examples/"):
            assert (folder / f"{name}.csv").is_file()
            continue
        assert {"results.csv", "metrics.csv"} <= {path.name for path in (folder / name).iterdir()}


def _write(folder: Path, name: str, text: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


RESULTS = """recipe,target,site,metric,mean,sd_over_seeds,low,high,difference,difference_low,difference_high,p_adjusted
supervised,b,b,dice,0.5,0.01,0.4,0.6,,,,
supervised,b,a,dice,0.9,0.02,0.8,0.95,,,,
aiva,b,b,dice,0.625,0.0,0.5,0.7,0.125,0.1,0.15,0.0004
aiva,b,a,dice,0.875,,0.8,0.9,-0.025,,,0.5
"""
METRICS = """recipe,target,site,metric,mean,sd_over_seeds
aiva,b,b,asd,2.5,0.5
"""


def test_scores_differences_p_and_other_metrics(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    _write(tmp_path / "page", "results.csv", RESULTS)
    _write(tmp_path / "page", "metrics.csv", METRICS)
    columns = [["b", "b", "score"], ["gain", "b", "difference"], ["p", "b", "p"], ["ASD", "b", "asd"]]
    columns += [["a", "a", "score"], ["at a", "a", "difference"], ["interval", "a", "interval"]]
    found = tables.scores({"data": "page", "columns": columns, "rows": {"supervised": "nothing", "aiva": "ours"}})
    assert found.splitlines() == [
        "| recipe | b | gain | p | ASD | a | at a | interval |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| nothing | 0.500 ± 0.010 |  |  |  | 0.900 ± 0.020 |  | 0.800 to 0.950 |",
        "| ours | 0.625 ± 0.000 | +0.125 (+0.100 to +0.150) | <0.001 | 2.500 ± 0.500 | 0.875 | -0.025 "
        "| 0.800 to 0.900 |",
    ]


def test_science_and_counts(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    _write(
        tmp_path, "aiva.csv", "setting,row,measure,seed,value\nb,AIVA,dice,0,0.5\nb,AIVA,dice,1,0.75\nd,AIVA,dice,0,1\n"
    )
    spec = {"data": "aiva.csv", "columns": [["shift", "b", "dice"], ["ASD", "b", "asd"]], "rows": {"AIVA": "ours"}}
    assert tables.science(spec).splitlines()[-1] == "| ours | 0.625 |  |"
    assert tables.science(spec | {"signed": True}).splitlines()[-1] == "| ours | +0.625 |  |"
    _write(tmp_path, "tones.csv", "image,type\na,1\nb,1\nc,unknown\n")
    tables.keep_counts(tmp_path / "tones.csv", "type", tmp_path / "page" / "patches.csv")
    spec = {"data": "page", "heading": "type", "values": ["1", "2", "unknown"], "rows": {"patches": "lightest"}}
    assert tables.counts(spec).splitlines() == [
        "| type | 1 | 2 | unknown |",
        "| --- | --- | --- | --- |",
        "| lightest | 2 | 0 | 1 |",
    ]


def test_pairs_and_their_means(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    rows = ["source,recipe,target,site,mean"]
    scores = {("a", "b"): (0.5, 0.75), ("b", "a"): (0.75, 0.5)}
    for (source, target), (plain, other) in scores.items():
        rows += [f"{source},supervised,{target},{target},{plain}", f"{source},fourier,{target},{target},{other}"]
        rows += [f"{source},supervised,{target},{source},1.0", f"{source},fourier,{target},{source},0.9"]
    _write(tmp_path / "page", "results.csv", "\n".join(rows) + "\n")
    assert tables.pairs({"data": "page", "recipe": "fourier"}).splitlines()[2:] == [
        "| a | 1.000 | 0.500 (+0.250) |",
        "| b | 0.750 (-0.250) | 1.000 |",
    ]
    found = tables.pair_means({"data": "page", "groups": {"severe": ["a to b"]}})
    assert found.splitlines() == [
        "| recipe | mean over 2 pairs | gain | pairs ahead | worst pair | gain, severe |",
        "| --- | --- | --- | --- | --- | --- |",
        "| supervised | 0.625 |  |  | 0.500, a to b |  |",
        "| fourier | 0.625 | +0.000 | 1 of 2 | 0.500, b to a | +0.250 |",
    ]


def test_a_pair_is_what_was_made_for_its_target(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    rows = ["source,recipe,target,site,mean", "b,supervised,a,a,0.75", "b,supervised,a,b,1.0", "b,fourier,a,a,0.75"]
    rows += [f"a,supervised,{target},{site},{mean}" for target in "bc" for site, mean in {"a": 1.0, "b": 0.5}.items()]
    rows += ["a,fourier,b,b,0.75", "a,fourier,c,b,0.25"]
    _write(tmp_path / "page", "results.csv", "\n".join(rows) + "\n")
    assert tables.pairs({"data": "page", "recipe": "fourier"}).splitlines()[2:] == [
        "| a | 1.000 | 0.500 (+0.250) |",
        "| b | 0.750 (+0.000) | 1.000 |",
    ]


def test_stages_are_means_over_seeds(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    text = "recipe,stage,site,seed,score\ncn,first,a,0,0.5\ncn,first,a,1,0.7\ncn,second,a,0,0.8\nbn,first,a,0,0.1\n"
    _write(tmp_path / "page", "stages.csv", text)
    spec = {"data": "page", "sites": ["a"], "stages": ["first", "second"], "rows": {"cn": "CateNorm"}}
    assert tables.stages(spec).splitlines() == [
        "| recipe | a, first | a, second |",
        "| --- | --- | --- |",
        "| CateNorm | 0.600 | 0.800 |",
    ]


def test_a_stream_says_what_is_forgotten_and_gained(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    scores = {"s1": {"a": 0.8, "b": 0.25}, "s2": {"a": 0.5, "b": 0.75}}
    rows = [
        f"plain,{stage},{site},{seed},{value + seed / 10}"
        for stage, of in scores.items()
        for site, value in of.items()
        for seed in (0, 1)
    ]
    joint = [f"joint,trained,{site},0,0.9" for site in "ab"]
    _write(tmp_path / "page", "stages.csv", "\n".join(["recipe,stage,site,seed,score", *rows, *joint]) + "\n")
    facts = "recipe,stage,seed,fact,value\nplain,s1,0,models,1\nplain,s2,0,models,2\nplain,s2,1,models,1\n"
    _write(tmp_path / "page", "facts.csv", facts)
    spec = {"data": "page", "sites": ["a", "b"], "stages": ["s1", "s2"], "facts": ["models"]}
    assert tables.stream({**spec, "rows": {"plain": "sequential", "joint": "joint"}}).splitlines() == [
        "| recipe | at the end | stage 1 | stage 2 | backward | forward | models |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| sequential | 0.675 ± 0.071 | 0.550 | 0.800 | -0.300 ± 0.000 | +0.500 ± 0.000 | 2, 1 |",
        "| joint | 0.900 | 0.900 | 0.900 |  |  |  |",
    ]


def test_a_page_is_rebuilt_between_its_marks(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    _write(tmp_path / "page", "results.csv", RESULTS)
    _write(tmp_path / "page", "metrics.csv", METRICS)
    mark = '<!-- table {"kind": "scores", "data": "page", "columns": [["b", "b", "score"]]} -->'
    _write(tmp_path, "page.md", f"# Page\n\n{mark}\nold | numbers\n<!-- end -->\n\nText.\n")
    found = tables.rebuilt(tmp_path / "page.md")
    assert (
        found
        == f"""# Page

{mark}

| recipe | b |
| --- | --- |
| supervised | 0.500 ± 0.010 |
| aiva | 0.625 ± 0.000 |

<!-- end -->

Text.
"""
    )
    _write(tmp_path, "page.md", found)
    assert tables.rebuilt(tmp_path / "page.md") == found


def test_two_samplers_agree_where_their_classes_do(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    _write(tmp_path, "classes.csv", "value,count\n0/0/0,6\n0/1/0,1\n1/1/1,2\n0/0/1,1\n")
    spec = {"data": "classes.csv", "rows": ["100 steps", "10 steps"]}
    assert tables.samplers(spec).splitlines()[2:] == [
        # of class 0 7 of 8 found are right and all 7 known; of class 1 2 of 2, and 2 of 3
        f"| 100 steps | {(14 / 15 + 4 / 5) / 2:.3f} | 0.900 | 8 / 2 |  |",
        f"| 10 steps | {(12 / 14 + 4 / 6) / 2:.3f} | 0.800 | 7 / 3 | 90.0% |",
    ]
