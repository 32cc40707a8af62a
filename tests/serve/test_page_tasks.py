"""The playground's tasks beside drawing: pictures to follow, gaps between words, and the memory."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import PIL.Image
from browser_tab import PHONE, RED, Tab, drawn, file_of, run_code, taken
from running_server import Running

from cm3.generate import CM3Leon
from cm3.tasks.control import canny


def test_a_picture_is_drawn_after_edges_and_its_code_draws_the_same(
    tab: Tab, server: Running, model: CM3Leon, tmp_path: Path
) -> None:
    edges = canny(model.generate(RED, seed=1).image, 128)
    PIL.Image.new("RGB", (90, 90)).save(tmp_path / "small.png")
    edges.save(tmp_path / "given.png")
    tab.mode("follow")
    kinds = tab.page.locator("#control option:not([hidden])").evaluate_all("all => all.map(e => e.value)")
    assert kinds == ["canny", "segmentation", "scribble", "depth"], "those that the model was tuned for"
    tab.page.fill("#prompt", RED)
    tab.settings(seed="3", candidates="1")
    tab.page.set_input_files("#file", tmp_path / "small.png")
    tab.page.wait_for_selector("#paper")
    tab.page.click("#go")
    tab.page.wait_for_selector("#picture-error:has-text('drawn at the model')")
    assert len(tab.wrong) == 1  # the browser's own line about the answer of 400
    tab.wrong.clear()
    tab.page.wait_for_selector("#go:not(.stop)")
    tab.page.click("#picture-clear")
    tab.page.set_input_files("#file", tmp_path / "given.png")
    tab.page.wait_for_selector("#paper")
    tab.go()
    made = tab.download()
    control = {"kind": "canny", "image": "data:image/png;base64," + base64.b64encode(file_of(edges)).decode()}
    np.testing.assert_array_equal(made, drawn(server, prompt=RED, seed=3, candidates=1, control=control))
    assert tab.axe() == []
    tab.page.click("#code-open")
    for _ in run_code(tab, tmp_path):
        np.testing.assert_array_equal(taken(tmp_path / "picture-1.png"), made)


def test_gaps_between_words_are_filled_and_kept(tab: Tab, server: Running, tmp_path: Path) -> None:
    tab.mode("words")
    tab.page.fill("#prompt", "a red ")
    tab.page.click("#go")
    assert "Put <gap>" in tab.page.inner_text("#prompt-error")
    tab.page.press("#prompt", "End")
    tab.page.click("#gap-add")
    tab.page.keyboard.type(" above a blue square")
    assert tab.page.input_value("#prompt") == (words := "a red <gap> above a blue square") and tab.axe() == []
    tab.settings(seed="1", candidates="1")
    tab.go()
    body = {"messages": [{"role": "user", "content": words}], "seed": 1, "candidates": 1}
    told = server.ask("/v1/chat/completions", body).json["choices"][0]["message"]["content"]
    assert tab.page.inner_text(".words") == told and told.startswith("a red ") and "<gap>" not in told
    assert tab.page.inner_text(".past .told") == told and tab.axe() == []
    tab.page.click("#code-open")
    for said in run_code(tab, tmp_path):
        assert said.strip() == told
    tab.page.click("[data-close]")
    tab.page.fill("#prompt", "")
    tab.page.click(".past")
    assert tab.page.input_value("#prompt") == words and tab.page.inner_text(".words") == told


def test_the_memory_is_searched_by_words_and_by_a_picture(tab: Tab, server: Running, tmp_path: Path) -> None:
    tab.page.set_viewport_size(PHONE)
    tab.mode("search")
    tab.page.click("#go")
    assert "or choose a picture" in tab.page.inner_text("#prompt-error")
    tab.page.fill("#prompt", "a picture of a sozoth")
    tab.settings(k="2")
    tab.go()
    found = server.ask("/v1/memory/search?query=a+picture+of+a+sozoth&k=2").json["data"]
    lines = tab.page.locator(".documents li").all_inner_texts()
    assert len(lines) == 2 and all(one["text"] in line for one, line in zip(found, lines, strict=True))
    assert f"{found[0]['score']:.2f}" in lines[0] and "licence MIT" in lines[0] and tab.axe() == []
    seen = tab.page.evaluate("[...document.querySelectorAll('.documents img')].map(e => e.complete && e.naturalWidth)")
    assert seen == [128] * sum(one["images"] for one in found)
    assert tab.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    assert "2 documents" in tab.page.text_content("#status") and tab.page.is_hidden("#history")
    tab.page.click("#code-open")
    for said in run_code(tab, tmp_path):
        assert [one["id"] in line for one, line in zip(found, said.splitlines(), strict=True)] == [True] * 2
    tab.page.click("[data-close]")
    whole = server.ask("/v1/memory/search", {"query": "a sozoth", "k": 1, "pictures": True}).json["data"][0]
    (tmp_path / "given.png").write_bytes(base64.b64decode(whole["images"][0].partition(",")[2]))
    tab.page.fill("#prompt", "")
    tab.page.set_input_files("#file", tmp_path / "given.png")
    tab.page.wait_for_selector("#paper")
    tab.go()
    near = server.ask("/v1/memory/search", {"image": whole["images"][0], "k": 2}).json["data"]
    lines = tab.page.locator(".documents li").all_inner_texts()
    assert len(near) == 2 and all(one["text"] in line for one, line in zip(near, lines, strict=True))
