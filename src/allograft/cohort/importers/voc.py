"""Pascal VOC: a folder of XML files, one an image, and a folder of images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, Unpack

from allograft.cohort.importers.boxes import BoxFile
from allograft.cohort.importers.files import images_among, visible
from allograft.cohort.importers.rows import Imported, Options, Row, write_manifest
from allograft.cohort.importers.subjects import check_once, check_spelling, need_folder, need_site, stem, subject_of
from allograft.errors import ManifestError

_LARGEST = 10_000_000  # bytes of one XML file


def import_voc(
    src: Path,
    out: Path,
    *,
    images: Path,
    site: str,
    subject: str | None = None,
    one_image_per_subject: bool = False,
    zero_based: bool = False,
    **options: Unpack[Options],
) -> Imported:
    """Take every XML file of the folder whose image lies in ``images``, by the XML's own name, else
    by the ``filename`` in it.

    VOC counts pixels from 1 and includes the last: xmin, xmax become xmin - 1, xmax.
    ``zero_based``: the tool that wrote the files counted from 0 with the end exclusive, numbers
    stay as they are.
    """
    src, site, images = need_folder(src), need_site(site, src), need_folder(images)
    rows, files = [], []
    unmatched: list[str] = []
    by_stem = _by_stem(images, unmatched)
    used: set[Path] = set()
    labels: set[str] = set()
    difficult = 0
    for xml in visible(src.glob("*.xml")):
        tree = _parsed(xml)
        images_ = by_stem.get(xml.stem) or by_stem.get(stem(Path(tree.findtext("filename") or "").name)) or []
        if len(images_) != 1 or images_[0] in used:
            why = "no image of that name" if not images_ else f"more than one partner for {images_[0].name}"
            unmatched.append(f"{xml.name}: {why}")
            continue
        boxes = _boxes(tree, xml, 0 if zero_based else 1, unmatched)
        boxes.check(images_[0], _size(tree), str(xml))
        used.add(images_[0])
        labels.update(boxes.labels)
        difficult += sum((element.findtext("difficult") or "").strip() == "1" for element in tree.iter("object"))
        files.append(boxes.file(images_[0], out))
        who = subject_of(stem(images_[0].name), subject, one_image_per_subject=one_image_per_subject, source=src)
        rows.append(Row(image=[images_[0]], boxes=files[-1][0], subject=who, site=site))
    if one_image_per_subject:
        check_once(Counter(row["subject"] for row in rows), src)
    unmatched += [
        f"{path.name}: an image without an XML" for paths in by_stem.values() for path in paths if path not in used
    ]
    check_spelling("class", sorted(labels), src, "write '{}' as '{}' in the XML files")
    notes = [f"classes: {', '.join(sorted(labels))}"]
    if difficult:
        notes.append(f"boxes marked difficult, kept like all others: {difficult}")
    return write_manifest(out, rows, unmatched, files=files, notes=notes, **options)


def _by_stem(folder: Path, unmatched: list[str]) -> dict[str, list[Path]]:
    by_name: dict[str, list[Path]] = {}
    for path in images_among(folder.iterdir(), folder, unmatched):
        by_name.setdefault(stem(path.name), []).append(path)
    return by_name


def _parsed(path: Path) -> Any:
    """The tree of an XML file; one that defines entities of its own is refused, because these can
    be made to fill the memory."""
    from xml.etree import ElementTree

    try:
        if path.stat().st_size > _LARGEST:
            raise ManifestError(f"{path}: {path.stat().st_size} bytes; expected the boxes of one image; correct SRC")
        content = path.read_bytes()
        if (
            b"<!DOCTYPE" in content or b"<!ENTITY" in content or b"\0" in content
        ):  # the last: UTF-16, where the words would hide
            raise ManifestError(
                f"{path}: declares a document type or is UTF-16; expected plain XML in UTF-8; export it again"
            )
        tree = ElementTree.fromstring(content)
        if tree.tag != "annotation":
            raise ManifestError(
                f"{path}: its outermost element is '{tree.tag[:80]}'; expected annotation, as Pascal VOC has it; "
                "export it again"
            )
        return tree
    except (ElementTree.ParseError, OSError, ValueError, LookupError) as error:
        raise ManifestError(f"{path}: cannot be read as XML ({error}); export it again") from error


def _boxes(tree: Any, path: Path, first: int, left: list[str]) -> BoxFile:
    """The boxes of an XML; ``left`` gets a line for each that has no area in the image."""
    boxes = BoxFile()
    size = _size(tree)
    for number, element in enumerate(tree.iter("object"), 1):
        where = f"{path}, object {number}"
        corners = [_number(element.findtext(f"bndbox/{side}")) for side in ("xmin", "ymin", "xmax", "ymax")]
        if None in corners:
            raise ManifestError(f"{where}: no bndbox of xmin, ymin, xmax, ymax in numbers; correct or remove it")
        x0, y0, x1, y1 = (float(corner) for corner in corners if corner is not None)
        why = boxes.add([x0 - first, y0 - first, x1, y1], element.findtext("name") or "", size, where)
        left += [why.replace(str(path), path.name)] if why else []
    return boxes


def _size(tree: Any) -> tuple[int, int] | None:
    width, height = (_whole(tree.findtext(f"size/{side}")) for side in ("width", "height"))
    return (width, height) if width and height else None


def _number(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def _whole(text: str | None) -> int:
    number = _number(text)
    return int(number) if number is not None and 0 < number < 1e9 else 0
