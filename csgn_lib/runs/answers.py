"""A notebook's answer: `keep_answer` writes it into the notebook's first cell, `collect` into a folder.

The answer is the last output of the executed copy that begins with ``**Answer.**``, a sentence or a list. It is stored
with its command and cost, so that a reader sees a result without running the notebook.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from csgn_lib.records import InputError, Run, atomic_path, read_json, write_text
from csgn_lib.runs.notebooks import cells

ANSWER, LAST, COST = "**Answer.**", "*Last answer:*", "*Cost:*"
PICTURE = re.compile(r'!\[[^]]*\]\((?P<path>\S+) "(?P<name>[^"]+)"\)')  # ![text](path "name of the figure")
STORED = re.compile(r'!\[[^]]*\]\((?!\w+:)\S+( "[^"]*")?\)')  # any image by a relative path
PICTURE_WIDTH, PICTURE_COLOURS = 900, 128  # pixels; colours of the palette, for a small file


def answer(run: Run) -> str:
    """The answer of a finished run's notebook, without the leading ``**Answer.**``.

    Raises:
        InputError: the run is not done, or its executed.ipynb has no such output.
    """
    state = run.status["state"]
    if state != "done":
        raise InputError(f"{run.dir} is {state}, not done: it has no answer")
    executed = run.path("executed.ipynb")
    text = _answer_text(cells(executed))
    if not text:
        raise InputError(f"{executed} shows no Markdown that begins with {ANSWER}; let its last cell display one")
    return text.removeprefix(ANSWER).strip()


def keep_answer(run: Run, notebook: Path, command: str) -> str:
    """Write the run's answer as a list, its ``command`` and its cost below the notebook's question.

    An image of the first cell, ``![text](path "name")``, is replaced by the run's figure ``name`` if there is one.

    Returns the answer. Raises what `answer` raises.
    """
    status, result = run.status, answer(run)
    where = read_json(run.path("environment.json"))
    parts = [f"{status['seconds']:.0f} s", f"{where['cores']} cores of {where['cpu']}", where["gpu"]]
    if status.get("memory_mib"):
        parts.insert(1, f"{status['memory_mib'] / 1024:.1f} GiB")
    document = read_json(notebook)
    head = "".join(document["cells"][0]["source"]).partition(LAST)[0].rstrip()
    _keep_picture(run, notebook, head)
    listed = "\n".join(f"- {line.removeprefix('- ')}" for line in result.splitlines() if line)
    text = "\n\n".join([head, f"{LAST} (`{command}`)", listed, f"{COST} {', '.join(filter(None, parts))}."])
    document["cells"][0]["source"] = text.splitlines(keepends=True)
    write_text(notebook, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return result


def _keep_picture(run: Run, notebook: Path, head: str) -> None:
    shown = PICTURE.search(head)
    figure = run.path("figures", f"{shown['name']}.png") if shown else None
    if figure is None or not figure.exists():
        return
    with Image.open(figure) as image, atomic_path(notebook.parent / shown["path"]) as temporary:
        image.thumbnail((PICTURE_WIDTH, 2 * PICTURE_WIDTH))
        image.convert("RGB").quantize(PICTURE_COLOURS).save(temporary, format="png", optimize=True)


def answered(document: dict[str, Any]) -> None:
    """Replace the stored answer in the first cell of an executed notebook by its own, and remove the stored image.

    The image's path is relative to the notebook, so it is wrong in the run's folder.
    """
    first = document["cells"][0]
    head = "".join(first["source"])
    if first["cell_type"] != "markdown" or LAST not in head:
        return
    head = STORED.sub("", head.partition(LAST)[0]).rstrip()
    first["source"] = "\n\n".join(filter(None, [head, _answer_text(document["cells"])])).splitlines(keepends=True)


def _answer_text(executed: Sequence[dict[str, Any]]) -> str:
    """The last output of these cells that begins with ANSWER, without line breaks inside sentences; "" if none."""
    outputs = (output for cell in executed for output in cell.get("outputs", []))
    answers = [text for text in map(_markdown, outputs) if text.startswith(ANSWER)]
    lead, *items = (" ".join(part.split()) for part in re.split(r"\n+(?=- )", answers[-1] if answers else ""))
    return "\n\n".join(filter(None, [lead, "\n".join(items)]))


def _markdown(output: dict[str, Any]) -> str:
    return "".join(output.get("data", {}).get("text/markdown", ""))


def collect(folder: str | Path, runs: Sequence[Run]) -> Path:
    """Copy the figures and results of finished notebook runs into a folder, and write their answers to ``answers.md``.

    A figure's name is prefixed with its notebook, as in ``30_embedding_map-maps.png``. PDFs are not copied,
    because those with images take megabytes.

    Returns the path of answers.md.

    Raises:
        InputError: a run that is not done or has no answer; then nothing is copied.
    """
    folder, answers = Path(folder), [(run.status["notebook"], answer(run), run) for run in runs]
    folder.mkdir(parents=True, exist_ok=True)
    for notebook, _, run in answers:
        pictures = (file for file in sorted(run.path("figures").glob("*.*")) if file.suffix != ".pdf")
        files = [*pictures, run.path("results.json")]
        for file in (file for file in files if file.exists()):
            with atomic_path(folder / f"{Path(notebook).stem}-{file.name}") as temporary:
                shutil.copyfile(file, temporary)
    lines = [f"**{Path(notebook).stem}.** {text}" for notebook, text, _ in answers]
    write_text(folder / "answers.md", "\n\n".join(lines) + "\n")
    return folder / "answers.md"
