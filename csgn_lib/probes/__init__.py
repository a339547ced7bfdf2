"""Embeddings and pictures to numbers: what moves a feature, what a subspace holds, what a text says.

Every number comes with an interval over people: pictures of one person are alike, so people, not
pictures, are drawn again. Every number also has its control beside it: another person for another
colour, a random subspace for a worded one, shuffled labels for a reading.
"""

from csgn_lib.intervals import Interval, over_people
from csgn_lib.probes.colour import record_sensitivity
from csgn_lib.probes.descriptions import (
    attribute_sentences,
    class_means,
    names_its_identity,
    nearest_phrases,
    read_attributes,
    true_values,
)
from csgn_lib.probes.pictures import (
    AGAIN,
    BY_CAMERA,
    CHANGES,
    GRAY,
    HUE,
    OTHER_PERSON,
    PICTURE,
    RECOLOURED,
    colour_sensitivity,
    cosine_distance,
    counterfactuals,
    embed_pictures,
    even_rows,
    evenly,
    hue_sensitivity,
    movements,
    real_changes,
)
from csgn_lib.probes.sentences import (
    CLOTHES_PARTS,
    OTHER_DESCRIPTION,
    OTHER_OUTFIT,
    PERSON_PARTS,
    one_word_changes,
    text_movement,
)
from csgn_lib.probes.subspaces import centred, energy_curve, random_basis, random_energy

__all__ = [
    "AGAIN",
    "BY_CAMERA",
    "CHANGES",
    "CLOTHES_PARTS",
    "GRAY",
    "HUE",
    "Interval",
    "OTHER_DESCRIPTION",
    "OTHER_OUTFIT",
    "OTHER_PERSON",
    "PERSON_PARTS",
    "PICTURE",
    "RECOLOURED",
    "attribute_sentences",
    "centred",
    "class_means",
    "colour_sensitivity",
    "cosine_distance",
    "counterfactuals",
    "embed_pictures",
    "energy_curve",
    "even_rows",
    "evenly",
    "hue_sensitivity",
    "movements",
    "names_its_identity",
    "nearest_phrases",
    "one_word_changes",
    "over_people",
    "random_basis",
    "random_energy",
    "read_attributes",
    "real_changes",
    "record_sensitivity",
    "text_movement",
    "true_values",
]
