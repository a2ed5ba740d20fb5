"""Published models, built of their default configurations without weights, and what went where in them.

`python -m tests.runtime.routing.published` compares the table in docs/routing.md with one that is made anew, `--write`
replaces it. Needs torchvision, timm and transformers; nothing is downloaded, and nearly all is built on the device
"meta".
"""

from __future__ import annotations

import argparse
import contextlib
import re
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import nn

from optforge.runtime import Route, View, route
from tests.support.torchvision_operators import declare_operators

PAGE = Path(__file__).parents[3] / "docs" / "routing.md"
START, END = "<!-- what went where -->", "<!-- end -->"
PACKAGES = ("torchvision", "timm", "transformers")
CLASSES = 987  # outputs that nothing else in a model has

TORCHVISION = """
    alexnet vgg16_bn resnet18 resnext50_32x4d densenet121 googlenet inception_v3 squeezenet1_1 shufflenet_v2_x1_0
    mobilenet_v2 mobilenet_v3_small efficientnet_b0 mnasnet0_5 regnet_y_400mf convnext_tiny swin_t swin_v2_t vit_b_16
    maxvit_t s3d mvit_v2_s
"""
DETECTORS = """
    fasterrcnn_resnet50_fpn retinanet_resnet50_fpn ssd300_vgg16 ssdlite320_mobilenet_v3_large deeplabv3_resnet50
    lraspp_mobilenet_v3_large
"""
TIMM = """
    mixer_s16_224 resmlp_12_224 gmlp_s16_224 xcit_nano_12_p8_224 beit_base_patch16_224 cait_xxs24_224 levit_128
    coat_tiny eva02_tiny_patch14_224 deit_tiny_distilled_patch16_224 convit_tiny crossvit_9_240 pit_ti_224
    tnt_s_patch16_224 volo_d1_224 sequencer2d_s efficientformer_l1 efficientvit_b0 mobilevit_s nfnet_f0 hiera_tiny_224
    mvitv2_tiny poolformer_s12 convnextv2_atto swiftformer_xs repvit_m0_9 maxvit_tiny_rw_224 inception_resnet_v2
    regnety_004 edgenext_small ghostnet_100 visformer_tiny nasnetalarge vit_base_patch16_siglip_224
    naflexvit_base_patch16_gap
"""
TRANSFORMERS = """
    GPT2LMHeadModel LlamaForCausalLM MistralForCausalLM MixtralForCausalLM Qwen2ForCausalLM Qwen3ForCausalLM
    Qwen2MoeForCausalLM Qwen3MoeForCausalLM GptOssForCausalLM DeepseekV3ForCausalLM Llama4ForConditionalGeneration
    JetMoeForCausalLM GraniteMoeForCausalLM NemotronHForCausalLM PhiForCausalLM Phi3ForCausalLM Gemma3ForCausalLM
    FalconForCausalLM BloomForCausalLM OPTForCausalLM MptForCausalLM MambaForCausalLM Mamba2ForCausalLM
    JambaForCausalLM ZambaForCausalLM RwkvForCausalLM RecurrentGemmaForCausalLM XLNetForSequenceClassification
    BertModel BertForSequenceClassification RobertaForSequenceClassification AlbertForSequenceClassification
    DebertaV2ForSequenceClassification ElectraForPreTraining T5ForConditionalGeneration BartForSequenceClassification
    WhisperForConditionalGeneration Wav2Vec2ForCTC Wav2Vec2ForXVector CLIPModel ViTForImageClassification
    Dinov2ForImageClassification SegformerForSemanticSegmentation DetrForObjectDetection
    DeformableDetrForObjectDetection SamModel Swinv2ForImageClassification LevitForImageClassificationWithTeacher
    ReformerForSequenceClassification PerceiverForImageClassificationLearned LayoutLMv3ForSequenceClassification
    CsmForConditionalGeneration
"""


declare_operators()


def has_packages() -> bool:
    """Whether all packages are installed."""
    return all(find_spec(package) for package in PACKAGES)


def torchvision_model(name: str) -> nn.Module:
    """A classifier, detector or segmenter; RegNet measures its weights as it is made, and so needs some."""
    from torchvision import models

    backbone = {"weights_backbone": None} if name in DETECTORS.split() else {}
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        return models.get_model(name, weights=None, num_classes=CLASSES, **backbone)


