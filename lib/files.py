"""Files and folders: atomic writes, JSON, paths that stay inside their folder, free disk space, the lock of a folder.

Nothing here imports torch, so that scripts can refuse bad input before torch is loaded.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import platform
import shutil
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path, PureWindowsPath
from typing import Any, TextIO

from filelock import FileLock, Timeout

from lib.errors import FlukeError, InUse

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


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
        if (why := explain_no_room(error)) is not None:
            raise FlukeError(f"{path}: {why} (what was saved before is intact).") from None
        if isinstance(error, OSError):
            raise FlukeError(f"{path}: can't be written ({error.strerror or error}).") from None
        raise
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def explain_no_room(error: Exception) -> str | None:
    """Return what to say where an exception means that the disk or the user's quota is full, or files can't be so large; else None.

    safetensors and torch raise errors of their own for that, recognized by their messages.
    """
    number, text = (error.errno, "") if isinstance(error, OSError) else (None, str(error))
    if number == errno.EFBIG or "os error 27" in text:
        return "files can't be so large here (ulimit -f, or the disk's own limit); write to another disk"
    words = ("os error 28", "os error 122", "inline_container.cc", "iostream error")
    if number in (errno.ENOSPC, errno.EDQUOT) or any(each in text for each in words):
        return "the disk is full; free some space"
    return None


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


def safe_join(folder: Path, name: str, trusted: Sequence[Path] = ()) -> Path:
    """Return `folder / name`, which need not exist.

    Raises FlukeError for a name that leads out of `folder`: absolute names, also those of Windows, `..`, and links to files
    elsewhere, unless these lie below one of the folders `trusted`.
    """
    windows = PureWindowsPath(name)
    is_absolute = name.startswith(("/", "\\")) or windows.is_absolute() or (os.name == "nt" and windows.drive != "")
    if not name or "\0" in name or is_absolute or ".." in Path(name.replace("\\", "/")).parts:
        raise FlukeError(f"image name {name!r}: leads out of its folder ({folder}); use a relative name without '..'.")
    path = folder / name
    # Links are resolved only where there is one: realpath of 100,000 plain files costs seconds.
    if any(os.path.islink(folder / part) for part in (Path(name), *Path(name).parents) if str(part) != "."):
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(os.path.realpath(root)) for root in (folder, *trusted)):
            raise FlukeError(
                f"image name {name!r}: is a link that leads out of its folder ({folder}) to {target}; copy the file into the "
                "folder, or name a folder that holds it in data.trusted_roots."
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

    Temporary files left by a killed process are removed. Raises InUse when another process holds the lock, FlukeError when the
    folder can't be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = open(folder / ".lock", "a+")  # noqa: SIM115
    except OSError as error:
        raise FlukeError(f"{folder}: can't be written ({error.strerror}); name another folder with --out.") from None
    with handle, contextlib.ExitStack() as held:
        try:
            held.enter_context(_lock(handle))
            handle.truncate(0)
            handle.write(f"pid {os.getpid()} on {platform.node()}")
            handle.flush()
        except (BlockingIOError, PermissionError, Timeout):
            handle.seek(0)
            owner = handle.read().strip() or "unknown"
            raise InUse(f"{folder}: another process writes this run ({owner}); wait for it or end it.") from None
        except OSError as error:
            raise FlukeError(f"{folder}: can't be locked ({error.strerror}); name another folder with --out.") from None
        for temporary in (*folder.glob(".*.tmp"), *folder.glob("best/.*.tmp"), *folder.glob("last/.*.tmp")):
            shutil.rmtree(temporary) if temporary.is_dir() else temporary.unlink()
        yield


def _lock(handle: TextIO) -> AbstractContextManager[Any]:
    """Lock an open file for this process, while the context lasts or, at most, until `handle` is closed.

    Raises BlockingIOError, PermissionError or filelock's Timeout when another process has the lock.
    """
    if fcntl is None:
        return FileLock(f"{handle.name}.windows").acquire(timeout=0)
    # lockf, not the flock of filelock: DataLoader workers would inherit a flock, and they outlive a killed run by seconds.
    fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return contextlib.nullcontext()


@contextlib.contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Hold the lock file `path`, once no other process does; without it on a file system that has no locks.

    Whatever is written meanwhile has to be written atomically: without locks two processes may do the same work.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError, NotImplementedError):
            held.enter_context(FileLock(path).acquire())
        yield
