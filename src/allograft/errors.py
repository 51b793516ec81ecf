"""One tree of errors. Each message names the file, row or key, what was found, what was expected,
and the mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AllograftError(Exception):
    """Anything a user can fix. The command line prints the message alone and exits with
    ``exit_code``."""

    exit_code = 2


class ManifestError(AllograftError):
    """A manifest, or a row of it, cannot be used."""


class ImageError(AllograftError):
    """An image or mask file cannot be read, or does not hold what its row promises."""


class SplitError(AllograftError):
    """Subjects cannot be divided as asked."""


class LeakageError(AllograftError):
    """A patient, or a copy of a picture, stands on two sides of a split."""


class SpecError(AllograftError):
    """A study file, or an argument of the same meaning, is wrong."""


class NeedsError(AllograftError):
    """A recipe needs something that the study does not give it."""


class ModelError(AllograftError):
    """A model folder or weights file cannot be used."""


class MissingWeightsError(ModelError):
    """Published weights are not on this machine and cannot be fetched."""


class OutputError(AllograftError):
    """The output folder cannot be written, or holds something else."""


class LeaseLost(AllograftError):
    """Another process took over what this one was working on; the other one finishes it."""


class TrainingError(AllograftError):
    """A run went wrong in a way that a setting can mend, a loss that is not finite for example."""


class MissingExtraError(AllograftError):
    """An optional library is needed; the message holds its pip line."""


class UnitsFailed(AllograftError):
    """Some units of a study failed; the rest stands."""

    exit_code = 3


class MirrorIncomplete(AllograftError):
    """The study is whole, and what another program was to hold of it is not."""

    exit_code = 3


def nearest(name: object, known: Iterable[str], what: str) -> str:
    """``unknown recipe 'fourrier'; did you mean 'fourier'?``

    >>> nearest("fourrier", ["fourier", "finetune"], "recipe")
    "unknown recipe 'fourrier'; did you mean 'fourier'?"
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, 1, 0.5)
    hint = (
        f"did you mean '{close[0]}'?"
        if close
        else f"known: {', '.join(names[:40]) or 'none'}{', ...' if len(names) > 40 else ''}"
    )
    return f"unknown {what} '{name}'; {hint}"


def require_extra(module: str, extra: str) -> None:
    """Raise with the ``pip`` line when an optional library is absent.

    >>> require_extra("math", "nothing")
    """
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingExtraError(
            f"this needs the optional library '{module}'; install it with: pip install 'allograft[{extra}]'"
        )
