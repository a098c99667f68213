"""Real files of every kind that the program reads, and ways to damage them; for ``fuzz.py``."""

import io
import json
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from hashlib import sha256

import numpy as np
import torch
from PIL import Image, ImageDraw
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
    generate_uid,
)
from safetensors.torch import save as save_safetensors
from timm.models.vision_transformer import VisionTransformer

import cdam_core as cdam
from cdam_core import provenance
from cdam_core.concepts import concept_of_latents, concepts_to_bytes

Files = list[bytes]
Draw = random.Random
# Numbers at which sizes and offsets go wrong.
ODD = (0, 1, 2, 7, 8, 15, 16, 127, 128, 255, 256, 4095, 6000, 32767, 32768, 60000, 65535, 65536,
       2**24, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)  # fmt: skip
HEAD = 256  # bytes at the start of a file where most of its sizes stand
PNG_START = b"\x89PNG\r\n\x1a\n"
CT_SIDE = 96  # pixels of the slices made here


# ---- real files ----------------------------------------------------------------------------------


@cache
def all_files() -> dict[str, Files]:
    """Kind -> small sound files of that kind, the same in every run."""
    return {
        "image": images(),
        "dicom": slices(),
        "concept": concepts(),
        "checkpoint": checkpoints(),
        "record": records(),
    }


def picture(size: tuple[int, int] = (96, 64)) -> Image.Image:
    """An RGB picture with edges and gradients."""
    noise = np.random.default_rng(0).integers(0, 60, (size[1], size[0], 3))
    slope = np.linspace(0, 190, size[0])[None, :, None]
    image = Image.fromarray((noise + slope).astype(np.uint8))
    ImageDraw.Draw(image).ellipse((10, 10, 60, 50), "tomato", "navy", 3)
    return image


def images() -> Files:
    """Every format, in the modes that take a path of their own through the decoder."""
    rgb, grey = picture(), picture().convert("L")
    wide = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    real = Image.fromarray(np.asarray(grey).astype(np.float32) / 255)
    clear = rgb.copy()
    clear.putalpha(grey)
    turned = Image.Exif()
    turned[0x0112] = 6
    frames = {"save_all": True, "append_images": [rgb.rotate(a) for a in (90, 180)]}
    palette = rgb.quantize(32)
    large = picture((500, 400))
    made = [
        (rgb, "PNG", {}), (clear, "PNG", {}), (wide, "PNG", {}), (grey.convert("1"), "PNG", {}),
        (palette, "PNG", {"transparency": 3}), (large, "PNG", {"exif": turned}),
        (rgb, "PNG", {**frames, "duration": 50}),
        (rgb, "JPEG", {"quality": 80}), (large, "JPEG", {"progressive": True, "exif": turned}),
        (rgb.convert("CMYK"), "JPEG", {}), (grey, "JPEG", {"restart_marker_rows": 1}),
        (rgb, "TIFF", {}), (clear, "TIFF", {"compression": "tiff_lzw"}), (real, "TIFF", {}),
        (rgb, "TIFF", {"compression": "tiff_adobe_deflate"}), (wide, "TIFF", {}),
        (rgb, "TIFF", {"compression": "jpeg"}), (palette, "TIFF", {"compression": "packbits"}),
        (grey.convert("1"), "TIFF", {"compression": "group4"}), (rgb, "TIFF", frames),
        (rgb.convert("CMYK"), "TIFF", {"compression": "tiff_lzw"}),
        (rgb, "WEBP", {}), (clear, "WEBP", {"lossless": True, "exif": turned}),
        (rgb, "WEBP", frames), (rgb, "BMP", {}), (palette, "BMP", {}), (clear, "BMP", {}),
        (palette, "GIF", {}), (rgb, "GIF", frames), (large.quantize(200), "GIF", {}),
    ]  # fmt: skip
    return [_saved(image, format, **options) for image, format, options in made]


