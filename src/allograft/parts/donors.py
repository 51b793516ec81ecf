"""Style donors: which source slices stand closest to a slice, by spectral residual similarity
(Zakazov et al. 2022, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.errors import SpecError
from allograft.metrics.similarity import SMALLEST, SrsimReference, ordered
from allograft.transforms.fourier import crop_or_pad, low_amplitude

Search = Literal["2d", "2.5d", "3d"]
REACH = 2
"""Slices on either side that ``2.5d`` takes in, the paper's m."""
SIZES = 4
"""Sizes of images for which donors' spectra are kept, the last ones asked for."""


@dataclass(frozen=True)
class Donors:
    """Source slices to choose from; part of a predictor.

    Slices are compared as grey images (the mean of the channels), each brought to 0..1 by its own
    extremes and cut or padded about the centre to one size. The paper brings whole scans to 0..1;
    the released code compares squares of 120 pixels about the centre of mass.

    Args:
        maps: (N, 2, h w) float32, saliency and gradient of each slice: one can see the anatomy in
            them, so a model that holds them says ``contains_images``. 8 bytes a pixel of every
            source image.
        scan: (N,) int64, the source scan that each is a slice of, ascending.
        place: (N,) int64, which slice of it, ascending within a scan.
        size: (h, w) of the maps; equal to that of the slices below 384 pixels.
        compared: (H, W) at which slices are compared.
        search: ``2d`` takes the slices closest to the i-th among the i-th of all scans; ``2.5d``
            among those from i - 2 to i + 2; ``3d`` the i-th slices of the scans whose mean
            similarity over the target's slices is highest.
        count: how many donors a slice has.
        sliced: whether cases are slices, ``NAME#PLACE``; else volumes, or images of one slice.
    """

    contains_images: ClassVar[bool] = True

    maps: Tensor
    scan: Tensor
    place: Tensor
    size: tuple[int, int]
    compared: tuple[int, int]
    search: str
    count: int
    sliced: bool = False

    @classmethod
    def from_scans(cls, scans: Sequence[Tensor], search: Search, count: int, *, sliced: bool = False) -> Donors:
        """Compute the maps of every slice once.

        Args:
            scans: (slices, C, H, W) each, of any size.
            count: donors a slice wants; there are fewer where the source has fewer.

        Example:
            >>> scans = torch.rand(3, 1, 1, 48, 48).unbind()
            >>> donors = Donors.from_scans(scans, "2d", 2)
            >>> donors.nearest(Batch(scans[1], torch.zeros(1), ("a",)))[0, 0].item()
            1
        """
        height, width = (max(SMALLEST, *(scan.shape[axis] for scan in scans)) for axis in (-2, -1))
        reference = SrsimReference.of(comparable(part, (height, width)) for scan in scans for part in scan.split(16))
        place = torch.cat([torch.arange(len(scan)) for scan in scans])
        number = torch.cat([torch.full((len(scan),), scan_index) for scan_index, scan in enumerate(scans)])
        most = len(number) if search == "2.5d" else len(scans)
        near = len(scans) * (2 * REACH + 1)
        return cls(
            reference.maps, number, place, reference.size, (height, width), search, min(count, most, near), sliced
        )

    def nearest(self, batch: Batch) -> Tensor:
        """The slices that lend their style, the most similar first; equal similarity (to 1e-6) goes
        by the source's order.

        Of sliced volumes ``3d`` averages over the slices of a scan that stand in the batch.

        Args:
            batch: images (B, C, H, W), or volumes (B, C, D, H, W).

        Returns:
            (B, count) int64 indices of slices; (B, count, D) for volumes.
        """
        volume = batch.image.ndim == 5
        planes = batch.image.transpose(1, 2) if volume else batch.image[:, None]  # (B, D, C, H, W)
        reference = SrsimReference(self.maps.to(planes.device), self.size)
        images = [[comparable(plane[None], self.compared) for plane in scan] for scan in planes]
        places = [[place_of(name, self.sliced) + d for d in range(planes.shape[1])] for name in batch.cases]
        if self.search != "3d":
            chosen = [
                torch.stack([self._closest(reference, *each) for each in zip(*scan, strict=True)], dim=-1)
                for scan in zip(images, places, strict=True)
            ]
        else:
            chosen = self._closest_scans(reference, batch.cases, images, places)
        return torch.stack(chosen) if volume else torch.stack(chosen)[..., 0]

    def _closest(self, reference: SrsimReference, image: Tensor, depth: int) -> Tensor:
        """(count,) for one slice. Beyond the ends, and where too few scans have the place, the
        nearest places stand in."""
        beyond = ((self.place.cpu() - depth).abs() - (REACH if self.search == "2.5d" else 0)).clamp_min(0)
        reach = beyond.sort().values[self.count - 1]
        among = torch.nonzero(beyond <= reach)[:, 0]
        scores = reference.scores(image, among).cpu()
        return among[ordered(scores - 2 * beyond[among])][
            : self.count
        ]  # a score is at most 1: nearer places come first

    def _closest_scans(
        self, reference: SrsimReference, names: Sequence[str], images: list[list[Tensor]], places: list[list[int]]
    ) -> list[Tensor]:
        """(count, D) for each of the batch: sim(s, t) = mean over slices of sim(s_i, t_i), and the
        scans with the highest."""
        depth = torch.bincount(self.scan.cpu())
        first = depth.cumsum(0) - depth
        scores: dict[str, list[Tensor]] = {}
        scans = [name.rpartition("#")[0] if self.sliced else str(image_index) for image_index, name in enumerate(names)]
        for scan, slices, where in zip(scans, images, places, strict=True):
            for image, position in zip(slices, where, strict=True):
                counterparts = first + torch.minimum(depth - 1, torch.tensor(position))
                scores.setdefault(scan, []).append(reference.scores(image, counterparts).cpu())
        best = {scan: ordered(torch.stack(each).double().mean(0))[: self.count] for scan, each in scores.items()}
        return [
            torch.stack(
                [
                    first[best[scan]] + torch.minimum(depth[best[scan]] - 1, torch.tensor(position))
                    for position in where
                ],
                dim=-1,
            )
            for scan, where in zip(scans, places, strict=True)
        ]


