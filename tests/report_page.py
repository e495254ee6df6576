"""A report as a program reads it: tags, words, the table of experiments, and their unpacked texts; and small runs to
report."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser

from recorded import baseline, journal, record

from ideator_rl.report import write_report
from ideator_rl.report.run_view import run_view
from ideator_rl.storage.run_reader import read_run

HOSTILE = (
    "</details></pre></svg></title></script><script>document.title='pwned'</script>"
    "<img src=x onerror=\"document.title='pwned'\"><a href='javascript:alert(1)'>x</a>"
    "<svg onload=\"document.title='pwned'\"><iframe srcdoc='<script>parent.document.title=1</script>'></iframe>"
    "<meta http-equiv=refresh content='0;url=https://example.org'><!-- <script>"
    "{{ 7 * 7 }}{% raw %} ]]> --> \u202eevil\u2066 \x1b[31mred\x00"
)
TEXTS = ("idea", "thought", "patch", "log", "kind", "message", "feedback", "to_parent", "problem")


class Page(HTMLParser):
    """Tags, attributes and plain text of a page; every tag must close."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.text, self.scripts = [], [], "", []
        self.feed(html)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append((dict(attrs), ""))
        if tag not in ("meta", "link", "br", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] == ["script"]:
            attributes, text = self.scripts[-1]
            self.scripts[-1] = attributes, text + data
        elif not {"style", "svg"} & set(self.open):
            self.text += data

    def script(self, id):
        return next(text for attributes, text in self.scripts if attributes.get("id") == id)

    @property
    def table(self):
        return json.loads(self.script("data"))

    def experiments(self):
        """Every experiment: its columns, its texts, and how many characters of each text were cut."""
        table, texts = self.table, json.loads(gzip.decompress(base64.b64decode(self.script("texts"))))
        columns = [dict(zip(table["rows"], row, strict=True)) for row in zip(*table["rows"].values(), strict=True)]
        assert len(columns) == len(texts)
        return [
            facts | {"status": table["statuses"][facts["status"]], "cut": dict(zip(TEXTS, cut, strict=True))}
            | dict(zip(TEXTS, texts, strict=True))
            for facts, (texts, cut) in zip(columns, texts, strict=True)
        ]  # fmt: skip


def page_of(*folders, out=None):
    out = out or folders[0] / "report.html"
    write_report(list(folders), out)
    return out.read_text()


def words_of(html):
    return re.sub(r"\s+", " ", Page(html).text)


def lab(folder, values, recipe="", **fields):
    """A run of one step whose ideas have these values; None is a failure."""
    folder.mkdir(parents=True, exist_ok=True)
    records = [record(f"{folder.name}-{i}", "failed" if value is None else "succeeded", value=value, **fields)
            for i, value in enumerate(values)]  # fmt: skip
    journal(folder, [records], [baseline(0, 4.0)])
    if recipe:
        (folder / "recipe.yaml").write_text(recipe)
        (folder / "timings.json").write_text("{total: 60.0}")
    return run_view(folder.name, read_run(folder))
