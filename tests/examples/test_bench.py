"""The benchmark itself: the shapes it claims, the same mathematics for all, and honest arithmetic."""

from __future__ import annotations

import json
import time
from contextlib import nullcontext, suppress
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import agreement, contestants, measure, optimizers, peers, telemetry
from benchmarks.agreement import claims, difference
from benchmarks.cold import graphs, measure_cold
from benchmarks.contestants import HYPERS, LR, Contestant, backends, make_optimizer, ours, packages, torchs
from benchmarks.gpu import file_name
from benchmarks.measure import Track, peak_extra_bytes, run_race
from benchmarks.peers import installed, iterating_in, rewritten
from benchmarks.races import METHODS, Race, memory_limit, races
from benchmarks.results import SCHEMA, quartiles, race_rows, ratios, row_of
from benchmarks.shapes import count, entries, iteration_flops, largest_bucket_bytes, named, random_tensors
from benchmarks.table import document, number
from benchmarks.targets import verdicts
from examples.gpt2.config import ModelConfig
from examples.gpt2.model import GPT

CPU = torch.device("cpu")


# -- shapes ------------------------------------------------------------------------------------------------------------


def test_gpt2_small_is_gpt2_small():
    with torch.device("meta"):
        model = GPT(ModelConfig(vocab_size=50257, context=1024, layers=12, width=768, heads=12))
    expected = sorted((tuple(p.shape), p.ndim) for p in model.parameters())
    every, hidden = entries("gpt2-small", "all"), entries("gpt2-small", "hidden")
    assert sorted((entry.shape, len(entry.shape)) for entry in every) == expected
    assert (len(every), count(every)) == (148, 124_439_808)
    assert (len(hidden), count(hidden)) == (48, 84_934_656)
    assert (len(entries("6x384", "hidden")), count(entries("6x384", "hidden"))) == (24, 10_616_832)
    assert largest_bucket_bytes(every) == 4 * 50257 * 768


def test_roles_are_those_that_the_module_gets():
    with torch.device("meta"):
        model = GPT(ModelConfig(vocab_size=256, context=256, layers=6, width=384, heads=6))
    groups = contestants.generated.Muon(model).param_groups
    found = {tuple(p.shape): group["rule"] for group in groups for p in group["params"]}
    assert {entry.shape: entry.role for entry in entries("6x384", "all")} == found


# -- the same mathematics ----------------------------------------------------------------------------------------------


def claim_parameters():
    return [
        pytest.param(
            contestant,
            scope,
            id=f"{contestant.name}-{scope}",
            marks=() if contestant.package in ("generated", "torch") else pytest.mark.peers,
        )
        for contestant, scope in claims()
    ]


@pytest.mark.parametrize("contestant, scope", claim_parameters())
def test_who_claims_a_method_takes_its_steps(contestant, scope):
    assert difference(contestant, scope) <= contestant.within


def test_other_hypers_are_other_steps(monkeypatch):
    monkeypatch.setitem(HYPERS, "AdamW", {**HYPERS["AdamW"], "lr": LR * 1.001})
    assert difference(torchs("AdamW")[0], "all") > 5e-4


def test_the_published_iteration_is_in_another_dtype(monkeypatch):
    monkeypatch.setattr(agreement, "iterating_in", lambda dtype: nullcontext())
    (muon,) = torchs("Muon")
    assert difference(muon, "hidden") > 1e-3


def flops_of_a_step(make):
    chosen = entries("tiny", "hidden")
    params = named(chosen, random_tensors(chosen, 1.0, seed=0, device=CPU))
    for p in params:
        p.tensor.grad = p.tensor.detach().clone()
    step = make(params)
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def test_another_dtype_changes_no_operation():
    """A copy of torch's function that did more work would make everybody else look fast."""
    (muon,) = torchs("Muon")
    expected = iteration_flops(entries("tiny", "hidden"))
    assert flops_of_a_step(muon.make) == expected
    with iterating_in(torch.float32):
        assert flops_of_a_step(muon.make) == expected


@pytest.mark.peers
@pytest.mark.parametrize("method", ["Muon", "MuonYouJiacheng", "NorMuon"])
def test_packages_do_the_work_of_the_standard_form(method):
    chosen = packages(method)[0]
    with iterating_in(torch.float32), peers.uncompiled():
        assert flops_of_a_step(chosen.make) == iteration_flops(entries("tiny", "hidden"))


