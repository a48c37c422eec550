"""Sphinx's configuration of the documentation site; `make docs` builds it and fails at a warning."""

# ruff: noqa: INP001 - read by Sphinx, not imported

project = "SocketHealth"
author = "The SocketHealth authors"
extensions = ["myst_parser"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "SocketHealth for Kubernetes"
html_copy_source = False
html_show_sphinx = False
# Pages link to files of the repository that are not pages, such as values.yaml.
suppress_warnings = ["myst.xref_missing"]
exclude_patterns = ["conf.py"]
