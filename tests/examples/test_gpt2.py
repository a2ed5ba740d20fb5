"""The GPT-2 training driver: optimizers by name, the loop, what it shows, and its command line, all at toy size."""

from __future__ import annotations

import io
import json
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from examples.gpt2.__main__ import main
from examples.gpt2.arguments import choose_optimizers
from examples.gpt2.config import (
    ConfigError,
    DataConfig,
    LoopConfig,
    ModelConfig,
    OptimizerConfig,
    RunConfig,
    ScheduleConfig,
    describe_changes,
    read_config,
    write_config,
)
from examples.gpt2.data import Corpus, load_corpus
from examples.gpt2.logs import Run, StepRecord, TelemetryRecord, ValidationRecord, read_run
from examples.gpt2.loop import Observer, Training, train
from examples.gpt2.model import GPT, build_model
from examples.gpt2.optimizers import (
    OptimizerError,
    build_optimizer,
    build_schedule,
    find_spec_text,
    tuned_config,
)
from examples.gpt2.processes import Processes
from examples.gpt2.progress import ProgressBar, ProgressLines, open_progress
from examples.gpt2.run import build_training, count_state_bytes
from examples.gpt2.telemetry import StepProbe, spectral_norm

ROOT = Path(__file__).parents[2]
ALONE = Processes(torch.device("cpu"))
TINY = ModelConfig(vocab_size=256, context=32, layers=2, width=32, heads=2)
LOOP = LoopConfig(steps=30, batch=8, seed=3, validate_every=10, validation_batches=4)
ADAMW = OptimizerConfig("torch.optim.AdamW", lr=1e-2)
TINY_ARGUMENTS = [
    "--layers=1",
    "--width=16",
    "--heads=1",
    "--context=16",
    "--batch=2",
    "--steps=6",
    "--validate-every=3",
]


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_corpus(DataConfig(), context=TINY.context)


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 50)
    return path


class Records(Observer):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.steps: list[StepRecord] = []
        self.validations: list[ValidationRecord] = []
        self.telemetry: list[TelemetryRecord] = []

    def on_step(self, record: StepRecord) -> None:
        self.steps.append(record)

    def on_validation(self, record: ValidationRecord) -> None:
        self.validations.append(record)

    def on_telemetry(self, record: TelemetryRecord) -> None:
        self.telemetry.append(record)

    @property
    def final_loss(self) -> float:
        return self.validations[-1].loss


def run_tiny(
    corpus: Corpus, optimizer: OptimizerConfig = ADAMW, loop: LoopConfig = LOOP, model: ModelConfig = TINY
) -> tuple[Training, Records, bool]:
    """A run, what it told, and whether all losses were finite."""
    training = build_training(RunConfig(optimizer, model, DataConfig(), loop), corpus, ALONE)
    records = Records()
    is_fine = train(training, after=0, elapsed_s=0.0, observers=[records])
    return training, records, is_fine


# optimizers


def test_names_of_torch_optimizers_are_found() -> None:
    config = tuned_config("torch.optim.SGD")
    optimizer = build_optimizer(config, GPT(TINY))
    assert type(optimizer) is torch.optim.SGD and config.lr == optimizer.defaults["lr"]


def test_any_class_of_any_module_can_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_own.py").write_text("import torch\nclass Mine(torch.optim.SGD): pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    optimizer = build_optimizer(replace(tuned_config("my_own:Mine"), lr=0.5), GPT(TINY))
    assert type(optimizer).__name__ == "Mine" and optimizer.param_groups[0]["lr"] == 0.5


