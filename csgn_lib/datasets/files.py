"""Folders, file names and text files of a benchmark, with errors that name the file and the remedy.

Only the part of a path below the benchmark's root is ever parsed: a root such as ``/data/my_cc_data``
or ``/mnt/query`` must not affect a label.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from csgn_lib.records import InputError

# files that Windows, macOS, zip programs and network drives create in folders
IGNORED = {
    "thumbs.db", "desktop.ini", "__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information",
    "lost+found",
}  # fmt: skip
IMAGE = r"(?:\.(?i:jpg|jpeg|png|bmp))+"  # the plus: some releases contain files named `.jpg.jpg`
LARGEST = 2**63 - 1  # labels are int64


def list_files(root: Path, folder: str, depth: int = 0) -> list[str]:
    """Files of ``root/folder``, exactly ``depth`` folders down, relative to ``root``; sorted.

    Sorted, so that the order of rows does not depend on the file system. Links to folders are followed. Hidden files
    and those in IGNORED are skipped.

    Raises:
        InputError: the folder is missing, cannot be listed or holds no file; a file lies at another depth.
    """
    top = root / folder
    if not os.path.isdir(top):
        raise InputError(f"{top} is not a folder; expected the images of this split there")
    files = sorted(_at_depth(str(top), folder, depth))
    if not files:
        raise InputError(f"{top} holds no image; is the download complete?")
    return files


def _at_depth(directory: str, relative: str, depth: int) -> Iterator[str]:
    for entry in scan(directory):
        if entry.is_dir() != (depth > 0):
            kind, wanted = ("folder", "an image") if depth == 0 else ("file", "a folder named after a person")
            raise InputError(f"{entry.path} is a {kind}; expected {wanted} here")
        if depth:
            yield from _at_depth(entry.path, f"{relative}/{entry.name}", depth - 1)
        else:
            yield f"{relative}/{entry.name}"


def walk(folder: str | Path) -> Iterator[str]:
    """Every file below ``folder``, at any depth, relative to it. Links to folders are followed, each loop once.

    Raises:
        InputError: a sub-folder that cannot be listed, a link that leads nowhere, a name that is not UTF-8.
    """
    yield from _below(str(checked(folder)), "", frozenset())


def _below(directory: str, prefix: str, above: frozenset[str]) -> Iterator[str]:
    real = os.path.realpath(directory)
    if real in above:  # a link to a parent folder, whose files are already listed
        return
    for entry in scan(directory):
        if entry.is_dir():
            yield from _below(entry.path, f"{prefix}{entry.name}/", above | {real})
        elif os.path.exists(entry.path):
            yield prefix + entry.name
        else:
            raise InputError(f"{entry.path} is a link to a file that does not exist; remove it, or restore the file")


def scan(directory: str) -> list[os.DirEntry[str]]:
    """The entries of one folder in the order of their names, without hidden ones and IGNORED.

    Raises InputError naming a folder that cannot be listed, or a name that is not UTF-8.
    """
    try:
        with os.scandir(directory) as opened:
            entries = sorted(opened, key=lambda entry: entry.name)
    except OSError as error:
        raise InputError(
            f"{directory} cannot be listed ({error.strerror or error}); make it readable, or move it elsewhere"
        ) from None
    kept = [entry for entry in entries if entry.name[0] != "." and entry.name.lower() not in IGNORED]
    for entry in kept:
        checked(entry.name, directory)
    return kept


def checked(path: str | Path, within: str = "") -> Path:
    """``path`` with ~ expanded. Raises InputError if it is not UTF-8: no CSV, JSON or terminal could hold it."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        place = f"in {within}, " if within else ""
        raise InputError(f"{place}the name {os.fsencode(str(path))!r} is not UTF-8; rename it") from None
    return Path(os.path.expanduser(path))