def timm_model(name: str) -> nn.Module:
    import timm

    with torch.device("meta"):
        return timm.create_model(name, num_classes=CLASSES)


def transformers_model(name: str) -> nn.Module:
    """The default configuration, but with four layers where it has more, and with labels that nothing else counts."""
    import transformers

    found = getattr(transformers, name)
    config = found.config_class()
    layers = getattr(config, "num_hidden_layers", 0)
    if isinstance(layers, int) and layers > 4 and not hasattr(config, "layer_types"):
        with contextlib.suppress(AttributeError, NotImplementedError):
            config.num_hidden_layers = 4
    config.num_labels = CLASSES
    with torch.device("meta"):
        return found(config)


MAKERS: dict[str, Callable[[str], nn.Module]] = {
    "torchvision": torchvision_model,
    "timm": timm_model,
    "transformers": transformers_model,
}
NAMES = {
    "torchvision": [*TORCHVISION.split(), *DETECTORS.split()],
    "timm": TIMM.split(),
    "transformers": TRANSFORMERS.split(),
}


def published(package: str, name: str) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return MAKERS[package](name)


# -- the table ---------------------------------------------------------------------------------------------------------


def rows() -> Iterator[str]:
    """One line for each model."""
    for package, names in NAMES.items():
        for name in names:
            yield row(f"{package}: {name}", route(published(package, name)))


def row(name: str, routes: Iterable[Route]) -> str:
    found = [r for r in routes if r.parameter.ndim > 1]
    roles = Counter(r.role for r in found)
    several = [r for r in found if r.view.split or (r.view.batch and r.role in ("matrix", "head"))]
    cells = [
        str(roles["matrix"] or ""),
        str(roles["conv"] or ""),
        listed(r.name for r in found if r.role == "head"),
        listed(r.name for r in found if r.role == "embedding"),
        listed(r.name for r in found if r.role == "vector" and not is_filter_or_flat(r)),
        listed((r.name for r in several), [f" ({counted(r.view, tuple(r.parameter.shape))})" for r in several]),
    ]
    return f"| {name} | {' | '.join(cells)} |"


def is_filter_or_flat(r: Route) -> bool:
    """Whether a vector has one dimension but for ones, or is a filter for each channel, of which there are many."""
    return sum(size > 1 for size in r.parameter.shape) < 2 or "filter for each channel" in r.reason


def counted(view: View, shape: tuple[int, ...]) -> str:
    matrices = torch.Size(shape[: view.batch]).numel() * (view.split if isinstance(view.split, int) else 1)
    return f"{matrices}" + (", by inputs" if view.transposed else "")


def listed(names: Iterable[str], remarks: Sequence[str] = ()) -> str:
    """The last two parts of each name that are no numbers, each once, with its first remark; at most four."""
    found: dict[str, str] = {}
    for i, name in enumerate(names):
        parts = [re.sub(r"\d+", "N", part) for part in name.removesuffix(".weight").split(".") if not part.isdigit()]
        found.setdefault(".".join(parts[-2:]), remarks[i] if remarks else "")
    shown = ", ".join(f"`{name}`{remark}" for name, remark in [*found.items()][:4])
    return shown + (f", and {len(found) - 4} more" if len(found) > 4 else "")


COLUMNS = (
    "model",
    "matrices",
    "convolutions",
    "heads",
    "embeddings",
    "vectors of several dimensions",
    "several in one",
)
HEADER = f"| {' | '.join(COLUMNS)} |\n|---|--:|--:|---|---|---|---|\n"


def table() -> str:
    packages = ", ".join(f"{package} {version(package).partition('+')[0]}" for package in PACKAGES)
    return f"{START}\n\nMade with {packages}.\n\n{HEADER}" + "\n".join(rows()) + f"\n\n{END}"


def written_versions(page: str) -> dict[str, str]:
    """The versions that the table on the page was made with."""
    return dict(re.findall(r"(torchvision|timm|transformers) (\d[\d.]*\d)", page.partition(START)[2].split("|")[0]))


def renewed(page: str) -> str:
    """The page with the table as it is now."""
    before, _, rest = page.partition(START)
    return before + table() + rest.partition(END)[2]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write the table to docs/routing.md")
    arguments = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    new = renewed(page)
    if arguments.write:
        PAGE.write_text(new, encoding="utf-8")
    elif new != page:
        print(f"{PAGE.name} is out of date: run `python -m tests.runtime.routing.published --write`", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
