"""Reference pages made from the JSON schema of the study file: every key with its meaning, values,
default and an example; tasks, networks, optimizers and schedules with their arguments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from allograft.study.schema import study_schema
from allograft.table import rows

Node = Mapping[str, Any]
WORDS = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
HOLDERS = {
    "task": "one {name: arguments} of the [tasks](tasks.md)",
    "loss": "one {name: arguments} of the [losses](tasks.md#losses)",
    "network": "one {name: arguments} of the [networks](networks.md)",
    "optimizer": "one {name: arguments} of the [optimizers](optimizers.md)",
    "schedule": "a name, or one {name: arguments}, of the [schedules](optimizers.md)",
    "recipe": "a [recipe](methods/index.md): a name, or one {name: settings}",
    "row": "a [recipe](methods/index.md): a name, or one {name: settings}; `grid` among them tries several values",
}
"""What a reference to these definitions is called."""
OWNERS = {
    "Preprocessing": "the keys of [`preprocessing`](study.md#preprocessing)",
    "Slices": "the keys of [`slices`](study.md#slices)",
    "Segmentation": "the keys of [`segmentation`](tasks.md#segmentation)",
    "Classification": "the keys of [`classification`](tasks.md#classification)",
}
"""Dataclasses that are described under a key or a task of their own."""
STUDY = """# The study file

A study file is YAML. Five keys are enough: `cohort` (or `cohorts`), `task`, `source`, `target` and
`recipes`. The other keys have defaults; those that depend on the images are printed when a study
starts and kept in `OUT/study.json`. An unknown key is refused, with the nearest known one.

For completion in an editor, write the schema next to your studies, and name it in their first line,
as `allograft init` does:

```bash
allograft schema -o study.schema.json
```

```yaml
# yaml-language-server: $schema=study.schema.json
```

Numbers are read as they are written (`1e-3` is a number), `yes` and `no` are text, and a key that
is written twice is refused. Any key can be overridden on the command line: `--set budget.steps=20`."""
NETWORKS = """# Networks

`network: {NAME: {ARGUMENTS}}` names one of these. The channels of the images and the outputs of the
task are filled in.

