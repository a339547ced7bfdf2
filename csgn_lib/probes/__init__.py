"""Embeddings and pictures to numbers: what moves a feature, what a subspace holds, what a text says.

Every number comes with an interval over people: pictures of one person are alike, so people, not
pictures, are drawn again. Every number also has its control beside it: another person for another
colour, a random subspace for a worded one, shuffled labels for a reading.
"""

from csgn_lib.probes.clothes import (
    NEIGHBOURS,
    OTHER_CLOTHES,
    OTHERS,
    SAME_CLOTHES,
    SAME_OUTFIT,
    Neighbourhood,
    clothes_share,
    first_answers,
    flat_map,
    neighbourhood,
    shuffled_within,
    similarities,
    worn,
)
from csgn_lib.probes.colour import record_sensitivity
from csgn_lib.probes.compared import CLOTHING_PART, JOINT, Compared, Row, embed_row, rows_of
from csgn_lib.probes.descriptions import (
    attribute_sentences,
    class_means,
    names_its_identity,
    nearest_phrases,
    read_attributes,
    true_values,
)
from csgn_lib.probes.intervals import Interval, over_people
from csgn_lib.probes.pictures import (
    AGAIN,
    CHANGES,
    GRAY,
    OTHER_PERSON,
    PICTURE,
    RECOLOURED,
    colour_sensitivity,
    cosine_distance,
    counterfactuals,
    embed_pictures,
    evenly,
    movements,
)
from csgn_lib.probes.reading import crossed_folds, read_linearly
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
    "CHANGES",
    "CLOTHES_PARTS",
    "CLOTHING_PART",
    "Compared",
    "GRAY",
    "Interval",
    "JOINT",
    "NEIGHBOURS",
    "Neighbourhood",
    "OTHERS",
    "OTHER_CLOTHES",
    "OTHER_DESCRIPTION",
    "OTHER_OUTFIT",
    "OTHER_PERSON",
    "PERSON_PARTS",
    "PICTURE",
    "RECOLOURED",
    "Row",
    "SAME_CLOTHES",
    "SAME_OUTFIT",
    "attribute_sentences",
    "centred",
    "class_means",
    "clothes_share",
    "colour_sensitivity",
    "cosine_distance",
    "counterfactuals",
    "crossed_folds",
    "embed_pictures",
    "embed_row",
    "energy_curve",
    "evenly",
    "first_answers",
    "flat_map",
    "movements",
    "names_its_identity",
    "nearest_phrases",
    "neighbourhood",
    "one_word_changes",
    "over_people",
    "random_basis",
    "random_energy",
    "read_attributes",
    "read_linearly",
    "record_sensitivity",
    "rows_of",
    "shuffled_within",
    "similarities",
    "text_movement",
    "true_values",
    "worn",
]