def parse(
    root: Path, paths: Sequence[str], pattern: re.Pattern[str], expected: str, parts: int = 1
) -> dict[str, tuple[str, ...]]:
    """The named groups of ``pattern`` in each path's last ``parts`` parts: {group: (N,) texts}.

    Leading zeros of numbers are removed, so that ``003`` and ``3`` are the same label.

    Args:
        pattern: must match the last ``parts`` parts (joined by "/") completely.
        expected: the pattern in words and an example, for the error.

    Raises:
        InputError: naming the first file that does not match, how many do not, and what was expected; a number
            beyond LARGEST.
    """
    names = [path.rsplit("/", parts) for path in paths]
    matches = [pattern.fullmatch("/".join(name[-parts:]) if parts > 1 else name[-1]) for name in names]
    if None in matches:
        unread = [path for path, match in zip(paths, matches, strict=True) if match is None]
        more = f" (and {len(unread) - 1} more)" if len(unread) > 1 else ""
        raise InputError(f"{root / unread[0]}{more}: this name cannot be read; expected {expected}")
    rows = [
        tuple(by_number(text, root / path) for text in match.groups(""))
        for path, match in zip(paths, matches, strict=True)
    ]
    return dict(zip(pattern.groupindex, zip(*rows, strict=True), strict=True))


def by_number(label: str, place: object) -> str:
    """A label whose numbers have no leading zeros: ``003_01`` is ``3_1``. Raises InputError for one beyond LARGEST.

    Args:
        place: the file or line that the label is from, for the error.
    """

    def number(match: re.Match[str]) -> str:
        digits = match[0].lstrip("0") or "0"
        if len(digits) > len(str(LARGEST)) or int(digits) > LARGEST:
            raise InputError(f"{place}: the number {match[0]} is larger than {LARGEST}; rename it")
        return str(int(digits))

    return re.sub(r"\d+", number, label)


def find_root(root: str | Path, needed: Sequence[str], what: str) -> Path:
    """``root`` as a folder that holds every path in ``needed``.

    Raises:
        InputError: naming the path, the expected content, and the right folder if one is nearby:
            a sibling with nearly this name, a folder at most two levels below, or the parent.
    """
    root = checked(root)
    wanted = ", ".join(needed)
    if not os.path.isdir(root):
        raise InputError(f"{root} is not a folder{_sibling(root)}; expected the {what} root with {wanted} in it")
    missing = [name for name in needed if not os.path.exists(root / name)]
    if missing:
        raise InputError(
            f"{root} does not look like the {what} root: looked for {wanted}; "
            f"missing {', '.join(missing)}{_right_root(root, needed)}"
        )
    return root


def _sibling(root: Path) -> str:
    if not os.path.isdir(root.parent):
        return f" (nor is {root.parent})"
    close = difflib.get_close_matches(root.name, [folder.name for folder in _folders(root.parent)], n=1)
    return f" (did you mean {root.parent / close[0]}?)" if close else ""


def _right_root(root: Path, needed: Sequence[str]) -> str:
    """A hint: the folder at most two levels below, or one or two above, that has what is needed."""
    below = _folders(root)
    deeper = [inner for folder in below[:50] for inner in _folders(folder)]
    candidates = [*below, root.resolve().parent, *sorted(deeper)[:1000], root.resolve().parent.parent]
    for folder in candidates:
        if all(os.path.exists(folder / name) for name in needed):
            return f"; did you mean {folder}?"
    return ""


def _folders(folder: Path) -> list[Path]:
    """Its sub-folders, sorted; none if it cannot be listed, because hints are optional."""
    try:
        return sorted(Path(entry.path) for entry in scan(str(folder)) if entry.is_dir())
    except InputError:
        return []


def read_text(path: Path) -> str:
    """A UTF-8 text file, without its byte-order mark. Raises InputError naming it if that cannot be read."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; is the download complete?") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not a UTF-8 text file ({error}); save it as UTF-8") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror or error}); make it readable") from None


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The non-empty lines of a text file, stripped, each with its number from 1. Raises as ``read_text``."""
    return [(number, line.strip()) for number, line in enumerate(read_text(path).split("\n"), 1) if line.strip()]
