"""Gradients that have none themselves."""

import functools
from collections.abc import Callable
from typing import Any

import torch


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """The backward function of a kernel that has no second derivative; asked for one (create_graph=True), it raises.

    torch's `once_differentiable` raises only where the incoming gradient requires one, and elsewhere gives a gradient
    that silently is a constant.
    """

    @functools.wraps(backward)
    def call(ctx: Any, *grads: Any) -> Any:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "a compiled kernel has first derivatives only, and create_graph=True asks for more: set CC=none and "
                'take backend="chunked"'
            )
        return backward(ctx, *grads)

    return call
