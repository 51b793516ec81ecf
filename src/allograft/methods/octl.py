"""Optimizer-continuation transfer learning: fine-tuning continues the source training's gradient
history (Goodman et al. 2022)."""

from __future__ import annotations

import inspect
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge, Lt
from torch import Tensor, nn

from allograft.context import Context
from allograft.errors import NeedsError, SpecError
from allograft.methods.start import Start
from allograft.methods.supervised import Supervised
from allograft.networks import AnyNetwork, trainable
from allograft.predictor import Direct
from allograft.recipe import AnyRecipe, Carry, Needs, Paper, Scenario, Stage
from allograft.step import named_state
from allograft.table import find
from allograft.train import train_with_checkpoints

Share = Annotated[float, Ge(0), Lt(1)]


def continue_optimizer(
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    *,
    start_step: int = 100,
    network: nn.Module | None = None,
) -> int:
    """Give a new optimizer the gradient history of an old one: momentum (H_0), or both moments
    (M_0, V_0).

    Only the history is taken: learning rate, betas and momentum stay the new optimizer's own. Its
    step counter is set to ``start_step``, so the first bias correction is that of step
    ``start_step + 1``: the paper's t + 100. The history of a parameter that the old optimizer did
    not know, or whose shape is another (a new head), starts empty.

    Args:
        optimizer: the new one, of the old one's kind.
        state: ``{"state": {key: {...}}}``. Keys are integers, as in
            ``torch.optim.Optimizer.state_dict()``, or parameter names, as in
            ``allograft.step.named_state``; its parameters' order is that of the old optimizer.
        start_step: updates that the history counts for.
        network: tells the parameters' names; not needed where the optimizer was made of named
            parameters, or holds as many, of the same shapes and in the same order, as the state.

    Returns:
        How many parameters go on from a history.

    Raises:
        NeedsError: the state holds no history, or none that fits.
        SpecError: the state is that of another kind of optimizer, by its name or by what it keeps
            of a parameter, or has names and nobody tells whose. The optimizer is then as it was.

    Example:
        >>> weight = nn.Parameter(torch.ones(2))
        >>> old, new = torch.optim.Adam([weight]), torch.optim.Adam([weight], betas=(0.99, 0.999))
        >>> weight.grad = torch.ones(2)
        >>> old.step()
        >>> continue_optimizer(new, old.state_dict()), new.state[weight]["step"].item(), new.param_groups[0]["betas"]
        (1, 100.0, (0.99, 0.999))
    """
    kind = type(optimizer).__name__.lower()
    if state.get("kind", kind) != kind:
        raise SpecError(
            f"the history is that of '{state['kind']}', the new optimizer is '{kind}'; use one optimizer for both "
            "trainings"
        )
    held = state.get("state", {})
    known = _keyed(optimizer, held, network)
    matched = ((known[key], values) for key, values in held.items() if key in known)
    histories = [(p, history) for p, values in matched if (history := _history(values))]
    _check_kept(optimizer, histories, state.get("kind"))
    fitting = [(p, history) for p, history in histories if _fits(history, p)]
    for p, history in fitting:
        optimizer.state[p] = {
            name: value.detach().to(p.device, p.dtype, copy=True) for name, value in history.items() if name != "step"
        }
        if "step" in history:
            optimizer.state[p]["step"] = torch.tensor(float(start_step))
    if not fitting:
        raise NeedsError(
            "the source training left no gradient history that fits; train it with momentum or moments, "
            "for example optimizer: {sgd: {lr: 0.01, momentum: 0.9}} or {adam: {lr: 1e-3}}"
        )
    return len(fitting)


def _history(values: Mapping[str, Any]) -> dict[str, Any]:
    """What was kept of a parameter's gradients, and the step where one was counted; {} where that
    is all."""
    kept = {name: value for name, value in values.items() if isinstance(value, Tensor) or name == "step"}
    return kept if set(kept) - {"step"} else {}


def _check_kept(
    optimizer: torch.optim.Optimizer, histories: Sequence[tuple[Tensor, Mapping[str, Any]]], kind: str | None
) -> None:
    """Raise ``SpecError`` where a history has other names than the optimizer itself keeps of that
    parameter."""
    expected = {
        id(p): kept for group in optimizer.param_groups for kept in [_kept(optimizer, group)] for p in group["params"]
    }
    for p, history in histories:
        wanted = expected[id(p)]
        if wanted is not None and set(history) != wanted:
            owner = f" of '{kind}'" if kind else ""
            raise SpecError(
                f"the history{owner} holds {', '.join(sorted(history))}; the new optimizer "
                f"'{type(optimizer).__name__.lower()}' keeps "
                f"{', '.join(sorted(wanted)) or 'none, having no momentum'}; use one optimizer for both trainings"
            )


def _kept(optimizer: torch.optim.Optimizer, group: Mapping[str, Any]) -> set[str] | None:
    """The names of what an optimizer of this kind and these settings keeps of a parameter, found by
    a step; None where it takes none.

    >>> sorted(_kept(torch.optim.Adam([torch.zeros(1)]), {"amsgrad": True}))
    ['exp_avg', 'exp_avg_sq', 'max_exp_avg_sq', 'step']
    """
    p = nn.Parameter(torch.zeros(1))
    p.grad = torch.ones(1)
    accepted = set(inspect.signature(type(optimizer)).parameters) - {
        "params",
        "foreach",
        "fused",
        "capturable",
        "differentiable",
    }
    try:
        probe = type(optimizer)([p], **{name: value for name, value in group.items() if name in accepted})
        probe.step()
    # somebody's own, with another constructor, or LBFGS, whose step takes a closure
    except (TypeError, ValueError):
        return None
    return {name for name, value in probe.state[p].items() if value is not None}


