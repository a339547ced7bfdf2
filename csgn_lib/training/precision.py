"""The precision in which a device computes an experiment."""

from __future__ import annotations

import torch


def usable_precision(precision: str, device: torch.device) -> str:
    """``precision``, or "fp32" for "bf16" on a CPU without instructions for it.

    Such a CPU (x86 without AVX-512, older ARM) emulates bfloat16 products, which is much slower than float32.
    float32 is the more exact of the two, so results differ only by the rounding of bfloat16.
    """
    if precision == "bf16" and device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return "fp32"
    return precision
