"""A result on one page of paper (PDF): picture, maps, numbers, and what they do not tell.

Readable without colours: evidence against carries minus signs, and every bar its number. The page
has a fixed plan; what does not fit is shrunk or counted, so it stays one page whatever the names.
The same result gives the same bytes; there is no date on it.
"""

import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from PIL import Image
from reportlab.lib.pagesizes import A4, LETTER
from reportlab.lib.styles import ParagraphStyle
from reportlab.lib.utils import ImageReader
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFont
from reportlab.pdfgen.canvas import Canvas
from reportlab.platypus import KeepInFrame, Paragraph

from cdam_core import pictures, provenance
from cdam_core.benchmarks import compactness
from cdam_core.explanation import Explanation
from cdam_core.maps import counted
from cdam_core.methods import METHODS
from cdam_core.models import MODELS, VisionModel
from cdam_core.provenance import Drawing
from cdam_core.regions import Region, shares, shares_words, summary_words

PAGES = {"A4": A4, "Letter": LETTER}
MARGIN = 36.0  # points, like every length here
GAP = 10.0
MAX_MAPS = 8
MAX_MAP_SIDE = 150.0
MAX_BARS = 5
MAX_SENTENCES = 4
MAX_REGIONS = 2
MAX_MEASURES = 2
CAPTION, LEGEND = 22.0, 20.0  # above and below a map
HEADER, TOP, LIMITS, FOOTER = 46.0, 166.0, 118.0, 62.0
LINE = 11.5  # of the table
GREY = 0.45

NOT_TOLD = (
    "They are no proof of cause: they say what the model took from each patch, not what would "
    "happen if that part of the scene were changed.",
    "A strong colour is strong on the printed scale, which fits itself to each comparison. A "
    "negative score means “speaks against”, not “unimportant”.",
    "They explain the model, not the world: a wrong answer gets a map as clear as a right one.",
    "This is no medical device and not meant for diagnosis.",
)
UNKNOWN_LIMITS = (
    "No limits are recorded for this model. It may fail on pictures unlike those it was trained "
    "on, without any sign of it here.",
)

_FONTS = {"CDAM": False, "CDAM-Bold": True}
_lock = threading.Lock()  # the library's table of fonts is one for the whole process


@dataclass(frozen=True)
class _Map:
    """One map on the page."""

    explanation: Explanation
    index: int
    scale: float

    @property
    def label(self) -> str:
        target = self.explanation.targets[self.index]
        if target["kind"] == "contrast":
            return f"{target['a']['name']} rather than {target['b']['name']}"
        return self.explanation.labels[self.index]

    @property
    def is_signed(self) -> bool:
        return METHODS[self.explanation.method].signed

    @property
    def patches(self) -> np.ndarray:
        """(rows, cols) scores."""
        return provenance.per_patch(self.explanation).scores[self.index]


def report(
    model: VisionModel,
    image: Image.Image,
    explanations: Sequence[Explanation],
    *,
    logits: np.ndarray | None = None,
    fit: str = "pad",
    drawing: Drawing | None = None,
    regions: Sequence[Region] = (),
    measures: Mapping[str, Sequence[float]] | None = None,
    page: str = "A4",
    question: str = "",
    picture: Image.Image | None = None,
    stamp: tuple[str, str] | None = None,
    said: Sequence[str] = (),
    reading: Sequence[str] = (),
) -> bytes:
    """One page about one picture.

    Args:
        model: that was asked.
        image: PIL RGB that was explained.
        explanations: of it, at least one; the first ``MAX_MAPS`` maps are shown, and how many are
            not is said.
        logits: (C,) of the picture, for the strongest answers; None: computed, where the model has
            classes.
        fit: how the image became the model's input.
        drawing: how the maps are drawn.
        regions: drawn on the picture; the first ``MAX_REGIONS`` are reported.
        measures: name -> number per map in order, NaN where it is not known; the first
            ``MAX_MEASURES`` are shown.
        page: a key of ``PAGES``.
        question: the title; empty: from the first targets.
        picture: shown first in place of what the model saw, such as the same with a scale on it.
        stamp: head and note in the corner, in place of that of simulated data.
        said: sentences before those on where the evidence lies.
        reading: sentences on how to read each map, in place of the strongest answers.

    Returns:
        The bytes of a PDF with one page.
    """
    drawing = drawing or Drawing()
    if logits is None and model.class_names:
        logits = model.logits(model.encode_image(image, fit)).float().cpu().numpy()
    record = provenance.describe(model, image, explanations, fit=fit, drawing=drawing)
    found = [
        _Map(explanation, index, scale)
        for explanation, ends in zip(explanations, record["picture"]["scales"], strict=True)
        for index, scale in enumerate(ends)
    ]
    view = model.fit(image, fit, zoom=pictures.view_zoom(model.input_size)).image
    with _lock:
        sheet = _Sheet(page, f"{METHODS[explanations[0].method].label}, model {model.id}")
        if stamp is None and explanations[0].simulated:
            stamp = ("SIMULATED DATA", record["simulated_note"] or "")
        sheet.header(question or _question(found), stamp)
        sheet.top(_with_regions(picture or view, regions), model, logits,
                  [*said, *_sentences(found, regions)], explanations[0].grid, reading)  # fmt: skip
        rows = _table(found[:MAX_MAPS], regions[:MAX_REGIONS], measures or {})
        sheet.maps(view, found, drawing, regions, room_below=_table_height(rows))
        sheet.table(rows)
        sheet.limits(MODELS.get(model.id, {}).get("limits") or UNKNOWN_LIMITS)
        sheet.footer(record, explanations)
        return sheet.content()


