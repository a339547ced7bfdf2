"""Listing image files and reading labels out of their names, with errors that name file and cure.

Only the part of a path below the benchmark's root is ever parsed: a root such as ``/data/my_cc_data``
or ``/mnt/query`` must not leak into a label.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from csgn_lib.records import InputError

IGNORED = {"thumbs.db", "desktop.ini", "__macosx"}  # what Windows and macOS leave in folders and zips
IMAGE = r"(?:\.(?i:jpg|jpeg|png|bmp))+"  # the plus: some releases hold a few `.jpg.jpg`


def list_files(root: Path, folder: str, depth: int = 0) -> list[str]:
    """Files of ``root/folder``, exactly ``depth`` folders down, relative to ``root``; sorted.

    Sorted, so that the order of rows does not depend on the file system. Hidden files, Thumbs.db and
    the like are passed over.

    Raises:
        InputError: the folder is missing, holds no file, or a file lies at another depth.
    """
    top = root / folder
    if not top.is_dir():
        raise InputError(f"{top} is not a folder; expected the images of this split there")
    found = sorted(_walk(str(top), folder, depth))
    if not found:
        raise InputError(f"{top} holds no image; is the download complete?")
    return found


def _walk(directory: str, relative: str, depth: int) -> list[str]:
    files: list[str] = []
    with os.scandir(directory) as entries:
        for entry in entries:
            name = entry.name
            if name[0] == "." or name.lower() in IGNORED:
                continue
            if entry.is_dir() != (depth > 0):
                kind, wanted = ("folder", "an image") if depth == 0 else ("file", "a folder named after a person")
                raise InputError(f"{os.path.join(directory, name)} is a {kind}; expected {wanted} here")
            if depth:
                files.extend(_walk(entry.path, f"{relative}/{name}", depth - 1))
            else:
                files.append(f"{relative}/{name}")
    return files


def parse(
    root: Path, paths: Sequence[str], pattern: re.Pattern[str], expected: str, parts: int = 1
) -> dict[str, tuple[str, ...]]:
    """The named groups of ``pattern`` in each path's last ``parts`` parts: {group: (N,) texts}.

    Args:
        pattern: must match the last ``parts`` parts (joined by "/") completely.
        expected: the pattern in words and an example, for the error.

    Raises:
        InputError: naming the first file that does not match, how many do not, and what was expected.
    """
    names = [path.rsplit("/", parts) for path in paths]
    matches = [pattern.fullmatch("/".join(name[-parts:]) if parts > 1 else name[-1]) for name in names]
    if None in matches:
        unread = [path for path, match in zip(paths, matches, strict=True) if match is None]
        more = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
        raise InputError(f"{root / unread[0]}{more}: this name cannot be read; expected {expected}")
    groups = zip(*(match.groups("") for match in matches if match), strict=True)
    return dict(zip(pattern.groupindex, groups, strict=True))


def find_root(root: str | Path, needed: Sequence[str], what: str) -> Path:
    """``root`` as a folder that holds every path in ``needed``.

    Raises:
        InputError: naming the path, what was looked for, and the right folder if one is near by:
            a sibling with nearly this name, a folder at most two levels below, or the parent.
    """
    root = Path(root).expanduser()
    wanted = ", ".join(needed)
    if not root.is_dir():
        raise InputError(f"{root} is not a folder{_sibling(root)}; expected the {what} root with {wanted} in it")
    missing = [name for name in needed if not (root / name).exists()]
    if missing:
        raise InputError(
            f"{root} does not look like the {what} root: looked for {wanted}; "
            f"missing {', '.join(missing)}{_right_root(root, needed)}"
        )
    return root


def _sibling(root: Path) -> str:
    if not root.parent.is_dir():
        return f" (nor is {root.parent})"
    folders = [entry.name for entry in os.scandir(root.parent) if entry.is_dir()]
    close = difflib.get_close_matches(root.name, folders, n=1)
    return f" (did you mean {root.parent / close[0]}?)" if close else ""


def _right_root(root: Path, needed: Sequence[str]) -> str:
    """A hint: the folder at most two levels below, or one or two above, that has what is needed."""
    below = [Path(entry.path) for entry in os.scandir(root) if entry.is_dir() and entry.name[0] != "."]
    deeper = [Path(e.path) for folder in sorted(below)[:50] for e in os.scandir(folder) if e.is_dir()]
    candidates = [*sorted(below), root.resolve().parent, *sorted(deeper)[:1000], root.resolve().parent.parent]
    for folder in candidates:
        if all((folder / name).exists() for name in needed):
            return f"; did you mean {folder}?"
    return ""


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The non-empty lines of a text file, stripped, each with its number from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; it is part of the download") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a UTF-8 text file ({error})") from None
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
