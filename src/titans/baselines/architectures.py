"""The model of transformers that a configuration names, with random weights and without a head.

Without the packages mamba-ssm, causal-conv1d and flash-linear-attention, as on a processor, transformers computes in
plain PyTorch: Mamba token by token, Mamba-2 and gated delta in chunks.
"""

import logging
import math

import torch
from torch import nn
from transformers import (
    LlamaConfig,
    LlamaModel,
    Mamba2Config,
    Mamba2Model,
    MambaConfig,
    MambaModel,
    MistralConfig,
    MistralModel,
    OlmoHybridConfig,
    OlmoHybridModel,
    Qwen3NextConfig,
    Qwen3NextModel,
)
from transformers.models.olmo_hybrid.modeling_olmo_hybrid import OlmoHybridGatedDeltaNet
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

from titans.baselines.config import BaselineConfig

NEVER = -1e4  # the logarithm of how much a layer forgets: its exponential is exactly 0
CHUNK_SIZE, HEAD_DIM = 64, 64  # of Mamba-2; gated delta has chunks as long


def build(config: BaselineConfig) -> nn.Module:
    """A model that turns tokens [B, T] into outputs [B, T, dim]."""
    logging.getLogger("transformers.integrations.hub_kernels").addFilter(_worth_saying)
    match config.name:
        case "llama":
            return _begun(LlamaModel(LlamaConfig(**_sizes(config), **_attention(config))))
        case "llama-swa":
            settings = MistralConfig(**_sizes(config), **_attention(config), sliding_window=config.window_size)
            return _begun(MistralModel(settings))
        case "mamba":
            return _mamba(config)
        case "mamba2":
            return _mamba2(config)
        case "delta" | "delta-neg" | "gated-delta-neg":
            return _delta_alone(config)
        case _:
            return _begun(_gated_delta(config))


def _sizes(config: BaselineConfig) -> dict:
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "num_hidden_layers": config.num_layers,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _attention(config: BaselineConfig) -> dict:
    return {
        "intermediate_size": config.width,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_heads,
        "head_dim": config.dim // config.num_heads,
    }


def _mamba(config: BaselineConfig) -> MambaModel:
    settings = MambaConfig(**_sizes(config), conv_kernel=config.conv_size)
    settings.intermediate_size = config.width  # by itself a whole multiple of dim, which is too coarse to match sizes
    return MambaModel(settings)


def _mamba2(config: BaselineConfig) -> Mamba2Model:
    """Heads of at most 64 channels, as in its paper, so more of them than attention has in a small model."""
    inner = 2 * config.dim
    heads = next(n for n in range(config.num_heads, inner + 1) if inner % n == 0 and inner // n <= HEAD_DIM)
    settings = Mamba2Config(
        **_sizes(config),
        num_heads=heads,
        head_dim=inner // heads,
        state_size=config.width,
        n_groups=1,
        conv_kernel=config.conv_size,
        chunk_size=CHUNK_SIZE,
    )
    return Mamba2Model(settings)


def _gated_delta(config: BaselineConfig) -> Qwen3NextModel:
    """Qwen3-Next without its mixture of experts; keys of 3/4 dim and values of 3/2 dim, as in Gated DeltaNet."""
    settings = Qwen3NextConfig(
        **_sizes(config),
        **_attention(config),
        num_experts=0,
        **_delta_rule(config),
        layer_types=["full_attention" if config.attends(i) else "linear_attention" for i in range(config.num_layers)],
    )
    return Qwen3NextModel(settings)


def _delta_alone(config: BaselineConfig) -> OlmoHybridModel:
    """OLMo Hybrid without its attention: steps up to 2 turn a key's value round, and it need not forget."""
    model = OlmoHybridModel(
        _DeltaAlone(
            **_sizes(config),
            **_attention(config),
            **_delta_rule(config),
            linear_allow_neg_eigval=config.name.endswith("neg"),
            layer_types=["linear_attention"] * config.num_layers,
        )
    )
    if not config.name.startswith("gated"):
        for module in model.modules():
            if isinstance(module, OlmoHybridGatedDeltaNet):
                never = torch.full_like(module.A_log, NEVER)
                del module.A_log
                module.register_buffer("A_log", never)
    return model


class _DeltaAlone(OlmoHybridConfig):
    def validate_architecture(self) -> None:
        """OLMo Hybrid's own refuses to be without attention."""


def _delta_rule(config: BaselineConfig) -> dict:
    return {
        "linear_conv_kernel_dim": config.conv_size,
        "linear_num_key_heads": config.num_heads,
        "linear_num_value_heads": config.num_heads,
        "linear_key_head_dim": max(1, 3 * config.dim // (4 * config.num_heads)),
        "linear_value_head_dim": max(1, 3 * config.dim // (2 * config.num_heads)),
    }


@torch.no_grad()
def _begun(model: nn.Module) -> nn.Module:
    """The same with weights that suit its width, those that PyTorch gives to layers, as in ours.

    transformers has normal ones of 0.02 whatever the width, which are PyTorch's for 833 channels and a fifth of them
    for 32 (its Mambas bring their own; OLMo Hybrid keeps them, and learns parity with them). And Qwen3-Next begins with
    steps of 1.3, so that most heads would forget everything within a token: here they are 0.001 to 0.1, as in Mamba-2
    and Gated DeltaNet.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d):
            module.reset_parameters()
        if isinstance(module, Qwen3NextGatedDeltaNet):
            step = torch.empty_like(module.dt_bias).uniform_(math.log(0.001), math.log(0.1)).exp()
            module.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # the inverse of softplus
    return model


def _worth_saying(record: logging.LogRecord) -> bool:
    """Not that a package for GPUs is missing, which transformers says of every function."""
    return "is falling back to its reference PyTorch implementation" not in record.getMessage()
