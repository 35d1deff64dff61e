"""Small pictures made for tests: of any bit depth, and with words on what their levels mean."""

import struct
import zlib

import av
import numpy as np


def write_raw_png(path, levels, depth, *chunks):
    """A PNG of levels (h, w) or (h, w, 3) at a bit depth, with chunks (name, content)."""
    rows = levels.reshape(len(levels), -1)
    bits = rows[..., None] >> np.arange(depth)[::-1] & 1  # (h, levels, depth)
    rows = np.packbits(bits.astype(np.uint8).reshape(len(rows), -1), axis=1)
    size = levels.shape[1], levels.shape[0], depth, 2 if levels.ndim == 3 else 0
    lines = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [(b"IHDR", struct.pack(">2I5B", *size, 0, 0, 0)), *chunks, (b"IDAT", lines)]
    content = b"\x89PNG\r\n\x1a\n"
    for name, data in (*parts, (b"IEND", b"")):
        check = struct.pack(">I", zlib.crc32(name + data))
        content += struct.pack(">I", len(data)) + name + data + check
    path.write_bytes(content)


def write_avif(path, levels, **values):
    """An AVIF of 10 bits; values: attributes of the encoder that say what the levels mean."""
    with av.open(str(path), "w", format="avif") as container:
        stream = container.add_stream("libsvtav1", rate=1)
        stream.height, stream.width = levels.shape[:2]
        stream.pix_fmt, stream.options = "yuv420p10le", {"crf": "5"}
        for name, value in values.items():
            setattr(stream.codec_context, name, value)
        matrix = {"dst_colorspace": values["colorspace"], "dst_color_range": 1}
        frame = av.VideoFrame.from_ndarray(levels, "rgb24")
        container.mux(stream.encode(frame.reformat(format="yuv420p10le", **matrix)))
        container.mux(stream.encode())


def grey_profile(gamma: float, *more: tuple[bytes, bytes]) -> bytes:
    """An ICC profile (version 2) of grey levels with this exponent and the white of D50; more:
    tags, their names and contents."""
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 63190, 65536, 54061)
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(78)
    own = (b"desc", text), (b"wtpt", white), (b"kTRC", curve), *more
    tags, data = b"", b""
    for name, content in own:
        tags += name + struct.pack(">2I", 128 + 4 + 12 * len(own) + len(data), len(content))
        data += content + bytes(-len(content) % 4)
    body = struct.pack(">I", len(own)) + tags + data
    head = struct.pack(">I4sI4s4s4s", 128 + len(body), b"", 0x02400000, b"mntr", b"GRAY", b"XYZ ")
    head += bytes(12) + b"acsp" + bytes(28) + struct.pack(">3i", 63190, 65536, 54061)
    return head.ljust(128, b"\0") + body


def srgb_of_p3(colours):
    """Display P3 -> sRGB levels, by the definitions of both (SMPTE EG 432-1, IEC 61966-2-1)."""
    encoded = colours / 255
    light = np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    to_xyz = [[0.48657, 0.26567, 0.19822], [0.22897, 0.69174, 0.07929], [0, 0.04511, 1.04394]]
    from_xyz = [[3.24045, -1.53714, -0.49853], [-0.96927, 1.87601, 0.04156]]
    from_xyz += [[0.05564, -0.20403, 1.05723]]
    light = np.clip(light @ np.transpose(to_xyz) @ np.transpose(from_xyz), 0, 1)
    return 255 * np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
