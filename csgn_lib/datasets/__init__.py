"""Benchmarks on disk, their evaluation protocols as data, and checks of a download.

``load(name, root)`` reads any layout of NAMES into a ``Benchmark``: three frames of paths and labels.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from csgn_lib import registry
from csgn_lib.datasets import (
    ccvid,
    celebreid,
    deepchange,
    last,
    ltcc,
    market1501,
    own_images,
    portrait,
    prcc,
    vcclothes,
)
from csgn_lib.datasets.benchmark import Benchmark, Omission
from csgn_lib.datasets.benchmark_protocols import BENCHMARK_PROTOCOLS, PROTOCOLS
from csgn_lib.datasets.benchmark_protocols import resolve as protocol
from csgn_lib.datasets.integrity import Problem, Report, readiness
from csgn_lib.datasets.protocols import Protocol
from csgn_lib.records import InputError, home, nearest

if TYPE_CHECKING:
    from csgn_lib.config import Experiment

for _name, _read, _folder in (
    ("ltcc", ltcc.read, ltcc.FOLDER),
    ("prcc", prcc.read, prcc.FOLDER),
    ("vcclothes", vcclothes.read, vcclothes.FOLDER),
    ("celebreid", celebreid.read, celebreid.FOLDER),
    ("celebreid_light", celebreid.read, celebreid.FOLDER_LIGHT),
    ("deepchange", deepchange.read, deepchange.FOLDER),
    ("last", last.read, last.FOLDER),
    ("ccvid", ccvid.read, ccvid.FOLDER),
    ("market1501", market1501.read, market1501.FOLDER),
    ("synthetic", ltcc.read, "synthetic"),
    ("csv", own_images.read, own_images.FOLDER),
):
    registry.built_in("benchmark", _name, _read, folder=_folder)
NAMES: tuple[str, ...] = registry.names("benchmark")
for _name in dict.fromkeys([*PROTOCOLS, *(name for known in BENCHMARK_PROTOCOLS.values() for name in known)]):
    registry.built_in("protocol", _name, PROTOCOLS.get(_name), "of the benchmarks that name it")


def load(
    name: str, root: str | Path | None = None, parameters: Experiment | Mapping[str, Any] = MappingProxyType({})
) -> Benchmark:
    """Read a benchmark's index from disk; images are not opened.

    Images listed in ``left_out.csv`` in the root (written by ``Benchmark.save_omissions``) are excluded, and recorded.

    Args:
        name: one of NAMES; ``csv`` is a folder of your own images, ``synthetic`` the embedded benchmark.
        root: its folder. None: the release's own folder name (``LTCC_ReID``, ``prcc``, ...) below the
            folder that the environment variable CSGN_DATA names, or else below the workbench's ``data``.
        parameters: values of those that a plugin's reader declares; their defaults where not given.

    Raises:
        InputError: an unknown name (with the nearest one), a wrong root (with the right one, if it is nearby), a file
            name that cannot be parsed, an empty split.
    """
    readers = registry.entries("benchmark")
    if name not in readers:
        raise InputError(f"unknown benchmark {name!r}{nearest(str(name).lower().replace('-', ''), tuple(readers))}")
    read = readers[name].bind(parameters)
    if root is None and name == "synthetic":
        raise InputError(
            "the embedded benchmark must be rendered before it is read: "
            "root = csgn_lib.synthetic.ensure(world), then load('synthetic', root)"
        )
    if root is None:
        root = Path(os.environ.get("CSGN_DATA", home() / "data"), read.trait("folder") or name)
    return read(root, name).obey_omissions()
