"""The data card that machines read: Croissant JSON-LD (MLCommons, https://docs.mlcommons.org/croissant).

The card describes the files of an exported set and each column of its manifest. In the vocabulary
for responsible AI (RAI) it says what the set is for and what its faults are.
"""

from __future__ import annotations

import json
from datetime import date, datetime
from typing import TYPE_CHECKING, Any

from hamsynth_utils.data.dataset_info import ClassList, DatasetInfo

if TYPE_CHECKING:
    import mlcroissant

FILE = "croissant.json"
"""Name of the card in an exported set."""


CONFORMS = ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]
"""The versions of Croissant and of its RAI vocabulary that the card follows."""


KEYWORDS = ["synthetic", "dermoscopy", "skin lesion", "research and education only"]


def column_descriptions(classes: ClassList) -> dict[str, tuple[str, str]]:
    """Type and meaning of each column of the manifest.

    Args:
        classes: the classes of the set.

    Returns:
        By column: the name of its `mlcroissant.DataType`, and one sentence.
    """
    named = ", ".join(f"{name} ({classes.long_names[name]})" for name in classes)
    return {
        "file": ("TEXT", "Path of the image within the set."),
        "image_id": ("TEXT", "Name of the image; no photograph has this name."),
        "dx": ("TEXT", f"The class that the generator was asked for: {named}."),
        "generator": ("TEXT", "The generator that made the image."),
        "checkpoint": ("TEXT", "SHA-256 of the generator's weights."),
        "seed": ("INTEGER", "The seed of this image."),
        "sampling": ("TEXT", "Sampling options that differ from those of the checkpoint."),
        "trained_on": ("TEXT", "SHA-256 of the ids of the generator's training images."),
        "sha256": ("TEXT", "SHA-256 of the image file."),
    }


def croissant(
    name: str,
    description: str,
    dataset: DatasetInfo,
    manifest: bytes,
    when: date,
    rai: dict[str, Any],
) -> dict[str, Any]:
    """The card as a JSON-LD document.

    Args:
        name: name of the exported set.
        description: the set in a few sentences.
        dataset: the data set that the generator was trained on, for classes, licence and citation.
        manifest: the content of the manifest.
        when: the date of the export.
        rai: texts of the RAI vocabulary, by the names of the arguments of `mlcroissant.Metadata`.

    Returns:
        The document.
    """
    import mlcroissant as mlc  # takes a second

    from hamsynth_utils.core.weights import sha256_of_bytes

    listing = mlc.FileObject(
        id="manifest.csv",
        name="manifest.csv",
        description="One row per image.",
        content_url="manifest.csv",
        content_size=f"{len(manifest)} B",
        encoding_formats=["text/csv"],
        sha256=sha256_of_bytes(manifest),
    )
    files = mlc.FileSet(
        id="png",
        name="png",
        description="The images, labelled synthetic.",
        encoding_formats=["image/png"],
        includes=["images/*.png"],
    )
    metadata = mlc.Metadata(
        name=name,
        description=description,
        conforms_to=CONFORMS,
        license=[dataset.licence_url],
        url=dataset.url,
        cite_as=dataset.bibtex,
        creators=[mlc.Organization(name="the HamSynth authors")],
        date_published=datetime(when.year, when.month, when.day),
        version="1.0.0",
        keywords=KEYWORDS,
        distribution=[listing, files],
        record_sets=[_manifest_records(dataset.classes), _image_records()],
        **rai,
    )
    # The library writes a date with a time; the export knows only the day.
    return {**metadata.to_json(), "datePublished": when.isoformat()}


def _manifest_records(classes: ClassList) -> mlcroissant.RecordSet:
    """One record per row of the manifest."""
    import mlcroissant as mlc

    return mlc.RecordSet(
        id="images",
        name="images",
        description="The rows of the manifest.",
        key=["images/file"],
        fields=[
            mlc.Field(
                id=f"images/{column}",
                name=f"images/{column}",
                description=meaning,
                data_types=[getattr(mlc.DataType, data_type)],
                source=mlc.Source(file_object="manifest.csv", extract=mlc.Extract(column=column)),
            )
            for column, (data_type, meaning) in column_descriptions(classes).items()
        ],
    )


def _image_records() -> mlcroissant.RecordSet:
    """One record per image file."""
    import mlcroissant as mlc

    properties = {
        "file": ("TEXT", mlc.FileProperty.fullpath, "Path of the image within the set."),
        "image": ("IMAGE_OBJECT", mlc.FileProperty.content, "The image, RGB."),
    }
    return mlc.RecordSet(
        id="pictures",
        name="pictures",
        description="The images themselves.",
        key=["pictures/file"],
        fields=[
            mlc.Field(
                id=f"pictures/{column}",
                name=f"pictures/{column}",
                description=meaning,
                data_types=[getattr(mlc.DataType, data_type)],
                source=mlc.Source(file_set="png", extract=mlc.Extract(file_property=file_property)),
            )
            for column, (data_type, file_property, meaning) in properties.items()
        ],
    )


def validated(document: dict[str, Any]) -> bytes:
    """The content of the card's file, if mlcroissant finds no error and no warning in the card.

    Args:
        document: the card as a JSON-LD document.

    Returns:
        The document in UTF-8.

    Raises:
        RuntimeError: with the words of mlcroissant, if the document is no valid Croissant.
    """
    import mlcroissant as mlc

    try:
        report = mlc.Dataset(jsonld=document).metadata.ctx.issues.report()
    except mlc.ValidationError as error:
        report = str(error)
    if report:
        raise RuntimeError(f"the data card is no valid Croissant:\n{report}")
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