def test_the_text_of_specs_is_known(tmp_path: Path) -> None:
    assert find_spec_text(OptimizerConfig("NAMOD")) == (ROOT / "specs" / "namo_d.opt").read_text()
    path = tmp_path / "mine.opt"
    path.write_text((ROOT / "specs" / "sgd.opt").read_text())
    assert find_spec_text(OptimizerConfig(str(path))) == path.read_text()
    assert find_spec_text(OptimizerConfig("torch.optim.SGD")) is None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("torch.optim.AdamWW", r"torch\.optim has no Optimizer named AdamWW; did you mean AdamW\?"),
        ("torch.optim.Optimizer", r"torch\.optim has no Optimizer named Optimizer"),
        ("NAMOE", r"no Optimizer named NAMOE; did you mean NAMO\?"),
        ("specs/absent.opt", r"specs/absent\.opt"),
        ("no_such_module:Mine", r"no_such_module cannot be imported"),
        ("torch.optim:Mine", r"torch\.optim has no Optimizer named Mine"),
    ],
)
def test_unknown_names_are_refused(name: str, message: str) -> None:
    with pytest.raises(OptimizerError, match=message):
        tuned_config(name)


def test_a_spec_file_gets_the_settings_tuned_for_its_class(tmp_path: Path) -> None:
    path = tmp_path / "mine.opt"
    path.write_text((ROOT / "specs" / "namo.opt").read_text())
    config, tuned = tuned_config(str(path)), tuned_config("NAMO")
    assert config == replace(tuned, name=str(path))
    assert type(build_optimizer(config, GPT(TINY))).__name__ == "NAMO"


def test_a_spec_with_a_mistake_shows_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.opt"
    path.write_text((ROOT / "specs" / "sgd.opt").read_text().replace("grad", "grd"))
    with pytest.raises(OptimizerError, match=r"unknown name `grd`"):
        tuned_config(str(path))


def test_settings_reach_the_optimizer() -> None:
    (config,) = choose_optimizers(
        ["NAMO"], [("NAMO", "lr", 0.5), ("NAMO", "mu1", 0.25), ("NAMO", "schedule", "linear")]
    )
    group = build_optimizer(config, GPT(TINY)).param_groups[0]
    assert (group["lr"], group["mu1"], config.schedule.shape) == (0.5, 0.25, "linear")


@pytest.mark.parametrize("name", ["NAMO", "Muon", "torch.optim.SGD"])
def test_the_rest_can_have_its_own_rate(name: str) -> None:
    model = GPT(TINY)
    hidden, *others = build_optimizer(OptimizerConfig(name, lr=0.5, rest_lr=0.25), model).param_groups
    assert hidden["lr"] == 0.5 and {id(weight) for weight in hidden["params"]} == {
        id(module.weight) for module in model.blocks.modules() if isinstance(module, torch.nn.Linear)
    }
    assert all(group["lr"] * group.get("rest_ratio", 1.0) == 0.25 for group in others)
    assert sum(len(group["params"]) for group in [hidden, *others]) == len(list(model.parameters()))


def test_the_rest_learns_at_its_own_rate() -> None:
    """The first step of AdamW, which follows the rest, has the size of its learning rate."""
    model = build_model(TINY, seed=0)
    optimizer = build_optimizer(OptimizerConfig("Muon", lr=0.5, rest_lr=0.25), model)
    before = model.norm.weight.detach().clone()
    model.loss(*torch.randint(0, 256, (2, 4, TINY.context), generator=torch.Generator().manual_seed(0))).backward()
    optimizer.step()
    moved = (model.norm.weight - before).abs()
    assert torch.allclose(moved, torch.full_like(moved, 0.25), rtol=1e-3)


@pytest.mark.parametrize("name", ["NAMO", "NAMOD", "Muon", "AdamW", "torch.optim.AdamW"])
def test_every_tuned_config_trains(corpus: Corpus, name: str) -> None:
    _, records, _ = run_tiny(corpus, tuned_config(name))
    assert records.final_loss < records.validations[0].loss - 0.8


def test_a_wrong_setting_is_an_error() -> None:
    (config,) = choose_optimizers(["NAMO"], [("NAMO", "mu9", 0.25)])
    with pytest.raises(OptimizerError, match=r"NAMO: .*mu9"):
        build_optimizer(config, GPT(TINY))


