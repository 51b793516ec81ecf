"""MS-Net: a network for several sites that also learns from a decoder of each site's own (Liu et
al. 2020)."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, copied
from allograft.networks.dsbn import SiteNetwork
from allograft.networks.network import operate
from allograft.nn.dsbn import at_domains, everywhere
from allograft.parts.by_site import SitePredictor
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.schedule import Schedule
from allograft.step import Terms, average_buffers, average_gradients, named_state
from allograft.tasks import Task
from allograft.train import train_with_checkpoints

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class MsNet:
    """Domain-specific batch normalisation, and knowledge passed from auxiliary decoders, one a
    site, to the decoder that all sites share.

    One iteration, as in the released code: encoder and auxiliary decoders take a step on each
    site's labels; then, after the warm-up, encoder and shared decoder take a step on
    ``(1 - transfer) L(y, p) + transfer L(argmax of the site's auxiliary decoder, p)``. Each has an
    optimizer of its own, the encoder is in both. The auxiliary decoders are dropped at the end.
    Other sites are treated as by ``dsbn``.

    Where we differ: L is the task's loss (released: Dice alone), a mean over the images of a batch,
    and the auxiliary decoders begin as copies of the shared one.

    Args:
        transfer: weight of what the auxiliary decoders say.
        warmup: share of the steps in which they alone are trained; released: 500 of 50 000
            iterations.
    """

    transfer: Annotated[float, Ge(0), Lt(1)] = 0.5
    warmup: Annotated[float, Ge(0), Lt(1)] = 0.01

    paper: ClassVar[Paper | None] = Paper(
        key="liu2020msnet",
        authors="Liu, Q. and Dou, Q. and Yu, L. and Heng, P. A.",
        title="MS-Net: Multi-Site Network for Improving Prostate Segmentation with Heterogeneous MRI Data",
        venue="IEEE Transactions on Medical Imaging",
        year=2020,
    )
    needs_batch_norm: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(source_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a task that gives more than masks, or a network without plain
        batch normalisation."""
        if tuple(context.supervised_task.outputs) != ("mask",):
            found = ", ".join(context.supervised_task.outputs)
            raise SpecError(
                f"msnet: the task predicts {found}; its decoders give masks alone, use dsbn or another recipe"
            )
        operate(copied(network), "dsbn", sites=list(scenario.sites))

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` iterations on source batches, the sites taking turns."""
        self.check(scenario, network, context)
        network = operate(network, "dsbn", sites=list(scenario.sites)).to(context.fabric.device).train()
        assert isinstance(network, SiteNetwork)
        branches = Branches(network).to(context.fabric.device).train()
        batches = context.loader(scenario.source, "source")
        steps = context.settings.budget.training(batches.epoch)
        auxiliary = context.optimizer([*network.encoder.parameters(), *branches.parameters()])
        shared = context.optimizer(network.parameters())
        begin, clip = round(self.warmup * steps), context.settings.clip
        schedules = [made for each in (auxiliary, shared) if (made := context.schedule(each, steps))]
        task, fabric = context.supervised_task, context.fabric
        step = MsNetStep(network, branches, auxiliary, shared, task, fabric, self.transfer, begin, clip, schedules)
        stage = Stage("trained", SitePredictor(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(shared, network))


class Branches(nn.Module):
    """The auxiliary decoders: a copy of the network's decoder and head for each of its sites."""

    def __init__(self, network: SiteNetwork) -> None:
        super().__init__()
        assert network.decoder is not None
        self.decoders = nn.ModuleList(copy.deepcopy(network.decoder) for _ in network.sites)
        self.heads = nn.ModuleList(copy.deepcopy(network.heads["mask"]) for _ in network.sites)

    def forward(self, features: Sequence[Tensor], site: Tensor) -> Tensor:
        """Features of (B, ...) each and the images' sites (B,) -> logits (B, K, *spatial), each
        image's by its own site's decoder."""
        order, logits = [], []
        for site_index in everywhere(site, len(self.heads)):
            rows = (site == site_index).nonzero()[:, 0]
            own = [feature[rows] for feature in features]
            with at_domains(self, site[rows]):
                logits.append(self.heads[site_index](own, self.decoders[site_index](own)))
            order.append(rows)
        return torch.cat(logits)[torch.cat(order).argsort()]


@dataclass
class MsNetStep:
    """A step of the auxiliary decoders; after ``begin`` such steps, each is followed by one of the
    shared decoder."""

    network: SiteNetwork
    branches: Branches
    auxiliary: torch.optim.Optimizer
    shared: torch.optim.Optimizer
    task: Task
    fabric: Fabric
    transfer: float
    begin: int
    clip: float | None = None
    schedules: list[Schedule] = field(default_factory=list)
    number: int = 0

    def __call__(self, batch: Batch) -> Terms:
        with self.fabric.autocast():
            logits = self.branches(self._features(batch), batch.site)
            losses = {f"auxiliary/{key}": value for key, value in self.task.loss({"mask": logits}, batch).items()}
        self._descend(losses, self.auxiliary)
        self.number += 1
        if self.number > self.begin:
            with self.fabric.autocast():
                terms = self._shared(batch)
            self._descend(terms, self.shared)
            losses |= terms
        for schedule in self.schedules:
            schedule(torch.stack([*losses.values()]).sum().detach())
        return {key: value.detach() for key, value in losses.items()}

    def _features(self, batch: Batch) -> Sequence[Tensor]:
        with at_domains(self.network, batch.site):
            features: Sequence[Tensor] = self.network.encoder(batch.image)
        return features

    def _shared(self, batch: Batch) -> dict[str, Tensor]:
        with at_domains(self.network, batch.site):
            features = self.network.encoder(batch.image)
            assert self.network.decoder is not None
            output = {"mask": self.network.heads["mask"](features, self.network.decoder(features))}
        with torch.no_grad():
            taught = self.branches(features, batch.site).argmax(1, keepdim=True)
        mask = batch.labels["mask"]
        assert isinstance(mask, Tensor)
        taught = taught.where(mask >= 0, mask)  # what is not labelled is not taught either
        pairs = (("labels", 1 - self.transfer, mask), ("transfer", self.transfer, taught))
        return {
            f"{name}/{key}": weight * value
            for name, weight, wanted in pairs
            if weight > 0
            for key, value in self.task.loss(output, replace(batch, labels={**batch.labels, "mask": wanted})).items()
        }

    def _descend(self, terms: Terms, optimizer: torch.optim.Optimizer) -> None:
        moving = [*self.network.parameters(), *self.branches.parameters()]
        for p in moving:
            p.grad = None
        self.fabric.backward(torch.stack([*terms.values()]).sum())
        average_gradients(moving)
        average_buffers(self.network)
        average_buffers(self.branches)
        if self.clip is not None:
            nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], self.clip)
        optimizer.step()
