"""The ledger of claims: what the source report says, what would decide it, and what a run found.

`book/claims.yaml` states each claim as a hypothesis about one estimate, with the threshold that decides it,
written before any run that is judged by it. A run's estimates are the rows of the tables in
`metrics/estimates/`, one a chapter. The verdict follows from the two by rule:

above t      supported if the whole interval lies above t, contradicted if it lies below
below t      the other way round
within a, b  supported if the whole interval lies in a to b, contradicted if it lies outside

and undecided otherwise. A claim is not testable in a run that has no such estimate, whose models have hardly
begun to learn, or, if it is about a classifier, whose test part leaks; unless the claim names the report's
own split by images, of which leaking is a part. A verdict is about the images of its run: only where those
are HAM10000's does it concern what the report says.
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
from hamsynth_utils.core.paths import project_root
from hamsynth_utils.core.settings import Settings

VERDICTS = ("supported", "contradicted", "undecided", "not testable in this run")


MEASURED = ["value", "low", "high", "n", "lesions", "seeds", "extractor"]


ESTIMATES = ["statistic", "arm", "reference", "split_by", *MEASURED]
"""Columns of the estimates: of `arm`, less that of `reference` if there is one, by models that were trained
and tested under the split `split_by` (lesion or image); n images of so many lesions; how many seeds of
training are in the interval; the feature extractor or the attack, where there is one."""


LEAST_PASSES = 5.0
"""How often a model must have seen each training image on average to speak for its method."""


class Claim(Settings):
    """One claim and what decides it.

    says: what the source report prints; hypothesis: the same as a statement about the estimate.
    statistic, arm, reference, split_by: the row of the estimates; without a split_by, under the run's own.
    models: whose training it rests on, generators' names or `vit`. passes: how often these must have seen
    each training image, if not `LEAST_PASSES`, for the claim to be anything but contradicted.
    untestable: why no run of ours can decide it; such a claim has no statistic.
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
    """The claims in `path`, by default those of the book.

    Raises InputError naming the claim and its fault for an unknown or missing key, a rule that cannot decide,
    or an id that is there twice.
    """
    path = path or project_root() / "book/claims.yaml"
    claims: list[Claim] = []
    for entry in yaml.safe_load(path.read_text()):
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

    Raises InputError naming a file that lacks one of the columns ESTIMATES.
    """
    tables = {path: pd.read_csv(path) for path in paths}
    for path, table in tables.items():
        _check_columns(table, str(path))
    return pd.concat(tables.values(), ignore_index=True)


def estimate_of(claim: Claim, estimates: pd.DataFrame, split_by: str) -> pd.Series | None:
    """The row of the estimates that decides a claim; None if there is none, or it could not be measured.

    split_by: the split of the run, under which claims are judged that name none. Raises InputError for
    estimates without the columns ESTIMATES, or with two rows for the claim.
    """
    _check_columns(estimates, "the table of estimates")
    found = estimates[estimates["statistic"] == claim.statistic]
    found = found[found["split_by"] == (claim.split_by or split_by)]
    for column, wanted in (("arm", claim.arm), ("reference", claim.reference)):
        found = found[found[column].isna() if wanted is None else found[column] == wanted]
    if len(found) > 1:
        raise InputError(f"the claim {claim.id} has {len(found)} estimates: one must decide it")
    measured = len(found) == 1 and found[["low", "high"]].notna().all(axis=None)
    return found.iloc[0] if measured else None


def ledger(
    claims: list[Claim],
    estimates: pd.DataFrame,
    passes: dict[str, float],
    images: str,
    split_by: str,
    leaked: float,
) -> pd.DataFrame:
    """One row a claim: its words, threshold, estimate with n and seeds, verdict and reason.

    estimates: columns ESTIMATES. passes: how often each model saw a training image, by its name. images:
    whose they are, as `hamsynth_utils.data.ham10000.dataset_name` says it; it stands in every row. split_by: the
    split of the run. leaked: share (0 to 1) of the test images whose lesion was trained or chosen on, as
    `hamsynth_utils.data.split.leaked_share` gives it. `rule` is what the rule alone would say, where there
    is an estimate. Raises InputError as `estimate_of` does.
    """
    return pd.DataFrame(
        [
            {**_judged(claim, estimates, passes, split_by, leaked), "images": images}
            for claim in claims
        ]
    )


def decide(claim: Claim, low: float, high: float) -> str:
    """The verdict that the claim's rule gives for an interval."""
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


def _judged(
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
        # An attack that succeeds on a model of little training has succeeded: more training cannot mend that.
        needed = 0.0 if rule == "contradicted" else claim.passes
    obstacles = [
        f"{name} saw each image {passes[name]:.1f} times"
        if name in passes
        else f"{name} is missing"
        for name in claim.models
        if passes.get(name, 0.0) < needed
    ]
    if leaked and "vit" in claim.models and claim.split_by != "image":
        obstacles += [
            f"{100 * leaked:.1f} % of the test images show a lesion that was learned from"
        ]
    if estimate is None:
        reason = "; ".join([*obstacles, "no such estimate in this run"])
        return {**row, "verdict": VERDICTS[3], "reason": reason}
    return {
        **row,
        **estimate[MEASURED].to_dict(),
        "rule": rule,
        "verdict": VERDICTS[3] if obstacles else rule,
        "reason": "; ".join(obstacles),
    }
