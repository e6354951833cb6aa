"""HTML page: sections rendered by templates into one file that loads nothing.

A Content-Security-Policy allows only the page's own scripts, by their digests. It blocks scripts
injected by names in files, and all requests. Bokeh's ``CustomJS`` would need ``eval`` and is not
used.
"""

import base64
import hashlib
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import jinja2
from bokeh.document import Document
from bokeh.embed import file_html
from bokeh.plotting import figure
from bokeh.resources import INLINE

import dnnlib
from training.pictures.content import Choice
from training.pictures.theme import AZIMUTH, ELEVATION
from training.report.discovery import Findings, Section
from training.report.drawing import Charts, FlowCharts, ViewsChart

TEMPLATES = Path(__file__).parent / "templates"
POLICY = "POLICY-OF-THIS-PAGE"
SCRIPT = re.compile(r"<script(?P<attributes>[^>]*)>(?P<text>.*?)</script>", re.S | re.I)
OTHER_ENDINGS = 8
BOKEH = ("bokeh_css", "bokeh_js", "plot_script")
"""Template variables that Bokeh fills."""


def page_of(findings: Findings, title: str, choice: Choice) -> str:
    """Return the text of an HTML page with a heading and the contents of a report."""
    shown = {
        "findings": findings,
        "others": ", ".join(
            f"{count} {ending}" for ending, count in findings.others.most_common(OTHER_ENDINGS)
        ),
        "results": [result for section in findings.sections for result in section.results],
        "choice": choice,
        "policy": POLICY,
        "style": (TEMPLATES / "report.css").read_text(encoding="utf-8"),
        "script": (TEMPLATES / "report.js").read_text(encoding="utf-8"),
        "side": {"elevation": ELEVATION, "azimuth": AZIMUTH},
        "version": dnnlib.__version__,
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }
    template = _environment().get_template("page.html.jinja")
    plots = list(_plots(findings.sections))
    if plots:
        document = Document()
        with document.models.freeze():  # otherwise Bokeh traverses all models for each plot
            for plot in plots:
                document.add_root(plot)
        html = file_html(
            document,
            INLINE,
            title=title,
            suppress_callback_warning=True,  # there are none, and the search for them is slow
            template=template,
            template_variables=shown,
        )
    else:  # Bokeh does not make a page without any plot
        html = template.render(**shown, title=title, **dict.fromkeys(BOKEH, ""))
    return html.replace(POLICY, policy_of(html), 1)


def policy_of(html: str) -> str:
    """Return the Content-Security-Policy of a page, which allows its scripts and no loading."""
    digests = []
    for script in SCRIPT.finditer(html):
        if "application/json" not in script["attributes"]:
            digest = hashlib.sha256(script["text"].encode()).digest()
            digests.append(f"'sha256-{base64.b64encode(digest).decode()}'")
    allowed = " ".join(dict.fromkeys(digests))
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:"
    )


def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _plots(sections: Sequence[Section]) -> Iterator[figure]:
    for part in (part for section in sections for part in section.parts):
        if isinstance(part, Charts):
            yield from (chart.plot for chart in part.charts)
        elif isinstance(part, FlowCharts):
            yield from (chart.plot for chart in (*part.panels, *part.planes))
        elif isinstance(part, ViewsChart):
            yield part.chart.plot
