import subprocess
import sys
import time
from importlib.metadata import version

import numpy as np
import pytest
import torch
import yaml

from hamsynth_utils.cli import main
from hamsynth_utils.core.arm_names import GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.profile import parse_profile, recorded_profile
from hamsynth_utils.data.dataset_info import HAM10000
from hamsynth_utils.experiment.run import Run

CLASSES = HAM10000.classes.names

CLASSES = HAM10000.classes.names


def test_a_run_reopened_with_the_same_settings_reads_its_cache(tmp_path, tiny_profile):
    run = Run.open("a", tiny_profile, root=tmp_path)
    first, split = run.lesions(), run.split()
    stamp = (run.folder / "data/lesions/images.npy").stat().st_mtime_ns
    again = Run.open("a", tiny_profile, root=tmp_path)
    assert torch.equal(again.lesions().images, first.images)
    assert again.lesions().table.equals(first.table)
    assert np.array_equal(again.split().test, split.test)
    assert (run.folder / "data/lesions/images.npy").stat().st_mtime_ns == stamp


def test_every_class_is_in_every_part_and_no_image_in_two(tmp_path, tiny_profile):
    run = Run.open("a", tiny_profile, root=tmp_path)
    parts = run.split().parts()
    joined = np.concatenate(list(parts.values()))
    assert np.array_equal(np.sort(joined), np.arange(len(run.lesions())))
    for index in parts.values():
        assert min(run.lesions().subset(index).counts.values()) > 0
    assert list(run.lesions().counts) == list(CLASSES)


def test_another_profile_seed_or_data_is_refused_with_a_way_out(
    tmp_path, tiny_profile, edited_tiny
):
    Run.open("a", tiny_profile, root=tmp_path)
    with pytest.raises(InputError, match=r"seed: this run has 0, you ask for 1.*rm -r"):
        Run.open("a", tiny_profile, seed=1, root=tmp_path)
    with pytest.raises(InputError, match=r"profile\.gan\.width: this run has 8, you ask for 16"):
        Run.open("a", edited_tiny({"gan": {"width": 16}}), root=tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        lambda profile: profile.pop("generator_seeds"),
        lambda profile: profile["data"].update(protocol=profile["data"].pop("split_by")),
    ],
    ids=["a key is missing", "a key has another name"],
)
def test_a_run_of_an_older_version_says_what_it_is_and_what_to_do(tmp_path, tiny_profile, change):
    run = Run.open("a", tiny_profile, root=tmp_path)
    record = yaml.safe_load(run.paths.record.read_text(encoding="utf-8"))
    change(record["profile"])
    record.pop("hamsynth")
    run.paths.record.write_text(yaml.safe_dump(record), encoding="utf-8")
    message = r"a was made by another version of HamSynth \(0\.1\.0\).*RUN="
    with pytest.raises(InputError, match=message):
        Run.open("a", tiny_profile, root=tmp_path)
    with pytest.raises(InputError, match=message):
        recorded_profile(run.folder)


def test_a_record_says_which_version_made_the_run(tmp_path, tiny_profile):
    run = Run.open("a", tiny_profile, root=tmp_path)
    assert yaml.safe_load(run.paths.record.read_text(encoding="utf-8"))["hamsynth"] == version(
        "hamsynth"
    )


def test_a_run_gains_seeds_and_arms_but_loses_none(tmp_path, edited_tiny):
    tiny = edited_tiny({"seeds": [1], "arms": ["real", "vae"]})
    Run.open("a", tiny, root=tmp_path)
    made = (tmp_path / "a/run.yaml").read_text(encoding="utf-8")
    gained = Run.open("a", tiny, root=tmp_path, seeds=[0, 1], arms=["real", "gan", "vae"])
    assert (gained.profile.seeds, gained.profile.arms) == ((1, 0), ("real", "vae", "gan"))
    assert Run.open("a", tiny, root=tmp_path) == gained
    assert parse_profile(recorded_profile(tmp_path / "a")) == gained.profile
    with pytest.raises(InputError, match=r"seeds: this run has 1,0, you ask for 0,5,.*SEEDS=1,0,5"):
        Run.open("a", tiny, root=tmp_path, seeds=[0, 5])
    with pytest.raises(InputError, match=r"arms: this run has real,vae,gan, you ask for real,"):
        Run.open("a", tiny, root=tmp_path, arms=["real"])
    before, after = (
        yaml.safe_load(made),
        yaml.safe_load((tmp_path / "a/run.yaml").read_text(encoding="utf-8")),
    )
    before["profile"] |= {"seeds": [1, 0], "arms": ["real", "vae", "gan"]}
    assert after == before


