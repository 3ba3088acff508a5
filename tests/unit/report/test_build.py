"""The report: what is staged, that a faulty book fails, and that the built pages work offline."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from browser import problems_of
from chapters import CHAPTERS
from made_runs import EXECUTIONS, executed, make_run

from hamsynth_utils.cli import main
from hamsynth_utils.core.arm_names import ARM_NAMES
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.report import build, staging
from hamsynth_utils.report.pages.reference_run import PARTS
from hamsynth_utils.report.redact import PathRedactor
from hamsynth_utils.report.redirects import RENAMED
from hamsynth_utils.report.reference import REFERENCE, gains

ROOT = project_root()


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run whose notebooks were executed, without having been: outputs written by hand."""
    return make_run(tmp_path / "my runs/tiny")


def test_stages_every_execution_of_the_classifier_in_order(run_folder: Path) -> None:
    staged = build.stage(run_folder)
    toc = yaml.safe_load((staged / "_toc.yml").read_text(encoding="utf-8"))
    chapters = {c["file"]: c for c in toc["parts"][0]["chapters"]}
    assert list(chapters) == [
        f"notebooks/{name}" for name in (*CHAPTERS[:5], "06_vit", *CHAPTERS[5:], "16_external")
    ]
    sections = [section["file"] for section in chapters["notebooks/06_vit"]["sections"]]
    assert sections == [f"notebooks/06_vit-{execution}" for execution in EXECUTIONS[1:]]
    first = json.loads((staged / "notebooks/06_vit.ipynb").read_text(encoding="utf-8"))
    assert "06_vit-real-0 wrote" in json.dumps(first) and len(first["cells"]) == 9
    other = json.loads((staged / "notebooks/06_vit-gan-0.ipynb").read_text(encoding="utf-8"))
    assert other["cells"][0]["source"].startswith("# The arm GAN, seed 0\n")
    assert [c["metadata"].get("tags") for c in other["cells"][1:]] == [["per-arm"], ["per-arm"]]
    assert other["cells"][2]["metadata"]["mystnb"]["figure"]["name"] == "fig-06-loss-gan-0"
    assert not list(staged.rglob("*.partial.ipynb"))


