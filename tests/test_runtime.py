"""What is set on a card, in which order, and which card it is; MindSpore's contexts are fakes that record."""

import mindspore as ms
import pytest
from mindspore import _c_expression, communication

from src.base.errors import UserError
from src.runtime import device as runtime
from src.runtime.device import Runtime, device_id, fuse_gradients, message_ends, setup_runtime
from src.runtime.rank_table import TABLE_VARIABLES
from tests.tiny import OPTIONS, load_config


def options(*words: str):
    return load_config([*OPTIONS, "--device_target=Ascend", "--is_distributed=1", *words])


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    for name in (
        *runtime.LAUNCHER_VARIABLES,
        *runtime.DEVICE_VARIABLES,
        *TABLE_VARIABLES,
        "MS_SIMULATION_LEVEL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK_SIZE", "1")
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "77")  # so that it is put back
    monkeypatch.delenv("HCCL_CONNECT_TIMEOUT")


@pytest.fixture
def calls(monkeypatch):
    """Every call that changes a context, as (name, value), in order."""
    made = []

    class Card:
        name = "ascend910b"

        @classmethod
        def get_instance(cls):
            return cls()

        def get_ascend_soc_version(self):
            return self.name

    def record(owner, name, answer=None):
        def call(*args, **kwargs):
            made.append((name, args[0] if args else kwargs or None))
            return answer

        monkeypatch.setattr(owner, name, call)

    record(ms, "set_context")
    record(ms, "set_deterministic")
    record(ms, "set_seed")
    record(ms, "set_auto_parallel_context")
    monkeypatch.setattr(ms, "set_device", lambda *words: made.append(("set_device", words)))
    record(ms.device_context.ascend.op_tuning, "op_compile")
    record(ms.device_context.ascend.op_precision, "precision_mode")
    record(communication, "init")
    monkeypatch.setattr(communication, "get_rank", lambda: 3)
    monkeypatch.setattr(communication, "get_group_size", lambda: 8)
    monkeypatch.setattr(_c_expression, "MSContext", Card)
    made_by_card = lambda name: setattr(Card, "name", name)  # noqa: E731
    return made, made_by_card


def test_everything_is_set_before_the_communication(calls, monkeypatch):
    made, _ = calls
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.setenv("DEVICE_ID", "5")
    assert setup_runtime(options("--jit_level=O2", "--op_compile=binary")) == Runtime(3, 8)
    names = [name for name, _ in made]
    assert names[-2:] == ["init", "set_auto_parallel_context"]
    assert ("set_device", ("Ascend", 5)) in made[: names.index("set_deterministic")]
    assert ("set_deterministic", True) in made and ("op_compile", False) in made
    assert ("set_context", {"jit_config": {"jit_level": "O2"}}) in made
    assert "precision_mode" not in names
    assert runtime.os.environ["HCCL_CONNECT_TIMEOUT"] == "600"


def test_defaults_leave_the_rest_to_mindspore(calls):
    made, _ = calls
    assert setup_runtime(options("--deterministic=0")) == Runtime()
    assert [name for name, _ in made] == ["set_context", "set_device", "set_seed"]


@pytest.mark.parametrize(
    "card,words,expected",
    [
        ("ascend910", [], "allow_fp32_to_fp16"),
        ("ascend910", ["--precision_mode=must_keep_origin_dtype"], "must_keep_origin_dtype"),
        ("ascend910b", ["--precision_mode=force_fp32"], "force_fp32"),
    ],
)
def test_precision_of_float32(calls, card, words, expected):
    made, choose_card = calls
    choose_card(card)
    setup_runtime(options(*words))
    assert ("precision_mode", expected) in made


def test_users_timeout_stays(calls, monkeypatch):
    monkeypatch.setenv("MS_ROLE", "MS_WORKER")
    monkeypatch.setenv("HCCL_CONNECT_TIMEOUT", "1200")
    setup_runtime(options())
    assert runtime.os.environ["HCCL_CONNECT_TIMEOUT"] == "1200"


@pytest.mark.parametrize("word", ["--jit_level=O2", "--op_compile=online", "--precision_mode=force_fp16"])
def test_options_of_ascend_are_refused_elsewhere(calls, word):
    with pytest.raises(UserError, match="is for Ascend, device_target is CPU"):
        setup_runtime(options(word, "--device_target=CPU"))


def test_which_card(monkeypatch):
    config = options("--device_id=1")
    assert device_id(config) == 1
    monkeypatch.setenv("ASCEND_DEVICE_ID", "2")
    assert device_id(config) == 2
    monkeypatch.setenv("DEVICE_ID", "3")
    assert device_id(config) == 3
    monkeypatch.setenv("DEVICE_ID", "npu3")
    with pytest.raises(UserError, match="DEVICE_ID: 'npu3'"):
        device_id(config)


def test_dry_run_counts_as_launched(monkeypatch):
    monkeypatch.setenv("RANK_SIZE", "8")
    assert not runtime.is_launched()
    monkeypatch.setenv("MS_SIMULATION_LEVEL", "1")
    assert runtime.is_launched()


@pytest.mark.parametrize(
    "sizes,messages,ends",
    [
        ([1, 1, 1, 1], 2, [1]),
        ([1, 1, 1, 1], 4, [0, 1, 2]),
        ([100, 1, 1, 1], 3, [0, 1]),  # the first is more than a third: the others share the rest
        ([1, 1, 1, 100], 3, [1, 2]),
        ([3, 2, 5, 4, 6], 2, [2]),
        ([7], 1, []),
    ],
)
def test_messages_of_even_size(sizes, messages, ends):
    assert message_ends(sizes, messages) == ends


def test_more_messages_than_gradients():
    with pytest.raises(UserError, match="gradient_messages: 3, there are 2 gradients"):
        message_ends([1, 1], 3)


@pytest.mark.parametrize(
    "messages,fusion",
    [(1, {"mode": "size", "config": runtime.LARGEST_MESSAGE}), (3, {"mode": "index", "config": [0, 1]})],
)
def test_messages_are_set_where_asked_for(calls, messages, fusion):
    made, _ = calls
    fuse_gradients([1, 1, 1], 0)
    assert made == []
    fuse_gradients([1, 1, 1], messages)
    assert made == [("set_auto_parallel_context", {"comm_fusion": {"allreduce": fusion}})]
