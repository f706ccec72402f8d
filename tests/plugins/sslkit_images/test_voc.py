import pickle

import numpy as np
import pytest
from PIL import Image

from sslkit.errors import DataError
from sslkit.testing import check_source
from sslkit_images.voc import CATEGORIES, Voc

OBJECT = """<object><name>{name}</name><pose>Left</pose><difficult>{difficult}</difficult>
<bndbox><xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax></bndbox>
<part><name>head</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox></part></object>"""
IMAGES = {
    "000005": [("dog", 0, (11, 6, 40, 30)), ("person", 1, (1, 1, 60, 40))],
    "000007": [("person", 0, (2, 3, 4, 5)), ("person", 1, (8, 8, 70, 90))],
    "000009": [],
}


@pytest.fixture
def voc(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2007"
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (root / name).mkdir(parents=True)
    for name, objects in IMAGES.items():
        Image.new("RGB", (60, 40), "blue").save(root / "JPEGImages" / f"{name}.jpg")
        body = "".join(OBJECT.format(name=kind, difficult=difficult, box=box) for kind, difficult, box in objects)
        size = "<size><width>60</width><height>40</height><depth>3</depth></size>"
        (root / "Annotations" / f"{name}.xml").write_text(f"<annotation>{size}{body}</annotation>")
    main = root / "ImageSets" / "Main"
    (main / "trainval.txt").write_text("000007\n000005\n000009\n")
    (main / "dog_trainval.txt").write_text("000007 -1\n000005  1\n")
    return root


def opened(root, **options):
    source = Voc(root=root, **options)
    assert source.missing() is None
    source.open()
    return source


def test_images_keep_the_order_of_the_list_and_boxes_count_from_0(voc):
    source = opened(voc)
    assert [source.key(i) for i in range(3)] == [f"JPEGImages/00000{n}.jpg" for n in (7, 5, 9)]
    dog = source.objects(1)
    np.testing.assert_array_equal(dog.boxes, [[10, 5, 40, 30], [0, 0, 60, 40]])
    assert [CATEGORIES[label] for label in dog.labels] == ["dog", "person"]
    assert dog.difficult.tolist() == [False, True]
    clipped = source.objects(0)  # the second person extends outside the image
    np.testing.assert_array_equal(clipped.boxes, [[1, 2, 4, 5], [7, 7, 60, 40]])
    assert source.objects(2).boxes.shape == (0, 4)
    assert source.read(0)[:2] == b"\xff\xd8"
    assert pickle.loads(pickle.dumps(source)).objects(1).labels.tolist() == dog.labels.tolist()


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_list_may_begin_with_a_byte_order_mark(voc, encoding):
    (voc / "ImageSets" / "Main" / "trainval.txt").write_bytes("000007\r\n000005\r\n".encode(encoding))
    source = opened(voc)
    assert [source.key(i) for i in range(len(source))] == ["JPEGImages/000007.jpg", "JPEGImages/000005.jpg"]


def test_a_list_in_another_encoding_is_named_with_the_line(voc):
    (voc / "ImageSets" / "Main" / "trainval.txt").write_bytes(b"000007\n\xe9t\xe9\n")
    with pytest.raises(DataError, match=r"trainval\.txt cannot be read: line 2 is not UTF-8 text \(byte 0xe9\)"):
        opened(voc)


def test_annotations_are_read_in_the_encoding_that_they_declare(voc):
    file = voc / "Annotations" / "000005.xml"
    text = file.read_text().replace("<pose>Left", "<pose>左")
    file.write_bytes(('<?xml version="1.0" encoding="gb2312"?>' + text).encode("gb2312"))
    assert len(opened(voc).objects(1).boxes) == 2
    file.write_bytes(('<?xml version="1.0" encoding="gb2313"?>' + text).encode("gb2312"))
    with pytest.raises(DataError, match=r"not valid XML \(1\): 000005\.xml: it declares the encoding 'gb2313'"):
        opened(voc)


def test_difficult_objects_are_marked_kept_or_dropped(voc):
    assert opened(voc).objects(1).difficult.tolist() == [False, True]
    kept = opened(voc, difficult="keep").objects(1)
    assert (len(kept.labels), kept.difficult) == (2, None)
    dropped = opened(voc, difficult="drop").objects(1)
    assert [CATEGORIES[label] for label in dropped.labels] == ["dog"]


@pytest.mark.parametrize(
    ("split", "words"),
    [
        ("gone", "gone.txt is a link to nowhere, which cannot be read: No such file"),
        ("loop", "loop.txt is a link to loop.txt, which cannot be read: Too many levels"),
        ("a" * 300, "txt cannot be read: File name too long"), ("a\0b", "list not found"),
        ("trainvla", "list not found"),
    ],
)  # fmt: skip
def test_a_list_that_cannot_be_read_is_told(voc, split, words):
    main = voc / "ImageSets" / "Main"
    (main / "gone.txt").symlink_to("nowhere")
    (main / "loop.txt").symlink_to("loop.txt")
    assert words in Voc(root=voc, split=split).missing()


def test_conforms(voc):
    check_source(Voc, root=voc)


def test_missing_names_the_folder_and_the_download_command(voc, tmp_path):
    message = Voc(root=tmp_path / "VOC2012").missing()
    assert "has no JPEGImages and no Annotations" in message
    assert "VOCtrainval_11-May-2012.tar" in message
    message = Voc(root=voc, split="test").missing()
    assert "list not found" in message
    assert "VOCtest_06-Nov-2007.tar" in message
    assert "did you mean 'trainval'?" in Voc(root=voc, split="trainvla").missing()


BAD = {
    "<annotation>": r"files are not valid XML \(1\): 000005\.xml: no element found",
    ">dog< >dgo<": r"no VOC category \(1\): 000005\.xml, object 1: 'dgo': did you mean 'dog'\?",
    "<name>dog</name> ": r"no VOC category \(1\): 000005\.xml, object 1: ''",
    "<ymin>6</ymin> ": r"no box of four numbers \(1\): 000005\.xml, object 1: xmin 11, ymin missing, xmax 40, ymax 30",
    "<ymin>6< <ymin>six<": r"no box of four numbers \(1\): 000005\.xml, object 1: .*ymin six",
    "<ymin>6< <ymin>nan<": r"no box of four numbers \(1\): 000005\.xml, object 1: .*ymin nan",
    "<ymin>6< <ymin>1e30<": r"no box of four numbers \(1\): 000005\.xml, object 1: .*ymin 1e30",
    "<xmax>40< <xmax>4<": r"ends before it begins \(1\): 000005\.xml, object 1: xmin 11, .* xmax 4",
    "<xmax>40< <xmax>10<": r"ends before it begins \(1\): 000005\.xml, object 1: xmin 11, .* xmax 10",
    "<ymax>30< <ymax>5.5<": r"ends before it begins \(1\): 000005\.xml, object 1: .* ymax 5\.5",
    "<difficult>1< <difficult>yes<": r"a 'difficult' that is neither 0 nor 1 \(1\): 000005\.xml, object 2: 'yes'",
    "<difficult>1< <difficult>Unspecified<": r"a 'difficult' that .*, object 2: 'Unspecified'",
    f"<difficult>1< <difficult>{'9' * 999}<": r"a 'difficult' that .*, object 2: '9{44}\.\.\.$",
    f">dog< >{'g' * 999}<": r"no VOC category \(1\): 000005\.xml, object 1: 'g{44}\.\.\.$",
    f"<ymin>6< <ymin>{'6' * 999}<": r"no box .*, ymin 6{45}\.\.\., xmax 40, ymax 30$",
    f"<width>60< <width>{'x' * 999}<": r"no valid width \(1\): 000005\.xml has 'x{44}\.\.\.$",
    "<width>60< <width>wide<": r"files have no valid width \(1\): 000005\.xml has 'wide'",
    "<height>40< <height>-40<": r"files have no valid height \(1\): 000005\.xml has '-40'",
}


@pytest.mark.parametrize("change", BAD, ids=lambda change: change[:40])
def test_bad_annotations_are_named(voc, change):
    file = voc / "Annotations" / "000005.xml"
    good, *rest = change.split(" ")
    file.write_text(file.read_text().replace(good, rest[0]) if rest else change)
    with pytest.raises(DataError, match=BAD[change]):
        opened(voc)


NO_VOC = {
    "<html><body>404 Not found</body></html>": r"do not begin with <annotation> \(1\): 000005\.xml: <html>$",
    "<annotations><image><box/></image></annotations>": r"do not begin with <annotation> \(1\): 000005\.xml: <annotations>$",
    "annotation> Annotation>": r"do not begin with <annotation> \(1\): 000005\.xml: <Annotation>$",
    "<annotation> <annotation xmlns='http://x/y'>": r"do not begin .*: <\{http://x/y\}annotation>$",
    "object> Object>": r"elements are misspelt \(2\): 000005\.xml: <Object> instead of <object>, .*",
    "<object> <object xmlns='u'>": r"elements are misspelt \(\d+\): 000005\.xml: <\{u\}object> instead of <object>",
    "difficult> Difficult>": r"elements are misspelt \(2\): 000005\.xml: <Difficult> instead of <difficult>",
    "size> SIZE>": r"elements are misspelt \(1\): 000005\.xml: <SIZE> instead of <size>",
    "object> item>": r"boxes are in no <object> \(2\): 000005\.xml: <item> has one, ",
    "object> objects>": r"boxes are in no <object> \(2\): 000005\.xml: <objects> has one, ",
    "<part> <parts>": r"files are not valid XML \(1\)",
    "</size> </size><size><width>1</width></size>": r"more than once \(1\): 000005\.xml: <size>$",
    "<width>60</width> <width>60</width><width>6</width>": r"more than once \(1\): 000005\.xml: <width>$",
    "<name>dog</name> <name>dog</name><name>cat</name>": r"more than once \(1\): 000005\.xml, object 1: <name>$",
    "<part> <bndbox/><part>": r"more than once \(2\): 000005\.xml, object 1: <bndbox>, .*object 2: <bndbox>$",
    "<xmin>11</xmin> <xmin>11</xmin><xmin>12</xmin>": r"more than once \(1\): 000005\.xml, object 1: <xmin>$",
}


@pytest.mark.parametrize("change", NO_VOC, ids=str)
def test_a_file_whose_objects_would_be_overlooked_is_refused(voc, change):
    file = voc / "Annotations" / "000005.xml"
    good, _, bad = change.partition(" ")
    if change.startswith(("<html", "<annotations>")):
        file.write_text(change)
    else:
        file.write_text(file.read_text().replace(good, bad))
    with pytest.raises(DataError, match=NO_VOC[change]) as caught:
        opened(voc)
    assert len(str(caught.value).split("\n")) == 2


def test_an_annotation_without_objects_is_fine(voc):
    for text in ("<annotation/>", "<annotation><object_count>0</object_count><Note>none</Note></annotation>"):
        (voc / "Annotations" / "000005.xml").write_text(text)
        assert len(opened(voc).objects(1).boxes) == 0


def test_all_problems_are_reported_at_once_each_kind_with_its_first_ten(voc):
    names = [f"{number:06d}" for number in range(20, 35)]
    for name in names:
        Image.new("RGB", (60, 40)).save(voc / "JPEGImages" / f"{name}.jpg")
        (voc / "Annotations" / f"{name}.xml").write_text("<annotation><object><name>?</name></object></annotation>")
    (voc / "Annotations" / "000005.xml").unlink()
    with (voc / "ImageSets" / "Main" / "trainval.txt").open("a") as file:
        file.write("\n".join(names))
    with pytest.raises(DataError) as caught:
        opened(voc)
    title, *lines = str(caught.value).split("\n")
    assert title == f"annotations in {voc / 'Annotations'} cannot be used:"
    assert [line.split("): ")[0].strip() for line in lines] == [
        "files cannot be read (1", "objects have no VOC category (15", "objects have no box of four numbers (15",
    ]  # fmt: skip
    assert lines[1].count(".xml") == 10
    assert lines[1].endswith("000029.xml, object 1: '?' and 5 more")


def test_placeholders_for_the_size_are_no_sizes(voc):
    for file in (voc / "Annotations").iterdir():
        file.write_text(file.read_text().replace("<width>60<", "<width>0<").replace("<height>40</height>", "<height/>"))
    np.testing.assert_array_equal(opened(voc).objects(1).boxes, [[10, 5, 40, 30], [0, 0, 60, 40]])


def test_what_lies_outside_is_counted(voc):
    file = voc / "Annotations" / "000005.xml"
    file.write_text(file.read_text().replace("<xmin>11</xmin>", "<xmin>90</xmin>").replace(">40</xmax>", ">99</xmax>"))
    source = opened(voc)
    objects = source.objects(1)
    assert ([CATEGORIES[label] for label in objects.labels], objects.outside) == (["person"], 1)
    assert objects.difficult.tolist() == [True]


def test_images_may_have_any_usual_suffix(voc):
    (voc / "JPEGImages" / "000005.jpg").rename(voc / "JPEGImages" / "000005.JPEG")
    source = opened(voc)
    assert source.key(1) == "JPEGImages/000005.JPEG"
    assert len(source.objects(1).labels) == 2
    Image.new("RGB", (60, 40)).save(voc / "JPEGImages" / "000005.png")
    with pytest.raises(DataError, match=r"several files for one listed image: 000005\.JPEG, 000005\.png"):
        opened(voc)


def test_an_image_that_is_listed_twice_is_refused(voc):
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text("000005 1\n000007\n000005 -1\n")
    with pytest.raises(DataError, match=r"trainval\.txt lists 1 images more than once: 000005"):
        opened(voc)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("0 b", "0 b.png"), (" 0 b  1 ", "0 b.png"), ("0 1", "0 1.png"), ("0", "0.png"), ("0 -1", "0.png"), ("0 +1 2", "0.png"),
    ],
)  # fmt: skip
def test_a_line_names_all_that_is_there(voc, line, key):
    for name in ("0", "0 b", "0 1"):
        Image.new("RGB", (60, 40)).save(voc / "JPEGImages" / f"{name}.png")
        (voc / "Annotations" / f"{name}.xml").write_text("<annotation/>")
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text(f"{line}\n")
    assert opened(voc).key(0) == f"JPEGImages/{key}"


