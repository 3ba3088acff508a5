"""The road of one run: which notebook, with which parameters, after which.

`make report` is the way in: it makes or checks the run, whose seeds and arms are read here, and calls
Snakemake. Each job says how many threads, how much memory and how many minutes it may need, so that a machine
can be shared out or a cluster's scheduler can place it; one that is tried again may have more memory.
A notebook is executed again if it, or one before it, has changed. Its output appears under its name only once
it has run to the end; what a failed one got to is kept as .partial.ipynb.
"""

import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout

ROOT = Path(workflow.basedir)
sys.path.insert(0, str(ROOT))

from hamsynth_utils.core.arm_names import generator_of
from hamsynth_utils.core.arm_names import other_split
from hamsynth_utils.core.profile import recorded_profile
from hamsynth_utils.core.registry import REGISTRY

RUN = str(config["run"])
RUNS = Path(os.environ.get("HAMSYNTH_RUNS") or ROOT / "runs").absolute()
PROFILE = recorded_profile(RUNS / RUN)
NOTEBOOKS = ROOT / "notebooks"
PARAMETERS = ["-r", "data", config["data"], "-r", "profile", config["profile"], "-r", "run", RUN]
PARAMETERS += ["-p", "seed", config["seed"]]
GENERATOR_CHAPTERS = {name: each.chapter for name, each in REGISTRY.items() if PROFILE.get(name)}
LONGEST = [chapter for name, chapter in GENERATOR_CHAPTERS.items() if "autoencoder" in PROFILE[name]]
GENERATORS = [f"notebooks/{chapter}.ipynb" for chapter in GENERATOR_CHAPTERS.values()]
PROBES = "notebooks/07_controls.ipynb"
CLASSIFIERS = [f"notebooks/06_vit-{arm}-{seed}.ipynb" for arm in PROFILE["arms"] for seed in PROFILE["seeds"]]
OTHER_SPLIT = other_split(PROFILE["data"]["split_by"])
CLASSIFIERS += [
    f"notebooks/06_vit-{arm}-{seed}-{OTHER_SPLIT}.ipynb"
    for arm in PROFILE["other_split_arms"] for seed in PROFILE["seeds"]
]
EXTERNAL = str(config.get("external", ""))
EXECUTE = (
    "HAMSYNTH_THREADS={threads} OMP_NUM_THREADS={threads} {sys.executable:q} -m hamsynth_utils.cli job"
    " {params.name} {log} {sys.executable:q} -m papermill {input.notebook:q} notebooks/{params.name}.partial.ipynb"
    " --kernel python3 --cwd {NOTEBOOKS:q} --log-output --no-progress-bar {params.parameters:q}"
    " && mv notebooks/{params.name}.partial.ipynb {output}"
)


workdir: RUNS / RUN


# Notebooks find the package and their runs wherever they are executed.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
os.environ["HAMSYNTH_RUNS"] = str(RUNS)
os.environ["HAMSYNTH_PIPELINE"] = str(os.getpid())
os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"

if workflow.is_main_process:
    # The system lets go of this lock when the process dies, unlike of Snakemake's own.
    pipeline_lock = FileLock(".pipeline.lock")
    try:
        pipeline_lock.acquire(timeout=0.5)
    except Timeout:
        print(f"run {RUN} is being made by another command: waiting for it to end", file=sys.stderr)
        pipeline_lock.acquire()


onerror:
    for path in sorted((RUNS / RUN / "notebooks").glob("*.partial.ipynb")):
        print(f"{path.name.split('.')[0]} failed; what it got to: {path}", file=sys.stderr)
    print("what is finished is kept: the same command goes on from here", file=sys.stderr)


rule report:
    input:
        "notebooks/15_claims.ipynb",
        "notebooks/11_guarantee.ipynb",
        ["notebooks/16_external.ipynb"] if EXTERNAL else [],
        pages=[ROOT / "_config.yml", ROOT / "_toc.yml", *sorted(p for p in (ROOT / "book").rglob("*") if p.is_file())],
    output:
        update("site/index.html"),
    resources:
        mem_mb=lambda wildcards, attempt: 2500 * attempt,
        runtime=60,
    shell:
        "echo 'report: building' >&2; {sys.executable:q} -m hamsynth_utils.cli build . > /dev/null"


rule dataset:
    input:
        notebook=NOTEBOOKS / "01_dataset.ipynb",
    output:
        "notebooks/01_dataset.ipynb",
    log:
        "logs/01_dataset.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 2500 * attempt,
        runtime=60,
    params:
        name="01_dataset",
        parameters=[*PARAMETERS, "-p", "skip_broken", str(str(config.get("skip_broken", "")) not in {"", "0", "False"})],
    shell:
        EXECUTE


rule generator:
    input:
        "notebooks/01_dataset.ipynb",
        notebook=NOTEBOOKS / "{chapter}.ipynb",
    output:
        "notebooks/{chapter}.ipynb",
    wildcard_constraints:
        chapter="|".join(sorted({*GENERATOR_CHAPTERS.values()} - {*LONGEST})),
    log:
        "logs/{chapter}.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 3500 * attempt,
        runtime=1440,
    priority: 1
    params:
        name="{chapter}",
        parameters=PARAMETERS,
    shell:
        EXECUTE


# The generators come before any classifier, and the longest trainings first: in the end everything waits for them.
use rule generator as longest_generator with:
    wildcard_constraints:
        chapter="|".join(LONGEST),
    priority: 2


