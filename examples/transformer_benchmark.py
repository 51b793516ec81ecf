"""Figure 1 and tables 1 and 2 of Ma et al. 2022 from a finished study: mean and standard deviation over seeds, and the
independent two-sample t-test of every row against the best of its table.

    python examples/transformer_benchmark.py runs/transformer_benchmark

A test over seeds says whether another training of the same network on the same images would come out better; it says
nothing about other patients, for which see the study's own table. A table without scores is left out.
"""

import argparse
from pathlib import Path

import pandas as pd
from scipy.stats import ttest_ind

from allograft import read_records
from allograft.errors import AllograftError, OutputError
from allograft.recipe import parse_recipe, title
from allograft.studies import missing_parts

TABLES = {"transformers": ("vit", "swin"), "CNN": ("resnet",), "table 2": ("domains",)}


def scores(out: Path) -> pd.DataFrame:
    """A row a part, recipe and seed: AUROC at the test patients."""
    frames = []
    for folder in sorted({file.parents[1] for file in (out / "parts").glob("*/records/*.json")}):
        records = read_records(folder)
        tested = records[(records["part"] == "test") & (records["status"] == "done")]
        if tested.empty:
            continue
        names = [title(parse_recipe({recipe["name"]: recipe["parameters"]})) for recipe in tested["recipe"]]
        rows = pd.DataFrame({"recipe": names, "seed": tested["seed"], "auroc": tested["metrics/auroc"]})
        frames.append(rows.assign(part=folder.name))
    if not frames:
        study = "allograft study examples/transformer_benchmark.yaml"
        raise OutputError(f"{out / 'parts'}: no part has scores of test patients; run '{study} --out {out}' first")
    return pd.concat(frames, ignore_index=True)


def show(heading: str, rows: pd.DataFrame) -> tuple[str, list[float]] | None:
    """Print a table; its best row that is pre-trained, if any, with the scores of each seed."""
    groups = {f"{part}: {recipe}": list(group["auroc"]) for (part, recipe), group in rows.groupby(["part", "recipe"])}
    best = max(groups, key=lambda name: sum(groups[name]) / len(groups[name]))
    print(f"\n{heading}")
    for name, values in groups.items():
        p = 1.0 if name == best else float(ttest_ind(values, groups[best]).pvalue)
        note = "best" if name == best else f"p {p:.3f} against the best"
        print(f"  {100 * pd.Series(values).mean():6.2f} ± {100 * pd.Series(values).std():5.2f}  {note:28s} {name}")
    tuned = {name: values for name, values in groups.items() if "first" in name}
    return max(tuned.items(), key=lambda row: sum(row[1]) / len(row[1]), default=None)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the folder of the study, or of some of its parts")
    arguments = parser.parse_args()
    try:
        every = scores(arguments.study)
    except AllograftError as error:
        parser.exit(error.exit_code, f"{error}\n")
    tables = {name: every[every["part"].isin(parts)] for name, parts in TABLES.items()}
    bests = {name: show(name, rows) for name, rows in tables.items() if len(rows)}
    transformer, cnn = bests.get("transformers"), bests.get("CNN")
    if transformer and cnn:
        print(f"\nbest pre-trained transformer, {transformer[0]}, against best pre-trained CNN, {cnn[0]}:")
        print(f"  p {float(ttest_ind(transformer[1], cnn[1]).pvalue):.3f}")
    for part, why in missing_parts(arguments.study).items():
        print(f"\nmissing: {part}: {why}")
