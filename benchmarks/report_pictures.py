"""The pictures of a report in docs/assets: its answers, its dots with a lineage, and the page of one idea.

usage: python benchmarks/report_pictures.py [--run FOLDER] [--out docs/assets] [--experiments 24]

Without --run, it runs `recipes/search_chat.yaml` with the implementer `direct` and a scripted model on loopback: some
ten minutes on two cores.  The pages are opened in the Chromium of this machine.  A message in its console is an error.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT / "tests"))
WIDTH, HEIGHT = 1040, 820
"""CSS pixels of the window."""
MARGIN = 24
"""Pixels above an element at which a picture ends."""
MAX_BYTES = 150_000
IDEATOR_RL = [sys.executable, "-m", "ideator_rl.cli"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a finished search; none for a new one")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "assets")
    parser.add_argument("--experiments", type=int, default=24, help="of the new search")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="ideator-pictures-") as scratch:
        run = args.run or search(Path(scratch) / "search_chat", args.experiments)
        report = Path(scratch) / "report.html"
        subprocess.run([*IDEATOR_RL, "report", str(run), "--out", str(report)], check=True, stdout=subprocess.DEVNULL)
        for name, picture in pictures(report).items():
            file = args.out / f"{name}.webp"
            file.write_bytes(compressed(picture))
            print(f"{file}: {file.stat().st_size:,} bytes")
    return 0


def search(folder: Path, experiments: int) -> Path:
    """A search on nanogpt whose model is scripted: its ideas change settings, and two of twelve are wrong."""
    from llm_server import Scripted
    from nanogpt_chat import NanogptChat

    with Scripted(NanogptChat(direct=True)) as server:
        keys = {"output_dir": folder, "max_experiments": experiments, "epoch_size": 6, "embedder": "hashed"}
        keys |= {"ideator_options.base_url": server.url, "implementer": "direct", "prompts": "direct", "coder": "null"}
        argv = [word for key, value in keys.items() for word in (f"--{key}", str(value))]
        subprocess.run([*IDEATOR_RL, "search", str(ROOT / "recipes" / "search_chat.yaml"), *argv], check=True)
    return folder


def pictures(report: Path) -> dict[str, bytes]:
    """PNG files by name.

    Raises:
        SystemExit: the console of the browser holds a message.
    """
    from browser import Tab, chromium

    with chromium() as browser:
        tab = Tab(browser, report, viewport={"width": WIDTH, "height": HEIGHT}, color_scheme="light")
        page = tab.page
        shots = {"report_answers": until(page, "figure >> nth=2")}
        # Pointing at the best idea's dot shows the ideas that it came from.
        row = page.evaluate("R.key.indexOf(document.querySelector('.short a').hash.split(':')[1])")
        pictures = []
        for button in ("#plot-course", "#plot-map"):
            page.click(button)
            page.locator("#plot").scroll_into_view_if_needed()
            place = page.evaluate(f"(({{x, y}}) => ({{x, y}}))(plot.points.find(point => point.i === {row}))")
            page.locator("#plot-area").hover(position=place)
            pictures.append(page.locator("#plot").screenshot())
        shots["report_ideas"] = stacked(pictures)
        page.locator(".short a").first.click()
        page.locator("#idea-view h1").wait_for()
        page.click("#idea-view button >> text=Side by side")
        shots["report_idea"] = until(page, "#idea-view h2 >> text=End of the log")
        if tab.console:
            sys.exit(f"The console of the page is not empty: {tab.console}")
    return shots


def until(page: Any, selector: str) -> bytes:
    """The page from its top to where an element begins."""
    page.evaluate("scrollTo(0, 0)")
    end = page.locator(selector).first.bounding_box()["y"] - MARGIN
    return bytes(page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": WIDTH, "height": end}))


def stacked(pngs: Sequence[bytes]) -> bytes:
    """Pictures of equal width, one below the other."""
    from PIL import Image

    images = [Image.open(io.BytesIO(png)) for png in pngs]
    whole = Image.new("RGB", (images[0].width, sum(image.height for image in images)), "white")
    top = 0
    for image in images:
        whole.paste(image, (0, top))
        top += image.height
    target = io.BytesIO()
    whole.save(target, "PNG")
    return target.getvalue()


def compressed(png: bytes) -> bytes:
    """As WebP, at the best quality that fits `MAX_BYTES`."""
    from PIL import Image

    image = Image.open(io.BytesIO(png)).convert("RGB")
    for quality in (90, 80, 70, 60, 50):
        target = io.BytesIO()
        image.save(target, "WEBP", quality=quality, method=6)
        if target.tell() <= MAX_BYTES:
            return target.getvalue()
    raise SystemExit(f"A picture of {image.size} takes more than {MAX_BYTES} bytes.")


if __name__ == "__main__":
    sys.exit(main())
