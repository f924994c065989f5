"""Sphinx's settings. Sphinx reads this file where `build.py` has put it, beside the assembled pages."""

from __future__ import annotations

import microbudget

project = "microbudget"
version = release = microbudget.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx_copybutton"]
root_doc = "index"
source_suffix = {".md": "markdown"}

myst_heading_anchors = 4  # links such as prune.md#repair, with the names that GitHub gives to headings

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_preserve_defaults = True

html_theme = "furo"
html_title = "microbudget"
html_show_sphinx = False
html_copy_source = False
html_theme_options = {
    # Fonts of the reader's system: the site loads nothing from elsewhere.
    "light_css_variables": {"font-stack": "system-ui, sans-serif", "font-stack--monospace": "ui-monospace, monospace"},
}
