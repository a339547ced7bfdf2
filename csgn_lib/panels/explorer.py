"""Rankings of a query under changes: gray, another hue, clothing removed, a text added. No widgets.

A `Look` describes the change. Only the query's image or feature changes; the exception is a vocabulary (clothing
directions removed, or person directions alone), which is applied to query and gallery.
"""

from __future__ import annotations

import tempfile
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from csgn_lib import figures
from csgn_lib.analysis.attribution import rollout
from csgn_lib.datasets import Protocol
from csgn_lib.datasets.protocols import UNKNOWN
from csgn_lib.panels.looks import ADDED, ALL, DIRECTIONS, RIGHT, Answer, Filter, Look, changed, painted, pixels_of
from csgn_lib.panels.sources import NO_JOINT, Source, open_source
from csgn_lib.panels.thumbnails import Thumbnails, lettered
from csgn_lib.records import InputError
from csgn_lib.retrieval import CLOTHING_REMOVED, PERSON_ONLY, PLAIN, Descriptor, evaluate, features_of
from csgn_lib.retrieval.features import by_tracklet, unit_rows
from csgn_lib.retrieval.scores import per_query
from csgn_lib.vocabulary import coordinates
from csgn_lib.vss import Embeddings

KEPT = 4  # cached gallery features (one per descriptor), and cached answers
COLUMNS = 48  # text directions for which gallery coordinates are computed together
# Share of |f|^2 that must remain for a cosine to be accurate to 1e-5.
LEAST = {CLOTHING_REMOVED: 1e-2, PERSON_ONLY: 1e-4}


