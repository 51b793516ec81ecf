"""What a name stands for: ``name -> "module:attribute"``, strings only, so that a list of names
imports nothing.

Installed packages extend a table by entry points of the group ``allograft.<table>``, for example
``allograft.methods``.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import inspect
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

from allograft.errors import SpecError, nearest

METHODS = {
    "supervised": "allograft.methods.supervised:Supervised",
    "finetune": "allograft.methods.finetune:Finetune",
    "fourier": "allograft.methods.fourier:Fourier",
    "target_supervised": "allograft.methods.target_supervised:TargetSupervised",
    "joint": "allograft.methods.joint:Joint",
    "unlearning": "allograft.methods.unlearning:Unlearning",
    "catenorm": "allograft.methods.catenorm:CateNorm",
    "class_alignment": "allograft.methods.class_alignment:ClassAlignment",
    "dsbn": "allograft.methods.dsbn:Dsbn",
    "msnet": "allograft.methods.msnet:MsNet",
    "l2sp": "allograft.methods.l2sp:L2sp",
    "lora": "allograft.methods.lora:Lora",
    "start": "allograft.methods.start:Start",
    "mmtl": "allograft.methods.mmtl:Mmtl",
    "octl": "allograft.methods.octl:Octl",
    "adabn": "allograft.methods.adabn:AdaBn",
    "aiva": "allograft.methods.aiva:Aiva",
    "adaptsegnet": "allograft.methods.adaptsegnet:AdaptSegNet",
    "segjdot": "allograft.methods.segjdot:SegJdot",
    "spottunet": "allograft.methods.spottunet:SpotTunet",
    "histogram": "allograft.methods.histogram:Histogram",
    "zscore": "allograft.methods.zscore:ZScore",
    "cyclegan": "allograft.methods.cyclegan:CycleGan",
    "stain_aglr": "allograft.methods.stain_aglr:StainAgLr",
    "stain_normalisation": "allograft.methods.stain_normalisation:StainNormalisation",
    "sissi": "allograft.methods.sissi:Sissi",
    "pool_labels": "allograft.methods.pool_labels:PoolLabels",
    "barlow_twins": "allograft.methods.barlow_twins:BarlowTwins",
    "moco_v3": "allograft.methods.moco_v3:MocoV3",
    "simmim": "allograft.methods.simmim:SimMim",
    "popar": "allograft.methods.popar:Popar",
    "mixcl": "allograft.methods.mixcl:MixCl",
    "united": "allograft.methods.united:United",
    "encoder_alone": "allograft.methods.encoder_alone:EncoderAlone",
    "sequential": "allograft.methods.sequential:Sequential",
    "joint_stream": "allograft.methods.joint_stream:JointStream",
    "ewc": "allograft.methods.ewc:Ewc",
    "lwf": "allograft.methods.lwf:Lwf",
    "mib": "allograft.methods.mib:Mib",
    "rw": "allograft.methods.rw:Rw",
    "plop": "allograft.methods.plop:Plop",
    "odex": "allograft.methods.odex:Odex",
    "metamedseg": "allograft.methods.metamedseg:Metamedseg",
    "diffmic": "allograft.methods.diffmic:DiffMic",
    "mris": "allograft.methods.mris:Mris",
    "pix2pix": "allograft.methods.pix2pix:Pix2Pix",
    "ldam": "allograft.methods.ldam:Ldam",
    "ohem": "allograft.methods.ohem:Ohem",
    "reconstruction": "allograft.methods.reconstruction:Reconstruction",
    "contrastive": "allograft.methods.contrastive:Contrastive",
    "adversarial": "allograft.methods.adversarial:Adversarial",
    "denoising_diffusion": "allograft.methods.denoising_diffusion:DenoisingDiffusion",
    "tent": "allograft.methods.tent:Tent",
    "minent": "allograft.methods.minent:MinEnt",
    "coral": "allograft.methods.coral:Coral",
    "mixstyle": "allograft.methods.mixstyle:MixStyle",
    "groupdro": "allograft.methods.groupdro:GroupDro",
    "mean_teacher": "allograft.methods.mean_teacher:MeanTeacher",
    "bigaug": "allograft.methods.bigaug:BigAug",
}

NETWORKS = {
    "unet": "allograft.networks.unet:unet",
    "dynunet": "allograft.networks.dynunet:dynunet",
    "segresnet": "allograft.networks.segresnet:segresnet",
    "swin_unetr": "allograft.networks.swin_unetr:swin_unetr",
    "unetr": "allograft.networks.unetr:unetr",
    "transformer_unet": "allograft.networks.transformer_unet:transformer_unet",
    "diffusion_unet": "allograft.networks.diffusion_unet:diffusion_unet",
    "deeplabv3plus": "allograft.networks.deeplab:deeplabv3plus",
    "timm_unet": "allograft.networks.timm_unet:timm_unet",
    "resnet": "allograft.networks.resnet:resnet",
    "densenet121": "allograft.networks.resnet:densenet121",
    "vit": "allograft.networks.backbone:vit",
    "swin": "allograft.networks.backbone:swin",
    "timm": "allograft.networks.backbone:timm",
    "stain_cnn": "allograft.networks.stain_cnn:stain_cnn",
    "faster_rcnn": "allograft.networks.detector:faster_rcnn",
    "upsampling_head": "allograft.networks.upsampling_head:upsampling_head",
}

SURGERY = {
    "catenorm": "allograft.networks.catenorm:add_catenorm",
    "channels_last": "allograft.networks.layout:channels_last",
    "dsbn": "allograft.networks.dsbn:add_dsbn",
    "lora": "allograft.networks.lora:add_lora",
    "spottunet": "allograft.methods.spottunet:add_policy",
    "translator": "allograft.methods.cyclegan:add_translator",
    "diffmic": "allograft.networks.diffmic:add_diffmic",
    "cosine_head": "allograft.methods.ldam:add_cosine_head",
}

PREDICTORS = {
    "direct": "allograft.predictor.direct:Direct",
    "weights": "allograft.predictor.direct:Weights",
    "ensemble": "allograft.predictor.ensemble:Ensemble",
    "fourier": "allograft.methods.fourier:FourierPredictor",
    "tent": "allograft.methods.tent:TentPredictor",
    "donors": "allograft.parts.donors:Donors",
    "two_pass": "allograft.methods.catenorm:TwoPass",
    "by_site": "allograft.parts.by_site:SitePredictor",
    "spottunet": "allograft.methods.spottunet:SpotTunetPredictor",
    "histogram": "allograft.methods.histogram:HistogramPredictor",
    "zscore": "allograft.methods.zscore:ZScorePredictor",
    "cyclegan": "allograft.methods.cyclegan:CycleGanPredictor",
    "stain_normalised": "allograft.methods.stain_normalisation:StainNormalised",
    "odex": "allograft.methods.odex:OdexPredictor",
    "odex_expert": "allograft.methods.odex:Expert",
    "odex_gaussian": "allograft.methods.odex:Gaussian",
    "diffmic": "allograft.predictor.denoising:DiffMicPredictor",
    "retrieval": "allograft.predictor.retrieval:Retrieval",
    "database": "allograft.predictor.retrieval:Database",
}

OPTIMIZERS = {
    "sgd": "torch.optim:SGD",
    "adam": "torch.optim:Adam",
    "adamw": "torch.optim:AdamW",
    "nadam": "torch.optim:NAdam",
    "avagrad": "allograft.optim.avagrad:AvaGrad",
}

SCHEDULES = {
    "constant": "allograft.schedule:constant",
    "step": "allograft.schedule:step",
    "poly": "allograft.schedule:poly",
    "cosine": "allograft.schedule:cosine",
    "plateau": "allograft.schedule:plateau",
}

TASKS = {
    "segmentation": "allograft.tasks.segmentation:Segmentation",
    "classification": "allograft.tasks.classification:Classification",
    "multilabel": "allograft.tasks.multilabel:Multilabel",
    "multitask": "allograft.tasks.multitask:Multitask",
    "synthesis": "allograft.tasks.synthesis:Synthesis",
    "detection": "allograft.tasks.detection:Detection",
}

PHANTOMS = {
    "brain": "allograft.phantoms.brain:write_brain",
    "chest": "allograft.phantoms.chest:write_chest",
    "fundus": "allograft.phantoms.fundus:write_fundus",
    "skin": "allograft.phantoms.skin:write_skin",
    "histology": "allograft.phantoms.histology:write_histology",
    "knee": "allograft.phantoms.knee:write_knee",
    "cells": "allograft.phantoms.cells:write_cells",
    "organs": "allograft.phantoms.organs:write_organs",
}

_TABLES = {
    "method": METHODS,
    "network": NETWORKS,
    "surgery": SURGERY,
    "predictor": PREDICTORS,
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "task": TASKS,
    "phantom": PHANTOMS,
}


def rows(kind: str) -> dict[str, str]:
    """Every name of a kind (``method``, ``network``, ...): ours, then those that installed packages
    add. A package cannot replace a name of ours.

    >>> rows("method")["finetune"]
    'allograft.methods.finetune:Finetune'
    """
    return {**_TABLES[kind], **{name: entry.value for name, entry in _added(kind).items()}}


def _added(kind: str) -> dict[str, EntryPoint]:
    return {name: entries[0] for name, entries in _offered(kind).items()}


@cache
def _offered(kind: str) -> dict[str, list[EntryPoint]]:
    """What installed packages add under each name; more than one entry where packages disagree."""
    offered: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=f"allograft.{kind}s"):  # reads every installed package
        others = offered.setdefault(entry.name, [])
        if entry.name not in _TABLES[kind] and all(entry.value != other.value for other in others):
            others.append(entry)
    return {name: entries for name, entries in offered.items() if entries}


def find(kind: str, name: str) -> Any:
    """The object a name stands for; only now is its module imported.

    Raises:
        SpecError: an unknown name, with the nearest one; or a name that an installed package adds
            and that cannot be imported, with the package and the reason.
    """
    what = "recipe" if kind == "method" else kind
    if name in _TABLES[kind]:
        module, attribute = _TABLES[kind][name].split(":")
        return getattr(importlib.import_module(module), attribute)
    if name not in _added(kind):
        raise SpecError(nearest(name, rows(kind), what))
    entry = _added(kind)[name]
    try:
        return _load(entry)
    except Exception as error:  # of somebody else's module, which may raise anything
        raise SpecError(f"{what} '{name}' {_reason(entry, error)}") from error


def _load(entry: EntryPoint) -> Any:
    several = _offered(entry.group.removeprefix("allograft.").removesuffix("s"))[entry.name]
    if len(several) > 1:
        packages = " and ".join(sorted(_package(each) for each in several))
        raise ValueError(f"{packages} both add this name")
    if not re.fullmatch(r"[\w.]+\s*:\s*[\w.]+", entry.value):
        raise ValueError("expected module:name")
    return entry.load()


def _reason(entry: EntryPoint, error: Exception) -> str:
    package = _package(entry)
    said = str(error).strip().partition("\n")[0]
    found = f"{type(error).__name__}: {said}" if said else type(error).__name__
    return f"cannot be loaded from '{entry.value}' ({found}); fix or uninstall {package}"


def _package(entry: EntryPoint) -> str:
    return f"the package '{entry.dist.name}'" if entry.dist else "the package that adds it"


def name_of(kind: str, thing: object) -> str:
    """The name under which a class or function stands in a table.

    >>> import torch
    >>> name_of("optimizer", torch.optim.Adam)
    'adam'
    """
    where = f"{getattr(thing, '__module__', '')}:{getattr(thing, '__qualname__', '')}"
    known = rows(kind)
    for name, row in known.items():
        if row == where:
            return name
    # re-exported under another module: torch.optim:Adam lives in torch.optim.adam
    for name in known:
        with suppress(SpecError):  # a package that cannot be loaded
            if find(kind, name) is thing:
                return name
    raise SpecError(
        f"{where} is in no row of the table of {kind}s; add a line, or an entry point of the group 'allograft.{kind}s'"
    )


def summaries(kind: str) -> Iterator[tuple[str, str]]:
    """Each name with the first line of its docstring.

    Ours are read from the source text, and nothing of them is imported. What packages add is
    imported, and one that cannot be has the reason in place of its line.
    """
    for name, row in _TABLES[kind].items():
        yield name, _first_line(*row.split(":"))
    for name, entry in _added(kind).items():
        try:
            line = (inspect.getdoc(_load(entry)) or "").partition("\n")[0]
        except Exception as error:  # of somebody else's module, which may raise anything
            line = _reason(entry, error)
        yield name, line


def _first_line(module: str, attribute: str) -> str:
    package, *inner = module.split(".")
    # of the top package only: a spec of a submodule imports its parents
    root = importlib.util.find_spec(package)
    if root is None or not root.submodule_search_locations:
        return ""
    file = Path(root.submodule_search_locations[0]).joinpath(*inner).with_suffix(".py")
    tree = ast.parse(file.read_text(encoding="utf-8"))
    node = next((n for n in tree.body if isinstance(n, (ast.ClassDef, ast.FunctionDef)) and n.name == attribute), None)
    return ((ast.get_docstring(node) if node else None) or "").split("\n")[0]
