"""Keep other programs' chatter out of ours, without losing it when something fails."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_HIDING = threading.RLock()


def hush_libraries() -> None:
    """Only errors from the libraries we stand on; called once by the command line unless -v asks for more."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)  # some libraries set their loggers' levels anew when they are imported
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")


@contextmanager
def native_stderr_hidden() -> Iterator[None]:
    """Hold back what native code writes to the error stream; an exception releases it, success drops it.

    One thread does so at a time: two would put each other's stream back.
    """
    sys.stderr.flush()
    with _HIDING, tempfile.TemporaryFile() as held:
        saved = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            held.seek(0)
            os.write(2, held.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


@contextmanager
def root_level_kept() -> Iterator[None]:
    """Put the root logger's level back: some libraries change it when they are imported."""
    level = logging.getLogger().level
    try:
        yield
    finally:
        logging.getLogger().setLevel(level)
