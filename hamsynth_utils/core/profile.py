"""The `Profile`: every number a run depends on, read from `profiles/*.yaml` and validated."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from functools import reduce
from pathlib import Path
from textwrap import shorten
from typing import Annotated, Any

import yaml
from pydantic import Field, PlainValidator, ValidationError, create_model, model_validator

from hamsynth_utils.core.arm_names import ARMS, GENERATORS, Arm, generator_of
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import damage_as_input_error, decode_text, read_bytes, read_yaml
from hamsynth_utils.core.generator_settings import AutoencoderSettings
from hamsynth_utils.core.paths import RunPaths, project_root
from hamsynth_utils.core.profile_sections import (
    ClassifierSettings,
    DataSettings,
    DPSettings,
    EvaluationSettings,
    PrivacySettings,
    ProbeSettings,
    SynthesisSettings,
)
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.core.settings import MAX_SEED, Count, Seed, Settings


def _section(name: str) -> Any:
    """A generator's section as a field: its type and its default."""
    if REGISTRY[name].in_every_run:
        return Annotated[Any, PlainValidator(REGISTRY[name].settings_class.model_validate)], ...
    optional = PlainValidator(
        lambda value: None if value is None else REGISTRY[name].settings_class.model_validate(value)
    )
    return Annotated[Any, optional], None


_Sections: Any = create_model(
    "_Sections", __base__=Settings, name=(str, ...), **{name: _section(name) for name in GENERATORS}
)


class Profile(_Sections):
    """Everything that a run depends on, except its data and its seed.

    `name` is the stem of the profile's file. Besides the fields below, a profile has a field for
    each registered generator. The field has the generator's name, and holds its settings, or None
    if the generator is not in the run.
    """

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Seeds of the classifier; each arm is fine-tuned once per seed."""
    generator_seeds: Annotated[tuple[Seed, ...], Field(min_length=1)] = (0,)
    """Seeds of the generators. The first seed is 0, which the chapters show."""
    arms: Annotated[tuple[Arm, ...], Field(min_length=1)]
    """What the classifiers train on; by default `real` and every generator of the run."""
    other_split_arms: tuple[Arm, ...] = ()
    """Arms without synthetic images that are also fine-tuned under the other `data.split_by`."""
    threads: Count
    """CPU threads per notebook."""
    use_released_checkpoints: bool = False
    """Whether to install a released checkpoint that was trained on exactly this run's images."""
    autoencoder: AutoencoderSettings | None = None
    """The autoencoder whose latents the generators share. A generator's section takes it over,
    unless the section says `autoencoder: null`: that generator works on pixels."""
    data: DataSettings
    """The images and their split."""
    synthesis: SynthesisSettings
    """Number of synthetic images."""
    classifier: ClassifierSettings
    """The fine-tuned vision transformer."""
    probe: ProbeSettings
    """The linear layer on pretrained features."""
    evaluation: EvaluationSettings
    """The measurements of fidelity, and the bootstrap."""
    privacy: PrivacySettings = PrivacySettings()
    """The membership attacks."""
    dp: DPSettings = DPSettings()
    """The training with differential privacy."""

    @model_validator(mode="before")
    @classmethod
    def with_autoencoder(cls, content: Any) -> Any:
        """Hand the autoencoder to every generator that can work in latents."""
        if not isinstance(content, dict) or content.get("autoencoder") is None:
            return content
        latent = [
            name
            for name in GENERATORS
            if "autoencoder" in REGISTRY[name].settings_class.model_fields
            and isinstance(content.get(name), dict)
        ]
        shared = {"autoencoder": content["autoencoder"]}
        return {**content, **{name: {**shared, **content[name]} for name in latent}}

    @model_validator(mode="before")
    @classmethod
    def with_arms(cls, content: Any) -> Any:
        """Fill in the default of `arms`, which depends on the other keys."""
        if isinstance(content, dict) and "arms" not in content:
            return {
                **content,
                "arms": ("real", *(name for name in GENERATORS if content.get(name))),
            }
        return content

    @model_validator(mode="after")
    def consistent(self) -> Profile:
        """Refuse values that contradict each other."""
        for key in ("seeds", "generator_seeds"):
            seeds = getattr(self, key)
            if len(set(seeds)) != len(seeds):
                raise ValueError(f"{key} holds a repeat: {list(seeds)}")
        if self.generator_seeds[0] != 0:
            raise ValueError(f"generator_seeds must begin with 0: {list(self.generator_seeds)}")
        if len(set(self.arms)) != len(self.arms):
            raise ValueError(f"arms holds a repeat: {list(self.arms)}")
        for name in self.generators:
            own = getattr(getattr(self, name), "autoencoder", None)
            if own is not None and own != self.autoencoder:
                raise ValueError(
                    f"{name}.autoencoder differs from the profile's section autoencoder, which all "
                    "generators share: leave it out, or say null for pixels"
                )
        if "real" not in self.arms:
            raise ValueError("arms lacks 'real', with which all others are compared")
        absent = [arm for arm in self.arms if arm not in self.possible_arms]
        if absent:
            raise ValueError(
                f"arms holds {absent[0]}, but there is no section {generator_of(absent[0])}"
            )
        made = [arm for arm in self.other_split_arms if generator_of(arm)]
        if made:
            raise ValueError(
                f"other_split_arms holds {made[0]}, whose generator has seen images of that "
                "split's test part"
            )
        if self.data.validation_fraction + self.data.test_fraction >= 1:
            raise ValueError(
                "data.validation_fraction + data.test_fraction leave nothing to train on"
            )
        return self

    def with_classifiers(self, seeds: Sequence[int], arms: Sequence[str]) -> Profile:
        """The same profile with other classifiers.

        Args:
            seeds: the seeds of the classifiers.
            arms: their arms.

        Returns:
            A new profile; this one stays as it is.

        Raises:
            InputError: if a seed or an arm is repeated, or an arm is unknown.
        """
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
        """The settings of a generator.

        Args:
            name: the generator.

        Returns:
            The section of the profile that has this name.

        Raises:
            InputError: if no generator has this name, or the profile has no section for it.
        """
        if name not in GENERATORS:
            raise InputError(f"no generator is called {name!r}; there are {', '.join(GENERATORS)}")
        if name not in self.generators:
            raise InputError(
                f"the profile {self.name} has no section {name}: "
                "add one to have that generator in a run"
            )
        return getattr(self, name)


