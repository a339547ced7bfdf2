"""Command-line interface: ``csgn`` (= ``python -m csgn_lib``).

A command exits with status 0 only if it did what was asked. An input error is one line on standard error and status 2.
"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from csgn_lib.records import BOOKS, InputError, Run, cache, home, stop_on_sigterm, write_json, write_text

app = typer.Typer(
    name="csgn",
    help="Clothes-changing person re-identification: train, evaluate, compare and use models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command()
def run(
    notebook: Annotated[str, typer.Argument(help="a notebook file, or its bare name: 12_train")],
    parameter: Annotated[list[str], typer.Option("-p", "--parameter", metavar="NAME VALUE")] = [],  # noqa: B006
    run_dir: Annotated[Path | None, typer.Option(help="default: reports/runs/<name>-<key>-s<seed>")] = None,
    timeout: Annotated[float | None, typer.Option(help="seconds")] = None,
    keep_answer: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND", help="write the answer into the notebook's first cell, with COMMAND as its source"
        ),
    ] = None,
) -> None:
    """Run a notebook headless and print its output. The executed copy is saved in the run's folder."""
    from csgn_lib import runs

    path = runs.find(notebook)
    types = {name: parameter.type for name, parameter in runs.declared(path).items()}
    given = {name: _value(types.get(name, Any), text, name) for name, text in _pairs(parameter)}
    made = runs.execute(path, given, run_dir and runs.locate(run_dir), timeout, echo=sys.stderr)
    _finish(made)
    if keep_answer:
        typer.echo(runs.keep_answer(made, path, keep_answer))


@app.command()
def train(
    preset: Annotated[str, typer.Option(help="the preset that provides all other parameters")] = "demo",
    set_: Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="a parameter; repeatable")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option()] = 0,
    run_dir: Annotated[
        Path | None, typer.Option(help="folder or name of the run; an unfinished run in it is resumed")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the parameters and the estimated cost, then exit")
    ] = False,
    plugin: Annotated[
        list[str], typer.Option(metavar="FILE", help="a Python file or installed plugin; repeatable")
    ] = [],  # noqa: B006
) -> None:
    """Train both stages and score the result, on a GPU if available; on several with accelerate launch -m csgn_lib."""
    from csgn_lib import runs
    from csgn_lib.config import Experiment, with_plugins

    named = list(plugin)
    for text in (text for name, text in _pairs(set_) if name == "plugin"):
        value = _value(Any, text, "plugin")  # a name, or a list of them
        named += value if isinstance(value, list) else [text]
    fields = with_plugins(named).model_fields
    given = {
        name: _value(fields[name].annotation if name in fields else Any, text, name) for name, text in _pairs(set_)
    }
    given |= {"plugin": tuple(named)} if named else {}
    experiment = Experiment.from_parameters(**{"preset": preset, "seed": seed} | given)
    named = f"{experiment.preset}-{experiment.digest()}-s{experiment.seed}"
    folder = runs.locate(run_dir) if run_dir else runs.runs_folder() / named
    from csgn_lib import synthetic

    benchmark = (synthetic.planned_for if dry_run else synthetic.benchmark_for)(experiment)
    from csgn_lib import training  # imports torch, which takes seconds: after everything that can be refused

    training.refuse_another(Run(folder), experiment, benchmark)  # before the folder's own record is touched
    if os.environ.get("RANK", "0") != "0":  # of several processes, only the first one prints, writes and scores
        if not dry_run:
            training.fit(experiment, benchmark, folder, cache_dir=cache())
        return
    _announce(experiment, benchmark, images=dry_run)  # otherwise training opens them
    if dry_run:
        return
    resumed = _saved_state(Run(folder))
    if resumed:
        typer.echo(f"resumes in {folder} after {_epoch_name(*resumed)}")
    values = experiment.model_dump(mode="json")
    facts = {"parameters": values, "key": runs.key(None, values), "command": shlex.join(sys.argv)}
    try:
        with runs.recorded(Run(folder), **facts):
            report = _Report(resumed)
            _score(training.fit(experiment, benchmark, folder, report, cache()), benchmark)
    except KeyboardInterrupt:
        typer.echo(f"csgn: interrupted; the same command continues {folder}", err=True)
        raise typer.Exit(130) from None
    typer.echo(folder)


