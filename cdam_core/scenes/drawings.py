"""Openly licensed drawings: fetched by hash from npm packages and rasterised to sprites.

Packages are pinned by version and integrity hash and downloaded with ``npm pack``; no artwork is
stored in this repository except in the sample scenes. Share-alike sets serve evaluation only.
Needs ``requirements-train.txt`` (resvg-py); nothing of this runs in the app.
"""

import base64
import hashlib
import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from cdam_core.scenes import classes

SPRITE_SIDE = 224  # px of the longest side of a training sprite
OUTLINE_WIDTH = 0.022  # stroke of outlined variants, as a fraction of the icon's height
VISIBLE = 12  # alpha of 255 from which a pixel counts as drawn when cropping


@dataclass(frozen=True)
class DrawingSet:
    """One package of drawings.

    Args:
        package, version, integrity: what ``npm`` reports for the tarball.
        licence: SPDX id of the artwork's licence.
        credit: attribution line for NOTICE and cards.
        emoji: icons are named as emoji are, so the emoji tables apply.
        training: False for share-alike sets, which are used for evaluation only.
        outline: a second variant with a dark stroke on every path is useful.
        ink: monochrome; coloured at random by the generator.
    """

    package: str
    version: str
    integrity: str
    licence: str
    credit: str
    emoji: bool = False
    training: bool = True
    outline: bool = False
    ink: bool = False


@dataclass(frozen=True)
class Sprite:
    """One rasterised drawing, cropped to what is visible.

    Args:
        set_id, icon: where it comes from.
        rgba: (h, w, 4) uint8, straight alpha.
        kind: "plain", "outlined" or "ink".
        standard: one of the class's standard emoji, on which quality is measured.
    """

    set_id: str
    icon: str
    rgba: np.ndarray
    kind: str
    standard: bool


def _iconify(name: str, version: str, integrity: str, licence: str, credit: str,
             **flags) -> DrawingSet:
    return DrawingSet(f"@iconify-json/{name}", version, f"sha512-{integrity}", licence, credit,
                      **flags)


