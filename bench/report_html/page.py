# SPDX-License-Identifier: Apache-2.0
"""The page around the sections: style for light, dark and print, the script that sorts tables, a policy that forbids
any traffic. Script and style contain neither '<' nor '&', so that the page is well-formed XML as well as HTML.
"""
from .drawing import LIGHT_CSS, DARK_CSS, CHART_CSS
from .markup import Markup, element, join

CSS = """
:root{color-scheme:light dark;--ink:#1c2733;--mute:#56616e;--ground:#fff;--page:#f5f7f9;--edge:#dde2e7;--link:#0b66a8;
--good:#00694f;--bad:#b3261e;--mixed:#8a5a00;--open:#56616e;--code:#eef1f4}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:15px/1.55 system-ui,-apple-system,"Segoe UI","Helvetica Neue","DejaVu Sans",sans-serif}
a{color:var(--link)}
:focus-visible{outline:3px solid var(--link);outline-offset:2px;border-radius:3px}
.skip{position:absolute;left:-999px}.skip:focus{left:8px;top:8px;background:var(--ground);padding:8px;z-index:9}
header.top{background:var(--ground);border-bottom:1px solid var(--edge)}
.wide{max-width:1180px;margin:0 auto;padding:0 24px}
header.top .wide{padding-top:36px;padding-bottom:24px}
.kicker{margin:0;color:var(--mute);font-size:13px;letter-spacing:.06em;text-transform:uppercase;font-weight:600}
h1{margin:4px 0 8px;font-size:32px;line-height:1.2;letter-spacing:-.015em}
.lead{margin:0;font-size:17px;color:var(--mute);max-width:72ch}
nav{position:sticky;top:0;z-index:5;background:var(--ground);border-bottom:1px solid var(--edge)}
nav .wide{display:flex;gap:4px 20px;overflow-x:auto;padding-top:10px;padding-bottom:10px;font-size:14px}
nav a{white-space:nowrap;text-decoration:none;color:var(--mute)}nav a:hover{color:var(--link)}
main{padding:24px 0 60px}
section{background:var(--ground);border:1px solid var(--edge);border-radius:10px;padding:24px 28px 20px;margin:0 0 22px;scroll-margin-top:56px}
h2{margin:0 0 6px;font-size:21px;letter-spacing:-.01em}
h3{margin:26px 0 6px;font-size:16px}
.say{margin:0 0 16px;color:var(--mute);max-width:86ch}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(124px,1fr));gap:14px;margin:20px 0 0;padding:0}
.tile{border:1px solid var(--edge);border-radius:8px;padding:10px 14px;background:var(--page)}
.tile b{display:block;font-size:24px;line-height:1.25;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.tile span{color:var(--mute);font-size:13px;overflow-wrap:anywhere}
.tile i{display:inline-block;width:10px;height:10px;border-radius:3px;margin-right:6px}
dl.facts{display:grid;grid-template-columns:minmax(110px,max-content) 1fr;gap:4px 20px;margin:12px 0 0;font-size:14px}
dl.facts dt{color:var(--mute)}dl.facts dd{margin:0;overflow-wrap:anywhere}
figure{margin:14px 0 0}
.scroll{overflow-x:auto;border-radius:6px}
.scroll svg.chart{display:block;width:100%;min-width:820px;height:auto}
figcaption,.how{color:var(--mute);font-size:13px;margin:10px 0 0}
code{font:12.5px ui-monospace,"SF Mono",Menlo,"DejaVu Sans Mono",monospace;background:var(--code);padding:2px 6px;border-radius:4px;overflow-wrap:anywhere}
table{border-collapse:collapse;width:100%;font-size:13.5px;font-variant-numeric:tabular-nums}
caption{text-align:left;color:var(--mute);font-size:13px;padding:6px 0}
th,td{padding:6px 12px 6px 0;border-bottom:1px solid var(--edge);text-align:left;vertical-align:top}
td.number,th.number{text-align:right}
th{font-weight:600;white-space:nowrap}
th button{font:inherit;color:inherit;background:none;border:0;padding:0;cursor:pointer}
th button::after{content:" ↕";color:var(--mute);font-weight:400}
th[aria-sort=ascending] button::after{content:" ↑"}th[aria-sort=descending] button::after{content:" ↓"}
tbody tr:hover{background:var(--page)}
td.long{min-width:240px;max-width:520px;overflow-wrap:anywhere}
td.name{overflow-wrap:anywhere;min-width:110px}
details{margin:14px 0 0}summary{cursor:pointer;color:var(--link);font-size:14px}
details ul{margin:8px 0 0;padding-left:20px;font-size:13.5px;color:var(--mute);overflow-wrap:anywhere}
.answer{border-top:1px solid var(--edge);padding:16px 0}
.answer:first-of-type{border-top:0}
.answer h3{margin:0 0 4px}.answer p{margin:0;max-width:90ch;overflow-wrap:anywhere}.answer details{margin-top:6px}
.tag{display:inline-block;min-width:64px;text-align:center;margin-right:10px;padding:1px 10px;border-radius:20px;font-size:12px;
font-weight:600;border:1.5px solid;white-space:nowrap}
.tag.good{color:var(--good)}.tag.bad{color:var(--bad)}.tag.mixed{color:var(--mixed)}.tag.open,.tag.fact{color:var(--open)}
.alarm{border-left:4px solid var(--bad)}
.alarm li{overflow-wrap:anywhere}
footer{color:var(--mute);font-size:13px;padding:0 0 40px}
@media (max-width:640px){.wide{padding-left:14px;padding-right:14px}section{padding:18px 16px}h1{font-size:25px}dl.facts{grid-template-columns:1fr}dl.facts dd{margin-bottom:6px}}
@media screen and (prefers-color-scheme:dark){:root{--ink:#e6ebf1;--mute:#a0acba;--ground:#161d26;--page:#0e141b;--edge:#2b3541;--link:#7cc0f5;
--good:#4fd1ac;--bad:#ff8a80;--mixed:#f0b95b;--open:#a0acba;--code:#232d38}}
@media print{:root{color-scheme:light;--page:#fff}body{font-size:11px}nav,.skip{display:none}section{border:0;padding:8px 0;break-inside:auto}
figure,.answer,tr{break-inside:avoid}.scroll{overflow:visible}.scroll svg.chart{min-width:0}th button::after{content:""}
a{color:inherit;text-decoration:none}}
"""

