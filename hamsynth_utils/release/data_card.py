"""The data card of an exported synthetic set, for people and, as Croissant, for machines."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from typing import Any

import pandas as pd
import yaml

from hamsynth_utils.core.arm_names import ARM_NAMES
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.data.dataset_info import DatasetInfo, describe_data
from hamsynth_utils.data.synthetic import NOTICE
from hamsynth_utils.notebook.tables import markdown_table
from hamsynth_utils.notebook.templates import render
from hamsynth_utils.release import croissant
from hamsynth_utils.release.criteria import failed_criteria

PRIVACY_COLUMNS = ["measure", "value", "low", "high", "n", "lesions", "extractor"]


FAIRNESS_COLUMNS = ["arm", "attribute", "measure", "value", "low", "high", "n"]


@dataclass(frozen=True)
class ExportRecord:
    """The export that a card describes.

    Attributes:
        run: name of the run.
        generator: name of the generator.
        record: the content of the run's `run.yaml`.
        manifest: the manifest of the set.
        size: height and width of the images in pixels.
        criteria: the evaluated release criteria, from `evaluate_criteria`.
        tables: the run's measurements of this set by name.
        when: the date of the export.
        override: the written reason to release a set that does not pass every limit, if any.
    """

    run: str
    generator: str
    record: dict[str, Any]
    manifest: pd.DataFrame
    size: int
    criteria: pd.DataFrame
    tables: dict[str, pd.DataFrame]
    when: date
    override: str | None = None

    @property
    def generator_title(self) -> str:
        """The name of the generator in the book."""
        return ARM_NAMES.get(self.generator, self.generator)

    @property
    def title(self) -> str:
        """The set in a few words."""
        return (
            f"{len(self.manifest):,} synthetic skin lesions by the generator {self.generator_title}"
        )

    @property
    def dataset(self) -> DatasetInfo:
        """The data set that the generator was trained on."""
        return describe_data(self.record["data"])


def render_markdown(export: ExportRecord) -> str:
    """The card for people.

    Args:
        export: the export.

    Returns:
        Markdown. Every number comes from the run.
    """
    counts, classes = export.manifest["dx"].value_counts(), export.dataset.classes
    return render(
        "data_card.md",
        export=export,
        dataset=export.dataset,
        notice=NOTICE,
        classes=pd.DataFrame(
            {
                "class": [f"{dx}, {classes.long_names[dx]}" for dx in classes],
                "images": [int(counts.get(dx, 0)) for dx in classes],
            }
        ),
        checkpoint=export.manifest["checkpoint"].iloc[0],
        trained_on=export.manifest["trained_on"].iloc[0],
        criteria=criteria_table(export.criteria),
        decision=_decision(export),
        privacy=_measurements(export, "privacy", PRIVACY_COLUMNS),
        fairness=_measurements(export, "fairness", FAIRNESS_COLUMNS),
        texts=_texts(export),
    )


def render_croissant(export: ExportRecord, manifest: bytes) -> bytes:
    """The card for machines.

    Args:
        export: the export.
        manifest: the content of its manifest.

    Returns:
        Croissant JSON-LD, validated by mlcroissant.

    Raises:
        RuntimeError: if mlcroissant finds a fault.
    """
    texts = _texts(export)
    document = croissant.croissant(
        f"hamsynth-{export.generator}",
        f"{export.title}. {NOTICE}",
        export.dataset,
        manifest,
        export.when,
        {
            "data_collection": render(
                "data_collection.md", generator=export.generator_title, dataset=export.dataset
            ),
            "data_collection_type": ["Synthetic data generation"],
            "data_use_cases": texts["intended"],
            "data_limitations": [*texts["limitations"], *texts["not_intended"]],
            "data_biases": [*failed_criteria(export.criteria), texts["bias"]],
            "personal_sensitive_information": [texts["personal"]],
            "data_release_maintenance_plan": _decision(export),
        },
    )
    return croissant.validated(document)


def criteria_table(criteria: pd.DataFrame) -> pd.DataFrame:
    """The evaluated release criteria as a card shows them.

    Args:
        criteria: from `evaluate_criteria`.

    Returns:
        One row per number, with the columns limit, measured, value, n, must be, verdict.
    """
    return pd.DataFrame(
        {
            "limit": row["limit"],
            "measured": row["measure"] + (f" ({row['of']})" if row["of"] else ""),
            "value": _interval(row),
            "n": "-" if pd.isna(row["n"]) else f"{row['n']:.0f}",
            "must be": f"{row['judged_by']} {row['rule']}",
            "verdict": row["verdict"]
            + (f" by {row['excess']:.3g}" if row["verdict"] == "failed" else ""),
        }
        for row in criteria.to_dict("records")
    )


def _interval(row: dict[str, Any]) -> str:
    if pd.isna(row["value"]):
        return "-"
    ends = "" if pd.isna(row["low"]) else f" ({row['low']:.3g} to {row['high']:.3g})"
    return f"{row['value']:.3g}{ends}"


def _decision(export: ExportRecord) -> str:
    failed = failed_criteria(export.criteria)
    return render("release_decision.md", failed=failed, override=export.override).strip()


def _texts(export: ExportRecord) -> dict[str, Any]:
    """The texts of every card, with the text on personal data that fits the training data."""
    texts = yaml.safe_load((project_root() / "book/data_card.yaml").read_text(encoding="utf-8"))
    kind = "phantom" if export.record["data"] == "phantom" else "real"
    return {**texts, "personal": texts["personal"][kind]}


def _measurements(export: ExportRecord, name: str, columns: list[str]) -> str:
    table = export.tables.get(name)
    if table is None or table.empty:
        return "Not measured in this run."
    shown = table[[column for column in columns if column in table]]
    return markdown_table(shown.round(dict.fromkeys(shown.select_dtypes("number"), 3)))