Networks of [MONAI](https://docs.monai.io/en/stable/networks.html#nets) go by `monai.CLASS`, with
the arguments of the class: `network: {monai.BasicUNet: {spatial_dims: 2}}`. They get `in_channels`
and `out_channels`, and give one output. They are not divided into encoder, decoder and heads, so
recipes and scopes that need these refuse them by name; `finetune: {scope: full}` takes them.

From Python, `run_study(study, out, network=my_module)` takes any `torch.nn.Module`: see [your own
network](../howto/your-own-network.md)."""
TASKS = """# Tasks

`task: {NAME: {ARGUMENTS}}` says what is predicted, and so which column of the manifest holds the
labels, which loss is minimised and which metrics are measured."""
LOSSES = """## Losses

`loss: {NAME: {ARGUMENTS}}`, a key of the study, replaces the loss of the tasks `segmentation` and
`classification`. Names are `monai.CLASS`, of [MONAI's
losses](https://docs.monai.io/en/stable/losses.html), and `torch.CLASS`, of [PyTorch's
losses](https://docs.pytorch.org/docs/stable/nn.html#loss-functions), with the arguments of the class:

```yaml
loss: {monai.DiceFocalLoss: {gamma: 2.0, lambda_focal: 0.5}}
```

What is not an argument, and how a loss meets masks, regions and recipes, is in [your own
network, loss and metric](../howto/your-own-network.md#a-loss)."""
OPTIMIZERS = """# Optimizers and schedules

`optimizer: {NAME: {ARGUMENTS}}`. Those of PyTorch have its arguments: see
[torch.optim](https://docs.pytorch.org/docs/stable/optim.html)."""
SCHEDULES = """## Schedules

`schedule: NAME` or `schedule: {NAME: {ARGUMENTS}}`: what the learning rate is multiplied by, from
the start of a training to its end."""


def reference_pages() -> dict[str, str]:
    """File -> page."""
    schema = study_schema()
    definitions = schema["$defs"]
    ours = [name for name, row in rows("optimizer").items() if row.startswith("allograft")]
    theirs = ", ".join(f"`{name}`" for name in rows("optimizer") if name not in ours)
    return {
        "study.md": study_page(schema),
        "tasks.md": named_page(TASKS, "task", list(rows("task")), definitions) + f"\n{LOSSES}\n",
        "networks.md": named_page(NETWORKS, "network", list(rows("network")), definitions),
        "optimizers.md": named_page(f"{OPTIMIZERS}\n\nThey are {theirs}.", "optimizer", ours, definitions)
        + "\n"
        + named_page(SCHEDULES, "schedule", list(rows("schedule")), definitions),
    }


def study_page(schema: Node) -> str:
    """Every key of a study, with those inside it."""
    parts = [STUDY]
    for key, node in schema["properties"].items():
        stated = "required" if key in schema.get("required", ()) else default_of(node)
        parts += [f"## `{key}`", sentence(node["description"])]
        allowed = "the keys of the table below" if key in ("preprocessing", "slices") else values(node, schema["$defs"])
        parts += [f"- Values: {allowed}\n- Default: {stated}"]
        (example,) = node["examples"]
        parts += [f"```yaml\n{key}: {flow(example)}\n```"]
        for name in inside(node, schema["$defs"], key):
            inner = schema["$defs"][name]
            parts += [f"**{name}**: {sentence(inner['description'])}", table(inner, schema["$defs"])]
    return "\n\n".join(parts) + "\n"


def named_page(start: str, kind: str, names: list[str], definitions: Node) -> str:
    """A page with a section for each name of a table."""
    parts = [start]
    for name in names:
        node = definitions[f"{kind}.{name}"]
        parts += [f"### `{name}`" if kind == "schedule" else f"## `{name}`", sentence(node["description"])]
        parts += [table(node, definitions)] if node["properties"] else ["It has no arguments."]
    return "\n\n".join(parts) + "\n"


def table(node: Node, definitions: Node) -> str:
    """The keys of a mapping."""
    lines = ["| key | values | default | |", "|---|---|---|---|"]
    for key, inner in node["properties"].items():
        stated = "required" if key in node.get("required", ()) else default_of(inner)
        cells = (f"`{key}`", values(inner, definitions), stated, cell(inner.get("description", "")))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def values(node: Node, definitions: Node) -> str:
    """The values that a schema lets pass, in words."""
    if "$ref" in node:
        name = node["$ref"].removeprefix("#/$defs/")
        return HOLDERS.get(name) or OWNERS.get(name) or f"the keys of **{name}** below"
    if "enum" in node:
        return ", ".join(f"`{value}`" for value in node["enum"])
    if "anyOf" in node:
        return ", or ".join(dict.fromkeys(values(each, definitions) for each in node["anyOf"]))
    kind = node.get("type")
    if kind == "null":
        return "`null`"
    if kind == "array":
        inner = [values(each, definitions) for each in node.get("prefixItems", ())]
        return f"[{', '.join(inner)}]" if inner else f"[{values(node.get('items', {}), definitions)}, ...]"
    if kind == "object":
        inner = node.get("additionalProperties")
        return (
            f"{{name: {values(inner, definitions)}, ...}}" if isinstance(inner, dict) and inner else "keys and values"
        )
    return WORDS.get(str(kind), "any")


def inside(node: Any, definitions: Node, key: str) -> list[str]:
    """The dataclasses whose keys a schema holds, and those inside them, each once; those that are
    described under another key are left out."""
    if isinstance(node, list):
        return list(dict.fromkeys(name for each in node for name in inside(each, definitions, key)))
    if not isinstance(node, dict):
        return []
    name = str(node.get("$ref", "")).removeprefix("#/$defs/")
    if name:
        belongs = name[0].isupper() and (name not in OWNERS or name.lower() == key)
        return [name, *inside(definitions[name]["properties"], definitions, key)] if belongs else []
    return list(dict.fromkeys(name for each in node.values() for name in inside(each, definitions, key)))


def default_of(node: Node) -> str:
    """A default as YAML."""
    if "default" not in node:
        return "each key has its own"
    return f"`{flow(node['default'])}`"


def flow(value: Any) -> str:
    """A value on one line, as YAML.

    >>> flow({"a": [1, 2], "b": None, "c": "x", "d": 1e-3})
    '{a: [1, 2], b: null, c: x, d: 0.001}'
    """
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {flow(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(flow, value)) + "]"
    return value if isinstance(value, str) and value else json.dumps(value)


def sentence(text: str) -> str:
    """Words of a docstring as Markdown, with a capital and a full stop."""
    words = " ".join(text.replace("``", "`").replace("*", "\\*").split())
    words = words[:1].upper() + words[1:] if words[:1].isalpha() else words
    return words if not words or words.endswith((".", ":")) else f"{words}."


def cell(text: str) -> str:
    """Words of a docstring in a cell of a Markdown table."""
    return text.replace("``", "`").replace("|", "\\|")
