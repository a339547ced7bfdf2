"""CSGN Workbench: clothes-changing person re-identification with CLIP.

Import the package you need (``from csgn_lib import retrieval``); ``import csgn_lib`` alone loads nothing else.

Notation of the method files (``mdg``, ``vss``, ``hsf``, ``losses``, ``vocabulary``)::

    B          images in a batch                          N    training identities, k = 1 .. N
    y_i, o_i   identity and outfit of image i             O    outfits (clothes classes) in the training set
    Y          different identities in a batch            J    phrases of a vocabulary
    (H, W)     height and width of an image, pixels       K    rank of a subspace
    D          width of the joint image-text space        V    width of the ViT
    R          width of the ResNet                        E    width of a word embedding
    M          learned tokens per identity and prompt     L    tokens of a prompt, or patches of an image
    m          modality: r is RGB, g is grayscale         sg   stop-gradient
    U^m_y      learned tokens (M, E) of identity y        T    CLIP's text encoder
    t^m_y      text feature (D,) of identity y's prompt   v^m_i  image feature (D,) of the frozen CLIP
    z11, z12   class token (V,) after the second to last and after the last block of the ViT
    zp         z12 projected into the joint space (D,)    c    pooled feature of the ResNet (R,)
    f          joint embedding (D,), steered              A    steering matrix (D, R), with its gate gamma
    Q_c, Q_p, Q_g   orthonormal bases (D, K) of the clothing, person and colour subspaces
    s(a, b)    similarity of two vectors                  q, p   smoothed label and predicted distribution

A *description* of an identity is its learned prompt, or the prompt's text feature. A *form* is a variant of a part of
the method, such as ``mdg=mutual`` (see ``registry``).

Origin marks: [A] the paper's abstract, [P] its opening pages, [C] convention of CLIP-ReID (Li, Sun, Li, AAAI 2023),
[O] our choice.
"""

__version__ = "0.2.0"

# Packages that decide a run's result, in import order: their code and weights are part of every run's key
# (runs.machine.core_digest). The other packages, the workbench, may change without making finished runs stale.
CORE = (
    "records", "progress", "registry", "plugins", "statistics", "config", "images", "backbones", "vocabulary",
    "vocabulary_files", "mdg", "hsf", "losses", "vss", "datasets", "batches", "training", "retrieval", "synthetic",
)  # fmt: skip
