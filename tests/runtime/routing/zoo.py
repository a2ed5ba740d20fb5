"""Small models of the structures that published ones have, for tests of routing; nothing here can be run forward."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

WIDTH, WIDE, EXPERTS, WORDS, PLACES = 6, 10, 3, 23, 9


def weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(shape))


def holder(**parameters: nn.Parameter) -> nn.Module:
    """A module of a type that nobody knows."""
    module = nn.Module()
    for name, parameter in parameters.items():
        setattr(module, name, parameter)
    return module


class Experts(nn.Module):
    """A gated mixture of experts as (experts, outputs, inputs), or transposed, as one parameter for each layer."""

    def __init__(self, transposed: bool = False, bias: bool = False, **attributes: Any) -> None:
        super().__init__()
        up, down = (2 * WIDE, WIDTH), (WIDTH, WIDE)
        self.gate_up_proj = weight(EXPERTS, *(reversed(up) if transposed else up))
        if bias:
            self.gate_up_proj_bias = weight(EXPERTS, 2 * WIDE)
        self.down_proj = weight(EXPERTS, *(reversed(down) if transposed else down))
        if bias:
            self.down_proj_bias = weight(EXPERTS, WIDTH)
        for name, value in attributes.items():
            setattr(self, name, value)


class ParallelExperts(nn.Module):
    """One layer of experts that says its sizes."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.num_experts, self.input_size, self.output_size = EXPERTS, inputs, outputs
        self.weight = weight(EXPERTS, outputs, inputs)


class StackedExperts(nn.Module):
    """Experts one below the other in two dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.moe_num_experts, self.ffn_hidden_size = EXPERTS, WIDE
        self.w1 = weight(EXPERTS * WIDE, WIDTH)


class Conv1D(nn.Module):
    """As in Hugging Face's GPT-2: the weight is (inputs, outputs)."""

    def __init__(self, outputs: int, inputs: int) -> None:
        super().__init__()
        self.nf, self.nx = outputs, inputs
        self.weight = weight(inputs, outputs)
        self.bias = weight(outputs)


class Block(nn.Module):
    """One pre-norm layer with its own query, key and value."""

    def __init__(self, mlp: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.output = nn.Linear(WIDTH, WIDTH)
        self.mlp = mlp or nn.Sequential(nn.Linear(WIDTH, WIDE), nn.GELU(), nn.Linear(WIDE, WIDTH))


class Encoder(nn.Module):
    """Tables, blocks and a pooler, and no head, as BertModel is."""

    def __init__(self, places: int = PLACES) -> None:
        super().__init__()
        self.embeddings = nn.ModuleDict(
            {
                "word_embeddings": nn.Embedding(WORDS, WIDTH),
                "position_embeddings": nn.Embedding(places, WIDTH),
                "token_type_embeddings": nn.Embedding(2, WIDTH),
                "norm": nn.LayerNorm(WIDTH),
            }
        )
        self.layer = nn.ModuleList(Block() for _ in range(2))
        self.pooler = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH)})


class Language(nn.Module):
    """A decoder with a head of its own or a tied one."""

    def __init__(self, tied: bool, head: str = "lm_head", mlp: type[nn.Module] | None = None) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, WIDTH), nn.Embedding(PLACES, WIDTH)
        self.h = nn.ModuleList(Block(mlp() if mlp else None) for _ in range(2))
        self.norm = nn.LayerNorm(WIDTH)
        setattr(self, head, nn.Linear(WIDTH, WORDS, bias=False))
        if tied:
            getattr(self, head).weight = self.wte.weight


class GPT2(nn.Module):
    """All linear layers stored by inputs, also square ones, whose shape does not tell."""

    def __init__(self) -> None:
        super().__init__()
        self.wte, self.wpe = nn.Embedding(WORDS, WIDTH), nn.Embedding(PLACES, WIDTH)
        self.h = nn.ModuleList(
            nn.ModuleDict(
                {
                    "c_attn": Conv1D(3 * WIDTH, WIDTH),
                    "c_proj": Conv1D(WIDTH, WIDTH),
                    "c_fc": Conv1D(WIDE, WIDTH),
                    "norm": nn.LayerNorm(WIDTH),
                }
            )
            for _ in range(2)
        )


