"""Decoders of compressed DICOM pixels by imagecodecs, which is installed anyway; a plug-in of
pydicom."""

from __future__ import annotations

from threading import Lock
from typing import Any

from pydicom import uid

_JPEG = (uid.JPEGBaseline8Bit, uid.JPEGExtended12Bit, uid.JPEGLossless, uid.JPEGLosslessSV1)
_JPEGLS = (uid.JPEGLSLossless, uid.JPEGLSNearLossless)
_JPEG2000 = (uid.JPEG2000Lossless, uid.JPEG2000, uid.HTJ2KLossless, uid.HTJ2KLosslessRPCL, uid.HTJ2K)
DECODER_DEPENDENCIES = {syntax: ("imagecodecs>=2024.9",) for syntax in (*_JPEG, *_JPEGLS, *_JPEG2000)}
_LOCK = Lock()


def is_available(syntax: str) -> bool:
    """Whether a transfer syntax can be decoded; called by pydicom."""
    return syntax in DECODER_DEPENDENCIES


def register() -> None:
    """Let pydicom try imagecodecs after its own plug-ins."""
    from pydicom.pixels import get_decoder

    with _LOCK:
        for syntax in DECODER_DEPENDENCIES:
            decoder = get_decoder(syntax)
            if "imagecodecs" not in decoder.available_plugins:
                decoder.add_plugin("imagecodecs", (__name__, "decode_frame"))


def decode_frame(source: bytes, runner: Any) -> bytes:
    """One frame as bytes in native order; called by pydicom, which is told of what the codestream
    changed."""
    import imagecodecs

    syntax = runner.transfer_syntax
    if syntax in _JPEGLS:
        array = imagecodecs.jpegls_decode(source)
    elif syntax in _JPEG2000:
        array = imagecodecs.jpeg2k_decode(source)
        if "ICT" in runner.photometric_interpretation or "RCT" in runner.photometric_interpretation:
            runner.set_option("photometric_interpretation", "RGB")
    else:  # colours as they are stored: pydicom converts them
        spaces: dict[str, Any] = (
            {"colorspace": "YCBCR", "outcolorspace": "YCBCR"} if runner.samples_per_pixel > 1 else {}
        )
        array = imagecodecs.jpeg_decode(source, **spaces)
    if array.ndim == 3:
        runner.set_option("planar_configuration", 0)
    runner.set_option("bits_allocated", 8 * array.dtype.itemsize)
    return bytes(array.tobytes())
