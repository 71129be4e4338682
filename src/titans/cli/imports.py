"""The import that every verb needs and that must not be interrupted."""

from titans.training.interrupt import hold_interrupts


def import_torch() -> None:
    """Imports torch and numpy. A Ctrl-C is heard afterwards: they mistake one of their own for a missing package."""
    with hold_interrupts():
        import torch  # noqa: F401
