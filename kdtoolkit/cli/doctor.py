"""`kdtool doctor`."""

from __future__ import annotations

import os
import platform
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click

from .options import print_json

PACKAGES = (
    "torch", "accelerate", "transformers", "tokenizers", "safetensors", "huggingface_hub", "sentencepiece", "torchtext",
    "datasets", "pyarrow", "numpy", "scikit-learn", "scipy", "tensorboard",
)  # fmt: skip


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def doctor(as_json: bool) -> None:
    """Show versions, devices, and which native code is in use.

    What to send along with a bug report.

    \b
      kdtool doctor
      kdtool doctor --json
    """
    findings = {"versions": _versions(), **_machine(), "op": _op(), "store": _store(), "hugging_face": _hugging_face()}
    if as_json:
        print_json(findings)
        return
    for name, finding in findings.items():
        if isinstance(finding, dict):
            click.echo(f"{name.replace('_', ' ')}:")
            width = max(map(len, finding))
            for key, value in finding.items():
                click.echo(f"  {key:<{width}}  {_shown(value)}")
        else:
            click.echo(f"{name.replace('_', ' ')}: {_shown(finding)}")


def _versions() -> dict[str, str]:
    from .. import __version__

    found = {"kdtoolkit": __version__, "python": f"{platform.python_version()} ({sys.executable})"}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent: install kdtoolkit again"
    return found


def _machine() -> dict[str, Any]:
    from ..processor import has_bf16

    facts: dict[str, Any] = {
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "bf16": {"cpu": "in hardware" if has_bf16() else "emulated: slower than fp32 on this processor"},
    }
    try:
        import torch
    except (ImportError, OSError) as error:  # a broken installation is what this command is for
        return {**facts, "devices": [f"cpu (torch cannot be imported: {error})"]}
    devices = ["cpu"]
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            devices.append(f"cuda:{number} {torch.cuda.get_device_name(number)}")
        facts["bf16"]["cuda"] = "supported" if torch.cuda.is_bf16_supported() else "not supported"
    if torch.backends.mps.is_available():
        devices.append("mps")
    return {**facts, "devices": devices, "torch_threads": torch.get_num_threads()}


def _processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"


def _op() -> dict[str, Any]:
    """The op's backend for tensors on a CPU, that for CUDA tensors if there can be any, and the files found."""
    from ..errors import KdtoolkitError

    try:
        import torch

        from ..ops import backend, native
    except (ImportError, OSError) as error:  # as above
        return {"backend": "none", "reason": f"torch cannot be imported: {error}"}
    found: dict[str, Any] = {}
    try:
        found["backend"], found["reason"] = backend()
    except KdtoolkitError as error:
        found.update(backend="none", reason=str(error))
    if torch.cuda.is_available():
        try:
            found["cuda"] = "{} ({})".format(*backend("cuda"))
        except (KdtoolkitError, RuntimeError) as error:
            found["cuda"] = f"none ({error})"
    return {**found, "files": [str(file) for file in native.found_files()] or ["none: a pure-Python install"]}


def _store() -> dict[str, Any]:
    from ..labels import default_store
    from .clean import amount, size_of

    folder = default_store()
    return {"folder": str(folder), "size": amount(size_of(folder)) if folder.is_dir() else "not made yet"}


def _hugging_face() -> dict[str, Any]:
    from huggingface_hub import constants

    offline = bool(constants.HF_HUB_OFFLINE)
    return {"offline": f"yes (HF_HUB_OFFLINE={os.environ.get('HF_HUB_OFFLINE', '')})" if offline else "no",
            "cache": str(constants.HF_HUB_CACHE)}  # fmt: skip


def _shown(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
