"""Which DICOM objects are written of each prediction, and what they call its classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from allograft.apply import dicom_report, dicom_segmentation
from allograft.apply.dicom_codes import NamedClass, plain_classes, read_codes
from allograft.apply.dicom_series import Algorithm
from allograft.apply.model import Model, Predicted
from allograft.errors import ModelError, SpecError, require_extra
from allograft.predictor.abstention import Abstention


@dataclass(frozen=True)
class DicomObjects:
    """What is written of each prediction.

    Args:
        segments: the classes of masks, the i-th of segment i + 1.
        classes: the classes of images.
        algorithm: the model.
        has_segmentation: write ``NAME_seg.dcm`` in the place of a mask.
        has_report: write ``NAME_sr.dcm``.
    """

    segments: tuple[NamedClass, ...]
    classes: tuple[NamedClass, ...]
    algorithm: Algorithm
    has_segmentation: bool
    has_report: bool

    @staticmethod
    def of(model: Model, folder: Path, *, segmentation: bool, report: bool, codes: Path | None) -> DicomObjects | None:
        """The objects that the options ask for; None for none.

        Args:
            folder: of the model.
            codes: a file for ``read_codes``.

        Raises:
            ModelError: the model does not predict what the objects hold.
            SpecError: options that do not go together, or a file of codes that cannot be used.
            MissingExtraError: highdicom is not installed.
        """
        if not segmentation and not report:
            if codes is not None:
                raise SpecError(
                    "--dicom-codes names the classes of DICOM objects; add --dicom-seg or --dicom-sr, or leave it out"
                )
            return None
        outputs = model.task.outputs
        if segmentation and "mask" not in outputs:
            raise ModelError(
                f"--dicom-seg writes masks, and this model predicts {', '.join(outputs)}; leave --dicom-seg out"
            )
        if report and not {"mask", "label"} & set(outputs):
            raise ModelError(
                f"--dicom-sr writes the sizes of masks and classes of images, and this model predicts "
                f"{', '.join(outputs)}; leave --dicom-sr out"
            )
        if report and "mask" in outputs and not segmentation:
            raise SpecError("--dicom-sr refers to the segments that it measures; add --dicom-seg")
        require_extra("highdicom", "dicom")
        names = tuple(model.task.names)
        named = plain_classes(names) if codes is None else read_codes(codes, names)
        count = outputs.get("mask", 1) - 1  # masks come first, without the background
        algorithm = Algorithm(folder.resolve().name, str(model.card.get("checksum", "unknown")))
        return DicomObjects(named[:count], named[count:], algorithm, segmentation, report)

    def write(self, predicted: Predicted, rule: Abstention | None, beside: Callable[[str], Path]) -> None:
        """Write them.

        Args:
            rule: which distance from the training images is the largest that is let through.
            beside: ending -> the file to write.

        Raises:
            ImageError: an image of which they cannot be made.
        """
        segmentation = None
        if self.has_segmentation:
            segmentation = beside(dicom_segmentation.ENDING)
            dicom_segmentation.write_segmentation(segmentation, predicted, self.segments, self.algorithm)
        if self.has_report:
            dicom_report.write_report(
                beside(dicom_report.ENDING),
                predicted,
                self.algorithm,
                segments=self.segments,
                classes=self.classes,
                segmentation=segmentation,
                rule=rule,
            )
