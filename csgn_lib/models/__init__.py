"""Use of a trained model: embed image folders, search by image or text, export the encoder, write a model card.

``MODEL_DIR`` is the folder of a finished run or of an export; both contain config.json and model.safetensors. Nothing
here uses the network. Images are compared by the plain descriptor [z12; f; c], the one in a run's
embeddings.safetensors.
"""

from csgn_lib.models.cards import write_card
from csgn_lib.models.exporting import Exported, export
from csgn_lib.models.galleries import Changes, Gallery, embed_folder, list_images, read_gallery, update_gallery
from csgn_lib.models.opening import Model, describe, open_model
from csgn_lib.models.programs import TOLERANCE, DescriptorProgram, difference, export_onnx, export_program
from csgn_lib.models.searching import (
    Threshold,
    answers_text,
    parse_threshold,
    query_paths,
    recorded_threshold,
    refuse_search,
    save_strip,
    search,
    search_words,
)
from csgn_lib.models.words import Words, open_words, score_captions, text_feature
from csgn_lib.retrieval.recording import model_digest
