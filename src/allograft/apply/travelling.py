"""Scores that may leave a hospital whose images may not: a record of a model's scores by case
ordinal, without image and without name."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from allograft import __version__
from allograft.apply.evaluate import Evaluation
from allograft.cohort.manifest import Case, read_manifest
from allograft.cohort.prepared_images import file_hash
from allograft.errors import ModelError, OutputError, SpecError
from allograft.predictor.card import read_card
from allograft.tree import content_hash, write_json

SCHEMA = 1
"""Of the record; another one is refused."""
LONGEST = 60
"""Characters of a site's name at most."""


@dataclass(frozen=True)
class SiteRecord:
    """What one model scored on the cases of one manifest.

    Args:
        unit, stage, model: which model: its unit and stage, and the checksum of its weights, as its
            card states them.
        data: hash of the files of images and labels, without their names.
        sites: the name of each site of the manifest, in the order of its rows; "" = not named.
        cases: every metric of every labelled case, with ``case``, ``subject`` and ``site`` as
            ordinals: the row of the manifest, and the first, second, ... subject and site in it.
        unlabelled: cases without a label.
        surface_dice: the tolerance in mm, or None.
        allograft: the version that measured.
    """

    unit: str
    stage: str
    model: str
    data: str
    sites: tuple[str, ...]
    cases: tuple[Mapping[str, Any], ...]
    unlabelled: int
    surface_dice: float | None = None
    allograft: str = __version__
    schema: int = SCHEMA

    @property
    def hash(self) -> str:
        """Of all that is in it."""
        return content_hash(asdict(self))

    def write(self, path: Path) -> None:
        """Write it as JSON, with its hash as a checksum."""
        write_json(path, {**asdict(self), "checksum": self.hash})


def site_record(
    evaluation: Evaluation,
    model: Path,
    manifest: Path,
    *,
    sites: Sequence[str] = (),
    surface_dice: float | None = None,
) -> SiteRecord:
    """The record of an evaluation. It holds numbers, class names of the model, and the names of
    sites that the caller gives; nothing of the manifest's text and of no file.

    Args:
        found: as ``evaluate`` gives it for this model and manifest.
        sites: what the record calls the sites, in the order in which they first come in the
            manifest; by default they have no names.
        surface_dice: as given to ``evaluate``.

    Raises:
        ModelError: a folder of masks, or a model whose card does not name its unit.
        SpecError: another number of names than of sites, a name twice, or one that is too long.
    """
    card, cases = check_record(model, manifest, sites)
    names = list(dict.fromkeys(case.site for case in cases))
    readers = {reader: f"reader-{number}" for number, reader in enumerate(_readers(cases), 2)}
    known = {*_words(card["task"]), *readers.values()}
    places = {case.name: number for number, case in enumerate(cases, 1)}
    subjects = {name: number for number, name in enumerate(dict.fromkeys(case.subject for case in cases), 1)}
    rows = []
    for row in evaluation.cases:
        ordinals = {"case": places[row["case"]], "subject": subjects[row["subject"]]}
        ordinals["site"] = names.index(row["site"]) + 1
        measured = {key: value for key, value in row.items() if key not in ordinals}
        rows.append({**ordinals, **{_key(key, readers, known): _number(key, value) for key, value in measured.items()}})
    return SiteRecord(
        unit=card["unit"],
        stage=card["stage"],
        model=card["checksum"],
        data=content_hash([_files(case) for case in cases]),
        sites=tuple(sites) or ("",) * len(names),
        cases=tuple(rows),
        unlabelled=evaluation.unlabelled,
        surface_dice=surface_dice,
    )


