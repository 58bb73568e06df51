"""What results say of the machine. It imports PyTorch alone: GPU machines may have little else."""

from __future__ import annotations

import platform

import torch


def device_name(device: str) -> str:
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads a pass"
