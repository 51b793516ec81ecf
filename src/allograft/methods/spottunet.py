"""SpotTUNet: a policy decides for each image which blocks of the network are tuned (Zakazov et al.
2021)."""

from __future__ import annotations

import copy
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from allograft.batch import Batch
from allograft.cohort import Cohort
from allograft.context import Context
from allograft.errors import SpecError
from allograft.methods.supervised import OptimizerRequest, Supervised, check_optimizer
from allograft.networks import AnyNetwork, Network, copied
from allograft.networks.gates import MEND, blocks, members, named
from allograft.networks.network import operate
from allograft.nn.policy import PolicyNetwork, ResNetPolicy
from allograft.parts.policy_figure import policy_figure
from allograft.predictor import evaluation_mode
from allograft.predictor.direct import padded
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.seeds import Seeds
from allograft.step import GradientStep, Terms
from allograft.train import train_with_checkpoints
from allograft.transforms.sample import Sample

Size = Literal["small", "resnet34"]


def gumbel_policy(logits: Tensor, temperature: float, noise: Tensor | None = None) -> Tensor:
    """Straight-through Gumbel-softmax: a decision forward, the softmax's gradient backward.

    With s = softmax((logits + noise) / temperature) over the last axis, the value is 1 where s_1 >
    s_0, and its gradient is that of s_1.

    Args:
        logits: (B, L, 2); index 0 = tuned, 1 = frozen.
        temperature: above 0.
        noise: (B, L, 2) Gumbel noise, -log(-log(u)); None for none, as at inference.

    Returns:
        (B, L): 1 = the frozen copy, 0 = the tuned one; a tie is tuned.

    Example:
        >>> gumbel_policy(torch.tensor([[[0.0, 2.0], [1.0, 0.0]]]), 0.1)
        tensor([[1., 0.]])
    """
    if not temperature > 0:
        raise SpecError(f"temperature is {temperature}, expected a number above 0")
    if logits.shape[-1] != 2 or (noise is not None and noise.shape != logits.shape):
        found = None if noise is None else tuple(noise.shape)
        raise SpecError(f"logits have shape {tuple(logits.shape)}, noise {found}; expected (B, L, 2) both")
    disturbed = logits if noise is None else logits + noise
    soft = (disturbed / temperature).softmax(-1)[..., 1]
    hard = (disturbed[..., 1] > disturbed[..., 0]).to(soft)
    return hard + (soft - soft.detach())


class SpotNetwork(Network):
    """A network whose blocks stand beside frozen copies: level = I * frozen(x) + (1 - I) *
    tuned(x), I in {0, 1} for each image.

    Blocks are the encoder's levels and, where there is a decoder, its ups; the heads are tuned.
    Also gives "policy" (B, L), 1 = frozen.
    """

    def __init__(self, network: Network, policy: nn.Module, temperature: float) -> None:
        super().__init__(network.encoder, network.decoder, dict(network.heads), multiple=network.multiple)
        self.frozen = nn.ModuleList(copy.deepcopy(block) for block in blocks(network)).requires_grad_(False).eval()
        self.policy = policy
        self.temperature = temperature

    def train(self, mode: bool = True) -> SpotNetwork:
        """As usual, but the frozen copies stay in evaluation mode: their running statistics do not
        move."""
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, image: Tensor, noise: Tensor | None = None) -> dict[str, Tensor]:
        gates = gumbel_policy(self.policy(image), self.temperature, noise)
        with gated(self, gates):
            outputs = super().forward(image)
        return {**outputs, "policy": gates}


