"""The data card that machines read: Croissant JSON-LD (MLCommons, https://docs.mlcommons.org/croissant).

It describes the files of an exported set, what each column of its manifest means, and in the vocabulary for
responsible AI what the set is for and what is wrong with it.
"""

from __future__ import annotations

import json
from datetime import date
from typing import Any

from hamsynth_utils.core.errors import InputError
from hamsynth_utils.data.lesion_set import CLASS_NAMES

FILE = "croissant.json"


LICENCE_URL = "https://creativecommons.org/licenses/by-nc-sa/4.0/"


CONFORMS = ["http://mlcommons.org/croissant/1.0", "http://mlcommons.org/croissant/RAI/1.0"]


CLASSES_IN_WORDS = ", ".join(f"{name} ({meaning})" for name, meaning in CLASS_NAMES.items())


COLUMNS = {
    "file": ("sc:Text", "Path of the image within the set."),
    "image_id": ("sc:Text", "Name of the image; there is no such photograph."),
    "dx": ("sc:Text", f"The class that was asked for: {CLASSES_IN_WORDS}."),
    "generator": ("sc:Text", "The kind of generator that drew the image."),
    "checkpoint": ("sc:Text", "SHA-256 of the generator's weights."),
    "seed": ("sc:Integer", "The seed that this image was drawn from."),
    "sampling": ("sc:Text", "How it was sampled, where that was not the checkpoint's own way."),
    "trained_on": (
        "sc:Text",
        "SHA-256 of the ids of the real images that the generator learned from.",
    ),
    "sha256": ("sc:Text", "SHA-256 of the image file."),
}
"""Type and meaning of each column of the manifest."""


CONTEXT = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{
        term: f"cr:{term}"
        for term in (
            "citeAs",
            "column",
            "equivalentProperty",
            "extract",
            "field",
            "fileProperty",
            "fileObject",
            "fileSet",
            "format",
            "includes",
            "isLiveDataset",
            "jsonPath",
            "key",
            "md5",
            "parentField",
            "path",
            "recordSet",
            "references",
            "regex",
            "repeated",
            "replace",
            "samplingRate",
            "separator",
            "source",
            "subField",
            "transform",
        )
    },
}
"""The terms of Croissant 1.0, written out, since a card must be readable without the network."""


CITE = (
    "@article{tschandl2018ham10000, title={The HAM10000 dataset, a large collection of multi-source "
    "dermatoscopic images of common pigmented skin lesions}, "
    "author={Tschandl, Philipp and Rosendahl, Cliff and Kittler, Harald}, "
    "journal={Scientific Data}, volume={5}, pages={180161}, year={2018}, doi={10.1038/sdata.2018.161}}"
)


def croissant(
    name: str,
    description: str,
    manifest_sha256: str,
    manifest_bytes: int,
    when: date,
    said: dict[str, Any],
) -> dict[str, Any]:
    """The card as a JSON-LD document.

    said: what is said of it in the vocabulary for responsible AI, by its terms without the prefix `rai:`.
    """
    source = {"fileObject": {"@id": "manifest.csv"}}
    fields = [
        {
            "@type": "cr:Field",
            "@id": f"images/{column}",
            "name": f"images/{column}",
            "description": meaning,
            "dataType": kind,
            "source": {**source, "extract": {"column": column}},
        }
        for column, (kind, meaning) in COLUMNS.items()
    ]
    pictures = [
        {
            "@type": "cr:Field",
            "@id": f"pictures/{column}",
            "name": f"pictures/{column}",
            "description": meaning,
            "dataType": kind,
            "source": {"fileSet": {"@id": "png"}, "extract": {"fileProperty": what}},
        }
        for column, kind, what, meaning in (
            ("file", "sc:Text", "fullpath", "Path of the image within the set."),
            ("image", "sc:ImageObject", "content", "The image, RGB."),
        )
    ]
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS,
        "name": name,
        "description": description,
        "license": LICENCE_URL,
        "url": "https://doi.org/10.1038/sdata.2018.161",
        "citeAs": CITE,
        "creator": {"@type": "sc:Organization", "name": "the HamSynth authors"},
        "datePublished": when.isoformat(),
        "version": "1.0.0",
        "keywords": ["synthetic", "dermoscopy", "skin lesion", "research and education only"],
        "distribution": [
            {
                "@type": "cr:FileObject",
                "@id": "manifest.csv",
                "name": "manifest.csv",
                "description": "One row an image.",
                "contentUrl": "manifest.csv",
                "contentSize": f"{manifest_bytes} B",
                "encodingFormat": "text/csv",
                "sha256": manifest_sha256,
            },
            {
                "@type": "cr:FileSet",
                "@id": "png",
                "name": "png",
                "description": "The images, labelled synthetic.",
                "encodingFormat": "image/png",
                "includes": "images/*.png",
            },
        ],
        "recordSet": [
            {
                "@type": "cr:RecordSet",
                "@id": "images",
                "name": "images",
                "description": "What the manifest says of each image.",
                "key": {"@id": "images/file"},
                "field": fields,
            },
            {
                "@type": "cr:RecordSet",
                "@id": "pictures",
                "name": "pictures",
                "description": "The images themselves.",
                "key": {"@id": "pictures/file"},
                "field": pictures,
            },
        ],
        **{f"rai:{key}": value for key, value in said.items()},
    }


def validated(document: dict[str, Any]) -> bytes:
    """The card as the bytes of its file, if mlcroissant finds no error and no warning in it.

    Raises InputError where mlcroissant is not installed, and RuntimeError with its words otherwise.
    """
    try:
        import mlcroissant  # takes a second, which nobody else needs to wait
    except ImportError as error:
        raise InputError(
            "the data card is checked by mlcroissant, which is not installed: pip install 'hamsynth[release]'"
        ) from error
    try:
        report = mlcroissant.Dataset(jsonld=document).metadata.ctx.issues.report()
    except mlcroissant.ValidationError as error:
        report = str(error)
    if report:
        raise RuntimeError(f"the data card is no valid Croissant:\n{report}")
    return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
