"""Adds the `.tfc` format to Pillow; importing this module is enough.

    import tfcodec.pillow_plugin
    from PIL import Image

    Image.open("photograph.png").save("photograph.tfc", quality=60)
    image = Image.open("photograph.tfc")

`open` gives size, mode and `info` (icc_profile, exif, xmp, quality) without TensorFlow;
`load`, and all that needs pixels, decodes.  `save` takes arguments of
`tfcodec.compress`: quality, effort, model, max_bytes, target_bpp, target_psnr,
target_msssim, target_ssimulacra2, alpha_quality, verify, max_pixels, icc_profile, exif,
xmp; by default it keeps the image's own metadata.  Damaged files raise the usual errors
of Pillow: `UnidentifiedImageError` when opened, OSError when loaded.

An opened image has an attribute `realism`, None for the model's default at the file's
quality; set it before pixels are needed, for example to 0 for the faithful picture.

The number of pixels is limited by Pillow's own `Image.MAX_IMAGE_PIXELS`: more are a
warning, and more than twice as many an error.

Once TensorFlow has decoded an image, a process forked from this one cannot decode with
it, and raises a RuntimeError.  Start workers by "spawn", as in `DataLoader(...,
multiprocessing_context="spawn")`, or before the first image is loaded.

As with all formats, Pillow empties an existing file before `save` begins.  To keep the
old file if `save` fails, save to an `io.BytesIO` or under another name, and then
replace the old file.
"""

from __future__ import annotations

import io

from PIL import Image, ImageFile

from tfcodec import bitstream, codec, exif, images, quality

FORMAT = "TFC"
MIME = "image/x-tfcodec"
SETTINGS = {
    "quality", *quality.TARGETS, "effort", "model", "alpha_quality", "verify",
    "max_pixels",
}  # fmt: skip


def _limits() -> bitstream.Limits:
    """Returns the limits on a file, with as many pixels as Pillow allows."""
    most = Image.MAX_IMAGE_PIXELS
    return bitstream.Limits().for_pixels(0 if most is None else max(1, 2 * most))


class TfcImageFile(ImageFile.ImageFile):
    """A `.tfc` file, opened."""

    format = FORMAT
    format_description = "Learned image codec for TensorFlow"
    realism = None  # see `tfcodec.decompress`

    def _open(self) -> None:
        self._data = self.fp.read()
        try:
            header, chunks = bitstream.unpack(self._data, _limits())
            self.info.update(bitstream.metadata(chunks))
        except bitstream.StreamError as error:
            raise SyntaxError(str(error)) from error
        if "exif" in self.info:
            self.info["exif"] = exif.PREFIX + self.info["exif"]
        self.info["quality"] = header.quality
        self._size, self._mode = (header.width, header.height), header.mode

    def load(self):
        if self._data is not None:
            try:
                pixels = codec.decompress(
                    self._data, limits=_limits(), realism=self.realism
                )
            except bitstream.StreamError as error:
                raise OSError(str(error)) from error
            self._data = None
            if self.fp and self._exclusive_fp:
                self.fp.close()
            self.fp = io.BytesIO(pixels)
            extent = (0, 0, *self.size)
            self.tile = [("raw", extent, 0, self.mode)]
        return super().load()

    def load_seek(self, pos: int) -> None:
        """Does nothing: pixels begin where `fp` is.

        Without this method, Pillow maps the file that was opened into memory, and takes
        its bytes for pixels of modes such as L and RGBA.
        """


def save(image: Image.Image, file, filename: str | bytes) -> None:
    """Writes an image as `.tfc`, for Pillow's `save`."""
    given = dict(image.encoderinfo)
    picture = images.picture_of(image.copy(), upright=False, origin=image)
    for name in bitstream.METADATA:
        if name in given:
            value = given[name]
            value = value.tobytes() if isinstance(value, Image.Exif) else value
            value = value.encode() if isinstance(value, str) else value
            picture.metadata[name] = value
    settings = {name: given[name] for name in SETTINGS & set(given)}
    file.write(codec.compress(picture.pixels, **settings, **picture.metadata))


def _accept(prefix: bytes) -> bool:
    return prefix.startswith(bitstream.MAGIC)


Image.register_open(FORMAT, TfcImageFile, _accept)
Image.register_save(FORMAT, save)
Image.register_extension(FORMAT, bitstream.SUFFIX)
Image.register_mime(FORMAT, MIME)
