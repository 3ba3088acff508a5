"""The data card of a synthetic set that leaves the house, for people and, as Croissant, for machines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd

from hamsynth_utils.data.ham10000 import data_of
from hamsynth_utils.data.lesion_set import CLASS_NAMES, CLASSES
from hamsynth_utils.data.synthetic import LICENCE, NOTICE
from hamsynth_utils.notebook.plots import ARM_NAMES
from hamsynth_utils.notebook.tables import markdown_table
from hamsynth_utils.release import croissant
from hamsynth_utils.release.criteria import failed_criteria

INTENDED = (
    "Teaching, and research on methods: how generators, classifiers and their measures behave.",
    "Adding to the training images of a classifier that is tested on real images of its own.",
)


NOT_INTENDED = (
    "Diagnosis, triage or any decision about a person; a product; a claim about patients or prevalence.",
    "Testing a classifier: what it scores on synthetic images says nothing about real ones.",
    "Training people to recognise lesions: no dermatologist has looked at these images.",
)


LIMITS = (
    "Seven classes of one data set, mostly of light skin; the set has no other skin and no other diagnoses.",
    "Classes were asked for, not diagnosed: see the class consistency in the gate for how often they show.",
    "The numbers of the classes are chosen, not those of any clinic.",
    "Age, sex and place on the body are unknown: no image shows a person.",
)


PERSONAL = (
    "The images are drawn by a generator that learned from photographs of real people's skin, published for "
    "research without names. How near they are to those photographs, and whether an attacker can tell who "
    "was among them, stands under Privacy; what is not measured is not excluded."
)


PERSONAL_PHANTOM = (
    "None: the generator learned from the phantom, whose pictures a program draws and are nobody's."
)


@dataclass(frozen=True)
class ExportRecord:
    """What a card is about.

    record: what the run's `run.yaml` holds; manifest, size: of the set, its images in pixels; gate: judged,
    see gate.py; tables: the run's measurements of this set by name; override: the reason in writing, if any.
    """

    run: str
    generator: str
    record: dict[str, Any]
    manifest: pd.DataFrame
    size: int
    gate: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    when: date
    override: str | None = None

    @property
    def kind(self) -> str:
        """The generator as the book names it."""
        return ARM_NAMES.get(self.generator, self.generator)

    @property
    def title(self) -> str:
        """The set in a few words."""
        return f"{len(self.manifest):,} synthetic skin lesions, drawn by the generator {self.kind}"


def render_markdown(sent: ExportRecord) -> str:
    """The card for people, in Markdown; every number is the run's."""
    counts = sent.manifest["dx"].value_counts()
    classes = pd.DataFrame(
        {
            "class": [f"{dx}, {CLASS_NAMES[dx]}" for dx in CLASSES],
            "images": [int(counts.get(dx, 0)) for dx in CLASSES],
        }
    )
    first = sent.manifest.iloc[0]
    return f"""# {sent.title}

**{NOTICE}**

Every PNG says in its own metadata that it is synthetic and how it was made. Made on {sent.when.isoformat()}
from the run `{sent.run}`.

## What is in it

{markdown_table(classes)}

- `images/`: PNG, RGB, {sent.size}x{sent.size} pixels.
- `manifest.csv`: file, class asked for, seed and SHA-256 of each image.
- `croissant.json`: this card for machines. `generator.md`: the card of the generator.
- `gate.csv` and `measurements/`: what was measured, with intervals.
- `SHA256SUMS`: the hash of every file here.

## How it was made

The {sent.kind} with the weights `{first["checkpoint"]}` (SHA-256), trained on {data_of(sent.record)};
the ids of its training images have the SHA-256 `{first["trained_on"]}`. Seed of the run
{sent.record["seed"]}, profile `{sent.record["profile"]["name"]}`, code {sent.record["git_commit"]}. Each
image can be drawn again from those weights and its seed.

## May it leave? The gate

The limits were written before the numbers; each is put to one end of a 95 % interval.

{gate_table(sent.gate)}

{_decision(sent)}

## Privacy

{_personal(sent)}

{_measured(sent, "privacy", ["measure", "value", "low", "high", "n", "lesions", "extractor"])}

## Fairness

A classifier that learned from real images and this generator's, beside one that learned from real images
alone.

{_measured(sent, "fairness", ["arm", "attribute", "measure", "value", "low", "high", "n"])}

## Intended use

{_list(INTENDED)}

Not intended:

{_list(NOT_INTENDED)}

## Limits

{_list(LIMITS)}

## Licence

{LICENCE} ({croissant.LICENCE_URL}), as the data that the generator learned from: no commercial use; whoever
hands the images on hands on this licence and the label. Cite Tschandl, Rosendahl and Kittler, Sci Data 5,
180161 (2018).

## Is it unaltered?

    hamsynth verify FOLDER --fingerprint SHA256

names whatever was altered; without HamSynth, `sha256sum -c SHA256SUMS` checks the hashes. The fingerprint
is the SHA-256 of `SHA256SUMS`; it must come from the sender by another way than this folder did, for who
can alter a file can write its hash anew.
"""