def test_the_iteration_in_its_own_dtype_writes_no_input():
    from torch.optim import _muon

    x = torch.randn((4, 6), generator=torch.Generator().manual_seed(0))
    before = x.clone()
    with iterating_in(torch.float32):
        _muon._zeropower_via_newtonschulz(x, (3.4445, -4.7750, 2.0315), 5, 1e-7)
    assert torch.equal(x, before)


def test_an_expression_that_is_gone_is_not_replaced():
    from torch.optim import _muon

    with pytest.raises(RuntimeError, match=r"no longer has 'grad\.half"):
        rewritten(_muon, "_zeropower_via_newtonschulz", "grad.half()", "grad")


def test_peers_are_as_before_afterwards():
    from torch.optim import _muon

    before = _muon._zeropower_via_newtonschulz
    with iterating_in(torch.float32):
        assert _muon._zeropower_via_newtonschulz is not before
    assert _muon._zeropower_via_newtonschulz is before


def test_every_method_is_raced_in_every_backend():
    for model in ("gpt2-small", "6x384"):
        named_there = {c.name for race in races(model) for c in race.contestants if c.package == "generated"}
        for method in METHODS:
            wanted = {c.name for c in ours(method)}
            assert wanted & named_there
            assert model == "gpt2-small" or wanted <= named_there
        for race in races(model):
            assert race.baseline in [c.name for c in race.contestants]


# -- racing ------------------------------------------------------------------------------------------------------------


def racing(*entrants: Contestant) -> Race:
    return Race("test", "hidden", entrants[0].name, entrants, ("tiny",))


def run(race: Race, rounds: int = 3):
    return run_race(race, "tiny", CPU, budget=1.0, rounds=rounds, log=lambda line: None)


