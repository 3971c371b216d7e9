"""Which process this is, and how several agree."""

from __future__ import annotations

import itertools
import json
import os
from pathlib import Path

import agreements
import pytest
from launched import launched

from kdtoolkit import launcher, processes
from kdtoolkit.errors import InputError

VARIABLES = ("MASTER_ADDR", "MASTER_PORT", *launcher.TORCH, *(name for names in launcher.MPI for name in names))


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_without_a_launcher_there_is_one_process():
    processes.start()
    processes.start(asked=1)
    assert (processes.rank(), processes.size(), processes.is_first()) == (0, 1, True)
    assert processes.from_first(lambda: 7) == 7 and processes.total(2.5) == 2.5
    assert list(itertools.islice(processes.turns(), 3)) == [0, 1, 2]
    assert processes.shared_out([lambda: "a", lambda: "b"]) == ["a", "b"]
    with processes.alone():
        assert processes.size() == 1 and not processes.works_alone()
    with processes.first_then_all():
        processes.wait()
    processes.see_the_same(Path("nowhere"))
    assert not processes.lost(RuntimeError("gloo"))


def test_a_launcher_of_one_process_is_none(monkeypatch):
    for name, value in {"WORLD_SIZE": "1", "RANK": "0", "MASTER_ADDR": "127.0.0.1"}.items():
        monkeypatch.setenv(name, value)
    processes.start(asked=1)
    assert processes.size() == 1


@pytest.mark.parametrize(
    ("variables", "asked", "expected"),
    [
        (
            {},
            2,
            "--processes: 2 processes were asked for, and the launcher started 1; start them with torchrun",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0"},
            4,
            "4 processes were asked for, and the launcher started 2; give",
        ),
        ({"MASTER_ADDR": "127.0.0.1"}, None, "launcher: it set MASTER_ADDR, .* started this one alone .* use torchrun"),
        ({"WORLD_SIZE": "two", "RANK": "0"}, None, "launcher: WORLD_SIZE is 'two' and RANK is '0'; use torchrun"),
        ({"WORLD_SIZE": "2"}, None, "launcher: WORLD_SIZE is '2' and RANK is None; use torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "2"}, None, "launcher: RANK is 2 of WORLD_SIZE 2; use torchrun"),
        ({"WORLD_SIZE": "0", "RANK": "0"}, None, "launcher: RANK is 0 of WORLD_SIZE 0; use torchrun"),
        (
            {"PMI_SIZE": "2", "PMI_RANK": "0", "MPI_LOCALNRANKS": "2"},
            4,
            "4 processes were asked for, and the launcher started 2; give",
        ),
        ({"PMI_SIZE": "two", "PMI_RANK": "0"}, None, "launcher: WORLD_SIZE is 'two' and RANK is '0'; use torchrun"),
        (
            {"OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"},
            None,
            "launcher: mpirun started 4 processes, as it seems on several machines, .* set MASTER_ADDR",
        ),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "ACCELERATE_USE_FSDP": "true"},
            None,
            "launcher: accelerate is to train by FSDP .* set train.sharding: fsdp",
        ),
    ],
)
def test_another_launch_than_was_meant_is_refused(monkeypatch, variables, asked, expected):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=expected):
        processes.start(asked)


@pytest.mark.parametrize("names", launcher.MPI, ids=lambda names: names.size)
def test_what_mpirun_says_torch_is_told(monkeypatch, names):
    for name, value in zip(names, "4321"):
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_ADDR", "10.0.0.1")
    for name in (*launcher.TORCH, "MASTER_PORT"):  # so that what is written is taken back
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    assert (launcher.checked_size(), processes.size(), processes.rank()) == (4, 4, 3)
    launcher.tell_torch()
    told = [os.environ[name] for name in (*launcher.TORCH, "MASTER_ADDR", "MASTER_PORT")]
    assert told == ["4", "3", "2", "1", "10.0.0.1", launcher.PORT]


def test_what_torchrun_says_goes_before_mpirun(monkeypatch):
    said = {"WORLD_SIZE": "2", "RANK": "1", "PMI_SIZE": "4", "PMI_RANK": "3", "MPI_LOCALNRANKS": "4"}
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    assert (launcher.checked_size(), launcher.rank()) == (2, 1)


def test_a_job_of_one_process_is_alone(monkeypatch):
    for name, value in {"PMI_SIZE": "1", "PMI_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    processes.start(asked=1)
    assert processes.size() == 1


def test_what_accelerate_sets_in_vain_is_said(monkeypatch):
    for name, value in {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DYNAMO_BACKEND": "NO"}.items():
        monkeypatch.setenv(name, value)
    assert launcher.unheeded() == [
        "ACCELERATE_MIXED_PRECISION is 'bf16', which changes nothing: the recipe's train.precision decides"
    ]


@pytest.fixture(scope="module")
def of_three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three")
    done = launched(3, agreements.__file__, str(folder), cwd=folder)
    assert [each.code for each in done] == [0, 1, 2], done  # each left with its own
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(3)]


def test_each_knows_its_place(of_three):
    assert [(f["rank"], f["size"], f["first"]) for f in of_three] == [(0, 3, True), (1, 3, False), (2, 3, False)]


def test_jobs_are_done_once_each_by_one_process_alone_and_told_to_all(of_three):
    assert of_three[0]["jobs"] == of_three[1]["jobs"] == of_three[2]["jobs"]
    jobs = of_three[0]["jobs"]
    assert [job["number"] for job in jobs] == [job["said"] for job in jobs] == list(range(40))
    assert all(job["seen"] == [0, 1, True, True] for job in jobs)
    assert [job["by"] for job in jobs[:3]] == [0, 1, 2] and {job["by"] for job in jobs} == {0, 1, 2}
    assert [f["one job"] for f in of_three] == [[0]] * 3
    assert [f["no jobs"] for f in of_three] == [[]] * 3
    assert all(f["failed alone"] == ["ValueError", "no"] for f in of_three)
    assert [f["after being alone"] for f in of_three] == [[rank, 3, False] for rank in range(3)]


def test_what_the_first_finds_all_have(of_three):
    assert [f["value"] for f in of_three] == [True] * 3 and [f["calls"] for f in of_three] == [1, 0, 0]
    assert [f["total"] for f in of_three] == [4.5] * 3


def test_where_the_first_fails_all_fail_and_stay_in_step(of_three):
    assert [f["failed"][0] for f in of_three] == ["ValueError", "PeerFailed", "PeerFailed"]
    assert [f["failed in turn"][0] for f in of_three] == ["ValueError", "PeerFailed", "PeerFailed"]
    assert [f["after"] for f in of_three] == ["still in step"] * 3


def test_the_others_read_what_the_first_has_written(of_three):
    assert [f["read"] for f in of_three] == ["by the first"] * 3


def test_each_number_goes_to_one_process_and_begins_anew(of_three):
    for name, most in (("turns", 500), ("turns again", 20)):
        assert sorted(turn for found in of_three for turn in found[name]) == list(range(most))
        assert all(found[name] == sorted(found[name]) for found in of_three)
    counts = [len(found["turns"]) for found in of_three]
    assert counts[0] > counts[2]  # it goes by who is free, and the last one is slow


def test_within_a_turn_they_cannot_meet(of_three):
    assert of_three[0]["met in turn"] == ["ValueError", "within first_then_all the processes cannot meet"]


def test_who_sees_other_files_is_told(of_three):
    assert [f["shared"] for f in of_three] == [None] * 3
    for found in of_three:
        kind, text = found["apart"]
        assert kind == "WorkError" and "2 of 3 processes do not see what the first one writes there" in text
