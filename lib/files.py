"""Files and folders: atomic writes, JSON, paths that stay inside their folder, free disk space, the lock of a folder.

Nothing here imports torch, so that scripts can refuse bad input before torch is loaded.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lib.errors import FlukeError


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; the file written there replaces `path` in one step, or not at all.

    The data reaches the disk before the name does (fsync, rename, fsync of the folder). Raises FlukeError when the file can't be
    written, for instance because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        fsync(temporary)
        os.replace(temporary, path)
        fsync(path.parent)
    except Exception as error:
        if disk_full(error):
            raise FlukeError(f"{path}: the disk is full; free some space (what was saved before is intact).") from None
        if isinstance(error, OSError):
            raise FlukeError(f"{path}: can't be written ({error.strerror or error}).") from None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def disk_full(error: Exception) -> bool:
    """Return whether an exception means that the disk, or the user's quota, is full.

    safetensors and torch raise errors of their own for that, recognized by their messages.
    """
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT)
    return any(words in str(error) for words in ("os error 28", "os error 122", "inline_container.cc", "iostream error"))


def fsync(path: Path) -> None:
    """Flush the data of a file or a folder to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 text file atomically."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=True) + "\n")


def read_json(path: Path) -> Any:
    """Read JSON. Raises FlukeError when the file is missing or isn't JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FlukeError(f"{path}: no such file.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise FlukeError(f"{path}: not readable as JSON ({error}).") from None


def safe_join(folder: Path, name: str) -> Path:
    """Return `folder / name`, which need not exist.

    Raises FlukeError for a name that leads out of `folder`: absolute names, `..`, and links to files elsewhere.
    """
    if not name or "\0" in name or name.startswith(("/", "\\")) or ".." in Path(name.replace("\\", "/")).parts:
        raise FlukeError(f"image name {name!r}: leads out of its folder ({folder}); use a relative name without '..'.")
    path = folder / name
    # Links are resolved only where there is one: realpath of 100,000 plain files costs seconds.
    if any(os.path.islink(folder / part) for part in (Path(name), *Path(name).parents) if str(part) != "."):
        if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
            raise FlukeError(
                f"image name {name!r}: is a link that leads out of its folder ({folder}); copy the file into the folder."
            )
    return path


def require_free(folder: Path, megabytes: float) -> None:
    """Raise FlukeError if the disk of `folder`, which need not exist, has less than `megabytes` (10^6 bytes) free."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free / 1e6
    if free < megabytes:
        raise FlukeError(
            f"{folder}: too little disk space ({free:,.0f} MB free, about {megabytes:,.0f} MB needed); free some, or name a "
            "folder on another disk."
        )


@contextlib.contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a run folder for this process; the kernel releases the lock when the process ends, however it ends.

    Temporary files left by a killed process are removed. Raises FlukeError when another process holds the lock, or when the folder
    can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise FlukeError(f"{folder}: can't be written ({error.strerror}); name another folder with --out.") from None
    with handle:
        try:
            # lockf, not flock: DataLoader workers would inherit a flock, and they outlive a killed run by seconds.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            handle.truncate(0)
            handle.write(f"pid {os.getpid()} on {os.uname().nodename}")
            handle.flush()
        except (BlockingIOError, PermissionError):
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise FlukeError(f"{folder}: another process writes this run ({owner}); wait for it or end it.") from None
        except OSError as error:
            raise FlukeError(f"{folder}: can't be locked ({error.strerror}); name another folder with --out.") from None
        for temporary in (*folder.glob(".*.tmp"), *folder.glob("best/.*.tmp"), *folder.glob("last/.*.tmp")):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
        yield
