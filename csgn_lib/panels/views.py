"""Shared parts of the panels: clickable HTML, tables, messages, and a note for readers without a kernel."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import anywidget
import ipywidgets
import traitlets
from IPython.display import HTML, display

_SHORT = 40  # characters of a table's cell that stay in one line
_LIVE = "csgn-live"  # class of a panel that is connected to its kernel
_NOTE = """<style>
.jp-OutputArea:has(.csgn-live:not(.jupyter-widgets-disconnected)) .csgn-offline {{ display: none; }}
.jp-OutputArea:not(:has(.csgn-live)) .jp-OutputArea-child:has(> .jupyter-widgets) {{ display: none; }}
</style><div class="csgn-offline" role="note" style="border-left:4px solid #E69F00;padding:4px 10px">{}</div>"""


class View(anywidget.AnyWidget):
    """HTML that changes in place, without moving the page.

    Attributes:
        value: the HTML. width: of the view in CSS pixels; 0 until it is displayed.
    """

    _esm = Path(__file__).with_name("view.js")
    value = traitlets.Unicode("").tag(sync=True)
    width = traitlets.Int(0).tag(sync=True)

    def on_choice(self, call: Callable[[str], None]) -> None:
        """Call with the ``data-choice`` of each element that is clicked."""
        self.on_msg(lambda _, content, __: call(content["choice"]))


class Upload(anywidget.AnyWidget):
    """A button that sends a file; ipywidgets' own adds a count to its description.

    Attributes:
        description: of the button. accept: the file types that a browser offers.
    """

    _esm = Path(__file__).with_name("upload.js")
    description = traitlets.Unicode("").tag(sync=True)
    accept = traitlets.Unicode("").tag(sync=True)

    def on_file(self, call: Callable[[str, bytes], None]) -> None:
        """Call with the name and the content of each file that is chosen."""
        self.on_msg(lambda _, content, buffers: call(content["name"], bytes(buffers[0])))


def show(what: str, *widgets: ipywidgets.Widget) -> None:
    """Display widgets, or a note if no kernel is connected, as in a saved notebook."""
    box = ipywidgets.VBox(widgets).add_class(_LIVE)
    note = f"<b>{html.escape(what)}</b> needs a running kernel. Run this notebook's cells again to use it."
    display(HTML(_NOTE.format(note)), box)


def table_html(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of HTML cells; short ones do not wrap. A row of one cell spans the table: a remark on the row above."""
    style, narrow = "text-align:left;vertical-align:top;padding:2px 8px", ";white-space:nowrap"
    head = "".join(f'<th scope="col" style="{style}{narrow}">{name}</th>' for name in heads)

    def cell_html(cell: str) -> str:
        short = len(re.sub("<[^>]*>", "", cell)) <= _SHORT
        return f'<td style="{style}{narrow * short}">{cell}</td>'

    body = "".join(
        f'<tr><td colspan="{len(heads)}" style="text-align:left;padding:0 8px 4px 24px">{row[0]}</td></tr>'
        if len(row) == 1
        else f"<tr>{''.join(map(cell_html, row))}</tr>"
        for row in rows
    )
    return (
        '<table style="font-size:90%;border-collapse:collapse;line-height:1.35">'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    )


def alert(text: str) -> str:
    """An error message as HTML; ``text`` is escaped."""
    return f'<b role="alert" style="color:#B33C00">✖ {html.escape(text)}</b>'
