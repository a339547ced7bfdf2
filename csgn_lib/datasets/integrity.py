"""Checks of a benchmark: published counts, damaged images, duplicates, leaks, and whether it can be trained on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from csgn_lib.datasets.duplicates import NEAR, Fingerprints, exact_pairs, featureless, fingerprints, near_pairs
from csgn_lib.datasets.image_files import unreadable
from csgn_lib.datasets.published import count_table
from csgn_lib.records import InputError

if TYPE_CHECKING:
    from csgn_lib.datasets.benchmark import Benchmark

_RESTARTS = {"celebreid", "celebreid_light"}  # test people are numbered from 1 again: equal numbers, other people
_EXAMPLES = 20  # paths kept of a kind that can run into millions (frames of one video look alike)
_BROKEN = ("missing", "undecodable")  # images at which a run would stop


_RELATIONS = {  # how the two images of a pair are related, worst first
    "across_people": ("warning", "pairs of images labelled as different people"),
    "across_sides": ("error", "pairs, one image in train and the other in test or validation"),
    "across_query_and_gallery": ("note", "pairs of one person, one image a query and the other in the gallery"),
    "within_person": ("note", "pairs within a person and split, as in neighbouring frames of a video"),
}

# the kinds of findings: whether images must be opened to find them
KINDS: dict[str, bool] = {
    "missing": False,
    "undecodable": True,
    "training_people": False,
    "empty_split": False,
    "nobody_to_find": False,
    "listed_twice": False,
    "people_in_train_and_test": False,
    **{f"{kind}_{relation}": True for kind in ("duplicates", "near_duplicates") for relation in _RELATIONS},
    "count": False,
    "query_without_match": False,
    "folder_disagrees": False,
    "outfit_seen_once": False,
    "featureless": True,
    "left_out": False,
}


@dataclass(frozen=True)
class Problem:
    """One kind of finding.

    Attributes:
        kind: a key of KINDS.
        severity: error: a result would be wrong or a run would stop. warning: check before relying on a
            score. note: common in this field.
        detail: description, with numbers.
        paths: the images, or for pairs the first few, two and two.
    """

    kind: str
    severity: Literal["error", "warning", "note"]
    detail: str
    paths: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Kind, detail and the first path, in one line."""
        return f"{self.kind}: {self.detail}" + (f" ({_some(self.paths)})" if self.paths else "")


