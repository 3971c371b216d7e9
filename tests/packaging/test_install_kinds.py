"""Plain, editable and strict-editable installs: each finds the library beside kdtoolkit.ops, and never an old one."""

from __future__ import annotations

import sys

import pytest
from installs import (
    LIBRARY,
    copy_of_checkout,
    environment,
    needs_compiler,
    new_venv,
    pip_install,
    refused,
    run,
    script,
    small_op,
    without_compiler,
)

KINDS = {"plain": [], "editable": ["--editable"], "strict": ["--config-settings", "editable_mode=strict", "--editable"]}
# The same file as kdtoolkit.ops.__file__, without the import of torch that comes with it.
LOOK = """
import ctypes, importlib.util, sys
from pathlib import Path
place = Path(importlib.util.find_spec("kdtoolkit.ops").origin)
library = place.with_name(sys.argv[1])
print(place)
print(ctypes.CDLL(str(library)).kd_marker() if library.exists() else "none")
print(sorted(path.name for path in (place.parent / "csrc").iterdir()))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    return new_venv(tmp_path_factory.mktemp("venv"))


@pytest.fixture
def checkout(tmp_path):
    folder = copy_of_checkout(tmp_path)
    small_op(folder, marker=1)
    return folder


@pytest.fixture
def look(python, tmp_path):
    """Where the installed kdtoolkit.ops is, the number of its op or "none", and the CUDA sources beside it."""

    def looked() -> tuple[str, str, str]:
        said = run(python, "-c", LOOK, LIBRARY, cwd=tmp_path, env=environment())
        place, marker, sources = said.splitlines()
        return place, marker, sources

    return looked


@needs_compiler
@pytest.mark.parametrize("kind", KINDS)
def test_the_library_found_is_the_one_of_the_last_install(kind, python, checkout, look):
    run(*pip_install(python, *KINDS[kind], checkout), env=environment())
    place, marker, sources = look()
    assert marker == "1"
    assert all(name in sources for name in ("call.cuh", "number.cuh", "soft_cross_entropy.cu"))
    assert place.startswith(str(checkout if kind != "plain" else python.parents[1]))
    small_op(checkout, marker=2)  # a source changes
    run(*pip_install(python, *KINDS[kind], checkout), env=environment())
    assert look()[1] == "2"
    run(*pip_install(python, *KINDS[kind], checkout), env=environment(KDTOOLKIT_NATIVE=0))
    assert look()[1] == "none"


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_install_works_without_a_compiler(kind, python, checkout, look):
    run(*pip_install(python, *KINDS[kind], checkout), env=without_compiler())
    _, marker, sources = look()
    assert marker == "none"
    assert "soft_cross_entropy.cu" in sources


@needs_compiler
def test_an_install_that_fails_shows_the_log_and_leaves_the_earlier_one(python, checkout, look, tmp_path):
    run(*pip_install(python, "--editable", checkout), env=environment())
    broken = script(tmp_path / "broken-c++", 'echo "broken-c++: no space left in the universe" >&2; exit 3')
    said = refused(*pip_install(python, "--editable", checkout), env=environment(CXX=broken))
    assert "no space left in the universe" in said and "KDTOOLKIT_NATIVE=0" in said
    assert look()[1] == "1"


def test_the_interpreter_under_test_is_not_ours(python):
    assert run(python, "-c", "import sys; print(sys.prefix)").strip() != sys.prefix
