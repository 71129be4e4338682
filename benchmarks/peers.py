"""Other packages as contenders of `titans.bench`. Each is imported when it is measured; what is missing is reported.

titans-pytorch is the one other implementation of this memory in use. It takes every gradient at the weights of the last
`batch_size` tokens and shares gates among the `chunk_size` tokens of a chunk; chunk 1 with batch 64 is the paper's
granularity. Chunks of 16 and 64 run without `batch_size`, which is their fastest setting: all gradients are then taken
at the first weights. Its accelerated scan is for GPUs. The gated delta rule and Mamba2 are linear recurrences, without
a network inside: other layers for the same purpose, in the forms their packages offer for this processor.
"""

# pyright: reportMissingImports=false, reportAttributeAccessIssue=false, reportCallIssue=false

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor, nn

from titans.bench.contest import Contender, Work
from titans.bench.memory import ROUNDED, Size, layer_input, trained, without_gradients
from titans.bench.model import Setting, random_tokens, training_step
from titans.memory.kernels.build import multiplies_bfloat16
from titans.training.model import best_device

PACKAGES = ("titans-pytorch", "transformers", "flash-linear-attention")
PER_TOKEN = "titans-pytorch, chunk 1"
COARSEST = "titans-pytorch, chunk 64"
MAC, PLAIN_MAC = "titans-pytorch MAC, its script", "titans-pytorch MAC, plain"
DELTANET = "Gated DeltaNet, fla"
LLAMA, MAMBA = "Llama, transformers", "Mamba2, transformers"