def _saved(image: Image.Image, format: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def slices() -> Files:
    """One CT slice in every uncompressed syntax, deflated, and in every compression."""
    plain = [
        _slice(ExplicitVRLittleEndian), _slice(ImplicitVRLittleEndian),
        _slice(ExplicitVRBigEndian), _slice(DeflatedExplicitVRLittleEndian),
        _slice(ExplicitVRLittleEndian, PhotometricInterpretation="MONOCHROME1"),
    ]  # fmt: skip
    packed = [_packed(syntax) for syntax in (RLELossless, JPEGLSLossless)]
    wide = Image.fromarray(_stored().astype(np.uint16))
    small = wide.point(lambda value: value / 8).convert("L")
    return [
        *plain, *packed,
        _framed(JPEG2000Lossless, _saved(wide, "JPEG2000", no_jp2=True), PixelRepresentation=0),
        _framed(JPEG2000, _saved(wide, "JPEG2000", no_jp2=True, irreversible=True,
                                 tile_size=(64, 64), quality_layers=[20, 5]),
                PixelRepresentation=0),
        _framed(JPEGLosslessSV1, jpeg_lossless(_stored(), 1)),
        _framed(JPEGLossless, jpeg_lossless(_stored(), 6, restart=8)),
        _framed(JPEGBaseline8Bit, _saved(small, "JPEG"), BitsAllocated=8, BitsStored=8, HighBit=7,
                PixelRepresentation=0),
    ]  # fmt: skip


def _stored() -> np.ndarray:
    """(96, 96) stored values: a ball in lung, with noise."""
    row, col = np.mgrid[:CT_SIDE, :CT_SIDE] - CT_SIDE / 2
    noise = np.random.default_rng(0).integers(-20, 20, (CT_SIDE, CT_SIDE))
    return np.where(np.hypot(row, col) < 20, 1064, 174) + noise


def jpeg_lossless(samples: np.ndarray, predictor: int, restart: int = 0) -> bytes:
    """JPEG Lossless of 16 bits, one sample at a time, every code of 5 bits; ITU-T T.81.

    Args:
        samples: (rows, cols) integers from 0 to 65535.
        predictor: 1 to 7.
        restart: rows between restarts; 0: none.
    """
    rows, cols = samples.shape
    parts, height = [], restart or rows
    for top in range(0, rows, height):
        bits, block = "", samples[top : top + height].tolist()
        for row, values in enumerate(block):
            for col, value in enumerate(values):
                change = (value - _expected(block, row, col, predictor) + 32767) % 65536 - 32767
                size = min(abs(change).bit_length(), 16)
                bits += f"{16 if change == 32768 else size:05b}"
                if 0 < size < 16:
                    bits += f"{change if change > 0 else change + 2**size - 1:0{size}b}"
        bits += "1" * (-len(bits) % 8)
        packed = int(bits, 2).to_bytes(len(bits) // 8, "big")
        parts.append(packed.replace(b"\xff", b"\xff\0"))
    codes = bytes((0, 0, 0, 0, 0, 17, *[0] * 11, *range(17)))
    segments = [(0xC4, codes), (0xC3, struct.pack(">BHHB3B", 16, rows, cols, 1, 1, 17, 0))]
    segments += [(0xDD, struct.pack(">H", restart * cols))] if restart else []
    segments += [(0xDA, bytes((1, 1, 0, predictor, 0, 0)))]
    head = b"".join(struct.pack(">BBH", 255, m, len(s) + 2) + s for m, s in segments)
    for number in range(len(parts) - 1):
        parts[number] += bytes((0xFF, 0xD0 + number % 8))
    return b"\xff\xd8" + head + b"".join(parts) + b"\xff\xd9"


def _expected(block: list[list[int]], row: int, col: int, predictor: int) -> int:
    if not row:
        return block[0][col - 1] if col else 32768
    above = block[row - 1][col]
    if not col:
        return above
    left, corner = block[row][col - 1], block[row - 1][col - 1]
    return (left, above, corner, left + above - corner, left + (above - corner >> 1),
            above + (left - corner >> 1), left + above >> 1)[predictor - 1]  # fmt: skip


def _packed(syntax: str) -> bytes:
    dataset = _dataset(ExplicitVRLittleEndian)
    dataset.PixelData = _stored().astype("<i2").tobytes()
    dataset.compress(syntax, generate_instance_uid=False)
    return _written(dataset)


def _framed(syntax: str, frame: bytes, **headers) -> bytes:
    dataset = _dataset(ExplicitVRLittleEndian, **headers)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = encapsulate([frame])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    return _written(dataset)


def _slice(syntax: str, **headers) -> bytes:
    return _written(_dataset(syntax, **headers))


def _dataset(syntax: str, **headers) -> FileDataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, syntax
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["fuzz"])
    dataset = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    row, col = np.mgrid[:CT_SIDE, :CT_SIDE] - CT_SIDE / 2
    stored = np.where(np.hypot(row, col) < 20, 1064, 174)
    order = ">i2" if syntax == ExplicitVRBigEndian else "<i2"
    values = dict(
        SOPClassUID=CTImageStorage, SOPInstanceUID=meta.MediaStorageSOPInstanceUID,
        StudyInstanceUID="1.2.3", SeriesInstanceUID="1.2.3.4", PatientID="A", PatientName="B^C",
        Modality="CT", InstanceNumber=1, ImagePositionPatient=[-180.0, -180.0, 10.0],
        ImageOrientationPatient=[1, 0, 0, 0, 1, 0], PixelSpacing=[0.7, 0.7], SliceThickness=1.25,
        Rows=CT_SIDE, Columns=CT_SIDE, SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2",
        BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=1, RescaleSlope=1,
        RescaleIntercept=-1024, WindowCenter=-600, WindowWidth=1500,
        PixelData=stored.astype(order).tobytes(),
    ) | headers  # fmt: skip
    for name, value in values.items():
        setattr(dataset, name, value)
    dataset["PixelData"].VR = "OW"
    dataset.set_original_encoding(
        syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian, "latin-1"
    )
    return dataset


def _written(dataset: FileDataset) -> bytes:
    buffer = io.BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def small_vit() -> VisionTransformer:
    """A network of two blocks with fixed random weights."""
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=1, num_classes=5, mlp_ratio=2
    ).eval()


