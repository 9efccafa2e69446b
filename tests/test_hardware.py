"""What the machine offers, read from made-up system files and from this machine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tailora.core.errors import SettingsError
from tailora.core.hardware import cgroups, memory, processor, system_files
from tailora.core.hardware.devices import choose_device, has_kernels, limit_threads
from tailora.core.hardware.machine import describe
from tailora.core.hardware.memory import Memory, peak_rss, rss

linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's own files")
MIB = 2**20


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text, encoding="utf-8")


@pytest.fixture
def group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A made-up cgroup folder, the only one this process is in."""
    for module in (memory, processor):
        monkeypatch.setattr(module, "cgroup_folders", lambda controller: [tmp_path])
    monkeypatch.setattr(memory, "_system_memory", lambda: Memory(1000 * MIB, 800 * MIB))
    return tmp_path


def test_without_limits_the_affinity_counts(group: Path) -> None:
    write(group, cpu__max="max 100000\n", cpu__cfs_quota_us="-1\n")
    free = processor.cores()
    assert free >= 1
    write(group, cpu__max=f"{100_000 * (free + 5)} 100000\n")
    assert processor.cores() == free


@pytest.mark.parametrize(("task", "granted"), [("2", 2), ("6", None), ("9", None), ("0", None), ("2(x3)", None)])
def test_a_slurm_task_has_its_own_cores(
    group: Path, monkeypatch: pytest.MonkeyPatch, task: str, granted: int | None
) -> None:
    monkeypatch.setattr(processor, "_visible_cores", lambda: 6)
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", task)
    assert processor.granted_cores() == granted
    assert processor.cores() == (granted or 6)
    write(group, cpu__max="100000 100000\n")
    assert processor.granted_cores() == 1


@pytest.mark.parametrize(("quota", "variable", "threads"), [(2, None, 2), (8, None, 6), (2, "OMP_NUM_THREADS", 6)])
def test_threads_are_those_that_a_cpu_limit_grants(
    group: Path, monkeypatch: pytest.MonkeyPatch, quota: int, variable: str | None, threads: int
) -> None:
    """A process sees six cores, and PyTorch has a thread for each."""
    monkeypatch.setattr(processor, "_visible_cores", lambda: 6)
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, "6")
    write(group, cpu__max=f"{100_000 * quota} 100000\n")
    assert processor.granted_cores() == (2 if quota == 2 else None)
    assert processor.cores() == min(quota, 6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(6)
        limit_threads()
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "files",
    [{"cpu__max": "50000 100000\n"}, {"cpu__cfs_quota_us": "50000\n", "cpu__cfs_period_us": "100000\n"}],
    ids=["v2", "v1"],
)
def test_a_quota_of_half_a_core_is_one_core(group: Path, files: dict[str, str]) -> None:
    write(group, **files)
    assert processor.cores() == 1


@pytest.mark.parametrize(("quota", "cores"), [("150000 100000", 2), ("200000 100000", 2), ("1000 100000", 1)])
def test_a_quota_is_rounded_up(tmp_path: Path, quota: str, cores: int) -> None:
    write(tmp_path, cpu__max=quota)
    assert cgroups.cpu_quota(tmp_path) == cores


@pytest.mark.parametrize(
    "files",
    [
        {"memory__max": f"{300 * MIB}\n", "memory__current": f"{120 * MIB}\n"},
        {"memory__limit_in_bytes": f"{300 * MIB}\n", "memory__usage_in_bytes": f"{120 * MIB}\n"},
    ],
    ids=["v2", "v1"],
)
def test_a_containers_limit_counts_and_its_cached_files_do_not(group: Path, files: dict[str, str]) -> None:
    write(group, **files, memory__stat=f"anon 5\ninactive_file {20 * MIB}\n")
    assert memory.memory() == Memory(300 * MIB, 200 * MIB)


@pytest.mark.parametrize("limit", ["max", str(2**63 - 4096)])
def test_no_limit_leaves_the_systems_memory(group: Path, limit: str) -> None:
    write(group, memory__max=limit, memory__limit_in_bytes=limit, memory__current="5", memory__usage_in_bytes="5")
    assert memory.memory() == Memory(1000 * MIB, 800 * MIB)


@linux
def test_every_parent_of_the_own_cgroup_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = cgroups.read_text
    account = "4:memory:/a/b\n1:cpu,cpuacct:/\n0::/host/only\n"
    monkeypatch.setattr(cgroups, "read_text", lambda path: account if path.name == "cgroup" else text(path))
    monkeypatch.setattr(cgroups, "CGROUPS", tmp_path)
    (tmp_path / "memory" / "a" / "b").mkdir(parents=True)
    folder = tmp_path / "memory"
    assert cgroups.cgroup_folders("memory") == [folder / "a" / "b", folder / "a", folder, tmp_path]


