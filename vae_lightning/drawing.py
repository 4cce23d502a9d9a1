"""Pictures from numbers: grids of images, scatters, bars, with titles. PIL alone, so that a picture takes milliseconds.

Shapes: R rows, C columns, D channels (1 or 3), H W of an image, N points.
"""

import functools
from collections.abc import Sequence

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# Paul Tol's muted scheme, https://sronpersonalpages.nl/~pault/: told apart with any colour vision
COLOURS = (
    *("#332288", "#88CCEE", "#44AA99", "#117733", "#999933"),
    *("#DDCC77", "#CC6677", "#882255", "#AA4499", "#777777"),
)
INK, PALE = "#222222", "#bbbbbb"
GAP, MARGIN, TITLE, SMALL = 2, 12, 15, 12


@functools.cache
def font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    """PIL's own, decoded once."""
    return ImageFont.load_default(size)


def write(canvas: Image.Image, place: tuple[float, float], text: str, size: int = SMALL, anchor: str = "la") -> None:
    """Text at a place; ``anchor`` as in PIL: l m r for the side, a m s for the height."""
    ImageDraw.Draw(canvas).text(place, text, fill=INK, font=font(size), anchor=anchor)


def width_of(text: str, size: int = SMALL) -> int:
    """Pixels that the text takes."""
    return int(font(size).getlength(text)) + 1


def tile(images: Tensor, scale: int) -> Image.Image:
    """Images (R, C, D, H, W) in [0, 1] side by side with thin gaps, every pixel ``scale`` by ``scale``."""
    rows, columns, channels, height, width = images.shape
    pixels = (images.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8)
    pixels = pixels.repeat_interleave(scale, -1).repeat_interleave(scale, -2)
    sheet = torch.full((rows, columns, channels, height * scale + GAP, width * scale + GAP), 255, dtype=torch.uint8)
    sheet[..., : height * scale, : width * scale] = pixels
    flat = sheet.permute(0, 3, 1, 4, 2).reshape(rows * (height * scale + GAP), columns * (width * scale + GAP), -1)
    assert channels in (1, 3)
    return Image.fromarray(flat.squeeze(-1).numpy())


def grid(
    images: Tensor,
    title: str,
    subtitle: str,
    rows: Sequence[str] = (),
    columns: Sequence[str] = (),
    scale: int = 2,
) -> Image.Image:
    """Images (R, C, D, H, W) in [0, 1] with a title, and names of rows and columns where they are given."""
    sheet = tile(images, scale)
    left = MARGIN + (max(map(width_of, rows)) + 8 if rows else 0)
    top = MARGIN + TITLE + SMALL + 14 + (SMALL + 6 if columns else 0)
    right = max(left + sheet.width, MARGIN + max(width_of(title, TITLE), width_of(subtitle)))
    canvas = Image.new(sheet.mode, (right + MARGIN, top + sheet.height + MARGIN - GAP), "white")  # grey takes a third
    canvas.paste(sheet, (left, top))
    head(canvas, title, subtitle)
    for number, name in enumerate(rows):
        write(canvas, (left - 8, top + (number + 0.5) * sheet.height / len(images)), name, anchor="rm")
    for number, name in enumerate(columns):
        write(canvas, (left + (number + 0.5) * sheet.width / images.shape[1], top - 5), name, anchor="ms")
    return canvas


def head(canvas: Image.Image, title: str, subtitle: str) -> None:
    """The two lines above a picture."""
    write(canvas, (MARGIN, MARGIN - 2), title, TITLE)
    write(canvas, (MARGIN, MARGIN + TITLE + 6), subtitle)


def scatter(points: Tensor, labels: Tensor, title: str, subtitle: str, size: int = 560) -> Image.Image:
    """Points (N, 2) coloured by label (N,), each label also written where its points have their median."""
    low, high = points.amin(0), points.amax(0)
    margin = 0.03 * (high - low).clamp(min=1e-6)
    low, high = low - margin, high + margin
    top, left = MARGIN + TITLE + SMALL + 16, MARGIN + 40
    width = max(left + size, MARGIN + max(width_of(title, TITLE), width_of(subtitle)))
    canvas = Image.new("RGB", (width + MARGIN, top + size + 30), "white")
    head(canvas, title, subtitle)
    draw = ImageDraw.Draw(canvas)
    draw.rectangle((left, top, left + size, top + size), outline=PALE)
    places = ((points - low) / (high - low)).cpu() * torch.tensor([1.0, -1.0]) + torch.tensor([0.0, 1.0])
    places = (places * size + torch.tensor([left, top])).tolist()
    for (x, y), label in zip(places, labels.tolist(), strict=True):
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=COLOURS[label % len(COLOURS)])
    for label in labels.unique().tolist():
        x, y = torch.tensor([place for place, own in zip(places, labels.tolist(), strict=True) if own == label]).median(
            0
        )[0]
        draw.ellipse((x - 9, y - 9, x + 9, y + 9), fill="white", outline=COLOURS[label % len(COLOURS)], width=2)
        write(canvas, (float(x), float(y)), str(label), anchor="mm")
    for axis, (a, b) in enumerate(zip(low.tolist(), high.tolist(), strict=True)):
        for fraction in (0.0, 0.5, 1.0):
            value = f"{a + fraction * (b - a):.2f}"
            place = (left + fraction * size, top + size + 6) if axis == 0 else (left - 6, top + (1 - fraction) * size)
            write(canvas, place, value, anchor="ma" if axis == 0 else "rm")
    return canvas


def bars(values: Sequence[float], names: Sequence[str], title: str, subtitle: str) -> Image.Image:
    """Horizontal bars with their values, one a line, the largest filling the width."""
    line, length = SMALL + 6, 360
    left = MARGIN + max(map(width_of, names)) + 8
    top = MARGIN + TITLE + SMALL + 16
    width = max(left + length + 60, MARGIN + max(width_of(title, TITLE), width_of(subtitle)))
    canvas = Image.new("RGB", (width + MARGIN, top + line * len(values) + MARGIN), "white")
    head(canvas, title, subtitle)
    most = max(*values, 1e-9)
    for number, (value, name) in enumerate(zip(values, names, strict=True)):
        middle = top + (number + 0.5) * line
        reach = left + length * max(value, 0) / most
        ImageDraw.Draw(canvas).rectangle((left, middle - 5, max(reach, left + 1), middle + 5), fill=COLOURS[0])
        write(canvas, (left - 8, middle), name, anchor="rm")
        write(canvas, (reach + 6, middle), f"{value:.3f}", anchor="lm")
    return canvas