@app.command()
def sweep(
    grid: Annotated[
        Path, typer.Argument(metavar="GRID.yaml", help="YAML file: notebook, rows, grid, seeds (docs/sweeps.md)")
    ],
    workers: Annotated[
        int | None, typer.Option(min=1, help="cells that run at a time; default: 1, or as many as have GPUs")
    ] = None,
    executor: Annotated[str, typer.Option(metavar="local|dask|submitit")] = "local",
    timeout: Annotated[float | None, typer.Option(help="seconds for each cell")] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="CPU threads of each cell; default: the cores divided by the workers")
    ] = None,
    address: Annotated[
        str | None, typer.Option(help="address of a dask scheduler; default: start local workers")
    ] = None,
    job: Annotated[
        list[str], typer.Option(metavar="NAME=VALUE", help="submitit option, such as slurm_partition=gpu; repeatable")
    ] = [],  # noqa: B006
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="validate and list every cell, without running any")
    ] = False,
) -> None:
    """Run a notebook for every cell of a grid, then print the rows' scores. Finished cells are skipped."""
    from csgn_lib import runs

    read = runs.read_grid(runs.locate(grid))
    options = {name: runs.from_text(Any, text, name) for name, text in _pairs(job)}
    cells = runs.planned(read)
    if dry_run:
        typer.echo(
            cells[[name for name in ("row", "seed", "world", "state", "run") if name in cells]].to_string(index=False)
        )
        return
    waiting = int((cells["state"] != "done").sum())
    typer.echo(f"{len(cells)} cells, {len(cells) - waiting} of them done before")
    threads = threads or runs.executors.share(executor, workers)
    pool = runs.executors.named(executor, workers, read.gpus_per_cell, address, options)
    try:
        found = runs.sweep(read, pool, timeout=timeout, threads=threads, stream=sys.stdout)
    except KeyboardInterrupt:
        typer.echo("csgn: interrupted; the same command continues, and csgn status lists the runs", err=True)
        raise typer.Exit(130) from None
    finally:
        pool.shutdown()
    wrong = int((found["state"] != "done").sum())
    if not wrong:
        _print_scores(grid)
    typer.echo(found.attrs["report"])
    if wrong:
        typer.echo(
            f"csgn: {wrong} of {len(found)} cells are not done; the report lists their errors and commands", err=True
        )
        raise typer.Exit(1)


def _print_scores(grid: Path) -> None:
    """Print the scores and write the sweep's records; nothing if its notebook records no scores."""
    from csgn_lib import runs

    try:
        records = runs.load_sweep_records(grid)
    except InputError:
        return
    n = records.runs[records.unit].nunique()
    typer.echo(f"\n{records.table().to_string()}\n\nin percent: mean and s.d. over {n} {records.unit}{'s' * (n > 1)}")
    folder = runs.records_folder(grid)
    runs.write_sweep_records(records, folder)
    typer.echo(f"tables: csgn run 41_ablation_tables -p grid {shlex.quote(str(grid))}, or -p grid {folder.name}")


@app.command()
def status(
    folder: Annotated[Path | None, typer.Option(help="default: reports/runs")] = None,
    watch: Annotated[bool, typer.Option("--watch", help="in a terminal: refresh every 2 s until Ctrl-C")] = False,
) -> None:
    """List the runs: state, last epoch or cell, seconds, peak memory, error."""
    from csgn_lib import runs

    try:
        while True:
            lines = runs.listing(folder)
            live = watch and sys.stdout.isatty()
            if live:  # the newest runs are last, where they are visible
                width, height = shutil.get_terminal_size()
                lines = [line[: width - 1] for line in [lines[0], *lines[1:][2 - height :]]]
                typer.echo("\033[H\033[J", nl=False)
            typer.echo("\n".join(lines))
            if not live:
                return
            time.sleep(2)
    except KeyboardInterrupt:
        return


@app.command()
def check(dataset: str, root: Path) -> None:
    """Check a benchmark on disk: files, names, counts, and the protocols that can be scored."""
    from csgn_lib import datasets

    report = datasets.load(dataset, root).check()
    typer.echo(str(report))
    if report.errors:
        raise typer.Exit(1)