@pytest.mark.parametrize(
    ("shape", "end"), [("cosine", 0.0), ("cosine-to-tenth", 0.2), ("linear", 0.0), ("constant", 2.0)]
)
def test_schedules_warm_up_and_decay(shape: str, end: float) -> None:
    optimizer = build_optimizer(OptimizerConfig("torch.optim.SGD", lr=2.0), GPT(TINY))
    schedule = build_schedule(ScheduleConfig(shape, warmup=0.2), optimizer, steps=20)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates[:4] == [0.5, 1.0, 1.5, 2.0]
    assert rates[4:] == sorted(rates[4:], reverse=True)
    assert rates[12] == pytest.approx((2 + end) / 2)
    assert end <= rates[-1] < end + 0.2 and optimizer.param_groups[0]["lr"] == pytest.approx(end)


HALVES = """schedule Halves:
    hyper total where total > 0 "steps in all"

    factor <- 1 if t <= total / 2 else 0.5
"""


def test_a_schedule_may_be_a_spec_file(tmp_path: Path) -> None:
    path = tmp_path / "halves.opt"
    path.write_text(HALVES)
    config = OptimizerConfig("torch.optim.SGD", lr=2.0, schedule=ScheduleConfig(str(path)))
    optimizer = build_optimizer(config, GPT(TINY))
    schedule = build_schedule(config.schedule, optimizer, steps=4)
    rates = []
    for _ in range(4):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    assert rates == [2.0, 2.0, 1.0, 1.0]
    assert find_spec_text(config) == HALVES
    both = find_spec_text(OptimizerConfig("NAMO", schedule=ScheduleConfig("WSD")))
    assert both and "optimizer NAMO:" in both and "schedule WSD:" in both


@pytest.mark.parametrize("name", ["Constant", "Cosine", "Linear", "UBA", "WSD"])
def test_every_shipped_schedule_can_be_chosen(name: str) -> None:
    optimizer = build_optimizer(OptimizerConfig("torch.optim.SGD", lr=2.0), GPT(TINY))
    build_schedule(ScheduleConfig(name, warmup=0.5), optimizer, steps=8)
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_a_schedule_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    optimizer = build_optimizer(OptimizerConfig("torch.optim.SGD", lr=2.0), GPT(TINY))
    (path := tmp_path / "other.opt").write_text(HALVES.replace("total", "length"))
    with pytest.raises(OptimizerError, match=r"other\.opt: .*length"):
        build_schedule(ScheduleConfig(str(path)), optimizer, steps=4)
    with pytest.raises(OptimizerError, match="which is no LRScheduler"):
        build_schedule(ScheduleConfig(str(ROOT / "specs" / "namo.opt")), optimizer, steps=4)


def test_schedules_move_the_rate_of_every_group() -> None:
    optimizer = build_optimizer(OptimizerConfig("NAMO", lr=1.0, rest_lr=0.1), GPT(TINY))
    schedule = build_schedule(ScheduleConfig("linear", warmup=0), optimizer, steps=2)
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, *[0.05] * (len(optimizer.param_groups) - 1)]


def test_generated_schedules_are_found_by_name() -> None:
    optimizer = build_optimizer(ADAMW, GPT(TINY))
    schedule = build_schedule(ScheduleConfig("UBA", warmup=0.1), optimizer, steps=50)
    assert type(schedule).__name__ == "UBA" and optimizer.param_groups[0]["lr"] == pytest.approx(1e-2 / 5)
    with pytest.raises(OptimizerError, match=r"no LRScheduler named UBB; did you mean UBA\?"):
        build_schedule(ScheduleConfig("UBB"), optimizer, steps=50)


# loop


def test_training_lowers_the_loss(corpus: Corpus) -> None:
    _, records, is_fine = run_tiny(corpus)
    assert records.validations[0].loss == pytest.approx(math.log(256), abs=0.1)
    assert records.final_loss < records.validations[0].loss - 1.5
    assert is_fine


