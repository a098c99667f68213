"""cdam_core.images: every kind of odd file, made here byte by byte where that is possible."""

import io
import struct
import subprocess
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from cdam_core import images
from cdam_core.errors import BadImage
from cdam_core.images import digest, fit_image, fit_mask, open_image

RNG = np.random.default_rng(0)
PICTURE = RNG.integers(0, 256, (24, 40, 3), dtype=np.uint8)  # (H, W, 3), nowhere symmetric
FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "GIF")
SECRET = "Erika Example 1970"

# Damaged metadata makes Pillow warn; the warnings are none of this module's promises.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


# ---- builders ------------------------------------------------------------------------------------

def saved(image, format="PNG", **options) -> bytes:
    """The file Pillow writes for an image or array."""
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, payload: bytes) -> bytes:
    return (struct.pack(">I", len(payload)) + kind + payload
            + struct.pack(">I", zlib.crc32(kind + payload)))


def png(height, width, bit_depth, colour_type, rows: bytes, extra: bytes = b"") -> bytes:
    """A PNG from filter-less scan lines, by the specification and without Pillow."""
    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    stride = len(rows) // height
    lines = b"".join(b"\0" + rows[i * stride:(i + 1) * stride] for i in range(height))
    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + extra
            + chunk(b"IDAT", zlib.compress(lines, 9)) + chunk(b"IEND", b""))


def tiff(values: np.ndarray, photometric=1) -> bytes:
    """An uncompressed little-endian grey TIFF by the specification, without Pillow."""
    height, width = values.shape
    sample_format = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    data = values.astype(values.dtype.newbyteorder("<")).tobytes()
    tags = [(256, 4, width), (257, 4, height), (258, 3, values.dtype.itemsize * 8), (259, 3, 1),
            (262, 3, photometric), (273, 4, 8 + 2 + 10 * 12 + 4), (277, 3, 1), (278, 4, height),
            (279, 4, len(data)), (339, 3, sample_format)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 0) + data


def exif(orientation: int) -> bytes:
    return b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, orientation, 0, 0)


def pixels_of(source, **options) -> np.ndarray:
    image = open_image(source, **options)
    assert image.mode == "RGB"
    assert set(image.info) == {"notes"}
    return np.asarray(image)


def refusal(source, **options) -> str:
    with pytest.raises(BadImage) as caught:
        open_image(source, **options)
    assert caught.value.__context__ is None or caught.value.__suppress_context__
    assert str(caught.value).endswith(".")
    return caught.value.reason


# ---- good files ----------------------------------------------------------------------------------

@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP", "WEBP"])
def test_lossless_files_come_back_exactly(format):
    options = {"lossless": True} if format == "WEBP" else {}
    image = open_image(saved(PICTURE, format, **options))
    assert np.array_equal(image, PICTURE)
    assert image.info == {"notes": []}


def test_bytes_path_and_streams_give_the_same_picture(tmp_path):
    data = saved(PICTURE)
    path = tmp_path / "x.dat"  # the content decides, not the name
    path.write_bytes(data)
    read_before = io.BytesIO(data)
    read_before.read()
    for source in (data, bytearray(data), memoryview(data), path, str(path), read_before):
        assert np.array_equal(pixels_of(source), PICTURE)
    with path.open("rb") as file:
        assert np.array_equal(pixels_of(file), PICTURE)


def test_grey_png_written_by_hand():
    rows = PICTURE[..., 0]
    assert np.array_equal(pixels_of(png(24, 40, 8, 0, rows.tobytes())), np.stack([rows] * 3, -1))


def test_one_bit_png_written_by_hand():
    bits = RNG.integers(0, 2, (16, 24), dtype=np.uint8)
    data = png(16, 24, 1, 0, np.packbits(bits, axis=1).tobytes())
    assert np.array_equal(pixels_of(data), np.stack([bits * 255] * 3, -1))


def test_cmyk_jpeg_becomes_rgb_with_a_note():
    solid = np.full((32, 32, 4), (0, 255, 255, 0), np.uint8)  # no cyan, full magenta and yellow
    image = open_image(saved(Image.fromarray(solid, "CMYK"), "JPEG", quality=95))
    assert np.abs(np.asarray(image).astype(int) - (255, 0, 0)).max() <= 3
    assert image.info["notes"] == ["colours converted from CMYK to RGB"]


