"""GPT-2 weights in Hugging Face's layout, read for our model and written from it.

In: a folder with ``model.safetensors`` or ``pytorch_model.bin``, or such a file. Out: the state of a ``model.GPT``, or
the ``ModelConfig`` that fits. Their linear layers (``Conv1D``) store inputs x outputs, ours outputs x inputs; queries,
keys and values lie side by side in both. Their names may begin with ``transformer.``, and older files hold the mask of
the attention, which is no weight. Anything else that does not fit is a ``WeightsError``. Nothing is downloaded, and
``transformers`` is not needed; ``safetensors`` is, for files of that kind.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from examples.files import replacing, write_whole
from examples.gpt2.config import ConfigError, ModelConfig

FILES = ("model.safetensors", "pytorch_model.bin")
"""What weights are called in a folder, the first that exists being read."""

MASKS = re.compile(r"h\.\d+\.attn\.(bias|masked_bias)")
"""Constants that older versions stored between the weights."""

HEAD_SIZE = 64
"""Width of a head in every published GPT-2, which is used where no ``config.json`` says ``n_head``."""

ARCHITECTURE: dict[str, tuple[Any, ...]] = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5,),
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "tie_word_embeddings": (True,),
}
"""What our model can compute, by the key of ``config.json``; the first is written, and stands for a missing one."""


class WeightsError(ConfigError):
    """Weights that cannot be used; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One tensor in both layouts: its names, its shape in theirs, and whether ours is the transpose."""

    theirs: str
    ours: str
    shape: tuple[int, ...]
    transposed: bool = False


def read_state(path: Path, config: ModelConfig) -> dict[str, Tensor]:
    """The state of a ``GPT(config)`` from the weights at ``path``; its context may be shorter than theirs."""
    heads = _read_heads(path)
    if heads not in (None, config.heads):
        raise WeightsError(f"{path}: expected n_head {config.heads} in config.json, found {heads}")
    weights = read_weights(path)
    try:
        return to_state(weights, config)
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from error


def read_shape(path: Path) -> ModelConfig:
    """The configuration of a model that starts from the weights at ``path``."""
    heads, weights = _read_heads(path), read_weights(path)
    try:
        return dataclasses.replace(config_of(weights, heads=heads), weights=str(path))
    except ConfigError as error:
        raise WeightsError(f"{path}: {error}") from error


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of the file at ``path``, or in the folder, by their names without ``transformer.`` and masks."""
    file = _find_file(path)
    try:
        content = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    except WeightsError:
        raise
    except Exception as error:  # what a damaged file raises depends on the byte that is wrong
        raise WeightsError(f"{file}: expected a file of weights, but reading it failed ({error})") from error
    if not (isinstance(content, Mapping) and all(isinstance(value, Tensor) for value in content.values())):
        raise WeightsError(f"{file}: expected tensors by name, found something else")
    named = {name.removeprefix("transformer."): tensor for name, tensor in content.items()}
    return {name: tensor for name, tensor in named.items() if not MASKS.fullmatch(name)}


def config_of(weights: Mapping[str, Tensor], *, heads: int | None = None) -> ModelConfig:
    """The shape of the model that ``weights`` belong to; without ``heads``, they are as wide as in every GPT-2."""
    for name in ("wte.weight", "wpe.weight"):
        if name not in weights or weights[name].ndim != 2:
            raise WeightsError(f"expected the weights of a GPT-2, found no matrix {name}")
    vocab_size, width = weights["wte.weight"].shape
    if heads is None and width % HEAD_SIZE:
        raise WeightsError(f"expected n_head in config.json, since the width {width} is no multiple of {HEAD_SIZE}")
    layers = 1 + max((int(name.split(".")[1]) for name in weights if re.match(r"h\.\d+\.", name)), default=-1)
    return ModelConfig(
        vocab_size=vocab_size,
        context=weights["wpe.weight"].shape[0],
        layers=layers,
        width=width,
        heads=heads or width // HEAD_SIZE,
    )


