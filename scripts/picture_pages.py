"""Takes pictures, a film and frame times of the pages that `dapt view` and `dapt report` make.

    python scripts/picture_pages.py shoot view.html --out docs/images/view --color scale
    python scripts/picture_pages.py shoot report.html --out docs/images/report-scales --at scales
    python scripts/picture_pages.py film view.html --out docs/images/view-film.webp
    python scripts/picture_pages.py time view.html

`shoot` writes NAME.webp, 1,280 pixels wide, and NAME-phone.webp, 390 wide. The browser is the
system's Chromium, driven by Playwright (the extra `browser`), and renders in software.
"""

import argparse
import io
import statistics
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.browser import FLAGS, find_browser

SIZES = {"": (1280, 800), "-phone": (390, 844)}
FILM = (900, 560)
FRAMES, PAUSE = 9, 110  # frames per block; milliseconds per frame
TIMED = 60  # frames
WATCH = f"""new Promise(done => {{ const times = []; viewer.toggleSpin();
  const tick = now => {{ times.push(now);
    if (times.length < {TIMED}) requestAnimationFrame(tick);
    else {{ viewer.toggleSpin(); done(times); }} }};
  requestAnimationFrame(tick); }})"""


@contextmanager
def opened(page: Path, size: tuple[int, int], dark: bool = False) -> Iterator:
    """Opens the page in a window of the given size and waits until it has drawn."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=FLAGS)
        window = browser.new_page(
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            is_mobile=size[0] < 500,
        )
        window.goto(page.resolve().as_uri())
        window.wait_for_selector("html[data-ready]", timeout=60_000)
        yield window
        browser.close()


def picture(window) -> Image.Image:
    return Image.open(io.BytesIO(window.screenshot())).convert("RGB")


def shoot(options) -> None:
    for suffix, size in SIZES.items():
        with opened(options.page, size, options.dark) as window:
            if options.cloud:
                window.evaluate(f"viewer.open({options.cloud})")
            if options.color:
                window.click(f"[data-key={options.color}]")
            if options.at:
                window.evaluate(f"document.getElementById('{options.at}').scrollIntoView()")
            window.wait_for_timeout(1500)
            path = options.out.with_name(f"{options.out.name}{suffix}.webp")
            picture(window).save(path, quality=80, method=6)
            print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


def film(options) -> None:
    """Films one turn around the cloud while stepping through the blocks of the network."""
    frames = []
    with opened(options.page, FILM) as window:
        if options.cloud:
            window.evaluate(f"viewer.open({options.cloud})")
        window.click(f"[data-key={options.color or 'scale'}]")
        slider = window.locator("input.block")
        low, high = (int(slider.get_attribute(end)) for end in ("min", "max"))
        count = FRAMES * (high + 1 - low)
        for number in range(count):
            if number % FRAMES == 0:
                window.evaluate(
                    "n => { const slider = document.querySelector('input.block');"
                    " slider.value = n; slider.dispatchEvent(new Event('input')); }",
                    low + number // FRAMES,
                )
            azimuth = 35 + 360 * number / count
            window.evaluate(f"viewer.stage.look({azimuth}, 20)")
            window.wait_for_timeout(150)
            frames.append(picture(window))
    frames[0].save(
        options.out, save_all=True, append_images=frames[1:], duration=PAUSE, loop=0,
        quality=55, method=4, minimize_size=True,
    )  # fmt: skip
    print(f"{options.out}: {len(frames)} frames, {options.out.stat().st_size / 1e3:.0f} kB")


def time(options) -> None:
    with opened(options.page, SIZES[""]) as window:
        if options.cloud:
            window.evaluate(f"viewer.open({options.cloud})")
            window.wait_for_timeout(1000)
        points = window.evaluate("viewer.cloud.count")
        times = window.evaluate(WATCH)
    steps = sorted(b - a for a, b in zip(times[10:], times[11:], strict=False))
    most = steps[int(0.95 * len(steps))]
    print(f"{points:,} points: {statistics.median(steps):.0f} ms a frame, 95 % below {most:.0f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=("shoot", "film", "time"))
    parser.add_argument("page", type=Path)
    parser.add_argument("--out", type=Path, help="NAME of the pictures, or the film's file")
    parser.add_argument("--color", help="what to color points by: height, label, scale ...")
    parser.add_argument("--cloud", type=int, default=0, help="which cloud of the page to show")
    parser.add_argument("--at", help="the section of a report to show")
    parser.add_argument("--dark", action="store_true")
    options = parser.parse_args()
    if options.what != "time" and options.out is None:
        parser.error(f"{options.what} needs --out")
    {"shoot": shoot, "film": film, "time": time}[options.what](options)


if __name__ == "__main__":
    main()
