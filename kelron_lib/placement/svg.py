"""A plan as a picture: what each GPU holds at its peak, stacked against the limit. Plain SVG, no library."""

from __future__ import annotations

from dataclasses import dataclass
from html import escape

from kelron_lib.placement.memory import GpuMemory
from kelron_lib.placement.plan import Option, Plan

WIDTH = 960
LEFT, RIGHT = 76, 190
BAR, GAP = 26, 8
FONT = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', sans-serif"

GROUPS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "other jobs": ("#59636e", "#ffffff", ("other jobs",)),
    "CUDA context": ("#8a96a3", "#ffffff", ("CUDA context",)),
    "4-bit layers": ("#2f5fa7", "#ffffff", ("4-bit weights", "norms and biases")),
    "embedding and head": ("#74a9dc", "#0d1b2a", ("embedding", "head", "16-bit original")),
    "LoRA": ("#1f8a7d", "#ffffff", ("LoRA",)),
    "gradients": ("#6bbf8a", "#0d1b2a", ("gradients", "gradient exchange")),
    "optimizer": ("#c9a93a", "#0d1b2a", ("optimizer", "optimizer buffers")),
    "kept activations": ("#f2a65a", "#0d1b2a", ("activations",)),
    "layer at work": ("#dd6e42", "#ffffff", ("layer at work", "dequantised linear", "being quantised")),
    "loss": ("#a83e6c", "#ffffff", ("logits and loss", "head in fp16")),
    "allocator slack": ("#b9c2cc", "#0d1b2a", ("allocator slack",)),
}
"""Legend entry -> colour, text colour on it, the parts it sums."""

STYLE = """
.kp-card{fill:#ffffff;stroke:#d5dbe1}.kp-ink{fill:#17202a}.kp-dim{fill:#5a6672}.kp-grid{stroke:#e4e8ec}
.kp-limit{stroke:#b3261e}.kp-limit-ink,.kp-over{fill:#b3261e}.kp-track{fill:#f1f3f5}.kp-pick{fill:#1f8a7d}
.kp-pick-ink{fill:#16695f}
@media (prefers-color-scheme: dark){
.kp-card{fill:#161b22;stroke:#30363d}.kp-ink{fill:#e6edf3}.kp-dim{fill:#9aa5b1}.kp-grid{stroke:#2a313a}
.kp-limit{stroke:#ff7b72}.kp-limit-ink,.kp-over{fill:#ff8e86}.kp-track{fill:#21262d}.kp-pick{fill:#3fb8a8}
.kp-pick-ink{fill:#5ed3c3}}
"""


@dataclass
class _Canvas:
    """Lines of SVG, the vertical position, and the scale from GiB to pixels."""

    scale: float
    lines: list[str]
    y: float = 0.0

    def x(self, gib: float) -> float:
        return LEFT + gib * self.scale

    def text(self, x: float, y: float, words: str, style: str = "kp-ink", size: int = 13, more: str = "") -> None:
        self.lines.append(
            f'<text x="{x:.1f}" y="{y:.1f}" class="{style}" font-size="{size}"{more}>{escape(words)}</text>'
        )


def grouped(gpu: GpuMemory) -> dict[str, float]:
    """A GPU's stack at its peak by legend entry, in GiB."""
    found = {name: sum(gpu.stack.get(part, 0.0) for part in parts) for name, (_, _, parts) in GROUPS.items()}
    return {name: size for name, size in found.items() if size > 0}


def _segments(canvas: _Canvas, gpu: GpuMemory) -> None:
    at = 0.0
    for name, size in grouped(gpu).items():
        fill, ink, _ = GROUPS[name]
        x, width = canvas.x(at), size * canvas.scale
        canvas.lines.append(
            f'<rect x="{x:.1f}" y="{canvas.y:.1f}" width="{max(width - 1, 0.5):.1f}" height="{BAR}" rx="2" '
            f'fill="{fill}">'
            f"<title>{escape(name)}: {size:.2f} GiB</title></rect>"
        )
        if width > 30:
            canvas.lines.append(
                f'<text x="{x + width / 2:.1f}" y="{canvas.y + 17.5:.1f}" font-size="11.5" fill="{ink}" '
                f'text-anchor="middle" pointer-events="none">{size:.2f}</text>'
            )
        at += size


