"""Every kind of source on a real Spark session."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from dlspark.data.sources.columns import SourceColumns
from dlspark.data.sources.open import open_source
from dlspark.data.sources.source import Source, SourceImage
from dlspark.data.sources.tables import DataFrameSource
from dlspark.errors import SourceError
from tests.unit.data.sources.test_folders import put
from tests.unit.data.sources.test_records import put_cifar, put_mnist

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

pytestmark = [
    pytest.mark.spark,
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),  # pyspark's, in RDD.collect
]


def open_it(url: object, *, max_image_bytes: int = 100, **columns: str | None) -> Source:
    return open_source(str(url), columns=SourceColumns(**columns), max_image_bytes=max_image_bytes)


def listed(source: Source, spark: SparkSession, *, with_content: bool = False) -> dict[str, SourceImage]:
    images = source.images(spark, with_content=with_content).collect()
    assert len({image.key for image in images}) == len(images)
    return {image.key: image for image in images}


def test_class_folders_with_splits_and_groups(spark: SparkSession, tmp_path: Path) -> None:
    put(tmp_path, "train/cat/p1_a.png", "train/dog/p2_a.png", "train/dog/x.txt", "val/cat/p3_a.png")
    images = listed(open_it(tmp_path, group=r"/(p\d)_"), spark)
    assert images["train/dog/p2_a.png"][:3] == ("train/dog/p2_a.png", "dog", 3)
    assert {(image.split, image.group) for image in images.values()} == {
        ("train", "p1"),
        ("train", "p2"),
        ("train", None),
        ("val", "p3"),
    }


def test_images_without_a_group_are_counted(spark: SparkSession, tmp_path: Path) -> None:
    put(tmp_path, "cat/p1.png", "cat/b.png", "dog/p1.png", "dog/a.png", "dog/notes.txt")
    with pytest.raises(SourceError, match=r"got 2 such images, the first of them cat/b\.png"):
        open_it(tmp_path, group=r"(p\d)").images(spark)


def test_a_csv_list(spark: SparkSession, tmp_path: Path) -> None:
    root = tmp_path / "a [list] {of} images"
    put(root, "img/1.png", "img/2, or 3.png")
    put(tmp_path, "far.png", content=b"far away")
    lines = [
        "where,kind,who,part",
        "./img/1.png,7,ann,TRAIN",
        '"img/2, or 3.png",8,,valid',
        f"{tmp_path}/far.png,,bob,",
        f"file://{tmp_path}/far.png,9,bob,test",
        "img/none.png,9,,Validation",
    ]
    (root / "list.csv").write_text("\n".join(lines) + "\n")
    source = open_it(root / "list.csv", path="where", label="kind", group="who", split="part")
    images = listed(source, spark)
    assert {(*image[:3], image.split, image.group, image.content) for image in images.values()} == {
        ("img/1.png", "7", 3, "train", "ann", None),
        ("img/2, or 3.png", "8", 3, "val", None, None),
        (f"{tmp_path}/far.png", None, 8, None, "bob", None),
        (f"file://{tmp_path}/far.png", "9", 8, "test", "bob", None),
        ("img/none.png", "9", -1, "val", None, None),
    }
    assert images["img/1.png"].version == (root / "img/1.png").stat().st_mtime_ns
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert (
        copy.read(images[f"file://{tmp_path}/far.png"])
        == copy.read(images[f"{tmp_path}/far.png"])
        == b"far away"
    )
    assert copy.path_of(images["img/1.png"]) == f"{root}/img/1.png"
    with pytest.raises(FileNotFoundError):
        copy.read(images["img/none.png"])


@pytest.mark.parametrize("written", ["list.parquet", "parts"])
def test_a_parquet_list_in_parts(spark: SparkSession, tmp_path: Path, written: str) -> None:
    base = tmp_path / "parts" if written == "parts" else tmp_path
    rows = [(f"img/{number}.png", number % 3) for number in range(10)]
    spark.createDataFrame(rows, "path string, label int").repartition(3).write.parquet(
        str(tmp_path / written)
    )
    put(base, *(path for path, _ in rows))
    images = listed(open_it(f"list:{tmp_path}/{written}"), spark)
    assert {key: (image.label, image.num_bytes) for key, image in images.items()} == {
        path: (str(label), 3) for path, label in rows
    }


def test_a_list_with_keys_ships_what_it_reads(spark: SparkSession, tmp_path: Path) -> None:
    put(tmp_path, "a.png", content=b"small")
    put(tmp_path, "b.png", content=b"x" * 101)
    (tmp_path / "list.csv").write_text("path,label,id\na.png,cat,k1\nb.png,cat,k2\nc.png,cat,k3\n")
    source = open_it(tmp_path / "list.csv", key="id")
    assert source.ships_content
    assert {image.content for image in listed(source, spark).values()} == {None}
    images = listed(source, spark, with_content=True)
    assert {key: (image.num_bytes, image.content) for key, image in images.items()} == {
        "k1": (5, b"small"),
        "k2": (101, None),
        "k3": (-1, None),
    }
    assert source.read(images["k1"]) == b"small"


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        ("file,label\na,b\n", {}, r"'path'; got the columns file, label.*data\.path_column"),
        ("path,class\na,b\n", {}, r"'label'; got the columns path, class.*data\.label_column"),
        ("path,label\na,b\n", {"group": "g"}, r"'g'.*data\.group_key"),
        ("path,label\na,b\n", {"split": "s"}, r"'s'.*data\.split_column"),
        ("path,label\na,b\n", {"key": "k"}, r"'k'.*data\.key_column"),
        (
            "path,label,s\na,b,tain\nb,b,tain\nc,b,dev\nd,b,train\n",
            {"split": "s"},
            r"'tain' \(2 rows\), 'dev' \(1",
        ),
        ("path,label\na,b\n,b\n", {}, "1 such rows"),
        ("path,label\na,b\na,comma.png,b\n", {}, "the list cannot be read"),
    ],
)
def test_wrong_lists_are_refused(
    spark: SparkSession, tmp_path: Path, text: str, columns: dict[str, str], message: str
) -> None:
    (tmp_path / "list.csv").write_text(text)
    with pytest.raises(SourceError, match=message):
        open_it(tmp_path / "list.csv", **columns).images(spark)


@pytest.fixture
def frame(spark: SparkSession) -> DataFrame:
    rows = [
        (b"abc", "cat", "p1", "Train"),
        (b"x" * 101, "dog", None, "test"),
        (None, None, "", None),
        (b"", "cat", None, ""),
    ]
    return spark.createDataFrame(rows, "image binary, label string, who string, part string")


def test_a_dataframe_without_keys(spark: SparkSession, frame: DataFrame) -> None:
    columns = SourceColumns(group="who", split="part", image=None)
    source = DataFrameSource(frame=frame, name="pets", columns=columns, max_image_bytes=100)
    listing, images = listed(source, spark), listed(source, spark, with_content=True)
    abc, empty = (hashlib.sha256(data).hexdigest() for data in (b"abc", b""))
    assert images[abc][1:3] + images[abc][4:] == ("cat", 3, "train", "p1", b"abc")
    assert images["null"][1:3] + images["null"][4:] == (None, -1, None, None, None)
    assert images[empty][1:3] + images[empty][4:] == ("cat", 0, None, None, b"")
    long = images[hashlib.sha256(b"x" * 101).hexdigest()]
    assert (long.num_bytes, long.split, long.content) == (101, "test", None)
    assert all(image.content is None for image in listing.values())
    assert {key: image.version for key, image in listing.items()} == {
        key: i.version for key, i in images.items()
    }
    assert all(0 <= image.version < 2**63 for image in images.values())
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copy.read(images[abc]) == b"abc"
    assert copy.path_of(images[abc]) == f"dataframe:pets#{abc}"
    with pytest.raises(OSError, match="without its content"):
        copy.read(listing[abc])
    with pytest.raises(SourceError, match="on the driver only"):
        copy.images(spark)


def test_a_table_by_name(spark: SparkSession, frame: DataFrame) -> None:
    frame.where("label = 'cat'").createOrReplaceTempView("some_pets")
    source = open_it("table:some_pets")
    assert sorted(image.num_bytes for image in source.images(spark).collect()) == [0, 3]
    with pytest.raises(SourceError, match=r"cannot be opened.*table:no\.such"):
        open_it("table:no.such").images(spark)


def test_a_binary_file_frame(spark: SparkSession, tmp_path: Path) -> None:
    put(tmp_path, "1.png", "2.png")
    frame = spark.read.format("binaryFile").load(str(tmp_path)).selectExpr("*", "'cat' AS label")
    source = DataFrameSource(
        frame=frame, name="files", columns=SourceColumns(image="content"), max_image_bytes=100
    )
    images = listed(source, spark, with_content=True)
    assert {(key, image.content) for key, image in images.items()} == {
        (f"file:{tmp_path}/1.png", b"abc"),
        (f"file:{tmp_path}/2.png", b"abc"),
    }


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ("'a' AS label", r"'image'; got the columns label.*data\.image_column"),
        ("'a' AS label, 'x.png' AS image", "holds no images; got string"),
        ("'a' AS label, struct(1 AS height, binary('x') AS data) AS image", "binaryFile"),
        ("'a' AS label, binary('x') AS image, '' AS path", "1 such rows"),
    ],
)
def test_wrong_tables_are_refused(spark: SparkSession, columns: str, message: str) -> None:
    frame = spark.sql(f"SELECT {columns}")
    with pytest.raises(SourceError, match=message):
        DataFrameSource(frame=frame, name="x", columns=SourceColumns(), max_image_bytes=9).images(spark)


def test_hadoop_file_systems_are_listed_and_read_by_spark(spark: SparkSession, tmp_path: Path) -> None:
    put(tmp_path, "pets/train/cat/a b%20.PNG", "pets/train/dog/deep/1.png", "pets/train/dog/x.txt")
    put(tmp_path, "pets/test/cat/long.png", content=b"x" * 101)
    put(tmp_path, "pets/test/cat/_hidden.png")
    configuration = spark.sparkContext._jsc.hadoopConfiguration()  # type: ignore[union-attr]
    configuration.set("fs.viewfs.mounttable.zoo.link./mount", f"file://{tmp_path}")
    source = open_it("viewfs://zoo/mount/pets/")
    images = listed(source, spark, with_content=True)
    assert {(key, image.label, image.split, image.content) for key, image in images.items()} == {
        ("train/cat/a b%20.PNG", "cat", "train", b"abc"),
        ("train/dog/deep/1.png", "dog", "train", b"abc"),
        ("train/dog/x.txt", "dog", "train", None),
        ("test/cat/long.png", "cat", "test", None),
    }
    assert {image.num_bytes for image in images.values()} == {3, 101}
    assert {i._replace(content=None) for i in images.values()} == set(listed(source, spark).values())
    deep = images["train/dog/deep/1.png"]
    assert pickle.loads(pickle.dumps(source)).read(deep) == b"abc"  # noqa: S301
    assert source.path_of(deep) == "viewfs://zoo/mount/pets/train/dog/deep/1.png"
    with pytest.raises(SourceError, match="does not exist"):
        open_it("viewfs://zoo/mount/none").images(spark)
    with pytest.raises(SourceError, match="cannot list the source"):
        open_it("viewfs://unknown/mount").images(spark)


def test_record_files(spark: SparkSession, tmp_path: Path) -> None:
    mnist = open_it(put_mnist(tmp_path / "mnist", packed=True), group=r"/\d+(\d)$")
    images = listed(mnist, spark)
    assert {(i.key, i.label, i.num_bytes, i.split, i.group) for i in images.values()} == {
        ("train/00000", "7", 31, "train", "0"),
        ("train/00001", "0", 31, "train", "1"),
        ("train/00002", "9", 31, "train", "2"),
        ("test/00000", "3", 31, "test", "0"),
    }
    assert {len(mnist.read(image)) for image in images.values()} == {31}
    cifar = listed(open_it(put_cifar(tmp_path / "cifar")), spark)
    assert len(cifar) == 12
    assert cifar["test_batch/00001"][1:3] == ("bird", 13 + 3072)
