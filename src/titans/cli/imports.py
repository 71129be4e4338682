"""The import that every verb needs and that must not be interrupted."""

import sys

from titans.training.interrupt import hold_interrupts


def import_torch() -> None:
    """Imports torch and numpy. A Ctrl-C is heard afterwards: they mistake one of their own for a missing package.

    What the package has to say, as that a kernel is being compiled, is shown from here on.
    """
    with hold_interrupts():
        import torch  # noqa: F401

    import logging

    class Said(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print(f"titans: {self.format(record)}", file=sys.stderr)

    ours = logging.getLogger("titans")
    ours.setLevel(logging.INFO)
    ours.handlers = [Said()]
    ours.propagate = False
