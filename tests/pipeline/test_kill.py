"""kill -9 at any moment, then --resume: the same bytes as a run that never stopped."""

from __future__ import annotations

import signal
from hashlib import sha256

import pytest

from kdtoolkit.pipeline import resume_run, run_stages, start_run
from kdtoolkit.recipe.load import load_recipe

# Each prelude makes the process kill itself at a chosen place; nothing can be cleaned up after SIGKILL.
KILL = "import os, signal\ndef kill(): os.kill(os.getpid(), signal.SIGKILL)\n"

AT = {
    "while the data are prepared": KILL
    + "import kdtoolkit.data.prepare as p\n"
    + "real = p.RowWriter; calls = []\n"
    + "def writer(*a, **k):\n    calls.append(1)\n    return kill() if len(calls) == 4 else real(*a, **k)\n"
    + "p.RowWriter = writer\n",
    "while the teacher labels": KILL
    + "import kdtoolkit.labels.store as s\n"
    + "def write_part(path, ids, values):\n    path.write_bytes(b'half a part'); kill()\n"
    + "s.write_part = write_part\n",
    "while the rows are tokenized": KILL
    + "import kdtoolkit.pipeline.student_data as t\n"
    + "real = t.tokenize_rows; calls = []\n"
    + "def tokenize_rows(*a, **k):\n    calls.append(1)\n    return kill() if len(calls) == 2 else real(*a, **k)\n"
    + "t.tokenize_rows = tokenize_rows\n",
    "between two steps": KILL
    + "import kdtoolkit.training.loop as l\n"
    + "real = l.set_learning_rate; calls = []\n"
    + "def set_learning_rate(*a):\n    calls.append(1)\n    return kill() if len(calls) == 13 else real(*a)\n"
    + "l.set_learning_rate = set_learning_rate\n",
    "in the middle of writing a checkpoint": KILL
    + "import kdtoolkit.training.checkpoint as c\n"
    + "real = c.save_file; calls = []\n"
    + "def save_file(tensors, path):\n    calls.append(1)\n    real(tensors, path)\n"
    + "    if len(calls) == 6:\n        data = path.read_bytes(); path.write_bytes(data[:len(data) // 2]); kill()\n"
    + "c.save_file = save_file\n",
    "while the student is saved": KILL
    + "import kdtoolkit.student_folder as f\n"
    + "f.write_json = lambda *a: kill()\n",
    "in the baseline": KILL
    + "import kdtoolkit.training.loop as l\n"
    + "real = l.set_learning_rate; calls = []\n"
    + "def set_learning_rate(*a):\n    calls.append(1)\n    return kill() if len(calls) == 62 else real(*a)\n"
    + "l.set_learning_rate = set_learning_rate\n",
    "before the results are written": KILL
    + "import kdtoolkit.pipeline.stages as s\n"
    + "s.write_results = lambda *a: kill()\n",
}


def digest(folder):
    names = ("student/model.safetensors", "gold_only/model.safetensors", "student/config.json")
    return {name: sha256((folder / name).read_bytes()).hexdigest() for name in names}


@pytest.fixture(scope="module")
def unstopped():
    """Filled by the first test: every other one compares with the same bytes."""
    return {}


@pytest.mark.parametrize("place", AT)
def test_a_killed_run_resumes_to_the_same_bytes(tiny, kdtool, unstopped, place):
    if not unstopped:
        kdtool("distill", "--recipe", "tiny.yaml", "--out", "straight", cwd=tiny)
        unstopped.update(digest(tiny / "straight"))
    environment = "import os\nos.environ['KDTOOLKIT_STORE'] = 'other-store'\n"
    killed = kdtool(
        "distill", "--recipe", "tiny.yaml", "--out", "run", cwd=tiny, prelude=environment + AT[place], check=None
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kdtool("distill", "--resume", "run", cwd=tiny, prelude=environment)
    assert digest(tiny / "run") == unstopped


def test_a_killed_joint_teacher_resumes_to_the_same_bytes(tiny, kdtool):
    recipe = (tiny / "tiny.yaml").read_text()
    start, end = recipe.index("teachers:"), recipe.index("student:")
    joint = "teachers: [{name: joint, student: {name: bilstm, width: 8}, epochs: 2, batch_rows: 8}]\n"
    (tiny / "tiny.yaml").write_text(recipe[:start] + joint + recipe[end:])
    kdtool("teach", "--recipe", "tiny.yaml", "--out", "straight", cwd=tiny)
    other = "import os\nos.environ['KDTOOLKIT_STORE'] = 'other-store'\n"
    at = AT["between two steps"].replace("== 13", "== 30")
    killed = kdtool("teach", "--recipe", "tiny.yaml", "--out", "run", cwd=tiny, prelude=other + at, check=None)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    kdtool("teach", "--recipe", "tiny.yaml", "--out", "run", cwd=tiny, prelude=other)
    weights = [(tiny / run / "teacher/joint-0/model.safetensors").read_bytes() for run in ("straight", "run")]
    assert weights[0] == weights[1]


def test_a_killed_hugging_face_teacher_resumes_to_the_same_bytes(tiny, kdtool, bert, monkeypatch):
    recipe = (tiny / "tiny.yaml").read_text()
    start, end = recipe.index("teachers:"), recipe.index("student:")
    tuned = f"  - {{name: {bert(head=False)}, epochs: 2, batch_rows: 16, checkpoint_every_steps: 4}}\n"
    (tiny / "tiny.yaml").write_text(recipe[:start] + "teachers:\n" + tuned + recipe[end:])
    other = "import os\nos.environ['KDTOOLKIT_STORE'] = 'other-store'\n"
    # The second task's teacher is killed; that of the first is finished by then and stays.
    at = AT["between two steps"].replace("== 13", "== 39")
    killed = kdtool("teach", "--recipe", "tiny.yaml", "--out", "run", cwd=tiny, prelude=other + at, check=None)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert list((tiny / "run/teacher/likeness").glob("unfinished-*/checkpoints/step-*"))
    first = (tiny / "run/teacher/mood/model.safetensors").stat().st_mtime_ns
    monkeypatch.chdir(tiny)
    run_stages(start_run(load_recipe("tiny.yaml"), tiny / "straight"), "teach")
    monkeypatch.setenv("KDTOOLKIT_STORE", "other-store")
    run_stages(resume_run(tiny / "run"), "teach")
    assert (tiny / "run/teacher/mood/model.safetensors").stat().st_mtime_ns == first
    for task in ("mood", "likeness"):
        weights = [(tiny / run / "teacher" / task / "model.safetensors").read_bytes() for run in ("straight", "run")]
        assert weights[0] == weights[1]


def test_teach_label_and_distill_on_one_folder_are_one_run(tiny, monkeypatch):
    monkeypatch.chdir(tiny)
    recipe = load_recipe("tiny.yaml")
    run_stages(start_run(recipe, tiny / "straight"))
    monkeypatch.setenv("KDTOOLKIT_STORE", "other-store")
    for until in ("teach", "label", "label", "report"):
        run_stages(start_run(recipe, tiny / "run"), until)
        assert (tiny / "run/results.json").is_file() == (until == "report")
    assert digest(tiny / "run") == digest(tiny / "straight")