def load_profile(name_or_path: str, profiles: Path | None = None) -> Profile:
    """Read and check a profile.

    Args:
        name_or_path: the stem of a file in `profiles`, or the path of a .yaml file. With a key
            `base`, the file holds only what differs from the profile of that name beside it.
        profiles: the folder of profiles; `profiles/` of the project by default.

    Returns:
        The validated profile; its `name` is the stem of the file.

    Raises:
        InputError: if the file is missing or not YAML, or a key is unknown, missing or out of
            range. The message names the file and the key, and says what to do.
    """
    if name_or_path.endswith((".yaml", ".yml")):
        path = Path(name_or_path).expanduser()
    else:
        path = (profiles or project_root() / "profiles") / f"{name_or_path}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(p.stem for p in path.parent.glob("*.yaml")))
        raise InputError(f"no profile at {path}" + (f"; known there: {known}" if known else ""))
    files = _with_bases(path)
    for file, settings in files.items():
        if "name" in settings:
            raise InputError(f"{file}: name is not a setting: the file's own name is the profile's")
    content = reduce(_laid_over, reversed(files.values()))
    try:
        return parse_profile({"name": path.stem, **content})
    except ValidationError as error:
        raise InputError(_explain_by_file(error, files)) from error


MAX_VALUES = 10_000
"""More values than any profile has. Aliases can make thousands of millions of a short text."""


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML as `safe_load` reads it, but a key that is written twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """See yaml.constructor.SafeConstructor."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(
                    problem=f"the key {key} is written twice", problem_mark=node.start_mark
                )
        return super().construct_mapping(node, deep)


def _with_bases(path: Path, above: tuple[Path, ...] = ()) -> dict[Path, dict[Any, Any]]:
    """The settings of a file, and of the profiles beside it that it builds on (key `base`)."""
    content = _read_settings(path)
    if "base" not in content:
        return {path: content}
    base = path.parent / f"{shorten(str(content.pop('base')), 80, placeholder='...')}.yaml"
    seen = (path, *above)
    if base.resolve() in [each.resolve() for each in seen]:
        raise InputError(f"{path}: base leads back to {base}: a profile cannot build on itself")
    if not base.is_file():
        raise InputError(f"{path}: base names {base}, which is not there")
    return {path: content, **_with_bases(base, seen)}


def _laid_over(below: dict[Any, Any], above: dict[Any, Any]) -> dict[Any, Any]:
    """The keys of both, section by section; what is above counts."""
    both = below | above
    for key in below.keys() & above.keys():
        if isinstance(below[key], dict) and isinstance(above[key], dict):
            both[key] = _laid_over(below[key], above[key])
    return both


def _read_settings(path: Path) -> dict[Any, Any]:
    """The content of a YAML file that somebody else has written."""
    text = decode_text(read_bytes(path), str(path))
    try:
        content = yaml.load(text, _UniqueKeyLoader)
    except (
        yaml.YAMLError,
        ValueError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RecursionError,
    ) as error:  # PyYAML turns only some faults of a value into its own error
        reason = " ".join(str(error).replace('in "<unicode string>", ', "in ").split())
        raise InputError(f"{path} is not readable YAML: {reason}") from error
    if not isinstance(content, dict):
        raise InputError(f"{path} holds no settings: it must map keys to values")
    values: list[Any] = [content]
    for value in values:
        if isinstance(value, dict | list):
            values.extend(value.values() if isinstance(value, dict) else value)
        if len(values) > MAX_VALUES:
            raise InputError(f"{path} holds more than {MAX_VALUES:,} values: it is no profile")
    return content


def recorded_profile(folder: Path) -> dict[str, Any]:
    """The profile of a run, with the seeds and arms that the run has by now.

    Args:
        folder: the run folder.

    Returns:
        The profile as plain values, by key.

    Raises:
        InputError: as `read_record` does.
    """
    return read_record(folder)["profile"]


def read_record(folder: Path) -> dict[str, Any]:
    """What the record of a run says: profile, data, seed, versions and device.

    Args:
        folder: the run folder.

    Returns:
        The content of the record, by key.

    Raises:
        InputError: if there is no record, or if another version of HamSynth wrote it with settings
            that this version does not have or lacks settings that this version needs.
    """
    path = RunPaths(folder).record
    if not path.is_file():
        raise InputError(f"{folder} is not a run: hamsynth run makes one")
    record = read_yaml(path)
    with damage_as_input_error(path):
        record["profile"]["name"]
    problems = [f"{key} is missing" for key in Profile.model_fields if key not in record["profile"]]
    try:
        parse_profile(record["profile"])
    except ValidationError as error:
        problems.append(_explain_all(error))
    if problems:
        made_by = record.get("hamsynth", "0.1.0")
        raise InputError(
            f"{folder} was made by another version of HamSynth ({made_by}), "
            f"whose settings this version cannot read ({'; '.join(problems)}). "
            "Open it with that version, or take a new name (RUN=...)"
        )
    return record


def seeds_from(text: str) -> tuple[int, ...]:
    """The seeds in a text such as `0,1,2`.

    Args:
        text: whole numbers, separated by commas.

    Returns:
        The numbers, in the order of the text.

    Raises:
        InputError: if a part is not a whole number from 0 to `MAX_SEED`.
    """
    what = f"each of the seeds {text!r}, as in 0,1,2,"
    return tuple(whole_number(what, part, 0, MAX_SEED) for part in text.split(","))


def whole_number(what: str, text: str, least: int, most: int) -> int:
    """A whole number from a text.

    Args:
        what: what the number is, for the message.
        text: the number, in digits.
        least: the smallest number that is allowed.
        most: the largest number that is allowed.

    Returns:
        The number.

    Raises:
        InputError: if the text is no number, or the number is not allowed.
    """
    digits = text.strip()
    if not (digits.isascii() and digits.isdecimal() and least <= int(digits[:30]) <= most):
        shown = text if len(text) <= 30 else f"{text[:30]}..."
        raise InputError(
            f"{what} must be a whole number from {least} to {most}, but it is {shown!r}"
        )
    return int(digits)


def arms_from(text: str) -> tuple[str, ...]:
    """The names in a text such as `real,vae`; `parse_profile` checks them."""
    return tuple(part.strip() for part in text.split(","))


def parse_profile(content: dict[str, Any]) -> Profile:
    """A profile from plain YAML values.

    Args:
        content: the values by key, with lists where a profile has tuples.

    Returns:
        The validated profile.

    Raises:
        pydantic.ValidationError: if a key is unknown or missing, or a value is out of range.
    """
    return Profile.model_validate(_tuples(content))


def _tuples(value: Any) -> Any:
    """YAML has lists where the frozen settings have tuples."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _explain_by_file(error: ValidationError, files: dict[Path, dict[Any, Any]]) -> str:
    """All errors, each after the file that it is in; `files` begins with the profile's own."""
    by_file: dict[Path, list[Any]] = {file: [] for file in files}
    for each in _own_errors(error):
        by_file[_file_of(each["loc"], files)].append(each)
    return "; ".join(f"{file}: {_joined(errors)}" for file, errors in by_file.items() if errors)


