"""The website's start page is the README, and files outside of docs/ are named but not linked."""

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"index.md": "README.md", "contributing.md": "CONTRIBUTING.md"}
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\((?!https?:)([^)#]+)(#[^)]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie in the repository's root, where GitHub looks for them."""
    for page, source in PAGES.items():
        text = (ROOT / source).read_text(encoding="utf-8").replace("](docs/", "](")
        files.append(File.generated(config, page, content=text.replace("](CONTRIBUTING.md)", "](contributing.md)")))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Keep the text alone of links to source files, which are not part of the website."""
    folder = Path(config.docs_dir, page.file.src_uri).parent

    def kept(link: re.Match[str]) -> str:
        uri = Path(folder, link[2]).resolve()
        inside = uri.is_relative_to(config.docs_dir) and files.get_file_from_path(str(uri.relative_to(config.docs_dir)))
        return link[0] if inside else link[1]

    return LINK.sub(kept, markdown)