# ---- what is said --------------------------------------------------------------------------------


def _question(found: Sequence[_Map]) -> str:
    for each in found:
        if each.explanation.targets[each.index]["kind"] == "contrast":
            return f"Why {each.label}?"
    return f"What speaks for {found[0].label}?"


def _sentences(found: Sequence[_Map], regions: Sequence[Region]) -> list[str]:
    """Where the evidence lies, then what the regions hold."""
    first = [each for each in found if each.explanation is found[0].explanation]
    said = [summary_words(each.label, each.patches, each.explanation.content, each.is_signed)
            for each in first[:MAX_SENTENCES]]  # fmt: skip
    for number, region in enumerate(regions[:MAX_REGIONS], 1):
        each = first[0]
        inside = shares(each.patches, region.coverage(each.explanation.grid),
                        each.explanation.content)  # fmt: skip
        words = shares_words(each.label, inside, each.is_signed)
        said.append(f"Region {number} ({region.words(each.explanation.grid)}): {words}")
    return said


def _table(
    found: Sequence[_Map], regions: Sequence[Region], measures: Mapping[str, Sequence[float]]
) -> list[list[str]]:
    """Header and one line per map."""
    is_mixed = len({each.explanation.method for each in found}) > 1
    extra = list(measures.items())[:MAX_MEASURES]
    header = ["Map", "value", "sum for", "sum against", "compactness", *(name for name, _ in extra)]
    for number in range(1, len(regions) + 1):
        header += [f"in {number}: for", f"in {number}: against"]
    lines = [header]
    for position, each in enumerate(found):
        scores = counted(each.explanation.scores, each.explanation.content)[each.index]
        method = f" ({METHODS[each.explanation.method].label})" if is_mixed else ""
        unit = each.explanation.units[each.index]
        value, told = _signed(each.explanation.values[each.index]), ""
        if unit != "logit":
            told = f", {unit}"
            # A rating or a length is no evidence, and has no sign.
            value = value.lstrip("+") if "unit" in each.explanation.targets[each.index] else value
        line = [f"{each.label}{method}{told}", value,
                _signed(scores[scores > 0].sum()),
                _signed(scores[scores < 0].sum()) if each.is_signed else "–",
                _number(compactness(scores))]  # fmt: skip
        line += [_number(values[position]) for _, values in extra]
        for region in regions:
            inside = shares(each.patches, region.coverage(each.explanation.grid),
                            each.explanation.content)  # fmt: skip
            line += [_share(inside.positive), _share(inside.negative)]
        lines.append(line)
    return lines


def _settings(explanation: Explanation) -> str:
    told = [f"{name} {'all' if value is None else value}"
            for name, value in explanation.settings.items()]  # fmt: skip
    return f"{METHODS[explanation.method].label}: {', '.join(told) or 'none'}"


def _signed(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"


def _share(value: float) -> str:
    return "–" if np.isnan(value) else f"{100 * value:.0f} %"


def _table_height(rows: Sequence[Sequence[str]]) -> float:
    return LINE * len(rows) + GAP


def _short(text: str, length: int) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 1]}…"


def _with_regions(view: Image.Image, regions: Sequence[Region]) -> Image.Image:
    for region in regions[:MAX_REGIONS]:
        view = pictures.outline_region(view, region)
    return view


# ---- the page ------------------------------------------------------------------------------------


