"""The import that every verb needs and that must not be interrupted, and what the package says while it works."""

import sys

from titans.training.interrupt import hold_interrupts


def import_torch() -> None:
    """Imports torch and numpy. A Ctrl-C is heard afterwards: they mistake one of their own for a missing package.

    From here on the package's messages are shown, such as that a kernel is being compiled.
    """
    with hold_interrupts():
        import torch  # noqa: F401
    _show_messages()


def _show_messages() -> None:
    import logging

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            # Not a StreamHandler, which would keep the stream of now: a progress bar puts another in its place.
            print(f"titans: {self.format(record)}", file=sys.stderr)

    ours = logging.getLogger("titans")
    ours.setLevel(logging.INFO)
    ours.handlers = [Shown()]
    ours.propagate = False