def concepts() -> Files:
    """One concept, and several in one file."""
    model = cdam.wrap(small_vit())
    latents = np.random.default_rng(0).normal(size=(6, 64)).astype(np.float32)
    made = [
        concept_of_latents(model, latents[i:], f"concept {i}", similarity, ["0" * 64] * (6 - i), {})
        for i, similarity in enumerate(("dot", "cosine", "l2"))
    ]
    return [*(each.to_bytes() for each in made), concepts_to_bytes(made)]


def checkpoints() -> Files:
    """Torch's two formats, a training script's nest, and safetensors with metadata."""
    state = small_vit().state_dict()
    stated = {"class_names": json.dumps(list("abcde")), "num_heads": "1", "input_size": "[32, 32]"}
    return [
        _torch_saved(state), _torch_saved(state, _use_new_zipfile_serialization=False),
        _torch_saved({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}}),
        _torch_saved({k: v.half() for k, v in state.items()}),
        save_safetensors(state), save_safetensors(state, stated),
    ]  # fmt: skip


def _torch_saved(content: object, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def records() -> Files:
    """Results to take home: with a concept, and with the picture in it."""
    model, image = cdam.wrap(small_vit(), class_names=list("abcde")), picture((64, 64))
    concept = cdam.load_concept(concepts()[0])
    plain = cdam.explain(model, image, ["a", cdam.Contrast("b", "c")])
    other = cdam.explain(model, image, ["a"], "attention")
    alike = cdam.explain(model, image, [concept])
    return [provenance.pack(model, image, [plain, alike]),
            provenance.pack(model, image, [plain, other], with_image=True)]  # fmt: skip


# ---- damage that knows nothing of the format -----------------------------------------------------


def flip_bits(data: bytearray, draw: Draw, others: Files) -> bytes:
    """One to 64 bits, anywhere or near the start."""
    end = draw.choice((HEAD, len(data)))
    for _ in range(draw.choice((1, 1, 2, 4, 16, 64))):
        data[draw.randrange(min(end, len(data)))] ^= 1 << draw.randrange(8)
    return bytes(data)


def change_numbers(data: bytearray, draw: Draw, others: Files) -> bytes:
    """Numbers of two, four or eight bytes become odd ones, in either byte order."""
    end = min(draw.choice((64, HEAD, HEAD, len(data))), len(data))
    for _ in range(draw.choice((1, 1, 2, 3))):
        width, order = draw.choice((2, 2, 4, 4, 8)), draw.choice(("little", "big"))
        at = draw.randrange(end)
        value = (draw.choice(ODD) % 2 ** (8 * width)).to_bytes(width, order)
        data[at : at + width] = value
    return bytes(data)


def cut(data: bytearray, draw: Draw, others: Files) -> bytes:
    """The file ends too early, often very early."""
    return bytes(data[: draw.randrange(min(len(data), draw.choice((HEAD, len(data)))))])


def remove_piece(data: bytearray, draw: Draw, others: Files) -> bytes:
    """A piece is missing."""
    at = draw.randrange(len(data))
    del data[at : at + draw.choice((1, 4, 64, 1024))]
    return bytes(data)


def insert_piece(data: bytearray, draw: Draw, others: Files) -> bytes:
    """A piece is doubled, or random bytes appear."""
    at, start = draw.randrange(len(data)), draw.randrange(len(data))
    size = draw.choice((1, 16, 512))
    piece = data[start : start + size] if draw.random() < 0.5 else draw.randbytes(size)
    data[at:at] = piece
    return bytes(data)


def swap_pieces(data: bytearray, draw: Draw, others: Files) -> bytes:
    """Two pieces change places."""
    size = draw.choice((4, 32, 512))
    one, two = sorted(draw.randrange(len(data)) for _ in range(2))
    a, b = bytes(data[one : one + size]), bytes(data[two : two + size])
    data[two : two + len(b)], data[one : one + len(a)] = a[: len(b)], b[: len(a)]
    return bytes(data)


def splice(data: bytearray, draw: Draw, others: Files) -> bytes:
    """The start of one file before the rest of another."""
    other, at = draw.choice(others), draw.choice((16, 64, HEAD, len(data) // 2))
    return bytes(data[:at]) + other[draw.choice((0, at, len(other) // 2)) :]


PLAIN: tuple[Callable[[bytearray, Draw, Files], bytes], ...] = (
    flip_bits, change_numbers, change_numbers, cut, remove_piece, insert_piece, swap_pieces, splice,
)  # fmt: skip


# ---- damage that keeps checksums and lengths right -----------------------------------------------


def shuffle_chunks(data: bytes, draw: Draw) -> bytes:
    """A PNG whose chunks are moved, doubled, dropped or changed, each with a right checksum."""
    chunks, at = [], len(PNG_START)
    while at + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        chunks.append([data[at + 4 : at + 8], bytearray(data[at + 8 : at + 8 + length])])
        at += length + 12
    one, two = draw.randrange(len(chunks)), draw.randrange(len(chunks))
    how = draw.randrange(5)
    if how == 0:
        chunks[one], chunks[two] = chunks[two], chunks[one]
    elif how == 1:
        chunks.insert(one, chunks[two])
    elif how == 2:
        del chunks[one]
    elif how == 3 and chunks[one][1]:
        chunks[one][1] = bytearray(damaged(bytes(chunks[one][1]), draw, [data]))
    else:  # width, height, depth, colour type: sizes that the rest does not have
        header = chunks[0][1]
        header[: draw.choice((4, 8))] = struct.pack(">II", *draw.choices(ODD[:18], k=2))
        header[8:10] = bytes((draw.choice((1, 2, 4, 8, 16)), draw.choice((0, 2, 3, 4, 6))))
    packed = (struct.pack(">I", len(c)) + k + c + struct.pack(">I", zlib.crc32(k + c))
              for k, c in chunks)  # fmt: skip
    return PNG_START + b"".join(packed)


def shuffle_members(data: bytes, draw: Draw) -> bytes:
    """A ZIP with sound checksums, one member of which is damaged, missing or of another name."""
    with zipfile.ZipFile(io.BytesIO(data)) as file:
        members = {entry.filename: file.read(entry) for entry in file.infolist()}
        stored = file.infolist()[0].compress_type
    name = draw.choice(list(members))
    how = draw.randrange(6)
    if how == 0:
        del members[name]
    elif how == 1:
        members[draw.choice(("../x", "/x", "x" * 300, "a/b.pkl", "\u202e"))] = members.pop(name)
    elif name.endswith(".json"):
        members[name] = damage_json(members[name], draw)
    elif name.endswith(".npz") and how < 5:
        members[name] = shuffle_members(members[name], draw)
    elif members[name]:
        members[name] = damaged(members[name], draw, list(members.values()))
    if provenance.RECORD in members and draw.random() < 0.8:
        members = _with_right_hashes(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", stored) as file:
        for each, content in members.items():
            file.writestr(zipfile.ZipInfo(each), content, stored)  # without the time of day
    return buffer.getvalue()


def _with_right_hashes(members: dict[str, bytes]) -> dict[str, bytes]:
    """Else a changed record would be refused for its hashes before anything is looked at."""
    try:
        facts = json.loads(members[provenance.RECORD])
        facts["files"] = {name: sha256(content).hexdigest() for name, content in members.items()
                          if name != provenance.RECORD}  # fmt: skip
    except (ValueError, TypeError):
        return members
    return members | {provenance.RECORD: json.dumps(facts).encode()}


WRONG = (None, True, -1, 0, 2**31, 10**30, 1e308, "", "x" * 1000, "\0", [], {}, [[]],
         {"a": None}, "class", "concept", "contrast", "scenes", "timm:x", "../x", [0, 0],
         [10**9, 10**9])  # fmt: skip


def damage_json(data: bytes, draw: Draw) -> bytes:
    """Sound JSON in which one entry, however deep, is another, missing, or doubled."""
    try:
        content = json.loads(data)
    except ValueError:
        return data
    place = content
    while isinstance(place, dict | list) and place:
        key = draw.choice(list(place)) if isinstance(place, dict) else draw.randrange(len(place))
        inner = place[key]
        if draw.random() < 0.4 or not isinstance(inner, dict | list) or not inner:
            if draw.random() < 0.2:
                del place[key]
            else:
                place[key] = draw.choice(WRONG)
            break
        place = inner
    return json.dumps(content).encode()


def damage_header(data: bytes, draw: Draw) -> bytes:
    """A safetensors file with a changed header of the right length, or with other numbers."""
    (length,) = struct.unpack_from("<Q", data)
    header, rest = data[8 : 8 + length], data[8 + length :]
    if draw.random() < 0.15:
        values = bytearray(rest)
        for _ in range(4):
            at = 4 * draw.randrange(len(values) // 4)
            special = draw.choice((np.nan, np.inf, -np.inf, 3e38))
            values[at : at + 4] = struct.pack("<f", special)
        return data[: 8 + length] + bytes(values)
    content = json.loads(header)
    noted = content.get("__metadata__")
    if noted and draw.random() < 0.6:  # its values are texts, often of JSON
        key = draw.choice(list(noted))
        noted[key] = damage_json(noted[key].encode(), draw).decode()
        header = json.dumps(content).encode()
    else:
        header = damage_json(header, draw)
    return struct.pack("<Q", len(header)) + header + rest


def change_element(data: bytes, draw: Draw) -> bytes:
    """A DICOM file in which one element of the header has another value, type or length."""
    groups = (b"\x28\0", b"\x08\0", b"\x20\0", b"\x02\0", b"\0\x28")
    starts = [at for at in range(132, min(len(data) - 8, 2048)) if data[at : at + 2] in groups]
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2))):
        at = draw.choice(starts) + draw.choice((4, 6, 8))
        if data[at : at + 2].isalpha() and draw.random() < 0.5:
            changed[at : at + 2] = draw.choice((b"SQ", b"UN", b"OB", b"UL", b"FD", b"AT", b"DS"))
        else:
            changed[at : at + 2] = struct.pack("<H", draw.choice(ODD) % 65536)
    return bytes(changed)


def damaged(data: bytes, draw: Draw, others: Files) -> bytes:
    """One file out of a sound one; the same for the same state of ``draw``."""
    knowing = _knowing(data)
    if knowing is not None and draw.random() < 0.5:
        return knowing(data, draw)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        if not data:
            break
        data = draw.choice(PLAIN)(bytearray(data), draw, others)
    return data


def _knowing(data: bytes) -> Callable[[bytes, Draw], bytes] | None:
    """The damage that knows this file's format."""
    if data.startswith(PNG_START):
        return shuffle_chunks
    if data.startswith(b"PK\x03\x04"):
        return shuffle_members
    if data[8:9] == b"{":
        return damage_header
    if data[128:132] == b"DICM":
        return change_element
    return damage_json if data[:1] in (b"{", b"[") else None

