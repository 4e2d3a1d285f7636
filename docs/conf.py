"""How `make docs` builds the pages of this directory: Sphinx reads them as they are, by MyST.

Strict: every warning is an error, a link that leads nowhere included.  Nothing is fetched, neither
while it is built nor by who reads it.
"""

import unirun

project = "unirun"
author = "unirun contributors"
release = version = unirun.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
suppress_warnings: list[str] = []

# Links between pages are those of Markdown, so that they work on the pages as they lie here, too.
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Our docstrings say `name` for whatever is a name; what has an entry of its own becomes a link.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"unirun {release}"
html_copy_source = False
html_show_sphinx = False
pygments_style = "friendly"