SCRIPT = """
'use strict';
document.querySelectorAll('table.sortable').forEach(function (table) {
  var heads = Array.from(table.tHead.rows[0].cells);
  heads.forEach(function (head, column) {
    head.querySelector('button').addEventListener('click', function () {
      var down = head.getAttribute('aria-sort') === 'ascending';
      heads.forEach(function (other) { other.removeAttribute('aria-sort'); });
      head.setAttribute('aria-sort', down ? 'descending' : 'ascending');
      var body = table.tBodies[0];
      function key(row) {
        var cell = row.cells[column], value = cell.getAttribute('data-value');
        return value === null ? cell.textContent : parseFloat(value);
      }
      Array.from(body.rows).sort(function (a, b) {
        var x = key(a), y = key(b), order;
        if (typeof x === typeof y) {
          order = typeof x === 'number' ? x - y : x.localeCompare(y);
          return down ? -order : order;
        }
        return typeof x === 'number' ? -1 : 1;
      }).forEach(function (row) { body.appendChild(row); });
    });
  });
});
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


def charts_css():
    return CHART_CSS + LIGHT_CSS + "@media screen and (prefers-color-scheme:dark){" + DARK_CSS + "}"


def page(title, header, contents, sections, footer):
    """contents: [(anchor, short name)]."""
    assert "<" not in SCRIPT + CSS + charts_css() and "&" not in SCRIPT + CSS + charts_css()
    links = [element("a", {"href": f"#{anchor}"}, name) for anchor, name in contents]
    head = element(
        "head", {}, element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": POLICY}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("title", {}, title), element("style", {}, Markup(CSS + charts_css())))
    body = element(
        "body", {}, element("a", {"class": "skip", "href": "#main"}, "Skip to the results"),
        element("header", {"class": "top"}, element("div", {"class": "wide"}, header)),
        element("nav", {"aria-label": "Sections"}, element("div", {"class": "wide"}, links)),
        element("main", {"id": "main"}, element("div", {"class": "wide"}, sections)),
        element("footer", {}, element("div", {"class": "wide"}, footer)),
        element("script", {}, Markup(SCRIPT)))
    return join(Markup("<!DOCTYPE html>\n"), element("html", {"lang": "en"}, head, body), Markup("\n"))
