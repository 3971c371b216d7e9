"""Readers: the same rows in any format are the same rows, and a bad file is named with its line."""

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kdtoolkit.data.delimited import is_quoted
from kdtoolkit.data.readers import open_source
from kdtoolkit.errors import InputError

COLUMNS = ("text", "second", "label")

# Surrogates are no text; a carriage return at the very end of a line cannot be told from a CRLF line end.
any_text = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
awkward = st.one_of(
    any_text, st.sampled_from(['"', '""', '"a" b', 'a "b"', "a\tb", "a\nb", "\r\n", ",", "’\u2028é", ""])
)
plain_text = awkward.map(lambda text: text.replace("\t", " ").replace("\n", " ").replace("\r", " "))
labels = st.sampled_from(["yes", "no", "maybe so"])


def rows_of(texts):
    return st.lists(st.tuples(texts, texts, labels), min_size=1, max_size=6)


def as_delimited(rows, delimiter, quoting=csv.QUOTE_MINIMAL, end="\n"):
    stream = io.StringIO()
    # Minimal quoting looks at the line end only, so a lone carriage return is asked to be one.
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator="\r\n")
    writer.writerows([COLUMNS, *rows])
    text = stream.getvalue()
    return (text if end == "\r\n" else text.replace("\r\n", end)).encode()


def as_plain(rows):
    return "".join("\t".join(row) + "\n" for row in [COLUMNS, *rows]).encode()


def as_json_lines(rows, ascii_only=False):
    objects = (json.dumps(dict(zip(COLUMNS, row)), ensure_ascii=ascii_only) for row in rows)
    return "\n".join(objects).encode()


def as_parquet(rows):
    stream = io.BytesIO()
    pq.write_table(pa.table({name: list(values) for name, values in zip(COLUMNS, zip(*rows))}), stream)
    return stream.getvalue()


def read(path, data, quoting="auto"):
    path.write_bytes(data)
    return [tuple(values) for _, values in open_source(path, quoting).records(COLUMNS)]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows_of(awkward))
@example(rows=[('"', '""', "no")])
@example(rows=[("a\r\nb", "\r", "no"), ("", "", "yes")])
def test_a_row_is_the_same_in_every_format(tmp_path, rows):
    for name, data in {
        "a.csv": as_delimited(rows, ",", end="\r\n"),
        "b.csv": as_delimited(rows, ",", csv.QUOTE_ALL, end="\r\n"),
        "c.jsonl": as_json_lines(rows),
        "d.jsonl": as_json_lines(rows, ascii_only=True) + b"\n\n",
        "e.parquet": as_parquet(rows),
    }.items():
        assert read(tmp_path / name, data) == rows, name
        assert read(tmp_path / f"{name}.gz", gzip.compress(data, 1, mtime=0)) == rows, name
    assert read(tmp_path / "f.tsv", as_delimited(rows, "\t", csv.QUOTE_ALL, end="\r\n")) == rows
    assert read(tmp_path / "g.tsv", as_delimited(rows, "\t", end="\r\n"), "quoted") == rows


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows_of(plain_text))
def test_a_plain_tsv_file_keeps_every_quote(tmp_path, rows):
    assert read(tmp_path / "a.tsv", as_plain(rows), "plain") == rows
    assert read(tmp_path / "a.tsv", as_plain(rows).replace(b"\n", b"\r\n"), "plain") == rows


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=rows_of(awkward))
def test_a_tsv_file_that_needs_its_quotes_is_found_to_be_quoted(tmp_path, rows):
    assert read(tmp_path / "a.tsv", as_delimited(rows, "\t", end="\r\n")) == rows


@pytest.mark.parametrize(
    ("line", "quoted"),
    [
        ('He said "no"\tb\tno', False),  # a quote inside a field that has none around it
        ('"No," he said\tb\tno', False),  # a field that goes on after its closing quote
        ('"No\tb\tno', False),  # a quote that is never closed
        ('"No"\tb\tno', False),  # quotes that nobody needs, in a file that does not quote its header
        ('"He said ""no"""\tb\tno', True),
        ('"a\tb"\tb\tno', True),
        ('"a\nb"\tb\tno', True),
        ("nothing of the kind\tb\tno", False),
    ],
)
def test_the_rule_for_quotes_in_a_tsv_file(line, quoted):
    lines = [f"{part}\n" for part in ("text\tsecond\tlabel\n" + "x\ty\tyes\n" * 3 + line).split("\n")]
    assert is_quoted(iter(enumerate(lines, 1)), "\t") == (quoted, '"' in line)


def test_a_tsv_file_with_a_quoted_header_is_quoted(tmp_path):
    rows = [("one", "two", "yes"), ("three", "four", "no")]
    assert read(tmp_path / "a.tsv", as_delimited(rows, "\t", csv.QUOTE_ALL)) == rows


