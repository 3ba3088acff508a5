import pytest
import yaml

from hamsynth_utils.core.arm_names import CHEAP_ARMS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.profile import arms_from, load_profile, recorded_profile, seeds_from

SHIPPED = sorted(path.stem for path in (project_root() / "profiles").glob("*.yaml"))


@pytest.fixture
def edited(tmp_path):
    """Writes a copy of the smoke profile with one dotted key set to some YAML text, and returns its path."""

    def edit(key: str, text: str) -> str:
        content = yaml.safe_load(
            (project_root() / "profiles/smoke.yaml").read_text(encoding="utf-8")
        )
        *parents, last = key.split(".")
        section = content
        for parent in parents:
            section = section[parent]
        section[last] = yaml.safe_load(text)
        path = tmp_path / "edited.yaml"
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    return edit


@pytest.mark.parametrize("name", SHIPPED)
def test_every_profile_that_ships_is_valid(name):
    assert load_profile(name).name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_all_generators_of_a_shipped_profile_work_on_the_same_latents(name):
    profile = load_profile(name)
    assert profile.autoencoder is not None
    for generator in profile.generators:
        assert getattr(profile, generator).autoencoder == profile.autoencoder


@pytest.mark.parametrize("name", SHIPPED)
def test_flow_matching_and_diffusion_have_the_same_network_and_batches(name):
    """So that chapter 5 compares two losses and two solvers, not two networks."""
    profile = load_profile(name)
    for key in ("width", "dim_mults"):
        assert getattr(profile.flow, key) == getattr(profile.diffusion, key)
    for key in ("batch_size", "learning_rate", "class_balance_power"):
        assert getattr(profile.flow.training, key) == getattr(profile.diffusion.training, key)


def test_the_paper_profile_has_the_source_reports_settings():
    profile = load_profile("paper")
    assert profile.data.image_size == 64
    for training in (
        profile.vae.training,
        profile.gan.training,
        profile.diffusion.training,
        profile.classifier.training,
    ):
        assert (training.batch_size, training.learning_rate) == (64, 1e-4)
    assert [profile.vae.training.epochs, profile.gan.training.epochs] == [120, 100]
    assert [profile.diffusion.training.epochs, profile.classifier.training.epochs] == [120, 100]


@pytest.mark.parametrize("name", ["cpu", "paper"])
def test_a_profile_whose_numbers_count_has_all_that_the_question_needs(name):
    """Several seeds, each generator and a cheap way beside it, and what a leaking split adds to those of real images."""
    profile = load_profile(name)
    assert len(profile.seeds) >= 3
    assert {"real", *profile.generators, "weighted", "oversample"} <= set(profile.arms)
    assert set(profile.other_split_arms) == set(profile.arms) & set(CHEAP_ARMS)


def test_a_number_read_as_text_names_the_key_and_the_mending(edited):
    path = edited("vae.training.learning_rate", "1e-4")  # YAML 1.1 reads this as text
    with pytest.raises(
        InputError, match=r"edited\.yaml.*vae\.training\.learning_rate.*'1e-4'.*1\.0e-4"
    ):
        load_profile(path)


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("gan.wdith", "32", r"gan\.wdith is not a setting"),
        ("autoencoder.wdith", "32", r"edited\.yaml: autoencoder\.wdith is not a setting[^;]*$"),
        (
            "autoencoder.factor",
            "5",
            r"edited\.yaml: autoencoder\.factor: Input should be 4, 8 or 16[^;]*$",
        ),
        ("vae.width", "40", r"vae\.width.*multiple of 32"),
        ("gan.penalty_fraction", "0.0", r"gan\.penalty_fraction.*greater than 0"),
        ("gan.dcgan_demo_steps", "0", r"gan\.dcgan_demo_steps.*greater than or equal to 1.*0"),
        ("threads", "two", r"threads is the text 'two', not a number"),
        ("threads", "1.5", r"threads.*1\.5"),
        ("threads", "true", r"threads.*True"),
        ("arms", "[real, real]", "arms holds a repeat"),
        ("seeds", "[0, 0]", "seeds holds a repeat"),
        ("generator_seeds", "[0, 1, 1]", "generator_seeds holds a repeat"),
        ("generator_seeds", "[1, 0]", "generator_seeds must begin with 0"),
        ("arms", "[real, dream]", r"arms\.1.*dream"),
        ("other_split_arms", "[real, gan]", "other_split_arms holds gan, whose generator has seen"),
        ("probe.ratios", "[0.0]", r"probe\.ratios\.0.*0\.0"),
        ("arms", "[vae]", "arms lacks 'real'"),
        ("data.test_fraction", "0.95", "leave nothing to train on"),
        ("data.image_size", "63", r"data\.image_size.*63"),
        ("diffusion.guidance", "0.5", r"diffusion\.guidance.*0\.5"),
        ("vae.training.epochs", "3", "exactly one of steps and epochs"),
        ("dp.epsilons", "[3.0, 1.0, 10.0]", r"dp.*epsilons must rise"),
        ("dp.epsilons", "[1.0, 3.0]", r"dp\.epsilons.*3"),
        ("dp.epsilons", "[0.0, 1.0, 3.0]", r"dp\.epsilons\.0.*0\.0"),
        ("dp.sampling_rate", "1.5", r"dp\.sampling_rate.*1\.5"),
        ("dp.delta", "1.0", r"dp\.delta.*1"),
    ],
)
def test_a_wrong_key_or_value_is_refused_by_name(edited, key, text, message):
    with pytest.raises(InputError, match=message):
        load_profile(edited(key, text))