class Residual(nn.Module):
    """A block of a residual network."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        if inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))


class ResNet(nn.Module):
    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 4, 7, bias=False), nn.BatchNorm2d(4)
        self.layer1 = nn.Sequential(Residual(4, 4), Residual(4, 4))
        self.layer2 = nn.Sequential(Residual(4, 8), Residual(8, 8))
        self.fc = nn.Linear(8, classes)


def vgg() -> nn.Module:
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten())
    hidden = [nn.Linear(32, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16), nn.ReLU(), nn.Dropout()]
    return nn.ModuleDict({"features": features, "classifier": nn.Sequential(*hidden, nn.Linear(16, 10))})


class Vision(nn.Module):
    """A transformer on patches whose head has a norm and, perhaps, a hidden layer; or a second one for distillation."""

    def __init__(self, distilled: bool = False) -> None:
        super().__init__()
        self.cls_token, self.pos_embed = weight(1, 1, WIDTH), weight(1, PLACES, WIDTH)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, WIDTH, 4, 4)})
        self.blocks = nn.Sequential(Block(), Block())
        self.norm = nn.LayerNorm(WIDTH)
        if distilled:
            self.head, self.head_dist = nn.Linear(WIDTH, 7), nn.Linear(WIDTH, 7)
        else:
            pre = nn.ModuleDict({"fc": nn.Linear(WIDTH, WIDE)})
            self.head = nn.ModuleDict({"norm": nn.LayerNorm(WIDTH), "pre_logits": pre, "fc": nn.Linear(WIDE, 7)})


class Classified(nn.Module):
    """An encoder with a hidden layer and an output layer in its head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder()
        self.classifier = nn.ModuleDict({"dense": nn.Linear(WIDTH, WIDTH), "out_proj": nn.Linear(WIDTH, 4)})


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(WORDS, WIDTH)
        self.lstm = nn.LSTM(WIDTH, WIDE, num_layers=2, bidirectional=True)
        self.gru, self.rnn = nn.GRU(2 * WIDE, 4), nn.RNN(4, 5)
        self.projected = nn.LSTM(5, 7, proj_size=4)
        self.cell = nn.GRUCell(4, 3)
        self.decoder = nn.Linear(3, WORDS)


class Depthwise(nn.Module):
    """Filters for each channel, groups of channels, and their transposes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3)
        self.dw = nn.Conv2d(8, 8, 3, groups=8)
        self.twice = nn.Conv2d(8, 16, 3, groups=8)
        self.pw = nn.Conv2d(16, 12, 1)
        self.grouped = nn.Conv2d(12, 6, 3, groups=3)
        self.up = nn.ConvTranspose2d(6, 4, 2)
        self.norm = nn.BatchNorm2d(4)
        self.grouped_up = nn.ConvTranspose1d(4, 6, 2, groups=2)
        self.norm_up = nn.BatchNorm1d(6)


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 2))


MODELS = {
    "encoder": Encoder,
    "tied": lambda: Language(tied=True),
    "untied": lambda: Language(tied=False),
    "experts": lambda: Language(tied=False, mlp=Experts),
    "gpt2": GPT2,
    "resnet": ResNet,
    "vgg": vgg,
    "vision": Vision,
    "distilled": lambda: Vision(distilled=True),
    "classified": Classified,
    "recurrent": Recurrent,
    "mlp": mlp,
}


def randomized(model: nn.Module) -> nn.Module:
    """The model in float64 with other weights, the same each time."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.double().parameters():
        values: Tensor = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data.copy_(values)
    return model


def set_gradients(model: nn.Module, seed: int) -> None:
    """Gradients that depend on the seed and the parameter's name alone."""
    for i, parameter in enumerate(model.parameters()):
        generator = torch.Generator().manual_seed(1000 * (seed + 1) + i)
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