@app.command()
def explain(
    figure: Annotated[str, typer.Argument(help="path without a suffix, or name below reports/")],
) -> None:
    """Trace a figure to its numbers, command, runs, code and data; exit status 1 if one is missing or has changed."""
    from csgn_lib import runs

    found = runs.explain(figure)
    typer.echo(str(found))
    if found.broken or found.missing:
        raise typer.Exit(1)


@app.command()
def demo(
    workers: Annotated[int, typer.Option(min=1, help="notebooks that run at a time")] = 2,
    fresh: Annotated[bool, typer.Option(help="run finished notebooks again")] = False,
) -> None:
    """Train and score the demo's methods on the embedded benchmark; writes reports/demo/index.html."""
    from csgn_lib import runs, synthetic

    started = time.time()
    synthetic.ensure()  # once, with all cores, rather than in every notebook
    outcomes = runs.demo(workers=workers, fresh=fresh)
    wrong = [outcome for outcome in outcomes if outcome.state != "done"]
    for outcome in wrong:
        place = f"; see {outcome.run.dir}" if outcome.run else ""
        typer.echo(f"csgn: {outcome.step.name}: {outcome.state}: {outcome.error}{place}", err=True)
    if wrong:
        raise typer.Exit(1)
    import pandas as pd

    from csgn_lib import figures

    source = next(outcome.run for outcome in outcomes if outcome.step.notebook == "00_first_result").path("results.csv")
    if not source.exists():
        raise InputError(f"{source} was not written; run the notebook 00_first_result alone to see why")
    results = pd.read_csv(source)
    folder, table = home() / "reports" / "demo", figures.results_table(results).text
    write_text(folder / "results.csv", results.to_csv(index=False))
    write_text(folder / "table.txt", table + "\n")
    write_json(folder / "seconds.json", {outcome.step.name: outcome.seconds for outcome in outcomes})
    page = figures.write_page(outcomes, results, folder, "make demo", time.time() - started)
    typer.echo(f"\n{table}\n\nopen {page}")


@app.command()
def world(
    out: Annotated[Path, typer.Option(metavar="DIR", help="a new folder, or one that this command began")],
    people: Annotated[int, typer.Option(help="of training, validation and test together")] = 500,
    setting: Annotated[str, typer.Option(help="middle, calm or street")] = "middle",
    seed: Annotated[int, typer.Option(help="another seed is another world")] = 0,
    size: Annotated[int, typer.Option(help="height of a picture in pixels; its width is half of it")] = 128,
    images: Annotated[int, typer.Option(help="of each person, outfit and camera")] = 2,
    outfits: Annotated[int, typer.Option(help="that each person wears")] = 4,
    cameras_each: Annotated[int, typer.Option(help="cameras that see each outfit")] = 2,
    colour_identity: Annotated[
        float, typer.Option(help="share of people with hair and skin colour of their own")
    ] = 1.0,
    spread: Annotated[float | None, typer.Option(help="of shapes; default: the setting's")] = None,
    sharing: Annotated[float | None, typer.Option(help="people who share an outfit; default: the setting's")] = None,
    extras: Annotated[bool, typer.Option(help="also write masks and counterfactual pairs")] = True,
    workers: Annotated[int | None, typer.Option(min=1, help="processes; default: one for each core")] = None,
) -> None:
    """Render people in changing clothes as a benchmark with masks and counterfactuals; the same command resumes."""
    from csgn_lib.synthetic import World, write_world

    drawn = World(people, setting, seed, size, images, outfits, cameras_each, colour_identity, spread, sharing, extras)
    try:
        checksum = write_world(drawn, out, workers)
    except KeyboardInterrupt:
        typer.echo(f"csgn: interrupted; the same command resumes {out}", err=True)
        raise typer.Exit(130) from None
    typer.echo(f"{out}  {checksum}")


_MODEL = typer.Argument(metavar="MODEL_DIR", help="a finished run's folder or name, or a folder that csgn export made")


