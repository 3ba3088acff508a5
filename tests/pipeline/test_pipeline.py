"""The Snakefile: what is executed, with which parameters, and what a failed or killed run repeats.

Papermill and trainings are played by stand-ins that note each call, so that these tests see the pipeline and not
the work.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from filelock import FileLock
from stand_in import LAST, Pipeline, wait_until_gone

from hamsynth_utils.core.profile import load_profile
from hamsynth_utils.core.registry import REGISTRY


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    pipeline = Pipeline(tmp_path)
    yield pipeline
    if pipeline.process:
        pipeline.process.kill()


def test_a_run_fails_is_killed_and_goes_on(pipeline: Pipeline) -> None:
    pipeline.write("03_gan", "faulty")
    code, said = pipeline.finish()
    assert code != 0
    assert "ValueError: in the cell" in said and "of papermill" not in said
    assert f"03_gan failed; what it got to: {pipeline.run}/notebooks/03_gan.partial.ipynb" in said
    assert (pipeline.run / "notebooks/03_gan.partial.ipynb").exists()
    assert not (pipeline.run / "notebooks/03_gan.ipynb").exists()
    first = {name: (values, threads) for name, values, threads, *_ in pipeline.calls()}
    shared = {
        "data": "/skin: pictures",
        "profile": f"{pipeline.folder}/my profile.yaml",
        "run": "007",
        "seed": "3",
    }
    assert first["01_dataset"] == ({**shared, "skip_broken": "False"}, "1")
    assert first["03_gan"] == (shared, "1")
    assert first["training-autoencoder-0"] == ({**shared, "generator-seed": "0"}, "1")
    assert not {"06_vit-gan-0", *LAST} & set(first)

    pipeline.write("03_gan", "mended")
    slow = Path(f"{pipeline.calls_file}.slow")
    slow.touch()
    process = pipeline.start()
    pipeline.wait_for("15_claims")
    process.kill()
    process.wait()
    second = pipeline.calls()
    assert sorted([*first, *(name for name, *_ in second)]) == sorted(
        [
            "01_dataset",
            "training-autoencoder-0",
            "02_vae",
            "03_gan",
            "03_gan",
            "04_diffusion",
            "05_flow",
            "07_controls",
            *LAST,
        ]
        + [f"06_vit-{name}-{seed}" for name in ("real", "gan") for seed in (0, 7)]
        + ["06_vit-augment-0-image", "06_vit-augment-7-image"]
    )
    calls = {name: values for name, (values, *_) in first.items()} | {
        name: v for name, v, *_ in second
    }
    assert (
        calls["06_vit-augment-7-image"].items() >= {"arm": "augment", "split_by": "image"}.items()
    )
    assert ["gan", "7"] in [
        [values.get("arm"), values.get("classifier_seed")] for _, values, *_ in second
    ]
    assert second[-1][0] == "15_claims", "the claims are judged after the chapters that measure"
    wait_until_gone(second[-1][3])
    slow.unlink()

    pipeline.process = None
    assert pipeline.finish()[0] == 0
    assert [name for name, *_ in pipeline.calls()] == ["15_claims"]
    assert not list(pipeline.run.glob("notebooks/*.partial.ipynb"))

    pipeline.write("03_gan", "changed")
    with FileLock(pipeline.run / ".pipeline.lock"):
        waiting = pipeline.start()
        assert waiting.stdout is not None
        assert "waiting for it to end" in waiting.stdout.readline()
        assert not pipeline.calls()
    assert pipeline.finish()[0] == 0
    # All but the chapter that looks at the first classifier of real images alone.
    changed = ["03_gan", "07_controls", "06_vit-gan-0", "06_vit-gan-7", *LAST]
    changed.remove("13_explanation")
    assert sorted(name for name, *_ in pipeline.calls()) == sorted(changed)

    pipeline.claims.write_text("changed", encoding="utf-8")
    assert pipeline.finish()[0] == 0
    assert [name for name, *_ in pipeline.calls()] == ["15_claims"]


def test_a_run_that_gains_a_seed_and_an_arm_repeats_only_what_compares_them(
    pipeline: Pipeline,
) -> None:
    assert pipeline.finish()[0] == 0
    pipeline.calls()
    record = yaml.safe_load((pipeline.run / "run.yaml").read_text(encoding="utf-8"))
    record["profile"] |= {"seeds": [0, 7, 1], "arms": ["real", "gan", "vae"]}
    (pipeline.run / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    assert pipeline.finish()[0] == 0
    new = [
        f"06_vit-{name}"
        for name in ("real-1", "gan-1", "vae-0", "vae-7", "vae-1", "augment-1-image")
    ]
    # Two look at the generators alone, and one at the first classifier of real images.
    again = set(LAST) - {"08_fidelity", "10_privacy", "13_explanation"}
    assert sorted(name for name, *_ in pipeline.calls()) == sorted([*new, *again])


def test_the_chapter_of_a_generator_is_executed_where_the_profile_has_it(
    pipeline: Pipeline,
) -> None:
    """And all that compares the generators waits for it."""
    record = yaml.safe_load((pipeline.run / "run.yaml").read_text(encoding="utf-8"))
    record["profile"]["flow"]["autoencoder"] = None
    record["profile"]["arms"] = ["real", "flow"]
    (pipeline.run / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")
    assert pipeline.finish()[0] == 0
    names = [name for name, *_ in pipeline.calls()]
    waiting = (
        "06_vit-flow-0",
        "06_vit-flow-7",
        "07_controls",
        "08_fidelity",
        "09_evaluation",
        "10_privacy",
    )
    assert all(names.index("05_flow") < names.index(name) for name in waiting)


def outputs(said: str, folder: str) -> list[str]:
    """The files of a folder that the jobs of a dry run would write."""
    return re.findall(rf"output: {folder}/(\S+)\.(?:ipynb|done)", said)


def with_profile(pipeline: Pipeline, **change: object) -> None:
    record = yaml.safe_load((pipeline.run / "run.yaml").read_text(encoding="utf-8"))
    record["profile"] |= change
    (pipeline.run / "run.yaml").write_text(yaml.safe_dump(record), encoding="utf-8")


@pytest.mark.parametrize(
    ("seeds", "on_pixels", "expected"),
    [
        ([0], [], {"autoencoder-0"}),
        (
            [0, 2],
            [],
            {"autoencoder-0", "autoencoder-2", "vae-2", "gan-2", "diffusion-2", "flow-2"},
        ),
        ([0], ["vae", "gan", "diffusion", "flow"], set()),
        ([0, 5], ["vae", "gan", "diffusion", "flow"], {"vae-5", "gan-5", "diffusion-5", "flow-5"}),
    ],
)
def test_the_shared_autoencoder_and_further_seeds_are_trained_once_each(
    pipeline: Pipeline, seeds: list[int], on_pixels: list[str], expected: set[str]
) -> None:
    record = yaml.safe_load((pipeline.run / "run.yaml").read_text(encoding="utf-8"))
    pixels = {name: {**record["profile"][name], "autoencoder": None} for name in on_pixels}
    with_profile(pipeline, generator_seeds=seeds, **pixels)
    dry = pipeline.dry_run("--quiet", "progress")
    assert dry.returncode == 0, dry.stderr
    said = dry.stdout + dry.stderr
    trained = outputs(said, "logs")
    assert len(trained) == len(set(trained))
    assert {name.removeprefix("training-") for name in trained} == expected
    # What waits for what, as Snakemake says it of each job.
    needs = {output: given for given, output in re.findall(r"input: (.*)\n +output: (\S+)", said)}
    for name in expected:
        network, seed = name.rsplit("-", 1)
        given = needs[f"logs/training-{name}.done"]
        assert "notebooks/01_dataset.ipynb" in given
        if network != "autoencoder" and not on_pixels:
            assert f"logs/training-autoencoder-{seed}.done" in given
    for name, registered in REGISTRY.items():
        given = needs[f"notebooks/{registered.chapter}.ipynb"]
        assert ("logs/training-autoencoder-0.done" in given) == (not on_pixels)
        for seed in seeds[1:]:
            assert f"logs/training-{name}-{seed}.done" in given


def test_trainings_that_are_done_are_not_repeated(pipeline: Pipeline) -> None:
    """Neither on a second report nor for a chapter that has changed."""
    with_profile(pipeline, generator_seeds=[0, 2])
    assert pipeline.finish()[0] == 0
    first = [name for name, *_ in pipeline.calls()]
    trained = [name for name in first if name.startswith("training-")]
    assert sorted(trained) == sorted(
        ["training-autoencoder-0", "training-autoencoder-2"]
        + [f"training-{name}-2" for name in REGISTRY]
    )
    for name, registered in REGISTRY.items():
        order = ["01_dataset", "training-autoencoder-2", f"training-{name}-2", registered.chapter]
        assert sorted(order, key=first.index) == order
    assert pipeline.finish()[0] == 0 and pipeline.calls() == []
    pipeline.write("03_gan", "changed")
    dry = pipeline.dry_run("--quiet", "progress")
    said = dry.stdout + dry.stderr
    assert "03_gan" in outputs(said, "notebooks") and outputs(said, "logs") == []


@pytest.mark.parametrize("name", ["cpu", "paper"])
def test_every_job_of_a_profile_too_long_for_tests_is_planned(
    pipeline: Pipeline, name: str
) -> None:
    profile = load_profile(name)
    (pipeline.run / "run.yaml").write_text(
        yaml.safe_dump({"profile": profile.model_dump(mode="json")}), encoding="utf-8"
    )
    dry = pipeline.dry_run("--quiet", "progress")
    assert dry.returncode == 0, dry.stderr
    planned = set(outputs(dry.stdout + dry.stderr, "notebooks"))
    trained = outputs(dry.stdout + dry.stderr, "logs")
    seeds = profile.generator_seeds  # the chapters train those of the first seed
    assert sorted(trained) == sorted(
        [f"training-autoencoder-{seed}" for seed in seeds]
        + [f"training-{each}-{seed}" for each in profile.generators for seed in seeds[1:]]
    )
    arms = [*profile.arms, *(f"{arm}-split" for arm in profile.other_split_arms)]
    classifiers = {
        f"06_vit-{arm.removesuffix('-split')}-{seed}" + ("-image" if arm.endswith("-split") else "")
        for arm in arms
        for seed in profile.seeds
    }
    generators = {REGISTRY[each].chapter for each in profile.generators}
    assert planned == {"01_dataset", "07_controls", *LAST, *generators, *classifiers}


def test_jobs_do_not_share_cores_with_memory_for_one(pipeline: Pipeline) -> None:
    Path(f"{pipeline.calls_file}.alone").touch()
    generators = tuple(f"notebooks/{name}.ipynb" for name in ("02_vae", "03_gan", "04_diffusion"))
    pipeline.start(
        "--cores", "4", "--resources", "mem_mb=5000", "--quiet", "all", target=generators
    )
    code, said = pipeline.finish()
    assert code == 0, said
    assert len(pipeline.calls()) == 5  # with the data and the autoencoder


def test_an_external_set_is_opened_last_and_only_where_one_is_given(pipeline: Pipeline) -> None:
    pipeline.write("16_external", "as it was")
    for name in ("_config.yml", "_toc.yml"):
        (pipeline.checkout / name).touch()
    config = json.loads((pipeline.folder / "pipeline.json").read_text(encoding="utf-8"))
    for source, jobs in (("", 0), ("/clinic: photos", 1)):
        (pipeline.folder / "pipeline.json").write_text(
            json.dumps({**config, "external": source}), encoding="utf-8"
        )
        dry = pipeline.dry_run(target=("report",))
        assert (
            dry.returncode == 0
            and len(re.findall(r"^rule external:", dry.stdout + dry.stderr, re.MULTILINE)) == jobs
        )

    pipeline.target = "notebooks/16_external.ipynb"
    assert pipeline.finish()[0] == 0
    calls = pipeline.calls()
    names = [name for name, *_ in calls]
    assert names[-2:] == ["15_claims", "16_external"] and len(names) == 21
    assert calls[-1][1] == {
        "data": config["data"],
        "profile": config["profile"],
        "run": "007",
        "seed": "3",
        "external": "/clinic: photos",
    }
