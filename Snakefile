"""The pipeline of one run: which chapter is executed after which, with what memory and time.

`hamsynth report` creates or checks the run, and calls Snakemake. A chapter is executed again if its notebook, or a
chapter before it, has changed. Its output has its name only if it was executed to the end; the output of a chapter
that failed is kept as .partial.ipynb. A job that is tried again may have more memory.
"""

import logging
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from snakemake.settings.enums import Quietness

from hamsynth_utils.core.arm_names import generator_of, other_split
from hamsynth_utils.core.paths import runs_folder
from hamsynth_utils.core.profile import recorded_profile
from hamsynth_utils.core.registry import REGISTRY
from hamsynth_utils.experiment.pipeline import (
    classifier_executions,
    is_snakemakes_error,
    job_environment,
    lock_run,
    print_failures,
)

if Quietness.RULES in (workflow.output_settings.quiet or ()):
    logging.getLogger("snakemake.logging").addFilter(is_snakemakes_error)

RUN, RUNS, EXTERNAL = str(config["run"]), runs_folder().absolute(), str(config.get("external", ""))
PROFILE = recorded_profile(RUNS / RUN)
NOTEBOOKS, BOOK = ROOT / "notebooks", ROOT / "book"
OTHER_SPLIT = other_split(PROFILE["data"]["split_by"])
GENERATORS = {name: each.chapter for name, each in REGISTRY.items() if PROFILE.get(name)}
CLASSIFIERS = classifier_executions(PROFILE)
PARAMETERS = ["-r", "data", config["data"], "-r", "profile", config["profile"], "-r", "run", RUN, "-p", "seed", config["seed"]]
SKIP_BROKEN = ["-p", "skip_broken", str(str(config.get("skip_broken", "")) not in {"", "0", "False"})]
ARM = ["-r", "arm", "{arm}", "-p", "classifier_seed", "{classifier_seed}"]


def executed(*chapters: str) -> list[str]:
    return [f"notebooks/{chapter}.ipynb" for chapter in chapters]


def autoencoder_of(generator: str, seed: int) -> list[str]:
    return trained("autoencoder", [seed]) if PROFILE[generator].get("autoencoder") else []


def trained(network: str, seeds: Iterable[int]) -> list[str]:
    return [f"logs/training-{network}-{seed}.done" for seed in seeds]


def images_of_arm(wildcards: Any) -> list[str]:
    return executed(GENERATORS.get(generator_of(wildcards.arm), "01_dataset"))


def without_braces(path: Path) -> str:
    """A path of the checkout as Snakemake reads it: it takes what stands in braces for a wildcard."""
    return os.path.relpath(path.resolve(), (RUNS / RUN).resolve()) if "{" in str(path) else str(path)


# Papermill, too, replaces what stands in braces in the path of a notebook.
FOLDER = str(NOTEBOOKS).replace("{", "{{").replace("}", "}}")


# What differs between the chapters.
class Chapter(NamedTuple):
    job: str
    name: str
    after: Any  # the notebooks and files that it reads
    memory: int  # MB, at a first try
    minutes: int  # at most
    priority: int = 0
    more: list[str] = []  # parameters of the notebook


# The generators come before any classifier, and the longest trainings first: in the end everything waits for them.
CHAPTERS = [
    Chapter("dataset", "01_dataset", [], 2500, 60, more=SKIP_BROKEN),
    *(
        Chapter(name, chapter, [*executed("01_dataset"), *autoencoder_of(name, 0), *trained(name, PROFILE["generator_seeds"][1:])], 3500, 1440, priority=1)
        for name, chapter in GENERATORS.items()
    ),
    Chapter("classifier", "06_vit-{arm}-{classifier_seed}", images_of_arm, 4096, 720, more=ARM),
    Chapter("other_split_classifier", "06_vit-{arm}-{classifier_seed}-{split_by}", images_of_arm, 4096, 720,
            more=[*ARM, "-r", "split_by", "{split_by}"]),
    Chapter("controls", "07_controls", executed(*GENERATORS.values()), 4096, 240),
    Chapter("fidelity", "08_fidelity", executed(*GENERATORS.values()), 4096, 240),
    Chapter("evaluation", "09_evaluation", executed("08_fidelity", "07_controls", *CLASSIFIERS), 4096, 240),
    Chapter("privacy", "10_privacy", executed(*GENERATORS.values()), 4096, 240),
    Chapter("guarantee", "11_guarantee", executed("01_dataset"), 4096, 720),  # trains its own generators
    Chapter("fairness", "12_fairness", executed(*CLASSIFIERS), 4096, 240),
    Chapter("explanation", "13_explanation", executed(f"06_vit-real-{PROFILE['seeds'][0]}"), 4096, 240),
    Chapter("release", "14_release", [*executed("08_fidelity", "10_privacy", "12_fairness"), without_braces(BOOK / "release.yaml")], 4096, 240),
    Chapter("claims", "15_claims",
            [*executed("09_evaluation", "10_privacy", "13_explanation", "14_release"), without_braces(BOOK / "claims.yaml")], 2500, 60),
    # Only where an external test set is given, and last: nothing may be decided after it is opened.
    Chapter("external", "16_external", executed(*CLASSIFIERS, "15_claims"), 4096, 120, more=["-r", "external", EXTERNAL]),
]


