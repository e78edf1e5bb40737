"""Which GPU each engine has: ``sbatch slurm/templates/gpu.sbatch``."""

import pxcluster as ipp


def gpu() -> tuple[str, str]:
    """The host, and the GPUs that CUDA shows here."""
    import os
    import socket

    return socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES", "all")


engines = enumerate(ipp.Client()[:].apply_sync(gpu))
for who, (host, gpus) in [("this program", gpu()), *((f"engine {n}", found) for n, found in engines)]:
    print(f"{who} on {host}: GPU {gpus or 'none'}")
