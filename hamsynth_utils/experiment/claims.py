"""The claims of the source report: what each one says, what decides it, and what a run found.

`book/claims.yaml` states each claim as a hypothesis about one estimate, with the threshold that
decides it. The file was written before any run that is judged by it. The estimates of a run are the
rows of the tables in `metrics/estimates/`, one table per chapter. A rule gives the verdict:

- above t: supported if the whole interval lies above t, contradicted if it lies below t.
- below t: supported if the whole interval lies below t, contradicted if it lies above t.
- within a, b: supported if the whole interval lies between a and b, contradicted if it lies
  outside.

Otherwise the verdict is undecided. A claim is not testable in a run in three cases:

- The run has no such estimate, or could not measure it.
- A model that the claim rests on has seen each training image too rarely.
- The claim is about a classifier, and the test part shares lesions with the training part. This
  case does not apply to claims about the report's own split by images, which shares lesions by
  design.

A verdict is about the images of its run. It concerns the source report only if these are
HAM10000's.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import pandas as pd
import yaml
from pydantic import Field, ValidationError, model_validator

from hamsynth_utils.core.arm_names import ARMS, GENERATORS
from hamsynth_utils.core.errors import InputError
from hamsynth_utils.core.files import read_csv
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.settings import Settings

VERDICTS = ("supported", "contradicted", "undecided", "not testable in this run")
"""The possible verdicts about a claim."""


MEASURED = ["value", "low", "high", "n", "lesions", "seeds", "extractor"]
"""Columns of the estimates that hold results."""


ESTIMATES = ["statistic", "arm", "reference", "split_by", *MEASURED]
"""Columns of the estimates. The value is the statistic of `arm`, minus that of `reference` if there
is one. `split_by` is the split of the models, `lesion` or `image`. `n` images of `lesions` lesions
were measured. `seeds` is the number of trainings. `extractor` names the feature extractor or the
attack, if there is one. A table has a column `reason`, too, if one of its rows was not measured."""


LEAST_PASSES = 5.0
"""How often a model must have seen each training image, on average, to represent its method."""


class Claim(Settings):
    """One claim and what decides it.

    Attributes:
        id: a short name that no other claim has.
        says: the words of the source report.
        hypothesis: the same as a statement about the estimate.
        statistic: the statistic of the estimate; None for an untestable claim.
        arm: the arm of the estimate; None if the estimate has none.
        reference: the arm that is subtracted; None if the estimate has none.
        split_by: the split of the estimate, `lesion` or `image`; None for the run's own.
        above: the threshold that the interval must lie above.
        below: the threshold that the interval must lie below.
        within: the two thresholds that the interval must lie between.
        models: the models whose training the claim rests on: names of generators, or `vit`.
        passes: how often these models must have seen each training image, unless the claim is
            contradicted; None for `LEAST_PASSES` in every case.
        untestable: why no run can decide the claim; None for a testable one.
    """

    id: str
    says: str
    hypothesis: str
    statistic: str | None = None
    arm: str | None = None
    reference: str | None = None
    split_by: Literal["lesion", "image"] | None = None
    above: float | None = None
    below: float | None = None
    within: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None
    models: list[str] = Field(default_factory=list)
    passes: float | None = None
    untestable: str | None = None

    @model_validator(mode="after")
    def decidable(self) -> Claim:
        """Refuse a claim that its own fields contradict."""
        rules = [rule for rule in (self.above, self.below, self.within) if rule is not None]
        if (self.untestable is None) == (self.statistic is None):
            raise ValueError("a claim needs either a statistic or a reason why it is untestable")
        if self.statistic is not None and len(rules) != 1:
            raise ValueError(
                "a claim with a statistic needs exactly one of above, below and within"
            )
        if self.within is not None and self.within[0] >= self.within[1]:
            raise ValueError(f"within must be two numbers that rise, not {self.within}")
        unknown = {self.arm, self.reference} - {None, *ARMS}
        unknown |= set(self.models) - {"vit", *GENERATORS}
        if unknown:
            raise ValueError(f"there is no arm or model {', '.join(map(str, unknown))}")
        return self

    @property
    def threshold(self) -> str:
        """The rule in words."""
        if self.within is not None:
            return f"within {self.within[0]:g} to {self.within[1]:g}"
        return f"above {self.above:g}" if self.above is not None else f"below {self.below:g}"


def read_claims(path: Path | None = None) -> list[Claim]:
    """Read the claims.

    Args:
        path: a YAML file; `book/claims.yaml` by default.

    Returns:
        The claims in the order of the file.

    Raises:
        InputError: if a claim has an unknown key, lacks a key, has a rule that cannot decide it, or
            has the id of another claim. The message names the claim.
    """
    path = path or project_root() / "book/claims.yaml"
    claims: list[Claim] = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        try:
            claims.append(Claim.model_validate(entry))
        except ValidationError as error:
            what = "; ".join(
                f"{'.'.join(map(str, each['loc']))} {each['msg']}".strip()
                for each in error.errors()
            )
            raise InputError(f"{path}, claim {entry.get('id', entry)}: {what}") from error
        if claims[-1].id in {claim.id for claim in claims[:-1]}:
            raise InputError(f"{path} has two claims with the id {claims[-1].id}")
    return claims


def read_estimates(paths: Iterable[Path]) -> pd.DataFrame:
    """The estimates that several chapters wrote, as one table.

    Args:
        paths: the CSV files.

    Raises:
        InputError: if a file lacks one of the columns `ESTIMATES`.
    """
    tables = {path: read_csv(path) for path in paths}
    for path, table in tables.items():
        _check_columns(table, str(path))
    return pd.concat(tables.values(), ignore_index=True)


def estimate_of(claim: Claim, estimates: pd.DataFrame, split_by: str) -> pd.Series | None:
    """The row of the estimates that decides a claim.

    Args:
        claim: the claim.
        estimates: a table with the columns `ESTIMATES`.
        split_by: the split of the run, for claims that name none.

    Returns:
        The row, or None if there is no such row or it has no interval.

    Raises:
        InputError: if the estimates lack a column, or have two rows for the claim.
    """
    found = _row_of(claim, estimates, split_by)
    return None if found is None or found[["low", "high"]].isna().any() else found


def _row_of(claim: Claim, estimates: pd.DataFrame, split_by: str) -> pd.Series | None:
    """The row of a claim, measured or not; None if there is none. See `estimate_of`."""
    _check_columns(estimates, "the table of estimates")
    found = estimates[estimates["statistic"] == claim.statistic]
    found = found[found["split_by"] == (claim.split_by or split_by)]
    for column, wanted in (("arm", claim.arm), ("reference", claim.reference)):
        found = found[found[column].isna() if wanted is None else found[column] == wanted]
    if len(found) > 1:
        raise InputError(f"the claim {claim.id} has {len(found)} estimates: one must decide it")
    return found.iloc[0] if len(found) else None


def verdict_table(
    claims: list[Claim],
    estimates: pd.DataFrame,
    passes: dict[str, float],
    images: str,
    split_by: str,
    leaked: float,
) -> pd.DataFrame:
    """Judge every claim.

    Args:
        claims: the claims.
        estimates: a table with the columns `ESTIMATES`.
        passes: how often each model has seen each training image, by the model's name.
        images: the name of the data set, see `hamsynth_utils.data.ham10000.dataset_name`.
        split_by: the split of the run.
        leaked: the share of the test images, 0 to 1, whose lesion is in the training or validation
            part, see `hamsynth_utils.data.split.leaked_share`.

    Returns:
        One row per claim: its words, threshold, estimate, verdict and reason. The column `rule` has
        the verdict of the rule alone, if there is an estimate.

    Raises:
        InputError: as `estimate_of` does.
    """
    rows = [_verdict_row(claim, estimates, passes, split_by, leaked) for claim in claims]
    return pd.DataFrame([{**row, "images": images} for row in rows])


def decide(claim: Claim, low: float, high: float) -> str:
    """The verdict that the rule of a testable claim gives for an interval.

    Args:
        claim: the claim, with one of `within`, `above` and `below`.
        low: the lower end of the interval.
        high: the upper end of the interval.

    Returns:
        `supported` if the whole interval meets the threshold, `contradicted` if no part of it does,
        else `undecided`.
    """
    if claim.within is not None:
        least, most = claim.within
        inside, outside = least <= low and high <= most, high < least or most < low
    elif claim.above is not None:
        inside, outside = low > claim.above, high < claim.above
    else:
        assert claim.below is not None
        inside, outside = high < claim.below, low > claim.below
    return "supported" if inside else "contradicted" if outside else "undecided"


def _check_columns(estimates: pd.DataFrame, name: str) -> None:
    missing = [column for column in ESTIMATES if column not in estimates]
    if missing:
        raise InputError(f"{name} lacks the column(s) {', '.join(missing)}")


def _verdict_row(
    claim: Claim, estimates: pd.DataFrame, passes: dict[str, float], split_by: str, leaked: float
) -> dict:
    row = {"id": claim.id, "says": claim.says, "hypothesis": claim.hypothesis}
    if claim.untestable is not None:
        return {**row, "verdict": VERDICTS[3], "reason": claim.untestable}
    row |= {"threshold": claim.threshold, "split_by": claim.split_by or split_by}
    estimate = estimate_of(claim, estimates, split_by)
    rule = None if estimate is None else decide(claim, estimate["low"], estimate["high"])
    needed = LEAST_PASSES
    if claim.passes is not None:
        # An attack that succeeds on a briefly trained model has succeeded: more training does not
        # undo that.
        needed = 0.0 if rule == "contradicted" else claim.passes
    obstacles = [
        f"{name} saw each image {passes[name]:.1f} times"
        if name in passes
        else f"{name} is missing"
        for name in claim.models
        if passes.get(name, 0.0) < needed
    ]
    if leaked and "vit" in claim.models and claim.split_by != "image":
        share = f"{100 * leaked:.1f} %"
        obstacles.append(f"{share} of the test images show a lesion that was learned from")
    if estimate is None:
        unmeasured = _row_of(claim, estimates, split_by)
        why = None if unmeasured is None else unmeasured.get("reason")
        obstacles.append(why if isinstance(why, str) else "no such estimate in this run")
        return {**row, "verdict": VERDICTS[3], "reason": "; ".join(obstacles)}
    return {
        **row,
        **estimate[MEASURED].to_dict(),
        "rule": rule,
        "verdict": VERDICTS[3] if obstacles else rule,
        "reason": "; ".join(obstacles),
    }
