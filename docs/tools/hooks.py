"""mkdocs hook: the generated pages of the documentation site, its navigation, and its checks.

Generated from the repository at every build: the home page (README.md), the notebooks, the command line, the
parameters of an experiment and the reference of every public name of the library. Links between files of the
repository become links between pages; a linked file that is no page is copied into the site. The build fails on a
broken link (mkdocs, ``strict``) and on a public name, command or parameter that is on no page (`on_post_build`).
"""

from __future__ import annotations

import html
import re
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

sys.path.insert(0, str(Path(__file__).parent))
import reference  # noqa: E402  (a hook is no package)

HOME = Path(__file__).resolve().parents[2]
COPIED = {  # a page of the site: the file of the repository that it is
    "index.md": "README.md",
    "data.md": "data/README.md",
    "contributing.md": "CONTRIBUTING.md",
    "changelog.md": "CHANGELOG.md",
    "records/training.md": "reports/training/bench.md",
    "records/training-gpu.md": "reports/training/gpu/bench.md",
    "records/retrieval.md": "reports/retrieval/bench.md",
}
RECORDS = {
    "Record: training on a CPU": "records/training.md",
    "Record: training on a GPU": "records/training-gpu.md",
    "Record: evaluation": "records/retrieval.md",
}
SECTIONS = {  # pages of docs/ that are named nowhere here follow under Guides
    "Guides": "student lab reviewer world using-a-model extending sweeps data troubleshooting responsible-use",
    "Results": "results ablations variants text-loss subspaces analysis baselines performance reproduction",
    "Project": "library method contributing changelog",
}
LINK = re.compile(
    r"(?<=\]\()(?![a-z]+:|#)([^)\s#]+)(?=[)#]| \")|(?<=<img src=\")([^\"]+)(?=\")"
)  # [text](this), ![](this)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation: every page of docs/, then what is generated."""
    named = {name for names in SECTIONS.values() for name in names.split()}
    sections = {title: names.split() for title, names in SECTIONS.items()}
    sections["Guides"] += sorted(path.stem for path in (HOME / "docs").glob("*.md") if path.stem not in named)
    nav: list[Any] = [{"Home": "index.md"}]
    nav += [{title: [f"{name}.md" for name in names]} for title, names in sections.items()]
    nav[2]["Results"] += [{title: page} for title, page in RECORDS.items()]
    nav.insert(2, {"Notebooks": [f"notebooks/{path.stem}.md" for path in notebooks()]})
    first = [f"reference/{name}.md" for name in ("index", "cli", "parameters", "protocols")]
    nav.insert(3, {"Reference": first + [{name: f"reference/{name}.md"} for name in reference.packages()]})
    config.nav = nav
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    pages = {page: (HOME / source).read_text(encoding="utf-8") for page, source in COPIED.items()}
    written = {
        "index": reference.overview,
        "cli": reference.cli,
        "parameters": reference.parameters,
        "protocols": reference.protocols,
    }
    pages |= {f"reference/{name}.md": write() for name, write in written.items()}
    pages |= {f"reference/{name}.md": reference.package(name) for name in reference.packages()}
    for path in notebooks():
        text, pictures = reference.notebook(path)
        pages[f"notebooks/{path.stem}.md"] = text
        for name, content in pictures.items():
            files.append(File.generated(config, f"notebooks/{name}", content=content))
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Rewrite the links of a page from paths of the repository to pages of the site."""
    uri = page.file.src_uri
    if uri.startswith("reference/"):
        return markdown
    source = PurePosixPath(_source(uri))
    return LINK.sub(lambda found: _target(found[0], source, uri, files, config), markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Fail where a public name, a command, an option or a parameter is on no page."""
    site = Path(config.site_dir)
    missing = []
    for name in reference.packages():
        text = (site / "reference" / f"{name}.html").read_text(encoding="utf-8")
        missing += [
            public for public, _ in reference.public_names(name) if f'id="csgn_lib.{name}.{public}"' not in text
        ]
    command_line = html.unescape((site / "reference" / "cli.html").read_text(encoding="utf-8"))
    missing += [words for words in reference.commands() if words not in command_line]
    parameters = (site / "reference" / "parameters.html").read_text(encoding="utf-8")
    missing += [name for name in reference.parameter_names() if f"<code>{name}</code>" not in parameters]
    if missing:
        raise PluginError(f"on no page of the reference: {', '.join(missing)}")


def notebooks() -> Iterator[Path]:
    return iter(sorted((HOME / "notebooks").glob("*.ipynb")))


def _source(uri: str) -> str:
    """The file of the repository that a page of the site is made of."""
    if uri.startswith("notebooks/"):
        return str(PurePosixPath(uri).with_suffix(".ipynb"))
    return COPIED.get(uri, f"docs/{uri}")


def _target(link: str, source: PurePosixPath, uri: str, files: Files, config: MkDocsConfig) -> str:
    path = (HOME / source.parent / link).resolve()
    if not path.is_relative_to(HOME) or not path.is_file():
        return link  # mkdocs reports it, unless the page brought it along
    inside = path.relative_to(HOME).as_posix()
    pages = {repository: page for page, repository in COPIED.items()}
    if inside in pages:
        target = pages[inside]
    elif inside.startswith("docs/"):
        target = inside.removeprefix("docs/")
    elif inside.startswith("notebooks/") and inside.endswith(".ipynb"):
        target = f"{inside.removesuffix('.ipynb')}.md"
    else:
        target = f"files/{inside}"
        if files.get_file_from_path(target) is None:
            files.append(File.generated(config, target, abs_src_path=str(path)))
    return "../" * uri.count("/") + target