def read_site_record(path: Path) -> SiteRecord:
    """Read what ``SiteRecord.write`` wrote.

    Raises:
        OutputError: another file, one that was changed, or a record of another version.
    """
    try:
        tree = json.loads(path.read_text(encoding="utf-8"))
        if tree["schema"] != SCHEMA:
            raise OutputError(
                f"{path}: schema {tree['schema']}, written by Allograft {tree.get('allograft', '?')}; expected "
                f"schema {SCHEMA}: evaluate the model again with Allograft {__version__}"
            )
        checksum = tree.pop("checksum")
        record = SiteRecord(**{**tree, "sites": tuple(tree["sites"]), "cases": tuple(tree["cases"])})
        if checksum != record.hash:
            raise ValueError("its content does not match its checksum")
        if not all(name == "" or is_name(name) for name in record.sites):
            raise ValueError("it names a site as none can be named")
        if not all(1 <= case["site"] <= len(record.sites) for case in record.cases):
            raise ValueError("its cases are of sites that it does not list")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise OutputError(
            f"{path}: not a record of 'allograft evaluate' ({error}); copy it again, or write it again with --record"
        ) from error
    return record


def check_record(model: Path, manifest: Path, sites: Sequence[str] = ()) -> tuple[dict[str, Any], tuple[Case, ...]]:
    """The card and the cases that a record is made of; raises what ``site_record`` would, before
    anything is predicted."""
    card, cases = _card(model), read_manifest(manifest)
    _check_sites(sites, len({case.site for case in cases}))
    return card, cases


def _card(model: Path) -> dict[str, Any]:
    if not (model / "card.json").exists():
        raise ModelError(
            f"{model}: holds no card.json, and a record says which model it is of; give a model folder, or leave "
            "out --record"
        )
    card = read_card(model)
    if missing := [key for key in ("unit", "stage", "checksum") if not card.get(key)]:
        raise ModelError(
            f"{model / 'card.json'}: names no {missing[0]}, so no table would know the record's model; where the "
            "model was made, 'allograft report OUT' writes it again"
        )
    return card


def _check_sites(sites: Sequence[str], count: int) -> None:
    if sites and len(sites) != count:
        raise SpecError(f"--site: found {len(sites)} names, and the manifest has {count} sites; give one for each")
    if len(set(sites)) < len(sites):
        raise SpecError(f"--site: a name is given twice in {', '.join(sites)}; give each site its own")
    if wrong := [name for name in sites if not is_name(name)]:
        raise SpecError(f"--site: {wrong[0][:LONGEST]!r} is no name; expected 1 to {LONGEST} printable characters")


def is_name(text: str) -> bool:
    r"""Whether a record may call a site so.

    >>> is_name("north"), is_name(""), is_name("a\tb")
    (True, False, False)
    """
    return bool(text.strip()) and text.isprintable() and len(text) <= LONGEST


def _readers(cases: Sequence[Case]) -> list[str]:
    """Further readers, whose names are parts of columns: ``reader2`` of ``boxes_reader2``."""
    return sorted({reader for case in cases for reader in case.further_readers})


def _words(tree: object) -> Iterator[str]:
    """Every text in the task of a card: its classes are among them."""
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield str(key)
            yield from _words(value)
    elif isinstance(tree, (list, tuple)):
        for value in tree:
            yield from _words(value)
    elif isinstance(tree, str):
        yield tree


def _key(key: str, readers: Mapping[str, str], known: set[str]) -> str:
    """A metric's name as it may travel: of one class, or of a reader's ordinal."""
    metric, slash, part = key.partition("/")
    part = readers.get(part, part)
    if slash and part not in known:
        raise ModelError(f"--record: the metric '{metric}' is of something that is no class of the model; leave it out")
    return f"{metric}{slash}{part}"


def _number(key: str, value: object) -> object:
    """A metric's value, which is a number, several or None."""
    if value is None or isinstance(value, (int, float)):
        return value
    if isinstance(value, list) and all(isinstance(part, (int, float)) for part in value):
        return value
    raise ModelError(f"--record: the metric '{key.partition('/')[0]}' is text, and text may not leave; leave it out")


def _files(case: Case) -> list[str]:
    """Hashes of the bytes of a case's files."""
    labels = [value for _, value in sorted(case.labels.items()) if isinstance(value, Path)]
    return [file_hash(path) for path in (*case.image, *labels)]
