from __future__ import annotations

import pickle
from dataclasses import fields

import pytest

from pghaven.config.loading import parse_config
from pghaven.config.repository_values import RepositoryConfig
from pghaven.config.schema import Section, options_of
from pghaven.config.starter import render_cluster, render_repository, render_starter
from pghaven.config.values import SECTIONS, ClusterConfig, Config
from pghaven.errors import NotFound, UsageError
from pghaven.store.settings import SETTINGS, StoreSettings


def config_of(*clusters: str) -> Config:
    text = render_repository("main", "file:///r")
    return parse_config(text + "".join(render_cluster(name, "/d", "", ("main",)) for name in clusters), "/etc/p.toml")


def test_the_only_cluster_needs_no_name() -> None:
    assert config_of("main").get_cluster().name == "main"


def test_a_name_is_needed_among_several_clusters() -> None:
    with pytest.raises(UsageError, match="name one of them") as caught:
        config_of("main", "other").get_cluster()
    assert caught.value.hint == 'There are: "main", "other".'


def test_an_unknown_cluster_is_not_found_and_the_nearest_is_told() -> None:
    with pytest.raises(NotFound, match='cluster "mian" is not in the configuration') as caught:
        config_of("main").get_cluster("mian")
    assert caught.value.hint == 'Did you mean "main"?'


def test_without_clusters_the_way_to_the_first_one_is_told() -> None:
    for name in (None, "main"):
        with pytest.raises((UsageError, NotFound)) as caught:
            config_of().get_cluster(name)
        assert caught.value.hint is not None
        assert "pghaven init" in caught.value.hint


def test_values_travel_to_worker_processes() -> None:
    config = config_of("main")
    assert pickle.loads(pickle.dumps(config)) == config


def sections_and_parts() -> list[tuple[str, Section]]:
    """With the titles they have for something called "main"."""
    parts = [(f"{section.name}.main.{part.name}", part) for section in SECTIONS for part in section.parts]
    parts += [(f"{title}.{one.name}", one) for title, part in parts for one in part.repeated]
    return [(f"{section.name}.main", section) for section in SECTIONS] + parts


def test_every_field_but_the_name_is_a_documented_option_or_a_part() -> None:
    for _, section in sections_and_parts():
        options = options_of(section.type)
        others = {f.name for f in fields(section.type)} - {o.field for o in options}
        assert others - {"name"} == {part.name for part in (*section.parts, *section.repeated)}
        for option in options:
            assert option.doc.endswith("."), option.name
            assert option.required or option.default is not None or option.default_words, option.name


def test_the_example_of_every_option_is_valid() -> None:
    for title, section in sections_and_parts():
        for option in section.options.values():
            text = f"[{title}]\n{option.name} = {option.example}\n"
            if section.name == "repository":
                url = "" if option.name == "url" else f'url = "{(*option.schemes, "file")[0]}://place/x"\n'
                parse_config(text + url, "/etc/p.toml")
            elif option.name == "data_directory":
                parse_config(render_repository("main", "file:///r") + text, "/etc/p.toml")
            elif section.name == "node":
                others = {"name": '"a"', "address": '"b"'} | {option.name: option.example}
                text = f"[[{title}]]\n" + "".join(f"{name} = {value}\n" for name, value in others.items())
                text = f'[cluster.main.ha]\nsecrets = "/s"\n[[{title}]]\nname = "x"\naddress = "y"\n{text}'
                whole = render_repository("main", "file:///r") + f'[cluster.main]\ndata_directory = "/d"\n{text}'
                parse_config(whole, "/etc/p.toml")
            else:
                text = text.replace("[cluster.main]\n", "")
                whole = render_repository("main", "file:///r") + f'[cluster.main]\ndata_directory = "/d"\n{text}'
                parse_config(whole, "/etc/p.toml")


def test_the_starter_is_a_valid_configuration() -> None:
    text = render_starter("main", "/var/lib/postgresql/17/main", "host=/run dbname=postgres", "file:///r")
    config = parse_config(text, "/etc/p.toml")
    assert config.get_cluster() == ClusterConfig(
        name="main",
        data_directory="/var/lib/postgresql/17/main",
        conninfo="host=/run dbname=postgres",
        repositories=("main",),
    )
    assert config.repositories["main"].url == "file:///r"


def test_the_starter_quotes_what_it_is_given() -> None:
    awkward = "/da\"ta\\dir'é #x"
    text = render_starter("main", awkward, "password='a b\"'", "file:///r")
    cluster = parse_config(text, "/etc/p.toml").get_cluster()
    assert cluster.data_directory == awkward
    assert cluster.conninfo == "password='a b\"'"


def test_what_a_store_needs_travels_whole_from_its_options() -> None:
    """A setting that no option declares, or an option of a store that no setting takes, would be lost."""
    options = {o.field: o for o in options_of(RepositoryConfig)}
    assert set(SETTINGS) <= set(options)
    assert {field for field, option in options.items() if option.schemes} <= set(SETTINGS)
    text = "".join(f"{o.name} = {o.example}\n" for o in options.values() if "s3" in o.schemes)
    section = f'[repository.main]\nurl = "s3://bucket/x"\n{text}'
    store = parse_config(section, "/etc/p.toml").repositories["main"].store
    defaults = StoreSettings(url="s3://bucket/x")
    for name in SETTINGS:
        changed = name == "url" or "s3" not in options[name].schemes
        assert (getattr(store, name) == getattr(defaults, name)) == changed, name


def test_the_defaults_of_a_store_are_those_of_its_options() -> None:
    section = '[repository.main]\nurl = "s3://bucket/x"\n'
    assert parse_config(section, "/etc/p.toml").repositories["main"].store == StoreSettings(url="s3://bucket/x")
