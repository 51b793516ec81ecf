"""Who a file is of. A file's name is never taken for a patient unless the user says so."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from allograft.cohort.importers.patterns import Pattern
from allograft.cohort.manifest import KNOWN
from allograft.cohort.readers import SUFFIXES
from allograft.errors import ManifestError, nearest


def subject_of(name: str, pattern: str | None, *, one_image_per_subject: bool, source: Path) -> str:
    """The subject of a file called ``name`` (without suffix): by ``pattern``, or the name itself
    where that is said.

    >>> subject_of("p07_left", "{subject}_*", one_image_per_subject=False, source=Path("a.json"))
    'p07'
    """
    if pattern is not None:
        shape = Pattern(pattern)
        if "subject" not in shape.names:
            raise ManifestError(f"subject pattern '{pattern}': expected {{subject}} in it, such as '{{subject}}_*'")
        values = shape.match(name)
        if values is None:
            raise ManifestError(f"{source}: '{name}' does not fit the subject pattern '{pattern}'; correct the pattern")
        return values["subject"]
    need_subject(source, one_image_per_subject=one_image_per_subject)
    return name


def need_subject(
    source: Path, *, one_image_per_subject: bool, how: str = "say where it is in a name: --subject '{subject}_*'"
) -> None:
    """Refuse to take a file's name for a patient unless the user says that each image is of another
    one; ``how`` else to name it."""
    if not one_image_per_subject:
        fix = f"{how}, or, if each image is of a different patient, add --one-image-per-subject"
        raise ManifestError(
            f"{source}: does not say which patient an image is of, and no patient may be on two sides of a split; {fix}"
        )


def check_once(subjects: Mapping[str, int], source: Path) -> None:
    """With ``one_image_per_subject`` no subject may have two images."""
    twice = [name for name, count in subjects.items() if count > 1]
    if twice:
        raise ManifestError(
            f"{source}: --one-image-per-subject was given, but '{twice[0]}' has {subjects[twice[0]]} images; leave "
            "that option out"
        )


def need_site(site: str | None, source: Path, option: str = "--site A") -> str:
    """The site's name, which every import needs."""
    if not site or not site.strip():
        raise ManifestError(
            f"{source}: needs a site, the hospital, scanner or laboratory that the images are from; name it: {option}"
        )
    return site


def need_folder(src: Path) -> Path:
    """``src`` when it is a folder."""
    if not Path(src).is_dir():
        raise ManifestError(f"{src}: no such folder; name one that exists")
    return Path(src)


def stem(name: str) -> str:
    """A name without the suffix of an image.

    >>> stem("images/a.b.nii.gz")
    'images/a.b'
    """
    for suffix in sorted(SUFFIXES, key=len, reverse=True):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def below(name: str, folder: Path) -> str:
    """A path as it lies below ``folder``; of one from elsewhere the last part, so that no folder's
    name is in a subject.

    >>> below("/data/images/p1/a.png", Path("/data/images")), below("/home/me/a.png", Path("/data/images"))
    ('p1/a.png', 'a.png')
    """
    if not re.match(r"[/\\]|[A-Za-z]:", name):
        return name
    path, home = Path(os.path.abspath(name)), os.path.abspath(folder)
    return path.relative_to(home).as_posix() if path.is_relative_to(home) else re.split(r"[/\\]", name)[-1]


def class_names(labels: set[str], classes: Mapping[str, str] | None, source: Path) -> dict[str, str]:
    """Stored label -> class name; a label without a name keeps its own.

    >>> class_names({"0", "1"}, {"1": "pneumonia"}, Path("a.npz"))
    {'0': '0', '1': 'pneumonia'}
    """
    for stored, name in (classes or {}).items():
        if stored not in labels:
            raise ManifestError(f"{source}: {nearest(stored, labels, 'class')}")
        if not name.strip() or re.search(r"[|;]", name):
            raise ManifestError(f"{source}: class name '{name}' for {stored}; expected a word without | and ;")
    names = {stored: (classes or {}).get(stored, stored) for stored in sorted(labels)}
    check_spelling("class", names.values(), source, "give both one name: --class {}={}")
    return names


def check_spelling(what: str, names: Iterable[str], source: Path, fix: str) -> None:
    """Refuse two names that differ in capitals or blanks alone.

    Args:
        fix: how to make them one, with two places for the names.

    >>> check_spelling("class", ["cancer", "normal"], Path("a.csv"), "")
    """
    seen: dict[str, str] = {}
    for name in names:
        first = seen.setdefault(" ".join(name.casefold().split()), name)
        if first != name:
            raise ManifestError(
                f"{source}: {what} '{name}' and '{first}' are spellings of one; {fix.format(name, first)}"
            )


def column_names(names: tuple[str, ...], source: str) -> tuple[str, ...]:
    """The names of a pattern that become columns: all but ``name``, which only tells files
    apart."""
    reserved = [name for name in names if name in KNOWN and name not in ("subject", "site", "split", "label")]
    if reserved:
        raise ManifestError(f"pattern '{source}': {{{reserved[0]}}} is a column of files; call it {{name}}")
    return tuple(name for name in names if name != "name")
