"""What a pretext task cannot be done with, and the size of its samples."""

from __future__ import annotations

from collections.abc import Sequence

from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network
from allograft.parts.deep_clusters import check_clusters
from allograft.parts.pool import check_several
from allograft.parts.pretext_tasks import Pretext
from allograft.parts.pretexts import check_channels
from allograft.transforms.pretexts import blocks


def crop_of(pretext: Pretext, pool: Sequence[Cohort], multiple: int, context: Context) -> tuple[int, ...]:
    """Pixels of a sample along each axis: the study's patch, or the image.

    Where there is no patch, crops of ``transvw`` have half the image's sides, or the nearest
    ``multiple`` below that.
    """
    size = context.settings.patch or tuple(pool[0].case(0).image.shape[2:])
    if pretext != "transvw" or context.settings.patch is not None:
        return size
    return tuple(max(multiple, side // 2 // multiple * multiple) for side in size)


def check_pretext(pretext: Pretext, classes: int, pool: Sequence[Cohort], network: AnyNetwork, context: Context) -> int:
    """The channels of a pool's images.

    Raises:
        SpecError: a network without an encoder; one image; images of different channels; samples
            whose sides differ, for rotations; odd sides, for blocks; fewer images than clusters,
            and fewer patients than visual words; crops as large as the image.
    """
    if not isinstance(network, Network):
        raise SpecError("united: the network is one opaque module without an encoder; choose a network of our table")
    check_several(pool, "united")
    channels = check_channels("united", pool)
    crop = crop_of(pretext, pool, network.multiple, context)
    shown = "x".join(map(str, crop))
    if pretext == "rotation" and len(set(crop)) > 1:
        raise SpecError(
            f"united: samples of {shown} have another shape once they are turned; set preprocessing: size, or patch, "
            f"to equal sides such as {[min(crop)] * len(crop)}"
        )
    if pretext in ("jigsaw", "rubik"):
        blocks(crop)
    if pretext == "deep_clustering":
        check_clusters(classes, pool, context.settings.patch)
    if pretext == "transvw":
        _check_words(classes, pool, crop, shown)
    return channels


def _check_words(classes: int, pool: Sequence[Cohort], crop: tuple[int, ...], shown: str) -> None:
    patients = {case.subject for cohort in pool for case in cohort.cases}
    if len(patients) < classes:
        raise SpecError(
            f"united: the pool has {len(patients)} patients, and each of the {classes} classes of transvw has a "
            f"reference patient of its own; set classes to {len(patients)} or less, or name more sites in pool"
        )
    size = pool[0].case(0).image.shape[2:]
    if all(cut >= side for cut, side in zip(crop, size, strict=True)):
        raise SpecError(
            f"united: crops of {shown} have one place in images of {'x'.join(map(str, size))}, and transvw tells "
            "places apart; lower patch"
        )
