"""What tests of the kernels share."""

import pytest


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