def test_the_commands_seeds_and_arms_come_before_the_profiles(
    tmp_path, monkeypatch, capsys, tiny_profile
):
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path / "runs"))
    asked = ["run", "--run", "a", "--profile", tiny_profile]
    assert main([*asked, "--seeds", "0,flower"]) == main([*asked, "--arms", "real,flower"]) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert (
        first.startswith("error: ")
        and second.startswith("error: ")
        and "flower" in first
        and "flower" in second
    )
    assert not (tmp_path / "runs").exists()
    assert main([*asked, "--seeds", "0,1", "--arms", "real,vae"]) == 0
    assert "arms real,vae, seeds 0,1" in capsys.readouterr().out
    profile = parse_profile(recorded_profile(tmp_path / "runs/a"))
    assert (profile.seeds, profile.arms) == ((0, 1), ("real", "vae"))
    # Without them the profile's are asked for: five arms, which the run may gain, and one seed of its two.
    assert main(asked) == 2
    assert "seeds: this run has 0,1, you ask for 0," in capsys.readouterr().err
    assert main([*asked, "--seeds", "0,1"]) == 0
    assert recorded_profile(tmp_path / "runs/a")["arms"] == ["real", *GENERATORS]


def test_other_data_is_refused(tmp_path, tiny_profile, ham10000_slice):
    Run.open("a", tiny_profile, root=tmp_path)
    with pytest.raises(InputError, match="data: this run has 'phantom'"):
        Run.open("a", tiny_profile, data=str(ham10000_slice), root=tmp_path)


def test_data_that_changed_since_is_refused(tmp_path, tiny_profile, ham10000_copy):
    run = Run.open("a", tiny_profile, data=str(ham10000_copy), root=tmp_path)
    run.lesions()
    victim = sorted(ham10000_copy.glob("*/*.jpg"))[0]
    victim.write_bytes(sorted(ham10000_copy.glob("*/*.jpg"))[1].read_bytes())
    with pytest.raises(InputError, match=victim.stem):
        Run.open("a", tiny_profile, data=str(ham10000_copy), root=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "../x"}, "plain folder name"),
        ({"name": "a", "seed": "0"}, "seed must be int"),
        ({"name": "a", "data": "no/such/folder"}, "neither 'phantom' nor a folder"),
        ({"name": "a", "profile": "quick"}, "no profile"),
    ],
)
def test_wrong_parameters_are_refused(tmp_path, arguments, message):
    with pytest.raises(InputError, match=message):
        Run.open(**arguments, root=tmp_path)


def test_the_command_ends_with_one_line_and_code_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HAMSYNTH_RUNS", str(tmp_path))
    (tmp_path / "empty").mkdir()
    assert main(["run", "--run", "a", "--data", str(tmp_path / "empty")]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_runs_lie_at_home_if_the_environment_says_so(tmp_path, tiny_profile, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HAMSYNTH_RUNS", "~/runs")
    assert Run.open("a", tiny_profile).folder == tmp_path / "home/runs/a"
    assert (tmp_path / "home/runs/a/run.yaml").is_file()


def test_a_runs_folder_that_cannot_be_written_is_an_input_error(tmp_path, tiny_profile):
    (tmp_path / "file").write_text("", encoding="utf-8")
    with pytest.raises(InputError, match="cannot write .*start again"):
        Run.open("a", tiny_profile, root=tmp_path / "file")


def test_a_second_process_waits_for_the_stage(tmp_path, tiny_profile):
    run = Run.open("a", tiny_profile, root=tmp_path)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom filelock import FileLock\n"
            f"with FileLock(r'{run.folder}/gan/.lock'):\n    print('held', flush=True); time.sleep(3)",
        ],
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    (run.folder / "gan").mkdir()
    assert holder.stdout is not None and holder.stdout.readline().strip() == "held"
    began = time.monotonic()
    with run.stage_dir("gan"):
        assert holder.poll() is not None or time.monotonic() - began > 1.5
    holder.wait()


def test_a_missing_result_names_the_notebook_that_makes_it(tmp_path, tiny_profile):
    run = Run.open("a", tiny_profile, root=tmp_path)
    with pytest.raises(InputError, match="run 03_gan"):
        run.require("generators/gan/seed-0/synthetic", "03_gan")