def render_croissant(sent: ExportRecord, manifest_sha256: str, manifest_bytes: int) -> bytes:
    """The same card as Croissant JSON-LD, validated by mlcroissant."""
    failed = failed_criteria(sent.gate)
    said = {
        "dataCollection": (
            f"Drawn by a generator ({sent.kind}) that was trained on {data_of(sent.record)}; nobody "
            "was photographed for this set."
        ),
        "dataCollectionType": ["Synthetic data generation"],
        "dataUseCases": list(INTENDED),
        "dataLimitations": [*LIMITS, *NOT_INTENDED],
        "dataBiases": [*failed, "Mostly light skin, as in HAM10000."],
        "personalSensitiveInformation": [_personal(sent)],
        "dataReleaseMaintenancePlan": _decision(sent),
    }
    document = croissant.croissant(
        f"hamsynth-{sent.generator}",
        f"{sent.title}. {NOTICE}",
        manifest_sha256,
        manifest_bytes,
        sent.when,
        said,
    )
    return croissant.validated(document)


def gate_table(gate: pd.DataFrame) -> str:
    """The gate as a table in Markdown: each limit, the number and interval it was put to, the verdict."""
    shown = [
        {
            "limit": row["limit"],
            "measured": row["measure"] + (f" ({row['of']})" if row["of"] else ""),
            "value": _interval(row),
            "n": "-" if pd.isna(row["n"]) else f"{row['n']:.0f}",
            "must be": f"{row['judged_by']} {row['rule']}",
            "verdict": row["verdict"]
            + (f" by {row['excess']:.3g}" if row["verdict"] == "failed" else ""),
        }
        for row in gate.to_dict("records")
    ]
    return markdown_table(pd.DataFrame(shown))


def _interval(row: dict[str, Any]) -> str:
    if pd.isna(row["value"]):
        return "-"
    return f"{row['value']:.3g}" + (
        "" if pd.isna(row["low"]) else f" ({row['low']:.3g} to {row['high']:.3g})"
    )


def _decision(sent: ExportRecord) -> str:
    failed = failed_criteria(sent.gate)
    if not failed:
        return "Every limit is passed."
    return (
        "**Not every limit is passed**, and the set was let out in spite of it. "
        f"Not passed: {'; '.join(failed)}. "
        f"The reason that was given in writing: {sent.override}"
    )


def _personal(sent: ExportRecord) -> str:
    return PERSONAL_PHANTOM if sent.record["data"] == "phantom" else PERSONAL


def _measured(sent: ExportRecord, name: str, columns: list[str]) -> str:
    table = sent.tables.get(name)
    if table is None or table.empty:
        return "Not measured in this run."
    kept = [column for column in columns if column in table]
    numbers = table[kept].select_dtypes("number").columns
    return markdown_table(table[kept].round(dict.fromkeys(numbers, 3)))


def _list(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {line}" for line in lines)