@dataclass(frozen=True, eq=False)
class Report:
    """Result of ``check``.

    Attributes:
        counts: frame ``split what published mark source found agrees``; one row per published number, and rows with
            the number found where none is published.
        problems: worst first; empty if nothing was found.
        manifest: the data's hash, as in every run's record.
        opened: whether the images were opened, or only listed.
    """

    name: str
    counts: pd.DataFrame
    problems: tuple[Problem, ...]
    manifest: str
    opened: bool

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that would make a result wrong or stop a run."""
        return tuple(problem for problem in self.problems if problem.severity == "error")

    @property
    def broken(self) -> tuple[str, ...]:
        """Paths of missing and undecodable images, for ``Benchmark.without(report.broken, reason)``."""
        return tuple(sorted(path for problem in self.problems if problem.kind in _BROKEN for path in problem.paths))

    @property
    def frame(self) -> pd.DataFrame:
        """The problems as a table: ``severity kind detail paths`` (the first path, and how many more)."""
        rows = [(p.severity, p.kind, p.detail, _some(p.paths)) for p in self.problems]
        return pd.DataFrame(rows, columns=["severity", "kind", "detail", "paths"])

    @property
    def overview(self) -> pd.DataFrame:
        """All kinds of findings: ``kind severity found``; "none" without a finding, the worst severity of several."""
        rows = []
        for kind, opening in KINDS.items():
            problems = [problem for problem in self.problems if problem.kind == kind]
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            nothing = "none" if self.opened or not opening else "not checked: images were not opened"
            severity, found = (problems[0].severity, problems[0].detail + more) if problems else ("", nothing)
            rows.append((kind, severity, found))
        return pd.DataFrame(rows, columns=["kind", "severity", "found"])

    def __str__(self) -> str:
        width = "images opened" if self.opened else "images listed, not opened"
        lines = [f"{self.name}: {width}; manifest {self.manifest}", self.counts.to_string(index=False), ""]
        for problem in reversed(self.problems):  # the worst is last, where a terminal shows it
            every = problem.kind in _BROKEN and len(problem.paths) <= _EXAMPLES
            more = ", ".join(problem.paths) if every else _some(problem.paths)
            lines.append(f"{problem.severity}: {problem.kind}: {problem.detail} {more}".rstrip())
        return "\n".join(lines if self.problems else [*lines, "no problem found"])


def _some(paths: tuple[str, ...]) -> str:
    return "" if not paths else paths[0] + (f" (+{len(paths) - 1})" if len(paths) > 1 else "")


def check(benchmark: Benchmark, images: bool = True, near: int = NEAR, workers: int | None = None) -> Report:
    """Compare a benchmark with the published counts and search for damaged images, duplicates and leaks.

    Args:
        images: open every image (1 to 2 ms each); otherwise only names and sizes are checked.
        near: bits of 64 by which the difference hashes of near duplicates may differ.
        workers: threads that decode; none: one a processor.

    Nothing is changed: ``benchmark.without(report.broken, reason)`` excludes broken images. Raises
    InputError for ``near`` or ``workers`` out of range.
    """
    if not 0 <= near < 64 or near != int(near) or (workers is not None and workers < 1):
        raise InputError(f"near = {near}, workers = {workers}: 0 to 63 whole bits, and at least one thread")
    counts = count_table(benchmark)
    everything = _everything(benchmark)
    problems = [*_usability(benchmark), *_labels(benchmark, everything), *_miscounts(counts)]
    if images:
        prints = fingerprints(benchmark.root, everything["path"], workers)
        problems += [*_damage(everything, prints), *_duplicates(everything, prints, near)]
    else:
        problems += _missing(benchmark, everything)
    return Report(benchmark.name, counts, tuple(_worst_first(problems)), benchmark.manifest(), images)


def readiness(benchmark: Benchmark, images: bool = True, workers: int | None = None) -> list[Problem]:
    """Problems that would stop a training run or invalidate its scores, worst first; checked before it starts.

    An error is a reason not to start: an image that cannot be read (of any split), fewer than two training people, no
    query or gallery image, nobody who can be found under any protocol, people who are in train and in test. Empty if
    the benchmark can be trained on and scored.

    Args:
        images: open every image (1 to 2 ms each); otherwise only the existence of the files is checked.
        workers: threads that decode; none: one a processor.
    """
    rows = _everything(benchmark)
    problems = [*_usability(benchmark), *_shared_people(rows)]
    if images:
        problems += _unreadable(unreadable(benchmark.root, list(rows["path"]), workers))
    else:
        problems += _missing(benchmark, rows)
    return _worst_first(problems)


def _worst_first(problems: list[Problem]) -> list[Problem]:
    return sorted(problems, key=lambda problem: ("error", "warning", "note").index(problem.severity))


def _usability(benchmark: Benchmark) -> Iterator[Problem]:
    """Problems of the labels that prevent training or scoring."""
    people = benchmark.train["person"].nunique()
    if people < 2:
        yield Problem("training_people", "error", f"{people} training people; a loss between people needs at least two")
    for split in ("query", "gallery"):
        if getattr(benchmark, split).empty:
            yield Problem("empty_split", "error", f"no {split} image: nothing trained on this could be scored")
    if len(benchmark.query) and len(benchmark.gallery) and not benchmark.protocols:
        try:
            benchmark.protocol()
        except InputError as error:
            yield Problem("nobody_to_find", "error", str(error))


def _missing(benchmark: Benchmark, rows: pd.DataFrame) -> list[Problem]:
    exists = [os.path.exists(os.path.join(benchmark.root, path)) for path in rows["path"]]
    return _listing("missing", "error", "listed files do not exist", rows["path"][~np.array(exists, dtype=bool)])


def _unreadable(reasons: dict[str, str]) -> Iterator[Problem]:
    """One problem per reason, since an empty file needs another remedy than a truncated one."""
    missing = [path for path, reason in reasons.items() if reason == "missing"]
    yield from _listing("missing", "error", "listed files do not exist", missing)
    for reason in sorted(set(reasons.values()) - {"missing"}):
        paths = [path for path, why in reasons.items() if why == reason]
        yield from _listing("undecodable", "error", f"images cannot be decoded ({reason})", paths)


def _everything(benchmark: Benchmark) -> pd.DataFrame:
    """All rows with their split, their side (train or test) and ``who``, which identifies a person across sides."""
    frames = [frame.assign(split=split) for split, frame in benchmark.frames()]
    rows = pd.concat(frames, ignore_index=True)
    rows["side"] = rows["split"].str.split("_").str[0].replace({"query": "test", "gallery": "test"})
    rows["who"] = rows["person_label"]
    if benchmark.name in _RESTARTS:
        rows["who"] = rows["side"].where(rows["side"] == "test", "train") + " " + rows["who"]
    nobody = (rows["side"] != "train") & rows["person"].isin([-1, benchmark.distractor])
    rows.loc[nobody, "who"] = "nobody"
    return rows


def _listing(kind: str, severity: str, text: str, paths: Iterable[str]) -> list[Problem]:
    paths = tuple(sorted(set(paths)))
    return [Problem(kind, severity, f"{text}: {len(paths):,}", paths)] if paths else []


def _labels(benchmark: Benchmark, rows: pd.DataFrame) -> Iterator[Problem]:
    """Problems that can be found without opening an image."""
    yield from _listing("listed_twice", "error", "images are listed twice", rows["path"][rows["path"].duplicated()])
    yield from _shared_people(rows)
    known = rows[rows["who"] != "nobody"]
    for prefix in ("", "validation_"):
        query, gallery = (known[known["split"] == f"{prefix}{split}"] for split in ("query", "gallery"))
        lost = query["path"][~query["who"].isin(gallery["who"])]
        yield from _listing(
            "query_without_match", "warning", f"{prefix}query images have no match in the gallery", lost
        )
    outfit = known["side"] + " " + known["clothes_label"]
    once = (outfit.groupby(outfit).transform("size") == 1) & (known["clothes_label"] != "")
    yield from _listing("outfit_seen_once", "note", "outfits are seen in a single image", known["path"][once])
    reasons = ", ".join(sorted({omission.reason for omission in benchmark.omissions}))
    left_out = (omission.path for omission in benchmark.omissions)
    yield from _listing("left_out", "note", f"images are left out on record ({reasons})", left_out)
    if benchmark.name == "last":
        folder = known["path"].str.split("/").str[-2]
        differs = folder.str.fullmatch(r"\d+") & (folder.str.lstrip("0") != known["person_label"])
        text = "images are in another person's folder; the label in the file name is used"
        yield from _listing("folder_disagrees", "note", text, known["path"][differs])


def _shared_people(rows: pd.DataFrame) -> Iterator[Problem]:
    known = rows[rows["who"] != "nobody"]
    sides = known.groupby("who")["side"].nunique()
    shared = sides.index[sides > 1]
    if len(shared):
        paths = tuple(known["path"][known["who"].isin(shared)])
        detail = f"people in train and in test: {len(shared)}, such as {', '.join(shared[:5])}"
        yield Problem("people_in_train_and_test", "error", detail, paths)


def _damage(rows: pd.DataFrame, prints: Fingerprints) -> Iterator[Problem]:
    bad = prints.error != ""
    yield from _unreadable(dict(zip(rows["path"][bad], prints.error[bad], strict=True)))
    flat = (prints.error == "") & featureless(prints.thumbnail)
    yield from _listing("featureless", "warning", "images are one flat colour", rows["path"][flat])


def _relations(rows: pd.DataFrame) -> Callable[[NDArray[np.int64]], NDArray[np.object_]]:
    """A function from pairs of positions (n, 2) to their keys in _RELATIONS (n,)."""
    labels = [pd.factorize(rows[column])[0] for column in ("who", "side", "split")]
    somebody = (rows["who"] != "nobody").to_numpy()

    def relate(pairs: NDArray[np.int64]) -> NDArray[np.object_]:
        who, side, split = (codes[pairs] for codes in labels)
        out = np.full(len(pairs), "within_person", dtype=object)
        out[split[:, 0] != split[:, 1]] = "across_query_and_gallery"
        out[(who[:, 0] != who[:, 1]) | ~somebody[pairs].all(axis=1)] = "across_people"
        out[side[:, 0] != side[:, 1]] = "across_sides"
        return out

    return relate


def _duplicates(rows: pd.DataFrame, prints: Fingerprints, near: int) -> Iterator[Problem]:
    relate = _relations(rows)
    yield from _pairs_by_relation("duplicates", "identical", rows, relate, [exact_pairs(prints)])
    yield from _pairs_by_relation("near_duplicates", "near-duplicate", rows, relate, near_pairs(prints, near))


def _pairs_by_relation(
    kind: str,
    text: str,
    rows: pd.DataFrame,
    relate: Callable[[NDArray[np.int64]], NDArray[np.object_]],
    blocks: Iterable[NDArray[np.int64]],
) -> Iterator[Problem]:
    paths = rows["path"].to_numpy(dtype=object)
    totals = dict.fromkeys(_RELATIONS, 0)
    examples: dict[str, list[str]] = {relation: [] for relation in _RELATIONS}
    for pairs in blocks:
        relation = relate(pairs)
        for name in _RELATIONS:
            chosen = pairs[relation == name]
            totals[name] += len(chosen)
            examples[name] += paths[chosen[: _EXAMPLES - len(examples[name]) // 2]].ravel().tolist()
    for name, (severity, what) in _RELATIONS.items():
        if severity == "error" and kind == "near_duplicates":
            severity = "warning"  # similar images are a suspicion, not a leak
        if totals[name]:
            yield Problem(f"{kind}_{name}", severity, f"{text} {what}: {totals[name]:,}", tuple(examples[name]))


def _miscounts(counts: pd.DataFrame) -> Iterator[Problem]:
    for row in counts[counts["agrees"].str.startswith("no")].itertuples():
        severity = "note" if row.mark == "M" or "about" in row.source else "warning"
        detail = f"{row.what} in {row.split}: {row.found:,} found, {row.published:,} published ({row.source})"
        yield Problem("count", severity, detail)