DRAWING_SETS: dict[str, DrawingSet] = {
    "noto": _iconify(
        "noto", "1.2.9",
        "DQiuXENbun41ch+XPSV55H9FaWKpHTyz46YIKtSaKYD4fIDDzL1tR6H4np/T38jfrTAeI3rcKF0mqHYeZVAuaw==",
        "Apache-2.0", "Noto Emoji, Google", emoji=True, outline=True),
    "noto-v1": _iconify(
        "noto-v1", "1.2.5",
        "/DsVMius69Q0fRS53z7QK1TROSuar606jiIx+laXtdsYGMXpf6LtHBx6CGfoo3UHHb/XpBsw+1L1x3eyPqMuVA==",
        "Apache-2.0", "Noto Emoji (first version), Google", emoji=True, outline=True),
    "twemoji": _iconify(
        "twemoji", "1.2.5",
        "uKpuIEV0v6K5BW3Mjdyl+XKFVAbbcPxAgifKvEMtZoUZB5+YiY5zaMm2uNNCxyXzAWU9yNLlj41WU6/mvgALsw==",
        "CC-BY-4.0", "Twemoji, Twitter and contributors", emoji=True, outline=True),
    "fluent-emoji": _iconify(
        "fluent-emoji", "1.2.7",
        "D8G6bKAyIsyxP1rzZtIWr/gg/fO4Rg1+DyCWlfqKK4h8W+4Em/Y0P6QYgJUQTlUcagzJvSyg+9OBv4hz4Hc/QA==",
        "MIT", "Fluent Emoji, Microsoft Corporation", emoji=True),
    "fluent-emoji-flat": _iconify(
        "fluent-emoji-flat", "1.2.6",
        "RY47RgPb47fYUiyrA64sIOL0+UU02s29sXpNBbIQRBUlPlfNFTKUmZDERGuxDs/7yNGWqQYvuaSYM1M4fRXlUw==",
        "MIT", "Fluent Emoji, Microsoft Corporation", emoji=True, outline=True),
    "fxemoji": _iconify(
        "fxemoji", "1.2.2",
        "UAasRaxzFUKfIGSmLwnoarsssA4LX0VLLuEmplIqM6ZNQqIQRtav8tZ4H1neTlBreXuMQyAifr5jP4kn78DpiQ==",
        "CC-BY-4.0", "FxEmojis, Mozilla Foundation", emoji=True, outline=True),
    "emojione": _iconify(
        "emojione", "1.2.3",
        "T9+T3HIbJNLKKsmxYKlaYhvnHYkz/HNYTV7SHCXVZPfeUi4FqskY70YeN8yYAZT8cCv7w5vJxS4Q1m8zb9CMMg==",
        "CC-BY-4.0", "Emojitwo, originally released as Emojione 2.2 by Ranks.com",
        emoji=True, outline=True),
    "openmoji": _iconify(
        "openmoji", "1.2.29",
        "vXdhkqcXVSO6suy+m9LbcUM3OdVyuNOtpV8/als/WqfkQIRxevL5Geb/g+6GH/Qwnq1OqksEmaDGTCmZ5nFKJQ==",
        "CC-BY-SA-4.0", "OpenMoji, HfG Schwäbisch Gmünd and contributors",
        emoji=True, training=False),
    "emojione-v1": _iconify(
        "emojione-v1", "1.2.3",
        "UjI2VQEXVtGlPBvQuxEizro7QCgBcJDOYwKUupquvvZ8UV4xOlvm45IU82JYWegiAWLerY79gFLMZ26U6Ms+ww==",
        "CC-BY-SA-4.0", "Emoji One (first version), Ranks.com", emoji=True, training=False),
    "emojione-monotone": _iconify(
        "emojione-monotone", "1.2.1",
        "cZSNcPsuiAD6HCzCh/2dYKGh3pNI0jJlxBxQWfC33cQsPtqYZqulGBvlkThXYNvDl8VxgVHT9u+izyX/yeEIkA==",
        "CC-BY-4.0", "Emojitwo, originally released as Emojione 2.2 by Ranks.com",
        emoji=True, ink=True),
    "fluent-emoji-high-contrast": _iconify(
        "fluent-emoji-high-contrast", "1.2.6",
        "esqhZPpkrF7sNX3NsLoh8KW64okEr/bzko7WNnFP+qTJGAqDPDYjp0925yxuivXy3HtVQB8xhIKu3+Nq1byX5w==",
        "MIT", "Fluent Emoji, Microsoft Corporation", emoji=True, ink=True),
    "streamline-emojis": _iconify(
        "streamline-emojis", "1.2.4",
        "iNr9T9XuZVTyQPJO8ZlLxBzPkpi7qMl+z1l0C31vpEMqhPMelth3n7CeWQYtixdetDPdI81yeG4ROqjWpYJE6A==",
        "CC-BY-4.0", "Streamline Emojis, Streamline", emoji=True),
    "icon-park": _iconify(
        "icon-park", "1.2.4",
        "S8fVl49LG/M9hvwb7ruFGInK21AHMv3IJehOJRJgXPLE39OOCP3wbfTWjro/XzsjxRwdvX/lYdGetFOZI0TaJQ==",
        "Apache-2.0", "IconPark, ByteDance"),
    "flat-color-icons": _iconify(
        "flat-color-icons", "1.2.3",
        "KcmJ7CY0TKFv5GuBjiS4/v++jEcNXna1jfY+yq014tnw/MN/jMI2oYpoMHGuIpYtUqDu7eove+WySnOYO8nS3w==",
        "MIT", "Flat Color Icons, Icons8", outline=True),
    "game-icons": _iconify(
        "game-icons", "1.2.4",
        "/HDDZxowXgDJcOEwPspUCq5RuDdl25OyZKdtxqqiPJQNTrWIym7r4StLzIVs77DyNzOWWhH5wDqwYR3WHeDfkg==",
        "CC-BY-3.0", "Game-icons.net: Lorc, Delapouite and contributors", ink=True),
    "streamline-ultimate-color": _iconify(
        "streamline-ultimate-color", "1.2.2",
        "NAbD3xLtg3069865B5CLUulp/eowPNCiDfJBxVAmA+LKLPpxU7EIEJ2+mSfWriPd+ahORWyqjRnoPVkTJopEgg==",
        "CC-BY-4.0", "Ultimate color icons, Streamline"),
    "streamline-color": _iconify(
        "streamline-color", "1.2.2",
        "+ypc4kzeKTFbHVM2uNWFqt1iR7E4XeMTI3Wa3LcmeHLPjyk6u6e9NJqqOHUU02rpA8GaN80XHySXzX+4DuZbzA==",
        "CC-BY-4.0", "Core color icons, Streamline"),
    "streamline-stickies-color": _iconify(
        "streamline-stickies-color", "1.2.2",
        "OisPU3Q/VMAHTtJbzRa2lmK8UN+n7D5US0txeL488yrEmoALvRerzIOS8zTNiojNDghJ2/6cp0eh5IK4ezukpA==",
        "CC-BY-4.0", "Stickies color icons, Streamline"),
    "streamline-plump-color": _iconify(
        "streamline-plump-color", "1.2.2",
        "nMLbsfwKt/IJCUDpndY7sW5aZsFUOhQGS2Jdeap+CAfbQMDIzsyEHqe8m3u65wM23q1jBlWoblE7oUXukcvTvw==",
        "CC-BY-4.0", "Plump color icons, Streamline"),
    "streamline-freehand-color": _iconify(
        "streamline-freehand-color", "1.2.2",
        "ql3aN0gPHIClR74SkG89oykRB1LxmwhIWYDM425bVsoZRNhl2uHtNMmIs6CADrCcyhdNQwtieaj49BIT0Idu5A==",
        "CC-BY-4.0", "Freehand color icons, Streamline"),
    "streamline-flex-color": _iconify(
        "streamline-flex-color", "1.2.2",
        "EphxHZHzxcR2B8AU7skOnq27cuOoZDzn69EzLysRkN+Nla7tyqF0eacsFCk70t2T9BhT3LBy9GgGeY3+Db2KPQ==",
        "CC-BY-4.0", "Flex color icons, Streamline"),
    "streamline-cyber-color": _iconify(
        "streamline-cyber-color", "1.2.2",
        "Q7Lx72uUlMGY0+nKqxAal6N3aVRRKipH/R3BEGNLuxG3A2t0N6Mh8sYX+6puJaDPcj37pEFgjM+G3n+FwM7QYw==",
        "CC-BY-4.0", "Cyber color icons, Streamline"),
    "streamline-sharp-color": _iconify(
        "streamline-sharp-color", "1.2.2",
        "pson8ia7zG6FuUcmDcrRWDHyWqgJhe9beEZVg4UxKZ7Xkya5UcQ2zv3w3jl01u69h0fzbY1WyhfUKDPrRyisEg==",
        "CC-BY-4.0", "Sharp color icons, Streamline"),
    "mdi": _iconify(
        "mdi", "1.2.3",
        "O3cLwbDOK7NNDf2ihaQOH5F9JglnulNDFV7WprU2dSoZu3h3cWH//h74uQAB87brHmvFVxIOkuBX2sZSzYhScg==",
        "Apache-2.0", "Material Design Icons, Pictogrammers", ink=True),
    "tabler": _iconify(
        "tabler", "1.2.41",
        "GHg+H/cnr0anaCoV383JONiOMxZQOdojWYNLgL3x0fRE07YW7c+AHiYmIhXet//oq26T830qitdP7l43ojiCXw==",
        "MIT", "Tabler Icons, Paweł Kuna", ink=True),
    "ph": _iconify(
        "ph", "1.2.2",
        "PgkEZNtqa8hBGjHXQa4pMwZa93hmfu8FUSjs/nv4oUU6yLsgv+gh9nu28Kqi8Fz9CCVu4hj1MZs9/60J57IzFw==",
        "MIT", "Phosphor Icons", ink=True),
    "solar": _iconify(
        "solar", "1.2.13",
        "/ZWb6xRib6pzxD/qTkKWYhuzSU2yu0bY+EN0spgtz1NM3d5f4eYueQZpL3PfCdsg5uVfm4Ldtt3cAyQL+YI8/Q==",
        "CC-BY-4.0", "Solar, 480 Design", ink=True),
    "lucide": _iconify(
        "lucide", "1.2.137",
        "uKz1+tFbv1RFX/mJQNksdnyKJijNfRGSNnxfiyKtr+dLNfA3ERph+IgpXClKGOlV/5GsZwLv2jgJXQ/bjF/JAg==",
        "ISC", "Lucide contributors", ink=True),
    "lucide-lab": _iconify(
        "lucide-lab", "1.2.3",
        "N+8vnVt4IY/6FZi81f6nh5VhJSMYrs5KTVsT2Z/E0Wn7Lu4jJKO5fOfiTVX1YWVI4FFwQ1zVXPFb8kLAwskrjA==",
        "ISC", "Lucide contributors", ink=True),
    "hugeicons": _iconify(
        "hugeicons", "1.2.35",
        "c06tY90JZnKhOLBAKoQ1z2pqXMRdATuYXslTKwaaIAjLzKsTIsE+GGknY6+qo/SP0U/NG9xQjr4N+zfDqOeQiQ==",
        "MIT", "Hugeicons", ink=True),
    "mingcute": _iconify(
        "mingcute", "1.2.8",
        "J8VXpRwTpx5yzOzyhx3T4IXnfXIKTWFl3rZ9okcW4c+NMMuwkLvdmM4rkjB83tnYIhg5+kkeMpmw8tvSnxd4rQ==",
        "Apache-2.0", "MingCute Design", ink=True),
    "fa6-solid": _iconify(
        "fa6-solid", "1.2.4",
        "LmDNNdJVyvF5mPm1yxWvL8KjCc/E8LzoqnF1LNTVpyY2ZJRUlGOWuPIThdbuFBF2IovgttkIyumhyqfmlHdwKg==",
        "CC-BY-4.0", "Font Awesome Free, Fonticons", ink=True),
    "maki": _iconify(
        "maki", "1.2.5",
        "ZSeyytU+a720d/mX+XXQicmKGgFTFK4yDvhlK9NUnWjc8jChujwb8bJLfhhp65BYDyq/1lIbeAimQPuVwMyxAg==",
        "CC0-1.0", "Maki, Mapbox", ink=True),
    "temaki": _iconify(
        "temaki", "1.2.6",
        "WqLjY9XW3y3OO4OemOhDldloN6MCHPwM0psmlsSrLMDzsVgODr7LsktBwLfYlOwNoMaUNPOrqp66jaMBAQDaDg==",
        "CC0-1.0", "Temaki, Bryan Housel", ink=True),
    "iconoir": _iconify(
        "iconoir", "1.2.11",
        "clBrCsZPkmdksYOkufVp7aoAU1j1hFQPrLUooWWmoYIMvKskUHQ+IDnwV7agTR+tGYHbud7OP2SRfYEpnqFDNw==",
        "MIT", "Iconoir, Luca Burgio", ink=True),
}

