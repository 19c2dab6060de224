"""What the pages say is there: links, error messages, files of the site."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "README.md", ROOT / "CONTRIBUTING.md"])
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return "\n".join(
        line for line in re.sub(r"^```.*?^```", "", text, flags=re.M | re.S).splitlines() if line[:4] != "    "
    )


def anchors(page: Path) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_relative_link_leads_somewhere(page):
    for target in LINK.findall(prose(page.read_text())):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), f"{page.name}: {target}"
        assert not anchor or anchor in anchors(there), f"{page.name}: {target}"


def test_every_message_of_the_troubleshooting_page_is_in_the_code():
    source = "".join(path.read_text() for path in (ROOT / "unitok_jax").rglob("*.py"))
    messages = re.findall(r"^### `(.*)`$", (ROOT / "docs" / "troubleshooting.md").read_text(), re.M)
    assert len(messages) > 20
    assert [message for message in messages if message not in source] == []


def test_the_site_has_every_page_once_and_no_other():
    listed = re.findall(r": ([\w/]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M)
    there = [str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(set(there))


def test_the_api_page_names_what_there_is():
    for name in re.findall(r"^::: (\S+)$", (ROOT / "docs" / "api.md").read_text(), re.M):
        parts = name.split(".")
        module = ROOT.joinpath(*parts)
        if module.with_suffix(".py").exists():
            continue
        owner = ROOT.joinpath(*parts[:-1])
        path = owner.with_suffix(".py") if owner.with_suffix(".py").exists() else owner / "__init__.py"
        assert re.search(rf"^(class|def) {parts[-1]}\b", path.read_text(), re.M), name


def test_pictures_are_small():
    for path in (ROOT / "docs" / "images").iterdir():
        assert path.stat().st_size < 600_000, path.name
