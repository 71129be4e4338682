"""The Triton kernels run in Triton's interpreter here, which has to be known before they are imported."""

import os

import pytest

os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture
def quick_interpreter(monkeypatch):
    """Without a third of the interpreter's work: it prepares triton.language anew at every call of a function."""
    from triton.runtime.interpreter import InterpretedFunction

    call = InterpretedFunction.__call__

    def prepared(function, *args, **kwargs):
        if function.fn.__module__.startswith("titans."):  # called by a kernel, for which it has been prepared
            return function.rewrite()(*args, **kwargs)
        return call(function, *args, **kwargs)

    monkeypatch.setattr(InterpretedFunction, "__call__", prepared)
