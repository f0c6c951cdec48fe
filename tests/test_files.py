"""Atomic writes, paths inside a folder, locks of run folders, exit codes of scripts, and resumable checkpoints on disk."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from lib import files
from lib.errors import FlukeError, Interrupted
from lib.files import atomic_write, lock_folder, read_json, require_free, safe_join, write_json, write_text
from lib.process import run_script
from lib.training import checkpoint

# --- atomic writes ----------------------------------------------------------------------------------------------------------------


def test_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ValueError, match="mine"), atomic_write(path) as temporary:
        temporary.write_text("half")
        raise ValueError("mine")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_text_is_written_unchanged(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b.txt", "x\r\ny\né")
    assert (tmp_path / "a" / "b.txt").read_bytes() == b"x\r\ny\n\xc3\xa9"


def make_disk_full(path: Path) -> None:
    """Make the next write of `path` fail as on a full disk: its temporary name is a link to /dev/full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    os.symlink("/dev/full", path.with_name(f".{path.name}.{os.getpid()}.tmp"))


@pytest.mark.parametrize("how", ["text", "safetensors", "torch", "large torch"])
def test_full_disk_is_reported_in_one_sentence_by_any_writer(how: str, tmp_path: Path) -> None:
    path = tmp_path / "best.bin"
    write_text(path, "old")
    make_disk_full(path)
    value = {"w": torch.zeros(300_000)}
    with (
        pytest.raises(FlukeError, match=r"best.bin: the disk is full; free some space \(what was saved before is intact\)\.$"),
        atomic_write(path) as temporary,
    ):
        if how == "text":
            temporary.write_text("x" * 10**6)
        elif how == "safetensors":  # which first writes under a name of its own
            raise safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        else:
            torch.save(value if how == "torch" else {str(i): torch.zeros(1000) for i in range(300)}, temporary)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["best.bin"]


def test_other_write_errors_are_reported_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlukeError, match=r"file/a.json: can't be written \((Not a directory|File exists)\)"):
        write_json(tmp_path / "file" / "a.json", 1)
    with pytest.raises(FlukeError, match=r"can't be written \(File name too long\)"):
        write_json(tmp_path / ("x" * 300), 1)


# --- JSON -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("raw", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"\0"])
def test_invalid_json_is_reported_in_one_sentence(raw: bytes, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(raw)
    with pytest.raises(FlukeError, match="a.json: not readable as JSON"):
        read_json(tmp_path / "a.json")
    with pytest.raises(FlukeError, match="no such file"):
        read_json(tmp_path / "b.json")


# --- paths ------------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make images/ with a file and links to places inside and outside of it, and secret.txt outside."""
    root = tmp_path_factory.mktemp("tree")
    (root / "images" / "sub").mkdir(parents=True)
    (root / "secret.txt").write_text("secret")
    (root / "images" / "a.png").write_text("a")
    links = {
        "good": "a.png",
        "sub/up": "../a.png",
        "bad": "../secret.txt",
        "out": "..",
        "loop": "loop",
        "abs": str(root / "secret.txt"),
    }
    for name, target in links.items():
        os.symlink(target, root / "images" / name)
    return root


@pytest.mark.parametrize(
    "name", ["a.png", "good", "sub/up", "sub/none.png", "none", "x" * 300, "..a.png", "a..png", "sub/./a", "é", "a\nb"]
)
def test_names_inside_the_folder_are_accepted(name: str, tree: Path) -> None:
    assert safe_join(tree / "images", name) == tree / "images" / name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../secret.txt",
        "sub/../../secret.txt",
        "/etc/passwd",
        "\\etc",
        "sub\\..\\..\\x",
        "a\0b",
        "bad",
        "out/secret.txt",
        "abs",
    ],
)
def test_names_outside_the_folder_are_refused(name: str, tree: Path) -> None:
    with pytest.raises(FlukeError, match=r"leads out of its folder \("):
        safe_join(tree / "images", name)


