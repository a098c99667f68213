"""Composed scenes: exact masks, labels, seeds, overlap, sizes; and that reserved classes stay out.

The sprites are plain shapes made here, so no drawing has to be fetched; tests marked ``art`` fetch
the real ones.
"""

from dataclasses import replace

import numpy as np
import pytest

from cdam_core.scenes import backgrounds, classes, drawings, styles
from cdam_core.scenes.drawings import Sprite
from cdam_core.scenes.generator import MEASURED, TRAINING, Recipe, SceneGenerator

SIDE = 112
RED, BLUE, GREEN = (220, 30, 30), (30, 30, 220), (20, 200, 20)
PLAIN = Recipe(style="none", kinds=(("plain", 1.0),), max_overlap=0.3)


def shape(colour, size=(96, 96), disc=False, kind="plain"):
    """A flat sprite, fully opaque inside."""
    rows, cols = np.mgrid[0:size[0], 0:size[1]]
    radius = min(size) / 2
    inside = np.hypot(rows - size[0] / 2, cols - size[1] / 2) < radius if disc else rows >= 0
    rgba = np.zeros((*size, 4), np.uint8)
    rgba[..., :3], rgba[..., 3] = colour, np.where(inside, 255, 0)
    return Sprite("toy", "shape", rgba, kind, standard=True)


SPRITES = {"lion": [shape(RED)], "zebra": [shape(BLUE, disc=True)], "owl": [shape(GREEN, (60, 96))]}


class White:
    """A background on which every object stands out."""

    def crop(self, rng):
        return np.full((SIDE, SIDE, 3), 255.0, np.float32)


def scenes(recipe, count, seed=0, sprites=SPRITES, **options):
    generator = SceneGenerator(sprites, recipe, SIDE, seed, **({"backgrounds": 4} | options))
    return [generator.scene() for _ in range(count)]


def test_masks_are_where_the_pixels_are():
    for scene in scenes(PLAIN, 20, backgrounds=White()):
        image = scene.image.astype(int)
        for index, label in enumerate(scene.labels, 1):
            rgba = SPRITES[classes.CLASS_NAMES[label]][0].rgba
            colour = rgba[48 if len(rgba) > 48 else 30, 48, :3].astype(int)
            like_it = np.abs(image - colour).max(-1) < 60
            on = scene.mask == index
            # Only the blended rim may disagree: about one pixel around the outline.
            assert (like_it & ~on).sum() <= 0.06 * on.sum()
            assert (on & ~like_it).sum() <= 0.06 * on.sum()


def test_labels_count_the_objects_in_mask_order():
    for scene in scenes(TRAINING, 20, sprites={n: [replace(s[0])] for n, s in SPRITES.items()}):
        assert set(np.unique(scene.mask)) - {0} == set(range(1, len(scene.labels) + 1))
        assert len(scene.credits) == len(scene.labels)


def test_asked_classes_are_shown_in_order():
    scene = SceneGenerator(SPRITES, PLAIN, SIDE, 1, 2).scene(["owl", "lion"])
    assert [classes.CLASS_NAMES[label] for label in scene.labels] == ["owl", "lion"]


