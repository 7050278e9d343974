"""The viewer in a real browser: it draws, responds, and makes no network requests."""

import time

import numpy as np
import pytest

from dapt.view.clouds import Classes, Cloud, Colors, Facts, Normals, Tokens, Values
from dapt.view.viewer import viewer_page
from support.browser import counting_server

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "\x1b[31mred\nnext line",
    '"><img src=x>',
    "\u202egnp",
]
NAMES = {
    "labels": [
        (name, color)
        for name, color in zip(HOSTILE, ("#d02020", "#20a020", "#2020d0", "#707070"), strict=True)
    ]
}


def ball(points=3000, seed=0):
    rng = np.random.default_rng(seed)
    directions = rng.normal(size=(points, 3))
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def cloud(points, name="ball", **options):
    rng = np.random.default_rng(1)
    classes = (points[:, 0] > 0).astype(int) + 2 * (points[:, 1] > 0)
    token = rng.integers(0, 7, len(points))
    tokens = np.linspace(0, 1, 3 * 7).reshape(3, 7)
    channels = [
        Classes("label", "Label", classes, "labels"),
        Values("confidence", "Confidence", rng.random(len(points)), "confidence", (0, 1), True),
        Tokens("scale", "Adapter scale", tokens, token),
        Colors("rgb", "Color", rng.integers(0, 256, (len(points), 3))),
        Normals("normals", "Normals", points),
    ]
    return Cloud(name, points, channels, **options)


@pytest.fixture(scope="module")
def page():
    facts = Facts([("class", HOSTILE[0])], [(HOSTILE[1], 0.75), (HOSTILE[0], 0.25)], "wrong")
    clouds = [
        cloud(ball(), HOSTILE[0], facts=facts),
        cloud(ball(500) + [5, 6, 7], "second", up="z"),
    ]
    return viewer_page(clouds, NAMES)


def test_draws_without_errors_and_without_the_network(visit, page):
    seen = visit(page)
    assert seen.errors == []
    assert [url for url in seen.requests if not url.startswith("file:")] == ["data:,"] * (
        len(seen.requests) - 1
    )
    pixels = seen.colors()
    differ = (np.abs(pixels.astype(int) - pixels[5, 5]).sum(2) > 60).mean()
    assert 0.1 < differ < 0.9


def test_the_policy_forbids_requests(visit, page, tmp_path):
    with counting_server(tmp_path) as (address, asked):
        seen = visit(page)
        for script in (
            f"fetch('{address}/fetched').then(() => 'came', () => 'refused')",
            f"new Promise(r => {{ const i = new Image(); i.onload = () => r('came');"
            f" i.onerror = () => r('refused'); i.src = '{address}/image'; }})",
            f"new Promise(r => {{ const s = document.createElement('script'); s.onload = () =>"
            f" r('came'); s.onerror = () => r('refused'); s.src = '{address}/script';"
            " document.head.append(s); })",
        ):
            assert seen.run(script) == "refused"
    assert asked == []


def test_names_from_outside_are_text(visit, page):
    seen = visit(page)
    assert seen.run("window.hacked") is None and seen.page.locator("img").count() == 0
    text = seen.page.locator(".panel").inner_text()
    assert HOSTILE[0] in text and r"\x1b[31mred\nnext line" in text and r"\u202egnp" in text
    assert HOSTILE[0] in seen.page.title()


@pytest.mark.parametrize("key", ["height", "label", "confidence", "scale", "rgb", "normals"])
def test_each_channel_has_its_colors(visit, page, key):
    seen = visit(page)
    seen.page.click(f"[data-key={key}]")
    colors = np.array(seen.run("Array.from(viewer.rgba)")).reshape(-1, 4)
    assert (colors[:, 3] == 255).all()
    distinct = len(np.unique(colors[:, :3], axis=0))
    assert distinct == 4 if key == "label" else distinct >= 7
    if key == "label":
        wanted = [[0xD0, 0x20, 0x20], [0x20, 0xA0, 0x20], [0x20, 0x20, 0xD0], [0x70, 0x70, 0x70]]
        classes = np.array(seen.run("Array.from(viewer.cloud.data.label)"))
        assert (colors[:, :3] == np.array(wanted)[classes]).all()
    assert seen.errors == []


def test_values_arrive_as_they_were_sent(visit, page):
    seen = visit(page)
    seen.run("viewer.open(1)")
    seen.page.wait_for_selector("[data-cloud='1']")
    got = np.array(seen.run("[...Array(500).keys()].map(i => viewer.cloud.coordinates(i))"))
    sent = ball(500) + [5, 6, 7]
    order = np.random.default_rng(0).permutation(500)
    step = np.ptp(sent, axis=0).max() / 65535
    np.testing.assert_allclose(got, sent[order], atol=0.51 * step)
    of_block = "viewer.cloud.value(viewer.cloud.channel('scale'), 0, 2)"
    token = np.random.default_rng(1)
    token.random(0)
    tokens = np.linspace(0, 1, 21).reshape(3, 7)
    index = np.array(seen.run("Array.from(viewer.cloud.data.token)"))
    assert seen.run(of_block) == pytest.approx(
        min(tokens[2, index[0]], np.quantile(tokens, 0.995)), abs=1e-4
    )