def test_this_machine_has_cores_and_memory() -> None:
    assert processor.cores() >= 1
    total, available = memory.memory()
    assert total is not None
    assert total > 100 * MIB
    assert available is None or 0 < available <= total


def test_peak_memory_never_falls_and_counts_what_was_freed() -> None:
    before = peak_rss()
    block = bytearray(b"x" * (64 * MIB))
    now = rss()
    del block
    after = peak_rss()
    assert before is not None
    assert now is not None
    assert after is not None
    assert after + MIB >= now >= 64 * MIB  # Linux adds the pages of threads up in batches
    assert after + MIB >= before


@linux
def test_a_child_does_not_inherit_its_parents_peak() -> None:
    block = bytearray(b"x" * (256 * MIB))
    program = "from tailora.core.hardware.memory import peak_rss; print(peak_rss())"
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    del block
    assert int(shown.stdout) < 200 * MIB


def test_the_description_is_json_and_names_what_matters() -> None:
    described = json.loads(json.dumps(describe()))
    # The package data of some builds leave out the local label that the library itself names ("+cu130").
    assert described["packages"]["torch"].partition("+")[0] == torch.__version__.partition("+")[0]
    assert described["cores"] == processor.cores()
    assert described["cpu"]
    assert set(described["instruction_sets"]) <= set(processor.INSTRUCTION_SETS)
    assert described["gpu"] is None or torch.cuda.is_available()


@linux
@pytest.mark.parametrize(
    ("text", "name", "found"),
    [
        ("model name\t: Quick 9000\nflags\t\t: fpu avx2 avx512_bf16 sse\n", "Quick 9000", ("avx2", "avx512_bf16")),
        ("Model\t\t: Small Board\nFeatures\t: fp asimd bf16 i8mm\n", "Small Board", ("asimd", "bf16", "i8mm")),
    ],
    ids=["x86", "arm"],
)
def test_instruction_sets_are_read_from_both_kinds_of_processor(
    monkeypatch: pytest.MonkeyPatch, text: str, name: str, found: tuple[str, ...]
) -> None:
    monkeypatch.setattr(processor, "read_text", lambda path: text)
    assert processor.cpu_name() == name
    assert processor.instruction_sets() == found


def test_a_system_command_that_does_not_answer_has_no_output(monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: tuple[str, ...], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(system_files.subprocess, "run", hang)
    assert system_files.output_of("ps") == ""


CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120", "compute_120"]


@pytest.mark.parametrize(
    ("capability", "architectures", "runs"),
    [
        ((6, 0), CUDA_13, False),  # P100
        ((7, 0), CUDA_13, False),  # V100: kernels for 7.5 do not run on 7.0
        ((7, 5), CUDA_13, True),
        ((8, 9), CUDA_13, True),  # by those for 8.6
        ((9, 0), CUDA_13, True),
        ((10, 3), CUDA_13, True),
        ((12, 1), CUDA_13, True),
        ((13, 0), CUDA_13, True),  # compiled by the driver
        ((13, 0), CUDA_13[:-1], False),
        ((9, 0), ["sm_80", "sm_90a"], True),
        ((9, 0), ["gfx90a", "gfx942"], True),
        ((6, 0), [], True),
    ],
)
def test_kernels_run_on_the_gpus_that_they_were_built_for(
    capability: tuple[int, int], architectures: list[str], runs: bool
) -> None:
    assert has_kernels(capability, architectures) is runs


def test_a_gpu_without_kernels_is_not_chosen(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (6, 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla P100")
    monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: CUDA_13)
    monkeypatch.setattr(torch, "empty", lambda *sizes, device: None)
    assert choose_device("auto") == choose_device("auto") == "cpu"
    assert caplog.text.count("was built without kernels for Tesla P100 (compute capability 6.0); computing on") == 1
    with pytest.raises(SettingsError, match=r"^device: PyTorch .* was built without kernels for Tesla P100"):
        choose_device("cuda:0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert choose_device("auto") == "cuda"
    assert choose_device("cuda:0") == "cuda:0"


def test_a_gpu_whose_driver_fails_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(device: str) -> None:
        raise RuntimeError("Cannot re-initialize CUDA in forked subprocess. To use CUDA with\nmultiprocessing, spawn.")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", fail)
    monkeypatch.setattr(torch, "empty", lambda *sizes, device: None)
    assert choose_device("auto") == "cpu"
    with pytest.raises(SettingsError, match=r"^device: PyTorch cannot use the GPU \(Cannot re-init.* with\);"):
        choose_device("cuda")


def test_a_device_that_is_missing_is_reported() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda")
    for name in ("gpu", "cuda:99"):
        with pytest.raises(SettingsError, match=f"^device: PyTorch has no device '{name}' on this machine; use cpu"):
            choose_device(name)
