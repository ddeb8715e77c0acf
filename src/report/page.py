"""The shell of a report: one HTML file that asks for nothing else, in light and dark, for wide and narrow screens."""

import base64
import hashlib
import re
from collections.abc import Sequence
from html import escape

from ..imaging.visualize import class_colour
from .svg import SERIES_COLOURS

RELOAD_SECONDS = 60

_STYLE = """
:root{color-scheme:light dark;--back:#f6f7f9;--card:#fff;--ink:#1d2530;--soft:#5c6776;--line:#d9dee5;--mark:#1769c2;
--s0:#1769c2;--s1:#d1571a;--s2:#2a8a4a;--s3:#9a3fb5;--s4:#b8860b;--s5:#c2255c;--s6:#0b8a92;--s7:#6b5b4d;
--right:42,138,74;--bad:209,67,26}
@media (prefers-color-scheme:dark){:root{--back:#12161c;--card:#1b2129;--ink:#e4e8ee;--soft:#9aa6b5;--line:#323b47;
--mark:#6db3f8;--s0:#6db3f8;--s1:#ff9d66;--s2:#6fd08f;--s3:#d59bec;--s4:#e6c04f;--s5:#ff85ad;--s6:#5fd3da;--s7:#c3b1a0;
--right:80,190,120;--bad:240,110,70}}
*{box-sizing:border-box}
body{margin:0;background:var(--back);color:var(--ink);font:15px/1.45 system-ui,sans-serif}
header,main{max-width:1240px;margin:0 auto;padding:0 16px}
h1{font-size:1.5rem;margin:18px 0 2px;overflow-wrap:anywhere}h2{font-size:1.2rem;margin:28px 0 10px}
h3{font-size:.95rem;margin:0 0 6px}small,.soft{color:var(--soft)}a{color:var(--mark)}
nav{position:sticky;top:0;z-index:1;background:var(--back);border-bottom:1px solid var(--line)}
nav>div{max-width:1240px;margin:0 auto;padding:8px 16px;display:flex;flex-wrap:wrap;gap:4px 14px;align-items:center}
nav label{margin-left:auto}select{font:inherit;max-width:60vw}section{scroll-margin-top:76px}
.facts{display:flex;flex-wrap:wrap;gap:10px;margin:12px 0}
.facts>div{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px 14px}
.facts b{display:block;font-size:1.3rem}
.cards{display:grid;gap:12px;grid-template-columns:repeat(auto-fill,minmax(min(380px,100%),1fr))}
.cards.two{grid-template-columns:repeat(auto-fit,minmax(min(480px,100%),1fr))}
.card,figure{background:var(--card);border:1px solid var(--line);border-radius:8px;padding:12px;min-width:0}
.card small{display:block;overflow-wrap:anywhere}
.wide{overflow-x:auto}table{border-collapse:collapse;font-size:.88rem;font-variant-numeric:tabular-nums}
td,th{padding:3px 8px;text-align:right;border-bottom:1px solid var(--line);white-space:nowrap}
td:first-child,th:first-child{text-align:left}
.matrix th:first-child{position:sticky;left:0;background:var(--back)}
.matrix td{text-align:center;min-width:38px;border:1px solid var(--line)}
.matrix thead th{vertical-align:bottom;text-align:center}.turned{writing-mode:vertical-rl;transform:rotate(180deg)}
.matrix .right{background:rgba(var(--right),calc(var(--share)*.75))}
.matrix .mistake{background:rgba(var(--bad),calc(var(--share)*.75))}
.chart{width:100%;height:auto;display:block}.chart text{fill:var(--soft);font-size:11px}
.chart .mid{text-anchor:middle}.chart .end{text-anchor:end}
.grid{stroke:var(--line)}.axis{stroke:var(--soft);fill:none}.bar{fill:var(--s0)}
.line{fill:none;stroke:var(--c);stroke-width:2;stroke-linejoin:round}.dot{fill:var(--c)}
.legend{display:flex;flex-wrap:wrap;gap:2px 12px;font-size:.82rem;margin:6px 0 0}
.legend i{display:inline-block;width:.8em;height:.8em;border-radius:2px;background:var(--c);margin-right:5px}
.line.again{stroke-dasharray:6 3}.legend .again{border-radius:50%}.none{color:var(--soft)}
.gallery{display:grid;gap:14px;grid-template-columns:repeat(auto-fill,minmax(min(580px,100%),1fr))}
figure{margin:0}.pair{display:grid;gap:8px;grid-template-columns:1fr 1fr}.pair>div{min-width:0}
.pair svg{width:100%;height:auto;display:block;background:#777}.pair b{font-size:.82rem;font-weight:600}
.box{fill:none;stroke:var(--c);stroke-width:1.6;vector-effect:non-scaling-stroke}.box.wrong{stroke-dasharray:4 2.5}
figcaption{margin-top:6px;font-size:.85rem;overflow-wrap:anywhere}[hidden]{display:none!important}
footer{max-width:1240px;margin:30px auto;padding:0 16px;color:var(--soft);font-size:.85rem}
@media (max-width:600px){nav{position:static}.pair{grid-template-columns:1fr}nav label{margin-left:0}
.facts>div{padding:6px 10px}.chart text{font-size:14px}.columns text{font-size:12px}.matrix th{white-space:normal}}
"""

