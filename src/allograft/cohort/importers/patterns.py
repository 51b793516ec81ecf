"""Path patterns: ``A/{subject}_0000.nii.gz``, with ``*`` for anything within a name and ``**`` for
any folders.

``{subject:2}`` is a piece of two characters, ``{eye:[LR]}`` one that fits a regular expression.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from allograft.cohort.importers.files import one_of_twins
from allograft.cohort.readers.dicom import is_dicom
from allograft.cohort.readers.files import is_broken_link
from allograft.errors import ManifestError

_TOKEN = re.compile(r"\{([^{}:]*)(:(?:[^{}]|\{\d+(?:,\d*)?\})*)?\}|\*\*/|\*\*|\*")

_ANY = "[^/]+?"


@dataclass(frozen=True)
class Pattern:
    """A pattern of paths below a folder; each ``{name}`` is a piece of one file or folder name, the
    same everywhere.

    A piece is as short as the characters after it allow.

    >>> Pattern("{label}/{subject}_*.png").match("cat/07_a.png")
    {'label': 'cat', 'subject': '07'}
    >>> Pattern("{label}/{subject}_*.png").match("07_a.png") is None
    True
    >>> Pattern("{subject}{eye:[LR]}.png").match("01L.png")
    {'subject': '01', 'eye': 'L'}
    """

    text: str

    def __post_init__(self) -> None:
        parts = self.text.split("/")
        if not self.text or self.text.startswith(("/", "\\")) or ".." in parts or re.match(r"[A-Za-z]:", self.text):
            raise ManifestError(f"pattern '{self.text}': expected a path below SRC, such as images/{{subject}}.png")
        if wrong := [name for name in self.names if not name.isidentifier()]:
            raise ManifestError(
                f"pattern '{self.text}': {{{wrong[0]}}} is no name; expected letters in braces, such as {{subject}}"
            )
        for token in self._tokens:
            if token[2] is not None:
                self._check_form(token[2][1:])
        self._check_neighbours()

    def _check_form(self, form: str) -> None:
        try:
            named = re.compile(form).groupindex
        except (re.error, OverflowError) as error:
            raise ManifestError(
                f"pattern '{self.text}': ':{form}' is no regular expression ({error}); correct it"
            ) from error
        if not form or (form.isdigit() and int(form) == 0) or named:
            found = f"':{form}' is no width and no plain regular expression"
            raise ManifestError(f"pattern '{self.text}': {found}; expected such as {{subject:2}} or {{eye:[LR]}}")

    def _check_neighbours(self) -> None:
        """Two neighbours of unknown width could part the same name in many ways."""
        seen: set[str] = set()
        loose, end = "", -1
        for token in self._tokens:
            name = token[1]
            fixed = token[0] == "**/" or token[2] is not None or name in seen
            if loose and not fixed and token.start() == end and (name is not None or loose.startswith("{")):
                found = f"{loose} and {token[0]} are next to each other, so it is unknown where one ends"
                mend = "write a width or a pattern, such as {subject:2} or {eye:[LR]}, or the characters between them"
                raise ManifestError(f"pattern '{self.text}': {found}; {mend}")
            loose, end = "" if fixed else token[0], token.end()
            seen |= {name} if name is not None else set()

    @property
    def names(self) -> tuple[str, ...]:
        """The names in braces, each once."""
        return tuple(dict.fromkeys(token[1] for token in self._tokens if token[1] is not None))

    def match(self, path: str) -> dict[str, str] | None:
        """What the names stand for in a path, or None when it does not fit.

        Raises:
            ManifestError: pieces that stand side by side could part the path in another way too.
        """
        matched = self._expression.fullmatch(path)
        if matched is None or any("/" in value for value in matched.groupdict().values()):
            return None
        values = matched.groupdict()
        for first, second in self._neighbours:
            both, form, other = values[first] + values[second], self._forms[first], self._forms[second]
            cuts = [at for at in range(len(both) + 1) if form.fullmatch(both[:at]) and other.fullmatch(both[at:])]
            # a pattern that comes first goes as far as it can: unclear only where that is the end
            if len(cuts) > 1 and (form.pattern == _ANY or form.fullmatch(both)):
                ways = " or ".join(f"{first} '{both[:at]}' and {second} '{both[at:]}'" for at in cuts[:2])
                raise ManifestError(
                    f"pattern '{self.text}': {path} could be {ways}; write a width or a narrower pattern for one of "
                    "them, such as {subject:2} or {eye:[LR]}"
                )
        return values

    def walk(self, folder: Path, lost: list[Path]) -> Iterator[tuple[Path, dict[str, str]]]:
        """Files, and folders that are DICOM series, below ``folder`` that fit, in order of their
        paths; ``lost`` gets links to files that are not there."""
        fixed = self.text[: next((token.start() for token in self._tokens), None)].rpartition("/")[0]
        start = folder / fixed
        if not start.is_dir():
            return
        depth = None if "**" in self.text else self.text.count("/")
        for path in _below(start, None if depth is None else depth - (fixed.count("/") + 1 if fixed else 0)):
            values = self.match(path.relative_to(folder).as_posix())
            if values is not None and is_broken_link(path):
                lost.append(path)
            elif values is not None and (path.is_file() or _is_series(path)):
                yield path, values

    @cached_property
    def _tokens(self) -> tuple[re.Match[str], ...]:
        return tuple(_TOKEN.finditer(self.text))

    @cached_property
    def _forms(self) -> dict[str, re.Pattern[str]]:
        """What each name may stand for."""
        forms = {name: (form or "")[1:] for name, form in (token.groups() for token in self._tokens[::-1]) if name}
        return {
            name: re.compile(f"[^/]{{{form}}}" if form.isdigit() else form or _ANY, re.DOTALL)
            for name, form in forms.items()
        }

    @cached_property
    def _neighbours(self) -> list[tuple[str, str]]:
        """Pairs of names with nothing between them, each where it stands first."""
        seen: set[str] = set()
        pairs, before, end = [], "", -1
        for token in self._tokens:
            name = token[1] or ""
            if before and name and token.start() == end and name not in seen:
                pairs.append((before, name))
            before, end = "" if name in seen else name, token.end()
            seen.add(name)
        return pairs

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        parts: list[str] = []
        seen: set[str] = set()
        end = 0
        for token in self._tokens:
            parts.append(re.escape(self.text[end : token.start()]))
            end = token.end()
            if (name := token[1]) is None:
                parts.append({"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*"}[token[0]])
            else:
                parts.append(f"(?P={name})" if name in seen else f"(?P<{name}>{self._forms[name].pattern})")
                seen.add(name)
        return re.compile("".join(parts) + re.escape(self.text[end:]), re.DOTALL)


def _is_series(folder: Path) -> bool:
    return folder.is_dir() and any(path.is_file() and is_dicom(path) for path in folder.iterdir())


def _below(folder: Path, depth: int | None) -> Iterator[Path]:
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        yield path
        if path.is_dir() and depth != 0 and not path.is_symlink():  # a link could lead back up
            yield from _below(path, None if depth is None else depth - 1)


@dataclass(frozen=True)
class Partners:
    """The files of a pattern, found by what its names stand for; ``left`` are those that nobody
    asked for."""

    pattern: Pattern
    by_key: dict[tuple[str, ...], list[Path]]
    used: set[tuple[str, ...]]

    @staticmethod
    def of(pattern: str, folder: Path, known: tuple[str, ...]) -> Partners:
        """Index a pattern whose names must be among ``known``."""
        shape = Pattern(pattern)
        if unknown := [name for name in shape.names if name not in known]:
            names = ", ".join(f"{{{name}}}" for name in known) or "no name at all"
            raise ManifestError(
                f"pattern '{pattern}': {{{unknown[0]}}} is not in the image's pattern, which has {names}; use the "
                "same names"
            )
        by_key: dict[tuple[str, ...], list[Path]] = {}
        every = dict(shape.walk(folder, []))
        for path in one_of_twins(list(every), []):
            values = every[path]
            by_key.setdefault(tuple(values[name] for name in shape.names), []).append(path)
        return Partners(shape, by_key, set())

    def find(self, values: Mapping[str, str], image: Path) -> Path | None:
        """The one file that goes with an image, None when there is none; two are refused."""
        key = tuple(values.get(name, "") for name in self.pattern.names)
        candidates = self.by_key.get(key, [])
        if len(candidates) > 1:
            names = f"{candidates[0].name} and {candidates[1].name}"
            raise ManifestError(
                f"{image}: {names} both fit '{self.pattern.text}'; narrow the pattern so that one is left"
            )
        self.used.add(key)
        return candidates[0] if candidates else None

    @property
    def left(self) -> list[Path]:
        """Files that no image asked for."""
        return sorted(path for key, paths in self.by_key.items() if key not in self.used for path in paths)