@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_a_run_repeats_exactly(corpus: Corpus, dropout: float) -> None:
    model = replace(TINY, dropout=dropout)
    first, second = run_tiny(corpus, model=model), run_tiny(corpus, model=model)
    assert [step.loss for step in first[1].steps] == [step.loss for step in second[1].steps]
    pairs = zip(first[0].model.parameters(), second[0].model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_optimizers_start_from_the_same_weights_and_batch(corpus: Corpus) -> None:
    _, adamw, _ = run_tiny(corpus)
    _, sgd, _ = run_tiny(corpus, OptimizerConfig("torch.optim.SGD", lr=0.1))
    assert adamw.steps[0].loss == sgd.steps[0].loss and adamw.validations[0].loss == sgd.validations[0].loss
    assert adamw.steps[-1].loss != sgd.steps[-1].loss


def test_records_are_complete_and_times_add_up(corpus: Corpus) -> None:
    _, records, _ = run_tiny(corpus)
    assert [record.step for record in records.steps] == list(range(1, 31))
    assert [record.step for record in records.validations] == [0, 10, 20, 30]
    total = sum(record.total_s for record in records.steps)
    assert total <= records.steps[-1].elapsed_s < 1.5 * total  # zeroing gradients and schedules are between the halves
    assert records.validations[-1].elapsed_s == records.steps[-1].elapsed_s
    assert all(record.forward_backward_s > 0 and record.optimizer_s > 0 for record in records.steps)
    rates = [record.lr for record in records.steps]
    assert rates[0] < rates[1] < max(rates) == 1e-2 and rates[-1] < 1e-3


def test_a_slow_optimizer_has_the_larger_share(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    step = torch.optim.SGD.step

    def slow_step(self: torch.optim.SGD) -> None:
        step(self)
        time.sleep(0.05)

    monkeypatch.setattr(torch.optim.SGD, "step", slow_step)
    loop = LoopConfig(steps=3, validation_batches=1)
    _, records, _ = run_tiny(corpus, OptimizerConfig("torch.optim.SGD", lr=0.1), loop)
    assert all(record.optimizer_s > 0.05 for record in records.steps)


def test_clipping_bounds_the_gradient(corpus: Corpus) -> None:
    loop = LoopConfig(steps=1, batch=4, clip=1e-3, validation_batches=1)
    training, records, _ = run_tiny(corpus, OptimizerConfig("torch.optim.SGD", lr=0.0), loop)
    norm = torch.stack([parameter.grad.norm() for parameter in training.model.parameters()]).norm()
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)
    assert records.steps[0].gradient_norm > 0.1


def test_a_run_that_diverges_stops(corpus: Corpus) -> None:
    wild = OptimizerConfig("torch.optim.SGD", lr=1e30, schedule=ScheduleConfig("constant", warmup=0))
    _, records, is_fine = run_tiny(corpus, wild)
    assert not is_fine and not math.isfinite(records.steps[-1].loss) and len(records.steps) < 30


def test_accumulated_parts_are_one_batch(corpus: Corpus) -> None:
    """Only the order of sums differs, and what a few steps of descent make of that."""
    loop = LoopConfig(steps=5, batch=8, validation_batches=2)
    gentle = OptimizerConfig("torch.optim.SGD", lr=0.1)
    _, whole, _ = run_tiny(corpus, gentle, loop)
    _, parts, _ = run_tiny(corpus, gentle, replace(loop, accumulate=4))
    assert [r.loss for r in parts.steps] == pytest.approx([r.loss for r in whole.steps], abs=1e-6)
    assert parts.final_loss == pytest.approx(whole.final_loss, abs=1e-6)
    assert [r.gradient_norm for r in parts.steps] == pytest.approx([r.gradient_norm for r in whole.steps], rel=1e-5)


@pytest.mark.parametrize("name", ["SophiaG", "SophiaH"])
def test_sophia_is_shown_the_curvature(corpus: Corpus, name: str) -> None:
    loop = LoopConfig(steps=5, batch=4, curvature_every=2, validation_batches=1)
    training, _, is_fine = run_tiny(corpus, OptimizerConfig(name, lr=1e-3), loop)
    weight = training.model.blocks[0].mlp.up.weight
    assert is_fine and training.optimizer.state[weight]["h"].abs().max() > 0


def test_newton_muon_is_shown_the_inputs_of_layers(corpus: Corpus) -> None:
    loop = LoopConfig(steps=3, batch=4, curvature_every=2, validation_batches=1)
    training, _, is_fine = run_tiny(corpus, OptimizerConfig("NewtonMuon", lr=1e-3), loop)
    state = training.optimizer.state[training.model.blocks[0].mlp.down.weight]
    assert is_fine and state["activations_step"] == 2 and state["s"].diagonal().min() > 0


def test_muon_clip_limits_attention_logits(corpus: Corpus) -> None:
    """Biases are zero at first, and a step moves them by lr alone: what is left is the limit."""
    loop = LoopConfig(steps=1, batch=4, validation_batches=1)
    limited = OptimizerConfig("MuonClip", lr=1e-6, options={"tau": 1e-4})
    training, _, is_fine = run_tiny(corpus, limited, loop)
    layer, seen = training.model.blocks[0].attention, []
    handle = layer.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
    tokens = torch.from_numpy(np.asarray(corpus.train[:40]).astype("int64"))[None]
    training.model(tokens[:, : TINY.context])
    handle.remove()
    width = TINY.width // TINY.heads
    q, k, _ = seen[0].unflatten(-1, (3, TINY.heads, width)).unbind(2)
    assert is_fine and 0 < torch.einsum("bthd,bshd->bhts", q, k).max() / width**0.5 < 1e-3


def test_momo_observes_the_loss(corpus: Corpus) -> None:
    training, records, is_fine = run_tiny(
        corpus, OptimizerConfig("MoMo", lr=0.1), LoopConfig(steps=2, batch=4, validation_batches=1)
    )
    state = training.optimizer.state[training.model.blocks[0].mlp.up.weight]
    assert is_fine and float(state["f"].flatten()[0]) == pytest.approx(records.steps[-1].loss)


def test_autocast_computes_in_bfloat16(corpus: Corpus) -> None:
    loop = LoopConfig(steps=3, batch=4, validation_batches=1)
    _, full, _ = run_tiny(corpus, loop=loop)
    _, half, _ = run_tiny(corpus, loop=replace(loop, dtype="bfloat16"))
    assert half.steps[0].loss != full.steps[0].loss
    assert half.steps[0].loss == pytest.approx(full.steps[0].loss, rel=1e-2)


def test_the_size_of_the_state_is_counted(corpus: Corpus) -> None:
    training, _, _ = run_tiny(corpus, OptimizerConfig("AdamW", lr=1e-3), LoopConfig(steps=1, batch=2))
    assert count_state_bytes(training.optimizer) == pytest.approx(8 * TINY.count_parameters(), rel=1e-3)


# telemetry


def test_telemetry_measures_the_step_that_was_taken(corpus: Corpus) -> None:
    """SGD's first step is known: lr times the gradient, against it."""
    loop = LoopConfig(steps=2, batch=4, telemetry_every=1, validation_batches=1, clip=math.inf)
    sgd = OptimizerConfig("torch.optim.SGD", lr=0.5, schedule=ScheduleConfig("constant", warmup=0))
    training, records, _ = run_tiny(corpus, sgd, replace(loop, steps=1))
    name, weight = "blocks.0.mlp.up.weight", training.model.blocks[0].mlp.up.weight
    assert weight.grad is not None
    measured = records.telemetry[0].layers[name]
    step, before = 0.5 * weight.grad, weight.detach() + 0.5 * weight.grad
    assert measured["cosine"] == pytest.approx(1, abs=1e-5)
    assert measured["step_rms"] == pytest.approx(step.square().mean().sqrt().item(), rel=1e-4)
    assert measured["step_to_weight"] == pytest.approx((step.norm() / before.norm()).item(), rel=1e-4)
    exact = torch.linalg.matrix_norm(step, 2).item()
    assert 0.9 * exact < measured["spectral_norm"] <= exact * 1.0001
    assert set(records.telemetry[0].layers) == {n for n, p in training.model.named_parameters() if p.ndim == 2}


def test_telemetry_changes_nothing(corpus: Corpus) -> None:
    model = replace(TINY, dropout=0.1)
    _, plain, _ = run_tiny(corpus, tuned_config("NAMO"), replace(LOOP, steps=6), model)
    _, told, _ = run_tiny(corpus, tuned_config("NAMO"), replace(LOOP, steps=6, telemetry_every=2), model)
    assert [r.loss for r in told.steps] == [r.loss for r in plain.steps]
    assert [r.step for r in told.telemetry] == [2, 4, 6] and not plain.telemetry


@pytest.mark.parametrize(("second", "least"), [(1.5, 2.999), (2.9, 2.7)])
def test_the_spectral_norm_is_found(second: float, least: float) -> None:
    generator = torch.Generator().manual_seed(0)
    left, _ = torch.linalg.qr(torch.randn(30, 20, generator=generator))
    right, _ = torch.linalg.qr(torch.randn(20, 20, generator=generator))
    values = torch.cat([torch.tensor([3.0]), torch.linspace(second, 0.1, 19)])
    assert least < spectral_norm(left @ torch.diag(values) @ right).item() <= 3.0001


def test_a_probe_without_gradients_measures_nothing() -> None:
    assert StepProbe(GPT(TINY)).measure(1).layers == {}


# configurations


def test_configurations_survive_json() -> None:
    config = RunConfig(tuned_config("NAMO"), TINY, DataConfig("text", "bpe:300"), replace(LOOP, clip=math.inf))
    assert read_config(json.loads(json.dumps(write_config(config)))) == config


def test_changes_are_named() -> None:
    config = RunConfig(ADAMW)
    other = replace(config, loop=replace(config.loop, batch=16), optimizer=replace(ADAMW, options={"eps": 0.1}))
    assert describe_changes(config, other) == ["loop.batch was 8, is 16", "optimizer.options.eps was None, is 0.1"]
    assert describe_changes(config, config) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loop": {**write_config(RunConfig(ADAMW))["loop"], "stepz": 3}}, "loop: unknown stepz"),
        ({"model": {}}, "model: missing checkpointing, context"),
        ({"data": 3}, "data: expected an object with path, tokenizer, found 3"),
        ({"loop": {**write_config(RunConfig(ADAMW))["loop"], "batch": 0}}, "batch must be at least 1, got 0"),
    ],
)
def test_a_wrong_configuration_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_config({**write_config(RunConfig(ADAMW)), **change})


