"""Commands that train and run notebooks: run, train, sweep, status, demo, explain."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from csgn_lib.records import BOOKS, InputError, Run, cache, home, write_json, write_text


def run(
    notebook: Annotated[str, typer.Argument(help="a notebook file, or the name of one in notebooks/: 12_train")],
    parameter: Annotated[
        list[str],
        typer.Option("-p", "--parameter", metavar="NAME VALUE", help="a parameter of the notebook; repeatable"),
    ] = [],  # noqa: B006
    run_dir: Annotated[
        Path | None, typer.Option(help="folder of the run; default: reports/runs/<name>-<key>-s<seed>")
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="seconds after which the notebook is stopped")] = None,
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
    given = {name: runs.from_text(types.get(name, Any), text, name) for name, text in _pairs(parameter)}
    made = runs.execute(path, given, run_dir and runs.locate(run_dir), timeout, echo=sys.stderr)
    _finish(made)
    if keep_answer:
        typer.echo(runs.keep_answer(made, path, keep_answer))


def train(
    preset: Annotated[str, typer.Option(help="preset of the parameters that are not set, such as prcc-paper")] = "demo",
    set_: Annotated[list[str], typer.Option("--set", metavar="NAME=VALUE", help="a parameter; repeatable")] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="seed of initialisation, sampling and augmentation")] = 0,
    run_dir: Annotated[
        Path | None,
        typer.Option(help="folder of the run, or the name of an existing run; an unfinished run is resumed"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the parameters and the estimated cost, then exit")
    ] = False,
    plugin: Annotated[
        list[str], typer.Option(metavar="FILE", help="a Python file or installed plugin; repeatable")
    ] = [],  # noqa: B006
) -> None:
    """Train and score an experiment, on a GPU if available. Several processes: accelerate launch -m csgn_lib train."""
    from csgn_lib import runs
    from csgn_lib.config import Experiment, with_plugins

    named = list(plugin)
    for text in (text for name, text in _pairs(set_) if name == "plugin"):
        value = runs.from_text(Any, text, "plugin")  # a name, or a list of them
        named += value if isinstance(value, list) else [text]
    fields = with_plugins(named).model_fields
    types = {name: field.annotation for name, field in fields.items()}
    given = {name: runs.from_text(types.get(name, Any), text, name) for name, text in _pairs(set_)}
    given |= {"plugin": tuple(named)} if named else {}
    experiment = Experiment.from_parameters(**{"preset": preset, "seed": seed} | given)
    folder = runs.locate(run_dir) if run_dir else runs.experiment_folder(experiment)
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


def sweep(
    grid: Annotated[
        Path, typer.Argument(metavar="GRID.yaml", help="YAML file: notebook, rows, grid, seeds (docs/sweeps.md)")
    ],
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="cells that run at a time; default: 1, or with gpus_per_cell as many as fit on the GPUs"
        ),
    ] = None,
    executor: Annotated[
        str, typer.Option(metavar="local|dask|submitit", help="this machine, Dask workers, or SLURM jobs")
    ] = "local",
    timeout: Annotated[float | None, typer.Option(help="seconds after which a cell is stopped")] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="CPU threads of each cell; default with --workers: the cores divided by them"),
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


def status(
    folder: Annotated[Path | None, typer.Option(help="folder of the runs; default: reports/runs")] = None,
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
    from csgn_lib.runs.explain import within

    source = next(outcome.run for outcome in outcomes if outcome.step.notebook == "00_first_result").path("results.csv")
    if not source.exists():
        raise InputError(f"{source} was not written; run the notebook 00_first_result alone to see why")
    results = pd.read_csv(source)
    folder, table = home() / "reports" / "demo", figures.results_table(results).text
    write_text(folder / "results.csv", results.to_csv(index=False))
    write_text(folder / "table.txt", table + "\n")
    write_json(folder / "seconds.json", {outcome.step.name: outcome.seconds for outcome in outcomes})
    write_json(folder / "runs.json", {outcome.step.name: within(outcome.run.dir) for outcome in outcomes})
    page = figures.write_page(outcomes, results, folder, "make demo", time.time() - started)
    typer.echo(f"\n{table}\n\nopen {page}")


def explain(
    figure: Annotated[str, typer.Argument(help="path of a figure without suffix, or its name below reports/")],
) -> None:
    """Trace a figure to its numbers, command, runs, code and data; exit status 1 if one is missing or has changed."""
    from csgn_lib import runs

    found = runs.explain(figure)
    typer.echo(str(found))
    if found.broken or found.missing:
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
