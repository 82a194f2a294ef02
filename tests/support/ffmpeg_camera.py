"""A camera by FFmpeg's WHIP muxer, in a process of its own: it holds the interpreter up.

`python -m tests.support.ffmpeg_camera URL FOLDER` sends red until it is ended.
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import av
import numpy as np
from av.video.stream import VideoStream

from tests.support.certificate import certify

RED = (200, 30, 40)


def main() -> None:
    url, folder = sys.argv[1:]
    certificate, key = certify(Path(folder))
    options = {"cert_file": certificate, "key_file": key}
    with av.open(url, "w", format="whip", options=options) as output:
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
