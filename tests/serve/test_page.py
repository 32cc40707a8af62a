"""The playground in a real browser, on a real server of the embedded model, and its files as they are served."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from browser_tab import PHONE, RED, STAR, WIDE, Tab, drawn, run_code, taken
from running_server import Running, running

import cm3
import cm3.serve
from cm3.generate import CM3Leon
from cm3.serve.keys import Keys
from cm3.serve.limits import Settings

FILES = Path(cm3.serve.__file__).parent / "page"


def test_each_file_has_its_type_a_tag_and_a_policy(server: Running) -> None:
    for path, name in (("/", "index.html"), *((f"/page/{f.name}", f.name) for f in FILES.iterdir())):
        answer = server.ask(path)
        assert answer.status == 200 and answer.data == (FILES / name).read_bytes()
        kind = {"html": "text/html", "js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
        assert answer.headers["content-type"].startswith(kind[name.rpartition(".")[2]])
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "unsafe" not in answer.headers["content-security-policy"]
        tag = answer.headers["etag"]
        again = server.ask(path, headers={"If-None-Match": f'"other", W/{tag}'})
        assert again.status == 304 and not again.data and again.headers["etag"] == tag
        assert server.ask(path, headers={"If-None-Match": '"other"'}).status == 200


@pytest.mark.parametrize("name", ["nothing.js", "../app.py", "..%2fapp.py", "%2e%2e/app.py", "", "a%00"])
def test_a_name_that_is_no_file_of_the_page_is_told(server: Running, name: str) -> None:
    answer = server.ask(f"/page/{name}")
    assert answer.status == 404 and answer.error["message"]


def test_the_page_names_only_files_of_its_own() -> None:
    page = (FILES / "index.html").read_text(encoding="utf-8")
    named = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {n for n in named if not n.startswith("#")} <= {f"page/{f.name}" for f in FILES.iterdir()}
    assert "<style" not in page and not re.search(r"\s(?:style|on\w+)=|<script>", page)
    for script in FILES.glob("*.js"):
        assert set(re.findall(r'from "(.+?)"', script.read_text())) <= {f"./{f.name}" for f in FILES.iterdir()}
        assert (
            script.name == "theme.js"
            or f"./{script.name}" in "".join(f.read_text() for f in FILES.glob("*.js"))
            or (f"page/{script.name}" in page)
        )


def test_what_was_thought_first_is_told_below_the_picture(browser: Any) -> None:
    model = cm3.load("stickers")
    want = model.generate("a dog above a cat", seed=1, candidates=1).thoughts[0]
    assert want
    with running(model) as server:
        context = browser.new_context(viewport=WIDE)
        tab = Tab(context, server.url)
        tab.page.fill("#prompt", "a dog above a cat")
        tab.settings(seed="1", candidates="1")
        tab.go()
        assert tab.page.inner_text("#results .thought") == f"Drawn from the thought: {want}"
        assert tab.axe() == [] and tab.wrong == []
        context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_first_view_fits_any_screen_and_breaks_no_rule(browser: Any, server: Running, scheme: str) -> None:
    for size in (WIDE, PHONE):
        context = browser.new_context(viewport=size, color_scheme=scheme)
        tab = Tab(context, server.url)
        assert tab.page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        box = tab.page.locator("#go").bounding_box()
        assert box["y"] + box["height"] < size["height"]
        assert tab.axe() == [] and tab.wrong == []
        context.close()


def test_the_theme_is_chosen_and_kept(tab: Tab) -> None:
    def paper() -> str:
        return tab.page.evaluate("getComputedStyle(document.body).backgroundColor")

    light = paper()
    while "dark" not in tab.page.locator("#theme").inner_text():
        tab.page.click("#theme")
    dark = paper()
    assert dark != light and tab.axe() == []
    tab.page.reload()
    tab.page.wait_for_selector("html[data-ready]")
    assert paper() == dark


def test_a_picture_appears_row_by_row_and_is_what_the_interface_gives(tab: Tab, server: Running) -> None:
    tab.page.evaluate("""() => {
        window.told = [];
        const note = () => told.push(document.querySelector('#results .said')?.textContent);
        new MutationObserver(note).observe(document.getElementById('results'), {subtree: true, childList: true});
    }""")
    tab.settings(seed="11")
    tab.page.fill("#prompt", RED)
    tab.page.press("#prompt", "Enter")
    tab.page.wait_for_selector("#results > .done")
    told = [line for line in dict.fromkeys(tab.page.evaluate("told")) if line and line.startswith("row ")]
    assert told == [f"row {i} of 8" for i in range(1, 8)]
    np.testing.assert_array_equal(tab.download(), drawn(server, prompt=RED, seed=11))
    assert "seed 11" in tab.page.inner_text(".said") and tab.axe() == []


def test_documents_that_were_read_stand_beside_the_picture(tab: Tab) -> None:
    tab.page.click(".chip:has-text('sozoth')")
    tab.go()
    line = tab.page.inner_text("#documents li")
    assert "sozoth" in line and "licence MIT" in line and "source emblems/test" in line
    tab.mode("draw")
    tab.settings(retrieve="")
    tab.page.fill("#prompt", "a cat on a grey ground")
    tab.go()
    assert tab.page.is_hidden("#documents") and "does not know 'cat'" in tab.page.inner_text(".warning")


def test_settings_that_are_folded_away_are_told_beside_their_word(tab: Tab) -> None:
    def told() -> str:
        return tab.page.inner_text("#changed")

    assert told() == ""
    tab.page.click(".chip:has-text('sozoth')")
    assert told() == "documents to read 1" and not tab.page.is_visible("#retrieve")
    tab.settings(seed="7", compare="guidance", values="1, 2")
    assert told() == "seed 7, documents to read 1, guidance 1, 2" and tab.axe() == []
    tab.mode("ask")
    assert told() == "seed 7"
    tab.mode("draw")
    tab.page.click("#reset")
    assert told() == ""


def test_what_follows_the_picture_is_never_under_it(tab: Tab) -> None:
    tab.page.fill("#prompt", RED)
    tab.go()
    tab.settings()
    for part in (0, 0.5, 1):
        stage, history = tab.page.evaluate(
            """part => {
                scrollTo(0, part * document.documentElement.scrollHeight);
                const edge = (id) => document.getElementById(id).getBoundingClientRect();
                return [edge('stage').bottom, edge('history').top];
            }""",
            part,
        )
        assert stage <= history


def test_settings_stand_side_by_side_and_their_code_makes_the_same(tab: Tab, server: Running, tmp_path: Path) -> None:
    tab.page.fill("#prompt", RED)
    tab.settings(seed="3", compare="guidance", values="1, 2.5")
    tab.go(2)
    assert tab.page.locator(".card .label").all_inner_texts() == ["guidance 1", "guidance 2.5"]
    wanted = {value: drawn(server, prompt=RED, seed=3, guidance=float(value)) for value in ("1", "2.5")}
    np.testing.assert_array_equal(tab.download(0), wanted["1"])
    np.testing.assert_array_equal(tab.download(1), wanted["2.5"])
    tab.page.click("#code-open")
    assert tab.axe() == []
    for _ in run_code(tab, tmp_path):
        for value, found in wanted.items():
            np.testing.assert_array_equal(taken(tmp_path / f"picture-{value}-1.png"), found)


def test_a_link_carries_the_settings_and_history_the_pictures(tab: Tab) -> None:
    words = '<img src=x onerror="document.title=1"> & a circle'
    tab.page.fill("#prompt", words)
    tab.settings(seed="5", temperature="0.5", n="2")
    tab.go(2)
    first = tab.download(0)
    tab.page.click("#share")
    tab.page.wait_for_selector("#copied:has-text('Copied')")
    link = tab.page.evaluate("navigator.clipboard.readText()")
    assert "data:" not in link
    tab.page.goto("about:blank")
    tab.page.goto(link)
    tab.page.wait_for_selector("html[data-ready]")
    assert tab.page.input_value("#prompt") == words
    assert [tab.page.input_value(f"#{name}") for name in ("seed", "temperature", "n")] == ["5", "0.5", "2"]
    tab.page.fill("#prompt", "")
    tab.page.click(".past")
    tab.page.wait_for_selector("#results > .done >> nth=1")
    np.testing.assert_array_equal(tab.download(0), first)
    assert tab.page.input_value("#prompt") == words and tab.page.title() == "CM3Leon playground"
    tab.page.locator(".away").focus()
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#history", state="hidden")


def test_a_link_that_nobody_made_is_taken_as_far_as_it_goes(tab: Tab, server: Running) -> None:
    tab.page.goto(f'{server.url}/#mode=paint&prompt=a+star&seed=x&guidance=2&boxes=[[1,[2]],["a",[1,2,3,999]]]')
    tab.page.reload()
    tab.page.wait_for_selector("html[data-ready]")
    assert tab.page.input_value("#prompt") == "a star" and tab.page.input_value("#guidance") == "2"
    assert tab.page.input_value("#seed") == "" and not tab.page.locator(".box").count()


def test_a_region_is_filled_by_keyboard_and_the_rest_stays(tab: Tab, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = rng.integers(0, 256, (128, 128, 3), np.uint8)
    PIL.Image.fromarray(given).save(tmp_path / "given.png")
    tab.mode("fill")
    tab.page.click("#go")
    assert "Choose a picture" in tab.page.inner_text("#picture-error")
    tab.page.set_input_files("#file", tmp_path / "given.png")
    tab.page.wait_for_selector("#mask-tools")
    tab.page.fill("#prompt", STAR)
    tab.page.click("#go")
    assert "Paint" in tab.page.inner_text("#picture-error")
    tab.page.locator("#mask").focus()
    for key in ("ArrowRight", "ArrowDown", "Space", "Shift+ArrowRight"):
        tab.page.keyboard.press(key)
    assert "Row 2, column 3, painted" in tab.page.text_content("#status")
    assert tab.axe() == []
    tab.settings(candidates="1")
    tab.go()
    made = tab.download()
    inside = np.zeros((128, 128), bool)
    inside[16:32, 16:48] = True
    np.testing.assert_array_equal(made[~inside], given[~inside])
    assert (made[inside] != given[inside]).any()
    tab.page.click("#code-open")
    for name in ("given.png", "mask.png"):
        with tab.page.expect_download() as download:
            tab.page.click(f"#code-files a:has-text('{name}')")
        assert download.value.suggested_filename == name
        download.value.save_as(tmp_path / name)
    for _ in run_code(tab, tmp_path):
        np.testing.assert_array_equal(taken(tmp_path / "picture-1.png"), made)


def test_a_brush_a_box_and_an_eraser_paint_where_they_pass(tab: Tab, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (200, 100), "white").save(tmp_path / "wide.png")
    tab.mode("fill")
    tab.page.set_input_files("#file", tmp_path / "wide.png")
    tab.page.wait_for_selector("#mask-tools")

    def drag(tool: str, *places: tuple[float, float]) -> None:
        tab.page.click(f"#mask-tools label:has([value={tool}])")
        frame = tab.page.locator("#mask").bounding_box()
        spots = [(frame["x"] + x * frame["width"], frame["y"] + y * frame["height"]) for x, y in places]
        tab.page.mouse.move(*spots[0])
        tab.page.mouse.down()
        for spot in spots[1:]:
            tab.page.mouse.move(*spot, steps=3)
        tab.page.mouse.up()

    def painted() -> np.ndarray:
        found = tab.page.evaluate("""() => {
            const canvas = document.getElementById('mask');
            return [...canvas.getContext('2d').getImageData(0, 0, 100, 100).data].filter((_, i) => i % 4 === 3);
        }""")
        return np.array(found).reshape(100, 100) > 127

    drag("box", (0.5, 0.5), (0.9, 0.8))
    expected = np.zeros((100, 100), bool)
    expected[50:80, 50:90] = True
    assert (painted() ^ expected).sum() <= 140  # a pixel around it
    drag("brush", (0.1, 0.1), (0.4, 0.1))
    assert painted()[10, 10:41].all() and not painted()[30:].any(axis=1)[:15].any()
    drag("eraser", (0.5, 0.65), (0.9, 0.65))
    assert not painted()[65, 52:88].any() and painted()[52, 52:88].all()
    tab.page.click("#mask-clear")
    assert not painted().any()


def test_boxes_are_placed_by_pointer_and_by_keyboard(tab: Tab) -> None:
    tab.mode("place")
    tab.page.click("#go")
    assert "Draw a box" in tab.page.inner_text("[data-of=boxes]")
    frame = tab.page.locator("#boxes").bounding_box()
    tab.page.mouse.move(frame["x"] + 0.1 * frame["width"], frame["y"] + 0.1 * frame["height"])
    tab.page.mouse.down()
    tab.page.mouse.move(frame["x"] + 0.4 * frame["width"], frame["y"] + 0.5 * frame["height"], steps=4)
    tab.page.mouse.up()
    tab.page.keyboard.type("red circle")
    tab.page.click("#box-add")
    tab.page.click("#go")
    assert "name" in tab.page.inner_text("[data-of=boxes]")
    tab.page.keyboard.press("Shift+Tab")
    tab.page.locator("#box-list input").last.fill("blue star")
    tab.page.locator(".box").last.focus()
    before = tab.page.get_attribute(".box >> nth=1", "aria-label")
    assert before == "blue star: left 72, top 72, right 168, bottom 168"
    for key in ("ArrowRight", "ArrowDown", "Alt+ArrowDown", "Shift+ArrowLeft"):
        tab.page.keyboard.press(key)
    assert tab.page.get_attribute(".box >> nth=1", "aria-label") == "blue star: left 80, top 81, right 168, bottom 177"
    assert tab.axe() == []
    with tab.page.expect_request("**/v1/images/generations") as sent:
        tab.go()
    body = sent.value.post_data_json
    assert body["prompt"] == "red circle and blue star" and body["boxes"][1] == ["blue star", [80, 81, 168, 177]]
    name, corners = body["boxes"][0]
    assert name == "red circle" and np.abs(np.array(corners) - [26, 26, 102, 128]).max() <= 2
    tab.page.locator(".box").last.focus()
    tab.page.keyboard.press("Delete")
    tab.page.keyboard.press("Delete")
    assert not tab.page.locator(".box").count() and tab.page.evaluate("document.activeElement.id") == "box-add"


def test_a_picture_is_asked_about_edited_and_taken_on(tab: Tab, server: Running, tmp_path: Path) -> None:
    PIL.Image.fromarray(drawn(server, prompt=RED, seed=11)).save(tmp_path / "given.png")
    tab.mode("ask")
    tab.page.set_input_files("#file", tmp_path / "given.png")
    tab.page.wait_for_selector("#paper")
    tab.page.fill("#prompt", "what colour is the circle?")
    tab.go()
    assert tab.page.inner_text(".words") == "red" and tab.axe() == []
    tab.page.fill("#prompt", "")
    tab.settings(candidates="1")
    tab.go()
    assert "circle" in tab.page.inner_text(".words")
    tab.mode("edit")
    tab.page.fill("#prompt", "make the background pink")
    tab.settings(candidates="", seed="1")
    tab.go()
    assert tab.download().shape == (128, 128, 3)
    tab.page.click(".actions button:has-text('Fill')")
    tab.page.wait_for_selector("#mask-tools")
    assert tab.page.locator("[value=fill]").is_checked()


def test_the_server_is_told_to_stop_and_stops(tab: Tab, server: Running) -> None:
    tab.page.fill("#prompt", RED)
    tab.settings(n="10", candidates="16")
    tab.page.click("#go")
    tab.page.wait_for_selector("#go.stop")
    while not server.service.loop.load.running:
        pass
    tab.page.keyboard.press("Escape")
    tab.page.wait_for_selector("#go:not(.stop)")
    assert set(tab.page.locator(".card .error").all_inner_texts()) == {"Stopped."}
    while server.service.loop.load.running:
        pass


def test_errors_of_the_server_stand_where_they_happened(tab: Tab, server: Running) -> None:
    tab.page.fill("#prompt", RED)
    tab.settings(guidance="100000")
    tab.page.evaluate("document.getElementById('top_p').removeAttribute('max')")
    tab.settings(guidance="", top_p="7")
    tab.page.click("#go")
    tab.page.wait_for_selector("#top_p-error")
    assert "top_p" in tab.page.inner_text("#top_p-error")
    assert tab.page.evaluate("document.activeElement.id") == "top_p" and tab.axe() == []
    tab.settings(top_p="", compare="guidance", values="1, x")
    tab.page.click("#go")
    assert "numbers" in tab.page.inner_text("#values-error")
    tab.settings(compare="")
    tab.page.fill("#prompt", "a star " * 2000)
    tab.page.click("#go")
    tab.page.wait_for_selector(".error:visible")
    assert "context" in tab.page.inner_text(".error:visible")
    tab.page.context.set_offline(True)
    tab.page.fill("#prompt", RED)
    tab.page.click("#go")
    tab.page.wait_for_selector(".card .error:has-text('does not answer')")
    assert len(tab.wrong) == 3  # the browser's own lines about the two answers of 400, and the one that never came
    tab.wrong.clear()


def test_a_full_queue_is_waited_for(browser: Any, model: CM3Leon) -> None:
    with running(model, Settings(queue=1)) as server:
        context = browser.new_context()
        tab = Tab(context, server.url)
        tab.page.fill("#prompt", RED)
        tab.settings(compare="guidance", values="1, 2")
        with tab.page.expect_response(lambda answer: answer.status == 429):
            tab.page.click("#go")
        tab.page.wait_for_selector("#results > .done >> nth=1", timeout=110_000)
        assert not tab.page.locator(".card .error").count()
        context.close()


def test_a_key_is_asked_for_and_kept_for_the_tab(browser: Any, model: CM3Leon) -> None:
    with running(model, keys=Keys.read(environment="page a-long-secret-of-ours")) as server:
        context = browser.new_context()
        tab = Tab(context, server.url)
        for given in ("not-the-key-of-ours", "a-long-secret-of-ours"):
            tab.page.wait_for_selector("#key[open]")
            assert tab.axe() == []
            with tab.page.expect_response("**/v1/models"):
                tab.page.fill("#key-value", given)
                tab.page.click("#key .primary")
        tab.page.wait_for_selector("#model:has-text('scenes')")
        tab.page.reload()
        tab.page.wait_for_selector("#model:has-text('scenes')")
        tab.page.fill("#prompt", RED)
        tab.go()
        tab.page.click("#code-open")
        code = tab.page.inner_text("#code code")
        assert "CM3_API_KEY" in code and "a-long-secret" not in code
        other = Tab(context, server.url)
        other.page.wait_for_selector("#key[open]")
        context.close()


def test_all_is_done_with_the_keyboard_alone(tab: Tab) -> None:
    """Each stop of the Tab key shows where it is, and the picture is asked for and reached."""
    tab.page.evaluate("document.getElementById('seed').value = 1")

    def to(place: str) -> None:
        for _ in range(40):
            tab.page.keyboard.press("Tab")
            seen = tab.page.evaluate("""() => {
                const at = document.activeElement;
                const mark = at.matches('[type=radio]') ? at.nextElementSibling : at;
                return [getComputedStyle(mark).outlineStyle, at.id || at.className || at.name];
            }""")
            assert seen[0] != "none", seen
            if tab.page.evaluate("place => document.activeElement.matches(place)", place):
                return
        raise AssertionError(f"{place} is not reached")

    to("#theme")
    to("[name=mode]")
    tab.page.keyboard.press("ArrowRight")
    assert tab.page.locator("[value=place]").is_checked()
    to("#box-add")
    tab.page.keyboard.press("Enter")
    tab.page.keyboard.type("red circle")
    to("#prompt")
    tab.page.keyboard.type("a red circle on a sand ground")
    tab.page.keyboard.press("Enter")
    tab.page.wait_for_selector("#results > .done")
    tab.page.wait_for_selector("#go:not(.stop)")
    to(".actions a")
    to("[aria-pressed]")
    tab.page.keyboard.press("Space")
    assert tab.page.is_visible(".over .tag:has-text('red circle')") and tab.axe() == []


def test_motion_is_left_out_where_it_is_not_wanted(browser: Any, server: Running) -> None:
    context = browser.new_context(viewport=PHONE, reduced_motion="reduce")
    tab = Tab(context, server.url)
    tab.page.fill("#prompt", RED)
    tab.page.click("#go")
    tab.page.wait_for_selector("#results .scan", state="attached")
    assert tab.page.evaluate("getComputedStyle(document.querySelector('.scan')).animationName") == "none"
    tab.page.wait_for_selector("#results > .done")
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert tab.axe() == [] and tab.wrong == []
    context.close()
