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
    "000007": [("person", 0, (2, 3, 4, 5)), ("person", 1, (8, 8, 70, 90)), ("cat", 0, (5, 5, 4, 9))],
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
    clipped = source.objects(0)  # the cat has no area, the second person extends outside the image
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
    "<difficult>1< <difficult>yes<": r"a 'difficult' that is neither 0 nor 1 \(1\): 000005\.xml, object 2",
    "<width>60< <width>wide<": r"files have no valid width \(1\): 000005\.xml has 'wide'",
    "<height>40< <height>-40<": r"files have no valid height \(1\): 000005\.xml has '-40'",
}


@pytest.mark.parametrize("change", BAD, ids=str)
def test_bad_annotations_are_named(voc, change):
    file = voc / "Annotations" / "000005.xml"
    good, *rest = change.split(" ")
    file.write_text(file.read_text().replace(good, rest[0]) if rest else change)
    with pytest.raises(DataError, match=BAD[change]):
        opened(voc)


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


def test_what_lies_outside_or_has_no_area_is_counted(voc):
    file = voc / "Annotations" / "000005.xml"
    file.write_text(file.read_text().replace("<xmin>11</xmin>", "<xmin>90</xmin>").replace(">40</xmax>", ">99</xmax>"))
    source = opened(voc)
    objects = source.objects(1)
    assert ([CATEGORIES[label] for label in objects.labels], objects.outside) == (["person"], 1)
    assert objects.difficult.tolist() == [True]
    assert source.left_out() == {"objects without area": 1}


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


def test_listed_images_that_are_missing_are_named(voc):
    (voc / "JPEGImages" / "000009.jpg").unlink()
    with pytest.raises(DataError, match=r"1 of 3 images .* are not in .*: 000009"):
        opened(voc)
    (voc / "ImageSets" / "Main" / "trainval.txt").write_text("\n")
    with pytest.raises(DataError, match="lists no images"):
        opened(voc)
