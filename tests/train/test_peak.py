"""Peaks: told, looked up by name, or measured."""

import pytest
import torch

from unmask.train.peak import TFLOPS, peak_flops


def test_what_a_stage_file_says_counts() -> None:
    assert peak_flops(torch.device("cpu"), 2.5) == 2.5e12


def test_a_cpu_is_measured_and_nothing_is_drawn() -> None:
    before = torch.get_rng_state()
    measured = peak_flops(torch.device("cpu"))
    assert 1e8 < measured < 1e15 and peak_flops(torch.device("cpu")) == measured
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("name", "tflops"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA H100 80GB HBM3", 989.0),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H200", 989.0),
        ("NVIDIA A10G", 70.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA B200", 2250.0),
    ],
)
def test_gpus_are_known_by_name(monkeypatch: pytest.MonkeyPatch, name: str, tflops: float) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: name)
    assert peak_flops(torch.device("cuda", 0)) == tflops * 1e12


def test_a_longer_name_stands_before_a_part_of_it() -> None:
    names = list(TFLOPS)
    for place, name in enumerate(names):
        assert not any(earlier in name for earlier in names[:place]), name
