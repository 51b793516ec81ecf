"""Numbers and classes of a prediction as a DICOM measurement report (TID 1500), written by
highdicom (the extra ``dicom``)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from allograft import __version__
from allograft.apply.dicom_codes import OWN, Concept, NamedClass, coded
from allograft.apply.dicom_series import COMMON, USE, Algorithm, Kind, save, slices_of
from allograft.apply.model import Predicted
from allograft.errors import ImageError
from allograft.predictor.abstention import Abstention

ENDING = "sr.dcm"
KIND = Kind("DICOM report", "--dicom-sr", "patient and study")
PREDICTED = Concept(OWN, "PREDICTED", "Predicted class")
DISTANCE = Concept(OWN, "DISTANCE", "Distance from the training images")
THRESHOLD = Concept(OWN, "THRESHOLD", "Largest distance of images like the training images")
FAR = Concept(OWN, "FAR", "Farther than images like the training images")


def write_report(
    path: Path,
    predicted: Predicted,
    algorithm: Algorithm,
    *,
    segments: Sequence[NamedClass] = (),
    classes: Sequence[NamedClass] = (),
    segmentation: Path | None = None,
    rule: Abstention | None = None,
) -> None:
    """Write the measurement report of an image, and read it back.

    One measurement group per segment holds its volume in mm3 and refers to the segment. Where the
    model answers with classes, one group holds the predicted classes as qualitative evaluations,
    and one group per class its probability. Where the model knows how far an image may lie from its
    training images, a group holds the distance, the largest that is let through, and whether this
    one is above it. Every group names the algorithm. The report names the patient and the study of
    its series, without which no archive could file it.

    Args:
        algorithm: the model.
        segments: the classes of the mask; the i-th is segment i + 1.
        classes: those of the image.
        segmentation: the object with the segments.
        rule: which distance is the largest that is let through.

    Raises:
        ImageError: an image that is no DICOM; a series that lacks what a report must repeat; a
            report that does not read back as it was written.
    """
    import pydicom

    slices = slices_of(predicted, KIND)
    written = None if segmentation is None else pydicom.dcmread(segmentation, stop_before_pixels=True)
    numbers = _numbers(predicted, segments, classes, rule)

    def make() -> Any:
        groups = [*_image_groups(predicted, slices, algorithm, classes, rule)]
        if written is not None:
            groups += _segment_groups(predicted, slices, algorithm, segments, written)
        return _document([*slices, *([] if written is None else [written])], algorithm, groups)

    save(path, make, predicted, KIND)
    if not _reads_back(path, numbers):
        path.unlink()
        raise ImageError(
            f"{predicted.name}: its DICOM report does not read back as it was written; leave --dicom-sr out"
        )


def _numbers(
    predicted: Predicted, segments: Sequence[NamedClass], classes: Sequence[NamedClass], rule: Abstention | None
) -> list[float]:
    """All numbers of a report, in its order."""
    distance = [] if rule is None else [predicted.facts[rule.column], rule.threshold]
    return [*map(float, distance), *(float(predicted.answer.values[each.name]) for each in (*classes, *segments))]


def _image_groups(
    predicted: Predicted,
    slices: Sequence[Any],
    algorithm: Algorithm,
    classes: Sequence[NamedClass],
    rule: Abstention | None,
) -> Iterator[Any]:
    """What is said of the image: its classes and its distance, then the probability of each
    class."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    values = predicted.answer.values
    evaluations, measurements = [], []
    if classes:
        chosen = str(values["label"]).split("|")
        answers = [coded(each.code) for each in classes if each.name in chosen] or [codes.SCT.None_]
        evaluations += [sr.QualitativeEvaluation(coded(PREDICTED), answer) for answer in answers]
    if rule is not None:
        distance = float(predicted.facts[rule.column])
        is_far = codes.SCT.Yes if distance > rule.threshold else codes.SCT.No
        evaluations.append(sr.QualitativeEvaluation(coded(FAR), is_far))
        measurements += [_measured(coded(DISTANCE), distance), _measured(coded(THRESHOLD), rule.threshold)]
    if evaluations:
        sources = [sr.SourceImageForMeasurementGroup(each.SOPClassUID, each.SOPInstanceUID) for each in slices]
        yield sr.MeasurementsAndQualitativeEvaluations(
            sr.TrackingIdentifier(identifier="image"),
            algorithm_id=_identified(algorithm),
            measurements=measurements,
            qualitative_evaluations=evaluations,
            source_images=sources,
        )
    for each in classes:
        yield sr.MeasurementsAndQualitativeEvaluations(
            measurements=[_measured(codes.DCM.Probability, float(values[each.name]))], **_finding(each, algorithm)
        )