@pytest.mark.parametrize("line", ["000005 b", "000005 b 1", "000005 1 b", "000005,1"])
def test_a_line_is_not_cut_to_what_is_there(voc, line):
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text(f"000007\n{line}\n")
    with pytest.raises(DataError, match=rf"1 of 2 images .* are not in .*: {line.removesuffix(' 1')}$"):
        opened(voc)


@pytest.mark.parametrize("line", ["000005.jpg", "JPEGImages/000005", "./000005.jpg 1", "000005.png"])
def test_a_list_needs_no_folders_and_suffixes(voc, line):
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text(f"000007\n{line}\n")
    with pytest.raises(DataError, match=rf"neither folders nor suffixes: write 000005, not {line.removesuffix(' 1')}$"):
        opened(voc)


def test_ten_missing_images_are_named_and_the_others_counted(voc):
    names = [f"{number:06d}" for number in range(20, 33)] + ["x" * 5000]
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text("\n".join(names))
    with pytest.raises(DataError, match=r"14 of 14 images .*: 000020, .*, 000029 and 4 more$"):
        opened(voc)
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text(names[-1])
    with pytest.raises(DataError, match=r"1 of 1 images .*: x{197}\.\.\.$"):
        opened(voc)
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text("a/" * 3000 + "000005")
    with pytest.raises(DataError, match=r"write 000005, not (a/){98}a\.\.\.$"):
        opened(voc)


def test_listed_images_that_are_missing_are_named(voc):
    (voc / "JPEGImages" / "000009.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images .* are not in .*: 000009"):
        opened(voc)
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    with pytest.raises(DataError, match="lists no images"):
        opened(voc)
