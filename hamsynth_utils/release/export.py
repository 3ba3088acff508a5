"""Export a run's synthetic set, labelled and described, if it meets the release criteria.

The same run gives the same bytes, except for the date and for the encryption, which uses a new key
each time. Only the owner can read the written files.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from datetime import date
from io import BytesIO
from pathlib import Path

import pandas as pd

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path, read_csv, read_yaml, write_owner_only
from hamsynth_utils.core.paths import WEIGHTS, RunPaths
from hamsynth_utils.core.weights import sha256_of, sha256_of_bytes
from hamsynth_utils.data.dataset_info import describe_data
from hamsynth_utils.data.synthetic import SUMS, read_manifest, read_synthetic
from hamsynth_utils.experiment.model_card import generator_card
from hamsynth_utils.release.criteria import (
    FAILED,
    NOT_MEASURED,
    Limit,
    evaluate_criteria,
    failed_criteria,
)
from hamsynth_utils.release.data_card import ExportRecord, render_croissant, render_markdown
from hamsynth_utils.release.encryption import encrypt, parse_recipients

MEASUREMENTS = {
    "privacy": ("generator", ()),
    "fairness": ("arm", ("real",)),
    "fidelity": ("generator", ("real_baseline",)),
    "class_consistency": ("generator", ()),
}
"""The run's tables that are exported with a set.

For each table the column that names the generator, and other values of this column whose rows are
kept for comparison.
"""


def export(
    folder: Path,
    generator: str,
    out: Path,
    when: date,
    recipients: Sequence[str] = (),
    override: str | None = None,
    limits: list[Limit] | None = None,
) -> str:
    """Write the synthetic set of a run's generator.

    Args:
        folder: the run folder.
        generator: name of the generator.
        out: a new folder, a new .zip, or a new .zip.age, which is encrypted to the recipients.
        when: the date on the cards.
        recipients: public keys of age or ssh, only for a .zip.age.
        override: the written reason to release a set that fails a limit.
        limits: the limits, by default those of `book/release.yaml`.

    Returns:
        The fingerprint: the SHA-256 of the set's SHA256SUMS. The recipient must get the fingerprint
        by another channel than the set.

    Raises:
        InputError: if the run has no finished set, the set was altered or comes from other weights,
            a limit fails, `out` exists, or recipients are missing, unknown, or given without
            encryption.
    """
    _check_target(out, recipients)
    content = contents(folder, generator, when, override, limits)
    with atomic_path(out) as target:
        if out.suffix == "":
            for name, data in content.items():
                write_owner_only(target / name, data)
        else:
            packed = pack(content)
            write_owner_only(target, encrypt(packed, recipients) if recipients else packed)
    fingerprint = sha256_of_bytes(content[SUMS])
    _log(
        folder,
        [when.isoformat(), generator, out.name, fingerprint, " ".join(recipients), override or ""],
    )
    return fingerprint


def contents(
    folder: Path,
    generator: str,
    when: date,
    override: str | None = None,
    limits: list[Limit] | None = None,
) -> dict[str, bytes]:
    """The files of an export.

    Args:
        folder: the run folder.
        generator: name of the generator.
        when: the date on the cards.
        override: as in `export`.
        limits: as in `export`.

    Returns:
        The content of each file by its name, in the order of SHA256SUMS.

    Raises:
        InputError: as `export` does.
    """
    synthetic = _finished(folder, generator)
    record = read_yaml(RunPaths(folder).record)
    criteria = evaluate_criteria(folder, generator, limits)
    require_pass_or_override(criteria, generator, override)
    classes = describe_data(record["data"]).classes
    lesions, manifest = read_synthetic(synthetic, classes), read_manifest(synthetic)
    weights = synthetic.parent / WEIGHTS
    if set(manifest["checkpoint"]) != {sha256_of(weights)}:
        raise InputError(
            f"{synthetic} was not drawn by {weights}: "
            "delete the set, and run the generator's notebook again"
        )
    tables = _measurements(folder, generator)
    size = lesions.image_size
    record_of_export = ExportRecord(
        folder.name, generator, record, manifest, size, criteria, tables, when, override
    )
    listing = (synthetic / "manifest.csv").read_bytes()
    files = {file: (synthetic / file).read_bytes() for file in sorted(manifest["file"])}
    files |= {
        "README.md": render_markdown(record_of_export).encode(),
        "croissant.json": render_croissant(record_of_export, listing),
        "gate.csv": criteria.to_csv(index=False).encode(),
        "generator.md": generator_card(folder, generator).encode(),
        "manifest.csv": listing,
        **{
            f"measurements/{name}.csv": table.to_csv(index=False).encode()
            for name, table in tables.items()
        },
    }
    files[SUMS] = "".join(
        f"{sha256_of_bytes(data)}  {name}\n" for name, data in files.items()
    ).encode()
    return files


def pack(content: dict[str, bytes]) -> bytes:
    """Pack files into a zip.

    Args:
        content: content of each file by its name.

    Returns:
        The zip. The same files give the same bytes, because no date is stored. Only the owner can
        read the unpacked files.
    """
    buffer = BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in content.items():
            entry = zipfile.ZipInfo(name)  # its date is 1 January 1980
            entry.create_system, entry.external_attr = 3, 0o100600 << 16
            archive.writestr(entry, data)
    return buffer.getvalue()


def _check_target(out: Path, recipients: Sequence[str]) -> None:
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already: name a new one, or delete it")
    encrypted = out.name.endswith(".zip.age")
    if out.suffix not in {"", ".zip"} and not encrypted:
        raise InputError(
            f"{out} must be a folder's name, or end in .zip, or in .zip.age to be encrypted"
        )
    if encrypted:
        parse_recipients(recipients)
    elif recipients:
        raise InputError(
            f"{out} would not be encrypted to the recipients: let its name end in .zip.age"
        )


def _finished(folder: Path, generator: str) -> Path:
    """The folder of a run's finished set; raises InputError where there is none."""
    if not RunPaths(folder).record.is_file():
        raise InputError(f"{folder} is not a run: it has no run.yaml")
    synthetic = RunPaths(folder).synthetic(generator)
    needed = (synthetic / "manifest.csv", synthetic.parent / WEIGHTS)
    missing = [path for path in needed if not path.is_file()]
    if missing:
        others = sorted(name for name in GENERATORS if RunPaths(folder).synthetic(name).is_dir())
        raise InputError(
            f"the run {folder.name} has no finished set of {generator!r}: {missing[0]} is not "
            "there. "
            + (
                f"It has sets of {', '.join(others)}"
                if others
                else "Run the generator's notebook first"
            )
        )
    return synthetic


