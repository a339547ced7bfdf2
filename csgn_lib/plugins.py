"""Plugins: found by path or entry point, imported, named by their content, and copied into the runs that use them.

A plugin is a Python file, a folder with ``__init__.py``, or the name of an entry point in the group ``csgn.plugins``
of an installed package. ``registry`` says what it may register.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from csgn_lib.records import InputError, atomic_path, home, sha256, writing
from csgn_lib.registry import LOADED, LOADING, Entry, Plugin, last_line

GROUP = "csgn.plugins"  # of entry points
COPIES = "plugins"  # subfolder of a run with copies of its plugins
RUN_FOLDER = "CSGN_RUN_DIR"  # environment variable: the run of a notebook's kernel
TRUST = "CSGN_TRUST_PLUGINS"  # environment variable: 1 allows any model folder to run its plugins
_FOLDERS: ContextVar[tuple[Path, ...]] = ContextVar("folders", default=())


def load(reference: str) -> Plugin:
    """Load the plugin of a path or an entry point; the same content is loaded once per process.

    Raises:
        InputError: the plugin does not exist, cannot be imported, registers nothing or a name twice, differs from the
            run's copy, or is in a model folder that is not trusted.
    """
    name, source = _find(reference)
    digest = content_digest(source)
    if (name, digest) not in LOADED:
        _refuse_untrusted(source, digest)
        LOADED[name, digest] = _imported(Plugin(name, source, digest))
    plugin = LOADED[name, digest] = LOADED.pop((name, digest))  # the last one loaded is last
    return plugin


def content_digest(source: Path) -> str:
    """SHA-256, 64 hexadecimal digits, of a plugin's file, or of the Python files of a package's folder."""
    if source.is_file():
        return sha256(source)
    digest = hashlib.sha256()
    for path in sorted(source.rglob("*.py")):
        digest.update(path.relative_to(source).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


@contextmanager
def copies_in(run_dir: str | Path | None) -> Iterator[None]:
    """Context manager: plugins are also searched among the copies in a run's folder."""
    token = _FOLDERS.set((*_FOLDERS.get(), Path(run_dir, COPIES)) if run_dir is not None else _FOLDERS.get())
    try:
        yield
    finally:
        _FOLDERS.reset(token)


def keep_copies(plugins: Sequence[Plugin], run_dir: str | Path) -> None:
    """Copy plugins into a run's folder. Raises InputError for a copy of other content, DiskError for a full disk."""
    for plugin in plugins:
        copy = Path(run_dir, COPIES, plugin.name)
        if copy.exists():
            _refuse_changed(plugin.name, plugin.source, plugin.digest, copy)
            continue
        with writing(copy):
            copy.parent.mkdir(parents=True, exist_ok=True)
            if plugin.source.is_dir():
                shutil.copytree(plugin.source, copy, ignore=shutil.ignore_patterns("__pycache__"))
                continue
            with atomic_path(copy) as temporary:
                shutil.copyfile(plugin.source, temporary)


def _find(reference: str) -> tuple[str, Path]:
    """The plugin's name, which its copies also have, and its path: a run's copy, or else the original."""
    own = [Path(os.environ[RUN_FOLDER], COPIES)] if os.environ.get(RUN_FOLDER) else []
    given = Path(reference) if _is_plugin(Path(reference)) else _installed(reference)
    stem = Path(reference).name.removesuffix(".py")
    names = (f"{stem}.py", stem) if given is None else (stem if given.is_dir() else f"{stem}.py",)
    for copy in (folder / name for folder in (*_FOLDERS.get(), *own) for name in names):
        if _is_plugin(copy):
            if given is not None:
                _refuse_changed(reference, given, content_digest(given), copy)
            return copy.name, copy
    if given is None:
        installed = ", ".join(sorted(entry_points(group=GROUP).names)) or "none"
        raise InputError(
            f"plugin {reference!r} does not exist (from {Path.cwd()}), and is no installed one (those: {installed}); "
            "give the path of its Python file, or install its package here"
        )
    return names[0], given


def _is_plugin(path: Path) -> bool:
    return (path.suffix == ".py" and path.is_file()) or (path / "__init__.py").is_file()