def _segment_groups(
    predicted: Predicted, slices: Sequence[Any], algorithm: Algorithm, segments: Sequence[NamedClass], written: Any
) -> Iterator[Any]:
    """The volume of each segment in mm3; of a plane the segment is the frame of its number."""
    from highdicom import sr
    from pydicom.sr.codedict import codes

    reference = written.SOPClassUID, written.SOPInstanceUID
    for number, each in enumerate(segments, 1):
        size = _measured(codes.SCT.Volume, float(predicted.answer.values[each.name]), codes.UCUM.CubicMillimeter)
        if len(predicted.grid.shape) == 3:
            yield sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
                referenced_segment=sr.ReferencedSegment(
                    *reference, number, source_series=sr.SourceSeriesForSegmentation(slices[0].SeriesInstanceUID)
                ),
                measurements=[size],
                **_finding(each, algorithm),
            )
        else:
            source = sr.SourceImageForSegmentation(slices[0].SOPClassUID, slices[0].SOPInstanceUID)
            yield sr.PlanarROIMeasurementsAndQualitativeEvaluations(
                referenced_segment=sr.ReferencedSegmentationFrame(*reference, number, number, source),
                measurements=[size],
                **_finding(each, algorithm),
            )


def _finding(named: NamedClass, algorithm: Algorithm) -> dict[str, Any]:
    """What every group about a class says of it."""
    from highdicom import sr

    return {
        "tracking_identifier": sr.TrackingIdentifier(identifier=named.name),
        "finding_type": coded(named.code),
        "finding_category": None if named.category is None else coded(named.category),
        "algorithm_id": _identified(algorithm),
    }


def _measured(name: Any, value: float, unit: Any = None) -> Any:
    from highdicom import sr
    from pydicom.sr.codedict import codes

    return sr.Measurement(name, value, unit or codes.UCUM.NoUnits)


def _identified(algorithm: Algorithm) -> Any:
    from highdicom import sr

    return sr.AlgorithmIdentification(algorithm.name, algorithm.checksum, manufacturer=f"Allograft {__version__}")


def _document(evidence: Sequence[Any], algorithm: Algorithm, groups: Sequence[Any]) -> Any:
    """The report; a device is its observer, and nobody has verified it."""
    from highdicom import sr
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    observer = sr.DeviceObserverIdentifyingAttributes(
        generate_uid(entropy_srcs=["allograft", algorithm.checksum]),
        name=algorithm.name,
        manufacturer_name="Allograft",
        model_name=f"Allograft {__version__}",
    )
    content = sr.MeasurementReport(
        sr.ObservationContext(observer_device_context=sr.ObserverContext(codes.DCM.Device, observer)),
        procedure_reported=codes.SCT.ImagingProcedure,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return sr.ComprehensiveSR(
        evidence,
        content,
        series_instance_uid=generate_uid(),
        series_number=901,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        is_complete=True,
        series_description=USE,
        **COMMON,
    )


def _reads_back(path: Path, numbers: Sequence[float]) -> bool:
    """Whether a report holds these numbers in this order, and refers to nothing that it does not
    list."""
    import pydicom

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = pydicom.dcmread(path)
    items = list(_items(report))
    values = [float(item.MeasuredValueSequence[0].NumericValue) for item in items if item.ValueType == "NUM"]
    listed = {
        reference.ReferencedSOPInstanceUID
        for study in report.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for reference in series.ReferencedSOPSequence
    }
    named = {item.ReferencedSOPSequence[0].ReferencedSOPInstanceUID for item in items if item.ValueType == "IMAGE"}
    return (
        len(values) == len(numbers)
        and all(math.isclose(*pair, rel_tol=1e-9) for pair in zip(values, numbers, strict=True))
        and named <= listed
    )


def _items(dataset: Any) -> Iterator[Any]:
    """All content items below one, in order."""
    for item in dataset.get("ContentSequence", ()):
        yield item
        yield from _items(item)