@contextmanager
def gated(network: SpotNetwork, gates: Tensor) -> Iterator[None]:
    """Inside, each block's output is that of the copy which its gate (B, L) names, image by image.

    Of a block of several modules each one is gated, and all by the one gate.
    """
    ran: set[int] = set()

    def choose(
        gate: Tensor, frozen: nn.Module, _: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any], tuned: Tensor
    ) -> Tensor:
        ran.add(id(frozen))
        gate = gate.reshape(-1, *[1] * (tuned.ndim - 1))
        return gate * frozen(*inputs, **options) + (1 - gate) * tuned

    places = [
        (gate, frozen, tuned)
        for gate, copied, block in zip(gates.unbind(1), network.frozen, blocks(network), strict=True)
        for frozen, tuned in zip(members(copied), members(block), strict=True)
    ]
    with ExitStack() as stack:
        for gate, frozen, tuned in places:
            stack.enter_context(tuned.register_forward_hook(partial(choose, gate, frozen), with_kwargs=True))
        yield
    if ran != {id(frozen) for _, frozen, _ in places}:
        raise SpecError(
            f"spottunet: some blocks of {named(network)} are not called as modules, so they cannot be gated; {MEND}"
        )


def add_policy(
    network: Network, *, policy: Size, in_channels: int, spatial_dims: int, temperature: float
) -> SpotNetwork:
    """Surgery: a policy network, and a frozen copy of each block as it is now."""
    gates = len(blocks(network))
    if policy == "resnet34" and spatial_dims != 2:
        raise SpecError(
            "spottunet: policy_network resnet34 is for 2-D images; use small, or slices: {axis: 2} in the study"
        )
    made = PolicyNetwork(in_channels, gates, spatial_dims) if policy == "small" else ResNetPolicy(in_channels, gates)
    return SpotNetwork(network, made, temperature)


@dataclass(frozen=True)
class SpotTunetPredictor:
    """The gated network without noise; beside the task's output it gives ``policy`` (B, L), 1 where
    a block's frozen copy was used."""

    network: Any

    def __call__(self, batch: Batch) -> dict[str, Tensor]:
        with evaluation_mode(self.network):
            return padded(self.network, batch.image)


@dataclass
class PolicyStep:
    """A gradient step whose Gumbel noise is a function of case and step number, so that it is the
    same on one process and many."""

    inner: GradientStep
    seeds: Seeds
    gates: int
    number: int = 0

    def __call__(self, batch: Batch) -> Terms:
        uniform = torch.stack(
            [torch.rand(self.gates, 2, generator=self.seeds.rng("gumbel", self.number, case)) for case in batch.cases]
        )
        noise = -(-uniform.clamp(1e-20, 1 - 1e-7).log()).log()
        self.inner.objective.noise = noise.to(batch.image)  # type: ignore[attr-defined]
        self.number += 1
        return self.inner(batch)


@dataclass
class PolicyObjective:
    """The task's loss, and ``penalty * mean over gates of (1 - frozen)``, which consolidates the
    policy on few tuned blocks."""

    task: Any
    penalty: float
    noise: Tensor | None = None

    def __call__(self, network: Any, batch: Batch) -> Mapping[str, Tensor]:
        outputs = network(batch.image, self.noise)
        terms = dict(self.task.loss(outputs, batch))
        return terms if self.penalty == 0 else {**terms, "tuned": self.penalty * (1 - outputs["policy"]).mean()}