# The filters, kept over a reload; nothing of the data is in the script.
_SCRIPT = """
(() => {
  const byClass = document.getElementById("class"), byKind = document.getElementById("kind");
  const shown = document.getElementById("shown"), store = "report-filter";
  const apply = () => {
    const label = byClass.value, kind = byKind ? byKind.value : "";
    for (const element of document.querySelectorAll("[data-class]"))
      element.toggleAttribute("hidden", !["", "all", element.dataset.class].includes(label)
        && element.dataset.class !== "all");
    let count = 0;
    for (const figure of document.querySelectorAll("figure")) {
      const here = (label === "" || figure.dataset.classes.split(" ").includes(label))
        && (kind === "" || figure.dataset.kinds.split(" ").includes(kind));
      figure.toggleAttribute("hidden", !here);
      count += here;
    }
    if (shown) shown.textContent = count + " images";
    try { sessionStorage.setItem(store, JSON.stringify([label, kind])); } catch (error) { /* not allowed here */ }
  };
  try {
    const [label, kind] = JSON.parse(sessionStorage.getItem(store) || '["",""]');
    byClass.value = label;
    if (byKind) byKind.value = kind;
    if (byClass.selectedIndex < 0) byClass.value = "";
    if (byKind && byKind.selectedIndex < 0) byKind.value = "";
  } catch (error) { /* not allowed here */ }
  byClass.addEventListener("change", apply);
  if (byKind) byKind.addEventListener("change", apply);
  apply();
  const seconds = Number(document.body.dataset.reload);
  if (seconds) setTimeout(() => location.reload(), seconds * 1000);
})();
"""


def page(
    title: str, facts: str, sections: Sequence[str], class_names: Sequence[str], *, note: str, reload: bool
) -> str:
    """The whole page.

    Args:
        title: heading, as plain text.
        facts: HTML under the heading.
        sections: HTML of the parts.
        class_names: for the filter.
        note: below everything, as plain text.
        reload: the page loads itself again every minute, as a run goes on.
    """
    digest = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    options = "".join(
        f'<option value="{number}">{escape(name)}</option>' for number, name in enumerate(class_names)
    )
    places = re.findall(r'<section id="(\w+)">', "".join(sections))
    links = "".join(f'<a href="#{place}">{place}</a>' for place in places)
    again = f" This page loads itself again every {RELOAD_SECONDS} s." if reload else ""
    text = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{escape(title)}</title><link rel="icon" href="data:,">
<style>{_STYLE}{_series_colours()}{_class_colours(len(class_names))}</style></head>
<body data-reload="{RELOAD_SECONDS if reload else 0}">
<header><h1>{escape(title)}</h1>{facts}</header>
<nav><div>{links}<label>class <select id="class"><option value="">all</option>{options}</select></label></div></nav>
<main>{"".join(sections)}</main>
<footer>{escape(note)}{again}</footer>
<script>{_SCRIPT}</script></body></html>
"""
    return text.encode("utf-8", "replace").decode()  # a name may hold what no file can


def _series_colours() -> str:
    return "".join(f".s{number}{{--c:var(--s{number})}}" for number in range(SERIES_COLOURS))


def _class_colours(count: int) -> str:
    """The colours that the project's images give the classes too."""
    return "".join(f".c{number}{{--c:rgb{class_colour(number)}}}" for number in range(count)).replace(" ", "")
