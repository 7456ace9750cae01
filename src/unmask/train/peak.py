"""How fast a device could multiply matrices at most: what the utilisation of a run is a share of."""

import time
from functools import cache

import torch

TFLOPS = {
    "B200": 2250.0,
    "GH200": 989.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "H800": 989.0,
    "H20": 148.0,
    "A100": 312.0,
    "A800": 312.0,
    "A10G": 70.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
    "MI300X": 1307.4,
    "MI250X": 383.0,
}
"""Dense 16-bit peaks as their makers tell them (V100, T4: fp16), by a part of the device's name; longer parts stand before shorter ones."""

_SIDE = 768


def peak_flops(device: torch.device, tflops: float | None = None) -> float:
    """Operations per second of a device.

    Args:
        device: it.
        tflops: what a stage file says instead.
    """
    if tflops is not None:
        return tflops * 1e12
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        known = next((value for part, value in TFLOPS.items() if part.lower() in name.lower()), None)
        if known is not None:
            return known * 1e12
    return _measured(device.type, device.index, torch.get_num_threads())


@cache
def _measured(kind: str, index: int | None, threads: int) -> float:
    """The best of a few products of square matrices: fp32 on a CPU, 16 bits elsewhere. Takes nothing from any generator."""
    device = torch.device(kind) if index is None else torch.device(kind, index)
    dtype, side = (torch.float32, _SIDE) if kind == "cpu" else (torch.bfloat16, 8 * _SIDE)
    one = torch.ones((side, side), device=device, dtype=dtype)
    out = one @ one
    best = 0.0
    for _ in range(5):
        _wait(device)
        started = time.perf_counter()
        torch.mm(one, one, out=out)
        _wait(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