@app.command()
def embed(
    model_dir: Annotated[Path, _MODEL],
    folder: Annotated[list[Path], typer.Argument(help="folders whose images are embedded, at any depth")],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="index file to write, for csgn search")],
    add: Annotated[
        bool, typer.Option("--add", help="update an existing index: embed only new and changed images")
    ] = False,
) -> None:
    """Embed folders of images into one index, on the GPU if there is one."""
    from csgn_lib import models

    started = time.time()
    for name in folder:
        models.list_images(name)
    model = models.open_model(_folder(model_dir))
    if add:
        made, changes = models.update_gallery(model, folder, out)
        typer.echo(str(changes))
    else:
        made = models.embed_folder(model, folder, out)
    typer.echo(f"{made.features.shape[0]} images, {made.descriptor} of {model.width} numbers, by {made.model[:12]}")
    typer.echo(f"{time.time() - started:.1f} s on {model.device}")
    typer.echo(out)


@app.command()
def search(
    model_dir: Annotated[Path, _MODEL],
    image: Annotated[
        Path | None, typer.Argument(help="image of one person, cropped like the gallery's, or a folder of such images")
    ] = None,
    gallery: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="index file written by csgn embed")] = ...,
    k: Annotated[int, typer.Option("-k", "--top", min=1, help="number of results")] = 10,
    text: Annotated[str | None, typer.Option(help="text query, alone or with an image: 'a tall woman'")] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="auto|NUMBER|FILE", help="largest distance of a result: auto, a number or a verification.json"
        ),
    ] = None,
    error_rate: Annotated[
        float, typer.Option(help="for auto: share of searches for absent people that may return a result")
    ] = 0.1,
    save: Annotated[
        Path | None, typer.Option(metavar="strip.png", help="write the results as an image: .png, .jpg, .pdf, .svg")
    ] = None,
) -> None:
    """List the gallery images nearest to an image or a text: rank, distance (1 - cosine), path."""
    from csgn_lib import models

    models.refuse_search(image, text, threshold, save)
    read, model = models.read_gallery(gallery), models.open_model(_folder(model_dir))
    limit = models.parse_threshold(model, threshold, error_rate)
    if limit is not None:
        typer.echo(limit)
    queries = models.query_paths(image) if image is not None else [text]
    if text is not None:
        words = models.open_words(model)
        if words.note:
            typer.echo(f"csgn: {words.note}", err=True)
        found = models.search_words(model, read, models.text_feature(words, text), k, image=image)
    else:
        found = models.search(model, queries, read, k, threshold=limit.value if limit else None)
    typer.echo(models.answers_text(found, queries))
    if save is not None:
        models.save_strip(found, queries, save, k)
        typer.echo(save)


@app.command()
def export(
    model_dir: Annotated[Path, _MODEL],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="default: MODEL_DIR/export")] = None,
) -> None:
    """Export a model: weights, model card, and the encoder as torch.export program and ONNX. Nothing is uploaded."""
    from csgn_lib import models

    made = models.export(_folder(model_dir), out)
    for name, gap in made.differences.items():
        typer.echo(f"{name}: largest difference from the encoder {gap:.1e} (at most {models.TOLERANCE:.0e})")
    if made.missing:
        typer.echo(f'model.onnx was not written; install {", ".join(made.missing)}: pip install -e ".[export]"')
    typer.echo(made.folder)


@app.command()
def score(
    benchmark: Annotated[str, typer.Argument(help="its name: ltcc, prcc, market1501, csv, ...")],
    root: Annotated[Path, typer.Argument(help="its folder")],
    query: Annotated[Path | None, typer.Option(metavar="FILE", help="features: .npy .npz .safetensors .h5")] = None,
    gallery: Annotated[
        Path | None, typer.Option(metavar="FILE", help="features; may be the same file as --query")
    ] = None,
    distances: Annotated[
        Path | None, typer.Option(metavar="FILE", help="distance matrix (Q, G), instead of features")
    ] = None,
    in_order: Annotated[bool, typer.Option("--in-order", help="accept files without image paths")] = False,
    trapezoid: Annotated[bool, typer.Option("--trapezoid", help="also score with trapezoid average precision")] = False,
    thresholds: Annotated[
        bool, typer.Option("--thresholds", help="also compute TAR at FAR, EER, FNIR at FPIR")
    ] = False,
    against: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="folder of earlier scores on the same data to compare with")
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="default: reports/scores/BENCHMARK-HASH")] = None,
) -> None:
    """Score stored features or distances of any model under every protocol of a benchmark."""
    from csgn_lib import datasets
    from csgn_lib.retrieval import referee

    if (distances is None) == (query is None and gallery is None):
        raise InputError("give --query and --gallery, or --distances, and not both")
    if distances is None and (query is None or gallery is None):
        raise InputError("features need both --query and --gallery; if one file holds both, give it twice")
    data = datasets.load(benchmark, root)
    if distances is not None:
        found = referee.score_distances(data, distances, in_order=in_order, trapezoid=trapezoid)
    else:
        options = {"in_order": in_order, "trapezoid": trapezoid, "thresholds": thresholds}
        found = referee.score_features(data, query, gallery, **options)
    folder = found.write(out or home() / "reports" / "scores" / f"{benchmark}-{found.digest}")
    typer.echo("\n".join(source["rows"] for source in found.sources))
    typer.echo(referee.report(folder, benchmark))
    if against is not None:
        table = referee.compare(folder, against, benchmark)
        write_text(folder / "differences.csv", table.to_csv(index=False))
        typer.echo(referee.differences_report(table, against))
    typer.echo(folder)


