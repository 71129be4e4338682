import xml.etree.ElementTree as ElementTree

from titans.report.style import KNOWN_STYLES, add_legend, line_styles, new_panel, styled, to_svg


def draw(name: str, label: str = "a line") -> str:
    with styled():
        figure, axes = new_panel("Title", "subtitle", "x")
        axes.plot([0, 1], [0, 2], marker="o")
        add_legend(figure, line_styles(["titans"]), {"titans": label})
        return to_svg(figure, name, "what it shows")


def test_svg_is_inline_scalable_described_and_the_same_on_every_run():
    svg = draw("one")
    root = ElementTree.fromstring(svg)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert root.attrib["width"] == "100%"
    assert "height" not in root.attrib
    assert root.attrib["aria-label"] == "what it shows"
    assert not any(element.tag.endswith(("style", "metadata")) for element in root.iter())
    assert svg == draw("one")


def test_text_stays_text_in_the_font_of_the_page(hostile):
    svg = draw("one", "Titans (MAG)")
    assert ">Titans (MAG)</text>" in svg
    assert "font-family" not in svg
    root = ElementTree.fromstring(draw("one", hostile.replace("\x00", "").replace("\ud800", "")))
    texts = [element.text or "" for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert hostile[:25] + "\N{HORIZONTAL ELLIPSIS}" in texts


def test_ids_carry_the_name_and_every_reference_is_met():
    root = ElementTree.fromstring(draw("one"))
    ids = [element.attrib["id"] for element in root.iter() if "id" in element.attrib]
    references = [element.attrib["href"] for element in root.iter() if "href" in element.attrib]
    assert len(ids) == len(set(ids)) > 0
    assert all(name.startswith("one-") for name in ids)
    assert {reference.removeprefix("#") for reference in references} <= set(ids)
    clips = {element.attrib["clip-path"] for element in root.iter() if "clip-path" in element.attrib}
    assert clips <= {f"url(#{name})" for name in ids}


def test_a_model_keeps_its_style_and_strangers_get_spare_ones():
    styles = line_styles(["stranger", "titans", "another"])
    assert styles["titans"] == KNOWN_STYLES["titans"] == KNOWN_STYLES["memory on"]
    assert len({style.color for style in styles.values()}) == 3


def test_no_two_of_many_models_look_alike():
    styles = line_styles(map(str, range(36)))
    assert len(set(styles.values())) == 36
    assert len({(style.color, style.marker) for style in styles.values()}) == 36  # dashes hardly show in a legend
