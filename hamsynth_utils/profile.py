"""The `Profile`: every number a run depends on, read from `profiles/*.yaml` and validated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, Field, PlainValidator, ValidationError, create_model, model_validator

from hamsynth_utils.errors import InputError
from hamsynth_utils.registry import REGISTRY
from hamsynth_utils.settings import Count, Rate, Settings, Share, TrainingSettings

GENERATORS: tuple[str, ...] = tuple(REGISTRY)
CHEAP_ARMS = ("real", "weighted", "oversample", "augment")
ARMS: tuple[str, ...] = (*CHEAP_ARMS, *GENERATORS, *(f"{name}_only" for name in GENERATORS))
"""How a classifier comes about, see arms.py: from real images alone, by one of the cheap ways to make more of
the rare classes, from real images and one generator's, or from that generator's alone."""


def known_arm(arm: str) -> str:
    """The arm; raises InputError for one that is not in `ARMS`."""
    if arm not in ARMS:
        raise InputError(f"no arm is called {arm!r}; there are {', '.join(ARMS)}")
    return arm


Arm = Annotated[str, AfterValidator(known_arm)]
Extractor = Literal["inception", "vit", "efficientnet_lite0"]


class DataSettings(Settings):
    """Images and their split; shares are of all images."""

    image_size: Literal[32, 64, 128] = 64
    phantom_images: Count
    protocol: Literal["lesion", "image"] = "lesion"
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.2


class SynthesisSettings(Settings):
    """How many synthetic images: minority classes are brought up to `minority_share` of the largest
    class; on top, `evaluation_images` are drawn as the classes occur, to measure fidelity on."""

    minority_share: Annotated[float, Field(gt=0, le=1)]
    evaluation_images: Annotated[int, Field(ge=50)]
    curve_images: Annotated[int, Field(ge=8)] = 400
    """Images behind each point of a curve: distance against minutes, steps or guidance."""
    batch_size: Count = 64


class ClassifierSettings(Settings):
    model: str = "vit_small_patch14_dinov2"
    depth: Count | None = None
    """Keep only the first `depth` blocks; all of them if left out."""
    input_size: Count
    """Images are enlarged to this many pixels before the patch embedding."""
    weights: str = "auto"
    """`hub`, `none`, `auto`, or a .safetensors file."""
    frozen: Annotated[int, Field(ge=0)] = 0
    """So many blocks, from the first, stay as they were pretrained; what they make of each view of an image
    is computed once and kept. With 0 everything is tuned, end to end."""
    pool: Count = 1
    """Behind the frozen blocks, patch tokens are averaged over squares of so many a side, so that the blocks
    that learn have fewer tokens to work on."""
    views: Literal[1, 2, 8] = 2
    """Flips and quarter turns of an image over which a prediction is averaged; with frozen blocks the
    augmentation draws from the same ones."""
    head_learning_rate: Rate = 1.0e-3
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 0.75
    drop_path: Share = 0.1
    label_smoothing: Share = 0.1
    training: TrainingSettings

    @model_validator(mode="after")
    def pooled_behind_frozen(self) -> ClassifierSettings:
        if self.pool > 1 and not self.frozen:
            raise ValueError("pool averages tokens behind frozen blocks, but frozen is 0")
        return self


class ProbeSettings(Settings):
    """A linear layer on the features of the ViT as it was pretrained: every arm, many seeds, in minutes."""

    seeds: Annotated[int, Field(ge=2)] = 10
    views: Literal[1, 2, 8] = 2
    """Flips and quarter turns of each image of which features are computed."""
    ratios: tuple[Annotated[float, Field(gt=0)], ...] = (0.5, 1.0, 2.0, 4.0)
    """Synthetic images for each real one in the minority classes, in the sweep over each generator."""
    training: TrainingSettings


class EvaluationSettings(Settings):
    extractors: Annotated[tuple[Extractor, ...], Field(min_length=1)]
    repeats: Annotated[int, Field(ge=2)] = 5
    """Random subsets behind each distance and each floor."""
    bootstrap: Annotated[int, Field(ge=100)] = 1000
    """Bootstrap draws over lesions behind each interval."""


class PrivacySettings(Settings):
    """The attacks that have the model, and the VAE that is trained for the attack on patients."""

    attacked: Annotated[int, Field(ge=100)] = 1000
    """Photographs of each kind, trained on and held out, whose losses are compared."""
    noise_levels: Count = 4
    """At so many fixed times the denoising error of a diffusion model is measured."""
    patients: Annotated[int, Field(ge=10)] = 300
    """Lesions with several photographs, of each of which one is withheld from that VAE."""
    other_images: Annotated[int, Field(ge=0)] | None = None
    """Photographs of other lesions that it is trained on, too; all of the training part's if left out."""
    training: TrainingSettings | None = None
    """How it is trained; as the run's VAE if left out."""


