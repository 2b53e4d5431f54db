"""A file system that takes whole files and nothing else, as object stores and some mounts do."""

from __future__ import annotations

import io
from typing import Any, ClassVar

from fsspec.spec import AbstractFileSystem


class NoFrillsFileSystem(AbstractFileSystem):
    """Files in memory: no append, no seek, no change in place, no rename, copy or link, no empty folders."""

    protocol = "nofrills"
    cachable = False
    files: ClassVar[dict[str, bytes]] = {}

    def _open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        if mode == "rb":
            if path not in self.files:
                raise FileNotFoundError(path)
            return _Sequential(self.files[path])
        if mode != "wb":
            raise OSError(95, f"not supported: mode {mode}", path)
        return _Upload(self.files, path)

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        start = path.rstrip("/") + "/"
        found: dict[str, dict[str, Any]] = {}
        for name, data in self.files.items():
            if name == path:
                found[name] = {"name": name, "size": len(data), "type": "file"}
            elif name.startswith(start):
                child = start + name.removeprefix(start).split("/")[0]
                is_file = child == name
                size = len(data) if is_file else 0
                found[child] = {"name": child, "size": size, "type": "file" if is_file else "directory"}
        if not found:
            raise FileNotFoundError(path)
        return list(found.values()) if detail else list(found)

    def rm_file(self, path: str) -> None:
        # What is left of a folder whose files are gone is nothing.
        self.files.pop(path, None)

    def _refuse(self, *_: Any, **__: Any) -> None:
        raise OSError(95, "not supported: rename, copy or link")

    mv = move = rename = mv_file = copy = cp = cp_file = symlink = link = _refuse


class _Sequential(io.BytesIO):
    def seek(self, *_: Any) -> int:
        raise OSError(95, "not supported: seek")


class _Upload(io.BytesIO):
    def __init__(self, files: dict[str, bytes], path: str) -> None:
        super().__init__()
        self._files, self._path = files, path

    def seek(self, *_: Any) -> int:
        raise OSError(95, "not supported: seek")

    def close(self) -> None:
        if not self.closed:
            self._files[self._path] = self.getvalue()
        super().close()
