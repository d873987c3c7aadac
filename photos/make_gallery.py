"""Makes the gallery of this folder: renders invented scenes, and takes one photograph, into JPEG files.

    apt-get install blender && python photos/make_gallery.py [SCENE ...]

Hands and things are modelled in render.py. Banknote, bank card and phone screen are drawn here and show
nothing real. The blurred grounds are scikit-image's sample photographs. Needs Blender 3.4, scikit-image
and Pillow; some minutes on two cores.
"""

from __future__ import annotations

import math
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont
from skimage import data, restoration

PHOTOS = Path(__file__).parent
FONT = PHOTOS.parent / "fonts" / "DejaVuSans-Bold.ttf"
SAMPLES = 18
NOISE = 0.03  # standard deviation that so few samples leave, of white
ORIENTATION = 0x0112  # the EXIF tag
# scene of render.py -> file of the gallery
SCENES = {
    "pistol": "01-pistol-in-a-hand.jpg",
    "knife": "02-knife-in-a-hand.jpg",
    "phone": "03-smartphone-in-a-hand.jpg",
    "wallet": "04-wallet-in-a-hand.jpg",
    "banknotes": "05-banknotes-in-a-hand.jpg",
    "card": "06-bank-card-in-a-hand.jpg",
    "table": "07-pistol-smartphone-and-wallet.jpg",
    "kitchen": "08-kitchen-knife-card-and-mug.jpg",
    "mug": "09-mug-nothing-to-find.jpg",
    "street": "10-knife-photo-stored-sideways.jpg",
}
PHOTOGRAPH = "11-coffee-nothing-to-find.jpg"
SIDEWAYS = "street"


def main() -> None:
    """Make the pictures named on the command line, or all."""
    wanted = sys.argv[1:] or list(SCENES)
    with tempfile.TemporaryDirectory() as folder:
        textures = Path(folder)
        draw_textures(textures)
        for scene in wanted:
            output = textures / f"{scene}-render.png"
            command = ["blender", "--background", "--factory-startup", "--python", str(PHOTOS / "render.py")]
            subprocess.run([*command, "--", scene, str(textures), str(output), str(SAMPLES)], check=True)
            save(Image.open(output).convert("RGB"), PHOTOS / SCENES[scene], sideways=scene == SIDEWAYS)
    save(Image.fromarray(data.coffee()), PHOTOS / PHOTOGRAPH, sideways=False, grain=0)


def save(picture: Image.Image, path: Path, *, sideways: bool, grain: float = 2.5) -> None:
    """Write a picture as a phone would: a little noise, JPEG; sideways with the EXIF tag that says so."""
    if grain > 0:  # then it is a render, with the few samples' own coarser noise
        picture = clean(picture)
    noise = np.random.default_rng(0).normal(0, grain, (picture.height, picture.width, 1))
    noisy = Image.fromarray((np.asarray(picture) + noise).clip(0, 255).astype(np.uint8))
    exif = Image.Exif()
    if sideways:
        noisy = noisy.transpose(Image.Transpose.ROTATE_90)
        exif[ORIENTATION] = 6  # turn clockwise to see it upright
    noisy.save(path, quality=88, optimize=True, exif=exif)


def clean(picture: Image.Image) -> Image.Image:
    """Take the render's noise away, edges kept."""
    image = np.asarray(picture) / 255
    smooth = restoration.denoise_nl_means(
        image, patch_size=5, patch_distance=6, h=0.8 * NOISE, sigma=NOISE, fast_mode=True, channel_axis=-1
    )
    return Image.fromarray((smooth * 255).round().astype(np.uint8))


def draw_textures(folder: Path) -> None:
    """Write what render.py puts on its objects and grounds."""
    Image.fromarray(data.coffee()).filter(ImageFilter.GaussianBlur(34)).save(folder / "coffee.png")
    for name, turn in (("brick", 90), ("grass", 0)):
        ground = Image.fromarray(getattr(data, name)()).convert("RGB").rotate(turn).crop((0, 64, 512, 448))
        ground.filter(ImageFilter.GaussianBlur(4)).save(folder / f"{name}.png")
    banknote().save(folder / "banknote.png")
    bank_card().save(folder / "card.png")
    phone_screen().save(folder / "screen.png")


