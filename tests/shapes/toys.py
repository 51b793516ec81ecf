"""Seven toy recipes, one of each shape that the core must carry: none is a method, each is as short
as its shape allows."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allograft.batch import Batch, Boxes
from allograft.cohort import Cohort
from allograft.cohort.orders import Episodes, by_subject
from allograft.context import Context
from allograft.networks import copied, rebuildable, reheaded
from allograft.predictor import Direct, evaluation_mode
from allograft.predictor.direct import Prediction, padded
from allograft.predictor.noise import content_noise
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import average_gradients
from allograft.train import train

Run = Generator[Stage, None, Carry]


# ---------------------------------------------------------- pre-training on a pool, with a critic
@dataclass(frozen=True)
class Holes:
    """Sets a tenth of the pixels to 0; the image before is a second view."""

    def __call__(self, case: Batch, rng: torch.Generator) -> Batch:
        kept = torch.rand(case.image.shape, generator=rng) > 0.1
        return replace(case, image=case.image * kept, views={"whole": case.image})


class Critic(nn.Conv2d):
    """Tells whole images from restored ones."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, 1, 3)


@dataclass
class Restoration:
    """Restorer and critic, in turns."""

    network: Any
    critic: nn.Module
    optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer]
    fabric: Any

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        whole, restored = batch.views["whole"], self.network(batch.image)["paired"]
        terms = {"restoration": F.mse_loss(restored, whole), "fooled": F.softplus(-self.critic(restored)).mean()}
        seen = F.softplus(-self.critic(whole)).mean() + F.softplus(self.critic(restored.detach())).mean()
        for optimizer, loss in zip(self.optimizers, (torch.stack([*terms.values()]).sum(), seen), strict=True):
            for each in self.optimizers:
                each.zero_grad()
            self.fabric.backward(loss, retain_graph=optimizer is self.optimizers[0])
            average_gradients([p for group in optimizer.param_groups for p in group["params"]])
            optimizer.step()
        return {**{key: value.detach() for key, value in terms.items()}, "critic": seen.detach()}


