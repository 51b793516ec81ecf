"""Figure 4 of Guo et al. 2022 from a finished study with several numbers of target labels: how many labelled subjects
((D)+R)+A needs to reach the score that the training from scratch, and (D)+R, have with all of them.

    python examples/united_labels.py runs/united

Scores are means over seeds; between two budgets they are joined by a straight line.
"""

import argparse
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pandas as pd
from united import strategy

OURS, OTHERS = "((D)+R)+A", ("Random", "(D)+R")


def labels_to_reach(points: Sequence[tuple[float, float]], score: float) -> float | None:
    """Labels at which (labels, score), from few to many, first reach a score; None if they never do.

    >>> labels_to_reach([(10, 0.5), (20, 0.7)], 0.6)
    15.0
    """
    if points[0][1] >= score:
        return points[0][0]
    for (fewer, low), (more, high) in pairwise(points):
        if high >= score:
            return fewer + (more - fewer) * (score - low) / (high - low)
    return None


def show(curves: pd.DataFrame) -> None:
    """A line for each row that ((D)+R)+A is compared with."""
    points = {
        name: sorted(zip(rows["labelled_subjects"], rows["score"], strict=True))
        for name, rows in curves.groupby(curves["recipe"].map(strategy))
    }
    for other in OTHERS:
        everything, score = points[other][-1]
        needed = labels_to_reach(points[OURS], score)
        if needed is None:
            text = f"never; {points[OURS][-1][1]:.3f} with {points[OURS][-1][0]:.0f}"
        else:
            text = f"with {'at most ' if needed == points[OURS][0][0] else ''}{needed:.0f}"
            text += f", {100 * (1 - needed / everything):.0f} % fewer"
        print(f"  {other} has {score:.3f} with {everything:.0f} labelled subjects; {OURS} reaches it {text}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="the folder of a study with several numbers of target labels")
    arguments = parser.parse_args()
    file = arguments.study / "label_curve.csv"
    if not file.is_file():
        study = f"allograft study examples/united.yaml --out {arguments.study}"
        parser.exit(
            2, f"{file}: no such file; run {study} --set 'target_labels={{fraction: [0.1, 0.25, 0.5, 1]}}' first\n"
        )
    measured = pd.read_csv(file).query("kind == 'measured'")
    for part, rows in measured.assign(part=measured["part"].astype(object).fillna("")).groupby("part"):
        print(part)
        show(rows)
