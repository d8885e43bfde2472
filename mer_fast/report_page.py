"""The page of a report: plain HTML that needs no script and nothing but the pictures beside it."""

from __future__ import annotations

from typing import Any

from mer_fast.page_style import STYLE

_STAGES = {
    "face": "finding the face",
    "apex": "reading the video, finding the apex",
    "clip": "reading onset to apex again",
    "tim": "temporal interpolation (TIM)",
    "flow": "TV-L1 optical flow",
    "strain": "optical strain",
    "network": "the network, and what spoke for its class",
    "total": "total",
}

_TEMPLATE = (
    """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Facial motion in {{ s.video }}</title>
<style>
"""
    + STYLE
    + """</style>
</head>
<body>
<h1>Facial motion in {{ s.video }}</h1>
<p class="lead">From frame {{ s.onset }} (onset) to frame {{ s.apex }} (apex
{%- if s.fps %}, {{ "%.2f" | format((s.apex - s.onset) / s.fps) }} s later{% endif %})
the face moved by {{ "%.2f" | format(s.motion_mean) }} pixels on average and by {{ "%.1f" | format(s.motion_max) }}
at most, in a picture of {{ s.size }} x {{ s.size }} pixels.</p>
{%- if s.truncated %}
<p class="note">The video is cut short: {{ s.frames_read }} of the {{ s.frames_declared }} frames that it announces
could be read. Everything here is about those.</p>
{%- endif %}
{%- if s.apex == s.frames_read - 1 %}
<p class="note">The apex is the last frame, so the face may still have been on its way, or the whole head moved. A part of the
video that begins and ends at rest, or another onset, tells more.</p>
{%- endif %}
{% if s.classification %}{% set c = s.classification %}
<h2>What the network says: {{ c.predicted }}</h2>
<p>{{ c.network }}, from <code>{{ c.model }}</code>, on frames {{ s.onset }} to {{ c.offset }}, preprocessed as for its training:
{%- if c.whole_frame %} the whole frame{% else %} the {{ c.face_box.width }} x {{ c.face_box.height }} pixels at
x {{ c.face_box.x }}, y {{ c.face_box.y }}{% endif %}, brought to {{ c.width }} x {{ c.height }}.
It knows these {{ c.classes | length }} classes and no other; the shares are its own opinion of how sure it is.</p>
{%- if c.whole_frame %}
<p class="note">This network was trained on whole frames, with no face looked for in them. It can be right only where the
face fills the frame as it did in its training clips.</p>
{%- endif %}
<img src="classes.png" alt="The probability of each class">
<p>What spoke for it: in the right picture, motion in red places raised the score of {{ c.predicted }} against the other classes,
and motion in blue places lowered it, compared with a face that stays still (integrated gradients). Strain, in the middle, shows
where the skin moved at all. Red where nothing strains is a reason for doubt.</p>
<img src="relevance.png" alt="The apex, strain on it, and what spoke for and against the class">
{% endif %}
<h2>The face, before and at the height of the motion</h2>
<p>The yellow box is where the face was found. It stays in place for the whole video, so that any change inside it is
motion. The onset is the frame that motion is measured from; the apex is the frame that differs from it most.</p>
<div class="row">
<img src="face.png" alt="The onset frame with the face box">
<img src="onset.png" alt="The face at the onset">
<img src="apex.png" alt="The face at the apex">
</div>

<h2>When it moved</h2>
<p>How far each frame is from the onset frame
{%- if s.apex_method == "flow" %}: the motion of the fastest tenth of the face, less what the whole head did.
{%- else %}: the difference in brightness, less what a change of light explains.
{%- endif %} The highest point is the apex.</p>
<img src="curve.png" alt="Difference from the onset frame over time">

<h2>Where it moved: optical flow</h2>
<p>Optical flow gives every point of the onset picture an arrow to where that point is in the apex picture
(TV-L1 method).</p>
<img src="flow.png" alt="Optical flow as arrows and as colours, with the colour wheel">

<h2>Where the skin is stretched: optical strain</h2>
<p>A head that shifts as a whole has flow but no strain. Strain is large only where neighbouring points move
differently, as they do when a muscle pulls.</p>
<img src="strain.png" alt="Optical strain as heat">

<h2>The motion in {{ s.tim_frames }} frames</h2>
<p>The {{ s.apex - s.onset + 1 }} frames from onset to apex, brought to {{ s.tim_frames }} by temporal interpolation (TIM),
as networks take them.
{%- if s.tim_thinned %} Of so many, {{ s.tim_source_frames }} evenly spaced ones were used.{% endif %}</p>
<img src="tim.png" alt="The interpolated frames">
{% if s.planted %}
<h2>Against the motion that was planted</h2>
<p>This video was made by moving the skin of a picture by known amounts, so the measured flow can be judged. The endpoint
error is the mean distance between the tips of the measured and the planted arrows, in pixels of the face picture.
{{ "%.0f" | format(100 * s.planted.moving_share) }}% of that picture moves, by {{ "%.2f" | format(s.planted.motion_mean) }}
pixels on average and {{ "%.2f" | format(s.planted.motion_max) }} at most.
{%- if s.planted.apex == s.apex %} The apex was found at the planted frame, {{ s.apex }}.
{%- else %} The apex was planted at frame {{ s.planted.apex }} and found at frame {{ s.apex }}; what moved between the two
counts as error.{% endif %}</p>
<table>
<thead><tr><th>endpoint error</th><th>where it moves</th><th>whole picture</th></tr></thead>
<tr><th>mer_fast</th>
<td class="number">{{ s.endpoint_error | pixels }}</td>
<td class="number">{{ s.endpoint_error_whole_crop | pixels }}</td></tr>
{%- if s.opencv %}
<tr><th>OpenCV DualTVL1</th>
<td class="number">{{ s.opencv.endpoint_error | pixels }}</td>
<td class="number">{{ s.opencv.endpoint_error_whole_crop | pixels }}</td></tr>
{%- endif %}
</table>
<p>The planted motion, drawn to the same scale as the measured one above:</p>
<img src="planted.png" alt="The planted motion as arrows and as colours, with the colour wheel">
{% endif %}
<h2>Time</h2>
<table>
{%- for stage, seconds in s.seconds.items() %}
<tr><th>{{ stages[stage] }}</th><td class="number">{{ seconds | duration }}</td></tr>
{%- endfor %}
</table>
{%- if s.opencv %}
<p>TV-L1 on this pair of pictures, {{ s.opencv.threads }} threads, run in turns with OpenCV's DualTVL1 at the same
parameters: mer_fast {{ s.opencv.our_seconds | duration }}, OpenCV {{ s.opencv.seconds | duration }},
{{ "%.1f" | format(s.opencv.seconds / s.opencv.our_seconds) }} times as long. The two flows differ by
{{ "%.3f" | format(s.opencv.mean_difference) }} pixels on average.</p>
{%- endif %}

<h2>The numbers</h2>
<table>
<tr><th>video</th><td>{{ s.width }} x {{ s.height }} pixels,
{%- if s.fps %} {{ "%.4g" | format(s.fps) }} frames a second,{% endif %} {{ s.frames_read }} frames read</td></tr>
<tr><th>face box</th><td>{{ s.face_box.width }} x {{ s.face_box.height }} pixels at x {{ s.face_box.x }},
y {{ s.face_box.y }} (detector: {{ s.detector }})</td></tr>
<tr><th><a href="summary.json">summary.json</a></th><td>every number of this page</td></tr>
<tr><th><a href="flow.npz">flow.npz</a></th><td>for <code>numpy.load</code>: <code>flow</code>
(2, {{ s.size }}, {{ s.size }}), right and down in pixels, and <code>strain</code> (1, {{ s.size }}, {{ s.size }})</td></tr>
</table>
<footer>{% for name, version in s.versions.items() %}{{ name }} {{ version }}{{ ", " if not loop.last }}{% endfor %}</footer>
</body>
</html>
"""
)


def render_page(summary: dict[str, Any]) -> str:
    """The page for a summary as `mer_fast.report.summarize` gives it; names are escaped."""
    from jinja2 import Environment

    environment = Environment(autoescape=True)
    environment.filters["pixels"] = lambda value: "outside the face box" if value is None else f"{value:.3f} pixels"
    environment.filters["duration"] = format_seconds
    return environment.from_string(_TEMPLATE).render(s=summary, stages=_STAGES)


def format_seconds(seconds: float) -> str:
    """Seconds for people: 3.21 s, or 12 ms below one second."""
    milliseconds = seconds * 1000
    return f"{seconds:.2f} s" if seconds >= 1 else f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.2g} ms"