def test_the_same_seed_gives_the_same_scenes():
    one, two, other = scenes(TRAINING, 5, 3), scenes(TRAINING, 5, 3), scenes(TRAINING, 5, 4)
    for a, b in zip(one, two, strict=True):
        assert a.labels == b.labels
        np.testing.assert_array_equal(a.image, b.image)
        np.testing.assert_array_equal(a.mask, b.mask)
    assert any(not np.array_equal(a.image, b.image) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("allowed", [0.0, 0.05])
def test_no_object_hides_more_of_another_than_allowed(allowed):
    # Upright squares fill their bounding box, so what is missing from it was hidden.
    squares = {"lion": [shape(RED)], "zebra": [shape(BLUE)]}
    recipe = replace(MEASURED, style="none", tilt=1e-9, min_inside=1.0, max_overlap=allowed)
    for scene in scenes(recipe, 40, sprites=squares):
        first = np.argwhere(scene.mask == 1)
        height, width = np.ptp(first, axis=0) + 1
        assert len(first) >= (1 - allowed) * height * width - 1


def test_sizes_follow_the_recipe_at_any_side():
    recipe = replace(MEASURED, style="none", tilt=1e-9, min_inside=1.0, max_overlap=0.0)
    discs = {"lion": [shape(RED, disc=True)], "zebra": [shape(BLUE, disc=True)]}
    for side in (56, 224):
        generator = SceneGenerator(discs, recipe, side, 2, 2)
        for scene in (generator.scene() for _ in range(10)):
            for index in (1, 2):
                height = np.ptp(np.argwhere(scene.mask == index)[:, 0]) + 1
                assert 40 / 112 * side - 2 <= height <= 60 / 112 * side + 2


def test_measured_scenes_use_standard_plain_drawings_only():
    extra = replace(shape(GREEN), standard=False, icon="extra")
    outlined = replace(shape(GREEN), kind="outlined", icon="outlined")
    sprites = {name: [*pool, extra, outlined] for name, pool in SPRITES.items()}
    used = {credit for scene in scenes(MEASURED, 20, sprites=sprites) for credit in scene.credits}
    assert used == {"toy:shape"}


def test_reserved_classes_are_refused_and_not_in_any_table():
    with pytest.raises(ValueError, match="reserved"):
        SceneGenerator(SPRITES | {"fox": [shape(RED)]}, TRAINING, SIDE)
    icons = [name for names in (*classes.EMOJI_NAMES.values(), *classes.EXTRA_EMOJI_NAMES.values())
             for name in names]
    icons += [entry.split(":")[1] for entry in " ".join(classes.ICON_NAMES.values()).split()]
    words = {word for icon in icons for word in icon.split("-")}
    assert not words & {*classes.RESERVED_CLASSES, "maize", "locomotive", "bactrian"}
    assert not set(classes.CLASS_NAMES) & set(classes.RESERVED_CLASSES)


def test_the_forty_classes_in_their_order():
    assert len(classes.CLASS_NAMES) == len(set(classes.CLASS_NAMES)) == 40
    assert len(classes.RESERVED_CLASSES) == 12
    assert classes.CLASS_NAMES[:2] == ("elephant", "zebra")
    assert classes.CLASS_NAMES[-1] == "soccer-ball"
    assert set(classes.ICON_NAMES) <= set(classes.CLASS_NAMES)


def test_share_alike_drawings_are_never_trained_on():
    for set_id in drawings.training_sets():
        assert "SA" not in drawings.DRAWING_SETS[set_id].licence
    assert not set(drawings.UNSEEN_STYLE) & set(drawings.training_sets())
    assert set(drawings.SAMPLE_SETS) <= set(drawings.COLOUR_EMOJI) <= set(drawings.training_sets())


def test_every_icon_table_entry_names_a_known_set():
    owners = {entry.split(":")[0] for entry in " ".join(classes.ICON_NAMES.values()).split()}
    assert owners <= set(drawings.training_sets())


def test_a_wrong_download_is_refused(tmp_path):
    source = drawings.DRAWING_SETS["noto"]
    (tmp_path / f"iconify-json-noto-{source.version}.tgz").write_bytes(b"something else")
    with pytest.raises(SystemExit, match="another hash"):
        drawings.fetch("noto", tmp_path)


def test_aliases_and_hyphens_lead_to_the_icon():
    icons = {"icons": {"lion-face": {}}, "aliases": {"lion": {"parent": "lion-face"}}}
    assert drawings.find_icon(icons, "lion") == "lion-face"
    assert drawings.find_icon(icons, "lionface") == "lion-face"
    assert drawings.find_icon(icons, "tiger") is None


def test_ink_drawings_are_filled_where_the_ink_encloses():
    ring = np.zeros((60, 60, 4), np.uint8)
    distance = np.hypot(*(np.mgrid[0:60, 0:60] - 29.5))
    ring[..., 3] = np.where((distance < 25) & (distance > 20), 255, 0)
    layers = drawings.ink_layers(ring)
    assert layers[30, 30, 0] == 0
    assert layers[30, 30, 3] == 255
    assert layers[2, 2, 3] == 0


@pytest.mark.parametrize("kind", backgrounds.BACKGROUNDS, ids=lambda kind: kind.__name__)
def test_backgrounds_are_pictures(kind):
    picture = kind(np.random.default_rng(0), 40)
    assert picture.shape == (40, 40, 3)
    assert np.isfinite(picture).all()


@pytest.mark.parametrize("change", styles.STRONG, ids=lambda change: change.__name__)
def test_a_change_of_style_keeps_shapes_together(change):
    rng = np.random.default_rng(0)
    rgba = shape(RED, (50, 70), disc=True).rgba.astype(np.float32)
    rgb, alpha = change(rgba[..., :3], rgba[..., 3] / 255, rng)
    assert rgb.shape[:2] == alpha.shape
    assert 0 <= alpha.min() <= alpha.max() <= 1
    assert np.isfinite(rgb).all()


@pytest.mark.art
def test_every_class_has_drawings_in_both_columns(tmp_path):
    """Run with ``python -m pytest -m art``; fetches the pinned packages with npm."""
    for set_ids, least in ((drawings.COLOUR_EMOJI, 4), (drawings.UNSEEN_STYLE, 1)):
        sprites = drawings.draw(set_ids, tmp_path, side=64, variants=False)
        assert all(len(pool) >= least for pool in sprites.values())
