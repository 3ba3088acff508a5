"""The `hamsynth` command: every command line of the project, each with its help and an example.

Heavy libraries are imported inside the commands that need them, so that `hamsynth --help` is fast.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hamsynth_utils.core.errors import InputError

if TYPE_CHECKING:
    from hamsynth_utils.experiment.run import Run
    from hamsynth_utils.training.loop import TrainingResult

MAX_SEED = 2**31 - 1
"""`core.settings.MAX_SEED`, without importing pydantic for `--help`."""

PLAIN: dict[str, Any] = {
    "no_args_is_help": True,
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}
app = typer.Typer(help="HamSynth: synthetic dermoscopic images, made and tested.", **PLAIN)
train_app = typer.Typer(help="Train a network of a run without its notebook.", **PLAIN)
reference_app = typer.Typer(help="Archive a run's numbers, or check archived ones.", **PLAIN)
app.add_typer(train_app, name="train")
app.add_typer(reference_app, name="reference")

Data = Annotated[str, typer.Option(help="'phantom', or a folder of HAM10000")]
Profile = Annotated[str, typer.Option(help="a name in profiles/, such as cpu, or a .yaml file")]
RunName = Annotated[str, typer.Option("--run", help="name of the run; DATA-PROFILE if left out")]
TrainedRun = Annotated[str, typer.Option("--run", help="name of the run")]
RequiredRun = Annotated[str, typer.Option("--run", help="name of the run, or its folder")]
Seed = Annotated[
    int, typer.Option(min=0, max=MAX_SEED, help="seed of all that is random in the run")
]
SeedText = Annotated[str, typer.Option(help="seed of all that is random in the run")]
Seeds = Annotated[str, typer.Option(help="of the classifiers, as in 0,1,2; else the profile's")]
Arms = Annotated[str, typer.Option(help="as in real,vae; else the profile's")]
External = Annotated[str, typer.Option(help="folder of an external test set, or 'phantom'")]
GeneratorName = Annotated[str, typer.Option("--generator", help="such as vae, gan, diffusion")]
Identity = Annotated[Path | None, typer.Option(help="file with your secret key, of age or ssh")]
Fingerprint = Annotated[str, typer.Option(help="as the sender told it, by another way")]
Cores = Annotated[str, typer.Option(help="number of CPU cores, or 'all'")]
Memory = Annotated[str, typer.Option(help="MB that jobs share; else what is free")]
Until = Annotated[
    str, typer.Option(help="stop after this chapter, such as 04_diffusion or 06_vit-real-0")
]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="name of the run, or its folder")]


def example(text: str, to: typer.Typer = app, **options: Any) -> Callable[..., Any]:
    """Register a command whose `--help` ends with this example."""
    return to.command(epilog=f"Example: {text}", **options)


def main(arguments: list[str] | None = None) -> int:
    """Run `hamsynth` with these arguments.

    Args:
        arguments: those of the command line if None.

    Returns:
        The exit code: 0, 1 if a check fails, or 2 with one line on stderr for bad input.
    """
    try:
        app(arguments, prog_name="hamsynth")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"hamsynth {version('hamsynth')}")
        raise typer.Exit


@app.callback(epilog="Example: hamsynth report --data phantom --profile smoke")
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="print it")
    ] = False,
) -> None:
    """Make and test synthetic dermoscopic images. `hamsynth COMMAND --help` explains a command."""


@example("hamsynth report --data phantom --profile smoke --seeds 0,1")
def report(
    data: Data = "phantom",
    profile: Profile = "smoke",
    run: RunName = "",
    seed: SeedText = "0",
    seeds: Seeds = "",
    arms: Arms = "",
    external: External = "",
    weights: Annotated[str, typer.Option(help="folder of pretrained weights")] = "",
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="leave out images that cannot be read")
    ] = False,
    cores: Cores = "all",
    memory: Memory = "",
    slurm: Annotated[bool, typer.Option("--slurm", help="submit the jobs to SLURM")] = False,
    until: Until = "",
) -> None:
    """Execute the chapters of a run and build its HTML report.

    A run that was stopped continues where it stopped. Prints the minutes of each chapter and the
    report's address.
    """
    from hamsynth_utils.experiment.pipeline import Request, Resources, run_pipeline

    start = time.time()
    request = Request.of(data, profile, run, seed, external, skip_broken)
    resources = Resources(cores, memory, until)
    code = run_pipeline(request, seeds, arms, weights, resources, slurm)
    if code:
        raise typer.Exit(code)
    from hamsynth_utils.report.build import print_minutes

    print_minutes(request.folder, start)


@example("hamsynth run --run trial --profile smoke --seeds 0,1 --arms real,vae")
def run(
    data: Data = "phantom",
    profile: Profile = "smoke",
    run: RunName = "",
    seed: SeedText = "0",
    seeds: Seeds = "",
    arms: Arms = "",
    external: External = "",
    cores: Cores = "all",
    memory: Memory = "",
    until: Until = "",
) -> None:
    """Create a run, or check that it has these settings.

    Nothing is computed. All that would stop `hamsynth report` later is listed. A run can gain seeds
    and arms, but not lose any.
    """
    from hamsynth_utils.experiment.pipeline import Request, Resources
    from hamsynth_utils.experiment.preflight import prepare_run
    from hamsynth_utils.experiment.provenance import comma_list

    request = Request.of(data, profile, run, seed, external)
    made = prepare_run(request, seeds, arms, Resources(cores, memory, until))
    print(
        f"{made.folder}: profile {made.profile.name}, data {made.data}, seed {made.seed}; "
        f"classifiers: arms {comma_list(made.profile.arms)}, seeds {comma_list(made.profile.seeds)}"
    )


@example("hamsynth serve --data phantom --profile smoke --port 8000")
def serve(
    data: Data = "phantom",
    profile: Profile = "smoke",
    run: RunName = "",
    port: Annotated[str, typer.Option(help="of 127.0.0.1")] = "8000",
) -> None:
    """Show a finished report in the browser.

    Its networks run there. The server stops at Ctrl-C.
    """
    from functools import partial
    from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

    from hamsynth_utils.core.paths import RunPaths
    from hamsynth_utils.core.profile import whole_number
    from hamsynth_utils.experiment.pipeline import Request

    number = whole_number("PORT (--port)", port, 1, 65535)
    site = RunPaths(Request.of(data, profile, run).folder).site
    if not (site / "index.html").is_file():
        raise InputError(
            f"there is no report in {site}: make it with hamsynth report (make report) "
            "and the same options"
        )
    try:
        server = ThreadingHTTPServer(
            ("127.0.0.1", number), partial(SimpleHTTPRequestHandler, directory=str(site))
        )
    except OSError as error:
        raise InputError(
            f"port {number} cannot be used ({error.strerror}): name another"
        ) from error
    print(f"http://127.0.0.1:{number}/ until Ctrl-C", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()


@example("hamsynth lab")
def lab() -> None:
    """Open the notebooks in JupyterLab."""
    import os

    from hamsynth_utils.core.machine import stand_in_for_home
    from hamsynth_utils.core.paths import project_root, runs_folder
    from hamsynth_utils.experiment.pipeline import HOME

    command = [sys.executable, "-m", "jupyterlab", f"--notebook-dir={project_root() / 'notebooks'}"]
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"
    os.environ["HAMSYNTH_RUNS"] = str(runs_folder().absolute())
    os.environ["PYTHONUTF8"] = "1"
    os.environ |= {**stand_in_for_home(runs_folder().absolute() / HOME), **os.environ}
    os.environ.pop("JUPYTER_PATH", None)
    os.execv(sys.executable, [*command, *(["--allow-root"] if os.getuid() == 0 else [])])


@example("hamsynth download path/to/ham10000")
def download(
    folder: Annotated[Path, typer.Argument(help="where the images are unpacked")],
    source: Annotated[str, typer.Option(help="dataverse or isic")] = "dataverse",
    include_test: Annotated[
        bool, typer.Option("--include-test", help="the official test set too, into FOLDER/test")
    ] = False,
    base_url: Annotated[str | None, typer.Option(help="another server, the same paths")] = None,
) -> None:
    """Download the official HAM10000 archives.

    They are about 3 GB, and are unpacked. A download that was cut off continues where it stopped.
    The images are licensed CC BY-NC-SA 4.0, for research and education only.
    """
    from hamsynth_utils.data.download import SOURCES
    from hamsynth_utils.data.download import download as fetch

    _require_one_of(source, sorted(SOURCES), "source")
    fetch(folder, source, include_test, base_url)


@example("hamsynth train generator gan --run trial --profile smoke", to=train_app)
def generator(
    name: Annotated[str, typer.Argument(help="such as vae, gan, diffusion")],
    run: TrainedRun,
    generator_seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="seed of this generator")
    ] = 0,
    profile: Profile = "smoke",
    data: Data = "phantom",
    seed: Seed = 0,
) -> None:
    """Train a generator of a run without its notebook, which then loads the generator.

    In several processes:
    `accelerate launch --num_processes 4 -m hamsynth_utils.cli train generator ...`
    """
    from hamsynth_utils.core.arm_names import GENERATORS

    _require_one_of(name, GENERATORS, "generator")
    made, is_first = _run_shared_by_processes(run, profile, data, seed)
    from hamsynth_utils.experiment.stages import train_generator

    training = train_generator(made, name, is_first, generator_seed)
    if is_first:
        _print_training(made.paths.generator(name, generator_seed), training)


@example("hamsynth train autoencoder --run trial --profile smoke", to=train_app)
def autoencoder(
    run: TrainedRun,
    generator_seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="seed of the generators that use it")
    ] = 0,
    profile: Profile = "smoke",
    data: Data = "phantom",
    seed: Seed = 0,
) -> None:
    """Train the autoencoder that the generators of a run share, without a notebook."""
    made, is_first = _run_shared_by_processes(run, profile, data, seed)
    from hamsynth_utils.experiment.stages import train_autoencoder

    training = train_autoencoder(made, is_first, generator_seed)
    if is_first:
        _print_training(made.paths.autoencoder(generator_seed), training)


@example("hamsynth train classifier real --classifier-seed 0 --run trial", to=train_app)
def classifier(
    arm: Annotated[str, typer.Argument(help="what it learns from: real, augment, vae, ...")],
    run: TrainedRun,
    classifier_seed: Annotated[
        int, typer.Option(help="seed of this classifier", min=0, max=MAX_SEED)
    ] = 0,
    split_by: Annotated[str | None, typer.Option(help="lesion or image; else the run's")] = None,
    profile: Profile = "smoke",
    data: Data = "phantom",
    seed: Seed = 0,
) -> None:
    """Train a classifier of a run without its notebook, which then loads the classifier.

    In several processes:
    `accelerate launch --num_processes 4 -m hamsynth_utils.cli train classifier ...`
    """
    from hamsynth_utils.core.arm_names import ARMS

    _require_one_of(arm, ARMS, "arm")
    if split_by is not None:
        _require_one_of(split_by, ("lesion", "image"), "split")
    made, is_first = _run_shared_by_processes(run, profile, data, seed)
    from hamsynth_utils.experiment.classifiers import fine_tune

    result = fine_tune(made, arm, classifier_seed, is_first, split_by)
    if is_first:
        _print_training(made.paths.classifier(arm, classifier_seed, split_by), result.training)


@example(
    "hamsynth sample --checkpoint checkpoints/diffusion.safetensors --per-class 10 --out my-set"
)
def sample(
    checkpoint: Annotated[Path, typer.Option(help="a generator's .safetensors file")],
    per_class: Annotated[int, typer.Option(help="images of each class")] = 10,
    out: Annotated[Path, typer.Option(help="a new folder")] = Path("synthetic"),
    classes: Annotated[str, typer.Option(help="as in mel,bcc; all if left out")] = "",
    seed: Annotated[
        int, typer.Option(help="of the first image; image i has seed + i", min=0, max=MAX_SEED)
    ] = 0,
    generator: Annotated[
        str | None, typer.Option(help="refuse a checkpoint of another generator")
    ] = None,
    image_size: Annotated[
        int | None, typer.Option(help="refuse a checkpoint of another size, in pixels a side")
    ] = None,
    guidance: Annotated[float | None, typer.Option(help="else the checkpoint's own")] = None,
    steps: Annotated[int | None, typer.Option(help="else the checkpoint's own")] = None,
    solver: Annotated[str | None, typer.Option(help="else the checkpoint's own")] = None,
) -> None:
    """Sample a labelled synthetic set from a checkpoint.

    The set is a folder of PNG files with a manifest, which lists the hash of each.
    """
    from hamsynth_utils.core.arm_names import GENERATORS
    from hamsynth_utils.core.weights import read_metadata
    from hamsynth_utils.generators.loading import dataset_of
    from hamsynth_utils.generators.synthetic_sets import synthesize

    if generator is not None:
        _require_one_of(generator, GENERATORS, "generator")
    names = (
        classes.split(",") if classes else dataset_of(checkpoint, read_metadata(checkpoint)).classes
    )
    counts = dict.fromkeys(names, per_class)
    named: dict[str, Any] = {"guidance": guidance, "steps": steps, "solver": solver}
    options = {key: value for key, value in named.items() if value is not None}
    lesions = synthesize(
        checkpoint, counts, seed, out, generator_name=generator, image_size=image_size, **options
    )
    print(f"{out}: {len(lesions)} images of {lesions.image_size} pixels, verified")


@example("hamsynth export --run trial --generator diffusion --out set.zip.age --recipient age1...")
def export(
    run: RequiredRun,
    generator: GeneratorName,
    out: Annotated[Path, typer.Option(help="a new folder, .zip, or .zip.age (encrypted)")],
    recipient: Annotated[list[str] | None, typer.Option(help="public key; repeatable")] = None,
    recipients: Annotated[Path | None, typer.Option(help="file of one public key per line")] = None,
    override: Annotated[
        str | None,
        typer.Option(help="reason to export a set that fails the release criteria, for its card"),
    ] = None,
) -> None:
    """Export a synthetic set that meets the release criteria.

    The export has the set's cards and a hash for each file.
    """
    from datetime import date

    from hamsynth_utils.core.paths import run_folder
    from hamsynth_utils.release.encryption import recipients_in
    from hamsynth_utils.release.export import export as export_set

    keys = [*(recipient or []), *(recipients_in(recipients) if recipients else [])]
    fingerprint = export_set(run_folder(run), generator, out, date.today(), keys, override)
    print(f"{out}: written" + (f", encrypted to {len(keys)} recipient(s)" if keys else ""))
    print(f"fingerprint {fingerprint}: tell it to the recipient by another way than the set goes")


@example("hamsynth verify set.zip.age --identity my.key --fingerprint SHA256")
def verify(
    path: Annotated[Path, typer.Argument(help="the folder, .zip or .zip.age")],
    identity: Identity = None,
    fingerprint: Fingerprint = "",
) -> None:
    """Check that a synthetic set is as it was exported.

    Every problem is named, not only the first.

    Exit code 0: nothing was altered. 1: a file was altered, added or deleted. 2: the set cannot be
    judged, because it is no set, cannot be opened, or has files that cannot be read.
    """
    _verify(path, identity, fingerprint, None)


@example("hamsynth open set.zip.age --out my-set --identity my.key", name="open")
def open_set(
    path: Annotated[Path, typer.Argument(help="the folder, .zip or .zip.age")],
    out: Annotated[Path, typer.Option(help="a new folder")],
    identity: Identity = None,
    fingerprint: Fingerprint = "",
) -> None:
    """Decrypt, verify and unpack an exported set.

    Nothing is written unless the exit code is 0.

    Exit code 0: nothing was altered. 1: a file was altered, added or deleted. 2: the set cannot be
    judged, because it is no set, cannot be opened, or has files that cannot be read.
    """
    _verify(path, identity, fingerprint, out)


@example("hamsynth student --out class")
def student(out: Annotated[Path, typer.Option(help="a folder")]) -> None:
    """Write the notebooks without solutions and quiz answers."""
    from hamsynth_utils.report.student import write_student_version

    written = write_student_version(out)
    print(f"{len(written)} notebooks without solutions in {out.resolve()}")


@example("hamsynth phantom noisy-phantom --noise 0.4 --images 300")
def phantom(
    folder: Annotated[Path, typer.Argument(help="a new folder, in the layout of HAM10000")],
    images: Annotated[int, typer.Option(help="number of images before copies")] = 1500,
    noise: Annotated[float, typer.Option(help="fraction of lesions with a wrong diagnosis")] = 0.0,
    copies: Annotated[float, typer.Option(help="fraction of images that appear twice")] = 0.0,
    seed: Annotated[
        int, typer.Option(help="seed of the phantom and its faults", min=0, max=MAX_SEED)
    ] = 0,
) -> None:
    """Write a phantom with planted faults.

    Its report shows whether the chapters find the faults.
    """
    from hamsynth_utils.data.phantom.corruptions import write_corrupted_phantom

    lesions = write_corrupted_phantom(folder, images, noise, copies, seed)
    names = lesions.table["lesion_id"].nunique()
    print(f"{folder}: {len(lesions):,} images, {names:,} lesion names")


@example("hamsynth reference archive trial --out results/trial --note 'one seed'", to=reference_app)
def archive(
    run: RunFolder,
    out: Annotated[Path, typer.Option(help="a folder; replaced if it exists")],
    note: Annotated[str, typer.Option(help="what a reader must know of this run")] = "",
) -> None:
    """Copy what may be published of a finished run.

    These are tables, predictions, and figures without real images.
    """
    from hamsynth_utils.core.paths import run_folder
    from hamsynth_utils.report.reference import archive_run
    from hamsynth_utils.report.staging import minutes as chapter_minutes

    folder = run_folder(run)
    lengths = {name: minutes for name, (minutes, _) in chapter_minutes(folder).items()}
    archive_run(folder, out, lengths, note)


@example("hamsynth reference check results/cpu-ham10000 --data path/to/ham10000", to=reference_app)
def check(
    results: Annotated[Path, typer.Argument(help="folder of an archived run")],
    data: Annotated[str, typer.Option(help="the data set of the run")],
) -> None:
    """Recompute an archived run's tables from its predictions.

    The exit code is 1 if a value differs, or an interval end differs by more than 0.3 points.
    """
    from hamsynth_utils.core.paths import absolute_path
    from hamsynth_utils.report.reference_check import check_reference

    found = check_reference(results, data if data == "phantom" else absolute_path(data))
    print(found.to_string(index=False, float_format="{:.2g}".format))
    differing = int(found["differing"].sum())
    if differing:
        print(f"{differing} row(s) differ from the archived tables")
        raise typer.Exit(1)
    print(f"all {found['recomputed'].sum():,} rows that follow from the predictions agree")


@example("hamsynth reference generators --data path/to/ham10000", to=reference_app)
def generators(
    data: Annotated[str, typer.Option(help="the data set that they were trained on")],
    profile: Profile = "cpu",
) -> None:
    """Measure the released generators: distance, variety, classes and spectrum, with verdicts.

    Images are sampled anew from the committed weights. The exit code is 0 even if a target is
    missed: the table says which.
    """
    import tempfile

    from hamsynth_utils.core.arm_names import GENERATORS
    from hamsynth_utils.core.paths import absolute_path, checkpoint_of
    from hamsynth_utils.core.profile import load_profile
    from hamsynth_utils.experiment.run import Run
    from hamsynth_utils.release.generator_quality import quality_table

    paths = {name: checkpoint_of(name) for name in GENERATORS if checkpoint_of(name).is_file()}
    if not paths:
        raise InputError("no checkpoint is released: there is nothing to measure")
    source = data if data == "phantom" else absolute_path(data)
    with tempfile.TemporaryDirectory(prefix="hamsynth-") as folder:
        made = Run(Path(folder), load_profile(profile), source, 0)
        table = quality_table(made, paths)
    print(table.to_string(index=False, float_format="{:.3g}".format))


@example("hamsynth build trial")
def build(run: RunFolder) -> None:
    """Build the HTML report of executed chapters.

    The exit code is 1 if Jupyter Book fails.
    """
    from hamsynth_utils.core.paths import run_folder
    from hamsynth_utils.report.build import build as build_site

    try:
        print(build_site(run_folder(run)))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(1) from error


@example("hamsynth minutes trial")
def minutes(run: RunFolder) -> None:
    """Print minutes and peak memory of each chapter."""
    from hamsynth_utils.core.paths import RunPaths, run_folder
    from hamsynth_utils.report.build import print_minutes

    folder = run_folder(run)
    if not RunPaths(folder).record.is_file():
        raise InputError(f"{folder} is not a run: it has no run.yaml")
    print_minutes(folder)


@example(
    "hamsynth job list logs/list.log ls -l",
    context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False},
)
def job(
    name: Annotated[str, typer.Argument(help="under which the job reports")],
    log: Annotated[Path, typer.Argument(help="file for all that the command prints")],
    command: Annotated[list[str], typer.Argument(help="the command and its arguments")],
) -> None:
    """Run a command, log its output, report its progress.

    The Snakefile calls it for each chapter. The exit code is the command's.
    """
    from hamsynth_utils.experiment.job import watch

    raise typer.Exit(watch(name, log, command))


@example("hamsynth readme")
def readme(
    picture: Annotated[
        bool, typer.Option("--picture", help="draw checkpoints/samples.jpg instead")
    ] = False,
) -> None:
    """Write badges and the answer into README.md.

    For maintainers: the answer is that of the reference run.
    """
    from hamsynth_utils.report.readme import update_documents, write_picture

    if picture:
        write_picture()
    else:
        update_documents()


@example("hamsynth checkpoint --run cpu --data path/to/ham10000 --generators gan,vae")
def checkpoint(
    run: TrainedRun,
    data: Data,
    profile: Profile = "cpu",
    seed: Seed = 0,
    generators: Annotated[str, typer.Option(help="as in gan,vae; all of the run's else")] = "",
    out: Annotated[Path | None, typer.Option(help="a folder; checkpoints/ if left out")] = None,
) -> None:
    """Release the generators of a finished run.

    For maintainers: writes weights, a model card and pictures of each.
    """
    from hamsynth_utils.core.arm_names import GENERATORS
    from hamsynth_utils.core.paths import project_root
    from hamsynth_utils.experiment.run import Run
    from hamsynth_utils.release.checkpoints import publish

    names = generators.split(",") if generators else []
    for name in names:
        _require_one_of(name, GENERATORS, "generator")
    made = Run.open(run, profile, data, seed)
    for name in names or made.profile.generators:
        path = publish(made, name, out or project_root() / "checkpoints")
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def _require_one_of(name: str, names: Any, what: str) -> None:
    if name not in names:
        raise InputError(f"no {what} is called {name!r}; there are {', '.join(names)}")


def _run_shared_by_processes(run: str, profile: str, data: str, seed: int) -> tuple[Run, bool]:
    """The run, created by the first process of several, and whether this is the first."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    from hamsynth_utils.experiment.run import Run

    # Otherwise Accelerate takes several processes on CPUs for strangers: each would train alone.
    state = PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))
    with state.main_process_first():
        made = Run.open(run, profile, data, seed)
    return made, state.is_main_process


def _print_training(folder: Path, training: TrainingResult) -> None:
    last = training.history.iloc[-1]
    print(
        f"{folder}: {'was trained already' if training.loaded else 'trained'}, "
        f"{int(last['step'])} steps in {last['seconds'] / 60:.1f} min, loss {last['loss']:.4f}"
    )


def _verify(path: Path, identity: Path | None, fingerprint: str, out: Path | None) -> None:
    from hamsynth_utils.release.verify import verify_set

    found = verify_set(path, identity, fingerprint or None, out)
    for line in [*found.alterations, *found.unreadable]:
        print(line)
    if found.alterations:
        print(f"{path}: {len(found.alterations)} alteration(s)", file=sys.stderr)
        raise typer.Exit(1)
    print(f"{path}: unaltered, as far as its hashes tell; fingerprint {found.fingerprint}")
    if found.left_out:
        print(f"no part of the set, and left out: {', '.join(found.left_out)}")
    if not fingerprint:
        print("compare the fingerprint with the one that the sender tells you by another way")
    if out:
        print(f"{out}: unpacked")


if __name__ == "__main__":
    sys.exit(main())