def test_locks_without_fcntl_and_without_file_system_locks(tmp_path: Path) -> None:
    """As on Windows, and on a network disk without a lock daemon."""
    code = f"""
import sys
sys.modules["fcntl"] = None
from pathlib import Path
import filelock
import lib.files
from lib.files import lock_folder, wait_for_lock
lib.files.FileLock = filelock.SoftFileLock  # the one of Windows isn't here
folder = Path({str(tmp_path)!r})
with lock_folder(folder):
    try:
        with lock_folder(folder):
            print("twice")
    except Exception as error:
        print(error)
class Broken(filelock.SoftFileLock):
    def acquire(self): raise OSError(37, "No locks available")
lib.files.FileLock = Broken
with wait_for_lock(folder / "cache.lock"):
    print("built")
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    assert found.returncode == 0, found.stderr
    assert "another process writes this run (pid" in found.stdout
    assert found.stdout.endswith("built\n")


@given(
    st.lists(
        st.sampled_from(["..", ".", "sub", "good", "bad", "out", "loop", "abs", "secret.txt", "", "a.png", "x\\..\\y"]), max_size=5
    )
)
def test_no_accepted_name_leads_out_of_the_folder(tree: Path, parts: list[str]) -> None:
    try:
        path = safe_join(tree / "images", "/".join(parts))
    except FlukeError:
        return
    assert os.path.realpath(path).startswith(os.path.realpath(tree / "images"))


def test_lack_of_disk_space_is_reported(tmp_path: Path) -> None:
    require_free(tmp_path / "not" / "there", 0.001)
    with pytest.raises(FlukeError, match=r"too little disk space \(.* MB free, about 1,000,000,000,000 MB needed\)"):
        require_free(tmp_path / "not" / "there", 1e12)


def test_data_reaches_the_disk_before_the_name_and_then_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done, fsync, replace = [], os.fsync, os.replace

    def noting_fsync(descriptor: int) -> None:
        done.append(("fsync", Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
        fsync(descriptor)

    def noting_replace(old: Path, new: Path) -> None:
        done.append(("replace", Path(new)))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    write_text(tmp_path / "a.txt", "content")
    (first, temporary), second, third = done
    assert (first, temporary.parent, temporary.name != "a.txt") == ("fsync", tmp_path, True)
    assert [second, third] == [("replace", tmp_path / "a.txt"), ("fsync", tmp_path)]


# --- locks ------------------------------------------------------------------------------------------------------------------------

HOLD = """
import sys, time, multiprocessing as mp
from pathlib import Path
from lib.files import lock_folder
with lock_folder(Path(sys.argv[1])):
    if len(sys.argv) > 2:
        mp.get_context("fork").Process(target=time.sleep, args=(60,)).start()  # like a DataLoader worker
    print("held", flush=True)
    time.sleep(60)
