"""The protocols of each benchmark, and those of any benchmark.

Interface::

    PROTOCOLS: dict[str, Protocol]                    # general, cloth_changing, same_clothes: any benchmark
    BENCHMARK_PROTOCOLS: dict[benchmark, dict[str, Protocol]]             # what a name means there; headline first
    resolve(protocol, benchmark=None) -> Protocol     # exported as ``datasets.protocol``

The frames that ``load`` returns carry ``frame.attrs["benchmark"]``, so a scorer that is given only a
name and two frames calls ``resolve(protocol, query.attrs.get("benchmark"))``.
"""

from __future__ import annotations

from csgn_lib import registry
from csgn_lib.datasets.protocols import Protocol, Rule
from csgn_lib.records import InputError, nearest

_SAME_CAMERA: Rule = (("camera", "same"),)
_SAME_CLOTHES: Rule = (("clothes", "same"),)
_OTHER_CLOTHES: Rule = (("clothes", "different"),)

GENERAL = Protocol(
    "general",
    "all images; matches from the query's camera are dropped (an unknown camera drops nothing)",
    junk=(_SAME_CAMERA,),
)
CLOTH_CHANGING = Protocol(
    "cloth_changing",
    "all images; matches from the query's camera or in the query's clothes are dropped",
    junk=(_SAME_CAMERA, _SAME_CLOTHES),
    needs=("clothes",),
)
SAME_CLOTHES = Protocol(
    "same_clothes",
    "all images; matches from the query's camera or in other clothes are dropped",
    junk=(_SAME_CAMERA, _OTHER_CLOTHES),
    needs=("clothes",),
)
PROTOCOLS: dict[str, Protocol] = {p.name: p for p in (CLOTH_CHANGING, GENERAL, SAME_CLOTHES)}


def _ltcc() -> tuple[Protocol, ...]:
    changers = (("changes_clothes", (1,)),)
    text = "as cloth-changing, but queries and gallery show only people of info/cloth-change_id_test.txt"
    restricted = Protocol(
        "cloth_changing_changers",
        text,
        junk=CLOTH_CHANGING.junk,
        query_where=changers,
        gallery_where=changers,
        needs=("clothes", "changes_clothes"),
    )
    return CLOTH_CHANGING, GENERAL, SAME_CLOTHES, restricted


def _prcc() -> tuple[Protocol, ...]:
    """Query camera C (2) changed clothes, B (1) did not; the gallery is camera A (0)."""
    gallery = (("camera", (0,)),)
    full, single = [], []
    for name, camera, letter in (("cross_clothes", 2, "C"), ("same_clothes", 1, "B")):
        where = (("camera", (camera,)),)
        text = f"query camera {letter}, gallery camera A"
        full.append(Protocol(name, f"{text}: all its images", (_SAME_CAMERA,), where, gallery))
        shot = f"{text}: one random image of each person, mean of 10 such galleries"
        single.append(Protocol(f"{name}_single_shot", shot, (_SAME_CAMERA,), where, gallery, draws=10))
    return (*full, *single, GENERAL)


def _vcclothes() -> tuple[Protocol, ...]:
    """The usual camera subsets (cameras counted from 0); each under the standard rule only."""
    subsets = []
    for name, cameras, text in (("cloth_changing", (2, 3), "3 and 4"), ("same_clothes", (1, 2), "2 and 3")):
        where = (("camera", cameras),)
        description = f"cameras {text} only, query and gallery; matches from the query's camera are dropped"
        subsets.append(Protocol(name, description, (_SAME_CAMERA,), where, where))
    return subsets[0], GENERAL, subsets[1]


def _celebreid() -> tuple[Protocol, ...]:
    digit: tuple[Rule, ...] = ((("first_digit", "same"),),)
    everything, dropped = "all images, no camera labels", "matches whose image number starts with the query's digit"
    return (
        Protocol("general", f"{everything}: nothing is dropped", ()),
        Protocol("general_camera_digit", f"all images; {dropped} are dropped (official scorer's camera)", digit),
        Protocol("general_trapezoid", f"{everything}: nothing is dropped; trapezoid AP", (), ap="trapezoid"),
        Protocol("general_official", f"official scorer: {dropped} are dropped; trapezoid AP", digit, ap="trapezoid"),
    )


def _deepchange() -> tuple[Protocol, ...]:
    """The literature does not agree on what is dropped; the paper's public loaders drop the query's tracklet."""
    tracklet: Rule = (("tracklet", "same"),)
    return (
        Protocol("general", "all images; matches of the query's tracklet are dropped", (tracklet,)),
        Protocol("general_camera", "all images; matches from the query's camera are dropped", (_SAME_CAMERA,)),
        Protocol("general_day", "all images; matches from the query's day are dropped", (_SAME_CLOTHES,)),
    )


def _ccvid() -> tuple[Protocol, ...]:
    def tracklets(base: Protocol) -> Protocol:
        text = base.description.replace("all images", "all tracklets")
        return Protocol(base.name, text, base.junk, needs=base.needs, aggregate="tracklet")

    return tracklets(CLOTH_CHANGING), tracklets(GENERAL), tracklets(SAME_CLOTHES)


_LAST = Protocol("general", "all images, distractors included; no camera labels, nothing is dropped", ())

BENCHMARK_PROTOCOLS: dict[str, dict[str, Protocol]] = {
    benchmark: {p.name: p for p in protocols}
    for benchmark, protocols in {
        "ltcc": _ltcc(),
        "prcc": _prcc(),
        "vcclothes": _vcclothes(),
        "celebreid": _celebreid(),
        "celebreid_light": _celebreid(),
        "deepchange": _deepchange(),
        "last": (_LAST,),
        "ccvid": _ccvid(),
        "market1501": (GENERAL,),
        "synthetic": _ltcc(),
        "csv": (CLOTH_CHANGING, GENERAL, SAME_CLOTHES),
    }.items()
}


def resolve(protocol: str | Protocol, benchmark: str | None = None) -> Protocol:
    """The protocol of a name on a benchmark; a Protocol is returned unchanged.

    A name may have another meaning on another benchmark (``same_clothes`` on PRCC has queries of camera B), so the
    benchmark's own protocols come first and PROTOCOLS second.

    Raises:
        InputError: an unknown name, with the nearest one and all valid ones.

    Example:
        >>> resolve("same_clothes").query_where
        ()
        >>> resolve("same_clothes", "prcc").query_where
        (('camera', (1,)),)
    """
    if isinstance(protocol, Protocol):
        return protocol
    if not isinstance(protocol, str):
        raise InputError(f"protocol = {protocol!r}: give one name or one Protocol; use evaluate_all for several")
    known = PROTOCOLS | BENCHMARK_PROTOCOLS.get(benchmark or "", {}) | of_plugins(benchmark)
    if protocol in known:
        return known[protocol]
    raise InputError(f"unknown protocol {protocol!r}{_on(benchmark)}{nearest(protocol, list(known))}")


def of_plugins(benchmark: str | None) -> dict[str, Protocol]:
    """The protocols that loaded plugins add to a benchmark, by name."""
    added = {name: entry for name, entry in registry.entries("protocol").items() if entry.plugin}
    return {
        name: entry.code
        for name, entry in added.items()
        if entry.traits.get("benchmarks") is None or benchmark in entry.traits["benchmarks"]
    }


def _on(benchmark: str | None) -> str:
    return f" on {benchmark}" if benchmark else ""