def test_a_chapter_that_the_run_has_not_says_so_and_keeps_its_place(
    run_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chapter = "notebooks/05_flow"
    (run_folder / f"{chapter}.ipynb").unlink()
    with pytest.raises(InputError, match=rf"not executed yet: {chapter}\. "):
        build.stage(run_folder)
    optional = dataclasses.replace(REGISTRY["flow"], in_every_run=False)
    monkeypatch.setitem(REGISTRY, "flow", optional)
    record = yaml.safe_load((run_folder / "run.yaml").read_text(encoding="utf-8"))
    record["profile"]["flow"] = None
    (run_folder / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    staged = build.stage(run_folder)
    assert "its profile has no section `flow`" in (staged / f"{chapter}.md").read_text(
        encoding="utf-8"
    )
    assert (staged / f"{chapter}.md").read_text(encoding="utf-8").startswith("# Flow")
    files = [
        c["file"]
        for c in yaml.safe_load((staged / "_toc.yml").read_text(encoding="utf-8"))["parts"][0][
            "chapters"
        ]
    ]
    assert files[3:6] == ["notebooks/04_diffusion", chapter, "notebooks/06_vit"]
    record["profile"]["flow"] = {"width": 8}
    (run_folder / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    with pytest.raises(InputError, match=rf"not executed yet: {chapter}\. "):
        build.stage(run_folder)


def test_the_number_of_a_chapter_is_that_of_its_file(site: Path) -> None:
    pages = sorted(site.glob("notebooks/[0-9][0-9]_*.html"))
    numbers = {}
    for page in pages:
        heading = re.search(
            r'<h1><span class="section-number">([\d.]+) </span>', page.read_text(encoding="utf-8")
        )
        if heading and "-" not in page.stem:
            numbers[page.stem] = heading[1]
    assert numbers == {
        path.stem: f"{int(path.stem[:2])}." for path in ROOT.glob("notebooks/*.ipynb")
    }


def test_every_page_is_built_and_no_other(site: Path) -> None:
    toc = yaml.safe_load((ROOT / "_toc.yml").read_text(encoding="utf-8"))
    chapters = [page for part in toc["parts"] for page in part["chapters"]]
    wanted = {toc["root"], "index", "search"}
    wanted |= {page["file"] for c in chapters for page in (c, *c.get("sections", ()))}
    wanted |= {f"notebooks/06_vit-{execution}" for execution in EXECUTIONS[1:]}
    wanted |= {*RENAMED, *(f"notebooks/05_vit-{execution}" for execution in EXECUTIONS[1:])}
    built = {
        path.relative_to(site).with_suffix("").as_posix()
        for path in site.rglob("*.html")
        if "_static" not in path.parts
    }
    assert built == wanted


def test_an_old_address_leads_to_the_page_of_today(site: Path) -> None:
    renamed = RENAMED | {"notebooks/05_vit-gan-0": "notebooks/06_vit-gan-0"}
    for old, new in renamed.items():
        text = (site / f"{old}.html").read_text(encoding="utf-8")
        target = re.search(r'http-equiv="refresh" content="0; url=([^"]+)"', text)[1]
        assert ((site / f"{old}.html").parent / target).resolve() == site / f"{new}.html"
        assert (site / f"{new}.html").is_file()
        assert not (ROOT / f"{old}.ipynb").exists() and not (ROOT / f"book/{old}.md").exists()


def test_the_front_page_opens_with_the_numbers_of_the_reference_run(site: Path) -> None:
    text = " ".join(
        re.sub(r"<[^>]+>", " ", (site / "intro.html").read_text(encoding="utf-8")).split()
    )
    rows = gains(REFERENCE)
    for row in rows.itertuples():
        assert (
            f"{row.value:+.1f} ({row.low:+.1f} to {row.high:+.1f}) with {ARM_NAMES[row.arm]}"
            in text
        )
    assert f"n = {rows['n'][0]:,} test images of {rows['lesions'][0]:,} lesions" in text
    assert text.index("The answer of the reference run") < text.index("The question.")
    drawn = next((site / "_images").glob("answer*.svg")).read_text(encoding="utf-8")
    assert all(ARM_NAMES[arm] in drawn for arm in rows.loc[rows["synthetic"] != "all", "arm"])


def test_the_page_of_the_reference_run_has_its_scores_verdicts_and_figures(site: Path) -> None:
    text = " ".join(
        re.sub(r"<[^>]+>", " ", (site / "reference_run.html").read_text(encoding="utf-8")).split()
    )
    for path in (REFERENCE / "predictions").glob("*/seed-0.csv"):
        arm, _, split = path.parent.name.partition("-")
        trainings = [pd.read_csv(each) for each in path.parent.glob("seed-*.csv")]
        answers = [
            t[[c for c in t if c.startswith("p_")]].idxmax(axis=1).str[2:] for t in trainings
        ]
        accuracy = np.mean(
            [(own == t["dx"]).mean() for own, t in zip(answers, trainings, strict=True)]
        )
        name = ARM_NAMES[arm] + (
            r", split by image, \d+\.\d % of the test images leaked" if split else ""
        )
        assert re.search(rf"{name} {100 * accuracy:.1f} \(", text), path
    counts = pd.read_csv(REFERENCE / "metrics/verdicts.csv")["verdict"].value_counts()
    assert all(f"{count} {verdict}" in text for verdict, count in counts.items())
    shown = re.findall(
        r'src="_images/(fig-[\w-]+)\.png"',
        (site / "reference_run.html").read_text(encoding="utf-8"),
    )
    assert set(shown) == {name for part in PARTS.values() for name in part}


def test_a_classifier_notebook_without_marked_results_is_refused(run_folder: Path) -> None:
    path = run_folder / "notebooks/06_vit-gan-0.ipynb"
    path.write_text(path.read_text(encoding="utf-8").replace("per-arm", "other"), encoding="utf-8")
    with pytest.raises(InputError, match=r"06_vit.*per-arm"):
        build.stage(run_folder)


def test_no_path_of_the_machine_is_published(run_folder: Path) -> None:
    staged = build.stage(run_folder)
    text = "".join(
        path.read_text(encoding="utf-8")
        for path in [*staged.glob("notebooks/*.ipynb"), staged / "run.md"]
    )
    for secret in (str(run_folder), str(ROOT), "/secret place", str(Path.home()) + "/"):
        assert secret not in text
    assert "03_gan wrote runs/tiny/data from skin pictures/HAM.csv" in text
    assert (
        json.dumps(executed("01_dataset", run_folder)["cells"][4]["outputs"][0]["data"])[1:-1]
        in text
    )


def test_the_external_test_has_its_results_only_where_it_was_made(run_folder: Path) -> None:
    page = build.stage(run_folder) / "notebooks/16_external.md"
    assert "it has no external test set" in page.read_text(encoding="utf-8")
    clinic = "/another place/clinic"
    notebook = executed("16_external", run_folder)
    notebook["metadata"]["papermill"]["parameters"] = {"external": clinic}
    notebook["cells"][2]["source"] = f'# Parameters\nexternal = "{clinic}"'
    (run_folder / "notebooks/16_external.ipynb").write_text(json.dumps(notebook), encoding="utf-8")
    build.stage(run_folder)
    assert not page.exists()
    text = page.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert "another place" not in text and 'external = \\"clinic\\"' in text


def test_scrubbing_leaves_longer_names_alone(tmp_path: Path) -> None:
    scrub = PathRedactor(tmp_path / "runs/a", tmp_path, "/data")
    assert scrub(
        f"{tmp_path}/runs/a/data and {tmp_path}/runs/ab and /data/x.csv and /database"
    ) == ("runs/a/data and ./runs/ab and data/x.csv and /database")


def test_run_page_says_what_was_used_and_left_out(run_folder: Path) -> None:
    provenance = run_folder / "classifiers/gan/seed-0/provenance.json"
    provenance.parent.mkdir(parents=True)
    provenance.write_text(
        json.dumps({"source": "file", "file": "/secret place/vit.safetensors"}), encoding="utf-8"
    )
    (run_folder / "data/lesions").mkdir(parents=True)
    (run_folder / "data/lesions/skipped.csv").write_text(
        "image_id,reason\nISIC_7,cut short\n", encoding="utf-8"
    )
    (run_folder / "metrics").mkdir()
    (run_folder / "metrics/extractors.json").write_text(
        json.dumps({"inception": "no weights to be had"}), encoding="utf-8"
    )
    (run_folder / "logs").mkdir()
    (run_folder / "logs/02_vae.json").write_text(
        json.dumps({"minutes": 1.6, "peak_memory_gib": 1.25}), encoding="utf-8"
    )
    page = (build.stage(run_folder) / "run.md").read_text(encoding="utf-8")
    rows = {
        tuple(part.strip() for part in line.strip("|").split("|"))
        for line in page.splitlines()
        if line[:1] == "|"
    }
    assert {
        ("data", "the folder skin pictures"),
        ("seed", "3"),
        ("device", "CPU, 2 cores"),
        ("code", "commit abc123"),
        ("torch", "9.8.7"),
        ("02_vae", "1.5", "1.2"),
        ("03_gan", "1.5", "-"),
        ("all", f"{1.5 * (len(CHAPTERS) + len(EXECUTIONS))}", ""),
        ("gan", "0", "source: file; file: vit.safetensors"),
        ("ISIC_7", "cut short"),
        ("inception", "no weights to be had"),
    } <= rows


def test_bad_input_is_one_line_and_exit_code_2(
    run_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["build", str(run_folder.parent / "nothing")]) == 2
    (run_folder / "notebooks/02_vae.ipynb").unlink()
    assert main(["build", str(run_folder)]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert "not a run" in first
    assert "not executed yet: notebooks/02_vae" in second


def test_a_warning_fails_the_build_and_keeps_the_older_site(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "tiny")
    (folder / "site").mkdir()
    (folder / "site/index.html").write_text("the older site", encoding="utf-8")
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "book", root / "book")
    shutil.copy(ROOT / "_config.yml", root)
    (root / "_toc.yml").write_text(
        "format: jb-book\nroot: faulty\nparts: [{chapters: [{file: references}]}]\n",
        encoding="utf-8",
    )
    (root / "book/faulty.md").write_text("# Faulty\n\n{numref}`fig-nowhere`\n", encoding="utf-8")
    monkeypatch.setattr(staging, "project_root", lambda: root)
    assert main(["build", str(folder)]) == 1
    assert "fig-nowhere" in capsys.readouterr().err
    assert (folder / "site/index.html").read_text(encoding="utf-8") == "the older site"


def test_numbers_and_captions_come_from_the_run(site: Path) -> None:
    page = (site / "notebooks/02_vae.html").read_text(encoding="utf-8")
    assert 'alt="A black square"' in page
    assert ">0.81<" in page and ">0.812<" in page
    assert "Fig. 2.1" in page and ">(2.1)<" in page
    front = (site / "intro.html").read_text(encoding="utf-8")
    assert "the folder skin pictures" in front and "not skin" not in front


def test_every_equation_leads_to_itself_its_check_and_its_paper(site: Path) -> None:
    page = (
        (site / "equations.html")
        .read_text(encoding="utf-8")
        .partition("<article")[2]
        .partition("</article>")[0]
    )
    links = re.findall(
        r'<a class="reference internal" href="((?:notebooks/|references)[^"]+)"', page
    )
    assert {link.partition("#")[0] for link in links} == {
        "references.html",
        *(f"notebooks/{name}.html" for name in (*CHAPTERS, "06_vit")),
    }
    assert (
        sum("#equation-eq-" in link for link in links)
        == sum("#check-eq-" in link for link in links)
        == len(CHAPTERS) + 1
    )
    for link in links:
        path, _, place = link.partition("#")
        assert f'id="{place}"' in (site / path).read_text(encoding="utf-8"), link


def test_a_term_leads_to_the_glossary(site: Path) -> None:
    page = (site / "notebooks/02_vae.html").read_text(encoding="utf-8")
    assert page.count('href="../glossary.html#term-lesion"') == 1
    assert 'id="term-lesion"' in (site / "glossary.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_pages_work_offline_in_a_browser(site: Path) -> None:
    assert problems_of(site) == []


def test_the_browser_check_sees_faults(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(
        """<html><body><script src="https://example.org/x.js"></script><script src="gone.js"></script>
        <script>console.error("broken")</script><img src="gone.png" alt="gone">
        <div style="width:999px">wide</div><button></button><span class="math">x</span>
        <img src="data:image/gif;base64,R0lGODlhAQABAAAAACw="><script src="large.js"></script>
        <script src="_static/large.js"></script></body></html>""",
        encoding="utf-8",
    )
    (tmp_path / "_static").mkdir()
    for name in ("large.js", "_static/large.js"):
        (tmp_path / name).write_text("/*" + 5_000_000 * " " + "*/", encoding="utf-8")
    found = " ".join(problems_of(tmp_path))
    for fault in (
        "another host: https://example.org",
        "no such file",
        "error: broken",
        "image not loaded: gone.png",
        "without a description: data:image/gif",
        "sideways scrolling at 390",
        "MathJax was not loaded",
        "button-name: ",
        "heavy: 5.0 MB",
    ):
        assert fault in found
