"""Does a model tell the collections of chest radiographs apart rather than the disease? Accuracy of
a linear probe of the site, and AUROC within each site, where knowing the site is of no help. At a
site with a single class AUROC is undefined.

In ``chest_xray`` no-finding and pneumonia are found at ``nih`` alone, and covid-19 at the other
collections alone: a model that names the collection names covid-19. Train on one site first
(``chest_xray.yaml``), then

    python examples/chest_site_probe.py runs/chest/out/models/supervised@covid-collection
    data/chest_xray/manifest.csv
"""

from __future__ import annotations

import sys
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
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    try:
        main(Path(sys.argv[1]), Path(sys.argv[2]))
    except AllograftError as error:
        sys.exit(str(error))
