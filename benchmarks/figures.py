"""Figures of benchmarks, and the one of accuracy against latency that several scripts draw."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def save_latency_figure(figure: Any, axes: Any, path: Path) -> None:
    """Label the axes (milliseconds in logarithmic steps, per cent), and write the figure as SVG without a date."""
    axes.set_xscale("log")
    axes.set_xticks([0.5, 1, 2, 5, 10, 20], ["0.5", "1", "2", "5", "10", "20"])
    axes.set_xlabel("latency of one photo, 2 threads (ms)")
    axes.set_ylabel("accuracy on held-out photos (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize=8)
    save_figure(figure, path)


def save_figure(figure: Any, path: Path) -> None:
    """As SVG without a date."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure).print_svg(str(path), metadata={"Date": None})
