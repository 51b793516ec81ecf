"""Domain-specific batch normalisation: one network for all sites, with a normalisation for each
(Chang et al. 2019)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import ClassVar

from allograft.batch import Batch
from allograft.context import Context
from allograft.networks import AnyNetwork, copied
from allograft.networks.dsbn import SiteNetwork
from allograft.networks.network import operate
from allograft.parts.by_site import SitePredictor
from allograft.recipe import Carry, Needs, Paper, Scenario, Stage
from allograft.step import Terms, named_state
from allograft.tasks import Task
from allograft.train import train_with_checkpoints


@dataclass(frozen=True)
class Dsbn:
    """Train on the source sites together, each image normalised by the statistics and parameters of
    its own site.

    It is a row of CateNorm's table 2, for several labelled sites; the paper itself adapts to an
    unlabelled one with pseudo-labels, which is not built here. At test time an image of a source
    site is normalised as that site. For other sites neither paper says anything: they get the mean
    of what each source site's normalisation gives. With one source site this is plain supervised
    training.
    """

    paper: ClassVar[Paper | None] = Paper(
        key="chang2019domain",
        authors="Chang, W.-G. and You, T. and Seo, S. and Kwak, S. and Han, B.",
        title="Domain-Specific Batch Normalization for Unsupervised Domain Adaptation",
        venue="IEEE/CVF Conference on Computer Vision and Pattern Recognition",
        year=2019,
    )
    needs_batch_norm: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(source_images=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a network without plain batch normalisation."""
        operate(copied(network), "dsbn", sites=list(scenario.sites))

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.steps`` updates on source batches, the sites taking turns."""
        network = operate(network, "dsbn", sites=list(scenario.sites)).to(context.fabric.device).train()
        batches = context.loader(scenario.source, "source")
        assert isinstance(network, SiteNetwork)
        steps = context.settings.budget.training(batches.epoch)
        step = context.gradient_step(network, SiteLoss(context.supervised_task), steps=steps)
        stage = Stage("trained", SitePredictor(network), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(step.optimizer, network))


@dataclass(frozen=True)
class SiteLoss:
    """The task's loss of a network that is told the sites."""

    task: Task

    def __call__(self, network: AnyNetwork, batch: Batch) -> Terms:
        return self.task.loss(network(batch.image, batch.site), batch)
