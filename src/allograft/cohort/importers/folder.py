"""Files laid out by a pattern: ``A/{subject}_0000.nii.gz`` with masks
``A/labels/{subject}.nii.gz``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Unpack

from allograft.cohort.importers.files import counted, is_image, one_of_twins
from allograft.cohort.importers.patterns import Partners, Pattern
from allograft.cohort.importers.rows import Imported, Options, Row, write_manifest
from allograft.cohort.importers.subjects import check_once, column_names, need_folder, need_site, need_subject, stem
from allograft.cohort.readers.files import NOT_FETCHED
from allograft.errors import ManifestError


def import_folder(
    src: Path,
    out: Path,
    *,
    image: str | Sequence[str],
    mask: str | None = None,
    paired: str | None = None,
    region: str | None = None,
    site: str | None = None,
    one_image_per_subject: bool = False,
    **options: Unpack[Options],
) -> Imported:
    """Take every file below ``src`` that fits ``image``, and what goes with it.

    ``{subject}``, ``{site}``, ``{split}``, ``{label}``, ``{timepoint}`` and any other name in
    braces but ``{name}`` become columns; ``*`` is anything within a name, ``**`` any folders.
    Several ``image`` patterns are channels: the first finds the cases, the others are filled with
    its names, as ``mask``, ``paired`` and ``region`` are. Without ``{subject}`` in the pattern
    ``one_image_per_subject`` must be true, and the subject is the path. A folder that fits and
    holds DICOM files is one image, a series.
    """
    src = need_folder(src)
    first, *channels = [image] if isinstance(image, str) else list(image)
    shape = Pattern(first)
    if "site" in shape.names and site:
        raise ManifestError(f"site '{site}' and {{site}} in the pattern '{first}'; give one of them")
    fixed = {} if "site" in shape.names else {"site": need_site(site, src)}
    if "subject" not in shape.names:
        need_subject(
            src,
            one_image_per_subject=one_image_per_subject,
            how="write {subject} in the pattern: --image 'A/{subject}_*.png'",
        )
    others = [Partners.of(pattern, src, shape.names) for pattern in channels]
    partners = {
        key: Partners.of(pattern, src, shape.names)
        for key, pattern in _given(mask=mask, paired=paired, region=region).items()
    }
    unmatched: list[str] = []
    rows: list[Row] = []
    for path, values in _images(shape, src, (*others, *partners.values()), unmatched):
        name = path.relative_to(src).as_posix()
        files = [path, *(pattern.find(values, path) for pattern in others)]
        if None in files:
            unmatched.append(f"{name}: no '{channels[files.index(None) - 1]}', left out")
            continue
        partner_files = {key: pattern.find(values, path) for key, pattern in partners.items()}
        unmatched += [f"{name}: no {key}" for key, pattern in partner_files.items() if pattern is None]
        texts = {column: values[column] for column in column_names(shape.names, first)}
        rows.append({"subject": stem(name), "image": files} | texts | fixed | partner_files)
    unmatched += [
        f"{path.relative_to(src).as_posix()}: no image"
        for pattern in (*others, *partners.values())
        for path in pattern.left
    ]
    check_once(Counter(row["subject"] for row in rows) if one_image_per_subject else {}, src)
    return write_manifest(out, rows, unmatched, **options)


def _images(
    shape: Pattern, src: Path, partners: Sequence[Partners], unmatched: list[str]
) -> Iterator[tuple[Path, dict[str, str]]]:
    """What fits the image's pattern and no other, and can be read."""
    taken = {path for partner in partners for paths in partner.by_key.values() for path in paths}
    lost: list[Path] = []
    every = list(shape.walk(src, lost))
    unmatched += [f"{path.relative_to(src).as_posix()}: {NOT_FETCHED}, left out" for path in lost]
    if not every:
        files = (path for path in src.rglob("*") if path.is_file() and not path.name.startswith("."))
        unmatched += [f"{text} below SRC, and none fits '{shape.text}'" for text in counted(files)]
    kept = set(one_of_twins([path for path, _ in every], unmatched))
    fitting = [(path, values) for path, values in every if path in kept]
    if fitting and all(path in taken for path, _ in fitting):
        found = f"all {len(fitting)} files that fit '{shape.text}' fit another pattern too"
        raise ManifestError(f"{src}: {found}, such as {fitting[0][0].name}; narrow that pattern")
    for path, values in fitting:
        if path in taken:
            continue
        if is_image(path):
            yield path, values
        else:
            unmatched.append(f"{path.relative_to(src).as_posix()}: no image that can be read")


def _given(**patterns: str | None) -> Mapping[str, str]:
    return {key: pattern for key, pattern in patterns.items() if pattern}
