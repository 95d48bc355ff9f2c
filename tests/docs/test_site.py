"""The site is built without a warning, and its pages load nothing from other servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

from pages import DOCS, ROOT

from docs.hooks import PAGES

LOADING = re.compile(
    r'<(?:script|img|iframe|source)[^>]*?src="https?://|<link[^>]*?href="https?://[^>]*?stylesheet|@import'
)


def test_site_is_built_strictly_and_needs_no_network(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == ""
    sources = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")}
    made = {str(Path(page).with_suffix(".html")) for page in PAGES}
    pages = {path.relative_to(tmp_path / "site").as_posix(): path for path in (tmp_path / "site").rglob("*.html")}
    assert sources | made <= set(pages)
    loading = {name: LOADING.findall(path.read_text(encoding="utf-8")) for name, path in pages.items()}
    assert {name for name, found in loading.items() if found} == set()
    configuration = pages["reference/configuration.html"].read_text(encoding="utf-8")
    assert "<code>num_trials</code>" in configuration
    assert 'id="post-v1-searches"' in pages["reference/rest.html"].read_text(encoding="utf-8")
