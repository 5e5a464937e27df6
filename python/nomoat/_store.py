"""Names in the program's store: what `nomoat list` shows, found as the program finds it. Models of the Hugging Face cache are given by their paths."""
import os

from ._library import NotFound


def _folder(kind):
    data = os.environ.get("XDG_DATA_HOME", "")
    return os.path.join(data if data.startswith("/") else os.path.expanduser("~/.local/share"), "nomoat", kind)


def _entry(folder, name):
    """The entry of the store that a name means: that very name, or the only one that differs in letter case alone."""
    if not name or name.startswith(".") or "/" in name or not os.path.isdir(folder):
        return None
    if os.path.exists(os.path.join(folder, name)):
        return os.path.join(folder, name)
    alike = [entry for entry in os.listdir(folder) if entry.lower() == name.lower()]
    return os.path.join(folder, alike[0]) if len(alike) == 1 else None


def _gguf_in(folder):
    names = sorted(name for name in os.listdir(folder) if name.lower().endswith(".gguf") and not name.startswith("."))
    return os.path.join(folder, names[0]) if names else None


def _split(name):
    return name[:-len(":latest")] if name.endswith(":latest") else name


def find_model(name):
    """The path of a model's file: a path as it is, or a name in the store."""
    path = os.fspath(name)
    if os.path.exists(path):
        return path
    entry = _entry(_folder("models"), _split(path)) if isinstance(path, str) else None
    found = _gguf_in(entry) if entry and os.path.isdir(entry) else None
    if not found:
        raise NotFound("%s: no such file, and no model of that name in the store: `nomoat list` shows those that there are" % path)
    return found


def find_adapter(name):
    """The path of an adapter: a path as it is, or a name in the store: a PEFT folder, a folder with one GGUF file, or NAME.gguf."""
    path = os.fspath(name)
    if os.path.exists(path):
        return path
    folder = _folder("adapters")
    entry = (_entry(folder, _split(path)) or _entry(folder, _split(path) + ".gguf")) if isinstance(path, str) else None
    if entry and os.path.isdir(entry) and not os.path.exists(os.path.join(entry, "adapter_config.json")):
        entry = _gguf_in(entry)
    if not entry:
        raise NotFound("%s: no such file or folder, and no adapter of that name in the store: `nomoat adapter list` shows those that there are" % path)
    return entry