@app.command()
def evaluate(
    model_dir: Annotated[Path, _MODEL],
    benchmark: Annotated[str, typer.Argument(help="its name: ltcc, prcc, market1501, csv, synthetic, ...")],
    root: Annotated[Path, typer.Argument(help="its folder")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="default: reports/scores/MODEL-on-BENCHMARK")
    ] = None,
    captions: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON or CSV of path to sentences: also text to image")
    ] = None,
) -> None:
    """Score a run or an exported model on any benchmark, also on one that it was not trained on."""
    from csgn_lib import datasets, retrieval
    from csgn_lib.retrieval import referee

    data = datasets.load(benchmark, root)
    model_dir = _folder(model_dir)
    folder = out or home() / "reports" / "scores" / f"{model_dir.resolve().name}-on-{benchmark}"
    retrieval.score_model(model_dir, data, folder)
    typer.echo(referee.report(folder, benchmark))
    if captions is not None:
        from csgn_lib import models

        found = models.score_captions(model_dir, data, folder, captions)
        typer.echo(f"\ntext to image\n{found.to_string(index=False, float_format='{:.3f}'.format, na_rep='')}")
    typer.echo(folder)


@app.command()
def words(
    vocabulary: Annotated[str, typer.Argument(metavar="VOCABULARY", help="a YAML file; or english, the default one")],
    captions: Annotated[
        Path | None, typer.Argument(metavar="[CAPTIONS]", help="JSON or CSV of path to sentences")
    ] = None,
    preset: Annotated[str, typer.Option(help="whose CLIP is to read the vocabulary")] = "ltcc-paper",
    out: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="the counts as a table")] = None,
) -> None:
    """Check a vocabulary against a CLIP's tokenizer; count its phrases in a data set's captions."""
    from csgn_lib import vocabulary_files
    from csgn_lib.backbones import load_tokenizer
    from csgn_lib.config import Experiment
    from csgn_lib.vocabulary import ENGLISH

    read = None if vocabulary == "english" else vocabulary_files.read_vocabulary(vocabulary)
    clip_model = Experiment.from_parameters(preset=preset).clip_model
    if read is not None:
        read.refuse_unreadable(load_tokenizer(clip_model))
    known = read.words if read is not None else ENGLISH
    readable = f"; {clip_model} can read them" if read is not None else ""
    typer.echo(f"{len(known.clothing)} clothing and {len(known.person)} person phrases{readable}")
    if captions is None:
        return
    said = vocabulary_files.read_captions(captions)
    counts = vocabulary_files.count_words(known, said)
    typer.echo(f"{sum(map(len, said.values()))} sentences of {len(said)} images")
    typer.echo(counts[counts["sentences"] > 0].to_string(index=False))
    unused = counts.loc[counts["sentences"] == 0, "phrase"]
    typer.echo(f"in no sentence ({len(unused)} of {len(counts)}): {', '.join(unused)}")
    others = vocabulary_files.missing_words(known, said).most_common(20)
    typer.echo("frequent words that no phrase has: " + ", ".join(f"{word} ({count})" for word, count in others))
    if out is not None:
        write_text(out, counts.to_csv(index=False))
        typer.echo(out)