def test_one_stray_quote_makes_the_whole_tsv_file_plain_and_is_noted(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text('text\tlabel\n"a ""b"""\tyes\n5" disk\tno\n')
    source = open_source(path)
    assert [tuple(row) for _, row in source.records(["text"])] == [('"a ""b"""',), ('5" disk',)]
    assert source.notes == ["train.tsv: quotes are read as characters (quoting: plain)"]


def test_byte_order_mark_line_ends_blank_lines_and_a_missing_last_one_do_not_matter(tmp_path):
    rows = [("one", "two", "yes"), ("three", "four", "no")]
    for delimiter, name in ((",", "a.csv"), ("\t", "a.tsv")):
        for end in ("\n", "\r\n"):
            data = b"\xef\xbb\xbf" + as_delimited(rows, delimiter, end=end)
            assert read(tmp_path / name, data) == rows
            assert read(tmp_path / name, data.rstrip()) == rows
            assert read(tmp_path / name, data.replace(b"three", end.encode() + b"three")) == rows


def test_a_gzipped_file_needs_no_name_that_says_so(tmp_path):
    rows = [("one", "two", "yes")]
    assert read(tmp_path / "a.csv", gzip.compress(as_delimited(rows, ","), mtime=0)) == rows


def test_records_name_the_line_on_which_they_begin(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"one\ntwo\n\nthree",x\n\nfour,y\n"five\n",z')
    source = open_source(path)
    assert [(n, *row) for n, row in source.records(["label"])] == [(2, "x"), (7, "y"), (8, "z")]
    assert source.where(7) == f"{path} line 7"


def test_columns_are_read_in_the_order_asked_for_and_as_often(tmp_path):
    for name, data in (("a.csv", as_delimited), ("a.jsonl", as_json_lines), ("a.parquet", as_parquet)):
        rows = [("one", "two", "yes")]
        (tmp_path / name).write_bytes(data(rows, ",") if name == "a.csv" else data(rows))
        source = open_source(tmp_path / name)
        assert [tuple(v) for _, v in source.records(["label", "text", "text"])] == [("yes", "one", "one")]


def test_a_csv_text_of_a_million_characters_is_read(tmp_path):
    long = "x" * 1_000_000
    assert read(tmp_path / "a.csv", as_delimited([(long, "b", "yes")], ",", csv.QUOTE_ALL)) == [(long, "b", "yes")]


@pytest.mark.parametrize(
    ("name", "data", "place", "cause"),
    [
        ("a.csv", b"", "", "is empty"),
        ("a.csv.gz", gzip.compress(b"", mtime=0), "", "is empty"),
        ("a.csv", b"\xef\xbb\xbf", "", "is empty"),
        ("a.jsonl", b"\n\n", "", "is empty"),
        ("a.parquet", as_parquet([("a", "b", "c")])[:40], "", "no Parquet file"),
        ("a.parquet", b"text,label\n", "", "no Parquet file"),
        ("a.xml", b"<a/>", "", "tells no known format"),
        ("a.csv", b"text,second,label\na,b,c\nd,e\n", " line 3", "has 2 fields where the file has 3"),
        ("a.csv", b"text,second,label\na,b,c\nd,e,f,g\n", " line 3", "has 4 fields"),
        ("a.tsv", b"text\tsecond\tlabel\na\tb\n", " line 2", "has 2 fields"),
        ("a.csv", b'text,second,label\n"a" b,c,d\n', " line 2", "goes on after its closing quote"),
        ("a.csv", b'text,second,label\na,"b,c\n' + b"x,y,z\n" * 9, " line 2", "opens a quote that is never closed"),
        ("a.csv", b"text,second,label\na,b,c\n\xe9,b,c\n", " line 3", "is no UTF-8 (byte 0xe9"),
        ("a.csv", "text,second,label\na,b,c\n".encode("utf-16"), " line 1", "is UTF-16"),
        ("a.jsonl", b'{"text": "a", "second": "b", "label": 1}\n{"text": \n', " line 2", "is no JSON"),
        ("a.jsonl", b'[{"text": "a"}]\n', " line 1", "is a JSON list, not an object"),
        ("a.csv", b"text,second,second,label\na,b,c,d\n", "", "several columns 'second'"),
        ("a.csv", b"text,seconds,label\na,b,c\n", "", "has no column 'second'"),
        ("a.jsonl", b'{"text": "a", "seconds": "b", "label": 1}\n', "", "did you mean 'seconds'?"),
        ("a.csv.gz", gzip.compress(as_delimited(["abc"] * 9, ","), mtime=0)[:-9], "", "is a damaged gzip file"),
        ("a.parquet.gz", gzip.compress(as_parquet([("a", "b", "c")]), mtime=0)[:-9], "", "is a damaged gzip file"),
    ],
)  # fmt: skip
def test_a_bad_file_is_named_with_line_and_cause(tmp_path, name, data, place, cause):
    with pytest.raises(InputError) as caught:
        read(tmp_path / name, data)
    assert caught.value.place == f"{tmp_path / name}{place}"
    assert cause in str(caught.value)


def test_a_missing_file_names_the_one_beside_it(tmp_path):
    (tmp_path / "train.csv").write_text("text\n")
    with pytest.raises(InputError, match=r"trian.csv: does not exist; did you mean 'train.csv'\?"):
        open_source(tmp_path / "trian.csv")
    with pytest.raises(InputError, match="there is no folder"):
        open_source(tmp_path / "nowhere" / "train.csv")
    (tmp_path / "folder.csv").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        open_source(tmp_path / "folder.csv")


def test_a_quote_that_is_never_closed_does_not_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr("kdtoolkit.data.delimited.LONGEST_RECORD", 1000)
    path = tmp_path / "a.csv"
    path.write_text('text,label\n"a,b\n' + "c,d\n" * 10_000 + '"e,f\n')
    with pytest.raises(InputError, match="line 2: field 1 opens a quote that is never closed"):
        list(open_source(path).records(["text"]))