def _file_of(keys: Sequence[Any], files: dict[Path, dict[Any, Any]]) -> Path:
    """The file whose value under these keys counts; the first if no file has one."""
    return next((file for file, each in files.items() if _has(each, keys)), next(iter(files)))


def _has(settings: Any, keys: Sequence[Any]) -> bool:
    """Whether settings have a value under these keys; what is in a list belongs to the list."""
    if not keys or not isinstance(settings, dict):
        return True
    return keys[0] in settings and _has(settings[keys[0]], keys[1:])


def _explain_all(error: ValidationError) -> str:
    return _joined(_own_errors(error))


def _joined(errors: list[Any]) -> str:
    return " ".join("; ".join(_explain(e) for e in errors).split())


def _own_errors(error: ValidationError) -> list[Any]:
    """The errors without those that generators repeat because they share the autoencoder."""
    errors = error.errors()
    places = {each["loc"] for each in errors}
    return [
        each
        for each in errors
        if not (each["loc"][1:2] == ("autoencoder",) and each["loc"][1:] in places)
    ]


def _explain(error: Any) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "the profile"
    value = error.get("input")
    if error["type"] == "value_error":  # of a section as a whole, which is too long to be repeated
        return ": ".join(
            filter(None, [".".join(map(str, error["loc"])), str(error["ctx"]["error"])])
        )
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
    return f"{where}: {error['msg']}, but it is {shorten(repr(value), 80, placeholder='...')}"


def _yaml_float(text: str) -> str:
    mantissa, _, exponent = text.lower().partition("e")
    mantissa = mantissa if "." in mantissa else f"{mantissa}.0"
    if exponent and exponent[0] not in "+-":
        exponent = f"+{exponent}"
    return f"{mantissa}e{exponent}" if exponent else mantissa