def banknote() -> Image.Image:
    """An invented banknote: rosettes, a number, no country."""
    picture = Image.new("RGB", (1500, 720), (214, 224, 200))
    draw = ImageDraw.Draw(picture)
    for k in range(26):
        points = [(750 + (330 + 12 * k) * math.cos(t / 60) * (1 + 0.25 * math.sin(t / 60 * 7 + k / 4)),
                   360 + (150 + 6 * k) * math.sin(t / 60) * (1 + 0.25 * math.cos(t / 60 * 5 + k / 3)))
                  for t in range(378)]  # fmt: skip
        draw.line(points, fill=(96 + 3 * k, 136, 112), width=2)
    draw.rectangle((20, 20, 1480, 700), outline=(60, 98, 78), width=10)
    draw.ellipse((560, 120, 940, 600), fill=(188, 204, 176), outline=(60, 98, 78), width=8)
    draw.polygon([(640, 520), (750, 220), (860, 520)], fill=(92, 128, 104))
    for place, size in (((60, 50), 150), ((1110, 530), 150), ((1200, 60), 90)):
        draw.text(place, "100", fill=(44, 84, 62), font=ImageFont.truetype(str(FONT), size))
    draw.text((70, 610), "SPECIMEN  No 0000001", fill=(120, 50, 50), font=ImageFont.truetype(str(FONT), 44))
    return picture


def bank_card() -> Image.Image:
    """An invented bank card: chip, numbers of zeros."""
    picture = Image.new("RGB", (1284, 810))
    ramp = np.linspace(0, 1, 1284)[None, :, None] * np.array([20, 60, 90]) + np.array([18, 48, 110])
    picture.paste(Image.fromarray(np.broadcast_to(ramp, (810, 1284, 3)).astype(np.uint8)))
    draw = ImageDraw.Draw(picture)
    for k in range(9):
        draw.arc((500 - 60 * k, -300, 1700 - 30 * k, 1300 - 70 * k), 100, 250, fill=(60, 110, 180), width=4)
    draw.rounded_rectangle((110, 270, 300, 410), 24, fill=(214, 180, 96), outline=(150, 120, 50), width=4)
    for y in (316, 364):
        draw.line((110, y, 300, y), fill=(150, 120, 50), width=4)
    draw.text((110, 90), "SAMPLE BANK", fill="white", font=ImageFont.truetype(str(FONT), 84))
    number = "0000 0000 0000 0000"
    draw.text((110, 480), number, fill=(235, 235, 225), font=ImageFont.truetype(str(FONT), 78))
    name = "NOBODY AT ALL      00/00"
    draw.text((110, 640), name, fill=(235, 235, 225), font=ImageFont.truetype(str(FONT), 50))
    draw.ellipse((980, 560, 1120, 700), fill=(230, 90, 50))
    draw.ellipse((1070, 560, 1210, 700), fill=(240, 180, 60))
    return picture


def phone_screen() -> Image.Image:
    """An invented phone screen: clock and coloured tiles."""
    picture = Image.new("RGB", (670, 1430))
    ramp = np.linspace(0, 1, 1430)[:, None, None] * np.array([30, 60, 120]) + np.array([20, 30, 60])
    picture.paste(Image.fromarray(np.broadcast_to(ramp, (1430, 670, 3)).astype(np.uint8)))
    draw = ImageDraw.Draw(picture)
    draw.text((150, 150), "12:34", fill="white", font=ImageFont.truetype(str(FONT), 130))
    colors = [(235, 87, 87), (242, 153, 74), (242, 201, 76), (39, 174, 96), (47, 128, 237), (155, 81, 224)]
    for i in range(20):
        x, y = 60 + i % 4 * 145, 560 + i // 4 * 160
        draw.rounded_rectangle((x, y, x + 110, y + 110), 28, fill=colors[i * 5 % 6])
    return picture


if __name__ == "__main__":
    main()
