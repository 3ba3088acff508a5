"""Let a run's synthetic set out of the house: labelled, described, measured, and past the gate.
The same run gives the same bytes, except where the date stands, and except for the encryption, which draws a
new key each time. What is written can be read by its owner alone.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from datetime import date
from io import BytesIO
from pathlib import Path

import pandas as pd
import yaml

from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import atomic_path, write_owner_only
from hamsynth_utils.core.paths import WEIGHTS, RunPaths
from hamsynth_utils.core.weights import sha256_of, sha256_of_bytes
from hamsynth_utils.data.dataset_info import describe_data
from hamsynth_utils.data.synthetic import SUMS, read_manifest, read_synthetic
from hamsynth_utils.experiment.model_card import generator_card
from hamsynth_utils.release.criteria import VERDICTS, Limit, evaluate_criteria, failed_criteria
from hamsynth_utils.release.data_card import ExportRecord, render_croissant, render_markdown
from hamsynth_utils.release.encryption import encrypt, parse_recipients

MEASUREMENTS = {
    "privacy": ("generator", ()),
    "fairness": ("arm", ("real",)),
    "fidelity": ("generator", ("real_baseline",)),
    "class_consistency": ("generator", ()),
}
"""Tables of the run that go with a set: their column that names the generator, and what else of it is kept,
to compare with."""


def export(
    folder: Path,
    generator: str,
    out: Path,
    when: date,
    recipients: Sequence[str] = (),
    override: str | None = None,
    limits: list[Limit] | None = None,
) -> str:
    """Write the synthetic set of a run's generator to `out`; return its fingerprint.

    folder: of the run. out: a new folder, a new .zip, or a new .zip.age, which is encrypted to the
    recipients. when: the date that stands on the cards. override: the reason in writing for which a set
    leaves that the gate refuses. The fingerprint is the SHA-256 of the set's SHA256SUMS, to be told by
    another way than the set goes.

    Raises InputError for a run without a finished set, one that was altered or comes from other weights,
    for a set that the gate refuses, naming each limit and by how much, for an `out` that exists, and for
    recipients that are missing, unknown, or given for an `out` that is not encrypted.
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
    """The files of an export by name, in order; raises InputError as `export` does."""
    room = _finished(folder, generator)
    record = yaml.safe_load(RunPaths(folder).record.read_text())
    gate = evaluate_criteria(folder, generator, limits)
    require_pass_or_override(gate, generator, override)
    classes = describe_data(record["data"]).classes
    lesions, manifest = read_synthetic(room, classes), read_manifest(room)
    weights = sha256_of(room.parent / WEIGHTS)
    if set(manifest["checkpoint"]) != {weights}:
        raise InputError(
            f"{room} was not drawn by {room.parent / WEIGHTS}: "
            "delete the set, and run the generator's notebook again"
        )
    tables = _measurements(folder, generator)
    sent = ExportRecord(
        folder.name, generator, record, manifest, lesions.image_size, gate, tables, when, override
    )
    listing = (room / "manifest.csv").read_bytes()
    files = {file: (room / file).read_bytes() for file in sorted(manifest["file"])}
    files |= {
        "README.md": render_markdown(sent).encode(),
        "croissant.json": render_croissant(sent, sha256_of_bytes(listing), len(listing)),
        "gate.csv": gate.to_csv(index=False).encode(),
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
    """The files as a zip: the same bytes for the same files, without a date, for the owner alone."""
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
    room = RunPaths(folder).synthetic(generator)
    missing = [
        path for path in (room / "manifest.csv", room.parent / WEIGHTS) if not path.is_file()
    ]
    if missing:
        there = sorted(name for name in GENERATORS if RunPaths(folder).synthetic(name).is_dir())
        raise InputError(
            f"the run {folder.name} has no finished set of {generator!r}: {missing[0]} is not there. "
            + (
                f"It has sets of {', '.join(there)}"
                if there
                else "Run the generator's notebook first"
            )
        )
    return room


def require_pass_or_override(gate: pd.DataFrame, generator: str, override: str | None) -> None:
    failed = failed_criteria(gate)
    if override is not None and not override.strip():
        raise InputError("an override needs its reason in writing, and this one is empty")
    if not failed:
        if override is not None:
            raise InputError(
                f"the set of {generator} passes the gate: there is nothing to override"
            )
        return
    final = failed_criteria(gate[~gate["override"].astype(bool)])
    if final:
        raise InputError(
            f"the gate refuses the set of {generator}, whatever the reason: {'; '.join(final)}"
        )
    if override is None:
        counted = gate["verdict"].value_counts()
        told = ", ".join(
            f"{counted[verdict]} {verdict}" for verdict in VERDICTS[1:] if verdict in counted
        )
        raise InputError(
            f"the gate refuses the set of {generator} ({told} of {len(gate)}): {'; '.join(failed)}. "
            "Mend the generator, or say in writing why the set may leave: --override REASON"
        )


def _measurements(folder: Path, generator: str) -> dict[str, pd.DataFrame]:
    """The rows of the run's tables that speak of the generator; a table that is not there is left out."""
    found = {}
    for name, (model, others) in MEASUREMENTS.items():
        path = RunPaths(folder).table(name)
        table = pd.read_csv(path) if path.is_file() else pd.DataFrame()
        if model in table:
            found[name] = table[table[model].isin([generator, *others])]
    return found


def _log(folder: Path, row: list[str]) -> None:
    """Add what left the house to the run's own record of it."""
    path = RunPaths(folder).exports
    columns = ["date", "generator", "name", "fingerprint", "recipients", "override"]
    before = (
        pd.read_csv(path, dtype=str, keep_default_na=False)
        if path.is_file()
        else pd.DataFrame(columns=columns)
    )
    after = pd.concat([before, pd.DataFrame([row], columns=columns)], ignore_index=True)
    with atomic_path(path) as temporary:
        write_owner_only(temporary, after.to_csv(index=False).encode())