def test_an_unknown_profile_lists_the_known_ones():
    assert {"smoke", "cpu", "paper"} <= set(SHIPPED)
    with pytest.raises(
        InputError, match=f"no profile at .*quick.*known there: {', '.join(SHIPPED)}"
    ):
        load_profile("quick")


def test_a_file_that_is_not_a_mapping_is_refused(tmp_path):
    path = tmp_path / "list.yaml"
    path.write_text("- 1\n- 2\n", encoding="utf-8")
    with pytest.raises(InputError, match="must map keys to values"):
        load_profile(str(path))


def test_epochs_become_steps_by_the_number_of_images():
    training = load_profile("paper").gan.training
    assert training.total_steps(6400) == 100 * 100


def test_seeds_and_arms_of_ones_own_change_nothing_else():
    profile = load_profile("smoke")
    other = profile.with_classifiers(seeds_from("0, 2,1"), arms_from("real, vae"))
    assert (other.seeds, other.arms) == ((0, 2, 1), ("real", "vae"))
    assert other.with_classifiers(profile.seeds, profile.arms) == profile


@pytest.mark.parametrize(
    ("seeds", "arms", "message"),
    [
        ("0,1,0", "real", r"^seeds holds a repeat: \[0, 1, 0\]$"),
        ("0,one", "real", "seeds '0,one'.* it is 'one'"),
        ("0,,1", "real", "seeds '0,,1'.* it is ''"),
        ("-1", "real", "a whole number from 0 to 2147483647"),
        ("0,99999999999", "real", "a whole number from 0 to 2147483647"),
        ("0", "real,dream", r"arms\.1.*'dream'.* vae,"),
        ("0", "real,vae,vae", "arms holds a repeat"),
        ("0", "vae", "arms lacks 'real'"),
    ],
)
def test_wrong_seeds_and_arms_are_refused_in_one_line(seeds, arms, message):
    with pytest.raises(InputError, match=message) as refused:
        load_profile("smoke").with_classifiers(seeds_from(seeds), arms_from(arms))
    assert len(str(refused.value)) < 200 and "\n" not in str(refused.value)


def test_a_folder_without_a_run_has_no_profile(tmp_path):
    with pytest.raises(InputError, match="is not a run"):
        recorded_profile(tmp_path)


def test_pooling_needs_frozen_blocks(edited_tiny):
    with pytest.raises(
        InputError, match="token_pool averages tokens behind frozen blocks, but frozen_blocks is 0"
    ):
        load_profile(edited_tiny({"classifier": {"token_pool": 2}}))


def write_profiles(folder, **contents: str) -> str:
    """Profiles by name, each a YAML text; the path of the last one."""
    for name, text in contents.items():
        (folder / f"{name}.yaml").write_text(text, encoding="utf-8")
    return str(folder / f"{name}.yaml")


SMOKE = (project_root() / "profiles/smoke.yaml").read_text(encoding="utf-8")