COLOUR_EMOJI = ("noto", "noto-v1", "twemoji", "fluent-emoji", "fluent-emoji-flat", "fxemoji",
                "emojione")  # the "training drawings" of the quality table
UNSEEN_STYLE = ("openmoji",)  # the quality table's second column
SAMPLE_SETS = ("noto", "fluent-emoji", "fluent-emoji-flat", "twemoji")  # committed as pixels


def fetch(set_id: str, cache: Path) -> Path:
    """Make sure that a set's verified tarball lies in ``cache``.

    Returns:
        Path of the tarball.

    Raises:
        SystemExit: if npm is missing or the download is not the pinned file.
    """
    source = DRAWING_SETS[set_id]
    cache.mkdir(parents=True, exist_ok=True)
    name = source.package.lstrip("@").replace("/", "-")
    tarball = cache / f"{name}-{source.version}.tgz"
    if not tarball.exists():
        npm = shutil.which("npm")
        if npm is None:
            raise SystemExit("npm is needed to fetch the drawings: install Node.js, then try again")
        subprocess.run([npm, "pack", "--silent", f"{source.package}@{source.version}"], cwd=cache,
                       check=True, stdout=subprocess.DEVNULL)
    digest = base64.b64encode(hashlib.sha512(tarball.read_bytes()).digest()).decode()
    if f"sha512-{digest}" != source.integrity:
        raise SystemExit(f"{tarball.name} has another hash than the pinned one: delete it")
    return tarball


