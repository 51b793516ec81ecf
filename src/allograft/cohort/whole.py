"""One complete case: what a predictor is given, and the truth on the image's own grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from allograft.batch import Batch, Boxes
from allograft.cohort.geometry import Geometry, from_grid
from allograft.cohort.manifest import Case
from allograft.cohort.picture import Grid
from allograft.cohort.prepared_images import PreparedImages


@dataclass(frozen=True)
class Whole:
    """A complete case, as the judge and ``predict`` see it.

    Args:
        case: its row of the manifest.
        batch: its images on the study's grid: B = 1, or one per slice of a volume; with their
            ``extent`` where they were padded. It never holds a label.
        prepared: where the truth is read from.
        make_uncut: makes the batch with what preprocessing.size cuts off, which ``case_prediction``
            shows to a predictor window by window.
        slice_axis: the axis of the study's grid across which slices were cut, or None.

    The truth is read when it is asked for, on the image's own grid; ``KeyError`` where the label is
    hidden.
    """

    case: Case
    batch: Batch
    prepared: PreparedImages = field(repr=False)
    make_uncut: Callable[[], Batch] = field(repr=False, compare=False)
    slice_axis: int | None = None

    @property
    def geometry(self) -> Geometry:
        """How the study's grid relates to the image's own."""
        return self.prepared.image(self.case)[1]

    @property
    def grid(self) -> Grid:
        """Where the image's own voxels lie."""
        return self.prepared.grid(self.case)

    def restack(self, values: Tensor) -> Tensor:
        """A prediction for ``batch`` (B, K, *spatial) -> (K, *size) on the study's grid, uncut or
        not."""
        return values[0] if self.slice_axis is None else values.movedim(0, 1 + self.slice_axis)

    def on_image(self, values: Tensor) -> Tensor:
        """Probabilities predicted for the case, uncut or not, (B, K, *spatial) -> (K, *shape) on
        the image's own grid; what lies outside is background: see ``from_grid``."""
        geometry, stacked = self.geometry, self.restack(values)
        return from_grid(stacked, geometry if tuple(stacked.shape[1:]) == geometry.size else geometry.uncut)

    @property
    def is_cut(self) -> bool:
        """Whether preprocessing.size cuts something off this image."""
        return self.geometry.share_cut_off > 0

    @property
    def cut_off(self) -> tuple[float, str]:
        """How much of the image preprocessing.size cuts off, in mm3 (mm2 of a plane of unknown
        thickness), and the unit."""
        voxel, unit = self.grid.voxel
        return self.geometry.share_cut_off * math.prod(self.grid.shape) * voxel, unit

    @property
    def mask(self) -> Tensor:
        """(*shape) int64 class indices, as stored."""
        return self.prepared.stored_mask(self.case)

    @property
    def region(self) -> Tensor | None:
        """(*shape) bool, the pixels that count; None when all do."""
        return self.prepared.stored_region(self.case)

    @property
    def paired(self) -> Tensor:
        """(C, *shape) float32, the paired image as shares of its range, see
        ``Coding.paired_to_share``."""
        return self.prepared.stored_pair(self.case)

    @property
    def boxes(self) -> Boxes:
        """The boxes, in the image's own pixels."""
        return self.prepared.stored_boxes(self.case)

    @property
    def further_boxes(self) -> dict[str, Boxes]:
        """Further reader -> the boxes, in the image's own pixels; {} where one reader's are all
        there are."""
        columns = self.case.further_readers
        return {reader: self.prepared.stored_boxes(self.case, column) for reader, column in columns.items()}

    @property
    def label(self) -> int | list[float]:
        """The index of the class, or with several labels 0.0 and 1.0 for each class."""
        return self.prepared.coding.label_to_index(str(self.case.labels["label"]), self.case.name)
