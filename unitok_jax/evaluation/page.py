"""A self-contained HTML page: one style sheet, pictures as data URIs, nothing fetched from elsewhere."""

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from jaxtyping import UInt8
from PIL import Image

_STYLE = """
:root{color-scheme:light dark;--paper:#fbfaf7;--card:#fff;--ink:#1d2129;--soft:#5b6270;--line:#e3e0d8;
--good:#126b41;--good-wash:#e3f2e9;--bad:#a8271b;--bad-wash:#fbe7e4;--frame:#b45309;
--s0:#1f5fbf;--s1:#b8560b;--s2:#11785a;--s3:#7a3fb0;--s4:#5b6270}
@media(prefers-color-scheme:dark){:root{--paper:#14161a;--card:#1d2026;--ink:#eceef2;--soft:#a5adba;--line:#343a44;
--good:#6fd6a0;--good-wash:#17392a;--bad:#ff9d90;--bad-wash:#43201c;--frame:#f5a623;
--s0:#7db1ff;--s1:#ffb066;--s2:#63d3ab;--s3:#cfa3ff;--s4:#a5adba}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0 auto;max-width:1080px;padding:32px 20px 64px;background:var(--paper);color:var(--ink);
font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
h1{font-size:clamp(1.7rem,5vw,2.5rem);line-height:1.15;letter-spacing:-.02em;margin:0 0 .4em;text-wrap:balance}
h2{font-size:1.3rem;letter-spacing:-.01em;margin:0 0 .3em}h3{font-size:1.05rem;margin:1.8em 0 .3em}
section{margin-top:52px;border-top:1px solid var(--line);padding-top:26px}
p{margin:.2em 0 1em;max-width:70ch;color:var(--soft)}
.lead{font-size:1.1rem}
nav{margin-top:1.4em;display:flex;flex-wrap:wrap;gap:4px 18px;font-size:.92rem}
nav a{color:var(--s0);text-underline-offset:3px;padding:4px 0}
img{display:block;image-rendering:pixelated;border-radius:6px;background:#000;max-width:100%;height:auto}
.hero{display:flex;gap:8px;margin-top:24px}
.hero img{flex:1;min-width:0;width:10%}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(205px,1fr));gap:12px;list-style:none;padding:0;margin:0}
.cards li{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px}
.cards .name{color:var(--soft);font-size:.9rem;line-height:1.35}
.cards .value{font-size:1.75rem;font-weight:650;letter-spacing:-.02em;font-variant-numeric:tabular-nums}
.verdict{font-size:.88rem}.good{color:var(--good)}.bad{color:var(--bad)}
.charts{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:14px}
.chart{margin:0;background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px}
.chart>svg{display:block;width:100%;height:auto;overflow:visible}
figcaption{font-weight:600;font-size:.95rem}
.grid{stroke:var(--line);stroke-width:1}.tick{fill:var(--soft);font-size:11px;text-anchor:middle}
.tick.end{text-anchor:end}.line{fill:none;stroke-width:2;stroke-linejoin:round}.bars{fill:var(--s0)}
.line.s0{stroke:var(--s0)}
.line.s1{stroke:var(--s1);stroke-dasharray:7 3}.line.s2{stroke:var(--s2);stroke-dasharray:2 3}
.line.s3{stroke:var(--s3);stroke-dasharray:9 3 2 3}.line.s4{stroke:var(--s4)}
.legend{display:flex;flex-wrap:wrap;gap:2px 16px;list-style:none;padding:0;margin:6px 0 0}
.legend{font-size:.86rem;color:var(--soft)}
.legend b{color:var(--ink);font-weight:600;font-variant-numeric:tabular-nums}
.key{display:inline-block;width:24px;height:4px;vertical-align:middle;margin-right:6px}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(104px,1fr));gap:12px;list-style:none;padding:0;margin:0}
.tiles li{font-size:.84rem;line-height:1.3}
.tiles img{width:100%;margin-bottom:6px}.tiles img:has(+img){margin-bottom:3px}
.tiles .wrong img{outline:3px solid var(--bad);outline-offset:1px}
.tiles dl{margin:0}.tiles dt{color:var(--soft)}.tiles dd{margin:0 0 4px}
.scroll{overflow-x:auto}
table{border-collapse:collapse;font-size:.95rem}
th{font-weight:600;text-align:left}th,td{padding:6px 14px 6px 0;vertical-align:middle}
.data tr{border-bottom:1px solid var(--line)}.data td{font-variant-numeric:tabular-nums}.data .n{text-align:right}
.data th.n{text-align:right}
.draws{width:100%;table-layout:fixed}
.draws th{font-size:.84rem;color:var(--soft);padding:3px;text-align:center}
.draws th[scope=row]{text-align:left}
.draws thead td{width:5rem}
.draws td{padding:3px}.draws img{width:100%}
.draws .wrong,.badge{position:relative}
.badge{display:inline-block;background:var(--bad-wash);color:var(--bad);border-radius:50%;font-weight:700;font-size:.8rem;
width:1.5em;height:1.5em;line-height:1.5em;text-align:center}.draws .badge{position:absolute;right:5px;bottom:5px}
.draws .unseen img{outline:3px solid var(--frame);outline-offset:-1px}
pre{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 16px;overflow-x:auto;
font:.88rem/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
@media(max-width:560px){body{padding:22px 14px 48px}.cards{grid-template-columns:1fr 1fr}.cards li{padding:11px 12px}
.cards .value{font-size:1.4rem}.tiles{grid-template-columns:repeat(auto-fill,minmax(76px,1fr));gap:10px}
.tiles li{font-size:.78rem}.hero{gap:4px}
.draws td{padding:1px}.draws th{padding:1px;font-size:.68rem}.draws thead td{width:3.6rem}
.draws .badge{font-size:.55rem;right:1px;bottom:1px}img{border-radius:3px}}
"""