# progress

SHOWN = RunConfig(
    OptimizerConfig("NAMO"), replace(TINY, context=10), loop=LoopConfig(steps=20, batch=4, validation_batches=1)
)


def test_progress_without_a_terminal_is_lines() -> None:
    stream = io.StringIO()
    progress = open_progress(SHOWN, stream)
    assert type(progress) is ProgressLines
    for step in range(1, 21):
        progress.on_step(StepRecord(step, 2.5, 0.1, 1.0, 0.3, 0.2, elapsed_s=0.5 * step))
    progress.close()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 10
    assert lines[0] == "NAMO: step 2/20, loss 2.500, 80 tokens/s, optimizer 40%, 9 s left"


def test_progress_on_a_terminal_is_a_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(stream, "isatty", lambda: True)
    progress = open_progress(SHOWN, stream)
    assert type(progress) is ProgressBar
    progress.on_validation(ValidationRecord(0, 5.5, 0.0))
    for step in range(18, 21):
        progress.on_step(StepRecord(step, 2.5, 0.1, 1.0, 0.3, 0.2, elapsed_s=0.5 * step))
    progress.close()
    shown = stream.getvalue()
    assert "100%" in shown and "loss=2.500" in shown and "validation=5.500" in shown and "tokens/s" in shown
    assert "optimizer=40%" in shown


