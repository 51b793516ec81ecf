"""From what a manifest's labels say to the numbers a network sees."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from allograft.cohort.manifest import Case
from allograft.cohort.preprocessing import normalise
from allograft.errors import ImageError, ManifestError, SpecError, nearest
from allograft.tree import default, plain


@dataclass(frozen=True)
class Coding:
    """How labels become numbers; part of every fingerprint.

    Args:
        mask: class name -> the mask values it stands for; class i of the network's output is the
            i-th name, 0 the background.
        label: the class names of image labels, in the order of the network's output.
        several: labels are sets ``a|b`` (multi-label).
        attributes: attribute -> its values, in order; () for a number.
        paired: channels of the paired image; 0 when the study has none.
        paired_range: the values of the paired image that become 0 and 1; None = each channel's own
            smallest and largest.
        boxes: class names of boxes; label i + 1 is the i-th.

    Example:
        >>> Coding(mask={"vessel": (1,)}).mask_to_index(np.array([[0, 255]]), "a.png").tolist()
        [[0, 1]]
    """

    mask: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    label: tuple[str, ...] = ()
    several: bool = False
    attributes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    paired: int = 0
    paired_range: tuple[float, float] | None = None
    boxes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owners: dict[int, str] = {0: "background"}
        for name, values in self.mask.items():
            for value in values:
                if value in owners:
                    raise SpecError(
                        f"classes: mask value {value} stands for both '{owners[value]}' and '{name}'; give it to one"
                    )
                owners[value] = name

    @property
    def later(self) -> dict[str, Any]:
        """The fields that fingerprints do not name one by one, where they are set: a new kind of
        label is never forgotten."""
        named = ("mask", "label", "several", "attributes", "paired", "paired_range")
        return {
            f.name: plain(getattr(self, f.name))
            for f in fields(self)
            if f.name not in named and getattr(self, f.name) != default(f)
        }

    def mask_to_index(self, values: np.ndarray, name: str) -> np.ndarray:
        """Mask values -> class indices, int64. With one class and nothing but 0 and 255, 255 means
        that class.

        Raises:
            ImageError: a value that no class stands for, with the file and what was expected.
        """
        present = np.unique(values)
        if len(self.mask) == 1 and set(present.tolist()) <= {0, 255}:
            return (values > 0).astype(np.int64)
        index = {0: 0} | {value: i for i, wanted in enumerate(self.mask.values(), 1) for value in wanted}
        unknown = [int(value) for value in present if int(value) not in index]
        if unknown:
            expected = ", ".join(f"{', '.join(map(str, wanted))} = {name}" for name, wanted in self.mask.items())
            raise ImageError(
                f"{name}: mask value {unknown[0]} stands for no class ({len(unknown)} such values); expected 0 = "
                "background, "
                f"{expected}. Fix the mask, or name its values: classes: {{NAME: [{unknown[0]}]}}"
            )
        table = np.zeros(int(present.max(initial=0)) + 1, dtype=np.int64)
        for value, i in index.items():
            if 0 <= value < len(table):
                table[value] = i
        return table[values.astype(np.int64)]

    def paired_to_share(self, values: np.ndarray, name: str) -> np.ndarray:
        """A paired image (C, *spatial) as shares of its range, float32: 0 to 1, and beyond where
        values lie outside ``paired_range``.

        Raises:
            ImageError: another number of channels than ``paired``, with the file.
        """
        if len(values) != self.paired:
            raise ImageError(
                f"{name}: the paired image has {len(values)} channels; expected {self.paired}, set task: synthesis: "
                "channels"
            )
        if self.paired_range is None:
            return normalise(values, "minmax")
        low, high = self.paired_range
        return ((values.astype(np.float64) - low) / (high - low)).astype(np.float32)

    def label_to_index(self, text: str, name: str) -> int | list[float]:
        """A class name -> its index; with ``several``, ``a|b`` -> a list of 0.0 and 1.0."""
        names = [part.strip() for part in text.split("|")] if self.several else [text]
        for label in names:
            if label not in self.label:
                raise ManifestError(f"{name}: {nearest(label, self.label, 'class')}")
        return [float(label in names) for label in self.label] if self.several else self.label.index(text)

    def attribute(self, key: str, text: str | None) -> float | int:
        """A number for an attribute: its index among the values (-100 if absent), or the number
        itself (nan if absent)."""
        if self.attributes[key]:
            return self.attributes[key].index(text) if text is not None else -100
        return float(text) if text is not None else float("nan")


def categories(cases: Iterable[Case]) -> Mapping[str, tuple[str, ...]]:
    """Attribute -> its values in order; () for one that is a number throughout."""
    values: dict[str, set[str]] = {}
    for case in cases:
        for key, value in case.attributes.items():
            values.setdefault(key, set()).add(value)
    return {key: () if all(map(_is_number, seen)) else tuple(sorted(seen)) for key, seen in sorted(values.items())}


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def coding_of(classes: Sequence[str] | Mapping[str, Sequence[int]] | None, cases: Sequence[Case]) -> Coding:
    """The coding of masks where there are any, else of labels; see ``Cohort.read``."""
    if classes is not None and not any("mask" in case.labels for case in cases):
        return Coding(label=tuple(classes))
    names = ["foreground"] if classes is None else classes
    values = names if isinstance(names, Mapping) else {name: (value,) for value, name in enumerate(names, 1)}
    return Coding(mask={name: tuple(wanted) for name, wanted in values.items()})
