"""GPUs that a run can be planned for: what their data sheets print, nothing measured.

The peak is dense bfloat16 with float32 sums; data sheets print twice as much, with structured sparsity. Memory is the
sheet's, in 10^9 bytes, which is a little less than what the card reports. NVLink is one direction.
"""

from __future__ import annotations

from dataclasses import dataclass

from cm3.errors import ConfigError, did_you_mean


@dataclass(frozen=True)
class Gpu:
    """One GPU: `tflops` 10^12 a second, `memory` 10^9 bytes, `watts` at most, `bandwidth` of memory in 10^12 bytes a
    second, `link` to the other GPUs of its machine in 10^9 bytes a second."""

    name: str
    tflops: float
    memory: float
    watts: float
    bandwidth: float
    link: float
    source: str


GPUS: dict[str, Gpu] = {
    "a100": Gpu("A100 SXM 80 GB", 312, 80, 400, 2.039, 300, "nvidia.com/en-us/data-center/a100"),
    "h100": Gpu("H100 SXM 80 GB", 989, 80, 700, 3.35, 450, "nvidia.com/en-us/data-center/h100"),
    "h100-pcie": Gpu("H100 PCIe 80 GB", 756, 80, 350, 2.0, 64, "NVIDIA PB-11133-001; PCIe 5 x16"),
    "h200": Gpu("H200 SXM 141 GB", 989, 141, 700, 4.8, 450, "nvidia.com/en-us/data-center/h200"),
    "b200": Gpu("B200 SXM 180 GB", 2250, 180, 1000, 8.0, 900, "NVIDIA Blackwell data sheet 3384703"),
    "l40s": Gpu("L40S 48 GB", 362, 48, 350, 0.864, 32, "nvidia.com/en-us/data-center/l40s; PCIe 4 x16"),
    "mi300x": Gpu("MI300X 192 GB", 1307, 192, 750, 5.3, 448, "amd.com/en/products/accelerators/instinct/mi300"),
}


def gpu_of(name: str) -> Gpu:
    """Return the GPU of this name. Raises `ConfigError` for one that is not in the table."""
    if name not in GPUS:
        raise ConfigError(f"gpu={name!r}: must be one of {', '.join(GPUS)}.{did_you_mean(name, GPUS)}")
    return GPUS[name]