def test_who_overwrites_gradients_disturbs_nobody():
    seen = []

    def greedy(params):
        def step():
            for p in params:
                p.tensor.grad.mul_(-2)

        return step

    def watching(params):
        return lambda: seen.append([p.tensor.grad.clone() for p in params])

    race = racing(Contestant("greedy", "", greedy, "other"), Contestant("watching", "", watching, "other"))
    run(race)
    expected = Track("tiny", race.scope, CPU).noise
    assert len(seen) == 3 + 1 + 3  # warm-up, memory, rounds
    assert all(torch.equal(one, other) for found in seen for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize(
    "parameters, sizes", [(10, [6]), (85_000_000, [5, 2]), (124_000_000, [4, 3]), (10**10, [2] * 5)]
)
def test_who_does_not_fit_in_memory_with_others_runs_in_another_heat(parameters, sizes):
    names = ["a", "base", "b", "c", "d", "e"]
    field = [Contestant(name, "", lambda params: lambda: None, "torch") for name in names]
    race = Race("race", "all", "base", tuple(field), ("tiny",))
    found = measure.heats(race, parameters)
    assert [len(heat) for heat in found] == sizes
    assert {heat[0].name for heat in found} == {"base"}
    assert [contestant.name for heat in found for contestant in heat[1:]] == ["a", "b", "c", "d", "e"]


def test_heats_are_compared_with_their_own_baseline(monkeypatch):
    monkeypatch.setattr(measure, "HEAT_BYTES", 0)
    field = [Contestant(name, "", lambda params: lambda: None, "torch") for name in ("base", "one", "two")]
    found = run(Race("race", "all", "base", tuple(field), ("tiny",)))
    assert [timing.contestant.name for timing in found.timings] == ["base", "one", "two"]
    base, one, two = found.timings
    assert base.base is base.seconds and one.base is base.seconds
    assert len(two.base) == 3 and two.base != base.seconds


def test_a_package_that_fails_is_named_and_ours_is_an_error():
    def failing(params):
        raise ValueError("not today")

    fine = Contestant("fine", "", lambda params: lambda: None, "torch")
    found = run(racing(fine, Contestant("theirs", "", failing, "heavyball")))
    assert found.failed == {"theirs": "ValueError: not today"}
    assert [timing.contestant.name for timing in found.timings] == ["fine"]
    with pytest.raises(ValueError, match="not today"):
        run(racing(fine, Contestant("ours", "", failing, "generated")))


def test_a_package_that_is_not_ready_is_left_out(monkeypatch):
    monkeypatch.setattr(measure, "READY_WITHIN", 0.2)

    def tuning(params):
        for _ in range(100):
            with suppress(RuntimeError):
                time.sleep(0.1)
        raise AssertionError("nobody stopped it")

    fine = Contestant("fine", "", lambda params: lambda: None, "torch")
    found = run(racing(fine, Contestant("theirs", "", tuning, "heavyball")))
    assert found.failed == {"theirs": "TimeoutError: not ready after 0.2 s"}


def test_peak_memory_is_what_is_held_at_once():
    x = torch.zeros(1 << 18)

    def step():
        y = x * 2
        z = y + 1  # both at once
        del y
        z.add_(1)
        z = None
        torch.ones(1 << 16)

    assert 2 * 4 << 18 <= peak_extra_bytes(step, CPU) < (2 * 4 << 18) + 1024
    assert peak_extra_bytes(lambda: x.add_(1), CPU) < 1024


def test_the_memory_limit_moves_the_bytes_it_says(monkeypatch):
    touched = []
    chosen = entries("tiny", "hidden")
    step = memory_limit(20).make(named(chosen, random_tensors(chosen, 1.0, seed=0, device=CPU)))
    original = torch.Tensor.add_
    monkeypatch.setattr(torch.Tensor, "add_", lambda x, y: (touched.append(x.numel()), original(x, y))[1])
    step()
    assert 12 * sum(touched) == pytest.approx(20 * count(chosen), abs=12)


# -- arithmetic --------------------------------------------------------------------------------------------------------


def test_ratios_are_taken_within_rounds():
    slow_machine_in_between = [1.0, 10.0, 1.0, 1.0, 4.0]
    assert ratios([2 * s for s in slow_machine_in_between], slow_machine_in_between) == {
        "median": 2.0,
        "q1": 2.0,
        "q3": 2.0,
    }
    assert ratios([1.0, 2.0, 3.0, 4.0, 5.0], [1.0] * 5) == {"median": 3.0, "q1": 2.0, "q3": 4.0}
    assert quartiles([7.0]) == (7.0, 7.0, 7.0)
    with pytest.raises(ValueError):
        ratios([1.0, 2.0], [1.0])


def made_up_row(contestant, method, seconds, baseline, package="generated", **others):
    return {
        "contestant": contestant,
        "method": method,
        "package": package,
        "seconds": sorted(seconds)[len(seconds) // 2],
        "all_seconds": seconds,
        "ratio": ratios(seconds, baseline),
        "bytes_per_second": None,
        "orthogonalizes": False,
        "peak_extra_bytes": 0,
        "host_seconds": None,
        **others,
    }


def made_up_race(name, rows, **others):
    about = {"model": "tiny", "scope": "hidden", "bucket_bytes": 100, "iteration_flops": 1e9, "baseline": "base"}
    sizes = {"tensors": 2, "parameters": 10, "rounds": 3, "failed": {}}
    return {"race": name, "rows": rows, **about, **sizes, **others}


def by_what(found):
    return {verdict.what: verdict for verdict in found}


def test_orthogonalizing_verdicts():
    base = [10.0, 20.0, 10.0]
    rows = [
        made_up_row("torch Muon", "Muon", base, base, package="torch"),
        made_up_row("generated Muon auto", "Muon", [6.0, 12.0, 6.0], base, peak_extra_bytes=50),
        made_up_row("generated Muon eager", "Muon", [60.0, 60.0, 60.0], base),
        made_up_row("generated NAMO auto", "NAMO", [6.6, 13.2, 6.6], base, peak_extra_bytes=101),
    ]
    found = by_what(verdicts([made_up_race("orthogonalizing", rows)], [], "cpu", 1e9))
    assert found["Muon over torch's Muon"].found == pytest.approx(0.6)
    assert found["Muon over torch's Muon"].met
    assert not found["NAMO over torch's Muon"].met
    assert found["NAMO over generated Muon"].found == pytest.approx(1.1)
    assert "Muon over generated Muon" not in found
    assert found["Muon (hidden): extra memory of a step, in largest buckets"].met
    assert not found["NAMO (hidden): extra memory of a step, in largest buckets"].met
    cuda = by_what(verdicts([made_up_race("orthogonalizing", rows)], [], "cuda", 0.2e9))
    share = cuda["Muon: the standard form's operations per second, of the rate of products"]
    assert share.found == pytest.approx(1e9 / 6 / 0.2e9)
    assert share.met
    assert not by_what(verdicts([made_up_race("orthogonalizing", rows)], [], "cuda", 1e9))[share.what].met


def test_normalizing_verdicts():
    limit = [1.0, 1.0, 1.0]
    rows = [
        made_up_row("memory limit", "", limit, limit, package="torch"),
        made_up_row("torch AdamW fused", "AdamW", [1.4] * 3, limit, package="torch", bytes_per_second=28 / 1.4),
        made_up_row("generated Nora auto", "Nora", [1.2] * 3, limit, bytes_per_second=20 / 1.2, host_seconds=1e-3),
    ]
    (on_cpu, memory) = verdicts([made_up_race("normalizing", rows)], [], "cpu", 1.0)
    assert (on_cpu.what, on_cpu.found) == ("Nora over the memory limit", 1.2)
    assert memory.met
    on_cuda = by_what(verdicts([made_up_race("normalizing", rows)], [], "cuda", 1.0))
    assert on_cuda["Nora over fused AdamW's time per byte"].found == pytest.approx(1.2 / 20 / (1.4 / 28))
    assert on_cuda["Nora (hidden): host time of a step"].found == pytest.approx(1.0)


def test_cold_verdicts():
    fine = {"method": "AdamW", "model": "tiny", "seconds": 3.0, "recompilations": 0, "recompilations_between_groups": 1}
    late = {"method": "Muon", "model": "tiny", "error": "no result after 600 s"}
    found = by_what(verdicts([], [fine, late], "cpu", 1.0))
    assert found["AdamW: compilation, cold"].met
    assert found["AdamW: recompilations when hypers change"].met
    assert not found["AdamW: the same between groups"].met
    assert not found["Muon: compilation, cold"].met


def test_a_users_row_is_the_one_without_a_choice():
    rows = [made_up_row(f"generated Muon {b}", "Muon", [1.0], [1.0]) for b in ("eager", "compile", "auto")]
    assert row_of(made_up_race("x", rows), "Muon")["contestant"] == "generated Muon auto"
    assert row_of(made_up_race("x", rows[:2]), "Muon") is None
    assert row_of(made_up_race("x", rows), "NAMO") is None


@pytest.mark.parametrize(
    "value, text",
    [
        (None, "–"),
        (0.0, "0"),
        (1.23456, "1.23"),
        (0.000123, "0.000123"),
        (1.2e-5, "1.2e-05"),
        (12345.6, "12,300"),
        (float("inf"), "inf"),
    ],
)
def test_numbers(value, text):
    assert number(value) == text


# -- the whole ---------------------------------------------------------------------------------------------------------

RACE_KEYS = {
    "race",
    "model",
    "scope",
    "tensors",
    "parameters",
    "baseline",
    "rounds",
    "bucket_bytes",
    "iteration_flops",
    "rows",
    "failed",
}


def without_waiting(race: Race) -> Race:
    """Without who compiles: the machinery is the same."""
    kept = tuple(c for c in race.contestants if not c.compiles and c.package != "heavyball")
    return replace(race, contestants=kept)


def test_a_race_becomes_data_and_a_table(monkeypatch, tmp_path):
    quick = [without_waiting(race) for race in races("tiny", ["Muon", "Nora"])]
    monkeypatch.setattr(optimizers, "races", lambda *given, **options: quick)
    monkeypatch.setattr(optimizers, "limits", lambda d: {"bytes_per_second": 2e10, "gemm_flops_per_second": 1e11})
    monkeypatch.setattr(optimizers, "iteration_dtype", lambda d: torch.float32)  # whatever this machine multiplies fast

    def in_this_process(options, environment):
        assert not environment
        optimizers.main([*options, "--json", str(tmp_path / "race.json")])
        return json.loads((tmp_path / "race.json").read_text(encoding="utf-8"))["races"]

    monkeypatch.setattr(optimizers, "in_new_process", in_this_process)
    path = tmp_path / "found.json"
    arguments = ["--model", "tiny", "--methods", "Muon", "Nora", "--rounds", "3", "--no-cold", "--quiet", "--json"]
    optimizers.main([*arguments, str(path)])
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["schema"] == SCHEMA
    assert data["limits"]["iteration_dtype"] == "float32"
    assert data["machine"]["threads"] == torch.get_num_threads()
    assert [race["race"] for race in data["races"]] == [race.name for race in quick]
    for race in data["races"]:
        assert race.keys() == RACE_KEYS
        assert all(len(row["all_seconds"]) == race["rounds"] == 3 for row in race["rows"])
        (base,) = [row for row in race["rows"] if row["contestant"] == race["baseline"]]
        assert base["ratio"] == {"median": 1.0, "q1": 1.0, "q3": 1.0}
    assert {verdict["what"] for verdict in data["targets"]} >= {"Muon over torch's Muon", "Nora over the memory limit"}
    text = document(data)
    assert all(f"| {row['contestant']} |" in text for race in data["races"] for row in race["rows"])


def test_written_results_come_back(tmp_path, monkeypatch):
    race = run(racing(torchs("Muon")[0], Contestant("idle", "", lambda params: lambda: None, "torch")))
    rows = race_rows(race)
    assert [row["contestant"] for row in rows["rows"]] == ["torch Muon", "idle"]
    limits = {"bytes_per_second": 1.0, "gemm_flops_per_second": 1.0, "iteration_dtype": "float32"}
    machine = optimizers.describe(CPU)
    data = {"schema": SCHEMA, "command": "c", "machine": machine, "limits": limits, "races": [rows]}
    monkeypatch.setattr(optimizers, "FOLDER", tmp_path)
    optimizers.write({**data, "targets": [], "cold": [], "huge_pages": []}, "RESULTS")
    back = json.loads((tmp_path / "RESULTS.json").read_text(encoding="utf-8"))
    seconds = back["races"][0]["rows"][0]["all_seconds"]
    assert seconds == pytest.approx(rows["rows"][0]["all_seconds"], rel=1e-5)
    assert "### test, tiny" in (tmp_path / "RESULTS.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--methods", "Adam"], ["--model", "gpt3"]])
