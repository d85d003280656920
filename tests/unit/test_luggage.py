"""What the cells of a session bring each other, for any order of steps."""

from hypothesis import given
from hypothesis import strategies as st

from codecell.luggage import HELD_BYTES, Luggage
from codecell.model import Change, ChangedFile, File, FileReport, Omitted, Why

PATHS, LANGUAGES = ("a", "b", "c"), ("python", "bash", "c")


def changed(path: str, change: Change) -> ChangedFile:
    return ChangedFile(path=path, change=change, uri=None if change is Change.DELETED else path)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(LANGUAGES),
        st.dictionaries(st.sampled_from(PATHS), st.sampled_from(list(Change)), max_size=3),
    ),
    max_size=20,
)


@given(steps=STEPS)
def test_every_cell_ends_up_with_the_same_files(
    steps: list[tuple[str, dict[str, Change]]],
) -> None:
    luggage = Luggage()
    truth: dict[str, int] = {}
    cells: dict[str, dict[str, int]] = {}
    seen: dict[str, int] = {}
    for number, (language, changes) in enumerate([*steps, *((name, {}) for name in LANGUAGES)]):
        mine = cells.setdefault(language, {})
        for path, piece in luggage.waiting(language, seen.get(language, 0)):
            if piece.content is None:
                mine.pop(path, None)
            else:
                mine[path] = truth[path]
        assert mine == truth  # before the step begins
        for path, change in changes.items():
            for files in (mine, truth):
                files.pop(path, None)
                if change is not Change.DELETED:
                    files[path] = number
        report = FileReport(changed=tuple(changed(*item) for item in changes.items()))
        luggage.pack(language, (), report)
        seen[language] = luggage.version


def test_what_came_with_a_request_is_held_up_to_a_bound() -> None:
    luggage = Luggage()
    large = File(path="large", content=bytes(HELD_BYTES))
    luggage.pack("python", (large, File(path="more", content=b"x")), FileReport())
    pieces = dict(luggage.waiting("bash", 0))
    assert pieces["large"].content is large
    assert (pieces["more"].content, pieces["more"].left) == (None, "too_large")


def test_what_can_not_be_carried_is_named_with_its_reason() -> None:
    luggage = Luggage()
    luggage.pack("c", (), FileReport(omitted=(Omitted(reason=Why.FIFO, path="pipe"),)))
    assert [(path, piece.left) for path, piece in luggage.waiting("bash", 0)] == [("pipe", "fifo")]


def test_a_lost_cells_files_are_forgotten() -> None:
    luggage = Luggage()
    luggage.pack("c", (File(path="a", content=b""),), FileReport())
    luggage.pack("bash", (File(path="b", content=b""),), FileReport())
    luggage.drop("c")
    assert [path for path, _ in luggage.waiting("python", 0)] == ["b"]