class Explorer:
    """Queries and their rankings by several models. A model is opened when it is first used.

    Args:
        sources: by name, a Source or a run's folder.

    Every method raises InputError for invalid input, and then changes nothing.
    """

    def __init__(self, sources: Mapping[str, Source | str | Path]) -> None:
        if not sources:
            raise InputError("nothing to explore: give a run's folder, or the frozen CLIP")
        self._given = dict(sources)
        self._opened: dict[str, Source] = {}
        self._galleries: OrderedDict[Any, Any] = OrderedDict()
        self._shares: dict[tuple[str, str], NDArray[np.float32]] = {}
        self._answers: OrderedDict[Any, Answer] = OrderedDict()
        self._scores: dict[tuple[str, str], pd.DataFrame] = {}
        self._thumbnails: dict[tuple[Path, bool], Thumbnails] = {}

    @property
    def names(self) -> list[str]:
        """The models' names, in the order given."""
        return list(self._given)

    def source(self, name: str) -> Source:
        """The model of that name, opened if necessary."""
        if name not in self._given:
            raise InputError(f"no model {name!r} is given; one of {', '.join(self._given)}")
        if name not in self._opened:
            given = self._given[name]
            self._opened[name] = given if isinstance(given, Source) else open_source(given)
        return self._opened[name]

    def thumbnails(self, name: str) -> Thumbnails:
        """Small images of a model's benchmark, faces blocked where its owners ask for it."""
        data = self.source(name).benchmark
        wanted = data.root, data.hide_faces
        return self._thumbnails.setdefault(wanted, Thumbnails(*wanted))

    def protocols(self, name: str) -> tuple[str, ...]:
        """The protocols of a model's benchmark, the headline first."""
        return self.source(name).benchmark.protocols

    def scored(self, name: str, protocol: str) -> pd.DataFrame:
        """``Scores.per_query`` of the counted queries under the plain descriptor, lowest average precision first."""
        if (name, protocol) not in self._scores:
            source = self.source(name)
            sides = (features_of(source.descriptors[PLAIN])(side) for side in (source.query, source.gallery))
            data = source.benchmark
            scores = evaluate(*sides, data.query, data.gallery, data.protocol(protocol)).per_query
            self._scores[name, protocol] = scores[scores["valid"]].sort_values(["ap", "row"], ignore_index=True)
        return self._scores[name, protocol]

    def queries(self, name: str, protocol: str, where: Filter = Filter()) -> pd.DataFrame:  # noqa: B008
        """The counted queries that pass a filter, in its order; columns as ``Scores.per_query``."""
        scores = self.scored(name, protocol)
        keep = scores["ap"].between(where.ap[0] - 1e-9, where.ap[1] + 1e-9)
        for column, wanted in (("camera", where.camera), ("clothes", where.clothes)):
            if wanted:
                keep &= scores[column].map(self.source(name).benchmark.names(column)) == wanted
        if where.first != ALL:
            keep &= (scores["first_hit"] == 1) == (where.first == RIGHT)
        if where.contains.strip():
            keep &= scores["path"].str.contains(where.contains.strip(), case=False, regex=False)
        return where.ordered(scores[keep])

    def ranks(self, name: str, protocol: str, row: int, look: Look = Look(), draw: int = 0) -> Answer:  # noqa: B008
        """The ranking of one query under a protocol.

        Args:
            row: row of the query frame; for a tracklet its first frame, the only one used if the image is changed.
            draw: number of the protocol's single-shot gallery.

        A search by text alone has no query image and so no protocol: it returns ``search(name, None, look)``.
        """
        if look.text_alone:
            return self.search(name, None, look)
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
            raise InputError(f"row {row} is not a query of {protocol}; queries() lists them")
        rows = [row]
        if rule.aggregate == "tracklet" and not look.repaints:
            rows = np.flatnonzero(frame["tracklet"] == frame["tracklet"].iloc[row])
        if look.repaints:
            embeddings = self._embed(source, self.thumbnails(name).image(frame["path"].iloc[row], blocked=False), look)
        else:
            embeddings = _rows(source.query, rows)
        feature = self._query_feature(source, embeddings, look)
        if rule.aggregate == "tracklet":
            feature = by_tracklet(feature, frame.iloc[rows], "query")[0]
        return self._ranked(source, rule, row, np.asarray(feature)[0], look, draw)

    def search(
        self,
        name: str,
        picture: Image.Image | None,
        look: Look = Look(),  # noqa: B008
        row: int | None = None,
    ) -> Answer:
        """The whole gallery in order of cosine to an image, or to the look's text where ``picture`` is None.

        Args:
            row: the gallery row that the image is of. Its person is then known, and it is left out of the ranking.
        """
        source, gallery = self.source(name), self.source(name).benchmark.gallery
        if look.text_alone:
            embedded, query = _rows(source.query, [0]), _unlabelled(look.text.strip())
        elif picture is None:
            raise InputError("no image and no text to search with; give one")
        else:
            query = _unlabelled("your image") if row is None else gallery.iloc[row].copy()
            embedded = self._embed(source, picture, look)
        if query["person"] == source.benchmark.distractor:
            query["person"] = UNKNOWN
        similarity, rows = self._similar(source, look, None, np.asarray(self._query_feature(source, embedded, look)[0]))
        order = np.argsort(-similarity, kind="stable")
        order = order[rows[order] != (-1 if row is None or look.text_alone else row)]
        return Answer(query, rows[order], similarity[order], np.nan, 0, gallery)

    def compare(self, one: str, other: str) -> None:
        """Raise InputError if two models do not have the same queries and gallery, in the same order."""
        sides = [self.source(name).benchmark for name in (one, other)]
        for split in ("query", "gallery"):
            paths = [getattr(data, split)["path"].to_numpy() for data in sides]
            if not np.array_equal(*paths):
                raise InputError(f"{one} and {other} use different data; compare two runs on the same benchmark")

    def attention(self, name: str, pictures: Sequence[Image.Image]) -> NDArray[np.float32]:
        """Attention rollout of each image: (B, H, W), in multiples of the image's mean. InputError without a ViT."""
        source = self.source(name)
        pixels = torch.stack([pixels_of(picture, source.size) for picture in pictures])
        maps = np.asarray(rollout(source.encoder, pixels), dtype=np.float32)
        return maps * (maps.shape[1] * maps.shape[2])

    def save(
        self,
        protocol: str,
        row: int,
        looks: Sequence[tuple[str, Look]],
        to: str | Path,
        top: int = 10,
        draw: int = 0,
        show: bool = True,
    ) -> Path:
        """Save a figure of rank strips, one per (model, look). Returns the path without a suffix.

        Strips of a search by text alone have no right and wrong marks; save them in a figure of their own.

        Args:
            to, show: as the name and ``show`` of `figures.save`.
        """
        runs = [run for name in dict.fromkeys(name for name, _ in looks) if (run := self.source(name).run)]
        with tempfile.TemporaryDirectory() as folder:
            strips = [self._figure_strip(protocol, row, *one, draw, Path(folder, f"{i}.png"), top)
                      for i, one in enumerate(looks)]  # fmt: skip
            data = self.source(looks[0][0]).benchmark
            rows, titles, tables = zip(*strips, strict=True)
            marked = not any(look.text_alone for _, look in looks)
            figure = figures.rank_strips(rows, data.root, top, titles, data.hide_faces, answers=marked)
        under = figures.protocol_name(protocol)
        gallery = f", random gallery {draw + 1}" if data.protocol(protocol).draws else ""
        query = f"{data.query['path'].iloc[row]} under {under}{gallery}" if marked else "Search by text alone"
        caption = f"{query}: first answers. One query: there is no interval."
        try:
            return figures.save(figure, to, pd.concat(tables, ignore_index=True), caption, runs, show=show)
        finally:
            plt.close(figure)

    def _figure_strip(
        self, protocol: str, row: int, name: str, look: Look, draw: int, file: Path, top: int
    ) -> tuple[tuple[pd.Series, pd.DataFrame], str, pd.DataFrame]:
        """((query, ranked), title, table). A changed query image, or a text, is written to ``file`` as an image."""
        answer = self.ranks(name, protocol, row, look, draw)
        ranked, shown = answer.gallery.iloc[answer.rows[:top]], answer.query
        table = figures.strip_frame(shown, ranked, top)
        table = table.assign(model=name, look=str(look), similarity=[np.nan, *answer.similarity[:top]])
        if look.repaints or look.text_alone:
            path, shown = shown["path"], shown.copy()
            drawn = lettered(path) if look.text_alone else painted(self.thumbnails(name).image(path), look)
            drawn.save(file)
            shown["path"] = str(file)
        return (shown, ranked), f"{name}, {look}{answer.score()}", table

    def _descriptor(self, source: Source, look: Look) -> Descriptor:
        if look.vocabulary not in source.descriptors:
            raise InputError(f"{source.name} has no descriptor {look.vocabulary!r}; {', '.join(source.descriptors)}")
        chosen = source.descriptors[look.vocabulary]
        if chosen.form is not None:
            if look.text_alone:
                raise InputError(f"a text alone is compared with f, not with {chosen}; choose another descriptor")
            return chosen
        chosen = replace(chosen, rank=look.rank) if look.vocabulary != PLAIN and look.rank else chosen
        return replace(chosen, parts=("f",)) if look.text_alone else chosen

    def _read(self, source: Source, descriptor: Descriptor) -> Callable[[Embeddings], Tensor]:
        return features_of(descriptor, source.words if descriptor.vocabulary in DIRECTIONS else None)

    def _embed(self, source: Source, picture: Image.Image, look: Look) -> Embeddings:
        with torch.inference_mode():
            return source.encoder(changed(pixels_of(picture, source.size), look)[None])

    def _query_feature(self, source: Source, embeddings: Embeddings, look: Look) -> Tensor:
        """Query features (B, D) as they are compared: f with the text added or subtracted, or replaced by it."""
        read = self._read(source, self._descriptor(source, look))
        if look.text_alone:
            embeddings = replace(embeddings, f=source.text(look.text.strip())[None])
        elif look.says:
            if embeddings.f is None:
                raise InputError(NO_JOINT.format(source.name))
            sign = 1 if look.use == ADDED else -1
            direction = source.direction(look.text.strip())
            embeddings = replace(embeddings, f=F.normalize(embeddings.f, dim=1) + sign * look.weight * direction)
        return read(embeddings)

    def _similar(
        self, source: Source, look: Look, rule: Protocol | None, feature: NDArray
    ) -> tuple[NDArray[np.float32], NDArray]:
        """Cosines (N,) of the gallery (images or tracklets) with a query's feature (D,), and the gallery row of each.

        Removing or keeping directions projects f and q to f' and q', and f'.q' = f.q'. So for another rank only the
        length of f' changes, and the gallery's features need not be computed again.
        """
        descriptor, tracklets = self._descriptor(source, look), rule is not None and rule.aggregate == "tracklet"
        query = _unit(feature)
        left = None if tracklets or descriptor.vocabulary not in DIRECTIONS else self._left(source, descriptor)
        if left is None:
            unit, rows = self._gallery(source, descriptor, tracklets)
            return unit @ query, rows
        unit, rows = self._gallery(source, replace(descriptor, vocabulary=PLAIN, rank=0), tracklets)
        widths = [source.gallery.parts()[name].shape[1] for name in descriptor.parts]
        place = descriptor.parts.index("f")
        here, beside = slice(sum(widths[:place]), sum(widths[: place + 1])), query.copy()
        beside[here] = 0
        return unit @ beside + unit[:, here] @ query[here] / left, rows

    def _left(self, source: Source, descriptor: Descriptor) -> NDArray[np.float32] | None:
        """Length (N,) of each projected f, f of length 1; None if one is too short for an accurate cosine."""
        kind, rank = descriptor.vocabulary, descriptor.rank
        known = self._shares.get((source.name, kind))
        if known is None or known.shape[1] <= rank:
            basis = source.words.basis(kind)[:, : max(rank, COLUMNS)]
            inside = coordinates(F.normalize(source.gallery.f, dim=1), basis).square().cumsum(dim=1)
            known = self._shares[source.name, kind] = F.pad(inside, (1, 0)).numpy()  # (N, 1 + K): none, one, ...
        share = known[:, rank] if kind == PERSON_ONLY else 1 - known[:, rank]
        return np.sqrt(share) if share.min() > LEAST[kind] else None

    def _gallery(self, source: Source, descriptor: Descriptor, tracklets: bool) -> tuple[NDArray[np.float32], NDArray]:
        """Unit features (N, D) of the gallery's images or tracklets, and their rows; the last few are cached."""
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
        scores = per_query(np.zeros(len(same), np.int64), same + 1, junk, 1, rule.ap).iloc[0]
        keep = np.ones(len(ranked), dtype=bool)
        keep[same[junk]] = False
        hit = int(scores["first_hit"])
        return Answer(query.iloc[row], ranked[keep], similarity[keep], float(scores["ap"]), hit, gallery)


def _rows(embedded: Embeddings, rows: Sequence[int]) -> Embeddings:
    blank: dict[str, Tensor | None] = dict.fromkeys(("z11", "z12", "f", "c"))
    return Embeddings(**blank | {name: value[rows] for name, value in embedded.parts().items()})


def _unlabelled(path: str) -> pd.Series:
    """A query of an unknown person: the user's image, or a text."""
    return pd.Series({"path": path, "person": UNKNOWN, "camera": UNKNOWN, "clothes": UNKNOWN})


def _unit(feature: NDArray) -> NDArray[np.float32]:
    length = float(np.linalg.norm(feature))
    if not np.isfinite(length) or length == 0:
        raise InputError("the projected query feature is zero; remove fewer directions")
    return (feature / length).astype(np.float32)