def to_state(weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The state of a ``GPT(config)`` from their ``weights``; tensors are views of theirs."""
    layout = list(entries(config))
    unknown = sorted(weights.keys() - {entry.theirs for entry in layout} - {"lm_head.weight"})
    if unknown:
        raise WeightsError(f"expected the weights of a GPT-2 of {config.layers} layers, found also {unknown[0]}")
    state = {}
    for entry in layout:
        if entry.theirs not in weights:
            raise WeightsError(f"{entry.theirs}: expected shape {_sizes(entry.shape)}, found no such tensor")
        tensor = weights[entry.theirs]
        if entry.theirs == "wpe.weight":
            tensor = tensor[: config.context]  # positions that a shorter context never reaches
        if tensor.shape != entry.shape:
            found = _sizes(weights[entry.theirs].shape)
            raise WeightsError(f"{entry.theirs}: expected shape {_sizes(entry.shape)}, found {found}")
        state[entry.ours] = tensor.T if entry.transposed else tensor
    if "lm_head.weight" in weights and not torch.equal(weights["lm_head.weight"], weights["wte.weight"]):
        raise WeightsError("lm_head.weight: expected the numbers of wte.weight, to which the head is tied")
    return {**state, "head.weight": state["tokens.weight"]}


def to_weights(state: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """The state of a ``GPT(config)`` under their names and in their layout, as ``GPT2LMHeadModel`` stores it."""
    return {
        f"transformer.{entry.theirs}": (state[entry.ours].T if entry.transposed else state[entry.ours]).contiguous()
        for entry in entries(config)
    }


def write_weights(folder: Path, state: Mapping[str, Tensor], config: ModelConfig) -> None:
    """Write ``model.safetensors`` and ``config.json``, from which ``GPT2LMHeadModel.from_pretrained`` loads."""
    with replacing(folder / FILES[0]) as draft:
        _safetensors(folder).save_file(to_weights(state, config), draft, metadata={"format": "pt"})
    end_of_text = 50256 if config.vocab_size == 50257 else None
    content = {
        "model_type": "gpt2",
        "architectures": ["GPT2LMHeadModel"],
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_layer": config.layers,
        "n_embd": config.width,
        "n_head": config.heads,
        **{f"{place}_pdrop": config.dropout for place in ("embd", "attn", "resid")},
        **{f"{place}_token_id": end_of_text for place in ("bos", "eos")},
        **{key: values[0] for key, values in ARCHITECTURE.items()},
    }
    write_whole(folder / "config.json", json.dumps(content, indent=2) + "\n")


def entries(config: ModelConfig) -> Iterator[Entry]:
    """Every tensor of a model of this shape, but for the head, which is the embedding."""
    d = config.width
    yield Entry("wte.weight", "tokens.weight", (config.vocab_size, d))
    yield Entry("wpe.weight", "positions.weight", (config.context, d))
    for layer in range(config.layers):
        theirs, ours = f"h.{layer}", f"blocks.{layer}"
        yield from _norm(f"{theirs}.ln_1", f"{ours}.norm1", d)
        yield from _linear(f"{theirs}.attn.c_attn", f"{ours}.attention.qkv", d, 3 * d)
        yield from _linear(f"{theirs}.attn.c_proj", f"{ours}.attention.proj", d, d)
        yield from _norm(f"{theirs}.ln_2", f"{ours}.norm2", d)
        yield from _linear(f"{theirs}.mlp.c_fc", f"{ours}.mlp.up", d, 4 * d)
        yield from _linear(f"{theirs}.mlp.c_proj", f"{ours}.mlp.down", 4 * d, d)
    yield from _norm("ln_f", "norm", d)


def _norm(theirs: str, ours: str, width: int) -> Iterator[Entry]:
    for name in ("weight", "bias"):
        yield Entry(f"{theirs}.{name}", f"{ours}.{name}", (width,))


def _linear(theirs: str, ours: str, inputs: int, outputs: int) -> Iterator[Entry]:
    yield Entry(f"{theirs}.weight", f"{ours}.weight", (inputs, outputs), transposed=True)
    yield Entry(f"{theirs}.bias", f"{ours}.bias", (outputs,))


def _find_file(path: Path) -> Path:
    if path.is_file():
        return path
    found = [path / name for name in FILES if (path / name).is_file()]
    if not found:
        raise WeightsError(f"{path}: expected a file of weights, or a folder with {' or '.join(FILES)}")
    return found[0]


def _read_heads(path: Path) -> int | None:
    """What the ``config.json`` beside the weights says, if there is one; refuses what our model does not compute."""
    file = (path if path.is_dir() else path.parent) / "config.json"
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WeightsError(f"{file}: expected JSON ({error})") from error
    if not isinstance(content, dict) or not isinstance(content.get("n_head"), int):
        raise WeightsError(f"{file}: expected an object with a whole number n_head")
    for key, known in ARCHITECTURE.items():
        if content.get(key, known[0]) not in known:
            raise WeightsError(f"{file}: expected {key} {known[0]}, found {content[key]}")
    return content["n_head"]


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    return _safetensors(file).load_file(file)


def _read_pickle(file: Path) -> Any:
    return torch.load(file, map_location="cpu", weights_only=True)


def _safetensors(file: Path) -> Any:
    """The module that reads and writes such files, imported here because most runs do without it."""
    try:
        import safetensors.torch
    except ImportError as error:
        raise WeightsError(f"{file}: expected the package safetensors to be installed for such weights") from error
    return safetensors.torch


def _sizes(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "none"