def _folder(name: Path) -> Path:
    from csgn_lib import runs

    return runs.locate(name)


def _pairs(texts: list[str]) -> list[tuple[str, str]]:
    """``name=value`` strings as pairs. Raises InputError for a missing value or a repeated name."""
    pairs: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} has no value; write {text}=VALUE")
        if name in pairs:
            raise InputError(f"{name!r} is given twice, as {pairs[name]!r} and as {value!r}; keep one")
        pairs[name] = value
    return list(pairs.items())


def _value(type_: Any, text: str, name: str) -> Any:
    from csgn_lib import runs

    return runs.from_text(type_, text, name)


def _announce(experiment: Any, benchmark: Any, images: bool) -> None:
    """Print the parameters and the estimated cost. Raises InputError if training would fail; ``images``: open them."""
    from csgn_lib import training
    from csgn_lib.training.estimate import estimate

    training.check(experiment, benchmark, images=images)
    typer.echo(f"{experiment.table()}\n\n{estimate(experiment, benchmark.train)}\n")


class _Report:
    """Prints the record of each epoch. The first one after a resume states the step from which its time counts."""

    def __init__(self, resumed: tuple[int, int, int] | None) -> None:
        self.resumed = resumed

    def __call__(self, record: dict[str, Any]) -> None:
        terms = [f"{name} {value:.3g}" for name, value in record.items() if name not in BOOKS - {"rate"}]
        part = self.resumed and self.resumed[:2] == (record["stage"], record["epoch"])
        since = f" since step {self.resumed[2]}" if part and self.resumed else ""
        name = _epoch_name(record["stage"], record["epoch"], of=record.get("epochs"))
        typer.echo("  ".join([f"{name}  {record['seconds']:.1f} s{since}", *terms]))


def _epoch_name(stage: int, epoch: int, step: int = 0, of: int | None = None) -> str:
    return f"stage {stage}  epoch {epoch}" + (f"/{of}" if of else "") + (f"  step {step}" if step else "")


def _saved_state(run: Run) -> tuple[int, int, int] | None:
    """Stage, epoch and step of the newest checkpoint, from its file's name; None if there is none."""
    names = [path.stem.split("-") for path in run.path("checkpoint").glob("[12]-*-*-*.pt")]
    return max(((int(stage), int(epoch), int(step)) for stage, epoch, step, _ in names), default=None)


def _score(made: Run, benchmark: Any) -> None:
    """Score the run, and print each protocol's scores, the interval of mAP, and the protocol's description."""
    from csgn_lib import retrieval
    from csgn_lib.analysis import probes

    described: dict[str, str] = {}
    for descriptor, scores in retrieval.score_run(made, benchmark).items():
        for score in scores.values():
            low, high = made.results[descriptor]["protocols"][score.protocol.name]["mean_ap_interval"]
            typer.echo(f"{descriptor}: {score}, mAP 95 % interval {low:.1%} to {high:.1%}")
            described[score.protocol.name] = score.protocol.description
    for name, description in described.items():
        typer.echo(f"{name}: {description}")
    for descriptor, found in probes.record_sensitivity(made).items():
        typer.echo(
            f"{descriptor}: " + ", ".join(f"{name.replace('_', ' ')} {value:.2f}" for name, value in found.items())
        )


def _finish(made: Run) -> None:
    """Print the run's folder; status 1 unless it is done."""
    last = made.status
    typer.echo(made.dir)
    if last["state"] != "done":
        where = f" in In [{last['cell']}]" if last.get("cell") else ""
        typer.echo(f"csgn: {last['state']}{where}: {last.get('error', '')}", err=True)
        raise typer.Exit(1)


def _joined(arguments: list[str]) -> list[str]:
    """papermill's ``-p name value`` as ``-p name=value``, which typer can read."""
    words = iter(arguments)
    joined: list[str] = []
    for word in words:
        joined.append(word)
        if word in ("-p", "--parameter") and (name := next(words, None)) is not None:
            value = None if "=" in name else next(words, None)
            joined.append(name if value is None else f"{name}={value}")
    return joined


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its status."""
    stop_on_sigterm()
    try:
        app(_joined(sys.argv[1:] if arguments is None else arguments), prog_name="csgn")
    except InputError as error:
        print(f"csgn: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