@dataclass(frozen=True)
class SpotTunet:
    """Tune a copy of each block of the network, and with it a policy that decides per image and
    block between it and the frozen one.

    Gated are the encoder's levels and the decoder's ups; the heads are always tuned, as is what a
    vision transformer keeps outside its blocks. A classifier has the encoder's gates alone. Where
    we differ from the released code: its frozen copies' running statistics keep moving, because the
    network as a whole is in training mode.

    Args:
        policy_network: ``small`` (released: three residual blocks) or ``resnet34`` (paper; 2-D).
        temperature: of the Gumbel-softmax.
        penalty: lambda of the consolidation penalty; 0 in the paper's comparison, 0.005 to 0.012 in
            the released settings.
        policy_rate: learning rate of the policy, as a multiple of the study's (released: 0.01
            against 0.001).
        policy_decay: weight decay of the policy.
        optimizer: one ``{name: arguments}`` for the tuned copies and the policy; by default the
            study's.
        slices: tune on so many of the labelled slices (or images), alike in every row and nested;
            by default on all.
        first: what the tuning starts from.
    """

    policy_network: Size = "small"
    temperature: Annotated[float, Gt(0)] = 0.1
    penalty: Annotated[float, Ge(0)] = 0.0
    policy_rate: Annotated[float, Gt(0)] = 10.0
    policy_decay: Annotated[float, Ge(0)] = 0.001
    optimizer: OptimizerRequest | None = None
    slices: Annotated[int, Ge(1)] | None = None
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="zakazov2021anatomy",
        authors="Zakazov, I. and Shirokikh, B. and Chernyavskiy, A. and Belyaev, M.",
        title="Anatomy of Domain Shift Impact on U-Net Layers in MRI Segmentation",
        venue="Medical Image Computing and Computer Assisted Intervention",
        year=2021,
        doi="10.1007/978-3-030-87199-4_20",
    )
    needs: ClassVar[Needs] = Needs(target_labels=True)

    def __post_init__(self) -> None:
        check_optimizer(self.optimizer, "spottunet")

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Gate a training sample: ``SpecError`` for blocks that cannot be, a policy not for such
        images, or too few slices."""
        labelled = self._labelled(scenario, context)
        sample = Sample("none", context.settings.patch)(labelled[0].unlabelled().case(0), context.seeds.rng("sample"))
        SpotTunetPredictor(self._operated(copied(network), labelled))(sample)

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """``budget.adapt_steps`` updates of the tuned copies and the policy on target batches."""
        network = (yield from context.run(self.first, scenario, network)).network
        labelled = self._labelled(scenario, context)
        batches = context.loader(labelled, "target")
        operated = self._operated(network, labelled).to(context.fabric.device).train()
        tuned = [p for _, part in operated.parts() for p in part.parameters()]
        optimizer = context.optimizer(tuned, self.optimizer)
        rate = self.policy_rate * optimizer.param_groups[0]["lr"]
        optimizer.add_param_group(
            {"params": list(operated.policy.parameters()), "lr": rate, "weight_decay": self.policy_decay}
        )
        steps = context.settings.budget.adaptation(batches.epoch)
        inner = context.gradient_step(
            operated, PolicyObjective(context.supervised_task, self.penalty), optimizer, steps=steps
        )
        step = PolicyStep(inner, context.seeds.child("policy"), len(operated.frozen))
        stage = Stage("tuned", SpotTunetPredictor(operated), scenario.sites)
        yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        context.show("policy", policy_figure(operated, tuned_share(operated, labelled, context.fabric)))
        yield stage
        return Carry(operated)

    def _labelled(self, scenario: Scenario, context: Context) -> list[Cohort]:
        return self.chosen([cohort for cohort in scenario.target if cohort.has_labels], context.seeds.seed)

    def _operated(self, network: AnyNetwork, labelled: Sequence[Cohort]) -> SpotNetwork:
        image = labelled[0].unlabelled().case(0).image
        shape = {"in_channels": image.shape[1], "spatial_dims": image.ndim - 2}
        made = operate(network, "spottunet", policy=self.policy_network, temperature=self.temperature, **shape)
        assert isinstance(made, SpotNetwork)
        return made

    def chosen(self, labelled: Sequence[Cohort], seed: int) -> list[Cohort]:
        """The labelled cohorts, or ``slices`` items of them; fewer are among more. ``SpecError``
        where there are not so many."""
        if self.slices is None:
            return list(labelled)
        (cohort,) = labelled
        if len(cohort) < self.slices:
            raise SpecError(
                f"spottunet: slices: asks for {self.slices}, the label budget has {len(cohort)}; ask for fewer"
            )
        return [cohort.few(self.slices, Seeds(seed, ("spottunet",)))]


def tuned_share(network: SpotNetwork, cohorts: Sequence[Cohort], fabric: Any) -> Tensor:
    """(L,): the share of all images for which each block is tuned, decided as at inference:
    evaluation mode, no noise."""
    images = (
        fabric.to_device(hidden.case(index))
        for hidden in (cohort.unlabelled() for cohort in cohorts)
        for index in range(len(hidden))
    )
    return torch.cat([1 - SpotTunetPredictor(network)(image)["policy"] for image in images]).mean(0).cpu()
