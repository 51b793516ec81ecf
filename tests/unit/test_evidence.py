"""Tables of evidence pages are what their kept files say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType, SimpleNamespace

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


def test_the_page_of_phantoms_has_no_table_that_is_not_built(tables: ModuleType) -> None:
    text = tables.BLOCK.sub("", (DOCS / "evidence" / "science.md").read_text(encoding="utf-8"))
    assert [line for line in text.splitlines() if line.startswith("|")] == []


def test_every_science_test_is_shown_on_the_page_of_phantoms(tables: ModuleType) -> None:
    folder = DOCS / "evidence" / "data" / "science"
    commands = " ".join(
        study["command"] for study in json.loads((folder / "run.json").read_text(encoding="utf-8"))["studies"].values()
    )
    tests = sorted(path.name for path in (DOCS.parent / "tests" / "science").glob("test_*.py"))
    assert [name for name in tests if f"tests/science/{name}" not in commands] == []
    text = (DOCS / "evidence" / "science.md").read_text(encoding="utf-8")
    shown = {json.loads(block[1])["data"] for block in tables.BLOCK.finditer(text)}
    assert {f"science/{path.name}" for path in folder.glob("*.csv")} == shown


@pytest.mark.parametrize("page", PAGES)
def test_kept_files_say_how_they_were_made(page: str) -> None:
    folder = DOCS / "evidence" / "data" / page
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    assert set(run) == {"before", "studies"}
    for name, study in run["studies"].items():
        assert set(study) - {"stages", "count", "curves"} == {"command", "commit", "seeds", "hardware"}
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


def test_curves_and_shares_of_a_figure_are_means_over_seeds(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    records = {}
    for seed, (fast, slow) in enumerate([([4.0, 8.0], [1.0, 2.0]), ([4.0, 4.0], [2.0, 2.0])]):
        figure = {"x": [1, 2], "y": {"head": fast, "body": slow}}
        _write(tmp_path / "out" / "units" / f"u{seed}", "figures.json", json.dumps({"updates": figure, "other": {}}))
        records[f"r{seed}"] = SimpleNamespace(unit=f"u{seed}", recipe={"title": "avagrad"}, seed=seed)
    records["without"] = SimpleNamespace(unit="none", recipe={"title": "adabn"}, seed=0)
    monkeypatch.setattr("allograft.results.record.read_all", lambda out: records)
    (tmp_path / "page").mkdir()
    tables.keep_curves(tmp_path / "out", "updates", tmp_path / "page" / "curves.csv")
    rows = [["fast", "curves.csv", "avagrad", "head"], ["slow", "curves.csv", "avagrad", "body"]]
    spec = {"data": "page", "heading": "step", "digits": ".2f", "rows": rows}
    assert tables.curves(spec).splitlines()[2:] == ["| fast | 4.00 | 6.00 |", "| slow | 1.50 | 2.00 |"]
    assert tables.curves(spec).startswith("| step | 1 | 2 |")
    spec = {"data": "page", "heading": "layers", "lines": ["head", "body"], "rows": {"avagrad": "AvaGrad"}}
    assert tables.shares(spec).splitlines()[-1] == "| AvaGrad | 1.000 | 0.375 |"


def test_commands_of_a_page_have_the_variables_of_the_shell(
    tables: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOGRAFT_DATA", "/data")
    assert tables.words_of("cp -r $ALLOGRAFT_DATA/chest 'two words'") == ["cp", "-r", "/data/chest", "two words"]


def test_a_column_may_be_of_another_part(tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    lines = RESULTS.splitlines()
    parted = [f"few,{line}" for line in lines[1:]] + [f"all,{line.replace('0.5,', '0.7,', 1)}" for line in lines[1:]]
    _write(tmp_path / "page", "results.csv", "\n".join([f"part,{lines[0]}", *parted]) + "\n")
    _write(tmp_path / "page", "metrics.csv", "part," + METRICS.splitlines()[0] + "\n")
    columns = [["few", "b", "score"], ["all", "b", "score", "all"], ["none", "b", "score", "other"]]
    spec = {"data": "page", "part": "few", "columns": columns, "rows": {"supervised": "nothing"}}
    assert tables.scores(spec).splitlines()[-1] == "| nothing | 0.500 ± 0.010 | 0.700 ± 0.010 |  |"
    published = tables.scores({**spec, "published": {"supervised": "0.55"}}).splitlines()
    assert published[0].endswith("| none | published |")
    assert published[-1].endswith("|  | 0.55 |")


def test_facts_are_means_over_seeds_of_one_part(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    rows = ["few,simmim,pretrained,0,loss,0.5", "few,simmim,pretrained,1,loss,1.0", "all,simmim,pretrained,0,loss,9"]
    _write(tmp_path / "page", "facts.csv", "\n".join(["part,recipe,stage,seed,fact,value", *rows]) + "\n")
    spec = {"data": "page", "part": "few", "columns": [["L1", "loss", ".2f"], ["steps", "steps", ".0f"]]}
    assert tables.facts({**spec, "rows": {"simmim": "SimMIM"}}).splitlines() == [
        "| recipe | L1 | steps |",
        "| --- | --- | --- |",
        "| SimMIM | 0.75 |  |",
    ]


def test_stages_and_facts_of_every_part_are_kept(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path, "results.csv", "part,recipe,metric\nwide,simmim,dice\nnarrow,simmim,auroc\n")

    def read_all(folder: Path) -> dict[str, SimpleNamespace]:
        metric = {"wide": "dice", "narrow": "auroc"}[folder.relative_to(tmp_path / "parts").as_posix()]
        common = {"recipe": {"title": "simmim"}, "stage": "tuned", "seed": 0, "site": "a", "status": "done"}
        return {"record": SimpleNamespace(**common, part="test", metrics={metric: 0.5}, facts={"steps": 3, "why": "x"})}

    monkeypatch.setattr("allograft.results.record.read_all", read_all)
    common = {"recipe": "simmim", "stage": "tuned", "seed": 0}
    assert list(tables.stage_rows(tmp_path)) == [
        {"part": part, **common, "site": "a", "score": 0.5} for part in ("wide", "narrow")
    ]
    assert list(tables.fact_rows(tmp_path)) == [
        {"part": part, **common, "fact": "steps", "value": 3} for part in ("wide", "narrow")
    ]


def test_corrected_boxes_beside_those_that_came(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path / "kept")
    out = tmp_path / "out"
    _write(out, "results.csv", RESULTS)
    _write(out, "metrics.csv", METRICS)
    head = "recipe,reader,boxes,count,precision,precision_low,precision_high,recall,recall_low,recall_high\n"
    rows = "sissi,true,that came,6,0.75,0.5,1,0.5,0.25,0.75\nsissi,true,corrected,8.5,0.5,,,0.625,,\n"
    _write(out, "correction.csv", head + rows + rows.replace("true", "reader2") + rows.replace("sissi", "other"))
    tables.keep(out, tmp_path / "kept" / "page")
    spec = {"data": "page", "reader": "true", "rows": {"sissi": "A + SISSI"}}
    assert tables.correction(spec).splitlines() == [
        "| recipe | boxes | number | precision | recall |",
        "| --- | --- | --- | --- | --- |",
        "| A + SISSI | that came | 6 | 0.750 (0.500 to 1.000) | 0.500 (0.250 to 0.750) |",
        "| A + SISSI | corrected | 8.5 | 0.500 | 0.625 |",
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


def test_pairs_of_one_part_by_another_metric(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "DATA", tmp_path)
    rows = ["part,source,recipe,target,site,metric,mean"]
    for metric, scale in {"surface_dice": 1.0, "dice": 0.5}.items():
        rows += [f"from-a-one,a,supervised,b,b,{metric},{scale}", f"from-a-one,a,aiva,b,b,{metric},{0.5 * scale}"]
        rows += [f"to-b-many,a+c,supervised,b,b,{metric},{0.25 * scale}", f"to-b-many,a+c,aiva,b,b,{metric},{scale}"]
    _write(tmp_path / "page", "metrics.csv", "\n".join(rows) + "\n")
    spec = {"data": "page", "part": "-many", "metric": "dice", "rows": {"aiva": "AIVA"}}
    assert tables.pair_means(spec).splitlines() == [
        "| recipe | mean over 1 pairs | gain | pairs ahead | worst pair |",
        "| --- | --- | --- | --- | --- |",
        "| AIVA | 0.500 | +0.375 | 1 of 1 | 0.500, a+c to b |",
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
