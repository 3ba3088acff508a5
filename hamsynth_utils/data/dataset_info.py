"""What is known about a data set besides its images: classes, licence and citation."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import SupportsIndex, overload

from hamsynth_utils.core.errors import InputError


@dataclass(frozen=True)
class ClassList(Sequence[str]):
    """The classes of a data set; a sequence of their short names, in the order of the labels.

    Attributes:
        names: short names, at least two; name i belongs to label i. They stand in tables, column
            names and file names, so a name has only lower-case letters, digits and underscores.
        long_names: for each short name the name that a reader sees.
        focus: the class whose sensitivity is reported, because missing that class costs most.

    Raises:
        InputError: if the names repeat or are malformed, if the long names belong to other classes,
            or if the focus is not one of the classes.
    """

    names: tuple[str, ...]
    long_names: Mapping[str, str] = field(hash=False)
    focus: str

    def __post_init__(self) -> None:
        if len(self.names) < 2:
            raise InputError(f"a class list needs at least two classes, not {len(self.names)}")
        repeated = [name for name in self.names if self.names.count(name) > 1]
        if repeated:
            raise InputError(f"the class {repeated[0]!r} is listed twice")
        malformed = [name for name in self.names if not re.fullmatch("[a-z0-9_]+", name)]
        if malformed:
            raise InputError(
                f"the class name {malformed[0]!r} must have only lower-case letters, digits and _"
            )
        unmatched = sorted(set(self.names) ^ set(self.long_names))
        if unmatched:
            raise InputError(
                f"each class needs one long name, but {unmatched[0]!r} stands only in "
                f"{'names' if unmatched[0] in self.names else 'long_names'}"
            )
        if self.focus not in self.names:
            raise InputError(
                f"the focus class {self.focus!r} is none of the classes {', '.join(self.names)}"
            )

    @overload
    def __getitem__(self, label: SupportsIndex) -> str: ...

    @overload
    def __getitem__(self, label: slice) -> tuple[str, ...]: ...

    def __getitem__(self, label: SupportsIndex | slice) -> str | tuple[str, ...]:
        return self.names[label]

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __str__(self) -> str:
        return ", ".join(self.names)

    @property
    def probability_columns(self) -> list[str]:
        """Columns of a predictions table: `p_<class>` of each class, in the order of the labels."""
        return [f"p_{name}" for name in self.names]


@dataclass(frozen=True)
class DatasetInfo:
    """A data set in words: what a report, a licence notice or a data card says about the set.

    Attributes:
        name: short name, for example "HAM10000".
        description: name and authors, as running text names the set.
        classes: the classes of the labels.
        licence: short name of the licence of the images, and of images generated from them.
        licence_url: address of the licence text.
        citation: the publication that users must cite, in one line.
        bibtex: the same publication as a BibTeX entry.
        url: address of the publication.

    Raises:
        InputError: if a text is empty.
    """

    name: str
    description: str
    classes: ClassList
    licence: str
    licence_url: str
    citation: str
    bibtex: str
    url: str

    def __post_init__(self) -> None:
        texts = {key: value for key, value in vars(self).items() if key != "classes"}
        missing = [key for key, value in texts.items() if not isinstance(value, str) or not value]
        if missing:
            raise InputError(f"the description of a data set lacks {', '.join(missing)}")

    def to_json(self) -> str:
        """The description as JSON, as a checkpoint keeps it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> DatasetInfo:
        """Read what `to_json` wrote.

        Args:
            text: a JSON object with the attributes of this class.

        Returns:
            The description.

        Raises:
            InputError: if the text is not such an object.
        """
        try:
            fields = json.loads(text)
            classes = fields.pop("classes")
            names = tuple(classes.pop("names"))
            return cls(classes=ClassList(names=names, **classes), **fields)
        except InputError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise InputError(f"not a description of a data set ({error}): {text[:80]!r}") from error


HAM10000 = DatasetInfo(
    name="HAM10000",
    description="HAM10000 (Tschandl, Rosendahl, Kittler 2018)",
    classes=ClassList(
        names=("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc"),
        long_names={
            "akiec": "actinic keratosis",
            "bcc": "basal cell carcinoma",
            "bkl": "benign keratosis",
            "df": "dermatofibroma",
            "mel": "melanoma",
            "nv": "melanocytic nevus",
            "vasc": "vascular lesion",
        },
        focus="mel",
    ),
    licence="CC BY-NC-SA 4.0",
    licence_url="https://creativecommons.org/licenses/by-nc-sa/4.0/",
    citation="Tschandl, Rosendahl and Kittler, Sci Data 5, 180161 (2018)",
    bibtex=(
        "@article{tschandl2018ham10000, title={The HAM10000 dataset, a large collection of "
        "multi-source dermatoscopic images of common pigmented skin lesions}, "
        "author={Tschandl, Philipp and Rosendahl, Cliff and Kittler, Harald}, "
        "journal={Scientific Data}, volume={5}, pages={180161}, year={2018}, "
        "doi={10.1038/sdata.2018.161}}"
    ),
    url="https://doi.org/10.1038/sdata.2018.161",
)


PHANTOM = DatasetInfo(
    name="the phantom",
    description="the phantom",
    classes=HAM10000.classes,
    # A run on the phantom rehearses a run on HAM10000, and its classes and frequencies come from
    # there: cards and notices have the same licence and citation.
    licence=HAM10000.licence,
    licence_url=HAM10000.licence_url,
    citation=HAM10000.citation,
    bibtex=HAM10000.bibtex,
    url=HAM10000.url,
)


def describe_data(data: str) -> DatasetInfo:
    """The description of the data set of a run.

    Args:
        data: "phantom", or the folder of a copy of HAM10000.

    Returns:
        `PHANTOM` or `HAM10000`.
    """
    return PHANTOM if data == "phantom" else HAM10000
