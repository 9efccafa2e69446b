"""`tailora plot`: several runs in one figure, whatever their method and state."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import tailora
from tailora import cli
from tailora.commands.plot import PlotSettings, run
from tailora.core.errors import DataError, SettingsError
from tailora.reports.curves import curves_of, read_metrics, smoothed
from tailora.training.run import run as train
from tailora.training.settings import TrainSettings


def metrics(folder: Path, updates: int = 6, *, start: float = 3.0, validated: bool = True) -> Path:
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = [{"step": 0, "validation_loss": start}] if validated else []
    for step in range(1, updates + 1):
        line = {"step": step, "loss": start / step, "learning_rate": 1e-3, "gradient_norm": 1.0}
        lines.append(line | {"examples": 4, "seconds": 0.5})
        if validated and step % 3 == 0:
            lines.append({"step": step, "validation_loss": start / step + 0.1})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return folder


def drawn(figure: Figure) -> list[tuple[list[float], list[float]]]:
    (axes,) = figure.axes
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in axes.lines]


def legend(figure: Figure) -> list[str]:
    (axes,) = figure.axes
    found = axes.get_legend() or figure.legends[0]
    return [text.get_text() for text in found.get_texts()]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Runs of two methods."""
    folder = tmp_path_factory.mktemp("runs")
    common: dict[str, Any] = {"data": "restaurants", "limit": 7, "valid_limit": 2, "max_steps": 3, "precision": "fp32"}
    for method in ("lora", "bitfit"):
        train(TrainSettings(**common, method=method, output=folder / method, device="cpu"))
    return [folder / "lora", folder / "bitfit"]


@pytest.mark.parametrize("ending", ["svg", "png", "pdf", "PNG"])
def test_a_figure_of_real_runs(runs: list[Path], tmp_path: Path, ending: str) -> None:
    output = tmp_path / f"losses.{ending}"
    arguments = ["plot", *map(str, runs), "--output", str(output)]
    assert cli.main(arguments) == 0
    first = output.read_bytes()
    if ending == "svg":
        assert ElementTree.parse(output).getroot().tag.endswith("svg")
    elif ending.lower() == "png":
        with Image.open(output) as image:
            assert image.size == (1050, 675)
    else:
        assert first.startswith(b"%PDF")
    assert cli.main(arguments) == 0
    assert ending == "svg" or output.read_bytes() == first  # the ids within an SVG are random


def test_what_is_drawn(runs: list[Path]) -> None:
    figure = tailora.plot(runs)
    assert legend(figure) == ["lora", "bitfit", "training", "validation"]
    expected = []
    for folder in runs:
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
        for name in ("loss", "validation_loss"):
            points = [(line["step"], line[name]) for line in lines if name in line]
            expected.append(tuple(map(list, zip(*points, strict=True))))
    assert drawn(figure) == expected


def test_the_result_has_the_best_validation(tmp_path: Path) -> None:
    folders = (metrics(tmp_path / "a"), metrics(tmp_path / "b", 2, validated=False))
    result = run(PlotSettings(runs=folders, output=tmp_path / "x.svg"))
    assert result["runs"] == [
        {"run": str(tmp_path / "a"), "updates": 6, "validation_loss": pytest.approx(0.6), "step": 6},
        {"run": str(tmp_path / "b"), "updates": 2, "validation_loss": None, "step": None},
    ]


def test_an_unfinished_run_is_drawn_as_far_as_it_is(tmp_path: Path) -> None:
    folder = metrics(tmp_path / "killed")
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 7, "lo')
    assert drawn(tailora.plot(folder))[0][0] == [1, 2, 3, 4, 5, 6]
    assert len(read_metrics(folder / "metrics.jsonl")) == 9