def test_lab_and_ycbcr_tiff_become_rgb():
    white = saved(Image.new("LAB", (20, 20), (255, 128, 128)), "TIFF")
    assert b"\xff\0\0" * 400 in white  # L* = 100, a* = b* = 0 as TIFF stores them
    assert pixels_of(white).min() >= 250
    grey = saved(Image.new("YCbCr", (20, 20), (100, 128, 128)), "TIFF")
    assert np.abs(pixels_of(grey).astype(int) - 100).max() <= 1


@pytest.mark.parametrize("alpha", [0, 51, 255])
def test_grey_with_alpha_goes_onto_white(alpha):
    value = 90
    data = png(16, 16, 8, 4, bytes([value, alpha]) * 256)
    expected = value * alpha / 255 + 255 * (1 - alpha / 255)
    image = open_image(data)
    assert np.abs(np.asarray(image) - expected).max() <= 1
    assert bool(image.info["notes"]) == (alpha < 255)


def test_palette_with_transparent_entry_goes_onto_white():
    palette = chunk(b"PLTE", bytes([255, 0, 0, 0, 0, 255])) + chunk(b"tRNS", bytes([0, 255]))
    index = np.zeros((16, 16), np.uint8)
    index[:, 8:] = 1
    got = pixels_of(png(16, 16, 8, 3, index.tobytes(), palette))
    assert (got[:, :8] == 255).all()
    assert (got[:, 8:] == (0, 0, 255)).all()


