"""Modules that are no network of the table, critics for example, made so that they can be kept and
made again."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, get_type_hints

import torch
from torch import Tensor, nn

from allograft.errors import ModelError, SpecError
from allograft.networks.network import Spec, rebuilt
from allograft.table import rows

Made = TypeVar("Made", bound=nn.Module)


def rebuildable(make: Callable[..., Made], **arguments: Any) -> Made:
    """``make(**arguments)`` with a spec in which it is written how, so that a carry can hold it.

    Nothing is pickled: kept are the place of ``make``, ``package.module:name``, its arguments, and
    the weights.

    Args:
        make: an ``nn.Module`` class, or a function declared to return one, at the top of a module
            of Allograft or of a plug-in that brings a method.
        arguments: JSON values, lists in the place of tuples.

    Raises:
        SpecError: another kind of ``make``, or an argument that is no JSON value.

    Example:
        >>> from allograft.networks.stain_cnn import StainDecoder
        >>> rebuildable(StainDecoder, channels=32, doublings=1).spec
        {'make': {'allograft.networks.stain_cnn:StainDecoder': {'channels': 32, 'doublings': 1}}}
    """
    address = f"{getattr(make, '__module__', '')}:{getattr(make, '__qualname__', '')}"
    try:
        same = maker(address) is make
    except ModelError as error:
        raise SpecError(f"rebuildable: {error}") from error
    if not same:
        raise SpecError(f"rebuildable: {address} is another object than the one given; hand over the function itself")
    for name, value in arguments.items():
        if not _is_json(value):
            raise SpecError(
                f"rebuildable: {address}: {name}: expected a JSON value, found {value!r:.60}; "
                "hand over numbers, texts, lists"
            )
    module = make(**arguments)
    module.spec = {"make": {address: arguments}}  # type: ignore[assignment]
    return module


def remade(spec: Spec, state: Mapping[str, Tensor], template: nn.Module | None = None) -> nn.Module:
    """A network, or what ``rebuildable`` made, from its spec and weights; the global generators are
    left alone.

    Raises:
        ModelError: a place that may not be called; see ``maker``.
    """
    if "make" not in spec:
        return rebuilt(spec, state, template)
    ((address, arguments),) = spec["make"].items()
    with torch.random.fork_rng(devices=()):
        module = rebuildable(maker(address), **arguments)
    module.load_state_dict(state)
    return module


def maker(address: str) -> Callable[..., nn.Module]:
    """The class or function of a place ``package.module:name``.

    A file says which function is called, so only few may be: of Allograft or of a package with a
    row in the table of methods, defined at the top of the module that is named, and by its
    declaration good for nothing but making an ``nn.Module``.

    Raises:
        ModelError: any other place.

    Example:
        >>> maker("shutil:rmtree")
        Traceback (most recent call last):
        allograft.errors.ModelError: shutil:rmtree: makes no module that may be kept; expected ... of allograft...
    """
    module, _, name = address.partition(":")
    packages = {row.partition(":")[0].partition(".")[0] for row in rows("method").values()}
    try:
        made_by = getattr(importlib.import_module(module), name, None) if module.partition(".")[0] in packages else None
        made = (
            made_by
            if isinstance(made_by, type)
            else get_type_hints(made_by).get("return")
            if callable(made_by)
            else None
        )
    except (ImportError, NameError):
        made_by = made = None
    if not (isinstance(made, type) and issubclass(made, nn.Module)) or getattr(made_by, "__module__", "") != module:
        raise ModelError(
            f"{address}: makes no module that may be kept; expected an nn.Module class, or a function declared to "
            "return one, "
            f"at the top of a module of {' or '.join(sorted(packages))}"
        )
    return made_by  # type: ignore[return-value]


def _is_json(value: object) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False
