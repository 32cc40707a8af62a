"""The sections of a sheet as one HTML file that needs nothing else: pictures inside, light and dark, any width."""

from __future__ import annotations

import base64
import html
import os
from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import PIL.ImageDraw

from cm3.cli.outputs import png
from cm3.cli.sheet import Line, Panel, Section, enlarged
from cm3.errors import RequestError

PAGE = '<meta name="generator" content="cm3">'
"""The mark of our pages: these, and nothing else, are replaced by a page."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1c22; --muted: #6a6c78; --line: #e2e3ea; --paper: #fff; --card: #f7f7fa;
  --right: #17784a; --wrong: #b83227; }
@media (prefers-color-scheme: dark) { :root { --ink: #e9eaf0; --muted: #a0a2b0; --line: #34363f; --paper: #16171c;
  --card: #1f2027; --right: #5fd39a; --wrong: #ff8d80; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 3rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 2rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 0; }
p { margin: 0; }
.sub, .note, footer { color: var(--muted); }
section { border-top: 1px solid var(--line); margin-top: 2.2rem; padding-top: 1.4rem; }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: 1.6rem; margin-top: 1rem; }
.grid.one { grid-template-columns: 1fr; }
figure { margin: 0; background: var(--card); border: 1px solid var(--line); border-radius: .6rem; overflow: hidden; }
.one figure { display: flex; flex-wrap: wrap; }
.one img { max-width: 18rem; }
.one figcaption { flex: 1 1 18rem; }
img { display: block; width: 100%; }
figcaption { padding: .8rem 1rem 1rem; }
.prompt { font-weight: 600; }
.label { color: var(--muted); font-size: .8rem; margin-top: .7rem; }
.right, .wrong { font-size: .92rem; margin-top: .25rem; }
.right { color: var(--right); } .right::before { content: "\\2713\\00a0\\00a0"; }
.wrong { color: var(--wrong); } .wrong::before { content: "\\2717\\00a0\\00a0"; }
footer { margin-top: 2.5rem; font-size: .88rem; }
"""


def page(sections: Sequence[Section], title: str, subtitle: str = "", footer: str = "", *, side: int = 384) -> str:
    """Return an HTML document with the sections, each picture at `side` pixels inside it."""
    body = [f"<h1>{html.escape(title)}</h1>", f'<p class="sub">{html.escape(subtitle)}</p>']
    for section in sections:
        kind = "grid one" if len(section.panels) == 1 else "grid"
        body += [f"<section><h2>{html.escape(section.title)}</h2>", f'<p class="note">{html.escape(section.note)}</p>']
        body += [f'<div class="{kind}">', *(_figure(panel, side) for panel in section.panels), "</div></section>"]
    body.append(f"<footer>{html.escape(footer)}</footer>")
    return whole(title, "\n".join(["", "<body>", *body, "</body>"]))


def whole(title: str, body: str, style: str = "") -> str:
    """Return the HTML document of a `<body>`, in our style and more of it."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'{PAGE}<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head>{body}</html>\n"
    )


def _figure(panel: Panel, side: int) -> str:
    data = base64.b64encode(png(enlarged(panel.picture, side))).decode()
    alt = html.escape(panel.lines[0].text if panel.lines else "picture", quote=True)
    caption = "".join(_line(line) for line in panel.lines)
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{caption}</figcaption></figure>'


def _line(line: Line) -> str:
    return f'<p class="{line.style}">{html.escape(line.text)}</p>'


def check_page(path: Path, option: str = "--out") -> None:
    """Raise `RequestError` where a page of ours would replace anything but a page of ours."""
    if os.path.lexists(path):
        try:
            ours = not path.is_symlink() and PAGE in path.read_bytes()[:1000].decode("utf-8", "replace")
        except OSError:
            ours = False
        if not ours:
            raise RequestError(f"{option} {path}: is there, and is no page that cm3 wrote; give another folder")


def with_hole(picture: PIL.Image.Image, box: tuple[int, int, int, int]) -> PIL.Image.Image:
    """Return the picture with a box hatched out, to show what is to be filled."""
    holed = picture.convert("RGB").copy()
    x0, y0, x1, y1 = box
    patch = PIL.Image.new("RGB", (x1 - x0, y1 - y0), "#f4f4f7")
    pen = PIL.ImageDraw.Draw(patch)
    step = max(4, max(patch.size) // 8)
    for start in range(-patch.height, patch.width, step):
        pen.line((start, patch.height, start + patch.height, 0), fill="#c3c5d0", width=1)
    pen.rectangle((0, 0, patch.width - 1, patch.height - 1), outline="#8a8c99")
    holed.paste(patch, (x0, y0))
    return holed
