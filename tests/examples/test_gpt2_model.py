"""The GPT-2 network at toy size, the published sizes on the meta device, and Hugging Face's layout of its weights."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from examples.gpt2.config import ConfigError, ModelConfig
from examples.gpt2.huggingface import (
    WeightsError,
    config_of,
    read_shape,
    read_state,
    read_weights,
    to_state,
    to_weights,
    write_weights,
)
from examples.gpt2.model import GPT, build_model, find_preset

TINY = ModelConfig(vocab_size=256, context=32, layers=2, width=32, heads=2)
DEMO = ModelConfig(vocab_size=256)


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def draw_tokens(*shape: int, vocab_size: int = TINY.vocab_size, seed: int = 0) -> Tensor:
    return torch.randint(0, vocab_size, shape, generator=torch.Generator().manual_seed(seed))


def scramble(model: nn.Module) -> None:
    """Weights far from the initial ones, so that no bias is zero, no norm is the identity and attention attends."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn(parameter.shape, generator=generator), alpha=0.2)


# network


@pytest.mark.parametrize("config", [TINY, DEMO, ModelConfig(vocab_size=11, context=7, layers=3, width=12, heads=4)])
def test_the_formula_counts_the_parameters(config: ModelConfig) -> None:
    assert config.count_parameters() == count(GPT(config))


@pytest.mark.parametrize(
    ("name", "published"),
    [("small", 124_439_808), ("medium", 354_823_168), ("large", 774_030_080), ("xl", 1_557_611_200)],
)
def test_gpt2_has_the_published_sizes(name: str, published: int) -> None:
    config = find_preset(name)
    with torch.device("meta"):
        model = GPT(config)
    assert count(model) == config.count_parameters() == published


def test_small_presets_are_of_the_promised_size() -> None:
    assert 1e6 <= replace(find_preset("tiny"), vocab_size=256).count_parameters() <= 3e6
    nano = replace(find_preset("nano"), vocab_size=65)
    assert (nano.layers, nano.heads, nano.width, nano.context, nano.dropout) == (4, 4, 128, 64, 0.0)
    assert count(GPT(nano)) == nano.count_parameters()


def test_the_head_is_the_embedding() -> None:
    model = GPT(TINY)
    assert model.head.weight is model.tokens.weight
    assert model.get_parameter("head.weight").data_ptr() == model.tokens.weight.data_ptr()


