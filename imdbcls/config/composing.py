"""A config loader for Hydra that reads each YAML file once and limits what the files may set.

`Loader` composes every config: for a single run, for each job of a sweep (also in a launcher's worker), and for the
check that finds mistakes in a command.
"""

import copy
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
from hydra._internal.config_repository import CachingConfigRepository, IConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.default_element import ConfigDefault, GroupDefault
from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobRuntime
from hydra.errors import ConfigCompositionException, HydraException
from hydra.plugins.config_source import ConfigResult, ConfigSource
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from imdbcls.config.trust import Named, outside, unnamed_settings, wrong_settings_of_files
from imdbcls.errors import UserError
from imdbcls.runs.untrusted import require_bounded_yaml
from imdbcls.runtime.console import user_errors

CONFIG = "config"


class Loader(ConfigLoaderImpl):
    """A config loader that raises UserError if a YAML file sets something that only the command line may set."""

    def __init__(self, config_search_path: ConfigSearchPath, named: Named) -> None:
        super().__init__(config_search_path)
        self.named = named
        self._forget()

    def _forget(self) -> None:
        self._parsed: dict[str, Override] = {}
        self._snapshots: dict[str, Snapshot] = {}  # keyed by hydra.searchpath
        self._bases: dict[tuple[str, ...], DictConfig] = {}  # keyed by the overrides that are not plain (`is_plain`)
        self._trusted_hydra: dict[tuple[str, ...], dict[str, Any]] = {}
        self.jobs: list[Sequence[str]] = []  # the overrides of each job that a sweeper has passed to its launcher

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the caches, because a launcher pickles the loader for its worker processes."""
        return {key: self.__dict__[key] for key in ("config_search_path", "repository", "named")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._forget()

    def load_configuration(
        self,
        config_name: str | None,
        overrides: list[str],
        run_mode: RunMode,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Compose a config when Hydra calls this loader. After a UserError, print the error and exit."""
        with user_errors():
            return self.compose(overrides, run_mode, from_shell, validate_sweep_overrides)

    def compose(
        self,
        overrides: Sequence[str],
        run_mode: RunMode = RunMode.RUN,
        from_shell: bool = True,
        validate_sweep_overrides: bool = True,
    ) -> DictConfig:
        """Return the config for some overrides. Raise UserError for a forbidden setting. Hydra's errors propagate."""
        parsed, repository = self._parse_overrides_and_create_caching_repo(CONFIG, list(overrides))
        plain = [each for each in parsed if is_plain(each, repository)]
        if run_mode is RunMode.RUN:
            if validate_sweep_overrides:
                self.validate_sweep_overrides_legal(parsed, run_mode, from_shell)
            cfg = self._compose_from_base(parsed, plain)
        else:
            cfg = super().load_configuration(CONFIG, list(overrides), run_mode, from_shell, validate_sweep_overrides)
        if outside(repository.get_sources()):
            mistakes = [*unnamed_settings(parsed, self.named)]
            mistakes = mistakes or wrong_settings_of_files(cfg, parsed, self.named, self._without_files(parsed))
            if mistakes:
                raise UserError(*mistakes)
        return cfg

    def _compose_from_base(self, parsed: Sequence[Override], plain: Sequence[Override]) -> DictConfig:
        """Return the config that Hydra would compose, but run Hydra only once for each combination of choices.

        The jobs of a sweep differ in few keys. Plain overrides set single keys after everything else, so they can be
        applied to a copy of the base that Hydra composed from the other overrides. The section `hydra`, in which Hydra
        records all overrides, is then updated.
        """
        lines = tuple(str(each.input_line) for each in parsed if each not in plain)
        key = (str(JobRuntime.instance().get("name")), *lines)
        if key not in self._bases:
            self._bases[key] = super().load_configuration(CONFIG, list(lines), RunMode.RUN, True, False)
        cfg = copy.deepcopy(self._bases[key])
        try:
            self._apply_overrides_to_config(list(plain), cfg)
        except OmegaConfBaseException as error:
            raise ConfigCompositionException() from error
        own = [each for each in parsed if not each.is_hydra_override()]
        from_files = [line for line in cfg.hydra.overrides.task if line not in lines]
        cfg.hydra.overrides.task = from_files + [each.input_line for each in own]
        named = cfg.hydra.job.config.override_dirname
        cfg.hydra.job.override_dirname = get_overrides_dirname(own, named.exclude_keys, named.item_sep, named.kv_sep)
        cfg.hydra.runtime.cwd = os.getcwd()
        return cfg

    def one_for_each_base(self, batch: Sequence[Sequence[str]]) -> list[Sequence[str]]:
        """Return the first job of a sweep for each combination of choices. The other jobs differ only in plain keys."""
        found: dict[tuple[str, ...], Sequence[str]] = {}
        for overrides in batch:
            parsed, repository = self._parse_overrides_and_create_caching_repo(CONFIG, list(overrides))
            found.setdefault(
                tuple(str(each.input_line) for each in parsed if not is_plain(each, repository)), overrides
            )
        return list(found.values())

    def keys_of(self, group: str, choice: str, overrides: Sequence[str] = ()) -> set[str]:
        """Return the keys that a choice adds to its group's section, including keys from the choices it builds on."""
        _, repository = self._parse_overrides_and_create_caching_repo(CONFIG, list(overrides))
        found = repository.load_config(f"{group}/{choice}")
        if found is None or not OmegaConf.is_dict(found.config):
            return set()
        bases = [base.path for base in found.defaults_list or () if isinstance(base, ConfigDefault)]
        names = {str(name) for name in found.config}
        return names.union(*(self.keys_of(group, base, overrides) for base in bases if base not in (None, "_self_")))

    def parts_of(self, group: str, choice: str, overrides: Sequence[str] = ()) -> set[str]:
        """Return the keys that a choice adds, as `keys_of` does, and the groups in its defaults list."""
        _, repository = self._parse_overrides_and_create_caching_repo(CONFIG, list(overrides))
        found = repository.load_config(f"{group}/{choice}")
        defaults = [] if found is None else found.defaults_list or ()
        groups = {each.group.lstrip("/") for each in defaults if isinstance(each, GroupDefault) and each.group}
        return self.keys_of(group, choice, overrides) | groups

    def without_folders(self) -> ConfigLoaderImpl:
        """Return a loader that reads only the YAML files of installed packages."""
        path = type(self.config_search_path)()
        path.get_path().extend(each for each in self.config_search_path.get_path() if not outside([each]))
        return ConfigLoaderImpl(path)

    def _without_files(self, parsed: Sequence[Override]) -> dict[str, Any]:
        """Return Hydra's section, composed without the YAML files that the command line adds to the search path."""
        lines = tuple(str(each.input_line) for each in parsed if is_own_setting(each))
        key = (str(JobRuntime.instance().get("name")), *lines)
        if key not in self._trusted_hydra:
            try:
                trusted = self.without_folders().load_configuration(
                    CONFIG, list(lines), RunMode.RUN, validate_sweep_overrides=False
                )
            except HydraException as error:
                raise UserError(f"{' '.join(lines)}: {str(error).splitlines()[0]}") from error
            container = OmegaConf.to_container(trusted.hydra, resolve=False)
            assert isinstance(container, dict)
            self._trusted_hydra[key] = {str(key): value for key, value in container.items()}
        return self._trusted_hydra[key]

    def _parse_overrides_and_create_caching_repo(
        self, config_name: str | None, overrides: list[str]
    ) -> tuple[list[Override], CachingConfigRepository]:
        for text in overrides:
            if text not in self._parsed:
                (self._parsed[text],) = OverridesParser.create().parse_overrides([text])
        parsed = [self._parsed[text] for text in overrides]
        searched = repr([each.value() for each in parsed if each.get_key_element() == "hydra.searchpath"])
        if searched not in self._snapshots:
            repository = CachingConfigRepository(self.repository)
            self._process_config_searchpath(config_name, parsed, repository)
            self._snapshots[searched] = Snapshot(repository)
        return parsed, self._snapshots[searched]


