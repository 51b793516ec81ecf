"""Figure 1 and tables 1 and 2 of Ma et al. 2022 from a finished study: mean and standard deviation over seeds, and the
independent two-sample t-test of every row against the best of its table.

    python examples/transformer_benchmark.py runs/transformer_benchmark

A test over seeds says whether another training of the same network on the same images would come out better; it says
nothing about other patients, for which see the study's own table.
"""

import sys
from pathlib import Path

import pandas as pd
from scipy.stats import ttest_ind

from allograft import read_records
from allograft.recipe import parse_recipe, title
from allograft.studies import missing_parts

TABLES = {"transformers": ("vit", "swin"), "CNN": ("resnet",), "table 2": ("domains",)}


def scores(out: Path) -> pd.DataFrame:
    """A row a part, recipe and seed: AUROC at the test patients."""
    frames = []
    for folder in sorted(folder for folder in (out / "parts").iterdir() if (folder / "study.json").exists()):
        records = read_records(folder)
        tested = records[(records["part"] == "test") & (records["status"] == "done")]
        names = [title(parse_recipe({recipe["name"]: recipe["parameters"]})) for recipe in tested["recipe"]]
        rows = pd.DataFrame({"recipe": names, "seed": tested["seed"], "auroc": tested["metrics/auroc"]})
        frames.append(rows.assign(part=folder.name))
    return pd.concat(frames, ignore_index=True)


def show(heading: str, rows: pd.DataFrame) -> tuple[str, list[float]]:
    """Print a table; its best row that is pre-trained, with the scores of each seed."""
    groups = {f"{part}: {recipe}": list(group["auroc"]) for (part, recipe), group in rows.groupby(["part", "recipe"])}
    best = max(groups, key=lambda name: sum(groups[name]) / len(groups[name]))
    print(f"\n{heading}")
    for name, values in groups.items():
        p = 1.0 if name == best else float(ttest_ind(values, groups[best]).pvalue)
        note = "best" if name == best else f"p {p:.3f} against the best"
        print(f"  {100 * pd.Series(values).mean():6.2f} ± {100 * pd.Series(values).std():5.2f}  {note:28s} {name}")
    tuned = {name: values for name, values in groups.items() if "first" in name}
    winner = max(tuned, key=lambda name: sum(tuned[name]) / len(tuned[name]))
    return winner, tuned[winner]


if __name__ == "__main__":
    every = scores(Path(sys.argv[1]))
    bests = {name: show(name, every[every["part"].isin(parts)]) for name, parts in TABLES.items()}
    (transformer, ours), (cnn, theirs) = bests["transformers"], bests["CNN"]
    print(f"\nbest pre-trained transformer, {transformer}, against best pre-trained CNN, {cnn}:")
    print(f"  p {float(ttest_ind(ours, theirs).pvalue):.3f}")
    for part, why in missing_parts(Path(sys.argv[1])).items():
        print(f"\nmissing: {part}: {why}")
