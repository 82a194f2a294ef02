"""A camera by FFmpeg's WHIP muxer, in a process of its own: it holds the interpreter up.

`python -m tests.support.ffmpeg_camera URL FOLDER` sends red until it is ended.
"""

from __future__ import annotations

import datetime
import itertools
import sys
import time
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

RED = (200, 30, 40)
PEM = serialization.Encoding.PEM


def certify(folder: Path) -> dict[str, str]:
    """Write a key and its certificate, and return the options that name them."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "camera")])
    begun = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(begun)
        .not_valid_after(begun + datetime.timedelta(days=3))
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    files = {"cert_file": folder / "certificate.pem", "key_file": folder / "key.pem"}
    files["cert_file"].write_bytes(certificate.public_bytes(PEM))
    files["key_file"].write_bytes(secret)
    return {option: str(path) for option, path in files.items()}


def main() -> None:
    url, folder = sys.argv[1:]
    with av.open(url, "w", format="whip", options=certify(Path(folder))) as output:
        encoder = {"preset": "ultrafast", "tune": "zerolatency", "profile": "baseline", "g": "15"}
        stream = output.add_stream("libx264", rate=30, options=encoder)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = 320, 176, "yuv420p"
        image = np.full((176, 320, 3), RED, np.uint8)
        for number in itertools.count():
            frame = av.VideoFrame.from_ndarray(image, "rgb24")
            frame.pts = number
            output.mux(stream.encode(frame))
            time.sleep(1 / 30)


if __name__ == "__main__":
    main()
