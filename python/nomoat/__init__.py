"""Run and teach open language models on the computer you have: libnomoat from Python.

    import nomoat
    m = nomoat.Model("model.gguf")              # or a name that `nomoat list` shows
    print(m.chat("Why is the sea salt?"))
    for piece in m.stream("Tell me a story."):
        print(piece, end="", flush=True)

The shared library is that of NOMOAT_LIBRARY, else one beside this package, else the system's. docs/programs.md tells more.
"""
from ._library import BadFile, Error, Failed, Interrupted, NoMemory, NotFound, Refused, Usage, check as _check, lib as _lib
from ._model import Model
from ._store import find_adapter, find_model
from ._stream import Answer, Call, Piece, Stream
from ._tune import Step, Taught, tune

__all__ = ["Answer", "BadFile", "Call", "Error", "Failed", "Interrupted", "Model", "NoMemory", "NotFound", "Piece", "Refused", "Step", "Stream", "Taught", "Usage",
           "find_adapter", "find_model", "set_threads", "threads", "tune", "version"]


def version():
    """The library's version."""
    return _lib.nm_version().decode()


def threads():
    """How many threads compute."""
    return _lib.nm_threads()


def set_threads(count):
    """Sets that; 0 = as many as there are cores. Not while anything computes. Answers are the same for every number."""
    _check(_lib.nm_set_threads(count))


__version__ = version()
