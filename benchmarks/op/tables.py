"""What is printed of the measurements: the machine, tables in Markdown, and the bars of issue 3."""

from __future__ import annotations

import platform
import shutil
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch

from .timing import Spread
from .ways import DTYPES


def machine(device: str = "cpu") -> str:
    """Where and on what a table was made, in a line."""
    name = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").is_file():
        facts = Path("/proc/cpuinfo").read_text()
        name = next((line.split(":")[1].strip() for line in facts.splitlines() if line.startswith("model name")), name)
        known = {"avx512f": "AVX-512", "avx512_bf16": "bf16", "avx2": "AVX2"}
        name += "".join(f", {shown}" for flag, shown in known.items() if f" {flag} " in facts)
    if device == "cuda":
        name = f"{torch.cuda.get_device_name()}, {name}"
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    done = subprocess.run(asked, capture_output=True, text=True) if shutil.which("git") else None
    commit = f", commit {done.stdout.strip()}" if done and done.returncode == 0 else ""
    return (
        f"{date.today()}{commit}; {name}; 1 thread; Python {platform.python_version()}, torch {torch.__version__}"
    )  # fmt: skip


def shown(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us" if seconds < 1e-3 else f"{seconds * 1e3:.2f} ms"


def with_quartiles(spread: Spread) -> str:
    return f"{shown(spread.median)} ({shown(spread.low)} to {shown(spread.high)})"


def ratio(steps: dict[str, Spread], other: str) -> float | None:
    return steps[other].median / steps["ours"].median if other in steps else None


def times_table(cases: dict[str, dict[str, Spread]], others: list[str]) -> list[str]:
    """One row a case: ours with its quartiles, the others, and what they are in ours."""
    others = [other for other in others if any(other in steps for steps in cases.values())]
    lines = [
        "| | ours | " + " | ".join(f"{other}, / ours" for other in others) + " |",
        "|---" * (len(others) + 2) + "|",
    ]
    for title, steps in cases.items():
        cells = [f"{shown(steps[o].median)}, {ratio(steps, o):.2f}" if o in steps else "" for o in others]
        lines.append(f"| {title} | {with_quartiles(steps['ours'])} | " + " | ".join(cells) + " |")
    return lines


def kernel_table(found: dict[str, Any]) -> list[str]:
    lines = ["| kernel alone, ns an element | soft | mixed | floor | soft / floor | mixed / floor |", "|---" * 6 + "|"]
    for title, cell in found["kernel"].items():
        ns = {name: cell[name].median / cell["elements"] * 1e9 for name in ("soft", "mixed", "floor") if name in cell}
        if "soft" in ns:
            ratios = f"{ns['soft'] / ns['floor']:.2f} | {ns['mixed'] / ns['floor']:.2f}"
            lines.append(f"| {title} | {ns['soft']:.3f} | {ns['mixed']:.3f} | {ns['floor']:.3f} | {ratios} |")
    return lines


def memory_table(found: dict[str, Any]) -> list[str]:
    cases = found["memory"]
    ways = list(dict.fromkeys(way for peaks in cases.values() for way in peaks))
    ways = [way for way in ("ours", "in place") if way in ways] + [w for w in ways if w not in ("ours", "in place")]
    lines = ["| peak memory, logits tensors | " + " | ".join(ways) + " |", "|---" * (len(ways) + 1) + "|"]
    for title, peaks in cases.items():
        lines.append(f"| {title} | " + " | ".join(f"{peaks[w]:.2f}" if w in peaks else "" for w in ways) + " |")
    return lines


class Bar(NamedTuple):
    """What issue 3 asks for, what came out, and which of it counts."""

    asked: str
    measured: list[float]
    limit: float
    at_least: bool

    def line(self) -> str:
        if not self.measured:
            return f"| {self.asked} | not measured | |"
        worst = min(self.measured) if self.at_least else max(self.measured)
        holds = worst >= self.limit if self.at_least else worst <= self.limit
        others = "" if len(self.measured) == 1 else f" (worst of {len(self.measured)})"
        return f"| {self.asked} | {worst:.3g}{others} | {'holds' if holds else 'DOES NOT HOLD'} |"


def cpu_bars(found: list[dict[str, Any]], instructions: str | None) -> list[Bar]:
    """The bars of one CPU thread; with AVX2 alone, half of each."""
    part = 0.5 if instructions == "avx2" else 1.0
    ordinary = found[0]

    def bar(text: str, limit: float, chosen: Callable[[str], bool], other: str, only: dict[str, Any] = ordinary) -> Bar:
        values = [ratio(steps, other) for title, steps in only["steps"].items() if chosen(title)]
        return Bar(f"{text} >= {limit * part:g}", [v for v in values if v is not None], limit * part, True)

    def wide(title: str) -> bool:
        return title.endswith((", soft", ", mixed")) and any(f", {c}]" in title for c in (30522, 128256))

    def of_big(title: str) -> bool:
        return wide(title) and "bf16" in title and "[64," not in title

    bars = []
    for dtype in DTYPES:
        for rows, soft, mixed in ((256, 2, 3), (4096, 5, 8)):
            for name, limit in (("soft", soft), ("mixed", mixed)):
                title = f"[{rows}, 3] {dtype}, {name}"
                bars.append(bar(f"{title}: eager / ours", limit, lambda t, title=title: t == title, "eager"))
    for dtype in DTYPES:
        title = f"nine tasks, 64 rows {dtype}"
        bars.append(bar(f"{title}: loop of eager calls / ours", 6, lambda t, title=title: t == title, "eager"))
    for one in found:
        pages, fp32, bf16 = f"{one['pages']} pages", "fp32, 30,522 classes or more", "bf16, 30 MB or more"
        for name, limit in (("soft", 4.5), ("mixed", 6)):
            chosen = lambda t, name=name: wide(t) and "fp32" in t and t.endswith(name)  # noqa: E731
            bars.append(bar(f"{fp32}, {name}, {pages}: eager / ours", limit, chosen, "eager", only=one))
        chosen = lambda t: wide(t) and "fp32" in t  # noqa: E731
        bars.append(bar(f"{fp32}, {pages}: Inductor / ours", 2.5, chosen, "Inductor", only=one))
        bars.append(bar(f"{bf16}, {pages}: eager / ours", 15, of_big, "eager", only=one))
        bars.append(bar(f"{bf16}, {pages}: Inductor / ours", 3.5, of_big, "Inductor", only=one))
    for name in ("soft", "mixed"):
        ns = [
            cell[name].median / cell["elements"] * 1e9
            for one in found for cell in one["kernel"].values() if cell["elements"] >= 1e6 and name in cell
        ]  # fmt: skip
        bars.append(Bar(f"kernel alone, {name}, ns an element <= {0.9 / part:g}", ns, 0.9 / part, False))
    return [*bars, *memory_bars(ordinary), error_bar(ordinary)]


def memory_bars(found: dict[str, Any]) -> list[Bar]:
    """One gradient, and none in place; half a hundredth for the scalars of a call."""
    peaks = found["memory"].values()
    return [
        Bar("peak memory, logits tensors <= 1.00", [one["ours"] for one in peaks], 1.005, False),
        Bar("peak memory in place <= 0.00", [one["in place"] for one in peaks if "in place" in one], 0.005, False),
    ]


def error_bar(found: dict[str, Any]) -> Bar:
    asked = "fp32 gradient error at 128,256 classes <= 1e-6 of the row's maximum"
    return Bar(asked, found["gradient_error"][:1], 1e-6, False)


def gpu_bars(found: dict[str, Any]) -> list[Bar]:
    """The bars of a GPU."""
    bars = []
    for text, limit, least, most in (("30,522 to 50,257", 1.3, 30000, 60000), ("128,256", 1.7, 100000, 200000)):
        values = []
        for title, cell in found["kernel"].items():
            if "soft" in cell and least <= int(title.split(",")[1].split("]")[0]) <= most:
                values.append(cell["soft"].median / cell["floor"].median)
        bars.append(Bar(f"{text} classes: soft / floor <= {limit}", values, limit, False))
    wide = {t: s for t, s in found["steps"].items() if t.endswith((", soft", ", mixed")) and ", 3]" not in t}
    for dtype, limit in (("bf16", 10), ("fp32", 5)):
        values = [ratio(s, "eager") or 0.0 for t, s in wide.items() if dtype in t]
        bars.append(Bar(f"{dtype}, 1,000 classes or more: eager / ours >= {limit}", values, limit, True))
    liger = [ratio(steps, way) or 0.0 for steps in found["steps"].values() for way in steps if way.startswith("Liger")]
    waits = [] if found.get("waits") is None else [float(found["waits"])]
    return [
        *bars,
        Bar("every Liger-Kernel KD loss / ours > 1", liger, 1.0, True),
        Bar("waits for the GPU in a pass <= 0", waits, 0, False),
        *memory_bars(found),
        error_bar(found),
    ]