def page(title: str, header: str, sections: Iterable[tuple[str, str, str]]) -> str:
    """The whole document.

    Args:
        title: of the browser tab and the first heading.
        header: HTML under the first heading.
        sections: (id, heading, HTML body) each.
    """
    sections = list(sections)
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _ in sections)
    bodies = "".join(
        f'<section id="{name}" aria-labelledby="{name}-heading">'
        f'<h2 id="{name}-heading">{escape(heading)}</h2>{body}</section>\n'
        for name, heading, body in sections
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>{header}"
        f'<nav aria-label="Sections">{links}</nav></header>\n<main>\n{bodies}</main>\n</body>\n</html>\n'
    )


def picture(pixels: UInt8[np.ndarray, "H W 3"], alt: str) -> str:
    """An `img` element that holds its PNG."""
    png = io.BytesIO()
    Image.fromarray(pixels).save(png, format="PNG", optimize=True)
    data = base64.b64encode(png.getvalue()).decode()
    height, width = pixels.shape[:2]
    return f'<img src="data:image/png;base64,{data}" width="{width}" height="{height}" alt="{escape(alt, quote=True)}">'


def text(*sentences: str) -> str:
    """A paragraph."""
    return f"<p>{escape(' '.join(sentences))}</p>"


def tiles(items: Iterable[tuple[str, str, bool]]) -> str:
    """Pictures with a note each: (img element, note as HTML, whether right); wrong ones are framed."""
    cells = "".join(f"<li{'' if right else ' class=wrong'}>{img}{note}</li>" for img, note, right in items)
    return f'<ul class="tiles">{cells}</ul>'


def mark(right: bool, words: str) -> str:
    """Words with a sign before them that says right or wrong, not by colour alone."""
    sign, kind, told = ("✓", "good", "right") if right else ("✗", "bad", "wrong")
    return f'<span class="{kind}"><span role="img" aria-label="{told}">{sign}</span> {escape(words)}</span>'


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table whose first column names its rows and whose other cells are short texts or numbers."""
    head = "".join(f'<th scope="col"{" class=n" if i else ""}>{escape(h)}</th>' for i, h in enumerate(heads))
    body = "".join(
        "<tr>"
        + f'<th scope="row">{escape(row[0])}</th>'
        + "".join(f'<td class="n">{escape(c)}</td>' for c in row[1:])
        + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table class="data"><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