# command line


def train_arguments(text: Path, out: Path, *more: str) -> list[str]:
    cache = ["--cache", str(out.parent / "cache")]
    return [
        "train",
        "--optimizer",
        "torch.optim.SGD",
        "--data",
        str(text),
        "--out",
        str(out),
        *TINY_ARGUMENTS,
        *cache,
        *more,
    ]


def test_a_run_leaves_a_log_and_its_result(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train_arguments(text, tmp_path / "one", "--lr", "0.5", "--clip", "inf")) == 0
    found = read_run(tmp_path / "one")
    assert [record.step for record in found.steps] == [1, 2, 3, 4, 5, 6]
    assert [record.step for record in found.validations] == [0, 3, 6]
    assert found.header.config.optimizer.lr == 0.5 and found.header.config.model.width == 16
    assert found.header.config.loop.clip == math.inf and found.header.unit == "byte"
    assert found.result and found.result.final_validation_loss == found.validations[-1].loss
    shown = capsys.readouterr()
    assert f"validation loss {found.validations[-1].loss:.4f}" in shown.out
    assert "tokens/s" in shown.err and "left" in shown.err


def test_a_finished_run_is_left_alone(tmp_path: Path, text: Path) -> None:
    arguments = train_arguments(text, tmp_path / "one")
    assert main(arguments) == 0
    before = (tmp_path / "one" / "log.jsonl").read_bytes()
    assert main(arguments) == 0
    assert (tmp_path / "one" / "log.jsonl").read_bytes() == before
    assert main([*arguments, "--fresh"]) == 0
    assert (tmp_path / "one" / "log.jsonl").read_bytes() != before


