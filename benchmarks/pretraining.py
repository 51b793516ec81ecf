"""MixCL's label loss on sampled pixels beside the dense form over all foreground pixels at 24^3 (at
most a twentieth of its time was promised), masks and permutations of a batch beside a loop over
images, and a step of each pre-training beside the same step in bare PyTorch."""

from __future__ import annotations

import math
import random

import torch
from ratio import compare
from torch import Tensor

from allograft.batch import Batch
from allograft.methods.mixcl import boundary_weights, label_loss
from allograft.methods.popar import permute_patches
from allograft.methods.simmim import MASK, MaskedRestoration, masked_l1, random_mask
from allograft.networks import build
from allograft.parts.patches import permutations
from allograft.run.fabric import local_fabric
from allograft.step import GradientStep

SIDE, CHANNELS, PIXELS = 24, 32, 64


def labels() -> Tensor:
    """Two balls in a cube, a quarter of it."""
    axes = torch.meshgrid(*[torch.arange(SIDE).float()] * 3, indexing="ij")
    grid = torch.stack(axes)
    mask = torch.zeros(SIDE, SIDE, SIDE, dtype=torch.int64)
    for number, centre in ((1, 7.0), (2, 16.0)):
        mask[(grid - centre).square().sum(0).sqrt() < 6.5] = number
    return mask


def label_losses() -> None:
    """The sampled loss draws its pixels too; the dense one leaves the background out."""
    mask, z1, z2 = labels(), torch.randn(SIDE**3, CHANNELS), torch.randn(SIDE**3, CHANNELS)
    flat = mask.flatten()
    foreground = flat > 0

    def dense() -> Tensor:
        first, second = z1.clone().requires_grad_(), z2.clone().requires_grad_()
        loss = label_loss(first[foreground], flat[foreground], second[foreground], flat[foreground], 0.1)
        loss.backward()
        return loss

    def sampled() -> Tensor:
        first, second = z1.clone().requires_grad_(), z2.clone().requires_grad_()
        weights = boundary_weights(mask).flatten()
        own = [torch.multinomial(weights * (flat == number), PIXELS) for number in range(3)]
        places = torch.cat(own)
        loss = label_loss(first[places], flat[places], second[places], flat[places], 0.1)
        loss.backward()
        return loss

    compare("mixcl_label_loss_24", sampled, dense, limit=0.05)


def masks_and_permutations() -> None:
    """A batch of 64 images of 192 px in patches of 32, and of 224 px in patches of 16."""
    rng = torch.Generator().manual_seed(0)

    def looped() -> Tensor:
        rows = []
        for _ in range(64):
            mask = torch.zeros(36, dtype=torch.bool)
            for place in random.sample(range(36), math.ceil(0.6 * 36)):
                mask[place] = True
            rows.append(mask.view(6, 6))
        return torch.stack(rows)

    compare("simmim_masks_64", lambda: random_mask((6, 6), 0.6, rng, batch=64), looped, limit=None)
    image = torch.rand(16, 1, 224, 224)

    def patch_by_patch() -> Tensor:
        out = torch.empty_like(image)
        for number, order in enumerate(permutations(16, 196, rng).tolist()):
            for goal, source in enumerate(order):
                row, column = divmod(goal, 14)
                above, beside = divmod(source, 14)
                out[number, :, row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = image[
                    number, :, above * 16 : above * 16 + 16, beside * 16 : beside * 16 + 16
                ]
        return out

    ours = lambda: permute_patches(image, permutations(16, 196, rng), 16)  # noqa: E731
    compare("popar_permutation_16", ours, patch_by_patch, limit=None)


def simmim_step() -> None:
    """Swin at 64 px: our step, and zero_grad, forward, backward and step written out."""
    arguments = {"image_size": 64, "patch_size": 4, "embed_dim": 48, "depths": [2, 2, 2], "num_heads": [3, 6, 12]}
    spec = {"build": {"swin": {"in_channels": 1, "outputs": {}, **arguments, "window_size": 4}}}
    network, twin = build(spec), build(spec)
    image = torch.rand(8, 1, 64, 64)
    mask = random_mask((4, 4), 0.6, torch.Generator().manual_seed(0), batch=8)
    batch = Batch(image, torch.zeros(8).long(), tuple("abcdefgh"), attributes={MASK: mask})
    objective, other = MaskedRestoration(network, image, 16), MaskedRestoration(twin, image, 16)
    optimizers = [
        torch.optim.AdamW([*net.parameters(), *loss.parameters()])
        for net, loss in ((network, objective), (twin, other))
    ]
    step = GradientStep(network, objective, optimizers[0], local_fabric(accelerator="cpu"))

    def bare() -> None:
        optimizers[1].zero_grad()
        body = twin.encoder.body
        tokens = body.patch_embed(image)
        hidden = mask.repeat_interleave(4, 1).repeat_interleave(4, 2)[..., None]
        tokens = torch.where(hidden, other.token, tokens)
        for stage in body.layers:
            tokens = stage(tokens)
        values = other.decode(body.norm(tokens).movedim(-1, 1))
        masked_l1(torch.nn.functional.pixel_shuffle(values, 16), image, mask).backward()
        optimizers[1].step()

    compare("simmim_step_to_bare_torch", lambda: step(batch), bare, limit=1.1, rounds=15)


def main() -> None:
    label_losses()
    masks_and_permutations()
    simmim_step()


if __name__ == "__main__":
    main()