def test_wrong_arguments(arguments, capsys):
    with pytest.raises(SystemExit):
        optimizers.parse_arguments(arguments)
    assert arguments[0].lstrip("-") in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
def test_no_cuda_device_is_said(capsys):
    with pytest.raises(SystemExit):
        optimizers.parse_arguments(["--device", "cuda"])
    assert "no CUDA device" in capsys.readouterr().err


def test_the_file_of_a_device():
    assert file_name("NVIDIA H200 (141GB)") == "RESULTS-NVIDIA-H200-141GB"


def test_new_graphs_are_counted():
    @torch.compile(backend="aot_eager", dynamic=False)
    def double(x):
        return 2 * x

    before = graphs()
    double(torch.zeros(2))
    double(torch.ones(2))
    assert graphs() == before + 1
    double(torch.zeros(3))
    assert graphs() == before + 2
    torch._inductor.compile(make_fx(lambda x: (2 * x,))(torch.zeros(2)), [torch.zeros(2)])
    assert graphs() == before + 3


@pytest.mark.wide
@pytest.mark.skipif("compile" not in backends("AdamW"), reason="classes have no such backend")
def test_a_cold_start():
    found = measure_cold("AdamW", "tiny", "cpu", "compile")
    assert found["graphs"] >= 1
    assert found["seconds"] > 0.1
    assert found["recompilations"] == found["recompilations_between_groups"] == 0


