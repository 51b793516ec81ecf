"""Tables 1 to 3 and figures 3 and 4 of Guo et al. 2022 from a finished study: IoU, or AUROC of a classification, mean
and standard deviation over seeds, and independent two-sample t-tests over seeds.

    python examples/united.py runs/united [runs/united_10 ...]

Further folders hold the same study with fewer labels. A test over seeds says whether another training on the same
images would come out better; it says nothing about other patients, for which see the study's own table.
"""

import argparse
from pathlib import Path

import pandas as pd
from scipy.stats import ttest_ind

from allograft import read_records
from allograft.errors import AllograftError, OutputError
from allograft.recipe import parse_recipe, title


def scores(out: Path) -> pd.DataFrame:
    """A row a part, recipe and seed: IoU or AUROC of the target's test patients."""
    frames = []
    if not (out / "study.json").is_file():
        study = "allograft study examples/united.yaml"
        raise OutputError(f"{out / 'study.json'}: no such file; run '{study} --out {out}' first")
    for folder in sorted((out / "parts").glob("*")) or [out]:
        records = read_records(folder)
        tested = records[(records["part"] == "test") & (records["status"] == "done")]
        names = [title(parse_recipe({recipe["name"]: recipe["parameters"]})) for recipe in tested["recipe"]]
        metric = "metrics/iou" if "metrics/iou" in tested and tested["metrics/iou"].notna().any() else "metrics/auroc"
        frames.append(
            pd.DataFrame({"recipe": names, "seed": tested["seed"], "score": tested[metric], "part": folder.name})
        )
    return pd.concat(frames, ignore_index=True)


def strategy(name: str) -> str:
    """D, (D)+R, ((D)+R)+A or D+R+A of a title, Random of a row that is not pre-trained."""
    if name.endswith("encoder_alone"):  # of its default, (D)+R of rotation
        return "(D)+R, encoder alone"
    if "united" not in name:
        return "Random"
    alone = ", encoder alone" if "encoder_alone" in name else ""
    phases, ingredients = name.count("united"), "D+R+A" if "D+R+A" in name else "D+R" if "D+R" in name else "D"
    return ({("D+R", 2): "(D)+R", ("D+R+A", 3): "((D)+R)+A"}.get((ingredients, phases), ingredients)) + alone


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("studies", type=Path, nargs="+", help="the folder of a study; further ones have fewer labels")
    arguments = parser.parse_args()
    for out in arguments.studies:
        try:
            every = scores(out)
        except AllograftError as error:
            parser.exit(error.exit_code, f"{error}\n")
        for part, rows in every.groupby("part"):
            groups = {name: list(group["score"]) for name, group in rows.groupby("recipe")}
            random = next((values for name, values in groups.items() if strategy(name) == "Random"), [])
            print(f"\n{out} {part}")
            for name, values in groups.items():
                pretext = next(
                    (word.partition("=")[2].strip(")") for word in name.split() if "pretext=" in word), "rotation"
                )
                p = float(ttest_ind(values, random).pvalue) if min(len(values), len(random)) > 1 else float("nan")
                mean, spread = 100 * pd.Series(values).mean(), 100 * pd.Series(values).std()
                label = "Random" if strategy(name) == "Random" else f"{pretext:16s} {strategy(name)}"
                print(f"  {mean:6.2f} ± {spread:5.2f}  p {p:.3f} against Random  {label}")
