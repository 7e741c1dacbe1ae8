"""What `make docs` adds to the pages: files of the tree that they link to, and the flags' help.

The pages are read on a code host as well, where a link such as ../benchmarks/results/soak.json
works as it stands; in the site the file is copied beside the pages.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
ADDED = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
LINK = re.compile(r"\]\(\.\./([^)#]+)")
CODE = re.compile(r"((?<!</span>)(?<!<pre>)<code>)([^<]*)</code>")  # not a block's
HELP = re.compile(r"<!-- help: (\S+) -->")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the two pages that lie at the tree's root, and what pages link to outside docs/."""
    for name, source in ADDED.items():
        files.append(File.generated(config, name, content=_from_root(ROOT / source)))
    linked = {name for path in ROOT.glob("docs/*.md") for name in LINK.findall(path.read_text())}
    for name in sorted(linked - set(ADDED.values())):
        files.append(File.generated(config, f"tree/{name}", abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links out of docs/ to the copies, and put the command line's help in its place."""
    for name, source in ADDED.items():
        markdown = markdown.replace(f"](../{source}", f"]({name}")
    return HELP.sub(lambda found: _help(found[1]), LINK.sub(r"](tree/\1", markdown))


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let code in a line break between words and in long names, but not after a flag's hyphens."""
    return CODE.sub(lambda found: f"{found[1]}{_breakable(found[2])}</code>", html)


def _breakable(code: str) -> str:
    code = re.sub(r"(?<![\w-])--?\w[\w-]*", r'<span class="flag">\g<0></span>', code)
    return re.sub(r"(?<=[a-z])(_|::)(?=[a-z])", r"\1<wbr>", code)


def _from_root(path: Path) -> str:
    """A page whose links start at the root, as if it lay in docs/."""
    text = re.sub(r"\]\((?!https?:|#|docs/)", "](../", path.read_text(encoding="utf-8"))
    return text.replace("](docs/", "](")


def _help(command: str) -> str:
    from fasttrain.cli.flags import parser

    made = parser(command)
    made.formatter_class = partial(made.formatter_class, width=100)
    return f"```text\n{made.format_help()}```"
