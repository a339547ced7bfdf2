"""`keep_answer`: what a finished run of a notebook found, written back into the notebook's first cell.

A reader sees the answer before the first cell runs, and nobody types it: it is the last output of the
executed copy that begins with ``**Answer.**``, with the command that makes it again and what it cost.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from csgn_lib.records import InputError, Run, read_json, write_text
from csgn_lib.runs.notebooks import cells

ANSWER, LAST, COST = "**Answer.**", "*Last answer:*", "*Cost:*"


def keep_answer(run: Run, notebook: Path, command: str) -> str:
    """Put the run's answer, the ``command`` that makes it again, and its cost under the notebook's question.

    Returns the answer.

    Raises:
        InputError: the run is not done, or no output of its executed.ipynb begins with ``**Answer.**``.
    """
    status = run.status
    if status["state"] != "done":
        raise InputError(f"{run.dir} is {status['state']}, not done: it has no answer to keep")
    said = [text for text in map(_markdown, _outputs(run.path("executed.ipynb"))) if text.startswith(ANSWER)]
    if not said:
        raise InputError(f"{notebook} shows no Markdown that begins with {ANSWER}; let its last cell say what it found")
    answer = " ".join(said[-1].removeprefix(ANSWER).split())
    where = read_json(run.path("environment.json"))
    parts = [f"{status['seconds']:.0f} s", f"{where['cores']} cores of {where['cpu']}", where["gpu"]]
    if status.get("memory_mib"):
        parts.insert(1, f"{status['memory_mib'] / 1024:.1f} GiB")
    document = read_json(notebook)
    head = "".join(document["cells"][0]["source"]).partition(LAST)[0].rstrip()
    lines = [f"{LAST} {answer} (`{command}`)", f"{COST} {', '.join(filter(None, parts))}."]
    text = "\n\n".join([head, *lines])  # not wrapped: a line that began with + or - would become a list
    document["cells"][0]["source"] = text.splitlines(keepends=True)
    write_text(notebook, json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    return answer


def _outputs(executed: Path) -> list[dict[str, Any]]:
    return [output for cell in cells(executed) for output in cell.get("outputs", [])]


def _markdown(output: dict[str, Any]) -> str:
    return "".join(output.get("data", {}).get("text/markdown", ""))
