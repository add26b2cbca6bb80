import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import DataError
from edge.intake.naming import compile_naming
from edge.types import Identity

words = st.text(st.characters(exclude_characters="/_.", exclude_categories=("Cs",)), min_size=1, max_size=12)


@given(words, words, words, st.sampled_from(["{batch}/{part}_{view}.png", "{batch}/{part}_{view}"]))
def test_a_template_reads_back_what_it_wrote(part: str, view: str, batch: str, template: str) -> None:
    path = f"{batch}/{part}_{view}.png"
    assert compile_naming(template)(path, {}, 0, 1) == Identity(part, view, batch)


@given(st.text(max_size=30), st.sampled_from(["{part}_{view}", "{batch}/{part}", "p{part}v{view}.tif"]))
def test_any_name_either_matches_or_is_reported(path: str, template: str) -> None:
    naming = compile_naming(template)
    try:
        identity = naming(path, {}, 0, 1)
    except DataError:
        with pytest.raises(DataError, match="does not match"):
            naming(path, {}, 0, 1)
    else:
        assert identity.part


def test_a_part_may_contain_the_separator() -> None:
    named = compile_naming("{part}_{view}")("a/P_00_17_07.dcm", {}, 0, 1)
    assert named == Identity("P_00_17", "07", None)


def test_a_template_with_fewer_folders_looks_at_the_last() -> None:
    assert compile_naming("{batch}/{part}")("x/y/B1/P1.png", {}, 0, 1) == Identity("P1", None, "B1")


def test_a_pattern_names_by_its_groups() -> None:
    naming = compile_naming(None, r".*/(?P<part>\d+)-(?P<view>[a-z]+)\.png")
    assert naming("in/42-top.png", {}, 0, 1) == Identity("42", "top", None)


def test_dicom_tags_name_and_missing_ones_are_reported() -> None:
    naming = compile_naming(dicom={"part": "PatientID", "view": "ViewPosition"})
    assert naming("x.dcm", {"PatientID": "P7", "ViewPosition": "AP"}, 0, 1) == Identity("P7", "AP", None)
    with pytest.raises(DataError, match="ViewPosition"):
        naming("x.dcm", {"PatientID": "P7"}, 0, 1)


def test_a_page_is_the_view_where_the_name_gives_none() -> None:
    assert compile_naming("{part}")("stack.tif", {}, 4, 12) == Identity("stack", "05", None)
    assert compile_naming("{part}_{view}")("P_x.tif", {}, 4, 12).view == "x-05"
    assert compile_naming("{part}_{view}")("P_x.tif", {}, 0, 1).view == "x"


@pytest.mark.parametrize("template", ["{prat}_{view}", "{part", "fixed", "part}"])
def test_a_malformed_template_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"field|brace"):
        compile_naming(template)


def test_a_malformed_pattern_is_refused() -> None:
    with pytest.raises(ValueError, match="regular expression"):
        compile_naming(None, "(")
    with pytest.raises(ValueError, match="unknown groups"):
        compile_naming(None, "(?P<camera>x)")