def require_pass_or_override(criteria: pd.DataFrame, generator: str, override: str | None) -> None:
    """Check that a set may be released.

    Args:
        criteria: from `evaluate_criteria`.
        generator: name of the generator.
        override: the written reason to release a set that fails a limit.

    Raises:
        InputError: if a limit fails and no reason is given or the limit allows none; if the reason
            is empty, or every limit is passed, so that there is nothing to override.
    """
    failed = failed_criteria(criteria)
    if override is not None and not override.strip():
        raise InputError("an override needs its reason in writing, and this one is empty")
    if not failed:
        if override is not None:
            raise InputError(
                f"the set of {generator} meets the release criteria: there is nothing to override"
            )
        return
    final = failed_criteria(criteria[~criteria["override"].astype(bool)])
    if final:
        raise InputError(
            f"the set of {generator} fails the release criteria, and no reason can override: "
            f"{'; '.join(final)}"
        )
    if override is None:
        counts = criteria["verdict"].value_counts()
        summary = ", ".join(f"{counts[v]} {v}" for v in (FAILED, NOT_MEASURED) if v in counts)
        raise InputError(
            f"the set of {generator} fails the release criteria ({summary} of {len(criteria)}): "
            f"{'; '.join(failed)}. Improve the generator, or give a reason: --override REASON"
        )


def _measurements(folder: Path, generator: str) -> dict[str, pd.DataFrame]:
    """The rows of the run's tables about the generator; a missing table is left out."""
    measurements = {}
    for name, (model, others) in MEASUREMENTS.items():
        path = RunPaths(folder).table(name)
        table = read_csv(path) if path.is_file() else pd.DataFrame()
        if model in table:
            measurements[name] = table[table[model].isin([generator, *others])]
    return measurements


def _log(folder: Path, row: list[str]) -> None:
    """Add one export to the list of exports in the run folder."""
    path = RunPaths(folder).exports
    columns = ["date", "generator", "name", "fingerprint", "recipients", "override"]
    before = (
        read_csv(path, dtype=str, keep_default_na=False)
        if path.is_file()
        else pd.DataFrame(columns=columns)
    )
    after = pd.concat([before, pd.DataFrame([row], columns=columns)], ignore_index=True)
    with atomic_path(path) as temporary:
        write_owner_only(temporary, after.to_csv(index=False).encode())
