"""DICOM segmentation objects as masks, read by highdicom (the extra ``dicom``)."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from allograft.cohort.picture import Picture, check_pixels
from allograft.errors import AllograftError, ImageError, require_extra

# of bits or shares, and of numbers
_SEGMENTATIONS = ("1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7")


def is_segmentation(path: Path) -> bool:
    """Whether a DICOM file is a segmentation object."""
    import pydicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            dataset = pydicom.dcmread(path, specific_tags=["SOPClassUID"], stop_before_pixels=True)
    except Exception:  # the reader of planes says what is wrong
        return False
    return dataset.get("SOPClassUID") in _SEGMENTATIONS


def read_segmentation(path: Path) -> Picture:
    """(1, columns, rows, slices): the number of each voxel's segment, 0 = none.

    Sparse: an object holds the slices in which something was drawn, and ``aligned`` fills up the
    others.

    Raises:
        ImageError: segments that overlap, shares instead of yes and no, or frames that are no
            volume.
        MissingExtraError: highdicom is not installed.
    """
    require_extra("highdicom", "dicom")
    import highdicom

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            segmentation = highdicom.seg.segread(path)
            geometry = segmentation.get_volume_geometry(allow_missing_positions=True)
            if geometry is None:
                fix = "expected parallel slices at equal steps; store it as NIfTI"
                raise ImageError(f"{path}: a segmentation whose frames are no volume; {fix}")
            check_pixels(path, geometry.spatial_shape)
            volume = segmentation.get_volume(combine_segments=True)
    except AllograftError:
        raise
    # highdicom's words may quote the header; of overlaps it says what is needed
    except Exception as error:
        if "overlap" in str(error).lower():
            fix = "a mask has one class per voxel: export the segments to be used alone"
            raise ImageError(f"{path}: a segmentation whose segments overlap; {fix}") from None
        fix = "expected yes or no for each voxel; store it as NIfTI, with dcmqi's segimage2itkimage for example"
        raise ImageError(f"{path}: a segmentation that cannot be read ({type(error).__name__}); {fix}") from None
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ np.asarray(volume.affine)[:, [2, 1, 0, 3]]
    return Picture(np.asarray(volume.array).transpose(2, 1, 0)[None], affine, sparse=True)