@pytest.mark.wide
def test_a_cold_start_that_fails_says_why():
    assert "NoSuchOptimizer" in measure_cold("NoSuchOptimizer", "tiny", "cpu", "")["error"]


@pytest.mark.wide
@pytest.mark.parametrize("method", ["AdamW", "Muon", "Nora"])
@pytest.mark.skipif("compile" not in backends("AdamW"), reason="classes have no such backend")
def test_compiled_classes_take_the_same_steps(method):
    (compiled,) = [contestant for contestant in ours(method) if contestant.compiles]
    assert difference(compiled, "hidden") <= compiled.within


def test_made_optimizers_have_the_hypers_of_the_comparison():
    chosen = entries("tiny", "all")
    make = partial(make_optimizer, params=named(chosen, random_tensors(chosen, 1.0, seed=0, device=CPU)))
    for method in METHODS:
        for group in make(method).param_groups:
            assert {name: group[name] for name in HYPERS[method]} == HYPERS[method]


def test_what_is_not_installed_is_left_out(monkeypatch):
    monkeypatch.setattr(contestants, "installed", lambda package: False)
    assert packages("Muon") == packages("AdamW") == []
    assert not installed("a_package_that_nobody_wrote")


# -- telemetry ---------------------------------------------------------------------------------------------------------


def test_how_seldom_telemetry_must_measure(monkeypatch, capsys):
    monkeypatch.setattr(telemetry, "ratios", lambda optimizer, size, rounds: [1.05, 1.1, 1.3])  # the median counts
    telemetry.main(["--optimizer", "AdamW"])
    assert "AdamW, tiny: a measured step takes 1.100" in (shown := capsys.readouterr().out)
    assert "within 3% of a run with --telemetry-every 4 or more" in shown


def test_a_measured_step_is_compared_with_the_plain_one_beside_it(monkeypatch):
    def pretend(configs, rounds, cache):
        plain, measured = ([1.0, 2.0], [1.5, 2.2])
        taken = [measured if config.loop.telemetry_every == 1 else plain for config in configs]
        return [[SimpleNamespace(elapsed_s=seconds) for seconds in each[:rounds]] for each in taken]

    monkeypatch.setattr(telemetry, "take_turns", pretend)
    assert telemetry.ratios("AdamW", "tiny", 2) == pytest.approx([1.5, 1.1])