def test_rgb_with_a_transparent_colour_goes_onto_white():
    rgb = np.full((16, 16, 3), (10, 20, 30), np.uint8)
    rgb[:4] = (1, 2, 3)
    data = png(16, 16, 8, 2, rgb.tobytes(), chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    got = pixels_of(data)
    assert (got[:4] == 255).all()
    assert (got[4:] == (10, 20, 30)).all()


@pytest.mark.parametrize("mode", ["PA", "La", "RGBa", "RGBA"])
def test_other_alpha_modes(mode):
    clear = Image.new("RGBA", (20, 20), (200, 0, 0, 0))
    through = {"PA": "P", "La": "LA"}.get(mode, "RGBA")
    assert np.asarray(images._to_rgb(clear.convert(through).convert(mode), False, [])).min() == 255


# ---- wide values ---------------------------------------------------------------------------------

def test_sixteen_bit_png_is_windowed_not_saturated():
    ramp = np.linspace(1000, 3000, 100 * 40).reshape(100, 40).astype(">u2")
    image = open_image(png(100, 40, 16, 0, ramp.tobytes()))
    grey = np.asarray(image)[..., 0].astype(float)
    low, high = np.percentile(ramp, (0.5, 99.5))
    expected = np.clip((ramp.astype(float) - low) / (high - low), 0, 1) * 255
    assert np.abs(grey - expected).max() <= 0.5 + 1e-9
    assert image.info["notes"] == [f"values {low:g} to {high:g} shown as black to white"]


@pytest.mark.parametrize("values", [
    np.linspace(0, 1, 1600, dtype=np.float32), np.linspace(-3e38, 3e38, 1600, dtype=np.float32),
    np.linspace(-900, 1200, 1600).astype(np.int16), np.linspace(0, 60000, 1600).astype(np.uint16),
    2**30 + np.arange(1600, dtype=np.int32)], ids=lambda v: f"{v.dtype}-{v[-1]:g}")
def test_any_range_uses_the_whole_grey_scale_in_order(values):
    grey = pixels_of(tiff(values.reshape(40, 40)))[..., 0].ravel()
    assert (np.diff(grey.astype(int)) >= 0).all()
    assert (grey[0], grey[-1]) == (0, 255)
    assert len(np.unique(grey)) == 256


def test_white_is_zero_is_shown_the_right_way_round():
    values = np.linspace(0, 60000, 1600).astype(np.uint16).reshape(40, 40)
    grey = pixels_of(tiff(values, photometric=0))[..., 0]
    assert grey[0, 0] == 255
    assert grey[-1, -1] == 0


def test_a_few_bright_values_on_a_flat_background_survive():
    values = np.zeros((40, 40), np.uint16)
    values[7, 9] = 5000
    grey = pixels_of(tiff(values))[..., 0]
    assert grey[7, 9] == 255
    assert grey.sum() == 255


@pytest.mark.parametrize("value", [0, 7, 65535])
def test_constant_wide_image_is_mid_grey_with_a_note(value):
    image = open_image(tiff(np.full((20, 20), value, np.uint16)))
    assert (np.asarray(image) == 128).all()
    assert image.info["notes"] == [f"every pixel has the value {value:g}, shown as mid grey"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_values_are_refused(bad):
    values = np.linspace(0, 1, 400, dtype=np.float32).reshape(20, 20)
    values[3, 4] = bad
    assert refusal(tiff(values)) == "not-finite"


# ---- orientation, frames, profiles, metadata -----------------------------------------------------

def stored(upright: np.ndarray, orientation: int) -> np.ndarray:
    """What a camera stores, from the Exif definition of where row 0 and column 0 lie."""
    height, width = upright.shape[:2]
    turned = orientation >= 5
    rows, columns = np.indices((width, height) if turned else (height, width))
    source = {1: (rows, columns), 2: (rows, width - 1 - columns),
              3: (height - 1 - rows, width - 1 - columns), 4: (height - 1 - rows, columns),
              5: (columns, rows), 6: (columns, width - 1 - rows),
              7: (height - 1 - columns, width - 1 - rows), 8: (height - 1 - columns, rows)}
    return upright[source[orientation]]


def with_orientation(array, format, orientation) -> bytes:
    if format == "PNG":
        height, width = array.shape[:2]
        return png(height, width, 8, 2, array.tobytes(), chunk(b"eXIf", exif(orientation)))
    if format == "TIFF":
        return saved(array, "TIFF", tiffinfo={274: orientation})
    return saved(array, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(orientation))


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_shown_upright(orientation, format):
    image = open_image(with_orientation(stored(PICTURE, orientation), format, orientation))
    assert np.array_equal(image, PICTURE)
    assert len(image.info["notes"]) == (orientation != 1)


@pytest.mark.parametrize("orientation", [2, 6, 7])
def test_jpeg_orientation_in_a_hand_made_app1_segment(orientation):
    blocks = np.kron(PICTURE[:3, :5], np.ones((16, 16, 1), np.uint8))
    data = saved(stored(blocks, orientation), "JPEG", quality=95, subsampling=0)
    segment = b"Exif\0\0" + exif(orientation)
    data = data[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + data[2:]
    assert np.abs(pixels_of(data).astype(int) - blocks).max() <= 12


def test_damaged_exif_does_not_cost_the_picture():
    data = png(24, 40, 8, 2, PICTURE.tobytes(), chunk(b"eXIf", exif(6)[:-9] + b"\xff"))
    assert np.array_equal(pixels_of(data), PICTURE)
    data = png(24, 40, 8, 2, PICTURE.tobytes(), chunk(b"eXIf", exif(77)))
    assert np.array_equal(pixels_of(data), PICTURE)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "TIFF", "PNG"])
def test_first_of_several_frames_with_a_note(format):
    frames = [Image.new("RGB", (32, 20), colour) for colour in ("red", "lime", "blue")]
    options = {"lossless": True} if format == "WEBP" else {}
    data = saved(frames[0], format, save_all=True, append_images=frames[1:], **options)
    image = open_image(data)
    assert (np.asarray(image) == (255, 0, 0)).all()
    assert image.info["notes"] == ["frame 1 of 3"]


def test_damaged_second_page_does_not_cost_the_first():
    pages = [Image.fromarray(PICTURE)] * 2
    data = bytearray(saved(pages[0], "TIFF", save_all=True, append_images=pages[1:]))
    first = struct.unpack_from("<I", data, 4)[0]
    n_entries = struct.unpack_from("<H", data, first)[0]
    struct.pack_into("<I", data, first + 2 + 12 * n_entries, len(data) + 1000)
    assert np.array_equal(pixels_of(bytes(data)), PICTURE)


@pytest.mark.parametrize("profile", [b"no profile at all", RNG.bytes(3_000_000), bytes(90_000_000)],
                         ids=["broken", "huge", "bomb"])
def test_colour_profiles_are_ignored(profile):
    broken = chunk(b"iCCP", b"x\0\0" + zlib.compress(profile, 1))
    assert np.array_equal(pixels_of(png(24, 40, 8, 2, PICTURE.tobytes(), broken)), PICTURE)


@pytest.mark.parametrize("format", ["JPEG", "TIFF", "WEBP"])
def test_broken_profile_in_other_formats(format):
    plain, profiled = (saved(PICTURE, format, **options)
                       for options in ({}, {"icc_profile": RNG.bytes(70_000)}))
    assert np.array_equal(pixels_of(plain), pixels_of(profiled))


def test_text_bomb_is_refused():
    bomb = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(90_000_000)))
    assert refusal(png(24, 40, 8, 2, PICTURE.tobytes(), bomb)) == "unreadable"


