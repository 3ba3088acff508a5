"""A synthetic set of two tiny images, as an export or `hamsynth sample` leaves it, and its zip."""

import zipfile
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from hamsynth_utils.data.synthetic import MANIFEST, SUMS


def small_set() -> dict[str, bytes]:
    """The content of each file by its name."""
    files, rows = {}, []
    for number, dx in enumerate(("mel", "nv")):
        row = {
            "file": f"images/SYN_vae_{dx}_00000{number}.png",
            "image_id": f"SYN_vae_{dx}_00000{number}",
            "dx": dx,
            "generator": "vae",
            "generator_seed": "0",
            "checkpoint": "c" * 64,
            "seed": str(number),
            "sampling": "own",
            "trained_on": "abc",
        }
        info = PngImagePlugin.PngInfo()
        info.add_text("hamsynth:synthetic", "true")
        for label in ("generator", "checkpoint", "seed", "sampling", "trained_on"):
            info.add_text(f"hamsynth:{label}", row[label])
        info.add_text("hamsynth:class", dx)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        buffer = BytesIO()
        Image.fromarray(pixels).save(buffer, "png", pnginfo=info)
        files[row["file"]] = buffer.getvalue()
        rows.append({**row, "sha256": sha256(files[row["file"]]).hexdigest()})
    lines = [",".join(MANIFEST), *(",".join(row[column] for column in MANIFEST) for row in rows)]
    files["manifest.csv"] = "".join(f"{line}\n" for line in lines).encode()
    files["README.md"] = b"# A set\n\nNot for clinics.\n" * 8
    sums = [f"{sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items())]
    return {**files, SUMS: "".join(sums).encode()}


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    """Write the files into a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def write_zip(
    path: Path, files: dict[str, bytes], top: str = "", method: int = zipfile.ZIP_DEFLATED
) -> Path:
    """Write the files into a zip, all under the prefix `top`."""
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(top + name), content, method)
    return path
