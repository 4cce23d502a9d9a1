"""Draws pictures with PIL, which takes milliseconds: grids of images, scatter plots, bar charts.

Shapes: R rows, C columns, D channels, H W of an image.
"""

import functools
import io
import math
from pathlib import Path

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from vae_lightning.data.shown import is_vector, lines, visible
from vae_lightning.plots.palette import CATEGORIES, INK, MAIN, PALE
from vae_lightning.plots.picture import Bars, Grid, Picture, Scatter
from vae_lightning.storage.files import write_bytes

GAP, MARGIN, TITLE, SMALL = 2, 12, 15, 12
VECTOR_SIZE = 112  # height in pixels of a line in a file of its own
MOST_NAMED_LABELS = 50  # in a scatter plot; more would hide the points


@functools.cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """PIL's default font; each size is loaded once."""
    return ImageFont.load_default(size)


def draw_text(
    canvas: Image.Image,
    position: tuple[float, float],
    text: str,
    size: int = SMALL,
    anchor: str = "la",
) -> None:
    """Draws text at a position, with a PIL ``anchor``: l, m or r, then a, m or s."""
    ImageDraw.Draw(canvas).text(position, text, fill=INK, font=font(size), anchor=anchor)


def text_width(text: str, size: int = SMALL) -> int:
    """Width of the text in pixels."""
    return int(font(size).getlength(text)) + 1


def enlargement(images: Tensor, size: int) -> int:
    """Side of the square that a pixel of (..., H, W) becomes; the longer side is about ``size``."""
    return max(1, round(size / max(images.shape[-2:])))


def shown_size(images: Tensor, size: int) -> tuple[int, int]:
    """Height and width in which ``enlarged`` draws an image of (..., D, H, W)."""
    if is_vector(images):
        return size, 2 * size
    scale, (height, width) = enlargement(images, size), images.shape[-2:]
    return height * scale, width * scale


def enlarged(images: Tensor, size: int) -> Tensor:
    """Images (..., D, H, W) in [0, 1] as they are drawn, uint8; vectors are drawn as lines."""
    if is_vector(images):
        return to_bytes(lines(images.detach().float().cpu(), *shown_size(images, size)))
    scale = enlargement(images, size)
    return to_bytes(images).repeat_interleave(scale, -1).repeat_interleave(scale, -2)


def to_bytes(images: Tensor) -> Tensor:
    """Images (..., D, H, W) as they are seen, see ``visible``, as uint8."""
    return (visible(images.detach().float().cpu()) * 255).round().to(torch.uint8)


def to_image(image: Tensor) -> Image.Image:
    """Converts an image (D, H, W) in [0, 1] to PIL; a vector becomes a line."""
    pixels = enlarged(image, VECTOR_SIZE) if is_vector(image) else to_bytes(image)
    return Image.fromarray(pixels.permute(1, 2, 0).squeeze(-1).numpy())


def tile(images: Tensor, size: int) -> Image.Image:
    """Tiles images (R, C, D, H, W) in [0, 1] with thin gaps; see ``enlarged`` for ``size``."""
    pixels = enlarged(images, size)
    rows, columns, channels, height, width = pixels.shape
    sheet = torch.full((rows, columns, channels, height + GAP, width + GAP), 255, dtype=torch.uint8)
    sheet[..., :height, :width] = pixels
    flat = sheet.permute(0, 3, 1, 4, 2).reshape(rows * (height + GAP), columns * (width + GAP), -1)
    return Image.fromarray(flat.squeeze(-1).numpy())


def draw(picture: Picture) -> Image.Image:
    """Draws a picture with its title, subtitle and axes."""
    if isinstance(picture, Grid):
        return draw_grid(picture)
    return draw_scatter(picture) if isinstance(picture, Scatter) else draw_bars(picture)


def draw_grid(picture: Grid) -> Image.Image:
    """Draws the images; names stand beside their rows and above their columns."""
    images, rows, columns = picture.images, picture.rows, picture.columns
    title = picture.title
    subtitle = with_axes(picture.subtitle, picture.x_axis, picture.y_axis)
    sheet = tile(images, picture.size)
    left = MARGIN + (max(map(text_width, rows)) + 8 if rows else 0)
    top = MARGIN + TITLE + SMALL + 14 + (SMALL + 6 if columns else 0)
    right = max(left + sheet.width, MARGIN + max(text_width(title, TITLE), text_width(subtitle)))
    # The mode of the images is kept: a gray canvas needs a third of the memory of an RGB canvas.
    canvas = Image.new(sheet.mode, (right + MARGIN, top + sheet.height + MARGIN - GAP), "white")
    canvas.paste(sheet, (left, top))
    draw_header(canvas, title, subtitle)
    for number, name in enumerate(rows):
        draw_text(
            canvas, (left - 8, top + (number + 0.5) * sheet.height / len(images)), name, anchor="rm"
        )
    for number, name in enumerate(columns):
        draw_text(
            canvas,
            (left + (number + 0.5) * sheet.width / images.shape[1], top - 5),
            name,
            anchor="ms",
        )
    return canvas


