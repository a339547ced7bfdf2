"""Probes of embeddings: the effect of image changes on features, and the content of subspaces and text features.

Every number has a confidence interval from a bootstrap over people, because images of one person are not independent.
Every number also has a control: another person for another colour, a random subspace for a text subspace, shuffled
labels for a linear classifier.
"""

from csgn_lib.analysis.probes.clothes import (
    OTHER_CLOTHES,
    OTHERS,
    SAME_CLOTHES,
    SAME_OUTFIT,
    SAME_PERSON,
    Neighbourhood,
    clothes_share,
    first_answers,
    flat_map,
    neighbourhood,
    shuffled_within,
    similarities,
    worn,
)
from csgn_lib.analysis.probes.colour import record_sensitivity
from csgn_lib.analysis.probes.compared import (
    CLOTHING_PART,
    JOINT,
    WHOLE,
    Compared,
    Row,
    embed_row,
    on_benchmark,
    rows_of,
)
from csgn_lib.analysis.probes.descriptions import (
    names_its_identity,
    nearest_phrases,
    nearest_words,
    read_attributes,
    true_values,
)
from csgn_lib.analysis.probes.pictures import (
    AGAIN,
    BY_CAMERA,
    CHANGES,
    GRAY,
    HUE,
    OTHER_PERSON,
    PICTURE,
    RECLOTHED,
    RECOLOURED,
    clothes_sensitivity,
    colour_sensitivity,
    counterfactuals,
    embed_pictures,
    even_rows,
    evenly,
    hue_sensitivity,
    movements,
    real_changes,
)
from csgn_lib.analysis.probes.reading import crossed_folds, read_linearly
from csgn_lib.analysis.probes.sentences import (
    OTHER_DESCRIPTION,
    one_word_changes,
    text_movement,
)
from csgn_lib.analysis.probes.subspaces import centred, energy_curve, random_basis, random_energy
from csgn_lib.statistics.intervals import Interval, over_people
