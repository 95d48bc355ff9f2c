"""What MkDocs calls while it builds the site: adds the pages that are made from other files of the sources."""

from __future__ import annotations

import sys
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

sys.path.insert(0, str(Path(__file__).parents[1]))  # MkDocs, started as a script, does not look there

from docs.generators import commands, configuration, rest

ROOT = Path(__file__).parents[1]
PAGES = {
    "reference/configuration.md": configuration.page,
    "reference/commands.md": commands.page,
    "reference/rest.md": rest.page,
    "contributing.md": (ROOT / "CONTRIBUTING.md").read_text,
    "changelog.md": (ROOT / "CHANGELOG.md").read_text,
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the generated pages."""
    for path, page in PAGES.items():
        said = files.get_file_from_path(path)  # how to build the page, for who reads the sources
        if said is not None:
            files.remove(said)
        files.append(File.generated(config, path, content=page()))
    return files
