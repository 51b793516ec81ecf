"""``allograft import``: manifests from other people's layouts."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from allograft.cli.import_options import (
    Append,
    Class,
    Images,
    Mask,
    Once,
    Out,
    Paired,
    Prefix,
    Region,
    Shared,
    Site,
    Split,
    Src,
    Subject,
    Unlabelled,
    named_classes,
    shared_options,
)

imports = typer.Typer(
    help="Make a manifest from a common folder layout. The files are not copied.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@imports.command(
    epilog="Example: allograft import medmnist pneumoniamnist.npz data --site guangzhou --class 0=normal "
    "--one-image-per-subject"
)
def medmnist(
    src: Src,
    out: Out,
    site: Site,
    class_: Class = None,
    once: Once = False,
    test: Annotated[
        str, typer.Option(help="The part to use as the test set if there are no test images: --test val")
    ] = "test",
    append: Append = False,
    prefix: Prefix = "",
    shared: Shared = False,
) -> None:
    """Import a MedMNIST .npz file of images and labels; the images are written as PNG files."""
    from allograft.cohort.importers import import_medmnist

    options = shared_options(append, None, prefix, shared)
    print(
        import_medmnist(
            src, out, site=site, classes=named_classes(class_), one_image_per_subject=once, test=test, **options
        )
    )


@imports.command(
    epilog="Example: allograft import msd Task04_Hippocampus Task04_Hippocampus --site vanderbilt "
    "--one-image-per-subject"
)
def msd(
    src: Src,
    out: Out,
    site: Site,
    subject: Subject = None,
    once: Once = False,
    unlabelled: Unlabelled = False,
    append: Append = False,
    split: Split = None,
    prefix: Prefix = "",
    shared: Shared = False,
) -> None:
    """Import a Medical Segmentation Decathlon folder with its dataset.json."""
    from allograft.cohort.importers import import_msd

    options = shared_options(append, split, prefix, shared)
    print(
        import_msd(src, out, site=site, subject=subject, one_image_per_subject=once, unlabelled=unlabelled, **options)
    )


@imports.command(
    epilog="Example: allograft import nnunet Dataset027_ACDC Dataset027_ACDC --site dijon --subject '{subject}_frame*'"
)
def nnunet(
    src: Src,
    out: Out,
    site: Site,
    subject: Subject = None,
    once: Once = False,
    unlabelled: Unlabelled = False,
    append: Append = False,
    split: Split = None,
    prefix: Prefix = "",
    shared: Shared = False,
) -> None:
    """Import an nnU-Net dataset folder: imagesTr/CASE_0000.nii.gz, labelsTr/CASE.nii.gz."""
    from allograft.cohort.importers import import_nnunet

    options = shared_options(append, split, prefix, shared)
    print(
        import_nnunet(
            src, out, site=site, subject=subject, one_image_per_subject=once, unlabelled=unlabelled, **options
        )
    )


@imports.command(
    epilog="Example: allograft import coco data/train.json data --images data/train --site A --split train "
    "--one-image-per-subject"
)
def coco(
    src: Src,
    out: Out,
    images: Images,
    site: Site,
    subject: Subject = None,
    once: Once = False,
    append: Append = False,
    split: Split = None,
    prefix: Prefix = "",
    shared: Shared = False,
) -> None:
    """Import a COCO JSON file and its images; the boxes are written to OUT/boxes."""
    from allograft.cohort.importers import import_coco

    options = shared_options(append, split, prefix, shared)
    print(import_coco(src, out, images=images, site=site, subject=subject, one_image_per_subject=once, **options))


@imports.command(
    epilog="Example: allograft import voc data/Annotations data --images data/JPEGImages --site A "
    "--one-image-per-subject"
)
def voc(
    src: Src,
    out: Out,
    images: Images,
    site: Site,
    subject: Subject = None,
    once: Once = False,
    zero_based: Annotated[
        bool, typer.Option("--zero-based", help="The boxes count pixels from 0, with the end exclusive.")
    ] = False,
    append: Append = False,
    split: Split = None,
    prefix: Prefix = "",
    shared: Shared = False,
) -> None:
    """Import a folder of Pascal VOC XML files and their images; the boxes are written to
    OUT/boxes."""
    from allograft.cohort.importers import import_voc

    options = shared_options(append, split, prefix, shared)
    print(
        import_voc(
            src,
            out,
            images=images,
            site=site,
            subject=subject,
            one_image_per_subject=once,
            zero_based=zero_based,
            **options,
        )
    )


@imports.command(
    epilog="Example: allograft import bids data data --site-column centre --mask "
    "'derivatives/manual/{name}_mask.nii.gz'"
)
def bids(
    src: Src,
    out: Out,
    suffix: Annotated[
        list[str] | None, typer.Option(help="Suffix of the images, by default T1w; several are channels of one image.")
    ] = None,
    mask: Mask = None,
    site: Annotated[str | None, typer.Option(help="Site of all images.")] = None,
    site_column: Annotated[str | None, typer.Option(help="The column of participants.tsv that has the site.")] = None,
    append: Append = False,
    split: Split = None,
    prefix: Prefix = "",
    shared: Shared = False,
) -> None:
    """Import a BIDS folder: sub-*/[ses-*/]anat, and masks below derivatives by a pattern."""
    from allograft.cohort.importers import import_bids

    options = shared_options(append, split, prefix, shared)
    print(import_bids(src, out, suffix=suffix or "T1w", mask=mask, site=site, site_column=site_column, **options))


@imports.command(
    epilog="Example: allograft import folder data data --image 'A/{subject}_0000.nii.gz' --mask 'A/{subject}.nii.gz' "
    "--site A --append"
)
def folder(
    src: Src,
    out: Out,
    image: Annotated[
        list[str],
        typer.Option(
            help="A pattern of paths below SRC. Names in braces become columns; several patterns are channels."
        ),
    ],
    mask: Mask = None,
    paired: Paired = None,
    region: Region = None,
    site: Annotated[str | None, typer.Option(help="Site of all images, if {site} is not in the pattern.")] = None,
    once: Once = False,
    append: Append = False,
    split: Split = None,
    prefix: Prefix = "",
    shared: Shared = False,
) -> None:
    """Import image files whose paths follow a pattern."""
    from allograft.cohort.importers import import_folder

    options = shared_options(append, split, prefix, shared)
    print(
        import_folder(
            src,
            out,
            image=image,
            mask=mask,
            paired=paired,
            region=region,
            site=site,
            one_image_per_subject=once,
            **options,
        )
    )


@imports.command(
    epilog="Example: allograft import table labels.csv . --image path --subject patient_id --site hospital --label dx"
)
def table(
    src: Src,
    out: Out,
    image: Annotated[
        list[str],
        typer.Option(help="A column of paths, or a pattern of columns: 'images/{id}.png'; several are channels."),
    ],
    subject: Annotated[str | None, typer.Option(help="The column of patient IDs.")] = None,
    site: Annotated[str | None, typer.Option(help="The column of sites.")] = None,
    site_name: Annotated[str | None, typer.Option(help="Site of all images, if no column has it.")] = None,
    label: Annotated[str | None, typer.Option(help="The column of classes.")] = None,
    mask: Mask = None,
    paired: Paired = None,
    region: Region = None,
    boxes: Annotated[str | None, typer.Option(help="The boxes files, in the same form as --mask.")] = None,
    split_column: Annotated[str | None, typer.Option(help="The column of splits: train, val or test.")] = None,
    attribute: Annotated[
        list[str] | None, typer.Option(help="A further column to keep; all others are left out.")
    ] = None,
    class_: Class = None,
    missing: Annotated[
        list[str] | None,
        typer.Option(
            help="A word for a missing value, in place of NA, NaN, N/A, #N/A, <NA>, none and null; '' for no word."
        ),
    ] = None,
    once: Once = False,
    append: Append = False,
    split: Split = None,
    prefix: Prefix = "",
    shared: Shared = False,
) -> None:
    """Import a CSV file of your own, by the names of its columns."""
    from allograft.cohort.importers import import_table

    columns: dict[str, Any] = {
        "subject": subject,
        "site": site,
        "site_name": site_name,
        "label": label,
        "split_column": split_column,
    }
    files: dict[str, Any] = {"image": image, "mask": mask, "paired": paired, "region": region, "boxes": boxes}
    more: dict[str, Any] = {
        "attributes": attribute or (),
        "classes": named_classes(class_),
        "missing": missing,
        "one_image_per_subject": once,
    }
    print(import_table(src, out, **columns, **files, **more, **shared_options(append, split, prefix, shared)))
