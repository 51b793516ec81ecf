"""What the second pass of CateNorm does to an image: gamma and beta of a layer, channel by channel (Xiao et al. 2022, figure 6)."""

from __future__ import annotations

from torch import Tensor

from allograft.batch import Batch
from allograft.grey import grey_of, window_of
from allograft.methods.catenorm import TwoPass
from allograft.networks.catenorm import blocks_of
from allograft.nn.catenorm import CategoricalNorm2d, TwoBranchNorm2d
from allograft.report.gallery import Picture
from allograft.report.thumbnails import COLUMNS, CohortItem, sheet, small, upright


def draw_modulation(predictor: TwoPass, place: CohortItem, title: str, subject: str) -> Picture:
    """The image and the first pass's classes, then the channels whose gamma differs most over the image: gamma above, beta below."""
    cohort, index = place
    guide, gamma, beta = modulation_over(predictor, cohort.case(index).unlabelled())
    channels = gamma.flatten(1).std(1, correction=0).argsort(descending=True, stable=True)[: COLUMNS - 1]
    maps = [upright(each[channels].numpy(), cohort) for each in (gamma, beta)]
    ends = [window_of(each) for each in maps]
    rows = [[grey_of(one, window) for one in each] for each, window in zip(maps, ends, strict=True)]
    classes = grey_of(upright(guide.argmax(0, keepdim=True).numpy(), cohort)[0], (0.0, len(guide) - 1.0))
    told = ", ".join(f"{name} {low:.2f} to {high:.2f}" for name, (low, high) in zip(("gamma", "beta"), ends, strict=True))
    numbers = ", ".join(str(int(channel) + 1) for channel in channels)
    return Picture(title, f"{subject}; channels {numbers}: {told}", sheet([[small(place), *rows[0]], [classes, *rows[1]]]))


def modulation_over(predictor: TwoPass, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """The first pass's probabilities (K, h, w) for one image, and by them gamma and beta (C, h', w') in the first block's last layer.

    Where the image was padded they are cut to it.
    """
    block = next(block for block in blocks_of(predictor.network, (TwoBranchNorm2d,)) if block)
    layer: TwoBranchNorm2d = block[-1][2]  # type: ignore[assignment]
    seen: list[tuple[Tensor, Tensor, Tensor]] = []

    def look(module: CategoricalNorm2d, given: tuple[Tensor, Tensor], _: Tensor) -> None:
        x, guide = given
        seen.append((guide, *module.modulation(guide, x.shape[-2:])))

    handle = layer.categorical.register_forward_hook(look)
    try:
        predictor(batch)
    finally:
        handle.remove()
    ((guide, gamma, beta),) = seen  # the first pass goes through the other branch
    sizes, multiple = batch.image.shape[-2:], predictor.network.multiple

    def cut(maps: Tensor) -> Tensor:
        rows, columns = (max(1, round(grid * size / (size + -size % multiple))) for grid, size in zip(maps.shape[-2:], sizes, strict=True))
        return maps[0, :, :rows, :columns]

    return cut(guide), cut(gamma), cut(beta)