def first_row(path: Path, rows: int) -> Image.Image:
    """The first row of a square grid without names, as ``draw_grid`` has drawn it."""
    with Image.open(path) as saved:
        picture = saved.convert("RGB")
    top = MARGIN + TITLE + SMALL + 14
    height = picture.height - top - MARGIN + GAP
    return picture.crop((MARGIN, top, MARGIN + height, top + height // rows))


def with_axes(subtitle: str, x_axis: str, y_axis: str = "") -> str:
    """A subtitle with the names of the axes that have one."""
    x = f"   x: {x_axis}" if x_axis else ""
    y = f"   y: {y_axis}" if y_axis else ""
    return subtitle + x + y


def draw_header(canvas: Image.Image, title: str, subtitle: str) -> None:
    """Draws the title and the subtitle at the top of a picture."""
    draw_text(canvas, (MARGIN, MARGIN - 2), title, TITLE)
    draw_text(canvas, (MARGIN, MARGIN + TITLE + 6), subtitle)


def draw_scatter(picture: Scatter, size: int = 560) -> Image.Image:
    """Draws the points and, at the median of each label, the label."""
    points, labels = picture.points, picture.labels
    title, subtitle = picture.title, picture.subtitle
    low, high = points.amin(0), points.amax(0)
    span = high - low
    margin = 0.03 * torch.where(span > 0, span, 1.0)  # of coordinates that are all equal too
    low, high = low - margin, high + margin
    top, left = MARGIN + TITLE + SMALL + 16 + (SMALL + 6), MARGIN + 40
    width = max(left + size, MARGIN + max(text_width(title, TITLE), text_width(subtitle)))
    canvas = Image.new("RGB", (width + MARGIN, top + size + 30 + SMALL), "white")
    draw_header(canvas, title, subtitle)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left, top, left + size, top + size), outline=PALE)
    draw_text(canvas, (left, top - 5), picture.y_axis, anchor="ls")
    draw_text(canvas, (left + size / 2, top + size + 8 + SMALL), picture.x_axis, anchor="ma")
    positions = ((points - low) / (high - low)).cpu() * torch.tensor([1.0, -1.0]) + torch.tensor(
        [0.0, 1.0]
    )
    positions = (positions * size + torch.tensor([left, top])).tolist()
    for (x, y), label in zip(positions, labels.tolist(), strict=True):
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=CATEGORIES[label % len(CATEGORIES)])
    for label in named_labels(labels):
        members = torch.tensor(positions)[labels.cpu() == label]
        x, y = members.median(0)[0]
        name = picture.names[label]
        half = max(9, text_width(name) / 2 + 5)  # a circle around one letter
        draw.rounded_rectangle(
            torch.stack([x - half, y - 9, x + half, y + 9]).tolist(),
            radius=9,
            fill="white",
            outline=CATEGORIES[label % len(CATEGORIES)],
            width=2,
        )
        draw_text(canvas, (float(x), float(y)), name, anchor="mm")
    names = (picture.x_axis, picture.y_axis)
    for axis, (a, b, name) in enumerate(zip(low.tolist(), high.tolist(), names, strict=True)):
        for tick in ticks(a, b) if name else ():  # an axis without a name has no meaning
            fraction, value = (tick - a) / (b - a), f"{tick:g}"
            position = (
                (left + fraction * size, top + size + 6)
                if axis == 0
                else (left - 6, top + (1 - fraction) * size)
            )
            draw_text(canvas, position, value, anchor="ma" if axis == 0 else "rm")
    return canvas


def named_labels(labels: Tensor) -> list[int]:
    """The labels that are written into a scatter plot: none if there is only one, or too many."""
    found = labels.unique().tolist()
    return found if 1 < len(found) <= MOST_NAMED_LABELS else []


def ticks(low: float, high: float) -> list[float]:
    """Round numbers in a range: three to seven multiples of 1, 2 or 5 times a power of ten."""
    power = 10 ** math.floor(math.log10((high - low) / 3))
    step = max(factor * power for factor in (1, 2, 5) if (high - low) / (factor * power) >= 3)
    first, last = math.ceil(low / step), math.floor(high / step)
    return [round(number * step, 12) for number in range(first, last + 1)]


def draw_bars(picture: Bars) -> Image.Image:
    """Draws the bars with their values; the largest one fills the width."""
    values, names, title = picture.values, picture.names, picture.title
    subtitle = with_axes(picture.subtitle, picture.x_axis)
    line_height, length = SMALL + 6, 360
    left = MARGIN + max(map(text_width, names)) + 8
    top = MARGIN + TITLE + SMALL + 16
    width = max(left + length + 60, MARGIN + max(text_width(title, TITLE), text_width(subtitle)))
    canvas = Image.new("RGB", (width + MARGIN, top + line_height * len(values) + MARGIN), "white")
    draw_header(canvas, title, subtitle)
    largest = max(*values, 1e-9)
    for number, (value, name) in enumerate(zip(values, names, strict=True)):
        middle = top + (number + 0.5) * line_height
        end = left + length * max(value, 0) / largest
        ImageDraw.Draw(canvas).rectangle(
            (left, middle - 5, max(end, left + 1), middle + 5), fill=MAIN
        )
        draw_text(canvas, (left - 8, middle), name, anchor="rm")
        draw_text(canvas, (end + 6, middle), f"{value:.3f}", anchor="lm")
    return canvas


def save_png(path: Path, picture: Image.Image) -> bytes:
    """Writes a PNG atomically and returns its bytes."""
    encoded = io.BytesIO()
    if picture.mode == "L":
        # Palette images are encoded in half the time, because PNG applies no filters to them.
        picture = picture.copy()
        picture.putpalette(bytes(value for value in range(256) for _ in "rgb"))
    picture.save(encoded, format="PNG", compress_level=1)
    write_bytes(path, encoded.getvalue())
    return encoded.getvalue()
