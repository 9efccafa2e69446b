"""Tables as people have them: other delimiters, cases and columns, no texts, columns that are no facts."""

import csv
import io
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tailora.core.errors import DataError
from tailora.data.readers import delimited, tables
from tailora.data.records import DataWarning, Fact, TextUse, load, read
from tailora.data.suspects import ID_NAMES

PLACES = [("Blue Door", "riverside"), ("The Oak", "old town")]


def saved(tmp_path: Path, name: str, content: str | bytes) -> Path:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return path


def facts(*pairs: tuple[str, str]) -> tuple[Fact, ...]:
    return tuple(Fact(None, *pair) for pair in pairs)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("new.csv", "name,area\nBlue Door,riverside\nThe Oak,old town\n"),
        ("new.csv", "name,area,text\nBlue Door,riverside,\nThe Oak,old town,\n"),
        ("new.csv", "name;area;text\nBlue Door;riverside;  \nThe Oak;old town;NaN\n"),
        ("new.tsv", "name\tarea\nBlue Door\triverside\nThe Oak\told town\n"),
        ("new.jsonl", '{"name": "Blue Door", "area": "riverside"}\n{"name": "The Oak", "area": "old town"}\n'),
        (
            "new.jsonl",
            '{"facts": {"name": "Blue Door", "area": "riverside"}}\n'
            '{"facts": {"name": "The Oak", "area": "old town"}, "text": ""}\n',
        ),
        (
            "new.json",
            '[{"facts": {"name": "Blue Door", "area": "riverside"}, "text": null},'
            ' {"facts": {"name": "The Oak", "area": "old town"}, "texts": []}]',
        ),
        ("new.csv", 'mr\n"name[Blue Door], area[riverside]"\n"name[The Oak], area[old town]"\n'),
        ("new.csv", 'mr,ref\n"name[Blue Door], area[riverside]",\n"name[The Oak], area[old town]",\n'),
        ("new.txt", "name : Blue Door | area : riverside||\nname : The Oak | area : old town||\n"),
        ("new.txt", "name : Blue Door | area : riverside\nname : The Oak | area : old town\n"),
    ],
)
def test_records_without_texts_can_be_written_about(tmp_path: Path, name: str, content: str) -> None:
    path = saved(tmp_path, name, content)
    expected = [facts(("name", place), ("area", area)) for place, area in PLACES]
    records = read(path, texts="unused")
    assert [record.facts for record in records] == expected
    assert [record.id for record in records] == ["1", "2"]
    assert not any(record.references for record in records)
    with pytest.raises(DataError, match=r"text|\|\|"):
        read(path)


def test_a_table_of_prompts_alone_can_be_written_about(tmp_path: Path) -> None:
    path = saved(tmp_path, "new.csv", "prompt\nname : Blue Door =>\n")
    assert [record.prompt for record in read(path, texts="unused")] == ["name : Blue Door =>"]
    with pytest.raises(DataError, match="there is no column 'completion'"):
        read(path)


def test_rows_without_a_text_are_listed(tmp_path: Path) -> None:
    rows = "".join(f"n{number},{'' if number % 3 == 0 else 'A text.'}\n" for number in range(24))
    path = saved(tmp_path, "a.csv", "name,text\n" + rows)
    with pytest.raises(DataError) as caught:
        read(path)
    assert f"{path}:2: the text is empty, as in 7 other rows (5, 8, 11, 14, 17 and 2 more)" in str(caught.value)


def test_a_mapping_for_training_holds_for_new_rows(tmp_path: Path) -> None:
    columns = {"text": "ref", "facts": ["name"], "ignore": ["note"]}
    new = saved(tmp_path, "new.csv", "name,other\nBlue Door,x\n")
    assert read(new, columns=columns, texts="unused")[0].facts == facts(("name", "Blue Door"))
    with pytest.raises(DataError, match="there is no column 'ref'"):
        read(new, columns=columns)
    with pytest.raises(DataError, match="there is no column 'area'"):
        read(new, columns={"facts": ["area"]}, texts="unused")


