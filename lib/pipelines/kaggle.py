"""Kaggle's own client: called as a command, because its output is documented and its Python classes are not."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

from lib.errors import FlukeError
from lib.files import require_free


def call_client(arguments: list[str], show: bool = False) -> str:
    """Run `kaggle` with the arguments and return what it printed; with `show`, that appears on stderr as it comes.

    Raises FlukeError, with the command, where the client isn't installed or fails: without credentials, without network, or
    because Kaggle refuses.
    """
    command = ["kaggle", *arguments]
    # Beside Python too: a virtual environment needn't be activated.
    program = shutil.which("kaggle") or shutil.which("kaggle", path=Path(sys.executable).parent)
    if program is None:
        raise FlukeError(
            f"Kaggle's client isn't installed (pip install -e \".[kaggle]\"); it would be called with: {shlex.join(command)}"
        )
    printed, said = b"", b""
    with subprocess.Popen(
        [program, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT if show else subprocess.PIPE
    ) as process:
        if show:
            assert process.stdout is not None
            while chunk := os.read(process.stdout.fileno(), 4096):  # a progress bar has no lines
                sys.stderr.write(chunk.decode(errors="replace"))
                printed += chunk
        else:
            printed, said = process.communicate()
    if process.returncode:
        lines = [line.strip() for line in re.split("[\r\n]", (printed + said).decode(errors="replace")) if line.strip()]
        last = lines[-1] if lines else f"exit code {process.returncode}"
        raise FlukeError(f"Kaggle's client says: {last[:300]}; the command was: {shlex.join(command)}")
    return printed.decode(errors="replace")


def download_contest(name: str, folder: Path) -> None:
    """Download a contest's files into `folder` and unpack them, archives within archives too.

    An archive is deleted once it is unpacked; a folder that has files and no archive is taken as downloaded before. Raises
    FlukeError as `call_client` does, for a disk that is too small, and for a damaged archive, which stays.
    """
    if folder.is_dir() and any(folder.iterdir()) and not _archives(folder):
        print(f"{folder}: has files already; nothing is downloaded (another folder, or an empty one, gets them anew)")
        return
    folder.mkdir(parents=True, exist_ok=True)
    if not _archives(folder):
        call_client(["competitions", "download", name, "-p", str(folder)], show=True)
    while archives := _archives(folder):
        for archive in archives:
            _unpack(archive)


def _archives(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix == ".zip" or re.search(r"\.(tar(\.\w+)?|tgz)$", path.name))


def _unpack(archive: Path) -> None:
    """Unpack an archive into the folder that it lies in, and delete it."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                require_free(archive.parent, sum(each.file_size for each in file.infolist()) / 1e6)
        else:
            require_free(archive.parent, archive.stat().st_size / 1e6)
        shutil.unpack_archive(archive, archive.parent)
    except (shutil.ReadError, zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise FlukeError(f"{archive}: can't be unpacked ({error}); delete it to download it again.") from None
    archive.unlink()