def _installed(reference: str) -> Path | None:
    """The file, or the package's folder, behind an entry point of that name."""
    for entry in entry_points(group=GROUP, name=reference) if reference else ():
        try:
            spec = find_spec(entry.module)
        except ImportError as error:
            raise InputError(f"plugin {reference!r}: its module {entry.module} cannot be imported ({error})") from None
        if spec is not None and spec.origin:
            return Path(spec.origin).parent if spec.submodule_search_locations else Path(spec.origin)
    return None


def _refuse_changed(reference: str, source: Path, digest: str, copy: Path) -> None:
    if (before := content_digest(copy)) != digest:
        raise InputError(
            f"plugin {reference} has changed since the run began: {source} has SHA-256 {digest[:12]}, the run's copy "
            f"{copy} has {before[:12]}; restore the original, or train in another folder"
        )


def _refuse_untrusted(source: Path, digest: str) -> None:
    """Raise InputError for a plugin in a model folder of another origin, unless it is trusted."""
    model = source.parent.parent
    if source.parent.name != COPIES or not (model / "config.json").exists() or os.environ.get(TRUST) == "1":
        return
    own = [home() / "reports" / "runs", *(folder.parent for folder in _FOLDERS.get())]
    own += [Path(os.environ[RUN_FOLDER])] if os.environ.get(RUN_FOLDER) else []
    known = any(plugin.digest == digest for plugin in LOADED.values())
    if not known and not any(model.resolve().is_relative_to(folder.resolve()) for folder in own):
        raise InputError(
            f"{model} brings the plugin {source.name}, a program that opening it would run; read it, then set the "
            f"environment variable {TRUST}=1"
        )


def _imported(plugin: Plugin) -> Plugin:
    """Execute the plugin's code; its variants are registered in its own table."""
    module_name = f"csgn_plugin_{plugin.digest[:12]}"
    package = plugin.source.is_dir()
    spec = spec_from_file_location(
        module_name,
        plugin.source / "__init__.py" if package else plugin.source,
        submodule_search_locations=[str(plugin.source)] if package else None,
    )
    module = module_from_spec(spec)
    sys.modules[module_name], token = module, LOADING.set(plugin)
    try:
        spec.loader.exec_module(module)
    except InputError:
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"plugin {plugin.source} cannot be imported: {last_line(error)}; correct it") from error
    finally:
        LOADING.reset(token)
    if not plugin.entries:
        raise InputError(f"plugin {plugin.source} registers nothing; call csgn_lib.registry.register in it")
    return plugin


def refuse_namesakes(plugins: Sequence[Plugin]) -> None:
    """Raise InputError for two plugins of one name."""
    names = [plugin.name for plugin in plugins]
    for plugin in plugins:
        if names.count(plugin.name) > 1:
            raise InputError(f"two plugins are called {plugin.name}, such as {plugin.source}; rename one of the files")


def own_fields(entry: Entry, known: Iterable[str]) -> dict[str, Any]:
    """The experiment's parameters that a plugin's variant adds: annotation and default by name.

    Raises InputError for a parameter in ``known``, without default or description, or with an unsuitable default.
    """
    fields = {}
    for name, parameter in entry.parameters.items():
        annotation, default = parameter.annotation, parameter.default
        info = next((part for part in getattr(annotation, "__metadata__", ()) if isinstance(part, FieldInfo)), None)
        if info is None:
            continue
        if name in known:
            raise InputError(f"parameter {name} of {entry} exists already; remove its Field to read it, or rename it")
        if not info.description or default is inspect.Parameter.empty:
            lacks = "default" if info.description else "description"
            raise InputError(f"parameter {name} of {entry} has no {lacks}; {_declaration(name)}")
        try:
            TypeAdapter(annotation).validate_python(default, strict=True)
            TypeAdapter(annotation).json_schema()
        except Exception as error:  # pydantic raises several exceptions for unsupported types
            raise InputError(
                f"parameter {name} of {entry} = {default!r}: {' '.join(str(error).split())[:200]}"
            ) from None
        fields[name] = (annotation, default)
    return fields


def refuse_unknown_parameters(entry: Entry, known: Iterable[str]) -> None:
    """Raise InputError for a parameter of a plugin's variant that is none of the experiment's."""
    for name in entry.parameters:
        if name not in known:
            raise InputError(f"parameter {name} of {entry} has no type and description; {_declaration(name)}")


def _declaration(name: str) -> str:
    return f'write {name}: Annotated[float, Field(ge=0, description="what it is")] = 0.1'
