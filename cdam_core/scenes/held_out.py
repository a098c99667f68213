"""Scenes with the classes kept for concepts: to build and to measure concepts, never to train.

``SceneGenerator`` refuses these drawings, so that no training can show them by mistake. Here they
stand behind the names of trained classes while a scene is composed; masks number the objects.
"""

from collections.abc import Sequence
from pathlib import Path

from cdam_core.scenes import drawings
from cdam_core.scenes.classes import CLASS_NAMES, RESERVED_CLASSES
from cdam_core.scenes.drawings import Sprite
from cdam_core.scenes.generator import Recipe, Scene, SceneGenerator

# Names of icons that differ from the class name.
ICONS = {"corn": "ear-of-corn"}


class HeldOutScenes(SceneGenerator):
    """Composes scenes of any classes, the reserved ones included.

    Args:
        sprites: class name -> drawings, from ``drawings.draw``.
        recipe: what the scenes look like.
        side: height and width in pixels.
        seed: fixes backgrounds and scenes.
        backgrounds: as for ``SceneGenerator``.
    """

    def __init__(self, sprites: dict[str, list[Sprite]], recipe: Recipe, side: int, seed: int,
                 backgrounds=100):
        super().__init__({}, recipe, side, seed, backgrounds)
        self.pools = {name: self._pool(own) for name, own in sprites.items()}
        self._shown: dict[str, str] = {}

    def show(self, names: Sequence[str]) -> Scene:
        """A scene of the named classes, one object each; object k of the mask is the k-th.

        The scene's labels are those of the stand-ins and mean nothing.
        """
        self._shown = dict(zip(CLASS_NAMES, names, strict=False))
        return self.scene(list(self._shown))

    def _draw_sprite(self, name: str) -> Sprite:
        return super()._draw_sprite(self._shown[name])


def draw_all(set_ids: Sequence[str], cache: Path,
             side: int = drawings.SPRITE_SIDE) -> dict[str, list[Sprite]]:
    """Drawings of the trained and of the reserved classes, plain ones only."""
    icons = [ICONS.get(name, name) for name in RESERVED_CLASSES]
    drawn = drawings.draw(set_ids, cache, side, variants=False, class_names=(*CLASS_NAMES, *icons))
    return dict(zip((*CLASS_NAMES, *RESERVED_CLASSES), drawn.values(), strict=True))
