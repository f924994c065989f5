"""Inputs of the page whose files reach a kind as they were uploaded: Gradio would open and convert them before."""

from __future__ import annotations

from typing import Any, TypeVar

import gradio as gr

Input = TypeVar("Input", gr.Image, gr.Audio)


def photo() -> gr.Image:
    """A photo by file, drag, clipboard or camera, as a path. Its pixels are decoded after they are counted."""
    sources: list[Any] = ["upload", "webcam", "clipboard"]
    return _as_uploaded(gr.Image(label="Photo", type="filepath", sources=sources, buttons=[], height=260))


def recording() -> gr.Audio:
    """A recording by file or microphone, as a path."""
    sources: list[Any] = ["upload", "microphone"]
    return _as_uploaded(gr.Audio(label="Recording", type="filepath", sources=sources, buttons=[]))


def _as_uploaded(component: Input) -> Input:
    """Of this one component: a subclass would make Gradio write a file next to this one."""
    component.preprocess = lambda payload: None if payload is None else payload.path  # type: ignore[method-assign]
    return component
