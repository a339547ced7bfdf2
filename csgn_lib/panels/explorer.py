"""What a query is answered, and how that changes when it is asked otherwise. Nothing here knows a widget.

A `Look` says how a query is asked: compared whole or without the clothing words, its picture made gray, a text added.
The query is changed and not the gallery, except by a vocabulary, which both sides are read through.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from csgn_lib import figures
from csgn_lib.datasets import Protocol
from csgn_lib.datasets.protocols import UNKNOWN
from csgn_lib.panels.looks import ADDED, ALL, ALONE, RIGHT, Answer, Filter, Look, changed, painted, pixels_of
from csgn_lib.panels.sources import Source, open_source
from csgn_lib.panels.thumbnails import Thumbnails
from csgn_lib.records import InputError
from csgn_lib.retrieval import CLOTHING_OUT, PERSON_ONLY, PLAIN, Descriptor, evaluate, features_of
from csgn_lib.retrieval.features import by_tracklet, unit_rows
from csgn_lib.retrieval.scores import per_query
from csgn_lib.vocabulary import coordinates
from csgn_lib.vss import Embeddings

KEPT = 4  # galleries under a descriptor, and answers, that stay in memory
COLUMNS = 48  # of a vocabulary's directions along which a gallery is measured at once
LEAST = {CLOTHING_OUT: 1e-2, PERSON_ONLY: 1e-4}  # share of |f|^2 that must be left for a cosine to be right to 1e-5


class Explorer:
    """Models over benchmarks, opened when they are first asked for; queries, and their answers.

    Args:
        sources: by name, a Source or a run's folder.
        attention: images (B, 3, H, W) to maps (B, H, W), given an encoder; by default the library's rollout.

    Every method raises InputError, and a failed one leaves everything as it was.
    """

    def __init__(self, sources: Mapping[str, Source | str | Path], attention: Callable[..., Any] | None = None) -> None:
        if not sources:
            raise InputError("nothing to explore: give a run's folder, or the frozen CLIP")
        self._given, self._attention = dict(sources), attention
        self._opened: dict[str, Source] = {}
        self._galleries: OrderedDict[Any, Any] = OrderedDict()
        self._shares: dict[tuple[str, str], NDArray[np.float32]] = {}
        self._answers: OrderedDict[Any, Answer] = OrderedDict()
        self._scores: dict[tuple[str, str], pd.DataFrame] = {}
        self._thumbnails: dict[tuple[Path, bool], Thumbnails] = {}

    @property
    def names(self) -> list[str]:
        return list(self._given)

    def source(self, name: str) -> Source:
        """A model by its name, opened if it is not yet."""
        if name not in self._given:
            raise InputError(f"no model {name!r} is given; one of {', '.join(self._given)}")
        if name not in self._opened:
            given = self._given[name]
            self._opened[name] = given if isinstance(given, Source) else open_source(given)
        return self._opened[name]

    def thumbnails(self, name: str) -> Thumbnails:
        data = self.source(name).benchmark
        wanted = data.root, data.hide_faces
        return self._thumbnails.setdefault(wanted, Thumbnails(*wanted))

    def protocols(self, name: str) -> tuple[str, ...]:
        return self.source(name).benchmark.protocols

    def scored(self, name: str, protocol: str) -> pd.DataFrame:
        """``Scores.per_query`` of the counted queries of the plain descriptor, hardest first."""
        if (name, protocol) not in self._scores:
            source = self.source(name)
            sides = (features_of(source.descriptors[PLAIN])(side) for side in (source.query, source.gallery))
            data = source.benchmark
            found = evaluate(*sides, data.query, data.gallery, data.protocol(protocol)).per_query
            self._scores[name, protocol] = found[found["valid"]].sort_values(["ap", "row"], ignore_index=True)
        return self._scores[name, protocol]

    def queries(self, name: str, protocol: str, where: Filter = Filter()) -> pd.DataFrame:  # noqa: B008
        """The counted queries that a filter leaves, hardest first; columns as ``Scores.per_query``."""
        found = self.scored(name, protocol)
        keep = found["ap"].between(where.ap[0] - 1e-9, where.ap[1] + 1e-9)
        for column, wanted in (("camera", where.camera), ("clothes", where.clothes)):
            keep &= (found[column] == wanted) | (wanted == -1)
        if where.first != ALL:
            keep &= (found["first_hit"] == 1) == (where.first == RIGHT)
        return found[keep]

    def ranks(self, name: str, protocol: str, row: int, look: Look = Look(), draw: int = 0) -> Answer:  # noqa: B008
        """What a query is answered under a protocol; of a tracklet, ``row`` is its first frame.

        Where the picture is changed, that frame alone is asked.
        """
        wanted = (name, protocol, row, look, draw)
        if wanted not in self._answers:
            self._answers[wanted] = self._answer(*wanted)
            while len(self._answers) > KEPT:
                self._answers.popitem(last=False)
        self._answers.move_to_end(wanted)
        return self._answers[wanted]

    def _answer(self, name: str, protocol: str, row: int, look: Look, draw: int) -> Answer:
        source = self.source(name)
        rule, frame = source.benchmark.protocol(protocol), source.benchmark.query
        if not 0 <= row < len(frame) or row not in rule.query_rows(frame):
            raise InputError(f"row {row} is no query of {protocol}; queries() lists them")
        rows = [row]
        if rule.aggregate == "tracklet" and not look.repaints:
            rows = np.flatnonzero(frame["tracklet"] == frame["tracklet"].iloc[row])
        if look.repaints:
            asked = self._embed(source, self.thumbnails(name).image(frame["path"].iloc[row], blocked=False), look)
        else:
            asked = _rows(source.query, rows)
        feature = self._asked(source, asked, look)
        if rule.aggregate == "tracklet":
            feature = by_tracklet(feature, frame.iloc[rows], "query")[0]
        return self._ranked(source, rule, row, np.asarray(feature)[0], look, draw)

    def search(self, name: str, picture: Image.Image, look: Look = Look()) -> Answer:  # noqa: B008
        """The whole gallery in the order of its likeness to a picture of the user's, of whom no label is known."""
        source = self.source(name)
        feature = self._asked(source, self._embed(source, picture, look), look)[0]
        similarity, rows = self._similar(source, look, None, np.asarray(feature))
        order = np.argsort(-similarity, kind="stable")
        nobody = pd.Series({"path": "your image", "person": UNKNOWN, "camera": UNKNOWN, "clothes": UNKNOWN})
        return Answer(nobody, rows[order], similarity[order], np.nan, 0, source.benchmark.gallery)

    def compare(self, one: str, other: str) -> None:
        """Raise InputError if two models do not have the same queries and gallery, in the same order."""
        sides = [self.source(name).benchmark for name in (one, other)]
        for split in ("query", "gallery"):
            paths = [getattr(data, split)["path"].to_numpy() for data in sides]
            if not np.array_equal(*paths):
                raise InputError(f"{one} and {other} are of different data; compare two runs on the same benchmark")

    def attention(self, name: str, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Where a model looks in each picture: maps (B, H, W), as the library's rollout makes them."""
        read = self._attention
        if read is None:
            try:
                from csgn_lib.analysis.attribution import rollout as read
            except ImportError as error:
                raise InputError(
                    f"attention needs csgn_lib.analysis.attribution, which this version lacks ({error})"
                ) from None
        source = self.source(name)
        pixels = torch.stack([pixels_of(picture, source.size) for picture in pictures])
        return np.asarray(read(source.encoder, pixels), dtype=np.float32)

    def save(
        self, protocol: str, row: int, looks: Sequence[tuple[str, Look]], to: str, top: int = 10, draw: int = 0
    ) -> Path:
        """What is shown, as a paper's figure: one strip a (model, look). Returns the path without a suffix."""
        if not to.strip():
            raise InputError("the figure has no name; type one, such as explore-1")
        runs = [run for name in dict.fromkeys(name for name, _ in looks) if (run := self.source(name).run)]
        with tempfile.TemporaryDirectory() as folder:
            strips = [self._figure_strip(protocol, row, *one, draw, Path(folder, f"{i}.png"), top)
                      for i, one in enumerate(looks)]  # fmt: skip
            data = self.source(looks[0][0]).benchmark
            rows, titles, tables = zip(*strips, strict=True)
            figure = figures.rank_strips(rows, data.root, top, titles, data.hide_faces)
        caption = f"{data.query['path'].iloc[row]} under {protocol}: first answers. One query: there is no interval."
        return figures.save(figure, to.strip(), pd.concat(tables, ignore_index=True), caption, runs)

    def _figure_strip(
        self, protocol: str, row: int, name: str, look: Look, draw: int, file: Path, top: int
    ) -> tuple[tuple[pd.Series, pd.DataFrame], str, pd.DataFrame]:
        """((query, ranked), title, table); a query that is repainted is written to ``file`` and shown from there."""
        answer = self.ranks(name, protocol, row, look, draw)
        ranked, shown = answer.gallery.iloc[answer.rows[:top]], answer.query
        table = figures.strip_frame(shown, ranked, top)
        table = table.assign(model=name, look=str(look), similarity=[np.nan, *answer.similarity[:top]])
        if look.repaints:
            painted(self.thumbnails(name).image(shown["path"]), look).save(file)
            shown = shown.copy()
            shown["path"] = str(file)
        title = f"{name}, {look}: AP {answer.ap:.2f}, first right answer at rank {answer.first_hit}"
        return (shown, ranked), title, table

    def _descriptor(self, source: Source, look: Look) -> Descriptor:
        if look.vocabulary not in source.descriptors:
            raise InputError(f"{source.name} has no descriptor {look.vocabulary!r}; {', '.join(source.descriptors)}")
        chosen = source.descriptors[look.vocabulary]
        chosen = replace(chosen, rank=look.rank) if look.vocabulary != PLAIN and look.rank else chosen
        return replace(chosen, parts=("f",)) if look.says and look.use == ALONE else chosen

    def _read(self, source: Source, descriptor: Descriptor) -> Callable[[Embeddings], Tensor]:
        return features_of(descriptor, source.words if descriptor.vocabulary != PLAIN else None)

    def _embed(self, source: Source, picture: Image.Image, look: Look) -> Embeddings:
        with torch.inference_mode():
            return source.encoder(changed(pixels_of(picture, source.size), look)[None])

    def _asked(self, source: Source, asked: Embeddings, look: Look) -> Tensor:
        """The features that are compared, (B, D), with the text in them."""
        read = self._read(source, self._descriptor(source, look))
        if look.says and look.use == ALONE:
            asked = replace(asked, f=source.text(look.text.strip())[None])
        elif look.says:
            if asked.f is None:
                raise InputError(f"{source.name} has no embedding that meets words; choose a run with a ViT")
            sign = 1 if look.use == ADDED else -1
            direction = source.direction(look.text.strip())
            asked = replace(asked, f=F.normalize(asked.f, dim=1) + sign * look.weight * direction)
        return read(asked)

    def _similar(
        self, source: Source, look: Look, rule: Protocol | None, feature: NDArray
    ) -> tuple[NDArray[np.float32], NDArray]:
        """Cosines (N,) of what is ranked with a query's feature (D,), and the gallery row of each.

        With words out or kept, f' and q' are projections, so f'.q' = f.q': of the gallery only the length of f' is
        another for another rank, and its features are not made again.
        """
        descriptor, tracklets = self._descriptor(source, look), rule is not None and rule.aggregate == "tracklet"
        asked = _unit(feature)
        left = None if tracklets or descriptor.vocabulary == PLAIN else self._left(source, descriptor)
        if left is None:
            unit, rows = self._gallery(source, descriptor, tracklets)
            return unit @ asked, rows
        unit, rows = self._gallery(source, replace(descriptor, vocabulary=PLAIN, rank=0), tracklets)
        widths = [source.gallery.parts()[name].shape[1] for name in descriptor.parts]
        place = descriptor.parts.index("f")
        here, beside = slice(sum(widths[:place]), sum(widths[: place + 1])), asked.copy()
        beside[here] = 0
        return unit @ beside + unit[:, here] @ asked[here] / left, rows

    def _left(self, source: Source, descriptor: Descriptor) -> NDArray[np.float32] | None:
        """Length (N,) of what words leave of each f of length 1; None where that is too little to compare so."""
        kind, rank = descriptor.vocabulary, descriptor.rank
        known = self._shares.get((source.name, kind))
        if known is None or known.shape[1] <= rank:
            basis = source.words.basis(kind)[:, : max(rank, COLUMNS)]
            inside = coordinates(F.normalize(source.gallery.f, dim=1), basis).square().cumsum(dim=1)
            known = self._shares[source.name, kind] = F.pad(inside, (1, 0)).numpy()  # (N, 1 + K): none, one, ...
        share = known[:, rank] if kind == PERSON_ONLY else 1 - known[:, rank]
        return np.sqrt(share) if share.min() > LEAST[kind] else None

    def _gallery(self, source: Source, descriptor: Descriptor, tracklets: bool) -> tuple[NDArray[np.float32], NDArray]:
        """Unit features (N, D) of what is ranked, and the gallery row of each; the last few are kept."""
        wanted = (source.name, descriptor, tracklets)
        if wanted not in self._galleries:
            features, frame = self._read(source, descriptor)(source.gallery), source.benchmark.gallery
            rows = np.arange(len(frame))
            if tracklets:
                features, rows = by_tracklet(features, frame, "gallery")
            self._galleries[wanted] = unit_rows(features, "gallery"), rows
            while len(self._galleries) > KEPT:
                self._galleries.popitem(last=False)
        self._galleries.move_to_end(wanted)
        return self._galleries[wanted]

    def _ranked(self, source: Source, rule: Protocol, row: int, feature: NDArray, look: Look, draw: int) -> Answer:
        similarity, rows = self._similar(source, look, rule, feature)
        query, gallery = source.benchmark.query, source.benchmark.gallery
        columns = rule.gallery_rows(gallery.iloc[rows])[draw]
        similarity = similarity[columns]
        order = np.argsort(-similarity, kind="stable")
        ranked, similarity = rows[columns[order]], similarity[order]
        person = query["person"].iloc[row]
        same = np.flatnonzero((gallery["person"].to_numpy()[ranked] == person) & (person != UNKNOWN))
        junk = rule.is_junk(query, gallery, np.full(len(same), row), ranked[same])
        found = per_query(np.zeros(len(same), np.int64), same + 1, junk, 1, rule.ap).iloc[0]
        keep = np.ones(len(ranked), dtype=bool)
        keep[same[junk]] = False
        hit = int(found["first_hit"])
        return Answer(query.iloc[row], ranked[keep], similarity[keep], float(found["ap"]), hit, gallery)


def _rows(embedded: Embeddings, rows: Sequence[int]) -> Embeddings:
    blank: dict[str, Tensor | None] = dict.fromkeys(("z11", "z12", "f", "c"))
    return Embeddings(**blank | {name: value[rows] for name, value in embedded.parts().items()})


def _unit(feature: NDArray) -> NDArray[np.float32]:
    length = float(np.linalg.norm(feature))
    if not np.isfinite(length) or length == 0:
        raise InputError("nothing is left of the query's feature to compare; take less out of it")
    return (feature / length).astype(np.float32)
