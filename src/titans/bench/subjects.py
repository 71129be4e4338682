"""What can be measured, by name."""

from pathlib import Path

from titans.bench import decode, gpu, memory, model, stream
from titans.bench.contest import Contest

SUBJECTS = ("memory", "model", "decode", "stream")
GPU = "gpu"  # needs one


def contests(
    subject: str,
    folder: Path,
    *,
    quick: bool = False,
    layers: memory.Peers = memory.no_peers,
    models: model.Peers = model.no_peers,
    gpu_layers: memory.Peers = memory.no_peers,
) -> list[Contest]:
    """The contests of one of `SUBJECTS`, or of `GPU`.

    Args:
        folder: where states are kept that are read from.
        quick: tiny sizes, to see that it works.
        layers, models, gpu_layers: contenders of other packages.
    """
    if subject == "memory":
        return memory.contests(quick=quick, peers=layers)
    if subject == GPU:
        return gpu.contests(quick=quick, peers=gpu_layers)
    if subject == "model":
        return model.contests(quick=quick, peers=models)
    return (decode if subject == "decode" else stream).contests(folder, quick=quick)