def test_no_metadata_survives(tmp_path):
    names = Image.Exif()
    names[0x010E] = names[0x013B] = SECRET  # description and artist
    names[0x8825] = {1: "N", 2: (52.0, 13.0, 0.0)}  # position
    files = [png(24, 40, 8, 2, PICTURE.tobytes(), chunk(b"tEXt", b"Author\0" + SECRET.encode())),
             saved(PICTURE, "JPEG", exif=names, comment=SECRET.encode()),
             saved(PICTURE, "TIFF", tiffinfo={270: SECRET, 315: SECRET}),
             saved(PICTURE, "GIF", comment=SECRET.encode()), saved(PICTURE, "WEBP", exif=names)]
    for data in files:
        assert SECRET.encode() in data
        image = open_image(data)
        assert set(image.info) == {"notes"}
        assert not dict(image.getexif())
        assert SECRET not in repr(vars(image))
        for format in FORMATS:
            assert SECRET.encode() not in saved(image, format)


# ---- bad files -----------------------------------------------------------------------------------

@pytest.mark.parametrize(("data", "reason"), [
    (b"", "empty"),
    (b"just text, renamed to picture.png", "unreadable"),
    (b'<svg xmlns="http://www.w3.org/2000/svg" width="99" height="99"/>', "unreadable"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", "unreadable"),
    (b"P6 32 32 255\n" + bytes(3 * 32 * 32), "unreadable"),  # a format outside the list
    (png(1, 1, 8, 0, b"\0"), "too-small"),
    (png(15, 200, 8, 0, bytes(15 * 200)), "too-small"),
    (png(1, 20000, 8, 0, bytes(20000)), "too-small"),
    (png(16, 321, 8, 0, bytes(16 * 321)), "too-elongated"),
    (png(321, 16, 8, 0, bytes(16 * 321)), "too-elongated"),
], ids=["empty", "text", "svg", "eps", "ppm", "1x1", "15x200", "1x20000", "wide", "tall"])
def test_refused_with_a_reason(data, reason):
    assert refusal(data) == reason


def test_limits_are_inclusive():
    assert pixels_of(png(16, 320, 8, 0, bytes(16 * 320))).shape == (16, 320, 3)
    data = saved(PICTURE)
    assert np.array_equal(pixels_of(data, max_bytes=len(data)), PICTURE)
    assert refusal(data, max_bytes=len(data) - 1) == "too-large"


@pytest.mark.parametrize("source", [None, 5, "no such file.png", "nul\0byte", "", ".", [1, 2],
                                    io.StringIO("text"), Image.new("RGB", (20, 20)), PICTURE])
def test_other_sources_are_refused(source):
    assert refusal(source) == "unreadable"


def test_messages_contain_nothing_of_the_user(tmp_path):
    path = tmp_path / f"{SECRET}.png"
    for content in (None, b"", SECRET.encode(), saved(PICTURE)[:200]):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadImage) as caught:
            open_image(path)
        assert "Erika" not in str(caught.value)