rule classifier:
    input:
        lambda wildcards: "notebooks/" + GENERATOR_CHAPTERS.get(generator_of(wildcards.arm), "01_dataset") + ".ipynb",
        notebook=NOTEBOOKS / "06_vit.ipynb",
    output:
        "notebooks/06_vit-{arm}-{classifier_seed}.ipynb",
    wildcard_constraints:
        arm="|".join(PROFILE["arms"]),
        classifier_seed=r"\d+",
    log:
        "logs/06_vit-{arm}-{classifier_seed}.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4096 * attempt,
        runtime=720,
    params:
        name="06_vit-{arm}-{classifier_seed}",
        parameters=[*PARAMETERS, "-r", "arm", "{arm}", "-p", "classifier_seed", "{classifier_seed}"],
    shell:
        EXECUTE


use rule classifier as other_split_classifier with:
    output:
        "notebooks/06_vit-{arm}-{classifier_seed}-{split_by}.ipynb",
    wildcard_constraints:
        arm="|".join(PROFILE["other_split_arms"]),
        classifier_seed=r"\d+",
        split_by=OTHER_SPLIT,
    log:
        "logs/06_vit-{arm}-{classifier_seed}-{split_by}.log",
    params:
        name="06_vit-{arm}-{classifier_seed}-{split_by}",
        parameters=[*PARAMETERS, "-r", "arm", "{arm}", "-p", "classifier_seed", "{classifier_seed}", "-r", "split_by", "{split_by}"],


rule probes:
    input:
        GENERATORS,
        notebook=NOTEBOOKS / "07_controls.ipynb",
    output:
        PROBES,
    log:
        "logs/07_controls.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4096 * attempt,
        runtime=240,
    params:
        name="07_controls",
        parameters=PARAMETERS,
    shell:
        EXECUTE


rule fidelity:
    input:
        GENERATORS,
        notebook=NOTEBOOKS / "08_fidelity.ipynb",
    output:
        "notebooks/08_fidelity.ipynb",
    log:
        "logs/08_fidelity.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4096 * attempt,
        runtime=240,
    params:
        name="08_fidelity",
        parameters=PARAMETERS,
    shell:
        EXECUTE


rule evaluation:
    input:
        "notebooks/08_fidelity.ipynb",
        PROBES,
        CLASSIFIERS,
        notebook=NOTEBOOKS / "09_evaluation.ipynb",
    output:
        "notebooks/09_evaluation.ipynb",
    log:
        "logs/09_evaluation.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4096 * attempt,
        runtime=240,
    params:
        name="09_evaluation",
        parameters=PARAMETERS,
    shell:
        EXECUTE


rule privacy:
    input:
        GENERATORS,
        notebook=NOTEBOOKS / "10_privacy.ipynb",
    output:
        "notebooks/10_privacy.ipynb",
    log:
        "logs/10_privacy.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4096 * attempt,
        runtime=240,
    params:
        name="10_privacy",
        parameters=PARAMETERS,
    shell:
        EXECUTE


# Trains its own generators, on one photograph a lesion: it needs nothing of the others.
rule guarantee:
    input:
        "notebooks/01_dataset.ipynb",
        notebook=NOTEBOOKS / "11_guarantee.ipynb",
    output:
        "notebooks/11_guarantee.ipynb",
    log:
        "logs/11_guarantee.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4096 * attempt,
        runtime=720,
    params:
        name="11_guarantee",
        parameters=PARAMETERS,
    shell:
        EXECUTE


rule fairness:
    input:
        CLASSIFIERS,
        notebook=NOTEBOOKS / "12_fairness.ipynb",
    output:
        "notebooks/12_fairness.ipynb",
    log:
        "logs/12_fairness.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4096 * attempt,
        runtime=240,
    params:
        name="12_fairness",
        parameters=PARAMETERS,
    shell:
        EXECUTE


rule explanation:
    input:
        f"notebooks/06_vit-real-{PROFILE['seeds'][0]}.ipynb",
        notebook=NOTEBOOKS / "13_explanation.ipynb",
    output:
        "notebooks/13_explanation.ipynb",
    log:
        "logs/13_explanation.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4096 * attempt,
        runtime=240,
    params:
        name="13_explanation",
        parameters=PARAMETERS,
    shell:
        EXECUTE


rule release:
    input:
        "notebooks/08_fidelity.ipynb",
        "notebooks/10_privacy.ipynb",
        "notebooks/12_fairness.ipynb",
        limits=ROOT / "book/release.yaml",
        notebook=NOTEBOOKS / "14_release.ipynb",
    output:
        "notebooks/14_release.ipynb",
    log:
        "logs/14_release.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4096 * attempt,
        runtime=240,
    params:
        name="14_release",
        parameters=PARAMETERS,
    shell:
        EXECUTE


rule claims:
    input:
        "notebooks/09_evaluation.ipynb",
        "notebooks/10_privacy.ipynb",
        "notebooks/13_explanation.ipynb",
        "notebooks/14_release.ipynb",  # for the order of the chapters alone
        claims=ROOT / "book/claims.yaml",
        notebook=NOTEBOOKS / "15_claims.ipynb",
    output:
        "notebooks/15_claims.ipynb",
    log:
        "logs/15_claims.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 2500 * attempt,
        runtime=60,
    params:
        name="15_claims",
        parameters=PARAMETERS,
    shell:
        EXECUTE


# Only where an external test set is given, and last: nothing may be decided after it is opened.
rule external:
    input:
        CLASSIFIERS,
        "notebooks/15_claims.ipynb",
        notebook=NOTEBOOKS / "16_external.ipynb",
    output:
        "notebooks/16_external.ipynb",
    log:
        "logs/16_external.log",
    threads: PROFILE["threads"]
    resources:
        mem_mb=lambda wildcards, attempt: 4096 * attempt,
        runtime=120,
    params:
        name="16_external",
        parameters=[*PARAMETERS, "-r", "external", EXTERNAL],
    shell:
        EXECUTE
