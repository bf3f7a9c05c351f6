"""What the site needs beyond its plugins: formulas as MathML, and names in docstrings as links."""

import html
import re
from importlib.metadata import distribution
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files

FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
ROLE = re.compile(r":(?:attr|class|data|func|meth|mod):<code>~?([\w.]+)</code>")
LOG = get_plugin_logger("formulas")
FONT = "STIXTwoMath-Regular.ttf"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the style sheet and the font of formulas (STIX Two, Open Font License), which ziamath carries."""
    font = Path(str(distribution("ziamath").locate_file("ziamath/fonts"))) / FONT
    style = Path(config.config_file_path).with_name("site.css")
    files.append(File.generated(config, f"assets/{FONT}", content=font.read_bytes()))
    files.append(File.generated(config, "assets/site.css", content=style.read_text(encoding="utf-8")))
    return files


def on_page_content(content: str, **_: object) -> str:
    """Render formulas, and the roles of Sphinx that docstrings use."""
    return ROLE.sub(_link, FORMULA.sub(_formula, content))


def _formula(found: re.Match[str]) -> str:
    display = "inline" if found[1] == "span" else "block"
    markup = convert(html.unescape(found[3]), display=display)
    if "\\" in markup:  # a command that is not known stays as it is
        LOG.warning("this formula cannot be rendered: %s", found[3])
    return markup


def _link(found: re.Match[str]) -> str:
    name = found[1]
    return f'<autoref identifier="{name}" optional><code>{name}</code></autoref>'