@pytest.mark.parametrize("format", FORMATS)
def test_a_cut_file_never_gives_a_partial_picture(format):
    data = saved(PICTURE, format)
    whole, reasons = pixels_of(data), set()
    for length in range(1, len(data), max(1, len(data) // 100)):
        try:
            got = pixels_of(data[:length])
        except BadImage as error:
            reasons.add(error.reason)
        else:
            assert np.array_equal(got, whole)
    assert reasons <= {"truncated", "unreadable"}


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_half_a_file_is_called_truncated(format):
    data = saved(PICTURE, format)
    assert refusal(data[:len(data) * 3 // 4]) == "truncated"


BOMBS = """
import io, resource, sys
from PIL import Image
from cdam_core.errors import BadImage
from cdam_core.images import open_image
for data in [bytes.fromhex(line) for line in sys.stdin.read().split()]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        open_image(data)
    except BadImage as error:
        print(error.reason, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is read with Unix' resource")
def test_bombs_are_refused_from_the_header_without_memory():
    """A small PNG of 12000 x 12000, one just above the limit, 20000 x 20000, and a WebP."""
    lines = {side: zlib.compress(bytes((side // 8 + 1) * side), 9) for side in (6400, 12000, 20000)}
    bombs = [b"\x89PNG\r\n\x1a\n"
             + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
             + chunk(b"IDAT", data) + chunk(b"IEND", b"") for side, data in lines.items()]
    payload = b"\x2f" + struct.pack("<I", 8999 | 8999 << 14) + bytes(30)
    bombs.append(b"RIFF" + struct.pack("<I", len(payload) + 12) + b"WEBPVP8L"
                 + struct.pack("<I", len(payload)) + payload)
    assert len(bombs[1]) < 18_000
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", BOMBS], text=True, check=True,
                          input="\n".join(bomb.hex() for bomb in bombs), capture_output=True)
    reasons, growth = zip(*(line.split() for line in done.stdout.splitlines()), strict=True)
    assert reasons == ("too-many-pixels",) * 4
    unit = 1 if sys.platform == "darwin" else 1024
    assert max(map(int, growth)) * unit < 8 * 2**20


def test_a_tiff_chain_of_many_pages_is_counted_only_so_far():
    data = bytearray(saved(PICTURE, "TIFF"))
    first = struct.unpack_from("<I", data, 4)[0]
    n_entries = struct.unpack_from("<H", data, first)[0]
    end = first + 2 + 12 * n_entries
    entries, start = bytes(data[first:end]), len(data)
    struct.pack_into("<I", data, end, start)
    for page in range(3000):
        data += entries + struct.pack("<I", start + (page + 1) * (len(entries) + 4))
    assert open_image(bytes(data)).info["notes"] == ["frame 1 of 1000 or more"]


# ---- fuzzing and threads -------------------------------------------------------------------------

SEEDS = [saved(PICTURE, format) for format in FORMATS] + [
    saved(Image.fromarray(PICTURE).quantize(9), "GIF", save_all=True,
          append_images=[Image.new("P", (40, 24), 3)]),
    saved(PICTURE, "TIFF", compression="tiff_lzw"), saved(PICTURE, "JPEG", progressive=True),
    with_orientation(PICTURE, "PNG", 6), with_orientation(PICTURE, "TIFF", 8),
    with_orientation(PICTURE, "WEBP", 5), tiff(np.eye(20, dtype=np.float32)),
    png(16, 16, 8, 3, bytes(256), chunk(b"PLTE", bytes(6)) + chunk(b"tRNS", b"\0"))]


def assert_image_or_bad_image(data: bytes) -> None:
    try:
        image = open_image(data)
    except BadImage:
        return
    height, width = np.asarray(image).shape[:2]
    assert image.mode == "RGB"
    assert min(height, width) >= images.MIN_SIDE
    assert height * width <= images.MAX_PIXELS


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.sampled_from(SEEDS), data=st.data())
def test_flipped_and_cut_files(seed, data):
    positions = st.integers(0, len(seed) - 1) | st.integers(0, min(200, len(seed) - 1))
    file = bytearray(seed)
    for position, value in data.draw(st.lists(st.tuples(positions, st.integers(0, 255)),
                                              max_size=6)):
        file[position] = value
    start, stop = data.draw(positions), data.draw(positions)
    cut = data.draw(st.sampled_from(["no", "end", "middle", "doubled"]))
    file = {"no": file, "end": file[:stop], "middle": file[:start] + file[stop:],
            "doubled": file[:stop] + file[start:]}[cut]
    assert_image_or_bad_image(bytes(file))


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(
    st.sampled_from([b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"zTXt", b"iTXt", b"tEXt", b"gAMA",
                     b"cHRM", b"sRGB", b"pHYs", b"acTL", b"fcTL", b"fdAT", b"IDAT", b"IHDR"]),
    st.binary(max_size=40)), max_size=4), st.sampled_from([0, 2, 3, 4, 6]),
    st.sampled_from([1, 2, 4, 8, 16]))
def test_png_with_odd_chunks_and_valid_checksums(chunks, colour_type, bit_depth):
    extra = b"".join(chunk(*one) for one in chunks)
    assert_image_or_bad_image(png(16, 16, bit_depth, colour_type, bytes(16 * 128), extra))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_random_bytes(data):
    for head in (b"", b"GIF89a", b"BM", b"II*\0\x08\0\0\0", b"\xff\xd8\xff", b"RIFF\xff\0\0\0WEBP"):
        assert_image_or_bad_image(head + data)


def test_eight_threads_get_their_own_pictures():
    files = [with_orientation(np.roll(PICTURE, k, axis=0), ("PNG", "TIFF", "WEBP")[k % 3], 1 + k)
             for k in range(8)] * 12
    alone = [digest(open_image(file)) for file in files[:8]] * 12
    with ThreadPoolExecutor(8) as pool:
        assert [digest(image) for image in pool.map(open_image, files)] == alone


# ---- digest --------------------------------------------------------------------------------------

def test_digest_depends_on_pixels_alone_and_on_each_of_them():
    image = open_image(saved(PICTURE))
    assert digest(image) == digest(open_image(saved(PICTURE, "BMP")))
    large = np.zeros((700, 700, 3), np.uint8)
    changed = large.copy()
    changed[333, 444, 1] = 1
    assert digest(Image.fromarray(large)) != digest(Image.fromarray(changed))
    turned = Image.fromarray(np.zeros((10, 20, 3), np.uint8))
    assert digest(turned) != digest(turned.transpose(Image.Transpose.ROTATE_90))
    assert len(digest(image)) == 64


# ---- fitting -------------------------------------------------------------------------------------

@pytest.mark.parametrize("side", [16, 57, 168, 400])
def test_square_pictures_come_out_the_same_for_every_fit(side):
    square = Image.fromarray(RNG.integers(0, 256, (side, side, 3), dtype=np.uint8))
    oracle = square.resize((168, 168), Image.Resampling.BICUBIC)
    for fit in images.FITS:
        fitted = fit_image(square, (168, 168), fit)
        assert np.array_equal(fitted.image, oracle)
        assert fitted.content == (0, 0, 168, 168)


@pytest.mark.parametrize("shape", [(300, 201), (201, 300), (97, 512), (600, 37), (57, 58)])
def test_crop_equals_torchvisions_recipe(shape):
    from torchvision.transforms import CenterCrop, InterpolationMode, Resize
    picture = Image.fromarray(RNG.integers(0, 256, (*shape, 3), dtype=np.uint8))
    recipe = CenterCrop(112)(Resize(112, interpolation=InterpolationMode.BICUBIC)(picture))
    assert np.array_equal(fit_image(picture, (112, 112), "crop").image, recipe)


@pytest.mark.parametrize("shape", [(30, 90), (90, 30), (40, 41), (16, 320), (320, 16), (64, 64)])
@pytest.mark.parametrize("size", [(56, 56), (42, 98), (98, 42)])
def test_padding_lies_evenly_around_the_whole_picture(shape, size):
    blue = Image.new("RGB", shape[::-1], (0, 0, 255))
    fitted = fit_image(blue, size, "pad", fill=(255, 0, 0))
    got = np.asarray(fitted.image)
    top, left, bottom, right = fitted.content
    inside = np.zeros(size, bool)
    inside[top:bottom, left:right] = True
    assert got.shape == (*size, 3)
    assert (got[inside] == (0, 0, 255)).all()
    assert (got[~inside] == (255, 0, 0)).all()
    assert abs(top - (size[0] - bottom)) <= 1
    assert abs(left - (size[1] - right)) <= 1
    assert (bottom - top == size[0]) or (right - left == size[1])
    scale = min(size[0] / shape[0], size[1] / shape[1])
    assert abs(bottom - top - scale * shape[0]) <= 0.5
    assert abs(right - left - scale * shape[1]) <= 0.5


@pytest.mark.parametrize("fit", images.FITS)
@pytest.mark.parametrize("shape", [(60, 150), (150, 60), (100, 100)])
@pytest.mark.parametrize("size", [(70, 70), (56, 98)])
def test_a_spot_is_found_again_in_the_original(fit, shape, size):
    original = np.zeros((*shape, 3), np.uint8)
    row, col = shape[0] // 2 + 9, shape[1] // 2 - 8
    original[row - 2:row + 3, col - 2:col + 3] = 255
    fitted = fit_image(Image.fromarray(original), size, fit, fill=(0, 0, 0))
    weight = np.asarray(fitted.image, float)[..., 0]
    weight[weight < 30] = 0  # ringing of the bicubic filter
    rows, cols = np.indices(size) + 0.5
    centre = ((rows * weight).sum() / weight.sum(), (cols * weight).sum() / weight.sum())
    assert fitted.placement.to_original(*centre) == pytest.approx((row + 0.5, col + 0.5), abs=0.4)


def test_content_corners_map_to_the_whole_picture_or_its_middle():
    picture = Image.fromarray(PICTURE)  # 24 x 40
    for fit, corners in [("pad", ((0, 0), (24, 40))), ("stretch", ((0, 0), (24, 40))),
                         ("crop", ((0, 8), (24, 32)))]:
        fitted = fit_image(picture, (48, 48), fit)
        top, left, bottom, right = fitted.content
        got = (fitted.placement.to_original(top, left), fitted.placement.to_original(bottom, right))
        assert np.allclose(got, corners, atol=0.5)


def test_fitting_leaves_the_picture_alone_and_accepts_other_modes():
    grey = Image.fromarray(PICTURE[..., 0])
    before = digest(grey)
    assert fit_image(grey, (32, 32)).image.mode == "RGB"
    assert digest(grey) == before
    clear = Image.new("RGBA", (32, 32), (0, 0, 0, 0))
    assert np.asarray(fit_image(clear, (32, 32)).image).min() == 255


@pytest.mark.parametrize("fit", images.FITS)
def test_a_mask_follows_its_picture(fit):
    """Two flat colours and their mask: inside both, the mask says which colour is there."""
    mask = np.zeros((60, 150), np.uint8)
    mask[20:50, 30:110] = 7
    picture = Image.fromarray(np.where(mask[..., None] == 7, 255, 0).repeat(3, -1).astype(np.uint8))
    fitted = fit_image(picture, (84, 70), fit, fill=(0, 0, 0))
    carried = fit_mask(mask, (84, 70), fit)
    assert carried.shape == (84, 70)
    assert set(np.unique(carried)) == {0, 7}
    white = np.asarray(fitted.image)[..., 0] > 127
    assert (white != (carried == 7)).mean() < 0.03  # edges only


def test_mask_scaled_by_a_whole_number_is_exact():
    mask = RNG.integers(0, 9, (12, 12), dtype=np.uint8)
    assert np.array_equal(fit_mask(mask, (36, 36)), np.kron(mask, np.ones((3, 3), np.uint8)))


def test_wrong_arguments_say_what_was_expected():
    picture = Image.fromarray(PICTURE)
    with pytest.raises(ValueError, match="pad, crop, stretch"):
        fit_image(picture, (32, 32), "squeeze")
    with pytest.raises(ValueError, match="at least 1"):
        fit_image(picture, (0, 32))
    with pytest.raises(ValueError, match="uint8"):
        fit_mask(np.zeros((4, 4)), (8, 8))
    with pytest.raises(ValueError, match="uint8"):
        fit_mask(np.zeros((4, 4, 3), np.uint8), (8, 8))