class _Sheet:
    """A page that is filled from top to bottom.

    Args:
        page: a key of ``PAGES``.
        title: of the file.
    """

    def __init__(self, page: str, title: str):
        for name, is_bold in _FONTS.items():
            if name not in pdfmetrics.getRegisteredFontNames():
                pdfmetrics.registerFont(TTFont(name, str(pictures.font_file(is_bold))))
        self.width, self.height = PAGES[page]
        self.inner = self.width - 2 * MARGIN
        self.y = self.height - MARGIN  # where the next part begins
        self.buffer = io.BytesIO()
        self.canvas = Canvas(self.buffer, pagesize=PAGES[page], invariant=1)
        self.canvas.setTitle(pictures.printable(title))
        self.canvas.setCreator("CDAM Explorer")

    def content(self) -> bytes:
        """The finished file."""
        self.canvas.showPage()
        self.canvas.save()
        return self.buffer.getvalue()

    # ---- parts -----------------------------------------------------------------------------------

    def header(self, question: str, stamped: tuple[str, str] | None) -> None:
        """The question, and a stamp, such as that of simulated data: head and note."""
        stamp = 190.0 if stamped else 0.0
        self.text("CDAM Explorer · what speaks for and against an answer", MARGIN, self.y, 340, 10,
                  size=7.5, grey=True)  # fmt: skip
        self.text(_short(question, 120), MARGIN, self.y - 11, self.inner - stamp - GAP, 30,
                  size=15, bold=True)  # fmt: skip
        if stamped:
            left = self.width - MARGIN - stamp
            self.canvas.setLineWidth(1.5)
            self.canvas.rect(left, self.y - 36, stamp, 36)
            self.text(stamped[0], left + 6, self.y - 5, stamp - 12, 14, size=11, bold=True)
            self.text(_short(stamped[1], 90), left + 6, self.y - 19, stamp - 12, 16, size=7)
        self.y -= HEADER

    def top(
        self,
        view: Image.Image,
        model: VisionModel,
        logits: np.ndarray | None,
        sentences: Sequence[str],
        grid: tuple[int, int],
        reading: Sequence[str],
    ) -> None:
        """The picture, the strongest answers or how to read maps, and where the evidence lies.

        Outputs with units of their own have no strongest one.
        """
        self.text(f"What the model saw: {grid[0]} × {grid[1]} patches", MARGIN, self.y, 150, 10,
                  size=7.5, grey=True)  # fmt: skip
        self.picture(view, MARGIN, self.y - 11, 150)
        left, wide = MARGIN + 150 + 1.5 * GAP, 150.0
        if reading:
            wide = 1.3 * wide
            self.points("How to read each map", reading, left, wide)
            left += wide + 1.5 * GAP
        elif logits is not None and not model.units:
            self.bars(model.class_names, logits, left, wide)
            left += wide + 1.5 * GAP
        self.points("In words", sentences, left, self.width - MARGIN - left)
        self.y -= TOP

    def points(self, title: str, sentences: Sequence[str], left: float, wide: float) -> None:
        """Sentences under a title, beside the picture."""
        self.text(title, left, self.y, wide, 10, size=8, bold=True)
        text = "<br/>".join(f"• {escape(_short(pictures.printable(each), 400))}"
                            for each in sentences)  # fmt: skip
        self.markup(text, left, self.y - 12, wide, TOP - 20, size=8)

    def bars(self, names: Sequence[str], logits: np.ndarray, left: float, wide: float) -> None:
        """The strongest answers."""
        self.text("Strongest answers (logits)", left, self.y, wide, 10, size=8, bold=True)
        order = np.argsort(-logits, kind="stable")[:MAX_BARS]
        full = max(float(np.abs(logits[order]).max()), 1e-9)
        y = self.y - 14
        for index in order:
            self.line(names[index], left, y, wide - 34, 7.5)
            self.line(_signed(logits[index]), left + wide - 34, y, 34, 7.5, right=True)
            self.canvas.setFillGray(GREY if logits[index] > 0 else 1)
            self.canvas.setLineWidth(0.5)
            length = wide * abs(float(logits[index])) / full
            self.canvas.rect(left, y - 17, max(length, 0.5), 5, fill=1)
            y -= 26
        self.canvas.setFillGray(0)

    def maps(
        self,
        view: Image.Image,
        found: Sequence[_Map],
        drawing: Drawing,
        regions: Sequence[Region],
        room_below: float,
    ) -> None:
        """The compared maps, each with its scale."""
        shown, left_out = found[:MAX_MAPS], len(found) - MAX_MAPS
        note = 22.0
        room = self.y - MARGIN - room_below - LIMITS - FOOTER - note
        side, per_line = max(self._side(len(shown), lines, room) for lines in (1, 2))
        lines = -(-len(shown) // per_line)
        for position, each in enumerate(shown):
            line, column = divmod(position, per_line)
            top = self.y - line * (side + CAPTION + LEGEND)
            self.map(view, each, drawing, regions, MARGIN + column * (side + GAP), top, side)
        self.y -= lines * (side + CAPTION + LEGEND)
        said = ["“−” on a patch: evidence against, the darker the stronger."
                if any(each.is_signed for each in shown) else ""]  # fmt: skip
        if len({each.scale for each in shown if each.explanation is shown[0].explanation}) > 1:
            said.append("Every map has a scale of its own; the strongest 1 % may lie beyond.")
        elif beyond := pictures.beyond_scale(shown[0].explanation, shown[0].scale):
            said.append(f"{beyond}.")
        if left_out > 0:
            said.append(f"The first {MAX_MAPS} of {len(found)} maps are shown.")
        self.text(" ".join(filter(None, said)), MARGIN, self.y, self.inner, note - 2, size=7.5,
                  grey=True)  # fmt: skip
        self.y -= note

    def _side(self, count: int, lines: int, room: float) -> tuple[float, int]:
        """Side of a map, and maps in a line, for that many lines."""
        per_line = -(-count // lines)
        wide = (self.inner - (per_line - 1) * GAP) / per_line
        return min(MAX_MAP_SIDE, wide, room / lines - CAPTION - LEGEND), per_line

    def map(
        self,
        view: Image.Image,
        each: _Map,
        drawing: Drawing,
        regions: Sequence[Region],
        left: float,
        top: float,
        side: float,
    ) -> None:
        """One map with caption and scale."""
        explanation = each.explanation
        method = METHODS[explanation.method].label
        value = f"value {_signed(explanation.values[each.index])}"
        size = 8 if side >= 100 else 6.5
        self.line(each.label, left, top, side, size, bold=True)
        # Of many maps the values stand in the table only.
        told = f"{value}, {method}" if side >= 100 else method
        self.line(told, left, top - 11, side, size - 1, grey=True)
        drawn = provenance.per_patch(explanation) if drawing.summed else explanation
        picture = pictures.draw(view, drawn, each.index, each.scale, drawing.palette,
                                drawing.opacity, drawing.smooth)  # fmt: skip
        if each.is_signed:
            # A pixel map's marks tell which patches speak against on balance, on a scale of theirs.
            own = drawn.scores.shape[1:] == drawn.grid
            scale = each.scale if own else float(np.abs(each.patches).max()) or 1.0
            picture = pictures.mark_negative(picture, each.patches, scale, explanation.content)
        if drawing.outlines is not None:
            picture.paste(drawing.outlines, mask=drawing.outlines)
        self.picture(_with_regions(picture, regions), left, top - CAPTION, side)
        self.legend(each, drawing, left, top - CAPTION - side, side)

    def legend(self, each: _Map, drawing: Drawing, left: float, top: float, side: float) -> None:
        """The scale under a map, with its ends."""
        palette = pictures.palette_for(each.explanation.method, drawing.palette)
        bar = pictures.legend(each.scale, palette, (18, 360))
        if palette.signed:
            steps = (np.arange(12) + 0.5) / 6 - 1
            bar = pictures.mark_negative(bar, steps[None] * each.scale, each.scale)
        self.canvas.drawImage(ImageReader(bar), left, top - 8, side, 6)
        low, high = pictures.scale_ends(each.scale, palette)
        if palette.signed and side >= 100:
            low, high = f"{low} against", f"for {high}"
        self.line(low, left, top - 8.5, side / 2, 6.5)
        self.line(high, left + side / 2, top - 8.5, side / 2, 6.5, right=True)

    def table(self, rows: Sequence[Sequence[str]]) -> None:
        """Numbers of every map."""
        name = self.inner * (0.28 if len(rows[0]) > 7 else 0.42)
        wide = (self.inner - name) / (len(rows[0]) - 1)
        for number, row in enumerate(rows):
            is_header = number == 0
            size = 7.5 if not is_header else 5.6 if len(row) > 7 else 6.5
            self.line(row[0], MARGIN, self.y, name, size, bold=is_header)
            for column, cell in enumerate(row[1:]):
                left = MARGIN + name + column * wide
                self.line(cell, left, self.y, wide - 2, size, bold=is_header, right=True)
            if is_header:
                self.canvas.setLineWidth(0.5)
                self.canvas.line(MARGIN, self.y - LINE + 1, self.width - MARGIN, self.y - LINE + 1)
            self.y -= LINE
        self.y = MARGIN + LIMITS + FOOTER  # the rest has its place at the bottom

    def limits(self, limits: Sequence[str]) -> None:
        """What the model cannot do, and what maps do not tell."""
        wide = (self.inner - 2 * GAP) / 2
        for column, (title, points) in enumerate(
            (("Limits of this model", limits), ("What the maps do not tell", NOT_TOLD))
        ):
            left = MARGIN + column * (wide + 2 * GAP)
            self.text(title, left, self.y, wide, 11, size=8, bold=True)
            text = "<br/>".join(f"• {escape(_short(pictures.printable(point), 400))}"
                                for point in points[:6])  # fmt: skip
            self.markup(text, left, self.y - 12, wide, LIMITS - 18, size=7.5)
        self.y -= LIMITS

    def footer(self, record: Mapping[str, Any], explanations: Sequence[Explanation]) -> None:
        """Everything needed to compute it again."""
        self.canvas.setLineWidth(0.5)
        self.canvas.line(MARGIN, self.y, self.width - MARGIN, self.y)
        model, image = record["model"], record["image"]
        settings = "; ".join(_settings(each) for each in explanations)
        versions = ", ".join(f"{name} {value}" for name, value in record["versions"].items())
        lines = (
            f"Settings – {settings}. Fitted by: {record['preprocessing']['fit']}, to "
            f"{model['input_size'][0]} × {model['input_size'][1]} pixels. "
            f"{' '.join(image['notes'])}",
            f"Model {model['id']}, weights SHA-256 {model['weights_sha256']}",
            f"Picture {image['size'][0]} × {image['size'][1]} pixels (height × width), SHA-256 of "
            f"the pixels {image['sha256']}",
            f"Versions – {versions}",
        )
        text = "<br/>".join(escape(_short(pictures.printable(line), 500)) for line in lines)
        self.markup(text, MARGIN, self.y - 3, self.inner, FOOTER - 6, size=6.2)

    # ---- pieces ----------------------------------------------------------------------------------

    def line(
        self,
        text: str,
        left: float,
        top: float,
        width: float,
        size: float,
        *,
        bold: bool = False,
        grey: bool = False,
        right: bool = False,
    ) -> None:
        """One line of text, cut off where it does not fit."""
        font, text = "CDAM-Bold" if bold else "CDAM", pictures.printable(" ".join(text.split()))
        text = text[:400]
        if pdfmetrics.stringWidth(text, font, size) > width:
            while text and pdfmetrics.stringWidth(f"{text}…", font, size) > width:
                text = text[:-1]
            text += "…"
        self.canvas.setFont(font, size)
        self.canvas.setFillGray(GREY if grey else 0)
        draw = self.canvas.drawRightString if right else self.canvas.drawString
        draw(left + width if right else left, top - 1.1 * size, text)
        self.canvas.setFillGray(0)

    def text(
        self,
        text: str,
        left: float,
        top: float,
        width: float,
        height: float,
        *,
        size: float,
        bold: bool = False,
        grey: bool = False,
        right: bool = False,
    ) -> None:
        """Text in a box, shrunk where it does not fit."""
        self.markup(escape(pictures.printable(text)), left, top, width, height, size=size,
                    bold=bold, grey=grey, right=right)  # fmt: skip

    def markup(
        self,
        text: str,
        left: float,
        top: float,
        width: float,
        height: float,
        *,
        size: float,
        bold: bool = False,
        grey: bool = False,
        right: bool = False,
    ) -> None:
        """The same for text whose markup is made here."""
        style = ParagraphStyle(
            "", fontName="CDAM-Bold" if bold else "CDAM", fontSize=size, leading=1.22 * size,
            textColor=(GREY,) * 3 if grey else (0, 0, 0), alignment=2 if right else 0,
            splitLongWords=1,
        )  # fmt: skip
        frame = KeepInFrame(width, height, [Paragraph(text, style)], mode="shrink")
        _, used = frame.wrapOn(self.canvas, width, height)
        frame.drawOn(self.canvas, left, top - used)

    def picture(self, picture: Image.Image, left: float, top: float, side: float) -> None:
        """A picture as large as fits a square."""
        scale = side / max(picture.size)
        wide, high = picture.width * scale, picture.height * scale
        self.canvas.drawImage(ImageReader(picture), left, top - high, wide, high)
