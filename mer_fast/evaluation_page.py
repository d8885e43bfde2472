"""The page of an evaluation's report: plain HTML that needs no script and nothing but the pictures beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mer_fast.page_style import STYLE

_HEAD = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ s.title }}</title>
<style>
"""

_BODY = """  table.figures td { text-align: right; font-variant-numeric: tabular-nums; }
  figure { margin: 1.2rem 0; } figcaption { color: #444; margin-bottom: .2rem; }
  img.matrix { max-width: 30rem; width: 100%; }
  .columns { column-width: 17rem; column-gap: 2rem; } .columns table { margin-top: 0; }
  td.is-wrong { color: #a33b1f; }
</style>
</head>
<body>
<h1>{{ s.title }}</h1>
<p class="lead">UF1 {{ s.uf1 | spread }}, UAR {{ s.uar | spread }}, accuracy {{ s.accuracy | spread }}:
{{ s.clips }} clips of {{ s.subjects }} subjects, each predicted by a network that was trained without its subject.</p>
<p>The predictions of all folds are pooled, then counted: UF1 is the mean F1 of the {{ s.classes | length }} classes, UAR the mean
recall.{% if s.seeds | length > 1 %} Of {{ s.seeds | length }} seeds: the mean, and behind &plusmn; the standard deviation from
seed to seed.{% endif %}</p>
{%- for note in s.notes %}
<p class="note">{{ note }}</p>
{%- endfor %}

<h2>Figures</h2>
<table class="figures">
<thead><tr><th>seed</th><th>UF1</th><th>UAR</th><th>accuracy</th><th>every prediction</th></tr></thead>
{%- for one in s.seeds %}
<tr><td>{{ one.seed }}</td><td>{{ one.uf1 | figure }}</td><td>{{ one.uar | figure }}</td><td>{{ one.accuracy | figure }}</td>
<td><a href="{{ one.report }}">{{ one.report }}</a></td></tr>
{%- endfor %}
</table>

{%- if s.per_database | length > 1 %}
<h2>Each database by itself</h2>
<table class="figures">
<thead><tr><th>database</th><th>clips</th><th>UF1</th><th>UAR</th><th>accuracy</th></tr></thead>
{%- for name, row in s.per_database.items() %}
<tr><th>{{ name }}</th><td>{{ row.clips }}</td><td>{{ row.uf1 | spread }}</td><td>{{ row.uar | spread }}</td>
<td>{{ row.accuracy | spread }}</td></tr>
{%- endfor %}
</table>
{%- endif %}

<h2>What is taken for what</h2>
<p>Rows are the true classes{% if s.seeds | length > 1 %}, all seeds together{% endif %}; a cell has the number of clips, and
their share of the row.</p>
<img class="matrix" src="confusion.png" alt="The confusion matrix">

<h2>Subjects</h2>
<p>Right predictions of each subject's clips. They are for looking at: the mean over subjects is not the accuracy above, and a
figure of a few clips means little.</p>
<div class="columns">
<table class="figures">
<thead><tr><th>subject</th><th>clips</th><th>right</th></tr></thead>
{%- for name, row in s.per_subject.items() %}
<tr><th>{{ name }}</th><td>{{ row.clips }}</td>
<td{% if row.correct | sum < row.clips * row.correct | length %} class="is-wrong"{% endif %}>
{{- row.correct | join(", ") }}</td></tr>
{%- endfor %}
</table>
</div>

<h2>Clips taken for another class</h2>
{%- if not missed %}
<p>None.</p>
{%- else %}
<p>{{ missed | length }} of {{ s.clips }} clips
{%- if s.seeds | length > 1 %} with one seed at least, those that most seeds get wrong first{% endif %}
{%- if shown | length and shown | length < missed | length %}; pictures of the first {{ shown | length }}{% endif %}.</p>
{%- for clip in missed %}{% set taken = clip.taken_for | join(" or ") %}
{%- if clip.picture %}
<figure>
<figcaption><b>{{ clip.name or "clip %d" % clip.clip }}</b>
{%- if not clip.name.startswith(clip.subject) %} of {{ clip.subject }}{% endif %}: {{ clip.is }}, taken for {{ taken }}
{%- if clip.seeds > 1 %} by {{ clip.wrong }} of {{ clip.seeds }} seeds{% endif %}</figcaption>
<img src="{{ clip.picture }}" alt="Onset, apex and the motion between them">
</figure>
{%- endif %}
{%- endfor %}
{%- if shown | length < missed | length %}
<table>
<thead><tr><th>clip</th><th>subject</th><th>is</th><th>taken for</th></tr></thead>
{%- for clip in missed if not clip.picture %}{% set taken = clip.taken_for | join(" or ") %}
<tr><td>{{ clip.name or clip.clip }}</td><td>{{ clip.subject }}</td><td>{{ clip.is }}</td><td>{{ taken }}</td></tr>
{%- endfor %}
</table>
{%- endif %}
{%- endif %}

<h2>Settings</h2>
<table>
{%- for name, value in s.settings.items() if value is not none %}
<tr><th>{{ name }}</th><td>{{ value if value is string else value | tojson }}</td></tr>
{%- endfor %}
</table>
<p><a href="summary.json">summary.json</a> has the numbers of this page.</p>
<footer>{% for name, version in s.versions.items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}</footer>
</body>
</html>
"""


def render_page(summary: dict[str, Any], missed: Sequence[dict[str, Any]], shown: Sequence[dict[str, Any]]) -> str:
    """The page of what `evaluation_report.summarize` gives; `shown` are those of the `missed` clips that have a picture."""
    from jinja2 import Environment

    environment = Environment(autoescape=True)
    environment.filters["figure"] = lambda value: f"{value:.4f}"
    environment.filters["spread"] = spread
    return environment.from_string(_HEAD + STYLE + _BODY).render(s=summary, missed=missed, shown=shown)


def spread(value: dict[str, float | None]) -> str:
    """A mean with its deviation: 0.8123 ± 0.0045."""
    deviation = value["deviation"]
    return f"{value['mean']:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")