@dataclass(frozen=True)
class Restore:
    """Fill holes in images of the pool; leaves weights and a critic, and nothing to judge."""

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(pool=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Run:
        assert context.task is None
        restorer = reheaded(network, {"paired": scenario.pool[0].case(0).image.shape[1]})[0].train()
        critic = rebuildable(Critic, channels=1).to(context.fabric.device)
        optimizers = context.optimizer(restorer.parameters()), context.optimizer(critic.parameters())
        step = Restoration(restorer, critic, optimizers, context.fabric)
        for epoch in range(3):  # epochs are steps of one training
            train(
                step,
                context.loader(scenario.pool, "pool", transform=Holes()),
                steps=range(epoch, epoch + 1),
                context=context,
            )
        loss = context.meter.histories["train"].terms["restoration"][-1]
        yield Stage("restored", facts={"loss": loss})
        return Carry(reheaded(restorer, {})[0], parts={"critic": critic})


@dataclass(frozen=True)
class Refine:
    """Go on with the restorer and the critic that a pre-training left, in a unit of its own."""

    first: AnyRecipe = field(default_factory=Restore)
    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(pool=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Run:
        begun = yield from context.run(self.first, scenario, network)
        critic = begun.parts["critic"].train()
        restorer = reheaded(begun.network, {"paired": scenario.pool[0].case(0).image.shape[1]})[0].train()
        optimizers = context.optimizer(restorer.parameters()), context.optimizer(critic.parameters())
        step = Restoration(restorer, critic, optimizers, context.fabric)
        train(step, context.loader(scenario.pool, "pool", transform=Holes()), steps=2, context=context)
        yield Stage("refined", facts={"critic": float(sum(p.detach().abs().sum() for p in critic.parameters()))})
        return Carry(reheaded(restorer, {})[0], parts={"critic": critic})


# ---------------------------------------------------------- a stream, and models that grow
@dataclass(frozen=True)
class Routed:
    """Each image goes to the model whose mean brightness is nearest."""

    networks: tuple[Any, ...]
    means: Tensor

    def __call__(self, batch: Batch) -> Prediction:
        distance = (batch.image.flatten(1).mean(1)[:, None] - self.means.to(batch.image.device)).abs()
        chosen = distance.argmin(1)
        with evaluation_mode(*self.networks):
            every = torch.stack([padded(network, batch.image)["mask"] for network in self.networks])
        mask = every[chosen, torch.arange(len(batch))]
        far = ["far" if one > 1 else "" for one in distance.amin(1).tolist()]
        return {"mask": mask, "chosen": chosen, "score": distance.amin(1), "warnings": tuple(far)}


@dataclass(frozen=True)
class Grow:
    """A model for each stage of the stream, begun from the last."""

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(stream=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Run:
        models, means = [network], []
        seen: tuple[str, ...] = ()
        for number, phase in enumerate(scenario.stream):
            model = models[-1] if number == 0 else copied(models[-1])
            models = [model] if number == 0 else [*models, model]
            train(
                context.gradient_step(model.train(), steps=2),
                context.loader([phase], f"phase-{number}"),
                steps=2,
                context=context,
                name=f"phase-{number}",
            )
            means.append(
                context.once(
                    f"mean-{number}",
                    lambda phase=phase: torch.stack([phase.case(i).image.mean() for i in range(len(phase))]).mean(),
                )
            )
            seen = (*seen, *sorted({case.site for case in phase.cases}))
            routed = Routed(tuple(copied(one) for one in models), torch.stack(means))
            yield Stage(f"phase-{number}", routed, seen, facts={"models": len(models)})
        return Carry(models[-1])


# ---------------------------------------------------------- inner steps on episodes
@dataclass
class Reptile:
    """Two inner steps on one subject's images, then a step towards where they led."""

    network: Any
    task: Any
    fabric: Any

    def __call__(self, batch: Batch) -> Mapping[str, Tensor]:
        start = {name: p.detach().clone() for name, p in self.network.named_parameters()}
        optimizer = torch.optim.SGD(self.network.parameters(), lr=0.05)
        for _ in range(2):
            optimizer.zero_grad()
            loss = torch.stack([*self.task.objective(self.network, batch).values()]).sum()
            self.fabric.backward(loss)
            average_gradients([*self.network.parameters()])
            optimizer.step()
        with torch.no_grad():
            for name, p in self.network.named_parameters():
                p.copy_(start[name] + 0.5 * (p - start[name]))
        return {"inner": loss.detach()}


@dataclass(frozen=True)
class Meta:
    """Meta-learning over subjects."""

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Run:
        groups = [items[:2] for items in by_subject(scenario.source).values() if len(items) > 1]
        order = Episodes(tuple(groups), (1.0,) * len(groups), context.loader_seeds("episodes"))
        train(
            Reptile(network.train(), context.task, context.fabric),
            context.loader(scenario.source, "episodes", order=order),
            steps=3,
            context=context,
        )
        yield Stage("meta", Direct(network), scenario.sites)
        return Carry(network)


# ---------------------------------------------------------- boxes that a model makes once
@dataclass(frozen=True)
class SelfLabel:
    """Train a detector on the source, let it find the target's boxes once, and train on these."""

    first: AnyRecipe = field(default_factory=lambda: _supervised())
    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(source_images=True, target_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Run:
        network = (yield from context.run(self.first, scenario, network)).network
        target = scenario.target[0]

        def boxes() -> dict[str, dict[str, Tensor]]:
            found = {}
            for whole in target.wholes():
                (each,) = Direct(network)(context.fabric.to_device(whole.batch))["boxes"]
                assert isinstance(each, Boxes)
                found[whole.case.name] = {"xyxy": each.xyxy[:3], "label": each.label[:3]}
            return found

        known = context.once("boxes", boxes)
        corrected = target.relabelled({name: Boxes(**each) for name, each in known.items()})
        batches = context.loader([corrected], "target")
        train(context.gradient_step(network.train(), steps=2), batches, steps=2, context=context)
        yield Stage("adapted", Direct(network), scenario.sites)
        return Carry(network)


def _supervised() -> Any:
    from allograft.methods.supervised import Supervised

    return Supervised()


# ---------------------------------------------------------- an index of training images
@dataclass(frozen=True)
class Retrieval:
    """The mask of the nearest training image."""

    network: Any
    keys: Tensor
    masks: Tensor
    contains_images: bool = True

    def __call__(self, batch: Batch) -> Prediction:
        nearest = torch.cdist(embedded(self.network, batch.image), self.keys).argmin(1)
        return {"mask": F.one_hot(self.masks[nearest], 3).movedim(-1, 1).float(), "score": nearest.float()}


def embedded(network: Any, image: Tensor) -> Tensor:
    with evaluation_mode(network):
        return network.encoder(image)[-1].flatten(2).mean(2)


@dataclass(frozen=True)
class Index:
    """Keep all source images in an index."""

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Run:
        cohort: Cohort = scenario.source[0]
        cases = [context.fabric.to_device(cohort.case(i)) for i in range(len(cohort))]
        keys = torch.cat([embedded(network, case.image) for case in cases])
        yield Stage(
            "index", Retrieval(network, keys, torch.cat([case.labels["mask"][:, 0] for case in cases])), scenario.sites
        )
        return Carry(network)


# ---------------------------------------------------------- a sampler
@dataclass(frozen=True)
class Sampler:
    """The mean of three noisy passes, and how much they differ."""

    network: Any

    def __call__(self, batch: Batch) -> Prediction:
        with evaluation_mode(self.network):
            passes = [
                padded(self.network, batch.image + 0.1 * content_noise(batch.image, batch.image.shape[1:], n))["mask"]
                for n in range(3)
            ]
        every = torch.stack(passes)
        return {"mask": every.mean(0), "spread": every.std(0).flatten(1).mean(1)}


@dataclass(frozen=True)
class Sample:
    """Supervised training, judged by a sampler."""

    paper: ClassVar[Paper | None] = None
    needs: ClassVar[Needs] = Needs(source_images=True)

    def run(self, scenario: Scenario, network: Any, context: Context) -> Run:
        train(
            context.gradient_step(network.train(), steps=2),
            context.loader(scenario.source, "source"),
            steps=2,
            context=context,
        )
        yield Stage("sampled", Sampler(network), scenario.sites)
        return Carry(network)
