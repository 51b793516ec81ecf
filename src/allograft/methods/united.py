"""United: discriminative, restorative and adversarial pre-training, one ingredient after another
(Guo et al. 2022)."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Loader
from allograft.context import Context
from allograft.errors import SpecError
from allograft.networks import AnyNetwork, Network, reheaded
from allograft.nn.gan import Gan
from allograft.parts.adversary import AdversarialStep, ToldApart, adversary_of, check_penalty
from allograft.parts.deep_clusters import ClusteredEpochs, clusters_by_name
from allograft.parts.pool import chosen_pool, feature_shapes, mean_of_last, pool_loader, show_pool, steps_of
from allograft.parts.pretext_checks import check_pretext, crop_of
from allograft.parts.pretext_tasks import (
    CLASSES,
    CLEAN,
    LABEL,
    Pretext,
    PretextHead,
    PretextTask,
    pretext_loss,
    task_of,
)
from allograft.parts.restorations import frechet_by_start
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import GradientStep, Terms
from allograft.train import History, train

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class United:
    """Pre-train on images of the pool: an encoder recognises what was done to an image (D), a
    decoder restores the image (R), and an adversary tells (distorted, restored) pairs from
    (distorted, true) ones (A).

    Stepwise pre-training, the paper's strategy, is a chain: ``ingredients: D+R+A`` with ``first`` a
    ``united`` of D+R, and that with ``first`` a ``united`` of D, is ((D)+R)+A. Each phase is
    trained once for all rows that contain it. Without ``first`` all ingredients are trained at
    once.

    A phase continues the encoder, the decoder and its head, the pretext's head and the adversary of
    the phase before; L_d stays on. Encoder and decoder are kept; the adversary, an encoder
    like the discriminative one that sees two images, is in ``Carry.parts``. The fact ``weights`` of
    a phase says which tensors arrived and which start at random.

    Pretexts: ``rotation``, 10 classes of volumes and 4 of images; ``jigsaw``, halves of each axis
    in one of many orders; ``rubik``, a jigsaw whose blocks may be turned by 180 degrees;
    ``deep_clustering``, k-means of the encoder's features before each epoch, with a new head;
    ``transvw``, crops at the place of their class, in patients that an autoencoder finds alike.
    Jigsaw and rubik restore the image before it was cut. The other three restore the (turned,
    uncut, cropped) image from Models Genesis' distortion of it. Every phase sees T(x), also D.

    From the released code, where the paper gives no number: the weights 1 : 100 : 1, which belong
    to means; 1000 permutations; 44 words; a head of 2048 and 1024 units. Ours: 10 rotations (of its
    8 labels one repeats another and three mirror the volume), 64 clusters, the neighbours of a
    word, and -log A in the place of log(1 - A) in the generator's loss. 2-D images have 24 orders.

    Args:
        pretext: what is recognised.
        ingredients: of this phase, all that are on.
        discriminative_weight, restorative_weight, adversarial_weight: lambda_d, lambda_r, lambda_a.
        reduction: of eq. 2, ``mean`` over pixels, or ``sum``, as printed, whose weights the paper
            does not give; a mean over images.
        variant: ``paper``, the log GAN of eq. 3; ``released``, a Wasserstein GAN with a gradient
            penalty of weight 10. That code interpolates one image of the pair, here both; and its
            generator learns at every fifth step of jigsaw and rotation, here at every step.
        classes: permutations, clusters or words; by default 1000, 64, 44.
        neighbours: of a word, besides its reference patient.
        hidden, dropout: of the pretext's head.
        epochs: of this phase; by default the budget's ``steps`` or ``epochs``.
        pool: sites or cohorts of the pool that are used; by default all.
        first: the phase before, or another pre-training.
    """

    pretext: Pretext = "rotation"
    ingredients: Literal["D", "D+R", "D+R+A"] = "D"
    discriminative_weight: Annotated[float, Ge(0)] = 1.0
    restorative_weight: Annotated[float, Ge(0)] = 100.0
    adversarial_weight: Annotated[float, Ge(0)] = 1.0
    reduction: Literal["mean", "sum"] = "mean"
    variant: Literal["paper", "released"] = "paper"
    classes: Annotated[int, Ge(2)] | None = None
    neighbours: Annotated[int, Ge(1)] = 15
    hidden: tuple[Annotated[int, Ge(1)], ...] = (2048, 1024)
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.5
    epochs: Annotated[int, Ge(1)] | None = None
    pool: tuple[str, ...] = ()
    first: AnyRecipe | None = None

    paper: ClassVar[Paper | None] = Paper(
        key="guo2022stepwise",
        authors="Guo, Z. and Islam, N. U. and Gotway, M. B. and Liang, J.",
        title="Discriminative, Restorative, and Adversarial Learning: Stepwise Incremental Pretraining",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_7",
    )
    needs: ClassVar[Needs] = Needs(pool=True)

    def __post_init__(self) -> None:
        if self.pretext == "rotation" and self.classes is not None:
            raise SpecError(f"united: classes is {self.classes}; a rotation has 4 of images and 10 of volumes; drop it")
        if self.discriminative_weight == 0 and not self.restores:
            raise SpecError(f"united: every weight of {self.ingredients} is 0, so nothing is learned; raise one")

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``SpecError`` for a pool, a network or settings that this cannot be done with."""
        pool = chosen_pool(scenario.pool, self.pool, "united")
        channels = check_pretext(self.pretext, self.count, pool, network, context)
        if self.restores:
            restoring, _ = reheaded(network, {"paired": channels})  # refuses a network that gives no image
            if self.criticises and self.gan == "wasserstein":
                check_penalty("united", adversary_of(restoring, channels))

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Section 2 of the paper: one phase."""
        before = Carry(network)
        if self.first is not None:
            before = yield from context.run(self.first, scenario, network)
        pool = chosen_pool(scenario.pool, self.pool, "united")
        channels = pool[0].case(0).image.shape[1]
        with context.seeds.everything("new parts"):  # whether the phases before were run now or loaded
            body, report = reheaded(before.network, {"paired": channels} if self.restores else {})
            body.to(context.fabric.device).train()
            crop = crop_of(self.pretext, pool, body.multiple, context)
            task = task_of(self.pretext, self.count, self.neighbours, pool, crop, context)
            width = feature_shapes(body, (1, channels, *crop))[-1][1]
            head = self.continued_head(task.head(width, self.hidden, self.dropout), before)
            adversary = self.adversary(body, channels, before, context) if self.criticises else None
        objective = Ingredients(head.to(context.fabric.device), self)
        batches = pool_loader(task.pool, context, task.transform)
        steps = steps_of(context, self.epochs, batches.epoch)
        moving = [*(body if self.restores else body.encoder).parameters(), *objective.parameters()]
        learns = context.gradient_step(body, objective, context.optimizer(moving), steps=steps)
        if adversary is None:
            history = self.trained(learns, learns, task, batches, steps, context)
        else:
            critic = context.gradient_step(
                adversary, ToldApart(self.gan), context.optimizer(adversary.parameters()), steps=steps
            )
            both = AdversarialStep(learns, critic, objective.learned, self.adversarial_weight, self.gan)
            history = self.trained(both, learns, task, batches, steps, context)
        reached = mean_of_last(history, batches.epoch)
        if self.restores:
            reached |= self.shown(task, body, objective, network, context)
        facts: dict[str, float | int | str] = {"steps": steps, "steps_per_epoch": batches.epoch, "weights": str(report)}
        yield Stage("pretrained", seen=scenario.sites, facts={**facts, **reached})
        parts = {"discriminator": head, **({} if adversary is None else {"adversary": adversary})}
        return Carry(body, parts=parts)

    @property
    def restores(self) -> bool:
        """Whether the decoder runs."""
        return self.ingredients != "D" and (self.restorative_weight > 0 or self.criticises)

    @property
    def criticises(self) -> bool:
        """Whether there is an adversary."""
        return self.ingredients == "D+R+A" and self.adversarial_weight > 0

    @property
    def gan(self) -> Gan:
        """What generator and adversary minimise."""
        return "log" if self.variant == "paper" else "wasserstein"

    @property
    def count(self) -> int:
        """Classes of the pretext; a rotation counts its own."""
        return self.classes or CLASSES.get(self.pretext, 0)

    def continued_head(self, head: PretextHead, before: Carry) -> PretextHead:
        """The head with the weights of the phase before, where that told the same classes."""
        earlier = before.parts.get("discriminator")
        if earlier is not None and getattr(self.first, "pretext", None) == self.pretext:
            state = earlier.state_dict()
            if all(state[name].shape == value.shape for name, value in head.state_dict().items()):
                head.load_state_dict(state)
        return head

    def adversary(self, body: Network, channels: int, before: Carry, context: Context) -> Network:
        """That of the phase before, or a new one."""
        earlier = before.parts.get("adversary")
        made = reheaded(earlier, {"label": 1})[0] if isinstance(earlier, Network) else adversary_of(body, channels)
        return made.to(context.fabric.device).train()

    def trained(
        self,
        step: GradientStep | AdversarialStep,
        learns: GradientStep,
        task: PretextTask,
        batches: Loader,
        steps: int,
        context: Context,
    ) -> History:
        """All steps; of deep clustering by epochs."""
        if self.pretext != "deep_clustering":
            return train(step, batches, steps=steps, context=context)
        network, objective = learns.network, learns.objective
        assert isinstance(network, Network)
        assert isinstance(objective, Ingredients)

        def clusters() -> dict[str, int]:
            return clusters_by_name(network, task.pool, task.classes, context)

        epochs = ClusteredEpochs(step, learns.optimizer, objective.head, clusters, LABEL)
        return epochs.train(batches, steps, context)

    def shown(
        self, task: PretextTask, body: Network, objective: Ingredients, start: AnyNetwork, context: Context
    ) -> dict[str, float]:
        """Show a few restorations, and measure them by the encoder of the start."""
        assert isinstance(start, Network)

        def pictures(batch: Batch) -> dict[str, Tensor]:
            return {"distorted": batch.image, "restored": body(batch.image)["paired"], "true": batch.views[CLEAN]}

        title = f"images of the pool by {self.ingredients}: distorted, restored, and as they are"
        show_pool(task.pool, task.transform, pictures, context, title, body)
        return frechet_by_start(task.pool, task.transform, pictures, start, context, body)


class Ingredients(nn.Module):
    """The first two terms of eq. 4, and the head of the pretext that it owns.

    Args:
        head: of the pretext.
        recipe: ingredients and their weights.
    """

    def __init__(self, head: PretextHead, recipe: United) -> None:
        super().__init__()
        self.head, self.recipe = head, recipe

    def forward(self, network: AnyNetwork, batch: Batch) -> Terms:
        """Terms, weighted; one of weight 0 is left out."""
        return self.learned(network, batch)[0]

    def learned(self, network: AnyNetwork, batch: Batch) -> tuple[Terms, Tensor]:
        """The terms, and the restored images, which are the given ones where nothing is
        restored."""
        assert isinstance(network, Network)
        features, ours = network.encoder(batch.image), self.recipe
        terms, restored = {}, batch.image
        if ours.discriminative_weight:
            terms["discriminative"] = ours.discriminative_weight * pretext_loss(self.head(features).float(), batch)
        if ours.restores:
            assert network.decoder is not None
            restored = network.heads["paired"](features, network.decoder(features)).float()
            missed = restoration_loss(restored, batch.views[CLEAN], ours.reduction)
            terms |= {"restorative": ours.restorative_weight * missed} if ours.restorative_weight else {}
        return terms, restored


def restoration_loss(restored: Tensor, image: Tensor, reduction: Reduction) -> Tensor:
    """Squared differences, their ``sum`` over pixels and channels (eq. 2) or ``mean``; a mean over
    images: (B, C, *spatial) twice -> ().

    Example:
        >>> import torch
        >>> image = torch.zeros(2, 1, 3)
        >>> restoration_loss(image + 2, image, "sum"), restoration_loss(image + 2, image, "mean")
        (tensor(12.), tensor(4.))
    """
    squared = (restored - image).square().flatten(1)
    return (squared.sum(1) if reduction == "sum" else squared.mean(1)).mean()
