"""A training crop of 48^3 out of a prepared 256^3 image with its mask, cold (the first of a process)
and warm, against a bare copy of the same crop."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from nibabel import Nifti1Image, save
from ratio import compare, keep, seconds

from allograft.cohort import Coding, Cohort, Loader, Preprocessing
from allograft.cohort.orders import Turns, by_cohort
from allograft.seeds import Seeds
from allograft.transforms.sample import Sample

SIDE, CROP, COUNT = 256, 48, 20


def write_volume(folder: Path) -> Path:
    """One case of noise, with a mask."""
    rng = np.random.default_rng(0)
    save(Nifti1Image(rng.normal(size=(SIDE,) * 3).astype(np.float32), np.eye(4)), folder / "image.nii")
    save(Nifti1Image(rng.integers(0, 2, (SIDE,) * 3).astype(np.uint8), np.eye(4)), folder / "mask.nii")
    manifest = folder / "manifest.csv"
    manifest.write_text("image,mask,subject,site\nimage.nii,mask.nii,s,a\n")
    return manifest


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        manifest, seeds = write_volume(Path(name)), Seeds(0)
        options = {"preprocessing": Preprocessing(intensity="none"), "cache": Path(name) / "cache"}
        Cohort.read(manifest, Coding(mask={"x": (1,)}), **options).case(0)
        cohort = Cohort.read(manifest, Coding(mask={"x": (1,)}), **options)
        order = Turns(by_cohort((cohort,)), 1, seeds)
        batches = Loader((cohort,), order, 1, seeds, Sample("none", (CROP,) * 3))(0)
        cold = seconds(lambda: next(batches), time.process_time)
        image, mask = cohort.prepared.image(cohort.cases[0])[0], cohort.prepared.mask(cohort.cases[0], np.int16)
        rng = np.random.default_rng(0)

        def ours() -> None:
            for _ in range(COUNT):
                next(batches)

        def bare() -> None:
            for _ in range(COUNT):
                corner = rng.integers(0, SIDE - CROP, 3)
                cut = (slice(None), *(slice(start, start + CROP) for start in corner))
                torch.from_numpy(image[cut].copy()), torch.from_numpy(mask[cut].astype(np.int64))

        compare("crop_48_of_256", ours, bare, limit=4.1, rounds=9)
        keep("crop_48_of_256_first", {"milliseconds": round(1000 * cold, 2)})


if __name__ == "__main__":
    main()
