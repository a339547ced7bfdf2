"""A trained model in use: embed a folder, search it, export a program, publish a folder with its card.

``MODEL_DIR`` is a finished run's folder or a folder that ``export`` made; both hold config.json and
model.safetensors, and nothing here needs the network. Everything compares the plain descriptor
[z12; f; c], the one that a run's embeddings.safetensors holds.
"""

from csgn_lib.models.cards import write_card
from csgn_lib.models.exporting import Exported, export
from csgn_lib.models.galleries import Gallery, embed_folder, list_images, read_gallery, search
from csgn_lib.models.opening import Model, describe, open_model
from csgn_lib.models.programs import TOLERANCE, DescriptorProgram, difference, export_onnx, export_program
from csgn_lib.retrieval.recording import model_digest

__all__ = [
    "TOLERANCE",
    "DescriptorProgram",
    "Exported",
    "Gallery",
    "Model",
    "describe",
    "difference",
    "embed_folder",
    "export",
    "export_onnx",
    "export_program",
    "list_images",
    "model_digest",
    "open_model",
    "read_gallery",
    "search",
    "write_card",
]
