"""The neural memory: definition (`reference`), dual form (`chunked`; in C, in Triton), one-token form, the layer."""

from titans.memory.chunked import chunk_titans
from titans.memory.config import MemoryConfig
from titans.memory.kernels.gpu import triton_titans
from titans.memory.kernels.native import native_titans
from titans.memory.layer import NeuralMemory
from titans.memory.networks import MemoryNetwork, Norm
from titans.memory.recurrent import recurrent_titans
from titans.memory.reference import reference_titans
from titans.memory.state import MemoryState

__all__ = [
    "MemoryConfig",
    "MemoryNetwork",
    "MemoryState",
    "NeuralMemory",
    "Norm",
    "chunk_titans",
    "native_titans",
    "recurrent_titans",
    "reference_titans",
    "triton_titans",
]