def _fits(values: Mapping[str, Any], p: Tensor) -> bool:
    return all(not value.ndim or value.shape == p.shape for value in values.values() if isinstance(value, Tensor))


def _keyed(optimizer: torch.optim.Optimizer, held: Mapping[Any, Any], network: nn.Module | None) -> dict[Any, Tensor]:
    ordered = [p for group in optimizer.param_groups for p in group["params"]]
    if not any(isinstance(key, str) for key in held):
        return dict(enumerate(ordered))
    if network is not None:
        own = {id(p) for p in ordered}
        return {name: p for name, p in network.named_parameters() if id(p) in own}
    names = [name for group in optimizer.param_groups for name in group.get("param_names", ())]
    if (
        not names
        and len(held) == len(ordered)
        and all(_fits(values, p) for values, p in zip(held.values(), ordered, strict=True))
    ):
        names = list(held)  # an old optimizer's state stands in the order of its parameters
    if len(names) != len(ordered):
        raise SpecError(
            "the history goes by parameter names, the optimizer has none; hand over the network: network=NETWORK"
        )
    return dict(zip(names, ordered, strict=True))


@dataclass(frozen=True)
class Octl:
    """Fine-tune on the target from the source training's optimizer state, so that its gradients are
    forgotten slowly (OCTL).

    The study's optimizer tunes, with the paper's slower decay in place of its own: SGD without
    Nesterov's look-ahead. Where we differ from the released code: its Adam keeps beta1 0.9, because
    loading the old state overwrites the new setting.

    Args:
        start_step: updates that the history counts for; more give it more weight.
        momentum: of SGD.
        betas: of Adam, AdamW or AvaGrad.
        first: what the tuning starts from; it must leave its optimizer's state.
    """

    start_step: Annotated[int, Ge(0)] = 100
    momentum: Share = 0.99
    betas: tuple[Share, Share] = (0.99, 0.999)
    first: AnyRecipe = field(default_factory=Supervised)

    paper: ClassVar[Paper | None] = Paper(
        key="goodman2022supervised",
        authors="Goodman, S. and Greenspan, H. and Goldberger, J.",
        title="Supervised Domain Adaptation Using Gradients Transfer for Improved Medical Image Analysis",
        venue="MICCAI Workshop on Domain Adaptation and Representation Transfer",
        year=2022,
        doi="10.1007/978-3-031-16852-9_3",
    )
    needs: ClassVar[Needs] = Needs(target_labels=True, optimizer_state=True)

    def check(self, scenario: Scenario, network: AnyNetwork, context: Context) -> None:
        """Raise ``NeedsError`` where the tuning would start from a model as it came, which in a
        source-free study stands for the source."""
        if isinstance(self.first, Start):
            mend = "models are kept without it: name the source, source: [SITE], and first: supervised, or drop octl"
            raise NeedsError(f"recipe 'octl' continues the optimizer of 'first', and 'start' leaves none; {mend}")

    def run(self, scenario: Scenario, network: AnyNetwork, context: Context) -> Generator[Stage, None, Carry]:
        """Algorithms 2 and 3: ``budget.adapt_steps`` updates of the whole network on target
        batches."""
        self.check(scenario, network, context)
        carry = yield from context.run(self.first, scenario, network)
        network = carry.network
        if carry.optimizer is None:
            raise NeedsError(
                "recipe 'octl' continues the optimizer of 'first', which left none; choose another first, e.g. "
                "supervised"
            )
        labelled = [cohort for cohort in scenario.target if cohort.has_labels]
        batches = context.loader(labelled, "target")
        with trainable(network, "full") as parameters:
            optimizer = context.optimizer(parameters, self.request(context.settings.optimizer))
            continue_optimizer(optimizer, carry.optimizer, start_step=self.start_step, network=network)
            steps = context.settings.budget.adaptation(batches.epoch)
            step = context.gradient_step(network, optimizer=optimizer, steps=steps)
            stage = Stage("tuned", Direct(network), scenario.sites)
            yield from train_with_checkpoints(step, batches, steps=steps, context=context, along=[stage])
        yield stage
        return Carry(network, named_state(optimizer, network))

    def request(self, optimizer: Mapping[str, Mapping[str, object]]) -> dict[str, dict[str, object]]:
        """The study's optimizer with this recipe's decay.

        >>> Octl().request({"sgd": {"lr": 0.1, "momentum": 0.9, "nesterov": True}})
        {'sgd': {'lr': 0.1, 'momentum': 0.99, 'nesterov': False}}
        """
        ((name, arguments),) = optimizer.items()
        accepted = inspect.signature(find("optimizer", name)).parameters
        decay = {"momentum": self.momentum, "nesterov": False, "betas": self.betas}
        return {name: {**(arguments or {}), **{key: value for key, value in decay.items() if key in accepted}}}