class PrivateSettings(Settings):
    """The VAE that is trained with differential privacy, once for each budget and once without."""

    epsilons: Annotated[tuple[Rate, ...], Field(min_length=3)] = (1.0, 3.0, 10.0)
    """The budgets, rising."""
    delta: Annotated[float, Field(gt=0, lt=1)] = 1.0e-5
    """The probability with which the bound by epsilon may fail; well below one over the lesions."""
    sampling_rate: Annotated[float, Field(gt=0, le=1)] = 0.06
    """The probability with which a lesion is drawn at a step."""
    steps: Count = 300
    clip: Rate = 1.0
    """The length to which the gradient of one photograph is cut."""
    learning_rate: Rate = 2.0e-3
    ema_decay: Share = 0.98
    latent_size: Count = 32
    width: Annotated[int, Field(gt=0, multiple_of=8)] = 8
    deviation: Rate = 0.1
    """The fixed standard deviation of p(x | z), where black is -1 and white 1."""
    at_once: Count = 32
    """Photographs whose gradients lie in memory together; of no influence on what is learned."""
    few: Annotated[int, Field(ge=10)] = 30
    """Lesions that the chapter has a VAE learn by heart, to see whether the attacks find them."""
    few_rate: Annotated[float, Field(gt=0, le=1)] = 1.0
    few_steps: Count = 400

    @model_validator(mode="after")
    def rising(self) -> PrivateSettings:
        if list(self.epsilons) != sorted(set(self.epsilons)):
            raise ValueError(f"epsilons must rise and not repeat: {list(self.epsilons)}")
        return self

    def of_few(self) -> PrivateSettings:
        """The settings with which a few lesions are learned by heart."""
        return self.model_copy(update={"sampling_rate": self.few_rate, "steps": self.few_steps})


def _section(name: str) -> Any:
    """A generator's section as a field, its type and default; the settings are imported once they are met."""
    if REGISTRY[name].in_every_run:
        return Annotated[Any, PlainValidator(REGISTRY[name].settings)], ...
    optional = PlainValidator(lambda value: None if value is None else REGISTRY[name].settings(value))
    return Annotated[Any, optional], None


_Sections: Any = create_model(
    "_Sections", __base__=Settings, name=(str, ...), **{name: _section(name) for name in GENERATORS}
)


class Profile(_Sections):
    """Everything a run depends on but its data and its seed. `name` is the file's stem.

    Besides the fields below it has one for each registered generator, by its name: that one's settings, or
    None if it is not in the run.
    """

    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] = (0,)
    """Seeds of the classifier; each arm is fine-tuned once per seed."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    """If left out, real images alone and with those of each generator of the run."""
    other_split_arms: tuple[Arm, ...] = ()
    """Arms of real images that are also fine-tuned under the other split than `data.protocol`."""
    threads: Count
    """CPU threads of one notebook."""
    released: bool = False
    """Load a released checkpoint instead of training, where it was trained on exactly this run's images."""
    data: DataSettings
    synthesis: SynthesisSettings
    classifier: ClassifierSettings
    probe: ProbeSettings
    evaluation: EvaluationSettings
    privacy: PrivacySettings = PrivacySettings()
    private: PrivateSettings = PrivateSettings()

    @model_validator(mode="before")
    @classmethod
    def with_arms(cls, content: Any) -> Any:
        if isinstance(content, dict) and "arms" not in content:
            return {**content, "arms": ("real", *(name for name in GENERATORS if content.get(name)))}
        return content

    @model_validator(mode="after")
    def consistent(self) -> Profile:
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds holds a repeat: {list(self.seeds)}")
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"arms holds a repeat: {list(self.arms)}")
        if "real" not in self.arms:
            raise ValueError("arms lacks 'real', with which all others are compared")
        absent = [arm for arm in self.arms if arm not in self.possible_arms]
        if absent:
            raise ValueError(f"arms holds {absent[0]}, but there is no section {generator_of(absent[0])}")
        made = [arm for arm in self.other_split_arms if generator_of(arm)]
        if made:
            raise ValueError(
                f"other_split_arms holds {made[0]}, whose generator has seen images of that split's test part"
            )
        if self.data.validation_share + self.data.test_share >= 1:
            raise ValueError("data.validation_share + data.test_share leave nothing to train on")
        return self

    def with_classifiers(self, seeds: Sequence[int], arms: Sequence[str]) -> Profile:
        """The same profile with other seeds and arms; raises InputError for a repeat or an unknown arm."""
        try:
            return parse_profile({**self.model_dump(), "seeds": list(seeds), "arms": list(arms)})
        except ValidationError as error:
            raise InputError(_explain_all(error)) from error

    @property
    def generators(self) -> tuple[str, ...]:
        """The generators of the run: those that the profile has a section for."""
        return tuple(name for name in GENERATORS if getattr(self, name) is not None)

    @property
    def possible_arms(self) -> tuple[str, ...]:
        """The arms that the run could have: those of real images, and those of its generators."""
        return tuple(arm for arm in ARMS if generator_of(arm) in (None, *self.generators))

    def generator_settings(self, name: str) -> Any:
        """The settings of the generator `name`; raises InputError for one that is not in the run."""
        if name not in GENERATORS:
            raise InputError(f"no generator is called {name!r}; there are {', '.join(GENERATORS)}")
        if name not in self.generators:
            raise InputError(
                f"the profile {self.name} has no section {name}: add one to have that generator in a run"
            )
        return getattr(self, name)


