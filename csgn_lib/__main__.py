"""Command-line interface: ``csgn`` (= ``python -m csgn_lib``).

A command exits with status 0 only if it did what was asked. An input error is one line on standard error and status 2.
"""

from __future__ import annotations

import sys

from csgn_lib.commands import app
from csgn_lib.records import InputError, stop_on_sigterm


def main(arguments: list[str] | None = None) -> None:
    """Run one command and exit with its status."""
    stop_on_sigterm()
    try:
        app(_joined(sys.argv[1:] if arguments is None else arguments), prog_name="csgn")
    except InputError as error:
        print(f"csgn: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


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


if __name__ == "__main__":
    main()
