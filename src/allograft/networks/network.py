"""Network = encoder + decoder + heads, and the spec from which it can be built again, surgery
included."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from allograft.errors import AllograftError, ModelError, SpecError
from allograft.mistakes import argument_mistakes
from allograft.networks.guard import offline, refuse_fetching
from allograft.table import find

Spec = Mapping[str, Any]
"""``{"build": {name: arguments}, "surgery": [{name: arguments}, ...]}``, JSON values only."""
Built = TypeVar("Built")
Copied = TypeVar("Copied", bound="AnyNetwork")


class Network(nn.Module):
    """The one interface of every network that we build.

    Without heads (``outputs: {}``) it is what pre-training starts from: an encoder, and a decoder
    where the builder has one; ``networks.rehead`` gives it heads.

    Args:
        encoder: (B, C, *spatial) -> features, finest first, the bottleneck last; ``encoder.levels``
            are its stages in that order.
        decoder: features -> (B, C', *spatial); None for classifiers.
        heads: keyed like labels; each maps (features, decoded) to an output.
        multiple: every side of an image must be a multiple of it.
        aliases: name of a tensor in the library that the parts come from -> its name here; for
            weights saved by that library.

    ``heads_are_added`` says that the heads came to a body that was there before: every scope tunes
    them, and they do not count in a share of the parameters.
    """

    spec: Spec
    heads_are_added: bool = False

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module | None,
        heads: Mapping[str, nn.Module],
        *,
        multiple: int = 1,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.decoder = decoder
        self.heads = nn.ModuleDict(dict(heads))
        self.multiple = multiple
        self.aliases = dict(aliases or {})

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        features = self.encoder(image)
        decoded = self.decoder(features) if self.decoder is not None else None
        return {key: head(features, decoded) for key, head in self.heads.items()}

    def levels(self) -> list[nn.Module]:
        """The encoder's stages, finest first; none of an encoder that has no ``levels``."""
        return list(getattr(self.encoder, "levels", ()))

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """encoder, decoder, heads: the order in which scopes count."""
        yield "encoder", self.encoder
        if self.decoder is not None:
            yield "decoder", self.decoder
        yield "heads", self.heads


class Wrapped(nn.Module):
    """Any ``nn.Module`` that maps (B, C, *spatial) to one output, as a network with a single part.

    Recipes that treat encoder and decoder apart refuse it.
    """

    spec: Spec

    def __init__(self, module: nn.Module, key: str, *, multiple: int = 1) -> None:
        super().__init__()
        self.module = module
        self.key = key
        self.multiple = multiple

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        output = self.module(image)
        return dict(output) if isinstance(output, Mapping) else {self.key: output}

    def parts(self) -> Iterator[tuple[str, nn.Module]]:
        """One part, the module itself."""
        yield "module", self.module


AnyNetwork = Network | Wrapped
"""What recipes and objectives are given: a ``spec``, ``multiple``, ``parts()``, and images ->
outputs, in an ``nn.Module``.

A method that takes encoder and decoder apart narrows it to ``Network`` and refuses the other.
"""


def build(spec: Spec, template: nn.Module | None = None) -> AnyNetwork:
    """A network from its spec, surgery applied in order; weights are drawn from the global
    generators.

    Args:
        template: the user's own module, for a spec whose build name is ``custom``; it is copied.

    Raises:
        SpecError: an unknown name, or arguments that the builder refuses.
        ModelError: a ``custom`` spec without a template.
    """
    ((name, arguments),) = spec["build"].items()
    refuse_fetching(name, arguments)
    if name == "custom":
        if template is None:
            raise ModelError(
                f"this model holds the user's own network {arguments.get('class')}; hand it over: load(folder, "
                "network=MODULE)"
            )
        network: AnyNetwork = Wrapped(copy.deepcopy(template), arguments["key"], multiple=arguments.get("multiple", 1))
    elif name.startswith("monai."):
        network = _from_monai(name, arguments)
    else:
        network = _call(find("network", name), name, arguments)
    network.spec = {"build": {name: dict(arguments)}, "surgery": []}
    for step in spec.get("surgery", ()):
        ((name, arguments),) = step.items()
        network = operate(network, name, **arguments)
    return network


def copied(network: Copied) -> Copied:
    """A deep copy that keeps its spec."""
    twin = copy.deepcopy(network)
    twin.spec = network.spec
    return twin


def rebuilt(spec: Spec, state: Mapping[str, Tensor], template: nn.Module | None = None) -> AnyNetwork:
    """A network from its spec and weights; the global generators are left alone."""
    with torch.random.fork_rng(devices=()):  # building draws weights that are then replaced
        network = build(spec, template)
    network.load_state_dict(state)
    return network


def operate(network: AnyNetwork, name: str, **arguments: Any) -> AnyNetwork:
    """Apply a named operation in place and write it into the spec, so that the network can be built
    again."""
    changed: AnyNetwork = find("surgery", name)(network, **arguments)
    changed.spec = {**network.spec, "surgery": [*network.spec["surgery"], {name: arguments}]}
    return changed


def spec_of(request: Mapping[str, Any], in_channels: int, outputs: Mapping[str, int]) -> Spec:
    """The full spec for a study's ``network: {name: arguments}`` once channels and outputs are
    known.

    MONAI classes are named ``monai.SwinUNETR``; they get ``in_channels`` and ``out_channels``.

    Args:
        outputs: output -> channels; {} for a network without heads.

    Raises:
        SpecError: a MONAI class for more outputs than one, or for none.
    """
    ((name, arguments),) = request.items()
    if name.startswith("monai."):
        if len(outputs) != 1:
            found = ", ".join(outputs) or "a network without heads"
            raise SpecError(
                f"network '{name}' gives one output, the task asks for {found}; choose a network of our table"
            )
        ((key, channels),) = outputs.items()
        return {
            "build": {name: {"in_channels": in_channels, "out_channels": channels, **(arguments or {}), "key": key}},
            "surgery": [],
        }
    return {"build": {name: {"in_channels": in_channels, "outputs": dict(outputs), **(arguments or {})}}, "surgery": []}


def own_spec(module: nn.Module) -> Spec:
    """The spec that a module carries, as networks do; {} of one without.

    >>> own_spec(nn.Linear(1, 1))
    {}
    """
    spec = getattr(module, "spec", None)
    return spec if isinstance(spec, Mapping) else {}


def count_parameters(module: nn.Module) -> int:
    """All parameters, trainable or not."""
    return sum(parameter.numel() for parameter in module.parameters())


def _from_monai(name: str, arguments: Mapping[str, Any]) -> Wrapped:
    from monai.networks import nets

    class_name = name.removeprefix("monai.")
    if not isinstance(getattr(nets, class_name, None), type):
        from allograft.errors import nearest

        raise SpecError(nearest(class_name, [n for n in dir(nets) if n[0].isupper()], "MONAI network"))
    given = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in arguments.items()
        if key not in ("key", "multiple")
    }
    given |= offline(name, getattr(nets, class_name))
    return Wrapped(
        _call(getattr(nets, class_name), name, given), arguments["key"], multiple=arguments.get("multiple", 1)
    )


def _call(builder: Callable[..., Built], name: str, arguments: Mapping[str, Any]) -> Built:
    try:
        return builder(**arguments)
    except AllograftError:
        raise
    # a library's builder may raise anything on arguments that make no sense to it
    except Exception as error:
        if lines := argument_mistakes(builder, arguments, f"network.{name}"):
            raise SpecError("\n".join(lines)) from None
        what = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SpecError(f"network: {name}: {what}; see the arguments in its documentation") from error