def versions() -> dict[str, str]:
    """Of the packages that are installed."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def layers(size: Size, training: bool) -> Sequence[Contender]:
    """Layers of the same width and heads."""
    builders: dict[str, Callable[[Size], nn.Module]] = {
        PER_TOKEN: partial(_titans_pytorch, chunk=1, batch=64),
        "titans-pytorch, chunk 16": partial(_titans_pytorch, chunk=16, batch=None),
        COARSEST: partial(_titans_pytorch, chunk=64, batch=None),
        DELTANET: _gated_deltanet,
        "gated delta, Qwen3-Next": _qwen3_next,
        MAMBA: _mamba2,
    }
    found = [
        Contender(name=name, make=partial(make_layer, build, size, training), tokens=size.tokens, ours=False)
        for name, build in builders.items()
    ]
    if multiplies_bfloat16() and size.dtype == torch.float32:
        work = partial(make_layer, builders[COARSEST], replace(size, dtype=torch.bfloat16), training)
        found.append(Contender(name=COARSEST + ROUNDED, make=work, tokens=size.tokens, ours=False))
    return found


def gpu_layers(size: Size, training: bool) -> Sequence[Contender]:
    """Those that are made for GPUs, or have the same granularity."""
    return [contender for contender in layers(size, training) if contender.name in (DELTANET, PER_TOKEN)]


def models(setting: Setting) -> Sequence[Contender]:
    """Training steps of language models of about the same size."""
    makers = {
        MAC: partial(make_mac, setting, extras=True),
        PLAIN_MAC: partial(make_mac, setting, extras=False),
        LLAMA: partial(make_causal_lm, _llama, setting),
        MAMBA: partial(make_causal_lm, _mamba2_lm, setting),
    }
    return [Contender(name=name, make=make, tokens=setting.tokens, ours=False) for name, make in makers.items()]


def make_layer(build: Callable[[Size], nn.Module], size: Size, training: bool) -> Work:
    """A layer [B, T, D] -> [B, T, D] on random inputs."""
    torch.manual_seed(0)
    layer, x = build(size).to(best_device(), size.dtype), layer_input(size)

    def forward() -> Tensor:
        found = layer(x)
        return found if isinstance(found, Tensor) else found[0]

    return Work(run=trained(forward) if training else without_gradients(forward))


def make_mac(setting: Setting, extras: bool) -> Work:
    """MemoryAsContextTransformer as the package's train_mac.py builds it; `extras` are what that adds to the paper.

    These are: queries, keys and values from a choice of layers, a part of the memory before in each memory, pooling by
    attention, a learned rate for each memory layer, and surprises made orthogonal by Newton-Schulz steps.
    """
    from titans_pytorch import MemoryAsContextTransformer, MemoryMLP

    torch.manual_seed(0)
    config = setting.config
    head_dim = min(64, config.dim)
    memory = {
        "dim_head": head_dim,
        "heads": 4,
        "qk_rmsnorm": True,
        "momentum": True,
        "momentum_order": 1,
        "default_step_transform_max_lr": 1e-1,
        "use_accelerated_scan": False,
        "attn_pool_chunks": extras,
        "per_parameter_lr_modulation": extras,
        "spectral_norm_surprises": extras,
    }
    model = MemoryAsContextTransformer(
        num_tokens=config.vocab_size,
        dim=config.dim,
        depth=config.num_layers,
        segment_len=config.segment_size,
        num_persist_mem_tokens=config.num_persistent_tokens,
        num_longterm_mem_tokens=4,
        neural_memory_layers=tuple(layer + 1 for layer in config.memory_layers or ()),
        neural_memory_segment_len=4,
        neural_memory_batch_size=128,
        neural_mem_gate_attn_output=False,
        neural_mem_weight_residual=extras,
        neural_memory_qkv_receives_diff_views=extras,
        use_flex_attn=False,
        sliding_window_attn=True,
        neural_memory_model=MemoryMLP(dim=head_dim, depth=2),
        neural_memory_kwargs=memory,
    ).to(best_device())
    for parameter in model.parameters():  # those of several heads are one copy seen several times: no optimiser's step
        parameter.data = parameter.data.clone(memory_format=torch.contiguous_format)
    tokens = random_tokens(setting, setting.length + 1)
    # The memory network's own parameters are only the pattern for those that are trained.
    used = sum(p.numel() for name, p in model.named_parameters() if ".memory_model." not in name)
    return training_step(model, lambda: model(tokens, return_loss=True), used)


def make_causal_lm(build: Callable[[Setting], Any], setting: Setting) -> Work:
    """A causal language model of transformers."""
    torch.manual_seed(0)
    model = build(setting).to(best_device())
    tokens = random_tokens(setting, setting.length)
    parameters = sum(p.numel() for p in model.parameters())
    return training_step(model, lambda: model(input_ids=tokens, labels=tokens, use_cache=False).loss, parameters)


def _titans_pytorch(size: Size, chunk: int, batch: int | None) -> nn.Module:
    from titans_pytorch import MemoryMLP, NeuralMemory

    return NeuralMemory(
        size.dim,
        chunk_size=chunk,
        batch_size=batch,
        dim_head=size.d,
        heads=size.H,
        model=MemoryMLP(size.d, depth=size.depth, expansion_factor=size.expansion),
        momentum=True,
        qk_rmsnorm=True,
        use_accelerated_scan=False,
    )


def _gated_deltanet(size: Size) -> nn.Module:
    from fla.layers import GatedDeltaNet

    return GatedDeltaNet(hidden_size=size.dim, head_dim=size.d, num_heads=size.H, expand_v=1)


def _qwen3_next(size: Size) -> nn.Module:
    from transformers.models.qwen3_next.configuration_qwen3_next import Qwen3NextConfig
    from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextGatedDeltaNet

    config = Qwen3NextConfig(
        hidden_size=size.dim,
        num_hidden_layers=1,
        layer_types=["linear_attention"],
        linear_num_key_heads=size.H,
        linear_num_value_heads=size.H,
        linear_key_head_dim=size.d,
        linear_value_head_dim=size.d,
    )
    return Qwen3NextGatedDeltaNet(config, 0)


def _mamba2(size: Size) -> nn.Module:
    from transformers import Mamba2Config
    from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer

    heads = 2 * size.dim // size.d
    return Mamba2Mixer(Mamba2Config(hidden_size=size.dim, num_heads=heads, head_dim=size.d, n_groups=1), 0)


def _llama(setting: Setting) -> nn.Module:
    """Full causal attention over the row (SDPA), otherwise the control's shape."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = setting.config
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.mlp_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            tie_word_embeddings=True,
            attn_implementation="sdpa",
        )
    )


def _mamba2_lm(setting: Setting) -> nn.Module:
    """Twice as many blocks: one of Mamba2 has about half the parameters of attention and SwiGLU."""
    from transformers import Mamba2Config, Mamba2ForCausalLM

    config = setting.config
    head_dim = config.dim // config.num_heads
    return Mamba2ForCausalLM(
        Mamba2Config(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            num_hidden_layers=2 * config.num_layers,
            num_heads=2 * config.num_heads,
            head_dim=head_dim,
            n_groups=1,
            tie_word_embeddings=True,
        )
    )
