"""The demonstration of examples/NLG: its exact accounts, and its three scripts on a reduced network."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from tailora.core.errors import ModelError
from tailora.data.examples import Example
from tailora.lora.inject import attach, parameter_table
from tailora.models import demo as network_module
from tailora.training import demo

SCRIPTS = Path(__file__).parents[1] / "examples" / "NLG"


def script(name):
    spec = importlib.util.spec_from_file_location(name, SCRIPTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def reduced(monkeypatch):
    """The demonstration network with narrow layers, so that a run takes a second."""
    build = network_module.build
    monkeypatch.setattr(network_module, "build", lambda: build(width=32, inner=64))


def test_the_accounts_come_out_exactly():
    with torch.device("meta"):
        network = network_module.DemoNetwork()
        base = sum(parameter.numel() for parameter in network.parameters())
    network = network.to_empty(device="cpu")
    attach(network, network_module.lora_config())
    table = parameter_table(network)
    assert table.frozen == base
    accounts = demo.Accounts(base=base, adapter=table.trainable)
    assert accounts.adapter == 1_062_160
    assert (accounts.total, accounts.base) == (87_752_033, 86_689_873)
    shown = [accounts.percent, accounts.base_megabytes, accounts.adapter_megabytes]
    shown += [accounts.fewer_percent, accounts.times_smaller]
    assert [f"{value:.2f}" for value in shown] == ["1.21", "330.70", "4.05", "98.77", "81.62"]


def test_a_network_that_came_out_otherwise_is_refused(monkeypatch):
    monkeypatch.setattr(network_module, "fingerprint_module", lambda network: "other")
    monkeypatch.setattr(network_module, "DemoNetwork", lambda **sizes: _small())
    with pytest.raises(ModelError, match="other values than it was made with"):
        network_module.build()


_SMALL = network_module.DemoNetwork


def _small():
    return _SMALL(vocabulary=10, width=4, inner=8)


def test_values_do_not_depend_on_the_number_of_threads():
    threads = torch.get_num_threads()
    states = []
    for count in (1, 2):
        torch.set_num_threads(count)
        states.append(network_module.build(vocabulary=3000, width=32, inner=64).state_dict())
    torch.set_num_threads(threads)
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_only_completion_tokens_are_scored():
    ids, targets = demo.padded([Example("a", (1, 2), (3, 4)), Example("b", (5,), (6,))])
    assert ids.tolist() == [[1, 2, 3], [5, 0, 0]]
    assert targets.tolist() == [[-100, 3, 4], [6, -100, -100]]


def test_train_then_run_in_both_modes(reduced, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    arguments = ["--max_train_samples", "16", "--num_epochs", "2", "--lr", "0.03", "--lora_dim", "4"]
    assert script("run_training").main(arguments) == 0
    state = torch.load("lora_model/pytorch_model.bin", weights_only=True)
    assert len(state) == 10
    assert state["blocks.0.first.lora_A"].shape == (4, 32)
    assert script("run_inference").main([]) == 0
    printed = capsys.readouterr().out
    assert printed.count("logits [2, 32, 50257]") == 2
    assert "the two modes agree" in printed


def test_measuring_prints_one_object(reduced, capsys):
    compare = script("compare_lora_vs_full")
    found = {}
    for method in compare.METHODS:
        assert compare.main(["--max_train_samples", "16", "--lora_dim", "4", "--measure", method]) == 0
        found[method] = json.loads(capsys.readouterr().out)
    assert found["lora"]["trainable"] < found["full"]["trainable"] == found["full"]["base"]
    compare.show(found["lora"], {**found["full"], "memory": 2.0})
    assert "smaller" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("run_training", ["--max_train_samples", "100000"], "records, and 100000 were asked for"),
        ("run_training", ["--lora_dim", "0"], "at least 1"),
        ("run_training", ["--lr", "-1", "--max_train_samples", "2"], "lr: must be positive"),
        ("run_inference", [], "run run_training.py first"),
    ],
)
def test_mistakes_are_one_line(reduced, tmp_path, monkeypatch, capsys, name, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert script(name).main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