def test_slider_goes_through_the_blocks(visit, page):
    seen = visit(page)
    seen.page.click("[data-key=scale]")
    slider = seen.page.locator("input.block")
    before = seen.run("Array.from(viewer.rgba)"), seen.colors()
    # the strongest block is shown first
    assert "block 3 of 3" in seen.page.locator(".blocks").inner_text()
    slider.focus()
    seen.page.keyboard.press("Home")
    assert "block 1 of 3" in seen.page.locator(".blocks").inner_text()
    assert seen.run("Array.from(viewer.rgba)") != before[0]
    assert (seen.colors() != before[1]).any(2).mean() > 0.05


def test_legend_hides_a_class_and_shows_it_again(visit, page):
    seen = visit(page)
    seen.page.click("[data-key=label]")
    row = seen.page.locator(".class", has_text="window.hacked")

    def reds():
        pixels = seen.colors().astype(int)
        return ((pixels[..., 0] > 2 * pixels[..., 1]) & (pixels[..., 0] > 2 * pixels[..., 2])).sum()

    many = reds()
    row.click()
    assert row.get_attribute("aria-pressed") == "false"
    hidden = np.array(seen.run("Array.from(viewer.rgba)")).reshape(-1, 4)[:, 3] == 0
    classes = np.array(seen.run("Array.from(viewer.cloud.data.label)"))
    assert (hidden == (classes == 0)).all()
    assert many > 1000 and reds() < 0.02 * many
    seen.page.click("[data-key=height]")  # what is switched off stays off when colors change
    assert (
        np.array(seen.run("Array.from(viewer.rgba)")).reshape(-1, 4)[:, 3] == 0
    ).sum() == hidden.sum()
    seen.page.click("[data-key=label]")
    seen.page.click("text=all")
    assert abs(reds() - many) < 0.05 * many


def test_hover_tells_the_values_of_a_point(visit, page):
    seen = visit(page)
    target = seen.run(
        """(() => { for (let i = 0; i < viewer.cloud.count; i++) {
             const [x, y] = viewer.stage.place(i);
             if (viewer.stage.pick(x, y, 2) === i) return [x, y, i]; } })()"""
    )
    seen.page.mouse.move(target[0], target[1])
    seen.page.wait_for_selector(".hover:not([hidden])")
    text = seen.page.locator(".hover").inner_text()
    i = seen.run("viewer.picked")
    shown = [float(word) for word in text.splitlines()[1].split()]
    assert shown == pytest.approx(seen.run(f"viewer.cloud.coordinates({i})"), abs=1e-3)
    for part in ("xyz", "Confidence", "%", "Adapter scale", "block 3", "Normals"):
        assert part in text
    seen.page.mouse.move(2, 2)
    seen.page.wait_for_selector(".hover", state="hidden")


def test_keyboard_turns_zooms_and_changes_clouds(visit, page):
    seen = visit(page)
    seen.page.locator("canvas").focus()
    place = "viewer.stage.camera.position.toArray()"
    start = seen.run(place)
    seen.page.keyboard.press("ArrowLeft")
    turned = seen.run(place)
    assert np.linalg.norm(np.subtract(start, turned)) > 0.05
    seen.page.keyboard.press("+")
    assert np.linalg.norm(seen.run(place)) < np.linalg.norm(turned)
    seen.page.keyboard.press("n")
    seen.page.wait_for_selector("[data-cloud='1']")
    assert "second" in seen.page.locator("h1").inner_text()


def test_phone(visit, page):
    seen = visit(page, 390, 844, is_mobile=True, has_touch=True)
    assert seen.run("document.documentElement.scrollWidth") <= 390
    panel = seen.page.locator(".panel").bounding_box()
    assert panel["y"] > 400 and panel["width"] == 390
    assert seen.page.locator("canvas").bounding_box()["height"] > 400


def test_dark_and_light(visit, page):
    dark, light = visit(page, scheme="dark").colors("body"), visit(page).colors("body")
    assert dark[3, 3].mean() < 60 < 200 < light[3, 3].mean()
    seen = visit(page)
    seen.page.click("text=Theme")
    assert seen.colors("body")[3, 3].mean() < 60


def test_a_large_room_is_there_in_time_and_turns(visit):
    rng = np.random.default_rng(0)
    room = rng.random((110_000, 3)) * [8, 6, 3]
    wall = rng.integers(0, 6, len(room))
    room[np.arange(len(room)), wall % 3] = (wall // 3) * np.array([8, 6, 3])[wall % 3]
    text = viewer_page([cloud(room, up="z")], NAMES)
    assert len(text) < 4e6
    for _ in range(3):  # the machine may be busy
        begun = time.monotonic()
        seen = visit(text)
        took = time.monotonic() - begun
        if took < 5:
            break
    assert took < 5 and seen.errors == []
    frames = seen.run(
        """new Promise(done => { const times = [];
             viewer.toggleSpin();
             const tick = now => { times.push(now);
               if (times.length < 25) requestAnimationFrame(tick);
               else { viewer.toggleSpin(); done(times); } };
             requestAnimationFrame(tick); })"""
    )
    usual = np.median(np.diff(frames)[10:])
    print(f"{usual:.0f} ms a frame in software")
    assert usual < 400


def test_a_picture_can_be_saved(visit, page):
    seen = visit(page)
    with seen.page.expect_download() as download:
        seen.page.click("text=Save PNG")
    assert download.value.path().read_bytes()[:4] == b"\x89PNG"
