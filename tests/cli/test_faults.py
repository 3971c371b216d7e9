"""A full disk, an interrupt, damaged files: what was finished is kept, the way out is said, and the way out works."""

from __future__ import annotations

import errno
import os
import re
import shutil
import signal
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from safetensors import SafetensorError

from kdtoolkit import files
from kdtoolkit.errors import InputError, WorkError
from kdtoolkit.training import checkpoint

DISTILL = ("distill", "--recipe", "small.yaml", "--out")
FULL = OSError(errno.ENOSPC, "No space left on device")


def digest(folder):
    names = ("student/model.safetensors", "gold_only/model.safetensors", "student/config.json")
    return [sha256((folder / name).read_bytes()).hexdigest() for name in names]


@pytest.fixture
def finished(run, small):
    done = run(*DISTILL, "straight")
    assert done.exit_code == 0, done.output
    return small / "straight"


def resumes_to_the_same(run, folder, straight):
    done = run("distill", "--resume", str(folder))
    assert done.exit_code == 0, done.output
    assert digest(folder) == digest(straight)
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("writes", [6, 20, 40, 60, 85])
def test_a_full_disk_is_said_and_the_run_resumes_to_the_same_bytes(run, finished, monkeypatch, writes):
    real, count = files.sync, 0

    def sync(path):
        nonlocal count
        count += 1
        if count >= writes:
            raise FULL
        real(path)

    monkeypatch.setenv("KDTOOLKIT_STORE", "store")
    with monkeypatch.context() as patched:
        patched.setattr(files, "sync", sync)
        done = run(*DISTILL, "out")
    assert done.exit_code == 1, done.output
    assert "no space left on the disk; free some space (`kdtool clean` shows what takes it)" in done.output
    assert "kdtool distill --resume out" in done.output and "a bug" not in done.output
    resumes_to_the_same(run, Path("out"), finished)


def test_a_disk_that_is_full_at_the_first_write_leaves_nothing(run, small, monkeypatch):
    def sync(path):
        raise FULL

    monkeypatch.setattr(files, "sync", sync)
    done = run(*DISTILL, "out")
    assert done.exit_code == 1 and "out: no space left on the disk" in done.output
    assert not [path for path in small.iterdir() if "out" in path.name]