PLACES_CSV = (
    ",name,area,source,text\n"
    "0,Blue Door,riverside,http://a.example/1,Blue Door is by the river.\n"
    "1,The Oak,old town,http://a.example/2,The Oak is in the old town.\n"
)


@pytest.mark.parametrize("header", ["", "Unnamed: 0"])
def test_a_column_without_a_name_is_never_a_fact(tmp_path: Path, header: str) -> None:
    path = saved(tmp_path, "places.csv", header + PLACES_CSV)
    data = load(path)
    assert [fact.attribute for fact in data.records[0].facts] == ["name", "area", "source"]
    assert len(data.notes) == 2
    assert data.notes[0].startswith("column 1 ")
    assert "'source' is read as a fact, but contains web addresses" in data.notes[1]
    with pytest.warns(DataWarning) as warned:
        read(path)
    assert [str(each.message) for each in warned] == [f"{path}: {note}" for note in data.notes]
    chosen = load(path, columns={"facts": ["Name", "area"]})
    assert (chosen.records[0].facts, chosen.notes) == (facts(("name", "Blue Door"), ("area", "riverside")), ())
    ignored = load(path, columns={"ignore": ["source"]})
    assert ignored.records[0].facts == chosen.records[0].facts


def test_an_empty_last_column_is_passed_over(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.csv", "name,text,\nBlue Door,A pub.,\n,,\n")
    assert [record.facts for record in read(path)] == [facts(("name", "Blue Door"))]


@pytest.mark.parametrize("mark", [",", ";", "\t"])
def test_rows_may_lack_cells_below_columns_without_a_name_at_the_end(tmp_path: Path, mark: str) -> None:
    path = tmp_path / "a.csv"
    rows = [["name", "text", "", ""], ["Mill", "A."], ["Oak", "B.", ""], ["Elm", 'a 40" screen', "", "", ""]]
    path.write_text("\n".join(mark.join(row) for row in rows), encoding="utf-8")
    assert [(r.facts[0].value, *r.references) for r in read(path)] == [
        ("Mill", "A."),
        ("Oak", "B."),
        ("Elm", 'a 40" screen'),
    ]
    path.write_text("\n".join(mark.join(row) for row in [rows[0], ["Mill"]]), encoding="utf-8")
    with pytest.raises(DataError, match="2: 1 cells where the header has 4"):
        read(path)


@pytest.mark.parametrize(
    ("column", "values", "clause"),
    [
        ("number", ["7", "8", "9"], "counts the rows"),
        ("number", ["0.0", "1.0", "2.0"], "counts the rows"),
        ("page", ["www.a.example/x", "https://b.example", "http://c.example/?a=1"], "web addresses"),
        ("key", ["6f9619ff-8b86-d011-b42d-00c04fc964ff"] * 3, "machine-made ids"),
        ("place_id", ["x", "y", "z"], "looks like an id"),
        ("placeId", ["x", "y", "z"], "looks like an id"),
        ("row number", ["5", "3", "1"], "looks like an id"),
        ("index", ["5", "3", "1"], "looks like an id"),
        ("reference", ["A.", "B.", "C."], "looks like a text"),
        ("part", ["train", "Train", "test"], "names of splits"),
        ("transport", ["train", "bus", "train"], None),
        ("transport", ["train", "train", "train"], None),
        ("rating", ["3", "4", "5 of 5"], None),
        ("rating", ["3", "4", "4"], None),
        ("paid", ["yes", "no", "yes"], None),
        ("grid", ["a", "b", "c"], None),
    ],
)
def test_columns_that_are_probably_no_facts(tmp_path: Path, column: str, values: list[str], clause: str | None) -> None:
    rows = "".join(f"n{number},{value},A text.\n" for number, value in enumerate(values))
    notes = load(saved(tmp_path, "a.csv", f"name,{column},text\n{rows}")).notes
    assert len(notes) == (clause is not None)
    assert all(clause in note and repr(column) in note for note in notes if clause)


@pytest.mark.parametrize(
    ("values", "reported"),
    [
        (["['Thai', 'Lao']", "[]", "['Lao']"], True),
        (['{"name": "Mill", "food": "Thai"}', '{"name": "Oak"}'], True),
        (["{'name': 'Mill'}", ""], True),
        (["[1]", "{x}", "[sic]"], False),
    ],
)
def test_lists_and_objects_written_as_text_are_reported(tmp_path: Path, values: list[str], reported: bool) -> None:
    rows = "".join(f"n{number}\t{value}\tA text.\n" for number, value in enumerate(values))
    notes = load(saved(tmp_path, "a.tsv", f"name\tfood\ttext\n{rows}")).notes
    assert len(notes) == reported
    if reported:
        assert "'food' is read as a fact, but contains lists or objects written as text; save the data as" in notes[0]


@pytest.mark.parametrize("name", ["id", "ID", "record_id", "recordId", "Mã", "ma\u0303 so\u0302\u0301", "uuid"])
@pytest.mark.parametrize("values", [("p7", "p8"), ("7", "7")], ids=["unique", "shared"])
@pytest.mark.parametrize("texts", ["required", "unused"])
def test_a_column_is_an_id_by_its_name_alone(
    tmp_path: Path, name: str, values: tuple[str, str], texts: TextUse
) -> None:
    """Not by the values of the file at hand, which may differ between training and writing."""
    one, two = values
    content = f"{name},name,text\n{one},Blue Door,A.\n{two},The Oak,B.\n{one},Blue Door,C.\n"
    path = saved(tmp_path, "a.csv", content)
    data = load(path, texts=texts)
    assert [record.facts for record in data.records] == [facts(("name", "Blue Door")), facts(("name", "The Oak"))]
    assert [row.id for row in data.rows] == ([one, two, one] if one != two else ["7", "7#2", "7"])
    assert f"{name!r} is taken as the id of each row, not as a fact" in data.notes[0]
    assert len(data.notes) == 1 + (one == two)
    chosen = load(path, columns={"facts": [name, "name"]}, texts=texts)
    assert chosen.records[0].facts == facts((name, one), ("name", "Blue Door"))
    assert [record.id for record in chosen.records] == ["1", "2"]


def test_of_two_ids_the_first_counts_and_none_is_a_fact(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.csv", "id,uuid,name,text\na,b,Cup,A cup.\n")
    data = load(path)
    assert (data.records[0].id, data.records[0].facts) == ("a", facts(("name", "Cup")))
    assert "'uuid' is an id by its name and is not read" in data.notes[1]
    chosen = load(path, columns={"id": "uuid"})
    assert (chosen.records[0].id, chosen.records[0].facts) == ("b", facts(("name", "Cup")))
    assert load(saved(tmp_path, "b.csv", "id,prompt,completion\na,Hello,Hi.\n")).records[0].id == "a"


@pytest.mark.parametrize(("name", "role"), [("language", "language"), ("Group", "group"), ("Ngôn ngữ", "language")])
def test_columns_named_like_roles_are_facts_and_reported(tmp_path: Path, name: str, role: str) -> None:
    path = saved(tmp_path, "a.csv", f"{name},name,text\nen,Cup,A cup.\n")
    data = load(path)
    assert data.records[0].facts == facts((name, "en"), ("name", "Cup"))
    (note,) = data.notes
    assert f"the column {name!r} is read as a fact; if it is" in note
    assert f"add --columns {role}=" in note


def test_truth_values_and_numbers_are_the_same_text_in_every_format(tmp_path: Path) -> None:
    table = saved(tmp_path, "a.csv", "a,b,c,d,text\nTrue,FALSE,1.50,1e3,A.\n")
    nested = saved(tmp_path, "a.jsonl", '{"facts": {"a": true, "b": false, "c": 1.50, "d": 1e3}, "text": "A."}')
    flat = saved(tmp_path, "b.jsonl", '{"a": true, "b": false, "c": 1.50, "d": 1e3, "text": "A."}')
    dart = saved(tmp_path, "d.json", '[{"tripleset": [["x", "c", 1.50]], "annotations": [{"text": "A."}]}]')
    expected = facts(("a", "yes"), ("b", "no"), ("c", "1.50"), ("d", "1e3"))
    assert [load(path).records[0].facts for path in (table, nested, flat)] == [expected] * 3
    assert load(dart).records[0].facts == (Fact("x", "c", "1.50"),)


LONG = "Blue Door is a friendly little pub by the river that serves cheap Thai food to families."


@pytest.mark.parametrize("name", ["câu", "Beschreibung", "説明"])
def test_a_column_of_long_texts_is_reported_whatever_its_name(tmp_path: Path, name: str) -> None:
    rows = "".join(f"n{number},pub,{LONG} {number},A text.\n" for number in range(4))
    (note,) = load(saved(tmp_path, "a.csv", f"name,type,{name},text\n{rows}")).notes
    assert f"if it contains the texts, add --columns text={name}" in note
    unused = load(saved(tmp_path, "a.csv", f"name,type,{name},text\n{rows}"), texts="unused")
    assert unused.notes == (note,)
    with pytest.raises(
        DataError, match=f"there is no column 'text'; if '{name}' contains the texts, add --columns text="
    ):
        load(saved(tmp_path, "b.csv", f"name,type,{name}\n" + rows.replace(",A text.", "")))


def test_short_columns_and_long_columns_alone_are_not_reported(tmp_path: Path) -> None:
    rows = "".join(f"The {number}th of the little places by the river,A text.\n" for number in range(4))
    assert not load(saved(tmp_path, "a.csv", f"name,text\n{rows}")).notes


def test_a_markdown_table_is_named(tmp_path: Path) -> None:
    for name in ("a.csv", "a.md"):
        path = saved(tmp_path, name, "| name | text |\n|------|:----:|\n| Cup | A cup. |\n")
        with pytest.raises(DataError, match="is a Markdown table"):
            load(path)


@pytest.mark.parametrize(
    "content",
    [
        'mr,ref\n"name[Blue Door], eatType[pub]",A pub.\n',
        'MR,Ref\n"name[Blue Door], eatType[pub]",A pub.\n',
        '"MR", "ref"\n"name[Blue Door], eatType[pub]", "A pub."\n',
        'mr, ref\n"name[Blue Door], eatType[pub]", A pub.\n',
        '\ufeffmr,ref\r\n"name[Blue Door], eatType[pub]",A pub.\r\n',
        "mr;ref\nname[Blue Door], eatType[pub];A pub.\n",
        "mr\tref\nname[Blue Door], eatType[pub]\tA pub.\n",
        "mr|ref\nname[Blue Door], eatType[pub]|A pub.\n",
        'sep=;\r\nmr;ref\r\n"name[Blue Door], eatType[pub]";A pub.\r\n',
        'ref,mr\nA pub.,"name[Blue Door], eatType[pub]"\n',
        'mr,ref,fixed,orig_mr\n"name[Blue Door], eatType[pub]",A pub.,1,"name[Blue Door], area[riverside]"\n',
        'orig_mr,fixed,ref,mr\nname[X],1,A pub.,"name[Blue Door], eatType[pub]"\n',
        'meaning_representation,human_reference\n"name[Blue Door], eatType[pub]",A pub.\n',
    ],
)
@pytest.mark.parametrize("format", [None, "e2e"])
def test_e2e_however_it_is_written(tmp_path: Path, content: str, format: str | None) -> None:
    for name in ("clean.csv", "clean.txt", "clean.tsv"):
        data = load(saved(tmp_path, name, content), format=format)
        assert data.format == "e2e"
        (record,) = data.records
        assert record.facts == facts(("name", "Blue Door"), ("eatType", "pub"))
        assert record.references == ("A pub.",)
        assert not data.notes


def test_e2e_with_a_mapping_and_with_further_columns(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.csv", 'mr,sentence,annotator\n"name[Blue Door]",A pub.,x\n')
    data = load(path, columns={"text": "sentence"})
    assert (data.records[0].facts, data.records[0].references) == (facts(("name", "Blue Door")), ("A pub.",))
    assert data.notes == ("only the meaning representations are read, not the column 'annotator'",)
    with pytest.raises(DataError, match="there is no column 'ref'"):
        read(path)
    titled = saved(tmp_path, "b.csv", "mr,name,text\nyes,Smith,Mr Smith.\n")
    assert read(titled)[0].facts == facts(("mr", "yes"), ("name", "Smith")), "a column mr of another kind"


TSV_QUOTES = [
    ('"Blue Door is by the river.', '"Blue Door is by the river.'),
    ('The Oak has a screen of 40"', 'The Oak has a screen of 40"'),
    ('"Cosy."', '"Cosy."'),
    ('6" deep', '6" deep'),
]


@pytest.mark.parametrize(("cell", "text"), TSV_QUOTES)
@pytest.mark.parametrize("name", ["p.tsv", "p.csv", "p.txt"])
def test_a_quotation_mark_in_a_tsv_stands_for_itself(tmp_path: Path, name: str, cell: str, text: str) -> None:
    path = saved(tmp_path, name, f'name\ttext\nBlue Door\t{cell}\nThe Oak\tThe Oak has a screen of 40"\n')
    assert [record.references for record in read(path)] == [(text,), ('The Oak has a screen of 40"',)]


def test_a_quotation_mark_stands_for_itself_beside_empty_cells_at_the_end(tmp_path: Path) -> None:
    path = saved(tmp_path, "p.tsv", 'name\ttext\nBlue Door\t"By the river.\t\nThe Oak\tA screen of 40"\n')
    assert [record.references for record in read(path)] == [('"By the river.',), ('A screen of 40"',)]


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_quoted_cells_of_a_tsv(tmp_path: Path, quoting: Any) -> None:
    texts = ['"Cosy."', "Cheap,\tgood.", 'The "Oak".', "Plain.", "On two\nlines."]
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter="\t", quoting=quoting)
    writer.writerows([["name", "text"], *([f"n{number}", text] for number, text in enumerate(texts))])
    path = saved(tmp_path, "p.tsv", stream.getvalue())
    assert [record.references[0] for record in read(path)] == texts


CELLS = st.text(
    st.characters(exclude_categories=["C", "Z"]) | st.sampled_from(",;|\"' "), min_size=1, max_size=9
).filter(lambda cell: cell.strip() == cell and cell.lower() not in ("nan", "null", "<na>", "true", "false"))


@given(
    rows=st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5),
    delimiter=st.sampled_from(delimited.DELIMITERS),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_csv_writes_is_read_back(rows: list[tuple[str, str]], delimiter: str, quoting: Any, end: str) -> None:
    stream = io.StringIO()
    writer = csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([("name", "text"), *rows])
    parsed = tables.parse(stream.getvalue(), "a.csv")
    found = [(row.facts[0].value, row.texts[0].text) for row in parsed.rows]
    assert found == rows


def test_missing_cells_are_no_facts(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.csv", "name,food,area,price,text\nCup,NaN, ,null,A cup.\n")
    assert read(path)[0].facts == facts(("name", "Cup"))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.csv", "name,area\nCup,north\nnull,NaN\nMug,south\n", 3),
        ("a.jsonl", '{"name": "Cup"}\n{"name": null}\n{"name": "Mug"}\n', 2),
        ("a.json", '[{"name": "Cup"},\n{},\n{"name": "Mug"}]', 2),
    ],
)
def test_a_row_whose_values_are_all_missing_is_not_passed_over(
    tmp_path: Path, name: str, content: str, line: int
) -> None:
    with pytest.raises(DataError, match=f"{name}:{line}: the row has no fact"):
        read(saved(tmp_path, name, content), texts="unused")


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("name,text\n,A.\n", None, "a.csv:2: the row has no fact"),
        ("name,name,text\na,b,c\n", None, "two columns are called 'name'; rename one"),
        ("caf\u00e9,cafe\u0301,text\na,b,c\n", None, "in two Unicode forms that look the same; rename one"),
        (
            "name,text\na,b\n",
            {"facts": ["nam"]},
            r"there is no column 'nam'; say which column .* the file has name, text",
        ),
        (
            "name,text\na,b\n",
            {"facts": ["name"], "ignore": ["name"]},
            "among the facts and among the columns to ignore",
        ),
        ("name,text\na,b\n", {"ignore": ["text"]}, "has a role and is among the columns to ignore"),
        ("name,text\na,b\n", {"text": None}, "no column of texts is chosen"),
        ("id,name,text\n1,a,b\n1,c,d\n", {"id": "id"}, "the id '1' is on two rows with different content"),
        ('name,text\n"a,b\n', None, "a.csv:2: the row that begins here cannot be read"),
    ],
)
def test_tables_that_cannot_be_read(tmp_path: Path, content: str, columns: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(saved(tmp_path, "a.csv", content), columns=columns)


def test_the_docs_list_every_name_of_an_id() -> None:
    page = (Path(__file__).parents[1] / "docs" / "data.md").read_text(encoding="utf-8")
    for name in ID_NAMES:
        assert f"`{name}`" in page or f"`{name.replace(' ', '_')}`" in page, name


VIGGO = [
    (
        "inform(name[Hellblade: Senua's Sacrifice], genres[adventure, hack-and-slash], has_mac_release[no])",
        ("dialogue act", "inform"),
        ("name", "Hellblade: Senua's Sacrifice"),
        ("genres", "adventure"),
        ("genres", "hack-and-slash"),
        ("has_mac_release", "no"),
    ),
    ("request_attribute(esrb[])", ("dialogue act", "request_attribute"), ("esrb", "?")),
    ("give_opinion(rating [good])", ("dialogue act", "give_opinion"), ("rating", "good")),
    (
        "recommend(name[Portal 2 (PC)], developer[Valve, Inc.])",
        ("dialogue act", "recommend"),
        ("name", "Portal 2 (PC)"),
        ("developer", "Valve, Inc."),
    ),
]


@pytest.mark.parametrize("row", VIGGO, ids=[str(row[0]) for row in VIGGO])
@pytest.mark.parametrize("header", ["mr,ref", "meaning_representation,target"])
def test_viggo(row: tuple[Any, ...], header: str, tmp_path: Path) -> None:
    mr, *wanted = row
    (record,) = read(saved(tmp_path, "a.csv", f'{header}\n"{mr}",A text.\n'))
    assert record.facts == facts(*wanted)
    assert record.stated == record.facts[1:]


@pytest.mark.parametrize("mr", ["inform(name)", "inform(name[a]", "inform name[a])", "(name[a])"])
def test_a_broken_dialogue_act_is_an_error(mr: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="meaning representation cannot be read"):
        read(saved(tmp_path, "a.csv", f'mr,ref\n"{mr}",A text.\n'))


@pytest.mark.parametrize(
    ("content", "facts_wanted"),
    [
        ("name;price (EUR, net, approx., each);text\nMill;4,5;Cheap, nice.\n", {"name": "Mill"}),
        ('"name";"rating\n(1, 2, 3, 4)";text\nMill;5;A.\n', {"name": "Mill", "rating\n(1, 2, 3, 4)": "5"}),
        ('"name of\r\nplace";text\r\nMill;A, B.\r\n', {"name of\r\nplace": "Mill"}),
        ('sep=;\n"name, of\nplace";text\nMill;A, B.\n', {"name, of\nplace": "Mill"}),
        ("name,text\nMill,a; b | c\n", {"name": "Mill"}),
        ('name,text\nMill,"a; b\n"\n', {"name": "Mill"}),
        ('name,height,text\nMill,5,"A 5"" mill; old; grey."\n', {"name": "Mill", "height": "5"}),
    ],
)
def test_the_delimiter_is_that_of_the_header_and_the_next_line(
    tmp_path: Path, content: str, facts_wanted: dict[str, str]
) -> None:
    (only,) = read(saved(tmp_path, "a.csv", content))
    assert facts_wanted.items() <= {fact.attribute: fact.value for fact in only.facts}.items()
    assert len(only.references) == 1


def test_floats_that_pandas_makes_of_whole_numbers_are_reported(tmp_path: Path) -> None:
    content = "name,rooms,stars,height,text\nMill,3.0,4.0,1.5,A.\nOak,,5.0,,B.\nElm,12.0,4.0,2.0,C.\n"
    path = saved(tmp_path, "a.csv", content)
    (note,) = load(path).notes
    assert note.startswith("the column 'rooms' has missing values, for which pandas turns whole numbers into floats")
    assert load(path, columns={"facts": ["name", "rooms"]}).notes == ()


@pytest.mark.parametrize("name", ["a.csv", "a.tsv"])
def test_a_header_in_the_middle_is_no_record(tmp_path: Path, name: str) -> None:
    mark = "," if name == "a.csv" else "\t"
    rows = [["name", "text"], ["Mill", "A."], ["name", "text "], ["Oak", "B."]]
    path = saved(tmp_path, name, "".join(mark.join(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=rf"{name}:3: the row repeats the header; remove the line"):
        load(path)


@pytest.mark.parametrize("word", ["NA", "N/A", "#N/A"])
def test_words_for_a_missing_value_that_may_be_values_are_reported(tmp_path: Path, word: str) -> None:
    content = f"name,food,state,text\nMill,{word},NA,A.\nOak,Thai,GA,{word}\nElm,Lao,NY,C.\n"
    data = load(saved(tmp_path, "a.csv", content))
    assert [note.partition(", which R")[0] for note in data.notes] == [
        f"the column 'food' has {word!r} in 1 row",
        f"the column 'text' has {word!r} in 1 row",
    ]
    (note,) = load(data.path, columns={"facts": ["name", "food"]}).notes
    assert "'text'" in note


@pytest.mark.parametrize("header", ["subject,Predicate,object", "id,attribute,value"])
def test_columns_of_single_facts_are_reported(tmp_path: Path, header: str) -> None:
    path = saved(tmp_path, "a.csv", f"{header},text\nCork,country,Ireland,A.\n")
    assert any("look like one fact in each row, and each row is a record" in note for note in load(path).notes)
    plain = saved(tmp_path, "b.csv", "property,value,text\nflat,2,A.\n")
    assert load(plain).notes == ()


def test_columns_are_found_whatever_their_white_space(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.csv", '"customer\nrating",name\u00a0of place,text\n5,Mill,A.\n')
    (only,) = read(path, columns={"facts": ["Customer rating", "name of  place"]})
    assert [fact.value for fact in only.facts] == ["5", "Mill"]


@pytest.mark.parametrize("name", ["ref2", "Reference 2", "target_3", "texts"])
def test_a_column_of_further_texts_is_reported(tmp_path: Path, name: str) -> None:
    path = saved(tmp_path, "a.csv", f"name,ref,{name}\nMill,A.,B.\n")
    (note,) = load(path, columns={"text": "ref"}).notes
    assert f"{name!r} is read as a fact, but looks like a text by its name" in note


def test_columns_are_found_in_either_unicode_form(tmp_path: Path) -> None:
    """macOS decomposes letters; a keyboard does not."""
    header = unicodedata.normalize("NFD", "mã,tên,mô tả")
    table = saved(tmp_path, "a.csv", f"{header}\n7,Nón lá,Đây là nón lá.\n")
    columns = {"text": "mô tả", "id": "mã", "facts": ("tên",)}
    record = load(table, columns={**columns}).records[0]
    assert record.id == "7"
    assert [fact.value for fact in record.facts] == ["Nón lá"]
    assert record.references == ("Đây là nón lá.",)


@pytest.mark.parametrize("value", ['{"amount": 3, "currency": "EUR"}', "[[1, 2], [3]]", '[{"a": 1}]'])
def test_a_value_with_parts_is_not_turned_into_text(tmp_path: Path, value: str) -> None:
    row = f'{{"name": "Mug", "price": {value}, "sold": "yes", "description": "A mug."}}\n'
    rows = saved(tmp_path, "a.jsonl", row * 2)
    facts_named: dict[str, Any] = {"text": "description", "facts": ("name", "price")}
    choices: list[dict[str, Any]] = [{"text": "description"}, {"text": "price"}, facts_named]
    for columns in choices:
        with pytest.raises(DataError, match=r"a\.jsonl:1: the value of 'price' is .*--columns ignore=price"):
            load(rows, columns=columns)
    with pytest.raises(DataError, match=r"a\.jsonl:1: has neither .* the value of 'price' is .*ignore=price"):
        load(rows)
    read_without = load(rows, columns={"text": "description", "ignore": ("price",)}).records[0]
    assert [fact.attribute for fact in read_without.facts] == ["name", "sold"]


def test_a_column_is_among_the_facts_once(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.csv", "name,text\nBlue Door,Blue Door.\n")
    with pytest.raises(DataError, match=r"a.csv:1: the column 'Name' is twice among the facts; name it once"):
        read(path, columns={"facts": ["name", "Name"], "text": "text"})


@pytest.mark.parametrize("name", ["Unnamed: 0.1", "Unnamed: 0.1.1", "...1", "__index_level_0__"])
def test_names_that_programs_give_to_row_labels_are_no_facts(name: str, tmp_path: Path) -> None:
    data = load(saved(tmp_path, "a.csv", f"{name},area,text\n0,north,A.\n1,south,B.\n"))
    assert [record.facts for record in data.records] == [facts(("area", "north")), facts(("area", "south"))]
    label = f"column 1 is called {name!r}"
    assert data.notes == (f"{label}, probably contains row numbers, and is left out; name it if it is a fact",)


@pytest.mark.parametrize(
    "name", ["#", "No.", "Nr.", "N°", "№", "rowid", "level_0", "S.No", "Sr. No.", "序号", "编号", "ลำดับ", "TT", "SIRA"]
)
def test_a_column_of_row_numbers_is_reported_by_its_name(name: str, tmp_path: Path) -> None:
    (note,) = load(saved(tmp_path, "a.csv", f"{name},area,text\n7,north,A.\n3,south,B.\n")).notes
    assert f"the column {name!r} is read as a fact, but looks like an id by its name" in note


def test_texts_are_no_facts(tmp_path: Path) -> None:
    path = saved(tmp_path, "a.csv", "name,area,text\nA,north,A is north.\n")
    with pytest.raises(DataError, match="the column 'text' contains the texts and is among the facts"):
        load(path, columns={"facts": ["name", "text"]})


@pytest.mark.parametrize("mark", [",", ";", "|"])
def test_a_cell_that_swallows_rows_is_reported(mark: str, tmp_path: Path) -> None:
    rows = [
        ("name", "area", "text"),
        ("A", "n", '"A is a pub.'),
        ("B", "s", "B is a cafe."),
        ("C", "w", 'A screen of 40"'),
    ]
    data = load(saved(tmp_path, "a.csv", "".join(mark.join(row) + "\n" for row in rows)))
    assert len(data.records) == 1
    assert data.notes == (
        "the quoted cell that begins on line 2 contains 2 lines with as many cells as the header; if they are rows, "
        'write the quotation mark before them as ""',
    )
    fine = load(
        saved(tmp_path, "b.csv", mark.join(rows[0]) + "\n" + mark.join(("A", "n", '"One, two;\nthree|"')) + "\n")
    )
    assert (len(fine.records), fine.notes) == (1, ())


@pytest.mark.parametrize("mr", ["name[A]; food[B]", "name[A] food[B]", "name[A]|food[B]"])
def test_a_slot_does_not_swallow_the_next_one(mr: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.csv:2: the meaning representation cannot be read"):
        load(saved(tmp_path, "a.csv", f'mr,ref\n"{mr}",T.\n'))


def test_row_numbers_beside_meaning_representations_have_no_empty_name_in_a_note(tmp_path: Path) -> None:
    data = load(saved(tmp_path, "a.csv", ',mr,ref\n0,"name[A]",T.\n'))
    assert data.notes == (
        "column 1 has no name, probably contains row numbers, and is left out; name it if it is a fact",
    )


@pytest.mark.parametrize(
    "mr", ["name[Mill], food[Thai],", "name[Mill], food[Thai] , ", "inform(name[Mill], food[Thai],)"]
)
def test_a_comma_may_follow_the_last_slot(mr: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["mr", "ref", "source"], [mr, "A.", "x"]])
    (only,) = load(path).records
    assert [fact.value for fact in only.stated] == ["Mill", "Thai"]
