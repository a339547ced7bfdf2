"""`answer`: what a finished run of a notebook found; `keep_answer` writes it into the notebook's first cell,
`collect` beside its figures in a folder of reports.

A reader sees the answer before the first cell runs, and nobody types it: it is the last output of the
executed copy that begins with ``**Answer.**``, with the command that makes it again and what it cost.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csgn_lib.records import InputError, Run, atomic_path, read_json, write_text
from csgn_lib.runs.notebooks import cells

ANSWER, LAST, COST = "**Answer.**", "*Last answer:*", "*Cost:*"


def answer(run: Run) -> str:
    """What the run's notebook found: the last output of its executed copy that begins with ``**Answer.**``.

    Raises:
        InputError: the run is not done, or its executed.ipynb has no such output.
    """
    state = run.status["state"]
    if state != "done":
        raise InputError(f"{run.dir} is {state}, not done: it has no answer to keep")
    executed = run.path("executed.ipynb")
    said = _said(cells(executed))
    if not said:
        raise InputError(f"{executed} shows no Markdown that begins with {ANSWER}; let its last cell say what it found")
    return said.removeprefix(ANSWER).strip()


def keep_answer(run: Run, notebook: Path, command: str) -> str:
    """Put the run's answer, the ``command`` that makes it again, and its cost under the notebook's question.

    Returns the answer. Raises what `answer` raises.
    """
    status, found = run.status, answer(run)
    where = read_json(run.path("environment.json"))
    parts = [f"{status['seconds']:.0f} s", f"{where['cores']} cores of {where['cpu']}", where["gpu"]]
    if status.get("memory_mib"):
        parts.insert(1, f"{status['memory_mib'] / 1024:.1f} GiB")
    document = read_json(notebook)
    head = "".join(document["cells"][0]["source"]).partition(LAST)[0].rstrip()
    lines = [f"{LAST} {found} (`{command}`)", f"{COST} {', '.join(filter(None, parts))}."]
    text = "\n\n".join([head, *lines])  # not wrapped: a line that began with + or - would become a list
    document["cells"][0]["source"] = text.splitlines(keepends=True)
    write_text(notebook, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return found


def answered(document: dict[str, Any]) -> None:
    """Put an executed notebook's own answer under its question, in place of the one its source was kept with."""
    first = document["cells"][0]
    head = "".join(first["source"])
    if first["cell_type"] != "markdown" or LAST not in head:
        return
    parts = [head.partition(LAST)[0].rstrip(), _said(document["cells"])]
    first["source"] = "\n\n".join(filter(None, parts)).splitlines(keepends=True)


def _said(executed: Sequence[dict[str, Any]]) -> str:
    """The last output of these cells that begins as an answer does, in one line; empty if none does."""
    outputs = (output for cell in executed for output in cell.get("outputs", []))
    said = [text for text in map(_markdown, outputs) if text.startswith(ANSWER)]
    return " ".join(said[-1].split()) if said else ""


def _markdown(output: dict[str, Any]) -> str:
    return "".join(output.get("data", {}).get("text/markdown", ""))


def collect(folder: str | Path, runs: Sequence[Run]) -> Path:
    """Copy the figures and results of done runs of notebooks into a folder, beside ``answers.md``: what each found.

    A figure keeps its name; its run's notebook stands before it, as in ``30_embedding_map-maps.png``. Its PDF,
    megabytes where there are pictures in it, stays in the run's folder.

    Returns the path of answers.md.

    Raises:
        InputError: a run that is not done or has no answer; then nothing is copied.
    """
    folder, found = Path(folder), [(run.status["notebook"], answer(run), run) for run in runs]
    folder.mkdir(parents=True, exist_ok=True)
    for notebook, _, run in found:
        pictures = (file for file in sorted(run.path("figures").glob("*.*")) if file.suffix != ".pdf")
        files = [*pictures, run.path("results.json")]
        for file in (file for file in files if file.exists()):
            with atomic_path(folder / f"{Path(notebook).stem}-{file.name}") as temporary:
                shutil.copyfile(file, temporary)
    lines = [f"**{Path(notebook).stem}.** {said}" for notebook, said, _ in found]
    write_text(folder / "answers.md", "\n\n".join(lines) + "\n")
    return folder / "answers.md"
