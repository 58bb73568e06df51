"""What the site needs beside the pages in docs/: a hook of MkDocs.

Links in the documents are those that work where a reader looks at the repository. Those that leave
docs/ get a page on the site: README.md, CONTRIBUTING.md and CHANGELOG.md as they are, a source file
as its text, a folder as a list of its files; results of measurements are copied. Diagrams are drawn
here, so that a page loads nothing from elsewhere.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from pages.flowchart import svg
from pages.markdown import BLOCK, LINK, fenced, outside_blocks

ROOT = Path(__file__).parents[1]
DOCS = "docs"
# Documents outside docs/ -> their place on the site.
DOCUMENTS = {
    "README.md": "overview.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "benchmarks/README.md": "benchmarks.md",
}
LANGUAGES = {".py": "python", ".yaml": "yaml", ".toml": "toml", "Makefile": "make"}
HIDDEN = {"__pycache__"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds what documents link to outside docs/."""
    wanted: dict[str, None] = {}
    for name in (*DOCUMENTS, *(f"{DOCS}/{file.src_uri}" for file in files.documentation_pages())):
        wanted |= dict.fromkeys(links_out(name))
    for path in list(wanted):
        if (ROOT / path).is_dir():
            wanted |= dict.fromkeys(files_in(path))
    for document, place in DOCUMENTS.items():
        text = (ROOT / document).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=text))
    for path in wanted:
        if (ROOT / path).is_dir() or language(path):
            files.append(File.generated(config, place_of(path), content=text_of(path)))
        else:
            files.append(File.generated(config, place_of(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Points links that leave docs/ to what stands for their targets, and draws diagrams."""
    place = page.file.src_uri
    origin = {there: name for name, there in DOCUMENTS.items()}.get(place, f"{DOCS}/{place}")

    def pointed(match: re.Match[str]) -> str:
        target, anchor = target_of(origin, match["link"])
        if target is None:
            return match[0]
        there = place_of(target)
        link = os.path.relpath(there, posixpath.dirname(place) or ".")
        return f"]({link}{anchor})"

    markdown = outside_blocks(lambda text: LINK.sub(pointed, text), markdown)
    return fenced(markdown, "mermaid", diagram)


def diagram(body: str) -> str:
    return f'<div class="diagram" data-search-exclude>{svg(body)}</div>'


def links_out(document: str) -> Iterator[str]:
    """Paths in the repository, outside docs/, to which a document has links."""
    text = (ROOT / document).read_text(encoding="utf-8")
    for link in LINK.findall(BLOCK.sub("", text)):
        target, _ = target_of(document, link)
        if target is not None and target not in DOCUMENTS and not target.startswith(f"{DOCS}/"):
            yield target


@cache
def target_of(document: str, link: str) -> tuple[str | None, str]:
    """The path in the repository that a link of a document leads to, and its anchor; None for one
    to elsewhere, and for one from docs/ to docs/, which MkDocs knows."""
    name, hash_, anchor = link.partition("#")
    if not name or "://" in link:
        return None, ""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(document), name))
    inside = document.startswith(f"{DOCS}/") and target.startswith(f"{DOCS}/")
    if inside or not (ROOT / target).exists():
        return None, ""
    return target, hash_ + anchor


def place_of(path: str) -> str:
    """Where a path of the repository stands on the site."""
    if path in DOCUMENTS:
        return DOCUMENTS[path]
    if path.startswith(f"{DOCS}/"):
        return path.removeprefix(f"{DOCS}/")
    if path == DOCS:
        return "README.md"
    if (ROOT / path).is_dir():
        return f"source/{path}/README.md"
    return f"source/{path}.md" if language(path) else f"source/{path}"


def language(path: str) -> str | None:
    pure = PurePosixPath(path)
    return LANGUAGES.get(pure.suffix) or LANGUAGES.get(pure.name)


def files_in(folder: str) -> list[str]:
    """The files that lie in a folder itself."""
    return sorted(
        str(path.relative_to(ROOT).as_posix())
        for path in (ROOT / folder).iterdir()
        if path.is_file() and path.name not in HIDDEN and not path.name.startswith(".")
    )


def text_of(path: str) -> str:
    """The page of a source file or of a folder; neither is searched for words."""
    front = "---\nsearch:\n  exclude: true\n---\n"
    if (ROOT / path).is_dir():
        lines = [f"- [{name}]({link_inside(path, name)}) {about(name)}" for name in files_in(path)]
        return f"{front}# {path}\n\n" + "\n".join(lines) + "\n"
    text = (ROOT / path).read_text(encoding="utf-8")
    fence = "`" * (3 + max(map(len, re.findall(r"`{3,}", text)), default=0))
    return f"{front}# {path}\n\n{fence}{language(path)}\n{text.rstrip()}\n{fence}\n"


def link_inside(folder: str, path: str) -> str:
    return os.path.relpath(place_of(path), posixpath.dirname(place_of(folder)))


def about(path: str) -> str:
    """The first line of a module's docstring."""
    if not path.endswith(".py"):
        return ""
    match = re.match(r'"""(.*?)(?:"""|\n\n|\Z)', (ROOT / path).read_text(encoding="utf-8"), re.S)
    return " ".join(match[1].split()) if match else ""
