"""Where tables are printed."""

import rich.console


class Console(rich.console.Console):
    """Standard output, which fails as `print` does when its reader leaves; rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Within the handling of the BrokenPipeError."""
        raise