@pytest.mark.parametrize("size", [3_000, 12_000])
def test_files_that_the_system_refuses_to_let_grow_do_not_kill_the_process(run, finished, size):
    # A limit on the size of files meets every write, memory maps included; a small file system would need a mount.
    prelude = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))"
    done = subprocess.run(
        [sys.executable, "-c", f"{prelude}\nfrom kdtoolkit.cli.main import main\nmain()", *DISTILL, "out"],
        env={**os.environ, "KDTOOLKIT_STORE": "store"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1, done.stderr
    assert "no space left on the disk" in done.stderr and "Traceback" not in done.stderr
    resumes_to_the_same(run, Path("out"), finished)


def test_a_full_disk_in_the_words_of_safetensors_is_a_full_disk(tmp_path):
    with pytest.raises(WorkError, match="no space left"), files.atomic_folder(tmp_path / "step-1"):
        raise SafetensorError('Error while serializing: I/O error: "No space left on device (os error 28)"')
    with pytest.raises(SafetensorError, match="shape"), files.atomic_folder(tmp_path / "step-1"):
        raise SafetensorError("Error while serializing: wrong shape")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_takes_no_files_is_an_input_error_and_other_failures_are_not(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file" / "x.json", Path("/proc/none/x.json")):
        with pytest.raises(InputError, match="choose a folder that can be"):
            files.write_json(path, {})
    with pytest.raises(WorkError, match="cannot be written: Input/output error"), files.atomic_file(tmp_path / "x"):
        raise OSError(errno.EIO, "Input/output error")


INTERRUPT = (
    # A shell that starts the tests in the background has SIGINT ignored, and a child inherits that.
    "import os, signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    "import kdtoolkit.training.loop as loop\n"
    "real, calls = loop.set_learning_rate, []\n"
    "def interrupted(*a):\n    calls.append(1)\n"
    "    if len(calls) == 7: os.kill(os.getpid(), signal.SIGINT)\n    return real(*a)\n"
    "loop.set_learning_rate = interrupted\n"
)


def test_ctrl_c_in_training_says_how_to_resume_and_loses_nothing(run, finished):
    done = subprocess.run(
        [sys.executable, "-c", f"{INTERRUPT}\nfrom kdtoolkit.cli.main import main\nmain()", *DISTILL, "my run"],
        env={**os.environ, "KDTOOLKIT_STORE": "store"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1 and done.returncode != -signal.SIGINT, done.stderr
    assert done.stderr.rstrip().endswith("Stopped. To go on from here: kdtool distill --resume 'my run'")
    assert "Traceback" not in done.stderr
    assert checkpoint.steps_saved(Path("my run/checkpoints")) == [4]
    resumes_to_the_same(run, Path("my run"), finished)


DAMAGED = [
    "student/config.json",
    "student/model.safetensors",
    "student/kdtoolkit_tokenizer.json",
    "student/sentencepiece.model",
    "gold_only/model.safetensors",
    "results.json",
    "checkpoints/step-10/model.safetensors",
    "checkpoints/step-10/optimizer.safetensors",
    "checkpoints/step-10/state.json",
    "data/mood/train.arrow",
    "data/mood/task.json",
    "data/mood/train-teacher.npy",
    "data/tokens-mood/ids.npy",
    "data/tokens-mood/tokens.json",
    "data/tokenizer/sentencepiece.model",
]


def way_out(output):
    """The file or folder that a message says is to be deleted."""
    folder = re.search(r"delete the folder (\S+/\S+)", output)
    place = re.search(r"kdtool: (\S+): .*delete (?:it|the folder) and", output)
    found = folder or place
    assert found, output
    return Path(found.group(1))


@pytest.mark.parametrize("cut", [0.0, 0.5])
def test_a_damaged_file_is_named_and_what_is_said_to_do_repairs_it(run, finished, cut):
    straight = digest(finished)
    for name in DAMAGED:
        shutil.copytree(finished, "out")
        path = Path("out") / name
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * cut)])
        if name.startswith(("data", "checkpoints")):
            Path("out/results.json").unlink()
        if name.startswith("checkpoints"):
            shutil.rmtree("out/student")
        command = ("evaluate", "out") if name.startswith(("student", "gold_only")) else ("distill", "--resume", "out")
        done = run(*command)
        assert done.exit_code == 1 and "a bug" not in done.output, (name, done.output)
        delete = way_out(done.output)
        assert path == delete or delete in path.parents, done.output
        shutil.rmtree(delete) if delete.is_dir() else delete.unlink()
        done = run("distill", "--resume", "out")
        assert done.exit_code == 0, (name, done.output)
        assert digest(Path("out")) == straight, name
        shutil.rmtree("out")


def test_a_damaged_state_or_recipe_of_a_run_is_named(run, finished):
    state = finished / "run.json"
    state.write_bytes(state.read_bytes()[:20])
    done = run("distill", "--resume", "straight")
    assert done.exit_code == 1 and "--recipe straight/recipe.yaml --out ANOTHER_FOLDER" in done.output
    recipe = finished / "recipe.yaml"
    recipe.write_text(recipe.read_text()[:-40] + "\n  : [")
    done = run("distill", "--resume", "straight")
    assert done.exit_code == 2 and "straight/recipe.yaml: 1 problem" in done.output and "line" in done.output


def test_a_damaged_student_is_named_by_predict(run, finished):
    weights = finished / "student/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    done = run("predict", "straight", input="good film\n")
    assert done.exit_code == 1
    assert "student/model.safetensors: is damaged" in done.output and "start again with --resume" in done.output
