"""Commands on benchmarks and on stored features: check, world, score, words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from csgn_lib.records import InputError, home, write_text


def check(
    dataset: Annotated[str, typer.Argument(help="name of the benchmark: ltcc, prcc, market1501, csv, ...")],
    root: Annotated[Path, typer.Argument(help="its folder")],
) -> None:
    """Check a benchmark on disk: files, names, counts, and the protocols that can be scored."""
    from csgn_lib import datasets

    report = datasets.load(dataset, root).check()
    typer.echo(str(report))
    if report.errors:
        raise typer.Exit(1)


def world(
    out: Annotated[Path, typer.Option(metavar="DIR", help="a new folder, or that of an interrupted rendering")],
    people: Annotated[int, typer.Option(help="number of people in training, validation and test together")] = 500,
    setting: Annotated[str, typer.Option(help="middle, calm or street")] = "middle",
    seed: Annotated[int, typer.Option(help="random seed of people, outfits, cameras and pictures")] = 0,
    size: Annotated[int, typer.Option(help="height of a picture in pixels; its width is half of it")] = 128,
    images: Annotated[int, typer.Option(help="pictures of each person, outfit and camera")] = 2,
    outfits: Annotated[int, typer.Option(help="outfits of each person")] = 4,
    cameras_each: Annotated[int, typer.Option(help="cameras for each person and outfit")] = 2,
    colour_identity: Annotated[
        float, typer.Option(help="share of people with hair and skin colour of their own")
    ] = 1.0,
    spread: Annotated[
        float | None, typer.Option(help="factor on the spread of body shapes; default: the setting's")
    ] = None,
    sharing: Annotated[float | None, typer.Option(help="people who share an outfit; default: the setting's")] = None,
    extras: Annotated[bool, typer.Option(help="also write masks and counterfactual pairs")] = True,
    workers: Annotated[int | None, typer.Option(min=1, help="number of processes; default: one for each core")] = None,
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
        bool, typer.Option("--thresholds", help="also compute TAR at FAR, EER and FNIR at FPIR, with their thresholds")
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


def words(
    vocabulary: Annotated[
        str, typer.Argument(metavar="VOCABULARY", help="a YAML file, or english for the default vocabulary")
    ],
    captions: Annotated[
        Path | None, typer.Argument(metavar="[CAPTIONS]", help="sentences of each image path, as JSON or CSV")
    ] = None,
    preset: Annotated[str, typer.Option(help="preset whose CLIP tokenizer is used")] = "ltcc-paper",
    out: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="file for the counts")] = None,
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
