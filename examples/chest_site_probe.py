"""Does a model tell the collections of chest radiographs apart rather than the disease? Accuracy of
a linear probe of the site, and AUROC within each site, where knowing the site is of no help. At a
site with a single class AUROC is undefined.

In ``chest_xray`` no-finding and pneumonia are found at ``nih`` alone, and covid-19 at the other
collections alone: a model that names the collection names covid-19. Train on one site first
(``chest_xray.yaml``), then

    python examples/chest_site_probe.py runs/chest/models/supervised@covid-collection data/chest_xray/manifest.csv
"""

from __future__ import annotations

import argparse
from pathlib import Path

from allograft.apply import load
from allograft.cohort import Cohort
from allograft.errors import AllograftError
from allograft.results.analysis.site_probe import seen, site_probe


def main(folder: Path, manifest: Path) -> None:
    """Print what the probe finds over the labelled cases of the manifest; AUROC flatters where the
    model was trained on them."""
    model = load(folder)
    task, preprocessing = model.task, model.prepared().preprocessing
    cohort = Cohort.read(manifest, task.coding, preprocessing=preprocessing, slices=model.slices).labelled(task.key)
    rows, predictions = seen(model.predictor, cohort)
    found = site_probe(rows, [case.site for case in cohort.cases], [case.subject for case in cohort.cases])
    print(f"site from features of {found.subjects} subjects: accuracy {found.accuracy:.3f}, chance {found.chance:.3f}")
    for site, recall in found.recalls.items():
        measured = [
            task.measure(predictions[n], cohort.whole(n)) for n, case in enumerate(cohort.cases) if case.site == site
        ]
        area = task.aggregate(measured)["auroc"]
        print(
            f"  {site}: recognised {recall:.3f}; AUROC within {site}: {'undefined' if area is None else f'{area:.3f}'}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the model's folder, below models/ of the study")
    parser.add_argument("manifest", type=Path, help="the manifest of the radiographs")
    arguments = parser.parse_args()
    try:
        main(arguments.folder, arguments.manifest)
    except AllograftError as error:
        parser.exit(error.exit_code, f"{error}\n")
