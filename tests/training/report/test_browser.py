"""The page in a browser: it moves, holds points, shows images, and stays by itself."""

import numpy as np
import pytest

from tests.support import picture_files as files
from tests.training.report.conftest import CHOICE, NASTY
from training.report.discovery import found_in
from training.report.page import page_of

pytestmark = pytest.mark.browser

POINTS = """name => {
    const source = Bokeh.documents[0].get_model_by_name(name);
    const numbers = (values) => Array.from(values, Number);
    return {
        x: numbers(source.data.now_x), y: numbers(source.data.now_y),
        sample: numbers(source.data.sample), held: source.selected.indices,
    };
}"""
SET = "([node, value]) => { node.value = value; node.dispatchEvent(new Event('input')); }"


@pytest.fixture(scope="module")
def path(html, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(html, encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def page(opened, path):
    with opened(path) as page:
        yield page


def part(page, title, kind):
    section = page.locator("section", has=page.locator("h2", has_text=title)).first
    return section.locator(f".{kind}").first


def points_of(page, flow):
    settings = flow.evaluate("node => JSON.parse(node.dataset.flow)")
    return page.evaluate(POINTS, f"{settings['name']}-points")


def lasso(page, chart, low, high):
    """Draws around a band of a chart, between shares of its width."""
    chart.scroll_into_view_if_needed()
    chart.element_handle().wait_for_element_state("stable")
    box = chart.bounding_box()
    left, right = (box["x"] + box["width"] * share for share in (low, high))
    top, bottom = (box["y"] + box["height"] * share for share in (0.2, 0.85))
    page.mouse.move(left, top)
    page.mouse.down()
    for place in ((right, top), (right, bottom), (left, bottom), (left, top + 2)):
        page.mouse.move(*place, steps=4)
    page.mouse.up()


def test_opens_offline_and_silently(opened, page, path, tmp_path):
    with opened(path, 400, dark=True) as small:
        for each, width, dark in ((page, 1280, False), (small, 400, True)):
            assert not each.complaints
            assert each.title() == NASTY.replace("/", "|")
            # Nothing sticks out.
            assert each.evaluate("document.documentElement.scrollWidth") == width
            luminance = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g)[0]"
            assert (int(each.evaluate(luminance)) < 60) is dark
            assert len(each.screenshot(path=tmp_path / "page.png")) > 10_000


def test_points_move_to_where_the_file_has_them(page, everything):
    with np.load(everything / "toy" / "circles_PRRto1D_exact_melt_results.npz") as file:
        states = file["xs_es"] @ file["eigenvectors"].T
        expected = states + file["scale"][:, None, None] * file["mean"]
    flow = part(page, "exact denoiser", "flow")
    flow.scroll_into_view_if_needed()
    for frame in (files.SAVED - 1, 2):
        page.evaluate(SET, [flow.locator(".when").element_handle(), frame])
        got = points_of(page, flow)
        there = expected[frame, got["sample"]]
        np.testing.assert_allclose(np.array([got["x"], got["y"]]).T, there, rtol=1e-5)
        assert flow.locator(".told-time").text_content() == f"t = {frame:.2f}"
    flow.locator(".play").click()
    page.wait_for_timeout(400)
    assert flow.locator(".play").text_content() == "Pause"
    flow.locator(".play").click()
    assert points_of(page, flow)["x"] != got["x"]
    assert not page.complaints


def test_what_is_held_in_one_panel_is_held_in_all(page):
    flow = part(page, "exact denoiser", "flow")
    # On a busy machine a chart that is not drawn yet may miss the first one.
    for _ in range(3):
        lasso(page, flow.locator(".plot").first, 0.2, 0.5)
        page.wait_for_timeout(1000)
        if flow.locator(".clear").is_enabled():
            break
    got = points_of(page, flow)
    places = np.array([got["x"], got["y"]]).T
    held = np.zeros(len(places), dtype=bool)
    held[got["held"]] = True
    # The left ones, in a chart whose time is the first.
    assert 0 < held.sum() < len(held)
    assert places[held, 0].max() < places[~held, 0].max()
    sources = page.evaluate(
        """() => Bokeh.documents[0].roots().filter((plot) => plot.type === "Figure")
            .map((plot) => plot.renderers[0]?.data_source.selected.indices.length)"""
    )
    assert sum(count == held.sum() for count in sources) == 3
    assert flow.locator(".held").text_content().startswith(f"{held.sum()} of {len(held)} points")
    flow.locator(".clear").click()
    assert points_of(page, flow)["held"] == []


def test_points_in_space_turn_and_keep_their_distances(page):
    flow = page.locator(".flow", has=page.locator(".turn")).first
    before = points_of(page, flow)
    page.evaluate(SET, [flow.locator(".turn").element_handle(), 100])
    after = points_of(page, flow)
    assert before["x"] != after["x"]
    np.testing.assert_allclose(before["y"], after["y"], atol=2.0)
    page.evaluate(SET, [flow.locator(".tilt").element_handle(), 90])
    page.evaluate(SET, [flow.locator(".turn").element_handle(), -90])
    # From above, with the first axis to the right.
    own = page.evaluate(
        "name => Array.from(Bokeh.documents[0].get_model_by_name(name).data.now_x_own)",
        flow.evaluate("node => JSON.parse(node.dataset.flow).name") + "-points",
    )
    np.testing.assert_allclose(points_of(page, flow)["x"], own, atol=1e-5)


def test_an_image_that_is_chosen_is_shown_and_held(page):
    images = part(page, "images in the flow", "images")
    images.locator(".grid .cell").nth(7).click()
    assert images.locator(".chosen").text_content() == "image 7"
    assert images.locator(".strip .cell").first.get_attribute("aria-label") == "original of image 7"
    flow = part(page, "images in the flow", "flow")
    got = points_of(page, flow)
    assert [got["sample"][index] for index in got["held"]] == [7]
    assert images.locator(".grid .held").count() == 1
    # Another image is cut from the same sheets.
    places = images.locator(".strip .cell").evaluate_all(
        "cells => cells.map((cell) => cell.style.getPropertyValue('--x'))"
    )
    assert set(places) == {str(7 % 4)}
    flow.locator(".coloring").select_option(label="label")
    assert "Class of the data" in flow.locator(".meaning").text_content()


def test_a_slider_goes_through_draws_of_an_image_on_a_page_without_charts(opened, tmp_path):
    files.save_posterior(tmp_path, "digits", 16, image_shape=(1, 4, 4), prior=False)
    path = tmp_path / "report.html"
    path.write_text(page_of(found_in([tmp_path], CHOICE), "digits", CHOICE), encoding="utf-8")
    with opened(path) as page:
        page.locator(".grid .cell").nth(2).click()
        drawn, seen = page.locator(".drawn"), set()
        for number in (0, 1, 31):
            page.evaluate(SET, [page.locator(".draw").element_handle(), number])
            label = f"draw {number + 1} of 32 of observation 3"
            assert drawn.get_attribute("aria-label") == label
            seen.add(drawn.evaluate("cell => getComputedStyle(cell).backgroundImage"))
        assert len(seen) == 3
        assert not page.complaints


def test_coordinates_of_a_posterior_can_be_chosen(page):
    views = part(page, "Posterior of", "views")
    name = views.evaluate("node => JSON.parse(node.dataset.views).sets.at(-1)")
    read = """name => {
        const model = (name) => Bokeh.documents[0].get_model_by_name(name);
        const numbers = (values) => Array.from(values);
        const { data } = model(`${name}-columns`);
        return [numbers(model(name).data.x), numbers(data["2-1"])];
    }"""
    views.locator(".group").select_option("2")
    views.locator(".across").select_option("1")
    shown, expected = page.evaluate(read, name)
    assert shown == expected
    assert not page.complaints