workdir: RUNS / RUN


wildcard_constraints:
    arm="|".join({*PROFILE["arms"], *PROFILE["other_split_arms"]}),
    classifier_seed=r"\d+",
    network="|".join(["autoencoder", *GENERATORS]),
    generator_seed=r"\d+",
    split_by=OTHER_SPLIT,


os.environ |= job_environment(ROOT, RUNS)
if workflow.is_main_process:
    pipeline_lock = lock_run(RUNS / RUN)


onerror:
    print_failures(RUNS / RUN)


# The first rule: what is made if nothing is asked for.
rule report:
    input:
        executed("15_claims", "11_guarantee", *(["16_external"] if EXTERNAL else [])),
        pages=map(without_braces, [ROOT / "_config.yml", ROOT / "_toc.yml", *sorted(p for p in BOOK.rglob("*") if p.is_file())]),
    output:
        update("site/index.html"),
    resources:
        mem_mb=lambda wildcards, attempt: 2500 * attempt,
        runtime=60,
    shell:
        "echo 'report: building' >&2; {sys.executable:q} -m hamsynth_utils.cli build . > /dev/null"


def inputs_of_training(wildcards: Any) -> list[str]:
    own = wildcards.network == "autoencoder"
    before = [] if own else autoencoder_of(wildcards.network, wildcards.generator_seed)
    return [*executed("01_dataset"), *before]


# The autoencoder, which all chapters of the generators wait for, and the further seeds of the generators.
rule training:
    input:
        inputs_of_training,
    output:
        touch("logs/training-{network}-{generator_seed}.done"),
    log:
        "logs/training-{network}-{generator_seed}.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 3500 * attempt,
        runtime=1440,
    priority: 2
    params:
        command=lambda wildcards: ["autoencoder"] if wildcards.network == "autoencoder" else ["generator", wildcards.network],
        # A function, because Snakemake takes what stands in braces in a text for a wildcard.
        options=lambda wildcards: ["--data", config["data"], "--profile", config["profile"], "--run", RUN, "--seed", config["seed"]],
    shell:
        "HAMSYNTH_THREADS={threads} OMP_NUM_THREADS={threads} {sys.executable:q} -m hamsynth_utils.cli job"
        " training-{wildcards.network}-{wildcards.generator_seed} {log} {sys.executable:q} -m hamsynth_utils.cli train"
        " {params.command:q} --generator-seed {wildcards.generator_seed} {params.options:q}"


for chapter in CHAPTERS:
    rule:
        name: chapter.job
        input:
            chapter.after,
            notebook=without_braces(NOTEBOOKS / f"{chapter.name.split('-')[0]}.ipynb"),
        output:
            executed(chapter.name),
        log:
            f"logs/{chapter.name}.log",
        threads: PROFILE["threads"]
        resources:
            mem_mb=lambda wildcards, attempt, first=chapter.memory: first * attempt,
            runtime=chapter.minutes,
        priority: chapter.priority
        params:
            name=chapter.name,
            parameters=lambda wildcards, more=chapter.more: [*PARAMETERS, *(value.format(**wildcards) for value in more)],
        shell:
            "HAMSYNTH_THREADS={threads} OMP_NUM_THREADS={threads} {sys.executable:q} -m hamsynth_utils.cli job"
            " {params.name} {log} {sys.executable:q} -m papermill {FOLDER:q}/$(basename {input.notebook:q}) notebooks/{params.name}.partial.ipynb"
            " --kernel python3 --cwd {NOTEBOOKS:q} --log-output --no-progress-bar {params.parameters:q}"
            " && sync notebooks/{params.name}.partial.ipynb && mv notebooks/{params.name}.partial.ipynb {output}"
