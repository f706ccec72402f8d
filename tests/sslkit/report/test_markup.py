"""Elements and escaping."""

from sslkit.report.markup import Markup, join, tag


def test_text_and_attributes_are_escaped_and_markup_is_not():
    assert tag("p", "a < b & c", tag("b", "x"), Markup("<i>"), title='"<') == (
        '<p title="&quot;&lt;">a &lt; b &amp; c<b>x</b><i></p>'
    )


def test_attributes():
    line = tag("line", class_="a", aria_label="b", x1=0, hidden=True, left_out=None)
    assert line == '<line class="a" aria-label="b" x1="0" hidden></line>'


def test_elements_without_an_end():
    assert tag("meta", charset="utf-8") == '<meta charset="utf-8">'


def test_join_leaves_nothing_where_there_is_none():
    assert join("a", None, Markup("<b>")) == "a<b>"