"""


def test_second_writer_is_refused_while_the_first_lives(tmp_path: Path) -> None:
    run = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, run, "worker"], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(FlukeError, match=rf"run: another process writes this run \(pid {holder.pid} on "), lock_folder(run):
            pass
        for name in (".a.json.1.tmp", "best/.model.safetensors.1.tmp", "last/.e0001-b000000.tmp/x"):
            write_text(run / name, "half")
        holder.kill()
        holder.wait()
        with lock_folder(run):  # at once, although the worker is still alive
            assert not list(run.rglob("*.tmp"))
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
        holder.communicate()


def test_run_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FlukeError, match="can't be written .*name another folder with --out"), lock_folder(tmp_path / "file"):
        pass


# --- exit codes -------------------------------------------------------------------------------------------------------------------


def exit_of(error: BaseException | None, capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    def main(argv: list[str] | None) -> None:
        if error is not None:
            raise error

    with pytest.raises(SystemExit) as stop:
        run_script(main)
    return stop.value.code, capsys.readouterr().err


def test_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(None, capsys) == (0, "")
    assert exit_of(FlukeError("a.csv: wrong."), capsys) == (2, "error: a.csv: wrong.\n")
    assert exit_of(Interrupted("stopped"), capsys) == (75, "stopped\n")
    assert exit_of(KeyboardInterrupt(), capsys) == (130, "interrupted\n")


def test_rank_0_prints_before_the_other_ranks(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    sleeps: list[float] = []
    monkeypatch.setattr(time, "sleep", sleeps.append)
    monkeypatch.setenv("RANK", "1")
    assert exit_of(FlukeError("on rank 1 only."), capsys) == (2, "error: on rank 1 only.\n")
    assert exit_of(Interrupted("all ranks stop"), capsys) == (75, "")
    assert sleeps == [15]


def test_error_of_a_dataloader_worker_is_one_sentence() -> None:
    class Bad(torch.utils.data.Dataset[int]):
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> int:
            raise FlukeError("a.png: cut short.")

    with pytest.raises(FlukeError) as caught:
        next(iter(torch.utils.data.DataLoader(Bad(), num_workers=1)))
    assert str(caught.value) == "a.png: cut short."


# --- checkpoints ------------------------------------------------------------------------------------------------------------------


def state(epoch: int, batch: int) -> dict[str, object]:
    return {"epoch": epoch, "batch": batch, "step": 1, "running": [0.0], "history": [], "best_epoch": None, "waited": 0, "world": 1}


def save(last: Path, epoch: int, batch: int) -> Path:
    return checkpoint.save_checkpoint(last, state(epoch, batch), {"model": torch.nn.Linear(2, 2)}, {"optimizer": {}})


def test_newest_checkpoints_are_kept_by_number_not_by_name(tmp_path: Path) -> None:
    for epoch, batch in [(1, 0), (1, 999_999), (1, 1_000_000), (2, 0), (9999, 5), (10_000, 0)]:
        save(tmp_path, epoch, batch)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["e10000-b000000", "e9999-b000005"]
    assert checkpoint.find_checkpoint(tmp_path) == (tmp_path / "e10000-b000000", [])


def test_existing_checkpoint_is_not_deleted_before_it_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "KEEP", 1)
    target = save(tmp_path, 1, 3)
    monkeypatch.setattr(checkpoint.shutil, "rmtree", lambda *_, **__: pytest.fail("deleted the only checkpoint"))
    assert save(tmp_path, 1, 3) == target


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", ["cut", "flipped", "gone", "foreign"])
def test_damaged_or_foreign_checkpoints_are_skipped(name: str, how: str, tmp_path: Path) -> None:
    good, newest = save(tmp_path, 1, 0), save(tmp_path, 2, 0)
    raw = (newest / name).read_bytes()
    flipped = bytes([raw[0] ^ 1]) + raw[1:]
    if how == "gone":
        (newest / name).unlink()
    else:
        (newest / name).write_bytes({"cut": raw[:-3], "flipped": flipped, "foreign": b"[]"}[how])
    found, skipped = checkpoint.find_checkpoint(tmp_path)
    assert found == good
    assert len(skipped) == 1
    assert skipped[0].startswith(f"{newest}: ")
    assert skipped[0].endswith("; taking the state before it.")


def test_damaged_checkpoint_does_not_displace_a_good_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A damaged newest checkpoint is skipped by --resume; checkpoints saved later are kept although their names are older."""
    monkeypatch.setattr(checkpoint, "KEEP", 1)
    newest = save(tmp_path, 5, 0)
    (newest / "manifest.json").unlink()
    for batch in (50, 100):
        target = save(tmp_path, 4, batch)
        assert checkpoint.find_checkpoint(tmp_path)[0] == target
    assert sorted(path.name for path in tmp_path.iterdir()) == [target.name, newest.name]


def test_checkpoint_of_another_program_is_skipped(tmp_path: Path) -> None:
    folder = save(tmp_path, 1, 0)
    write_json(folder / "state.json", {"epoch": 1})
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["state.json"] = [(folder / "state.json").stat().st_size, checkpoint._hash(folder / "state.json")]
    write_json(folder / "manifest.json", manifest)
    assert checkpoint.find_checkpoint(tmp_path) == (None, [f"{folder}: not a state of this program; taking the state before it."])


def test_pickle_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "owned"),)

    folder = checkpoint.save_checkpoint(
        tmp_path / "last", state(1, 0), {"model": torch.nn.Linear(2, 2)}, {"optimizer": {"x": Evil()}}
    )
    with pytest.raises(FlukeError, match="state of another network or recipe"):
        checkpoint.load_checkpoint(folder, {"model": torch.nn.Linear(2, 2)})
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("writer", ["safetensors", "torch", "json"])
def test_full_disk_keeps_the_earlier_checkpoints(writer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = save(tmp_path, 1, 0)

    def full(*_: object, **__: object) -> None:
        raise {  # the errors that each of them raises
            "safetensors": safetensors.SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
            "torch": RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
            "json": OSError(errno.ENOSPC, "No space left on device"),
        }[writer]

    where, name = {"safetensors": (safetensors.torch, "save_file"), "torch": (torch, "save"), "json": (files.os, "replace")}[writer]
    with monkeypatch.context() as patch, pytest.raises(FlukeError, match="disk is full"):
        patch.setattr(where, name, full)
        save(tmp_path, 2, 0)
    assert [p.name for p in tmp_path.iterdir()] == [before.name]
    assert checkpoint.find_checkpoint(tmp_path) == (before, [])