def test_axes_and_smoothing(tmp_path: Path) -> None:
    lines = read_metrics(metrics(tmp_path / "run") / "metrics.jsonl")
    assert [x for x, _ in curves_of(lines, "examples").training] == [4, 8, 12, 16, 20, 24]
    assert [x for x, _ in curves_of(lines, "seconds").validation] == [0, 1.5, 3]
    points = [(0.0, 4.0), (1.0, 2.0), (2.0, 6.0), (3.0, 1.0)]
    assert smoothed(points, 1) == points
    assert smoothed(points, 2) == [(0, 4), (1, 3), (2, 4), (3, 3.5)]
    figure = tailora.plot({"a run": tmp_path / "run"}, axis="seconds", smooth=2)
    assert figure.axes[0].get_xlabel() == "seconds of training"
    assert legend(figure)[0] == "a run"


def test_names_tell_the_runs_apart(tmp_path: Path) -> None:
    folders = [metrics(tmp_path / place) for place in ("a/grid/run", "b/grid/run", "a/grid/other")]
    assert legend(tailora.plot(folders))[:3] == ["a/grid/run", "b/grid/run", "a/grid/other"]
    many = [metrics(tmp_path / "many" / str(number)) for number in range(12)]
    figure = tailora.plot(many)
    assert legend(figure) == [*map(str, range(12)), "training", "validation"]
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines}
    assert len(looks) == 12


def test_names_are_shown_as_they_are(tmp_path: Path) -> None:
    figure = tailora.plot([metrics(tmp_path / "_first"), metrics(tmp_path / "$x$ & <b>")])
    assert [text.strip() for text in legend(figure)[:2]] == ["_first", r"\$x\$ & <b>"]
    figure.savefig(tmp_path / "x.svg")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{a}", "{a}/../a", "--output", "x.svg"], "is given twice"),
        (["{a}", "--output", "x.gif"], r"does not end in .svg, .png or .pdf"),
        (["{a}", "--output", "x"], r"does not end in .svg, .png or .pdf"),
        (["{a}", "--labels", "x,y", "--output", "x.svg"], "2 labels for 1 run"),
        (["{a}", "{b}", "--labels", "x,x", "--output", "x.svg"], "a label is given twice"),
        (["{nothing}", "--output", "x.svg"], "is not the directory of a training run"),
        (["{empty}", "--output", "x.svg"], "has not measured a loss yet"),
        (["{broken}", "--output", "x.svg"], r"metrics.jsonl:2: is not a line that a training run writes"),
        (["--output", "x.svg"], "runs"),
        (["{a}"], "output"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    metrics(tmp_path / "a")
    metrics(tmp_path / "b")
    for name, text in (("empty", ""), ("broken", '{"step": 1, "loss": 2.0}\n{"step": "x"}\n')):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text(text, encoding="utf-8")
    places = {name: str(tmp_path / name) for name in ("a", "b", "empty", "broken", "nothing")}
    assert cli.main(["plot", *(text.format(**places) for text in arguments)]) == 2
    assert message.replace(r"\.", ".") in capsys.readouterr().err
    assert not (tmp_path / "x.svg").exists()


def test_runs_before_and_after_a_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in "abc":
        metrics(tmp_path / name)
    assert cli.main(["plot", "a", "--output", "x.svg", "b", "c"]) == 0
    Path("plot.yaml").write_text("runs: [a, b]\noutput: y.svg\n", encoding="utf-8")
    assert cli.main(["plot", "plot.yaml"]) == 0
    assert cli.main(["plot", "--runs", "a", "--runs", "b", "--output", "z.svg"]) == 0
    assert all((tmp_path / name).is_file() for name in ("x.svg", "y.svg", "z.svg"))


def test_plotting_loads_no_torch(tmp_path: Path) -> None:
    folder = metrics(tmp_path / "run")
    program = (
        "import sys; from tailora import cli; "
        f"assert cli.main(['plot', {str(folder)!r}, '--output', {str(tmp_path / 'x.svg')!r}]) == 0; "
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_wrong_options_from_python(tmp_path: Path) -> None:
    folder = metrics(tmp_path / "run")
    with pytest.raises(SettingsError, match="axis"):
        tailora.plot(folder, axis="steps")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="is not the directory"):
        tailora.plot([tmp_path])