def test_a_profile_is_laid_over_its_base_section_by_section(tmp_path):
    changes = "seeds: [3, 4]\ngan:\n  width: 32\n  training: {steps: 7}\nautoencoder: {width: 24}\n"
    path = write_profiles(tmp_path, smoke=SMOKE, mine=f"base: smoke\n{changes}")
    mine, base = load_profile(path), load_profile("smoke")
    assert mine.name == "mine" and mine.seeds == (3, 4)
    assert mine.gan.width == 32 and mine.gan.latent_size == base.gan.latent_size
    training = base.gan.training.model_copy(update={"steps": 7})
    assert mine.gan.training == training  # a section in a section, too
    assert mine.autoencoder == base.autoencoder.model_copy(update={"width": 24})
    for name in mine.generators:  # the generators share what comes out
        assert getattr(mine, name).autoencoder == mine.autoencoder
    assert mine.classifier == base.classifier and mine.arms == base.arms


def test_a_base_may_build_on_a_base_and_the_uppermost_counts(tmp_path):
    path = write_profiles(
        tmp_path,
        smoke=SMOKE,
        middle="base: smoke\nthreads: 5\nvae: {layers: 4, width: 64}\n",
        top="base: middle\nvae: {layers: 2}\ngan: {autoencoder: null}\n",
    )
    top = load_profile(path)
    assert (top.threads, top.vae.layers, top.vae.width) == (5, 2, 64)
    assert top.gan.autoencoder is None and top.flow.autoencoder == top.autoencoder


def test_bases_in_a_circle_or_missing_are_refused(tmp_path):
    path = write_profiles(tmp_path, a="base: b\n", b="base: c\n", c="base: b\n")
    for name, back in (("a", "b"), ("b", "b"), ("c", "c")):
        with pytest.raises(
            InputError, match=rf"base leads back to .*{back}\.yaml: a profile cannot"
        ):
            load_profile(str(tmp_path / f"{name}.yaml"))
    (tmp_path / "folder").mkdir()
    for own in ("a", "./a", "folder/../a"):
        path = write_profiles(tmp_path, a=f"base: {own}\n")
        with pytest.raises(InputError, match=r"a\.yaml: base leads back to"):
            load_profile(path)
    for text in ("other", "null", "[1, 2]", "x" * 300):
        path = write_profiles(tmp_path, a=f"base: {text}\n")
        with pytest.raises(InputError, match=r"a\.yaml: base names .*\.yaml, which is not there"):
            load_profile(path)


def test_a_fault_is_named_with_the_file_that_it_is_in(tmp_path):
    wrong = SMOKE.replace("  dcgan_demo_steps: 60", "  dcgan_demo_steps: 0")
    assert wrong != SMOKE
    mine = "base: below\nseeds: [0]\ngan: {latent_size: 32}\n"
    path = write_profiles(tmp_path, below=wrong, mine=mine)
    with pytest.raises(InputError, match=r"^\S*below\.yaml: gan\.dcgan_demo_steps: [^;]*$"):
        load_profile(path)
    path = write_profiles(tmp_path, below=SMOKE, mine=f"{mine}vae: {{wdith: 8}}\n")
    with pytest.raises(InputError, match=r"^\S*mine\.yaml: vae\.wdith is not a setting[^;]*$"):
        load_profile(path)
    path = write_profiles(tmp_path, below=wrong, mine=f"{mine}threads: 0\n")
    with pytest.raises(
        InputError, match=r"mine\.yaml: threads: .*; \S*below\.yaml: gan\.dcgan_demo_steps"
    ):
        load_profile(path)
    # A value that is covered is not the fault of the base.
    path = write_profiles(tmp_path, below=wrong, mine="base: below\ngan: {dcgan_demo_steps: 9}\n")
    assert load_profile(path).gan.dcgan_demo_steps == 9
    path = write_profiles(tmp_path, below=f"name: it\n{SMOKE}", mine="base: below\n")
    with pytest.raises(InputError, match=r"below\.yaml: name is not a setting"):
        load_profile(path)
    path = write_profiles(tmp_path, below="threads: [", mine="base: below\n")
    with pytest.raises(InputError, match=r"below\.yaml is not readable YAML"):
        load_profile(path)
