"""A model folder as the start of a study: that model's network with the study's outputs, and which
of its heads begin anew."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from allograft.errors import ModelError, SpecError
from allograft.networks import build
from allograft.networks.network import Spec
from allograft.predictor.card import read_card
from allograft.predictor.folder import starting_network
from allograft.strict import validated
from allograft.table import find
from allograft.tasks import Task

Classes = tuple[str, tuple[str, ...]]
"""How an output is read ("one of", "several of", "channels"), and its classes in the order of the
head's channels."""


def network_of(folder: Path, task: Task) -> tuple[Spec, dict[str, str]]:
    """The spec of a folder's network for a task, and the outputs whose heads do not fit it, each
    with the reason.

    A head is kept where the model's card names the same classes in the same order, whatever their
    mask values. Of a model of the very same classes the spec is as the folder has it.

    Raises:
        ModelError: as ``load_predictor``; a card whose task is none; the user's own module, which
            no spec gives other outputs.
    """
    spec, ours = starting_network(folder), classes_of(task)
    ((_, arguments),) = spec["build"].items()
    theirs = {key: classes for key, classes in _classes_in(folder).items() if key in arguments.get("outputs", ours)}
    anew = {key: _why(key, theirs.get(key), wanted) for key, wanted in ours.items() if theirs.get(key) != wanted}
    return (_with_outputs(spec, task.outputs, folder) if anew or set(theirs) != set(ours) else spec), anew


def classes_of(task: Task) -> dict[str, Classes]:
    """Output -> what a task reads from it.

    >>> from allograft.tasks.segmentation import Segmentation
    >>> classes_of(Segmentation({"tissue": (1, 2)}))
    {'mask': ('one of', ('tissue',))}
    >>> from allograft.tasks.multilabel import Multilabel
    >>> classes_of(Multilabel(("nodule", "mass")))
    {'label': ('several of', ('nodule', 'mass'))}
    """
    coding = task.coding
    known: dict[str, Classes] = {
        "mask": ("one of", tuple(coding.mask)),
        "label": ("several of" if coding.several else "one of", tuple(coding.label)),
        "paired": ("channels", tuple(map(str, range(coding.paired)))),
    }
    return {key: known[key] for key in task.outputs}


def anew_in(network: nn.Module, anew: Mapping[str, str]) -> dict[str, str]:
    """Tensor -> why it begins anew: the heads' of these outputs; of a network without parts, those
    whose shape goes with the output's."""
    own = network.state_dict()
    if not anew or not isinstance(spec := getattr(network, "spec", None), Mapping):
        return {}
    if hasattr(network, "heads"):
        return {name: why for name in own for key, why in anew.items() if name.startswith(f"heads.{key}.")}
    ((library, arguments),) = spec["build"].items()
    wider = build(
        {**spec, "build": {library: {**arguments, "out_channels": arguments["out_channels"] + 1}}}
    ).state_dict()
    (why,) = anew.values()
    return {name: why for name, value in own.items() if wider[name].shape != value.shape}


def refuse_untrained(anew: Mapping[str, str], *, trained: bool) -> None:
    """Raise ``SpecError`` where a head begins anew and the study has no label, of source or target,
    to train it on."""
    if anew and not trained:
        reasons = "; ".join(anew.values())
        raise SpecError(
            f"start: {reasons}, and no label in this study trains it; name source sites, set target_labels, or keep "
            "the classes"
        )


def _classes_in(folder: Path) -> dict[str, Classes]:
    card = read_card(folder)
    if "task" not in card:
        return {}
    ((name, arguments),) = card["task"].items()
    try:
        return classes_of(validated(find("task", name), arguments, "task"))
    except SpecError as error:
        raise ModelError(f"{folder / 'card.json'}: {error}") from error


def _why(key: str, theirs: Classes | None, ours: Classes) -> str:
    was_trained = (
        "it has no such head, or its card names no classes"
        if theirs is None
        else f"it was trained for {_named(theirs)}"
    )
    return f"the head '{key}' of the model starts at random: {was_trained}, the study asks for {_named(ours)}"


def _named(classes: Classes) -> str:
    how, names = classes
    return f"{len(names)} channels" if how == "channels" else f"{how} {', '.join(names)}"


def _with_outputs(spec: Spec, outputs: Mapping[str, int], folder: Path) -> Spec:
    ((name, arguments),) = spec["build"].items()
    if name == "custom":
        return spec  # built of the user's own module, which has the outputs it has
    if not name.startswith("monai."):
        return {**spec, "build": {name: {**arguments, "outputs": dict(outputs)}}}
    if len(outputs) > 1:
        raise ModelError(
            f"{folder}: network '{name}' gives one output, the study asks for {', '.join(outputs)}; start from "
            "another model"
        )
    ((key, channels),) = outputs.items()
    return {**spec, "build": {name: {**arguments, "out_channels": channels, "key": key}}}
