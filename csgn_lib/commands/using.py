"""Commands on a trained model: embed, search, export, evaluate."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from csgn_lib.records import home

_MODEL = typer.Argument(
    metavar="MODEL_DIR", help="folder or name of a finished run, or a folder written by csgn export"
)


def embed(
    model_dir: Annotated[Path, _MODEL],
    folder: Annotated[list[Path], typer.Argument(help="folders of images; subfolders are included")],
    out: Annotated[Path, typer.Option(metavar="FILE.safetensors", help="index file to write, for csgn search")],
    add: Annotated[
        bool, typer.Option("--add", help="update an existing index: embed only new and changed images")
    ] = False,
) -> None:
    """Embed folders of images into one search index, on a GPU if there is one."""
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


def export(
    model_dir: Annotated[Path, _MODEL],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="folder to write; default: MODEL_DIR/export")
    ] = None,
) -> None:
    """Export a model: weights, model card, and the encoder as torch.export program and ONNX. Nothing is uploaded."""
    from csgn_lib import models

    made = models.export(_folder(model_dir), out)
    for name, gap in made.differences.items():
        typer.echo(f"{name}: largest difference from the encoder {gap:.1e} (at most {models.TOLERANCE:.0e})")
    if made.missing:
        typer.echo(f'model.onnx was not written; install {", ".join(made.missing)}: pip install -e ".[export]"')
    typer.echo(made.folder)


def evaluate(
    model_dir: Annotated[Path, _MODEL],
    benchmark: Annotated[str, typer.Argument(help="its name: ltcc, prcc, market1501, csv, synthetic, ...")],
    root: Annotated[Path, typer.Argument(help="its folder")],
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="default: reports/scores/MODEL-on-BENCHMARK")
    ] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="sentences of each image path, as JSON or CSV: also measure text-to-image retrieval"
        ),
    ] = None,
) -> None:
    """Score a run or an exported model on any benchmark, including one that it was not trained on."""
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


def _folder(name: Path) -> Path:
    from csgn_lib import runs

    return runs.locate(name)