def test_a_position_does_not_see_the_future() -> None:
    model = build_model(TINY, seed=0)
    tokens = torch.arange(2 * TINY.context).reshape(2, -1)
    changed = tokens.clone()
    changed[:, 20] = 255
    before, after = model(tokens), model(changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert (before - after).abs().amax(dim=(0, 2))[20:].min() > 1e-4


def test_a_position_sees_the_past_and_its_place() -> None:
    model = build_model(TINY, seed=0)
    logits = model(torch.full((1, 8), 5))
    assert not torch.allclose(logits[0, 3], logits[0, 4], atol=1e-3)
    tokens = torch.tensor([[1, 2, 3, 4], [9, 2, 3, 4]])
    first, second = model(tokens)
    assert not torch.allclose(first[3], second[3], atol=1e-3)


def test_initial_weights_have_the_deviations_of_gpt2() -> None:
    model = build_model(ModelConfig(vocab_size=256, layers=2, width=128, heads=2), seed=0)
    for block in model.blocks:
        for weight, std in (
            (block.attention.qkv.weight, 0.02),
            (block.mlp.up.weight, 0.02),
            (block.attention.proj.weight, 0.01),
            (block.mlp.down.weight, 0.01),
        ):
            assert weight.std().item() == pytest.approx(std, rel=0.03)
    assert model.tokens.weight.std().item() == pytest.approx(0.02, rel=0.03)
    assert model.blocks[0].mlp.up.bias.count_nonzero() == 0


def test_the_untrained_model_guesses_uniformly() -> None:
    inputs, targets = draw_tokens(2, 4, TINY.context)
    assert build_model(TINY, seed=0).loss(inputs, targets).item() == pytest.approx(math.log(256), abs=0.1)


def test_the_seed_alone_decides_the_weights() -> None:
    first = build_model(TINY, seed=1)
    torch.rand(7)
    state = torch.get_rng_state()
    again, other = build_model(TINY, seed=1), build_model(TINY, seed=2)
    assert torch.equal(torch.get_rng_state(), state)
    for a, b in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(first.tokens.weight, other.tokens.weight)


def test_impossible_models_are_refused() -> None:
    for settings, message in [
        ({"width": 32, "heads": 3}, r"width \(32\) must be a multiple of heads \(3\)"),
        ({"layers": 0}, "layers must be at least 1, got 0"),
        ({"vocab_size": -1}, "vocab_size must be at least 0, got -1"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1, got 1.0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            ModelConfig(**settings)
    with pytest.raises(ConfigError, match="vocab_size must be that of the data to build a model, got 0"):
        GPT(ModelConfig())
    with pytest.raises(ConfigError, match="there is no model named smal; known: tiny, nano, small,"):
        find_preset("smal")
    with pytest.raises(ValueError, match="33 tokens do not fit the context of 32"):
        GPT(TINY)(torch.zeros(1, 33, dtype=torch.long))


def loss_and_gradients(model: GPT) -> tuple[Tensor, list[Tensor]]:
    """Of a fixed batch, with the same dropout whenever this is called."""
    torch.manual_seed(7)
    loss = model.loss(*draw_tokens(2, 4, TINY.context))
    return loss.detach(), list(torch.autograd.grad(loss, list(model.parameters())))


def test_dropout_is_where_gpt2_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Embeddings once; attention weights and two residual updates per block; at their share, in training alone."""
    model = build_model(replace(TINY, dropout=0.25), seed=0)
    dropped: list[tuple[int, ...]] = []
    attended: list[float] = []
    attend = nn.functional.scaled_dot_product_attention

    def record_attention(*arguments: Tensor, dropout_p: float, is_causal: bool) -> Tensor:
        attended.append(dropout_p)
        return attend(*arguments, dropout_p=dropout_p, is_causal=is_causal)

    def record_zeros(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        if module.training:
            dropped.append(tuple(output.shape))
            assert (output == 0).float().mean().item() == pytest.approx(0.25, abs=0.02)

    monkeypatch.setattr(nn.functional, "scaled_dot_product_attention", record_attention)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.register_forward_hook(record_zeros)
    tokens = draw_tokens(16, TINY.context)
    first, second = model(tokens), model(tokens)
    assert not torch.equal(first, second)
    assert dropped == [(16, TINY.context, TINY.width)] * 2 * (1 + 2 * TINY.layers)
    assert attended == [0.25] * 2 * TINY.layers
    model.eval()
    plain = GPT(TINY).eval()
    plain.load_state_dict(model.state_dict())
    assert torch.equal(model(tokens), plain(tokens)) and attended[2 * TINY.layers :] == [0.0] * 2 * TINY.layers


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_changes_no_bit(dropout: float) -> None:
    config = replace(TINY, dropout=dropout)
    plain, recomputed = build_model(config, seed=0), build_model(replace(config, checkpointing=True), seed=0)
    calls: list[int] = []
    recomputed.blocks[0].register_forward_pre_hook(lambda *_: calls.append(1))
    loss, gradients = loss_and_gradients(plain)
    same_loss, same_gradients = loss_and_gradients(recomputed)
    assert len(calls) == 2  # once forward, once again in the backward pass
    assert torch.equal(loss, same_loss)
    assert all(torch.equal(a, b) for a, b in zip(gradients, same_gradients, strict=True))
    with torch.no_grad():
        recomputed(draw_tokens(1, 4))
    assert len(calls) == 3


def test_autocast_computes_in_bfloat16_and_takes_the_loss_in_float32() -> None:
    model = build_model(TINY, seed=0)
    exact, gradients = loss_and_gradients(model)
    inputs, targets = draw_tokens(2, 4, TINY.context)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(inputs)
        rounded, other_gradients = loss_and_gradients(model)
    assert logits.dtype == torch.bfloat16
    assert torch.equal(rounded, nn.functional.cross_entropy(logits.float().flatten(0, 1), targets.flatten()))
    assert 0 < (rounded - exact).abs() < 2**-8  # of logits of size 1, which bfloat16 keeps to 8 bits
    for gradient, other in zip(gradients, other_gradients, strict=True):
        assert torch.nn.functional.cosine_similarity(gradient.flatten(), other.flatten(), dim=0) > 0.98


def test_a_model_in_bfloat16_takes_the_loss_in_float32() -> None:
    model = build_model(TINY, seed=0).bfloat16()
    inputs, targets = draw_tokens(2, 4, TINY.context)
    exact = nn.functional.cross_entropy(model(inputs).double().flatten(0, 1), targets.flatten())
    assert model.loss(inputs, targets).item() == pytest.approx(exact.item(), rel=1e-6)


@pytest.mark.wide
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_the_compiled_model_is_the_model(backend: str, checkpointing: bool) -> None:
    model = build_model(replace(TINY, checkpointing=checkpointing), seed=0)
    loss, gradients = loss_and_gradients(model)
    compiled = torch.compile(model.loss, backend=backend, fullgraph=True)
    again = compiled(*draw_tokens(2, 4, TINY.context))
    assert torch.allclose(again, loss, rtol=1e-6, atol=0)
    for gradient, other in zip(gradients, torch.autograd.grad(again, list(model.parameters())), strict=True):
        assert (gradient - other).norm() <= 1e-5 * gradient.norm()


# Hugging Face's layout


def make_weights(config: ModelConfig = TINY) -> tuple[GPT, dict[str, Tensor]]:
    model = build_model(config, seed=0)
    scramble(model)
    return model, to_weights(model.state_dict(), config)


def without_prefix(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("transformer."): tensor.clone() for name, tensor in weights.items()}


def test_weights_survive_the_round_trip() -> None:
    model, weights = make_weights()
    state = to_state(without_prefix(weights), TINY)
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[name], tensor) for name, tensor in model.state_dict().items())


def test_linear_layers_are_stored_by_inputs_with_queries_keys_and_values_side_by_side() -> None:
    model, weights = make_weights()
    attention, x = model.blocks[1].attention, torch.randn(3, TINY.width)
    c_attn, bias = (weights[f"transformer.h.1.attn.c_attn.{name}"] for name in ("weight", "bias"))
    assert c_attn.shape == (32, 96) and weights["transformer.h.0.mlp.c_fc.weight"].shape == (32, 128)
    keys = x @ c_attn[:, 32:64] + bias[32:64]
    assert torch.allclose(keys, attention.qkv(x)[:, 32:64], atol=1e-5)
    assert torch.equal(weights["transformer.h.1.attn.c_proj.weight"], attention.proj.weight.T)
    assert torch.equal(weights["transformer.wpe.weight"], model.positions.weight)


@pytest.mark.parametrize("shape", [TINY, replace(TINY, vocab_size=11, context=7, layers=3, width=128, heads=2)])
def test_the_shape_is_told_from_the_weights(shape: ModelConfig) -> None:
    assert config_of(without_prefix(make_weights(shape)[1]), heads=2) == shape


def test_heads_are_as_wide_as_in_gpt2_unless_told() -> None:
    wide = replace(TINY, width=128, heads=2)
    assert config_of(without_prefix(make_weights(wide)[1])) == wide
    with pytest.raises(WeightsError, match=r"expected n_head in config\.json, since the width 32 is no multiple of 64"):
        config_of(without_prefix(make_weights()[1]))
    with pytest.raises(WeightsError, match=r"expected the weights of a GPT-2, found no matrix wte\.weight"):
        config_of({"a": torch.ones(1)})


def write_pickle(folder: Path, weights: dict[str, Tensor], **config: object) -> Path:
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps({"n_head": 2, **config}))
    return folder


def test_a_model_starts_from_a_folder_or_a_file(tmp_path: Path) -> None:
    model, weights = make_weights()
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 32, 32).tril() for layer in range(2)}
    masks["h.0.attn.masked_bias"] = torch.tensor(-1e4)
    head = {"lm_head.weight": weights["transformer.wte.weight"].clone()}
    folder = write_pickle(tmp_path, {**without_prefix(weights), **masks, **head})
    for path in (folder, folder / "pytorch_model.bin"):
        shape = read_shape(path)
        assert shape == replace(TINY, weights=str(path))
        loaded = build_model(shape, seed=1)
        assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), model.parameters(), strict=True))
        assert loaded.head.weight is loaded.tokens.weight


def test_a_shorter_context_reads_the_first_positions(tmp_path: Path) -> None:
    model, weights = make_weights()
    short = build_model(replace(TINY, context=8, weights=str(write_pickle(tmp_path, weights))), seed=0)
    tokens = draw_tokens(2, 8)
    assert torch.equal(short(tokens), model(tokens))


def corrupt(weights: dict[str, Tensor], name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    changed = without_prefix(weights)
    if tensor is None:
        del changed[name]
    else:
        changed[name] = tensor
    return changed


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("h.1.mlp.c_fc.weight", torch.ones(128, 32), "h.1.mlp.c_fc.weight: expected shape 32×128, found 128×32"),
        ("wpe.weight", torch.ones(31, 32), "wpe.weight: expected shape 32×32, found 31×32"),
        ("wte.weight", torch.ones(255, 32), "wte.weight: expected shape 256×32, found 255×32"),
        ("ln_f.bias", torch.tensor(1.0), "ln_f.bias: expected shape 32, found none"),
        ("ln_f.bias", None, "ln_f.bias: expected shape 32, found no such tensor"),
        ("h.2.ln_1.bias", torch.ones(32), "expected the weights of a GPT-2 of 2 layers, found also h.2.ln_1.bias"),
        ("lm_head.weight", torch.ones(256, 32), "lm_head.weight: expected the numbers of wte.weight, to which"),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path: Path, name: str, tensor: Tensor | None, message: str) -> None:
    folder = write_pickle(tmp_path, corrupt(make_weights()[1], name, tensor))
    with pytest.raises(WeightsError) as caught:
        read_state(folder, TINY)
    assert str(caught.value).startswith(f"{folder}: {message}") and "\n" not in str(caught.value)


def test_unusable_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "torn.bin").write_bytes(b"PK\x03\x04 torn")
    torch.save([1, 2], tmp_path / "list.bin")
    for name, message in [
        ("absent", "expected a file of weights, or a folder with model.safetensors or pytorch_model.bin"),
        ("empty", "expected a file of weights, or a folder with model.safetensors or pytorch_model.bin"),
        ("torn.bin", "expected a file of weights, but reading it failed"),
        ("list.bin", "expected tensors by name, found something else"),
    ]:
        with pytest.raises(WeightsError, match=message) as caught:
            read_weights(tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"n_head": 4}, "expected n_head 2 in config.json, found 4"),
        ({"n_head": "2"}, "expected an object with a whole number n_head"),
        ({"activation_function": "relu"}, "expected activation_function gelu_new, found relu"),
        ({"scale_attn_by_inverse_layer_idx": True}, "expected scale_attn_by_inverse_layer_idx False, found True"),
    ],
)
def test_another_architecture_is_refused(tmp_path: Path, config: dict[str, object], message: str) -> None:
    folder = write_pickle(tmp_path, make_weights()[1], **config)
    with pytest.raises(WeightsError, match=message):
        read_state(folder, TINY)


@pytest.mark.peers
def test_a_damaged_safetensors_file_is_named(tmp_path: Path) -> None:
    pytest.importorskip("safetensors")
    model, _ = make_weights()
    write_weights(tmp_path, model.state_dict(), TINY)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(WeightsError, match=r"model.safetensors: expected a file of weights, but reading it failed"):
        read_state(tmp_path, TINY)


# beside transformers

LOGITS = 1e-5
"""Largest difference of logits of size 5, in float32; 2.4e-6 was measured."""


def their_model(config: ModelConfig) -> nn.Module:
    transformers = pytest.importorskip("transformers")
    shape = transformers.GPT2Config(
        vocab_size=config.vocab_size,
        n_positions=config.context,
        n_layer=config.layers,
        n_embd=config.width,
        n_head=config.heads,
        bos_token_id=None,
        eos_token_id=None,
    )
    model = transformers.GPT2LMHeadModel(shape).eval()
    scramble(model)
    return model


def save_in_their_way(folder: Path, model: nn.Module) -> None:
    model.save_pretrained(folder)


def save_as_older_versions_did(folder: Path, model: nn.Module) -> None:
    model.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


@pytest.mark.peers
@pytest.mark.parametrize("save", [save_in_their_way, save_as_older_versions_did])
@pytest.mark.parametrize("shape", [TINY, replace(TINY, vocab_size=77, layers=3, width=48, heads=3)])
def test_their_model_and_ours_give_the_same_logits(
    tmp_path: Path, shape: ModelConfig, save: Callable[[Path, nn.Module], None]
) -> None:
    theirs = their_model(shape)
    save(tmp_path, theirs)
    config = read_shape(tmp_path)
    assert config == replace(shape, weights=str(tmp_path))
    tokens = draw_tokens(3, shape.context, vocab_size=shape.vocab_size)
    with torch.no_grad():
        expected, found = theirs(tokens).logits, build_model(config, seed=0).eval()(tokens)
    assert expected.abs().max() > 1
    assert (found - expected).abs().max() < LOGITS


@pytest.mark.peers
def test_what_we_write_they_load(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    model, _ = make_weights()
    write_weights(tmp_path, model.state_dict(), TINY)
    theirs, problems = transformers.GPT2LMHeadModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(problems.values())
    tokens = draw_tokens(2, TINY.context)
    with torch.no_grad():
        assert (theirs.eval()(tokens).logits - model.eval()(tokens)).abs().max() < LOGITS
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in read_state(tmp_path, TINY).items())
