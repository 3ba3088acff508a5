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


@pytest.mark.parametrize("name", ["smoke", "cpu"])
def test_flow_matching_works_on_the_latents_of_the_diffusion_model(name):
    profile = load_profile(name)
    assert profile.flow.autoencoder == profile.diffusion.autoencoder is not None
    assert profile.flow.training.steps == profile.diffusion.training.steps


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