def is_plain(override: Override, repository: IConfigRepository) -> bool:
    """Return whether an override sets a key of this project, as opposed to a Hydra key or the choice of a group."""
    key = override.key_or_group
    special = override.is_hydra_override() or key in ("", "hydra") or override.package is not None
    return not special and not repository.group_exists(key)


def is_own_setting(override: Override) -> bool:
    """Return whether an override sets one of Hydra's own keys other than its search path."""
    return override.is_hydra_override() and override.get_key_element() != "hydra.searchpath"


class Snapshot(CachingConfigRepository):
    """A repository that reads each file once. Each call returns a new copy of the content, which Hydra may modify."""

    def __init__(self, repository: IConfigRepository) -> None:
        self.delegate = repository
        self._files: dict[str, ConfigResult | None] = {}
        self._known: dict[tuple[str, str], bool] = {}
        self._options: dict[tuple[str, ObjectType | None], list[str]] = {}

    def load_config(self, config_path: str) -> ConfigResult | None:
        if config_path not in self._files:
            for source in self.get_sources():
                file = Path(source.path, config_path if config_path.endswith(".yaml") else f"{config_path}.yaml")
                if outside([source]) and file.is_file():
                    require_bounded_yaml(file)
                    self._require_not_hidden(config_path, source, file)
            self._files[config_path] = self.delegate.load_config(config_path)
        return copy.deepcopy(self._files[config_path])

    def _require_not_hidden(self, config_path: str, source: ConfigSource, file: Path) -> None:
        """Raise UserError if Hydra would silently ignore a user's file because a shipped file has the same name."""
        first = next(each for each in self.get_sources() if each.is_config(config_path))
        if first is not source and not outside([first]) and content(first, config_path) != content(source, config_path):
            raise UserError(f"{file} has no effect: imdbcls has its own {config_path}.yaml. Rename your file.")

    def group_exists(self, config_path: str) -> bool:
        key = ("group", config_path)
        if key not in self._known:
            self._known[key] = self.delegate.group_exists(config_path)
        return self._known[key]

    def config_exists(self, config_path: str) -> bool:
        key = ("config", config_path)
        if key not in self._known:
            self._known[key] = self.delegate.config_exists(config_path)
        return self._known[key]

    def get_group_options(self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG) -> list[str]:
        key = (group_name, results_filter)
        if key not in self._options:
            self._options[key] = self.delegate.get_group_options(group_name, results_filter)
        return list(self._options[key])

    def get_sources(self) -> list[ConfigSource]:
        return self.delegate.get_sources()


def content(source: ConfigSource, config_path: str) -> Any:
    """Return the nested values of one YAML file with unresolved interpolations."""
    return OmegaConf.to_container(source.load_config(config_path).config, resolve=False)
