"""Which backend runs, the reason given for it, and compiled libraries that are absent, broken or of another version."""

import ctypes
import shutil
import subprocess
import sys
import types

import pytest
import torch
from op_backends import need_compiled, use

from kdtoolkit.errors import InputError
from kdtoolkit.ops import backend, native, soft_cross_entropy, soft_cross_entropy_reference
from kdtoolkit.ops.backend import VARIABLE

MODULE = sys.modules["kdtoolkit.ops.backend"]
SIZE = "long long kd_call_size(void) { return 8; }"
OTHERS = """
int kd_soft_cross_entropy(const void* call) { return 0; }
const char* kd_instructions(void) { return "avx2"; }
int kd_limit_instructions(const char* name) { return 0; }
"""
Z, V = torch.zeros(4, 3), torch.zeros(4, 3)


@pytest.fixture(autouse=True)
def nothing_known_yet(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.delenv(native.INSTRUCTIONS_VARIABLE, raising=False)
    forget()
    yield
    monkeypatch.undo()
    forget()


def forget():
    native.library.cache_clear()
    MODULE.forget()


def with_library(monkeypatch, file):
    monkeypatch.setattr(native, "found_file", lambda: file)
    forget()


def test_the_compiled_kernel_is_the_choice_where_there_is_one():
    need_compiled()
    name, reason = backend()
    assert name == "cpu" and "compiled kernel" in reason
    assert native.found_files()[0].parent == (MODULE_FOLDER := native.found_file().parent)
    assert (MODULE_FOLDER / "__init__.py").is_file()


def test_the_environment_is_read_on_each_call(monkeypatch):
    need_compiled()
    seen = []
    monkeypatch.setattr("kdtoolkit.ops.cpu_backend.run", lambda call, **_: seen.append(1) or (None, None, None))
    soft_cross_entropy(Z, V)
    monkeypatch.setenv(VARIABLE, " Reference ")
    soft_cross_entropy(Z, V)
    monkeypatch.setenv(VARIABLE, "cpu")
    soft_cross_entropy(Z, V)
    assert len(seen) == 2


def test_a_pure_install_says_so_and_works(monkeypatch):
    with_library(monkeypatch, None)
    assert backend() == ("reference", "fallback to plain PyTorch: no compiled op found: pure-Python install")
    torch.testing.assert_close(soft_cross_entropy(Z, V), soft_cross_entropy_reference(Z, V))
    monkeypatch.setenv(VARIABLE, "cpu")
    with pytest.raises(InputError, match=r"'cpu' is not available here \(no compiled op found.*available: auto, ref"):
        soft_cross_entropy(Z, V)


def test_a_library_that_is_no_library_is_an_error_and_not_a_fallback(monkeypatch, tmp_path):
    file = tmp_path / "libkdtoolkit_ops.so"
    file.write_text("not a library")
    with_library(monkeypatch, file)
    for call in (backend, lambda: soft_cross_entropy(Z, V)):
        with pytest.raises(InputError, match=r"cannot be loaded.*install kdtoolkit again.*=reference") as error:
            call()
        assert error.value.place == str(file)
    monkeypatch.setenv(VARIABLE, "reference")
    assert soft_cross_entropy(Z, V).isfinite()


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler to make libraries of")
@pytest.mark.parametrize(
    ("source", "says"),
    [(SIZE, "cannot be loaded"), (SIZE + OTHERS, "of another version .its calls have 8 bytes, expected")],
)
def test_a_library_of_another_version_is_an_error_with_the_way_out(monkeypatch, tmp_path, source, says):
    (tmp_path / "old.c").write_text(source)
    file = tmp_path / "libkdtoolkit_ops.so"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", file, tmp_path / "old.c"], check=True)
    with_library(monkeypatch, file)
    with pytest.raises(InputError, match=rf"{says}.*install kdtoolkit again"):
        backend()


def test_nothing_is_loaded_before_it_is_needed():
    script = (
        "import kdtoolkit.ops, kdtoolkit.ops.native as native, sys\n"
        "assert native.library.cache_info().currsize == 0\n"
        "assert not any('cuda_' in name for name in sys.modules if name.startswith('kdtoolkit'))\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("name", ["avx512", "avx2", "portable"])
def test_instructions_can_be_limited_and_all_give_the_same(monkeypatch, name):
    use("cpu", monkeypatch)
    best = native.library().instructions().decode()
    try:
        native.use_instructions(name)
    except InputError:
        pytest.skip(f"no {name} on this machine")
    try:
        assert native.SHOWN[name] in backend().reason
        student = torch.randn(7, 40, generator=torch.Generator().manual_seed(0))
        loss, wanted = (
            f(student, student.flip(0), kind="kl") for f in (soft_cross_entropy, soft_cross_entropy_reference)
        )
        torch.testing.assert_close(loss, wanted)
    finally:
        native.use_instructions(best)


def test_instructions_are_limited_by_the_environment_and_wrong_ones_refused(monkeypatch):
    need_compiled()
    best = native.library().instructions().decode()
    monkeypatch.setenv(native.INSTRUCTIONS_VARIABLE, "portable")
    forget()
    try:
        assert backend().reason == "compiled kernel, no vector instructions"
        monkeypatch.setenv(native.INSTRUCTIONS_VARIABLE, "sse9")
        forget()
        with pytest.raises(InputError, match=r"INSTRUCTIONS: the instructions 'sse9' are not available.*known: avx512"):
            backend()
    finally:
        monkeypatch.delenv(native.INSTRUCTIONS_VARIABLE)
        forget()
        native.use_instructions(best)


@pytest.mark.parametrize("device", ["mps", "meta", "xpu"])
def test_other_devices_have_the_reference(device):
    assert backend(device) == ("reference", f"fallback to plain PyTorch: no compiled op for {device} tensors")


def test_tensors_of_other_devices_run_on_the_reference():
    loss = soft_cross_entropy(torch.empty(4, 3, device="meta"), torch.empty(4, 3, device="meta"))
    assert loss.device.type == "meta" and loss.shape == ()


@pytest.fixture
def cuda(monkeypatch):
    """A stand-in for the CUDA backend, which says what it is told to."""
    module = types.SimpleNamespace(says=("cuda-nvrtc", "compiled here"))
    module.choose = lambda: module.says
    real = MODULE._module
    monkeypatch.setattr(MODULE, "_module", lambda name: module if name == "cuda.backend" else real(name))
    return module


def test_cuda_tensors_have_the_backend_that_its_module_names(cuda):
    assert backend("cuda") == cuda.says
    cuda.says = (None, "no driver")
    assert backend("cuda") == ("reference", "fallback to plain PyTorch: no driver")


def test_a_backend_by_name_binds_tensors_of_its_own_device_only(cuda, monkeypatch):
    monkeypatch.setenv(VARIABLE, "cuda-nvrtc")
    assert backend("cuda").name == "cuda-nvrtc" and VARIABLE in backend("cuda").reason
    assert backend("cpu").name == ("reference" if native.found_file() is None else "cpu")
    assert soft_cross_entropy(Z, V).isfinite()
    monkeypatch.setenv(VARIABLE, "cuda-prebuilt")
    with pytest.raises(InputError, match=r"'cuda-prebuilt' is not available here \(compiled here\).*cuda-nvrtc"):
        backend("cuda")
    monkeypatch.setenv(VARIABLE, "cpu")
    assert backend("cuda") == cuda.says


def test_calls_let_other_threads_run():
    """CDLL releases the interpreter's lock, PyDLL does not."""
    need_compiled()
    assert type(native.library().compute).__mro__[1] is ctypes._CFuncPtr
    assert not type(native.library().compute)._flags_ & ctypes._FUNCFLAG_PYTHONAPI


def test_importing_the_op_does_not_import_torchs_compiler():
    """It would cost every start a second."""
    code = "import sys, torch; before = 'torch._dynamo' in sys.modules; import kdtoolkit.ops; "
    code += "sys.exit('torch._dynamo' in sys.modules and not before)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
