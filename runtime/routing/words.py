"""Words in names that say what a parameter is, where neither its module's type nor its shape does.

The tables are data: what people call such parameters in torchvision, timm and transformers, and what these are. A name
is looked at word by word: `relative_position_bias_table` has four.
"""

from __future__ import annotations

import re

WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")

# Parameters by words of their own names: the role, the words, and what they are. The first line that fits counts.
PARAMETERS = (
    ("vector", "bias biases", "a bias"),  # of two dimensions: one for each expert, head or position
    ("vector", "scale scales gain gamma beta alpha temperature norm lambda lambdas", "a factor"),
    ("vector", "log decay mix freq freqs theta", "a rate"),  # of state spaces, recurrences and rotations
    ("vector", "shift offset translate", "a shift"),  # of flows
    ("embedding", "pos position positions positional spatial temporal rel relative ape wpe level", "rows for places"),
    ("embedding", "embed embeds embedding embeddings emb encoding encodings enc wte", "rows of features"),
    ("embedding", "codebook codebooks codevectors prototype prototypes centroids anchors slots", "rows of features"),
    ("embedding", "token tokens cls register registers mask pad prefix prompt prompts", "features of a token"),
    ("embedding", "query queries latent latents probe memory", "features of a query"),
)
WHOLE_NAMES = {"D": "a factor"}  # the direct connection of a state space model

# The last word of what multiplies features, whatever the words before it qualify: `prompts_visual_projection`.
LAYERS = (
    "weight weights kernel kernels matrix proj projs projection projections projector linear dense fc mlp conv mixer "
    "mixing attention attn gate router expert experts fn up down qkv lora"
)

# Own names that say nothing, so that the module's is looked at instead.
GENERIC = "weight weights w data param params parameter parameters original"

# Modules that look up rows, where their type is not known; T5 calls the table of both its halves `shared`.
LOOKUPS = (
    "embed embeds embedding embeddings embedder emb tok token tokens vocab wte wpe pos position positions positional "
    "lookup codebook shared table"
)

# Tables whose rows are no tokens, so that a layer with as many outputs as they have rows is no head for that.
PLACES = "pos position positions positional wpe type segment level rel relative time temporal spatial distance"

# Modules whose last layers give what the model is asked for.
HEADS = (
    "head heads classifier classifiers classification logits score scores pred prediction predictions predictor "
    "unembed aux objective loss criterion"
)
HEAD_NAMES = ("output", "outputs", "embed_out", "fc_out", "qa_outputs", "class_embed", "bbox_embed", "W_U")
HEAD_TYPES = ("head", "classifier", "predictor")  # the last word of a module's type

# Outermost modules that are heads if no layer follows, whatever their width, and those that lead to another module.
LASTS = "fc linear dense out output final last decoder"
BRIDGES = "projection projections projector aligner merger adapter connector bridge"


def _words_of(name: str) -> list[str]:
    """The words of a name in lower case; digits and single separators say nothing."""
    return [word.lower() for word in WORD.findall(name)]


def _has_word(name: str, table: str) -> bool:
    return not set(_words_of(name)).isdisjoint(table.split())


def _ends_as_layer(name: str) -> bool:
    return _words_of(name)[-1:] != [] and _words_of(name)[-1] in LAYERS.split()


def _is_generic(name: str) -> bool:
    return set(GENERIC.split()).issuperset(_words_of(name))


def _find_named_role(name: str) -> tuple[str, str] | None:
    """The role of a parameter of this name and what it is, if the name tells."""
    if name in WHOLE_NAMES:
        return "vector", WHOLE_NAMES[name]
    if _words_of(name)[-1:] == ["table"]:
        return "embedding", "a table"
    if _ends_as_layer(name):
        return None
    return next(((role, what) for role, words, what in PARAMETERS if _has_word(name, words)), None)


def _is_named_as_lookup(module: str) -> bool:
    if _words_of(module)[-1:] in (["bias"], ["biases"], ["table"]):
        return True  # of attention by relative position
    return _has_word(module, LOOKUPS) and not _has_word(module, LAYERS)


def _is_named_as_head(module: str) -> bool:
    return module in HEAD_NAMES or _has_word(module, HEADS)
