"""Reading of the two layouts: what becomes training, validation and test, and what is left out."""

import numpy as np
import pytest

from recsys.bench.public.data import read_dataset, read_lines
from recsys.errors import DataError


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def named(dataset, part):
    """User id to item ids, in their order."""
    users, items = dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()
    cuts = np.split(part.item, part.start[1:-1])
    return {user: [items[row] for row in cut] for user, cut in zip(users, cuts, strict=True) if len(cut)}


def test_interactions_have_train_and_test_and_no_validation(tmp_path):
    dataset = read_dataset(write(tmp_path, train="u1 a b\nu2 b\n", test="u1 c\nu3 a\n"))
    assert named(dataset, dataset.train) == {"u1": ["a", "b"], "u2": ["b"]}
    assert named(dataset, dataset.test) == {"u1": ["c"], "u3": ["a"]}
    assert not len(dataset.validation)


def test_users_and_items_of_either_file_count(tmp_path):
    dataset = read_dataset(write(tmp_path, train="u1 a\nu4\n", test="u3 c\n"))
    assert (dataset.user_ids.to_pylist(), dataset.item_ids.to_pylist()) == (["u1", "u3", "u4"], ["a", "c"])


def test_the_last_item_of_a_sequence_is_the_test_and_the_one_before_validates(tmp_path):
    dataset = read_dataset(write(tmp_path, sequences="7 e d c b a\n8 x y z\n"))
    assert named(dataset, dataset.train) == {"7": ["e", "d", "c"], "8": ["x"]}
    assert named(dataset, dataset.validation) == {"7": ["b"], "8": ["y"]}
    assert named(dataset, dataset.test) == {"7": ["a"], "8": ["z"]}
    assert named(dataset, dataset.seen) == {"7": ["e", "d", "c", "b"], "8": ["x", "y"]}


def test_a_sequence_of_two_is_training_only(tmp_path):
    dataset = read_dataset(write(tmp_path, sequences="u a b c\nv d e\nw f\n"))
    assert named(dataset, dataset.train) == {"u": ["a"], "v": ["d", "e"], "w": ["f"]}
    assert list(named(dataset, dataset.test)) == ["u"]


def test_a_repeated_interaction_is_dropped_and_counted(tmp_path):
    dataset = read_dataset(write(tmp_path, train="u b a b\n", test="u c c\n"))
    assert named(dataset, dataset.train) == {"u": ["b", "a"]}
    assert named(dataset, dataset.test) == {"u": ["c"]}
    assert dataset.n_repeats == 2


def test_a_sequence_keeps_its_repeats(tmp_path):
    dataset = read_dataset(write(tmp_path, sequences="u a b a c d\n"))
    assert named(dataset, dataset.train) == {"u": ["a", "b", "a"]}
    assert dataset.n_repeats == 1


def test_lines_of_one_user_are_joined_where_order_means_nothing(tmp_path):
    dataset = read_dataset(write(tmp_path, train="u a b\nv x\nu c\n", test="u d\n"))
    assert named(dataset, dataset.train) == {"u": ["a", "b", "c"], "v": ["x"]}


def test_a_second_sequence_of_one_user_is_left_out_and_told(tmp_path):
    dataset = read_dataset(write(tmp_path, sequences="u a b c\nv x y z\nu d e f\n"))
    assert named(dataset, dataset.test) == {"u": ["c"], "v": ["z"]}
    assert dataset.skipped == {"user_on_two_lines": 1}
    assert "d" not in dataset.item_ids.to_pylist()


def test_the_order_of_lines_changes_nothing(tmp_path):
    lines = [f"u{n} i{n} i{3 * n % 7} i{5 * n % 11} j{n}" for n in range(1, 20)]
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder, order in zip(folders, (lines, lines[::-1]), strict=True):
        folder.mkdir()
        write(folder, sequences="\n".join(order))
    one, two = map(read_dataset, folders)
    assert one.item_ids.equals(two.item_ids)
    assert one.train.item.tolist() == two.train.item.tolist()


@pytest.mark.parametrize("content", ["u a b\r\nv c\r\n", "\ufeffu a b\nv c", "  u\ta   b \n\u00a0v c\n"])
def test_line_ends_marks_and_white_space_of_any_kind_part_words(tmp_path, content):
    lines = read_lines(write(tmp_path, train=content) / "train.txt")
    assert lines.user.to_pylist() == ["u", "v"]
    assert lines.item.to_pylist() == ["a", "b", "c"]
    assert lines.n_items.tolist() == [2, 1]


def test_unreadable_lines_are_left_out_and_told_with_their_number(tmp_path):
    lines = read_lines(write(tmp_path, train=b"u a\n\nv \xff\nw b\x00c\nx d\n") / "train.txt")
    assert lines.user.to_pylist() == ["u", "x"]
    assert lines.skipped == [(2, "empty_line"), (3, "invalid_utf8"), (4, "control_character")]


def test_reasons_of_all_files_are_counted(tmp_path):
    dataset = read_dataset(write(tmp_path, train=b"u a\n\n\n", test=b"u b\n\xff\n\n"))
    assert dataset.skipped == {"empty_line": 3, "invalid_utf8": 1}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "got none of them"),
        ({"train": "u a\n", "test": "u b\n", "sequences": "u a b c\n"}, "got train.txt, test.txt, sequences.txt"),
        ({"train": "u a\n"}, "test.txt cannot be read"),
        ({"train": "", "test": ""}, "at least one line"),
        ({"train": "u a\n", "test": "u\n"}, "at least one user with a test item"),
        ({"train": "", "test": "u a\n"}, "at least one interaction to learn from"),
        ({"sequences": "u a b\n"}, "at least one user with a test item"),
    ],
)
def test_a_folder_without_a_data_set_is_refused(tmp_path, files, message):
    with pytest.raises(DataError, match=message):
        read_dataset(write(tmp_path, **files))


def test_the_items_of_chosen_users_come_with_their_place_in_the_choice(tmp_path):
    dataset = read_dataset(write(tmp_path, train="a x y\nb\nc z\n", test="a z\n"))
    place, item = dataset.train.of(np.array([2, 1, 0], np.int32))
    assert (place.tolist(), item.tolist()) == ([0, 2, 2], [2, 0, 1])