@dataclass(frozen=True)
class Spectra:
    """Low-frequency amplitudes of donors for images of any size; each donor is cropped or padded,
    and transformed, once for a size.

    Args:
        style: (N, C, ..., H, W), the donors.
        beta: radius of the disc as a fraction of an image's short side.
        kept: (size, device) -> donor -> its amplitudes, the size asked for last at the end.
    """

    style: Tensor
    beta: float
    kept: dict[tuple[tuple[int, int], torch.device], dict[int, Tensor]] = field(default_factory=dict)

    def of(self, donors: Tensor, size: tuple[int, int], device: torch.device) -> Tensor:
        """(...) indices of donors -> (..., C, ..., 2 r + 1, r + 1), see ``low_amplitude``."""
        known = self.kept[size, device] = self.kept.pop((size, device), {})
        if len(self.kept) > SIZES:
            del self.kept[next(iter(self.kept))]
        wanted = donors.flatten().tolist()
        for donor in sorted(set(wanted) - set(known)):
            known[donor] = low_amplitude(crop_or_pad(self.style[donor].to(device), size), self.beta)
        return torch.stack([known[donor] for donor in wanted]).unflatten(0, donors.shape)


def comparable(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """(P, C, H, W) -> grey (P, 1, *size) from 0 to 1, each plane by its own extremes; one of a
    single value becomes 0."""
    grey = planes.double().mean(1, keepdim=True)
    least, most = grey.amin((-2, -1), keepdim=True), grey.amax((-2, -1), keepdim=True)
    return crop_or_pad((grey - least) / torch.where(most > least, most - least, torch.ones_like(most)), size)


def place_of(name: str, sliced: bool) -> int:
    """Which slice of its volume a case is: 12 of ``scan.nii.gz#12``; 0 for whole images."""
    return int(name.rpartition("#")[2]) if sliced else 0


def source_scans(source: Sequence[Cohort], method: str) -> Iterator[Tensor]:
    """Every source scan in slices, (D, C, H, W); D = 1 for photographs.

    Raises:
        SpecError: scans with different numbers of channels.
    """
    channels = 0
    for cohort in source:
        for whole in cohort.wholes():
            image = whole.batch.image
            name = whole.case.name
            planes = image[0].transpose(0, 1) if image.ndim == 5 else image
            channels = channels or planes.shape[1]
            if planes.shape[1] != channels:
                mend = "convert the images, or choose source sites whose images agree"
                raise SpecError(
                    f"{method}: source image '{name}' has {planes.shape[1]} channels, the first has {channels}; {mend}"
                )
            yield planes


def draw_donors(source: Sequence[Cohort], count: int, rng: torch.Generator) -> Tensor:
    """``count`` images of the source cohorts, drawn without replacement: (count, C, *spatial), of
    the first one's height and width.

    Raises:
        SpecError: donors with different numbers of channels, or of slices.
    """
    places = [(cohort, index) for cohort in source for index in range(len(cohort))]
    chosen = torch.randperm(len(places), generator=rng)[:count].tolist()
    cases = [places[i][0].unlabelled().case(places[i][1]) for i in chosen]
    images = [case.image[0] for case in cases]
    for case, image in zip(cases, images, strict=True):
        if image.shape[:-2] != images[0].shape[:-2]:
            message = (
                f"'{case.cases[0]}' has (channels, slices) {tuple(image.shape[:-2])}, '{cases[0].cases[0]}' "
                f"{tuple(images[0].shape[:-2])}"
            )
            raise SpecError(
                f"donors: source image {message}; bring the images to one shape, for example preprocessing: "
                f"{{size: [...]}}"
            )
    return torch.stack([crop_or_pad(image, images[0].shape[-2:]) for image in images])