def load_icons(set_id: str, cache: Path) -> dict:
    """The package's icons.json, read straight from the verified tarball."""
    with tarfile.open(fetch(set_id, cache)) as archive:
        return json.load(archive.extractfile("package/icons.json"))


def icon_names(class_name: str, set_id: str) -> tuple[list[str], list[str]]:
    """Names under which a set may hold the class: the standard ones, and further ones."""
    standard, extra = [], []
    if DRAWING_SETS[set_id].emoji:
        standard = list(classes.EMOJI_NAMES.get(class_name, (class_name,)))
        extra = list(classes.EXTRA_EMOJI_NAMES.get(class_name, ()))
    for entry in classes.ICON_NAMES.get(class_name, "").split():
        owner, _, icon = entry.partition(":")
        if owner == set_id:
            extra.append(icon)
    return standard, extra


def find_icon(icons: dict, name: str) -> str | None:
    """The key in ``icons`` that ``name`` stands for, aliases and hyphens ignored."""
    aliases = icons.get("aliases", {})
    known = {key.replace("-", ""): key for key in (*aliases, *icons["icons"])}
    key = known.get(name.replace("-", ""))
    while key in aliases and key not in icons["icons"]:
        key = aliases[key]["parent"]
    return key if key in icons["icons"] else None