def other_protocol(protocol: str) -> Literal["lesion", "image"]:
    """The other way to split: `image` for `lesion`, `lesion` for `image`."""
    return "image" if protocol == "lesion" else "lesion"


def generator_of(arm: str) -> str | None:
    """The generator whose images an arm learns from; None for an arm of real images alone."""
    name = arm.removesuffix("_only")
    return name if name in GENERATORS else None


def load_profile(name_or_path: str, profiles: Path | None = None) -> Profile:
    """The profile `profiles/<name>.yaml`, or the one in a .yaml file given by its path.

    Raises InputError naming the file, the key and the mending step for an unknown or wrongly typed key.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path).expanduser()
    else:
        path = (profiles or project_root() / "profiles") / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise InputError(f"no profile at {path}" + (f"; known there: {known}" if known else ""))
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not readable YAML: {error}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings: it must map keys to values")
    try:
        return parse_profile({"name": path.stem, **content})
    except ValidationError as error:
        raise InputError(f"{path}: {_explain_all(error)}") from error


def recorded_profile(folder: Path) -> dict[str, Any]:
    """What the `run.yaml` in `folder` says of its profile, with the seeds and arms that the run has by now.

    Raises InputError if there is no run.
    """
    record = folder / "run.yaml"
    if not record.is_file():
        raise InputError(f"{folder} is not a run: python -m hamsynth_utils.run makes one")
    return yaml.safe_load(record.read_text())["profile"]


def seeds_from(text: str) -> tuple[int, ...]:
    """The seeds of a list as in SEEDS=0,1,2; raises InputError for anything but whole numbers from 0 up."""
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not part.isdecimal():
            raise InputError(f"seeds are whole numbers from 0 up, as in 0,1,2, but {text!r} holds {part!r}")
    return tuple(int(part) for part in parts)


def arms_from(text: str) -> tuple[str, ...]:
    """The names of a list as in ARMS=real,vae."""
    return tuple(part.strip() for part in text.split(","))


def parse_profile(content: dict[str, Any]) -> Profile:
    """A Profile from plain YAML values; raises pydantic.ValidationError."""
    return Profile.model_validate(_tuples(content))


def project_root() -> Path:
    """The checkout that holds `profiles/` and `notebooks/`."""
    return Path(__file__).resolve().parent.parent


def _tuples(value: Any) -> Any:
    """YAML has lists where the frozen settings have tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _explain_all(error: ValidationError) -> str:
    return "; ".join(_explain(e) for e in error.errors())


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "the profile"
    value = error.get("input")
    if error["type"] == "value_error":  # of a section as a whole, which is too long to be repeated
        return ": ".join(filter(None, [".".join(map(str, error["loc"])), str(error["ctx"]["error"])]))
    if error["type"] == "extra_forbidden":
        return f"{where} is not a setting: remove it or correct its name"
    if error["type"] == "missing":
        return f"{where} is missing"
    if isinstance(value, str) and error["type"] in {"float_type", "int_type"}:
        hint = ""
        with suppress(ValueError):
            float(value)
            hint = f" (YAML reads {value} as text: write {_yaml_float(value)})"
        return f"{where} is the text {value!r}, not a number{hint}"
    return f"{where}: {error['msg']}, but it is {value!r}"


def _yaml_float(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    if exponent and exponent[0] not in "+-":
        exponent = f"+{exponent}"
    return f"{mantissa}e{exponent}" if exponent else mantissa
