"""From other people's layouts to a manifest: one file a format. Files are referenced where they
lie, never copied."""

from allograft.cohort.importers.bids import import_bids
from allograft.cohort.importers.coco import import_coco
from allograft.cohort.importers.folder import import_folder
from allograft.cohort.importers.medmnist import import_medmnist
from allograft.cohort.importers.msd import import_msd
from allograft.cohort.importers.nnunet import import_nnunet
from allograft.cohort.importers.rows import Imported, Options
from allograft.cohort.importers.table import import_table
from allograft.cohort.importers.voc import import_voc

__all__ = [
    "Imported",
    "Options",
    "import_bids",
    "import_coco",
    "import_folder",
    "import_medmnist",
    "import_msd",
    "import_nnunet",
    "import_table",
    "import_voc",
]
