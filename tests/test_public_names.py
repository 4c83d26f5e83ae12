"""The package's own names: sorted, and each where it says it is."""

import recsys


def test_public_names_are_sorted_and_exist():
    assert list(recsys.__all__) == sorted(recsys.__all__)
    for name in recsys.__all__:
        assert getattr(recsys, name).__name__ == name


def test_a_name_the_package_lacks_is_an_attribute_error():
    assert not hasattr(recsys, "nothing_of_this_name")
