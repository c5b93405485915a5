"""The viewer paints once and keeps little."""

from pathlib import Path

from browsing import wait_for_picture, wait_in_page

from panbench.report.pages.page import document

ASSETS = Path(document.__file__).parent / "assets"


def test_each_pane_is_painted_once(open_report):
    page = open_report()
    wait_in_page(page, "document.querySelector('#viewer canvas')")
    painted = page.evaluate(
        """() => {
            let painted = 0;
            const real = CanvasRenderingContext2D.prototype.putImageData;
            CanvasRenderingContext2D.prototype.putImageData = function (...words) {
                painted++;
                return real.apply(this, words);
            };
            [...document.querySelectorAll('#viewer button')].find((one) => one.textContent === 'Side by side').click();
            CanvasRenderingContext2D.prototype.putImageData = real;
            return painted;
        }"""
    )
    # The truth and two models; the photograph alone has nothing over it.
    assert painted == 3


def test_decoded_images_are_cached_up_to_a_bound(read_report):
    page = read_report()
    source = (ASSETS / "images.js").read_text("utf-8")
    function = source[source.index("function keeping") : source.index("/** What both kinds share")]
    made = page.evaluate(
        f"""() => {{
            {function}
            const made = [];
            const of = keeping(2, (key) => {{ made.push(key); return key; }});
            for (const key of ["a", "b", "a", "c", "a", "b"]) of(key);
            return made;
        }}"""
    )
    # "b" was asked for longest ago when "c" came.
    assert made == ["a", "b", "c", "b"]


def test_no_overlay_is_painted_on_another_images_photograph(open_report):
    page = open_report()
    # Photographs from here on come when they are let in. The third image is no neighbour of the first, and not decoded.
    panes = page.evaluate(
        """async () => {
            const Before = window.Image;
            window.held = [];
            window.Image = function () {
                const image = new Before();
                Object.defineProperty(image, 'src', { set: (src) => held.push(() => image.setAttribute('src', src)) });
                const letIn = new Promise((done) => held.push(done));
                image.decode = () => letIn.then(() => Before.prototype.decode.call(image));
                return image;
            };
            document.querySelectorAll('.thumbs button')[2].click();
            for (let turn = 0; turn < 50; turn++) await null;
            [...document.querySelectorAll('#viewer button')].find((one) => one.textContent === 'Side by side').click();
            return document.querySelectorAll('.pane canvas').length;
        }"""
    )
    assert panes == 0
    assert page.locator("#viewer").get_attribute("aria-busy") == "true"
    page.evaluate("window.held.forEach((one) => one())")
    wait_for_picture(page)
    assert page.locator(".pane canvas").count() == 4