def _bar(canvas: _Canvas, gpu: GpuMemory) -> None:
    """One GPU: its track up to the limit, its stack, and what is to spare."""
    canvas.text(LEFT - 10, canvas.y + 17.5, f"GPU {gpu.gpu}", more=' text-anchor="end"')
    width = gpu.total * canvas.scale
    canvas.lines.append(
        f'<rect x="{LEFT}" y="{canvas.y:.1f}" width="{width:.1f}" height="{BAR}" rx="3" class="kp-track"/>'
    )
    _segments(canvas, gpu)
    x = canvas.x(gpu.total)
    canvas.lines.append(
        f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{canvas.y - 4:.1f}" y2="{canvas.y + BAR + 4:.1f}" class="kp-limit" '
        'stroke-width="2"/>'
    )
    short = gpu.margin < 0
    words = f"{-gpu.margin:.2f} GiB short" if short else f"{gpu.margin:.2f} GiB to spare"
    end = max(x, canvas.x(gpu.used + gpu.needed)) + 10
    canvas.text(end, canvas.y + 12, words, "kp-over" if short else "kp-ink", 12)
    canvas.text(end, canvas.y + 25, gpu.peak_phase, "kp-dim", 10)
    canvas.y += BAR + GAP


def _option(canvas: _Canvas, option: Option, chosen: bool) -> None:
    """One placement: its name, what it comes to, a bar per GPU."""
    canvas.y += 22
    if chosen:
        canvas.lines.append(f'<circle cx="24" cy="{canvas.y - 5:.1f}" r="5" class="kp-pick"/>')
    style, bold = ("kp-pick-ink" if chosen else "kp-ink"), ' font-weight="600"'
    canvas.text(36, canvas.y, option.placement, style, 15, bold)
    speed = f"{option.hours:.1f} h an epoch (projection)"
    state = "chosen, " if chosen else ("" if option.fits else "does not fit, ")
    canvas.text(LEFT + 60, canvas.y, state + speed, "kp-dim", 12)
    canvas.y += 10
    for gpu in option.gpus:
        _bar(canvas, gpu)
    canvas.y += 6


def _axis(canvas: _Canvas, top: float, reach: float) -> list[str]:
    """Grid lines with GiB below them; drawn under the bars."""
    step = 2 if reach <= 20 else 5 if reach <= 50 else 10 if reach <= 100 else 20
    lines = []
    for gib in range(0, int(reach) + 1, step):
        x = canvas.x(gib)
        lines.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top:.1f}" y2="{canvas.y:.1f}" class="kp-grid"/>')
        lines.append(
            f'<text x="{x:.1f}" y="{canvas.y + 16:.1f}" class="kp-dim" font-size="11" text-anchor="middle">{gib}</text>'
        )
    return lines


def _legend(canvas: _Canvas, names: list[str]) -> None:
    x = 24.0
    for name in names:
        width = 40 + 6.6 * len(name)
        if x + width > WIDTH - 20:
            x, canvas.y = 24.0, canvas.y + 22
        canvas.lines.append(
            f'<rect x="{x:.1f}" y="{canvas.y - 10:.1f}" width="12" height="12" rx="2" fill="{GROUPS[name][0]}"/>'
        )
        canvas.text(x + 18, canvas.y, name, "kp-dim", 12)
        x += width


def plan_svg(plan: Plan) -> str:
    """The plan as a self-contained SVG (light and dark by the viewer's preference): a stacked bar per GPU.

    Each bar is the GPU's memory at its peak; the line is what the GPU has.
    """
    bars = [gpu for option in plan.options for gpu in option.gpus]
    reach = max(max(gpu.total, gpu.used + gpu.needed) for gpu in bars)
    canvas = _Canvas(scale=(WIDTH - LEFT - RIGHT) / reach, lines=[], y=34.0)
    title = f"Memory at the peak, GiB per GPU: r={plan.work.lora_rank}, {plan.work.tokens:,} tokens a pass"
    canvas.text(24, canvas.y, title, size=17, more=' font-weight="600"')
    canvas.y += 24
    known = {name for gpu in bars for name in grouped(gpu)}
    _legend(canvas, [name for name in GROUPS if name in known])
    top = canvas.y
    canvas.y += 14
    for option in sorted(plan.options, key=lambda option: option.placement != plan.chosen):
        _option(canvas, option, option.placement == plan.chosen)
    for size in sorted({gpu.total for gpu in bars}):
        canvas.text(canvas.x(size), top + 14, f"{size:g} GiB", "kp-limit-ink", 11, ' text-anchor="middle"')
    axis = _axis(canvas, top + 20, reach)
    height = canvas.y + 34
    label = plan.best.verdict if plan.best else "no placement fits"
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="100%" '
            f'style="max-width:{WIDTH}px" font-family="{FONT}" role="img" aria-label="{escape(label)}">',
            f"<style>{STYLE.strip()}</style>",
            f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:.1f}" rx="10" class="kp-card"/>',
            *axis,
            *canvas.lines,
            "</svg>",
        ]
    )
