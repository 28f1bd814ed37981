"""README and the notes beside the notebooks: their commands have options that exist, their links lead somewhere, their tables are whole."""
import re

import pytest

from conftest import ROOT, exit_code

DOCS = [ROOT / "README.md", *sorted((ROOT / "notebooks").glob("*.md")), *sorted((ROOT / "data").glob("*/README.md"))]
SCRIPTS = ["mckd.py", "teacher.py", "student.py", "metrics.py", "data/prepare.py", "data/grammar.py",
           *(f"tests/{name}.py" for name in ("bench", "errors", "variants", "results", "on_valid", "bootstrap"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]


def commands(text):
    """(script, [options]) of every `python SCRIPT …`, up to what ends a command."""
    for script, rest in re.findall(r"python ([\w/]+\.py)([^`\n#;|<]*)", text.replace("\\\n", " ")):
        yield script, re.findall(r"(?<=\s)--[a-z][a-z-]*", rest)


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_of_commands_in_the_docs_exist(script, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "1000")
    assert exit_code(monkeypatch, script, "--help") == 0
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    used = {option for path in DOCS for named, options in commands(path.read_text(encoding="utf-8")) if named == script for option in options}
    assert used <= known


def test_scripts_of_commands_in_the_docs_exist():
    named = {script for path in DOCS for script, _ in commands(path.read_text(encoding="utf-8"))}
    assert len(named) > 8 and named <= set(SCRIPTS)


@pytest.mark.parametrize("path", DOCS, ids=NAMES)
def test_links_lead_somewhere(path):
    def anchors(file):
        titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", re.sub(r"\s+", " ", path.read_text(encoding="utf-8"))):
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("path", DOCS, ids=NAMES)
def test_tables_are_whole(path):
    """An empty line inside a table ends it, and what follows is shown as text."""
    text = re.sub(r"^```.*?^```", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for table in re.findall(r"(?:^[ ]*\|.*\n)+", text, re.MULTILINE):
        rows = [re.sub(r"`[^`]*`", "", row).strip().strip("|").count("|") for row in table.splitlines()]
        assert len(rows) > 2 and len(set(rows)) == 1 and re.fullmatch(r"[\s|:-]+", table.splitlines()[1]), table[:200]