def test_a_run_that_diverges_says_so(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wild = ["--lr", "1e30", "--warmup", "0", "--clip", "inf"]
    assert main(train_arguments(text, tmp_path / "one", *wild)) == 3
    shown = capsys.readouterr().err.splitlines()
    assert shown[-1] == "torch.optim.SGD: the loss is not finite; no checkpoint was written before"
    result = read_run(tmp_path / "one").result
    assert result and result.diverged and math.isnan(result.final_validation_loss)


@pytest.mark.peers
def test_tensorboard_shows_what_the_log_says(tmp_path: Path, text: Path) -> None:
    accumulators = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main(train_arguments(text, tmp_path / "one", "--telemetry-every", "2")) == 0
    found = read_run(tmp_path / "one")
    board = accumulators.EventAccumulator(str(tmp_path / "one" / "tensorboard"))
    board.Reload()
    shown = {tag: [(event.step, event.value) for event in board.Scalars(tag)] for tag in board.Tags()["scalars"]}
    assert shown["train/loss"] == [(r.step, pytest.approx(r.loss)) for r in found.steps]
    assert shown["validation/loss"] == [(r.step, pytest.approx(r.loss)) for r in found.validations]
    measured = [(r.step, pytest.approx(r.layers["tokens.weight"]["step_rms"])) for r in found.telemetry]
    assert shown["step_rms/tokens.weight"] == measured and len(measured) == 3


def test_a_comparison_ends_in_a_verdict(tmp_path: Path, text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = "torch.optim.AdamW,torch.optim.SGD"
    arguments = ["--optimizers", names, "--data", str(text), "--out", str(tmp_path / "all"), *TINY_ARGUMENTS]
    arguments += ["--lr", "torch.optim.SGD=0.5", "--cache", str(tmp_path / "cache"), "--baseline", "torch.optim.AdamW"]
    assert main([*arguments, "--jobs", "2"]) == 0
    runs: list[Run] = [read_run(folder) for folder in sorted((tmp_path / "all").glob("*-seed0"))]
    assert [run.header.name for run in runs] == ["torch.optim.AdamW", "torch.optim.SGD"]
    assert runs[0].validations[0].loss == runs[1].validations[0].loss and runs[0].steps[0].loss == runs[1].steps[0].loss
    shown = capsys.readouterr().out
    assert all(f"{run.validations[-1].loss:.4f}" in shown for run in runs)
    assert "<html" in (tmp_path / "all" / "verdict.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "steps must be at least 1, got 0"),
        (["--seed", "-1"], "argument --seed: expected a whole number of at least 0"),
        (["--clip", "x"], "argument --clip: expected a number of at least 0, got 'x'"),
        (["--clip", "0"], "clip must be above 0 (inf: no clipping), got 0.0"),
        (["--batch", "8", "--accumulate", "3"], "batch (8) must be a multiple of accumulate (3)"),
        (["--dtype", "float8"], "dtype must be one of float32, bfloat16, got float8"),
        (["--model", "huge"], "argument --model: invalid choice: 'huge'"),
        (["--optimizers", "A,,B"], "expected different names separated by commas, got 'A,,B'"),
        (["--optimizers", "A,A"], "expected different names separated by commas, got 'A,A'"),
        (["--optimizers", "torch.optim.Adm"], "torch.optim has no Optimizer named Adm; did you mean"),
        (["--lr", "NAMO"], "expected NAME=VALUE such as NAMO=0.02, got 'NAMO'"),
        (["--lr", "torch.optim.SGD=-1"], "expected NAME=VALUE such as NAMO=0.02, got 'torch.optim.SGD=-1'"),
        (["--set", "momentum=1"], "expected NAME.SETTING=VALUE such as Muon.rest_lr=3e-3, got 'momentum=1'"),
        (["--set", "torch.optim.SGD.momentun=1"], "torch.optim.SGD: "),
        (["--set", "torch.optim.SGD.momentum=-1"], "torch.optim.SGD: Invalid momentum value: -1"),
        (["--set", "torch.optim.SGD.schedule=cosinus"], "no LRScheduler named cosinus"),
        (["--lr", "Moun=1"], "Moun has a setting (lr) but is not among the optimizers: torch.optim.SGD"),
        (["--factors", "1,0"], "expected different numbers above 0 separated by commas, got '1,0'"),
        (["--width", "100", "--heads", "3"], "width (100) must be a multiple of heads (3)"),
        (["--bogus"], "unrecognized arguments: --bogus"),
    ],
)
def test_wrong_arguments_are_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--optimizers", "torch.optim.SGD", *arguments])
    shown = capsys.readouterr()
    assert stop.value.code == 2
    assert message in shown.err and shown.err.count("\n") == 1 and not shown.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--set", "beta1"], "expected OPTION=VALUE such as beta1=0.9, got 'beta1'"),
        (["--set", "nonsense=1"], "torch.optim.SGD: "),
        (["--schedule", "cosinus"], "no LRScheduler named cosinus"),
        (["--config", "absent.json"], "absent.json: expected the configuration of a run"),
        (["--optimizer", "NAMOE"], "did you mean NAMO?"),
    ],
)
def test_wrong_arguments_of_a_run_are_one_sentence(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["train", "--optimizer", "torch.optim.SGD", *arguments])
    shown = capsys.readouterr()
    assert stop.value.code == 2 and message in shown.err and shown.err.count("\n") == 1


def test_unreadable_text_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train_arguments(tmp_path / "absent.txt", tmp_path / "one")) == 1
    shown = capsys.readouterr()
    assert "absent.txt" in shown.err and shown.err.count("\n") == 1


def test_an_unusable_output_folder_is_one_sentence(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(train_arguments(text, text / "runs")) == 1
    shown = capsys.readouterr()
    assert "text.txt" in shown.err and shown.err.count("\n") == 1


@pytest.mark.parametrize("command", [[], ["train"]])
def test_help_has_an_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    shown = capsys.readouterr().out
    assert stop.value.code == 0 and "python -m examples.gpt2 " in shown and "examples:" in shown
