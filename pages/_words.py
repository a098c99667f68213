"""Words on the page: text that cannot become markup, numbers with signs, safe file names."""

import math
import re
import unicodedata

_MARKUP = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~:$&=^\"'@])")
_UNSAFE_IN_NAMES = re.compile(r"[^\w-]+")


def plain(text: str) -> str:
    """Text for a place that reads Markdown: every character of it appears as it is."""
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def signed(value: float, decimals: int = 2) -> str:
    """A number with its sign, +0.21 or −0.08."""
    rounded = round(value, decimals) + 0.0  # no negative zero
    sign = "+" if rounded > 0 else "−" if rounded < 0 else ""
    return f"{sign}{abs(rounded):.{decimals}f}"


def decimals_for(scale: float) -> int:
    """Decimals that show three digits of numbers up to ``scale``: two at least, eight at most."""
    return min(8, max(2, 2 - math.floor(math.log10(scale)))) if scale > 0 else 2


def percent(share: float) -> str:
    """A share from 0 to 1 as "83 %"."""
    return f"{100 * share:.0f} %"


def file_name(parts: list[str], suffix: str) -> str:
    """A name for a download that every system accepts, such as cdam_scenes_zebra_elephant.png."""
    text = "_".join(unicodedata.normalize("NFKC", part) for part in parts)
    return f"{_UNSAFE_IN_NAMES.sub('-', text).strip('-_')[:80]}.{suffix}"