def to_svg(icons: dict, key: str, side: int, outline: bool = False) -> str:
    """A stand-alone SVG of one icon; ``outline`` strokes every path that has no stroke yet."""
    icon = icons["icons"][key]
    width = icon.get("width", icons.get("width", 16))
    height = icon.get("height", icons.get("height", 16))
    margin = OUTLINE_WIDTH * height if outline else 0
    box = (icon.get("left", 0) - margin, icon.get("top", 0) - margin,
           width + 2 * margin, height + 2 * margin)
    style = ""
    if outline:
        style = (f' stroke="#141414" stroke-width="{OUTLINE_WIDTH * height:.3f}"'
                 ' stroke-linejoin="round"')
    return ('<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
            f'viewBox="{box[0]} {box[1]} {box[2]} {box[3]}" width="{side}" height="{side}" '
            f'color="#000"{style}>{icon["body"]}</svg>')


def rasterise(svg: str, side: int) -> np.ndarray:
    """(h, w, 4) uint8 picture of the drawing, cropped, its longest side ``side`` pixels."""
    try:
        import resvg_py
    except ImportError as error:
        raise SystemExit("drawing needs resvg-py: pip install -r requirements-train.txt") from error
    image = Image.open(io.BytesIO(bytes(resvg_py.svg_to_bytes(svg_string=svg)))).convert("RGBA")
    rows, cols = np.where(np.asarray(image)[..., 3] > VISIBLE)
    image = image.crop((cols.min(), rows.min(), cols.max() + 1, rows.max() + 1))
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return np.asarray(image.resize(size, Image.LANCZOS))


def ink_layers(rgba: np.ndarray) -> np.ndarray:
    """A monochrome drawing as (h, w, 4): ink in the red channel, its filled silhouette in alpha.

    The silhouette is everything that the ink encloses; the generator paints the two apart.
    """
    ink = rgba[..., 3]
    inside = ndimage.binary_fill_holes(ndimage.binary_closing(ink > 96, iterations=2))
    silhouette = np.maximum(ink, np.where(inside, 255, 0)).astype(np.uint8)
    return np.dstack([ink, ink, ink, silhouette])


def draw_class(class_name: str, set_id: str, icons: dict, side: int = SPRITE_SIDE,
               variants: bool = True) -> list[Sprite]:
    """All sprites of a class in one set; ``variants`` adds the outlined ones."""
    source, sprites, done = DRAWING_SETS[set_id], [], set()
    standard, extra = icon_names(class_name, set_id)
    for name in standard + extra:
        key = find_icon(icons, name)
        if key is None or key in done:
            continue
        done.add(key)
        picture = rasterise(to_svg(icons, key, 2 * side), side)
        kind = "ink" if source.ink else "plain"
        picture = ink_layers(picture) if source.ink else picture
        sprites.append(Sprite(set_id, key, picture, kind, name in standard))
        if variants and source.outline:
            picture = rasterise(to_svg(icons, key, 2 * side, outline=True), side)
            sprites.append(Sprite(set_id, key, picture, "outlined", False))
    return sprites


def draw(set_ids, cache: Path, side: int = SPRITE_SIDE, variants: bool = True,
         class_names=classes.CLASS_NAMES) -> dict[str, list[Sprite]]:
    """Fetch and rasterise: class name -> its sprites in the given sets."""
    sprites = {name: [] for name in class_names}
    for set_id in set_ids:
        icons = load_icons(set_id, cache)
        for name in class_names:
            sprites[name] += draw_class(name, set_id, icons, side, variants)
    return sprites


def training_sets() -> list[str]:
    """Ids of the sets that may be trained on: no share-alike licence among them."""
    return [set_id for set_id, source in DRAWING_SETS.items() if source.training]
