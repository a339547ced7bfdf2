"""A notebook's parameters: those declared in its `parameters` cell, and the validation of given values.

For an unknown parameter, papermill only warns and uses the default; it does not find ``root: str | None = None`` (its
pattern stops at the bar), and it checks no types. Therefore the cell is parsed as Python here, and every value is
validated before a kernel starts.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, Optional, Union

import numpy as np

from csgn_lib.config import Experiment
from csgn_lib.records import InputError, did_you_mean, home, read_json

_NAMES = {type_.__name__: type_ for type_ in (bool, int, float, str, list, dict, tuple, Path)}
_NAMES |= {"Any": Any, "Literal": Literal, "Optional": Optional, "Union": Union, "None": None}


@dataclass(frozen=True)
class Parameter:
    """One assignment of the `parameters` cell: its name, its type (Any if unknown), its default."""

    name: str
    type: Any
    default: Any


def find(notebook: str | Path) -> Path:
    """The notebook's file, from a path or from a bare name such as ``12_train``.

    Raises InputError naming the file, and the nearest notebook of the workbench, if there is none.
    """
    given = Path(notebook)
    for path in (given, home() / "notebooks" / f"{given.name.removesuffix('.ipynb')}.ipynb"):
        if path.is_file() and (path is given or given.parent == Path(".")):
            if path.suffix != ".ipynb":
                raise InputError(f"{path} is not a notebook: its name must end in .ipynb")
            return path
    names = sorted(path.stem for path in (home() / "notebooks").glob("*.ipynb"))
    cure = did_you_mean(given.stem, names, f"there are: {', '.join(names) or 'none'}")
    raise InputError(f"notebook {str(notebook)!r} does not exist; {cure}")


def shortest(notebook: Path) -> str:
    """The shortest name that `find` accepts: the bare name for a notebook of the workbench, else its path."""
    own = home() / "notebooks" / f"{notebook.stem}.ipynb"
    return notebook.stem if own.is_file() and own.samefile(notebook) else str(notebook)


def cells(notebook: Path) -> list[dict[str, Any]]:
    """The notebook's cells, ``source`` joined to one string. Raises InputError if it is no notebook."""
    document = read_json(notebook)
    if not isinstance(document, dict) or not isinstance(document.get("cells"), list):
        raise InputError(f"{notebook} is not a notebook of format 4: it has no list of cells; save it again in Jupyter")
    return [cell | {"source": "".join(cell.get("source", ""))} for cell in document["cells"]]


def declared(notebook: Path) -> dict[str, Parameter]:
    """The parameters that the notebook declares, in order; none if no cell is tagged `parameters`."""
    sources = [cell["source"] for cell in cells(notebook) if "parameters" in cell.get("metadata", {}).get("tags", [])]
    if len(sources) > 1:
        raise InputError(f"{notebook} has {len(sources)} cells tagged 'parameters'; papermill reads one: keep one")
    try:
        body = ast.parse(sources[0]).body if sources else []
    except SyntaxError as error:
        raise InputError(
            f"{notebook}: the 'parameters' cell is not Python ({error.msg}, line {error.lineno})"
        ) from None
    return {parameter.name: parameter for parameter in map(_parameter, body) if parameter}


def _parameter(statement: ast.stmt) -> Parameter | None:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name) and statement.value:
        name, annotation = statement.target.id, statement.annotation
    elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        name, annotation = statement.targets[0].id, None
    else:
        return None
    try:
        default = ast.literal_eval(statement.value)
    except ValueError:  # an expression: its source is the default, the type is Any
        return Parameter(name, Any, ast.unparse(statement.value))
    return Parameter(name, _type(annotation, default), default)


def _type(annotation: ast.expr | None, default: Any) -> Any:
    if annotation is not None:
        try:  # only type names are available to the expression
            return eval(ast.unparse(annotation), {"__builtins__": {}}, _NAMES)  # noqa: S307
        except (NameError, TypeError, SyntaxError, AttributeError):
            pass
    return Any if default is None else type(default)


def checked(notebook: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The notebook's defaults, updated with ``given``, as plain JSON values.

    Tuples, sets and arrays become lists, paths strings, numpy scalars Python numbers: papermill cannot save sets and
    arrays and turns tuples into strings. The values of a notebook with a ``preset`` are validated as those of an
    experiment. Raises InputError that names an unknown parameter (with the
    nearest one), or the value that has the wrong type or is out of range.
    """
    known = declared(notebook)
    for name in given:
        if name not in known:
            cure = did_you_mean(name, known, f"it has: {', '.join(known) or 'none'}")
            raise InputError(f"{notebook} has no parameter {name!r}; {cure}")
    values = {name: plain(parameter.default, name) for name, parameter in known.items()}
    values |= {name: fitted(known[name].type, value, name) for name, value in given.items()}
    if "preset" in known:
        named = {name: values[name] for name in Experiment.model_fields if values.get(name) not in (None, "")}
        Experiment.from_parameters(**(values.get("more") or {}) | named)
    return values


def fitted(type_: Any, value: Any, name: str) -> Any:
    """``value`` as a plain value of ``type_``. Raises InputError naming the parameter if it does not fit.

    Strict: no string for a number, no number for a boolean, no 1.5 for an integer.
    """
    from pydantic import ValidationError

    adapter = _adapter(type_)
    try:
        accepted = adapter.validate_json(json.dumps(plain(value, name)), strict=True)
        return adapter.dump_python(accepted, mode="json")
    except ValidationError as error:
        raise InputError(f"parameter {name} = {value!r}: {error.errors()[0]['msg']}") from None


@cache
def _adapter(type_: Any) -> Any:
    from pydantic import TypeAdapter

    return TypeAdapter(type_)


def plain(value: Any, name: str = "value") -> Any:
    """``value`` in types that JSON and papermill support. Raises InputError naming an unsupported one."""
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"parameter {name} = {value!r}: must be finite")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item, name) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, name) for item in value]
    if isinstance(value, set | frozenset):
        return sorted(plain(item, name) for item in value)
    raise InputError(f"parameter {name}: a {type(value).__name__} cannot be given to a notebook; give text or numbers")


def from_text(type_: Any, text: str, name: str) -> Any:
    """Parse ``text`` from the command line as a parameter of ``type_``.

    ``0.5``, ``true``, ``none``, ``[3, 5]`` and ``{"a": 1}`` are parsed as literals, unless the parameter is a string.
    Raises InputError naming the parameter if the type does not fit.
    """
    readings: list[Any] = [None] if text.lower() in ("none", "null") else []
    literal = _literal(text)
    readings += [literal, text] if type_ is Any else [text, literal]
    for value in readings:
        try:
            return fitted(type_, value, name)
        except InputError:
            continue
    return fitted(type_, literal, name)


def _literal(text: str) -> Any:
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError):
            continue
    return text
