"""Hostile options: YAML that makes objects, grows or is none; values of any kind."""

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from src.base.errors import UserError
from src.base.yaml_text import load_yaml
from src.config import load_config
from src.datasets.formats.labelled import ReadOptions
from src.datasets.formats.yolo_txt import read_yolo
from src.detect.settings import ModelSettings

TAGS = [
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/object/new:os.system ['touch {mark}']",
    "!!python/name:os.system",
    "!!python/module:os",
]
BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi")
)


@pytest.mark.parametrize("tag", TAGS)
def test_yaml_tags_make_no_objects(tmp_path, tag):
    mark = tmp_path / "mark"
    value = tag.format(mark=mark)
    (tmp_path / "o.yaml").write_text(f"lr: {value}\n")
    (tmp_path / "data.yaml").write_text(f"names: {value}\n")
    for attempt in (
        lambda: load_config([f"--config_path={tmp_path / 'o.yaml'}"]),
        lambda: load_config([f"--labels=[{value}]"]),
        lambda: read_yolo(tmp_path, ReadOptions()),
        lambda: ModelSettings.from_yaml(f"class_names: {value}", "m.yaml"),
    ):
        with pytest.raises(UserError):
            attempt()
    assert not mark.exists()


@pytest.mark.parametrize("key", ["lr", "labels", "mosaic", "data_dir", "anchor_scales", "unknown"])
def test_a_yaml_of_aliases_does_not_grow(tmp_path, key):
    """Ten lines that stand for 9^9 values: a naive error message would write them out."""
    (tmp_path / "o.yaml").write_text(f"{BOMB}{key}: *i\n")
    tracemalloc.start()
    with pytest.raises(UserError, match="aliases"):
        load_config([f"--config_path={tmp_path / 'o.yaml'}"])
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    "text",
    [
        "a: 2001-99-99", "a: !!bool maybe", "a: !!int ''", "a: !!float x", "a: !!timestamp x", "a: &b [*b]",
        "? [a]\n: 1", "a: " + "[" * 2000, "a: " + "9" * 5000, "<<: 1", "a: !!binary 'é'", "\x00", "{" * 2000,
        "a: !!set [x]", "a: !!omap {x: 1}", "x" * 300_000,
    ],
)  # fmt: skip
def test_yaml_that_is_none_is_one_kind_of_error(text):
    with pytest.raises(ValueError) as caught:
        load_yaml(text)
    assert len(str(caught.value).splitlines()) == 1


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(
            ["lr", "labels", "mosaic", "multi_scale", "lr_epochs", "training_shape", "nonsense\n"]
        ),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
            ),
        ),
        max_size=3,
    )
)
def test_options_of_any_kind_are_taken_or_named(tmp_path_factory, document):
    path = tmp_path_factory.mktemp("options") / "o.yaml"
    path.write_text(json.dumps(document))
    try:
        config = load_config([f"--config_path={path}"])
    except UserError as error:
        assert str(path) in str(error) or any(key.strip() in str(error) for key in document)
        assert len(str(error).splitlines()) == 1
    else:
        assert config.lr > 0 and len(set(config.labels)) == config.num_classes
