"""Published weights by name: from a folder of files, else from the hub that timm publishes on; an
offline machine is told what to copy."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from allograft.errors import MissingWeightsError, ModelError

FILE = "model.safetensors"
_NAMED = re.compile(r"(?:^|[\\/])(timm|hf):(.+)$")


def named_weights(start: Path | str) -> Path | None:
    """The file behind ``timm:NAME`` or ``hf:OWNER/NAME[/FILE]``; None for any other start.

    Looked for in the folder that ``ALLOGRAFT_WEIGHTS`` names (``weights`` by default), as
    ``NAME.safetensors`` or ``OWNER/NAME/FILE``, and only then downloaded, into the cache of the
    Hugging Face library.

    Raises:
        ModelError: an unknown timm name.
        MissingWeightsError: weights that are not here and cannot be fetched: which file, and where
            to put it.

    Example:
        >>> named_weights("runs/vessels/models/finetune@chase") is None
        True
    """
    named = _NAMED.search(str(start))
    if named is None:
        return None
    kind, name = named.groups()
    repository, file, link = _timm(name) if kind == "timm" else _hub(name)
    kept = Path(os.environ.get("ALLOGRAFT_WEIGHTS", "weights")) / link
    return kept if os.path.isfile(kept) else _downloaded(f"{kind}:{name}", repository, file, kept)


def _timm(name: str) -> tuple[str, str, Path]:
    import timm

    published = timm.get_pretrained_cfg(name, allow_unregistered=False) if timm.is_model(name) else None
    if published is None or not published.hf_hub_id:
        close = difflib.get_close_matches(
            name, timm.list_pretrained(), 1, 0.5
        )  # of a thousand names, the nearest alone
        hint = f"did you mean '{close[0]}'?" if close else "timm.list_pretrained() lists them"
        raise ModelError(f"start: timm:{name[:200]}: unknown set of timm weights '{name[:200]}'; {hint}")
    full = f"{published.architecture}.{published.tag}" if published.tag else str(published.architecture)
    repository = str(published.hf_hub_id)
    if repository.endswith("/"):  # the owner alone
        repository += full
    return repository, FILE, Path(f"{full}.safetensors")


def _hub(name: str) -> tuple[str, str, Path]:
    parts = name.split("/")
    if len(parts) < 2 or not all(parts) or ".." in parts:
        raise ModelError(f"start: hf:{name}: expected hf:OWNER/NAME or hf:OWNER/NAME/FILE")
    repository, file = "/".join(parts[:2]), "/".join(parts[2:]) or FILE
    return repository, file, Path(repository) / file


def _downloaded(name: str, repository: str, file: str, kept: Path) -> Path:
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(repository, file))
    # the library raises many kinds, for no network, no such repository, no right to it
    except Exception as error:
        raise MissingWeightsError(
            f"start: {name}: its weights are not on this machine and cannot be fetched ({type(error).__name__}); "
            "where there is a network, "
            f"take the file '{file}' of the Hugging Face repository '{repository}', and put it here: {kept}"
        ) from error
