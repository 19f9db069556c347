"""Settings: arguments, else the environment, else settings.json, else defaults."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from clinloop.errors import BadInput
from clinloop.settings import Limits, Settings, load_settings


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home folder and no settings in the environment."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("CLINLOOP_STATE", "CLINLOOP_CACHE", "XDG_DATA_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    return home


def write(folder: Path, content: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str) else json.dumps(content)
    (folder / "settings.json").write_text(text, encoding="utf-8")
    return folder


def test_without_anything_given_the_folders_are_the_users(home: Path) -> None:
    settings = load_settings()
    assert settings.state == home / ".local/share/clinloop"
    assert settings.cache == home / ".cache/clinloop"
    assert settings == Settings(state=settings.state, cache=settings.cache)
    assert not settings.state.exists(), "reading settings makes nothing"


def test_the_environment_names_the_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLINLOOP_STATE", str(tmp_path / "s"))
    monkeypatch.setenv("CLINLOOP_CACHE", str(tmp_path / "c"))
    settings = load_settings()
    assert (settings.state, settings.cache) == (tmp_path / "s", tmp_path / "c")


def test_the_file_of_the_state_folder_is_read_wherever_that_folder_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "s", {"image": "gpu", "limits": {"pids": 7}, "data_roots": ["/data"], "sandbox": "none"})
    monkeypatch.setenv("CLINLOOP_STATE", str(tmp_path / "s"))

    settings = load_settings()

    assert (settings.image, settings.limits.pids, settings.sandbox) == ("gpu", 7, "none")
    assert settings.data_roots == (Path("/data"),)
    assert settings.limits.memory_bytes == Limits().memory_bytes
    assert settings == load_settings(tmp_path / "s")


def test_an_argument_beats_the_environment_which_beats_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = write(tmp_path / "argument", {"cache": str(tmp_path / "from file"), "image": "from-file", "wait_cap_s": 3})
    assert load_settings(state).cache == tmp_path / "from file"

    monkeypatch.setenv("CLINLOOP_STATE", str(tmp_path / "environment"))
    monkeypatch.setenv("CLINLOOP_CACHE", str(tmp_path / "from environment"))
    settings = load_settings(state, image="from-argument")
    assert settings.state == state
    assert settings.cache == tmp_path / "from environment"
    assert (settings.image, settings.wait_cap_s) == ("from-argument", 3)

    assert load_settings(state, cache=tmp_path / "from argument").cache == tmp_path / "from argument"


def test_an_argument_that_is_none_is_not_given(tmp_path: Path) -> None:
    state = write(tmp_path / "s", {"sandbox": "none", "data_roots": ["/data"]})
    settings = load_settings(state, sandbox=None, data_roots=None)
    assert (settings.sandbox, settings.data_roots) == ("none", (Path("/data"),))


def test_every_folder_is_absolute_since_a_supervisor_works_elsewhere(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / "state", {"weights": "w", "cache": "~/c", "data_roots": ["a", "~/b"]})
    monkeypatch.chdir(tmp_path)

    settings = load_settings(Path("~/state"))

    assert settings.state == home / "state"
    assert (settings.weights, settings.cache) == (tmp_path / "w", home / "c")
    assert settings.data_roots == (tmp_path / "a", home / "b")
    assert load_settings(Path("relative")).state == tmp_path / "relative"


def test_settings_survive_the_way_to_a_supervisor(tmp_path: Path) -> None:
    settings = load_settings(tmp_path, data_roots=["/data"], weights="/w", wait_cap_s=4.5, limits={"cpus": 1.5})
    assert Settings.model_validate(json.loads(json.dumps(settings.model_dump(mode="json")))) == settings


@pytest.mark.parametrize(
    "content",
    [
        {"imge": "cpu"},
        {"limits": {"memory": 1}},
        {"limits": {"pids": 0}},
        {"limits": {"memory_bytes": -1}},
        {"limits": {"cpus": "many"}},
        {"wait_cap_s": -1},
        {"sandbox": "firejail"},
        {"data_roots": "/data"},
    ],
)
def test_a_wrong_setting_is_named_and_the_known_ones_are_listed(content: dict[str, object], tmp_path: Path) -> None:
    name, value = next(iter(content.items()))
    wrong = f"limits.{next(iter(value))}" if isinstance(value, dict) else name

    with pytest.raises(BadInput) as refusal:
        load_settings(write(tmp_path, content))

    text = str(refusal.value)
    assert f"({wrong}: " in text
    for known in (*Settings.model_fields, *(f"limits.{field}" for field in Limits.model_fields)):
        assert known in text.split("known settings: ")[1]
    assert "\n" not in text


def test_an_unknown_argument_is_refused_like_an_unknown_key(tmp_path: Path) -> None:
    with pytest.raises(
        BadInput,
        match=r"\(imge: .*known settings: .*cache, .*data_roots, .*engine, gpus, gpus_per_run, gpus_per_run_max, image",
    ):
        load_settings(tmp_path, imge="cpu")


@pytest.mark.parametrize("content", ["", "{", "[]", '[["image", "x"]]', "3", "null", '"x"', "{'image': 'cpu'}"])
def test_a_file_that_holds_no_json_object_is_refused(content: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="JSON object"):
        load_settings(write(tmp_path, content))


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "settings.json").mkdir()
    with pytest.raises(BadInput, match=r"settings\.json"):
        load_settings(tmp_path)
    (tmp_path / "settings.json").rmdir()
    (tmp_path / "settings.json").write_bytes(b'{"image": "\xff"}')
    with pytest.raises(BadInput, match=r"settings\.json"):
        load_settings(tmp_path)


def test_the_file_cannot_move_the_state_folder_in_which_it_lies(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="CLINLOOP_STATE"):
        load_settings(write(tmp_path, {"state": "/elsewhere"}))


def test_settings_cannot_be_changed(tmp_path: Path) -> None:
    settings = load_settings(tmp_path)
    with pytest.raises(ValidationError):
        settings.sandbox = "none"  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("model", [Settings, Limits])
def test_every_setting_is_documented(model: type[Settings]) -> None:
    assert [name for name, field in model.model_fields.items() if not field.description] == []
