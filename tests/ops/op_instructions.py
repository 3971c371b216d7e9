"""The instruction sets that the compiled CPU op has on this machine."""

from contextlib import contextmanager

from kdtoolkit.ops import native

NAMES = ("avx512", "avx2", "portable")


def available():
    """Names of those that this build and this processor have; all of them where there is no library to ask."""
    library = native.library()
    if library is None:
        return list(NAMES)
    best = library.instructions()
    found = [name for name in NAMES if library.limit(name.encode()) == 0]
    library.limit(best)
    return found


@contextmanager
def using(name):
    """That instruction set, for a while."""
    best = native.library().instructions().decode()
    native.use_instructions(name)
    try:
        yield
    finally:
        native.use_instructions(best)
