"""A hook of MkDocs that writes the reference pages while the site is built, so that they are never out of date.

A page asks for content with a line such as `<!-- generated: commands -->`. The content comes from `conf/`, from the
typed schema, from the `--help` of each command, and from the names that `imdbcls` exports. Each notebook becomes a page
with its saved outputs. The hook also turns links to files outside the documentation into plain text, because the site
does not contain these files, and removes the backslash before a vertical bar in the code of a table, which only GitHub
needs.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files
from nbconvert import MarkdownExporter

from imdbcls.config.json_schema import INTERPOLATION, json_schema
from imdbcls.config.options import ConfigKey, config_keys, groups

ROOT = Path(__file__).resolve().parent.parent
MARKER = re.compile(r"^<!-- generated: (\w+) -->$", re.MULTILINE)
OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\((?:\.\./)+(?:\.\./)[^)]*\)")
NOTEBOOK = re.compile(r"(\]\(notebooks/[\w-]+)\.ipynb\)")  # the page of a notebook has the same name
TABLE_ROW, CODE = re.compile(r"^\|.*\|$", re.MULTILINE), re.compile(r"`[^`]*`")
# The style of a data frame in a notebook. The site has its own style, for tables without a class.
STYLE = re.compile(r"<style scoped>.*?</style>\n|(?<=<table)(?: border=\"1\")? class=\"dataframe\"", re.DOTALL)
HELP_WIDTH = 96  # characters


def on_files(files: Files, config: Any, **_: Any) -> Files:
    """Add a page with figures for each notebook; called by MkDocs. The notebook itself is also in the site."""
    for notebook in [file for file in files if file.src_uri.endswith(".ipynb")]:
        page = notebook.src_uri.removesuffix(".ipynb")
        name = page.rpartition("/")[2]
        exporter = MarkdownExporter()
        text, resources = exporter.from_filename(
            str(notebook.abs_src_path), {"unique_key": name, "output_files_dir": f"{name}-files"}
        )
        download = f"[Download this notebook]({name}.ipynb)\n"
        files.append(File.generated(config, f"{page}.md", content=STYLE.sub("", text) + download))
        for path, content in resources["outputs"].items():
            files.append(File.generated(config, f"{page.rpartition('/')[0]}/{path}", content=content))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill the markers of a page, and adapt its links and tables to the site; called by MkDocs."""
    markdown = NOTEBOOK.sub(r"\1.md)", OUTSIDE.sub(r"\1", markdown))
    markdown = MARKER.sub(lambda match: WRITERS[match.group(1)](), markdown)
    return TABLE_ROW.sub(lambda row: CODE.sub(lambda code: code.group().replace(r"\|", "|"), row.group()), markdown)


def configuration() -> str:
    """Return the config keys, the groups and their choices, as Markdown."""
    schema = json_schema()
    keys = config_keys()
    top = [each for each in keys if not each.is_section and "." not in each.key]
    parts = ["## Keys at the top level", "", *table(top, schema)]
    sections = {each.key: each for each in keys if each.is_section}
    choices = groups()
    for name in sorted({*sections, *choices}):
        parts += [f"## {name}", ""]
        if name in sections:
            parts += [sections[name].description, "", *table(keys_below(name, keys), schema)]
        if name in choices:
            parts += choices_of(name, choices[name])
    for command in ("pretrain", "study", "tune"):
        found = [each for each in config_keys(f"{command}.yaml") if not each.is_section]
        parts += [f"## Keys of {command}", "", f"The keys and defaults of `python -m imdbcls.{command}`.", ""]
        parts += table(found, {})
    return "\n".join(parts)


def keys_below(section: str, keys: list[ConfigKey]) -> list[ConfigKey]:
    return [each for each in keys if each.key.startswith(f"{section}.") and not each.is_section]


def table(keys: list[ConfigKey], schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the rows of a Markdown table; without a schema, it has no column for the values."""
    yield "| key | default | values | description |" if schema else "| key | default | description |"
    yield "| --- | --- | --- | --- |" if schema else "| --- | --- | --- |"
    for each in keys:
        values = f" {values_of(find(schema, each.key))} |" if schema else ""
        yield f"| `{each.key}` | `{each.default}` |{values} {cell(each.description)} |"
    yield ""


def cell(text: str) -> str:
    """Return a text that a cell of a Markdown table shows as it is. Code in backticks stays code."""
    code = text.replace("|", r"\|").split("`")
    code[::2] = [re.sub(r"([*_\[\]])", r"\\\1", part).replace("<", "&lt;") for part in code[::2]]
    return "`".join(code)


def find(schema: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    for name in key.split("."):
        schema = schema["properties"][name]
    return schema


def values_of(schema: Mapping[str, Any]) -> str:
    """Describe the values that a JSON schema allows, such as `number > 0`."""
    if "anyOf" in schema:
        found = [values_of(each) for each in schema["anyOf"] if each != INTERPOLATION]
        return ", ".join(dict.fromkeys(found))
    if "enum" in schema or "const" in schema:
        return " ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))
    kind = schema.get("type")
    if kind in ("integer", "number"):
        return f"{kind} {', '.join(limits(schema))}".strip()
    if kind == "array":
        return f"list: {values_of(schema['items'])}"
    if kind == "object":
        return f"map to {values_of(schema['additionalProperties'])}"
    return {"boolean": "`true` `false`", "null": "`null`", "string": "text"}.get(str(kind), "any")


def limits(schema: Mapping[str, Any]) -> Iterator[str]:
    """Yield the limits of a number, except the largest values of integer types."""
    signs = {"minimum": "≥", "exclusiveMinimum": "&gt;", "maximum": "≤", "exclusiveMaximum": "&lt;"}
    for name, sign in signs.items():
        if name in schema and schema[name] < 2**31 - 1:
            yield f"{sign} {schema[name]:,}"


def choices_of(group: str, choices: Mapping[str, str]) -> Iterator[str]:
    """Yield the choices of a group with their descriptions, then their YAML files, folded."""
    yield from ("| choice | description |", "| --- | --- |")
    for choice, description in choices.items():
        yield f"| `{group}={choice}` | {cell(description)} |"
    yield ""
    for choice in choices:
        yield f'??? abstract "conf/{group}/{choice}.yaml"'
        text = (ROOT / "conf" / group / f"{choice}.yaml").read_text(encoding="utf-8")
        yield from ("    ```yaml", *(f"    {line}" for line in text.splitlines()), "    ```", "")


@cache
def help_of(module: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", f"imdbcls.{module}", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "COLUMNS": str(HELP_WIDTH), "NO_COLOR": "1"},
        cwd=ROOT,
    )
    return done.stdout


def commands() -> str:
    """Return the help of every command. The list of keys is left out, because it has its own page, Configuration."""
    from imdbcls.commands import COMMANDS

    with ThreadPoolExecutor(max_workers=2) as pool:
        texts = dict(zip(COMMANDS, pool.map(help_of, COMMANDS), strict=True))
    parts = []
    for name, text in texts.items():
        shown, _, rest = text.partition("\nGroups, selected by name")
        more = "\n\nThe groups and keys follow: see [Configuration](configuration.md)." if rest else ""
        parts.append(f"### {name}\n\n{COMMANDS[name]}\n\n```text\n{shown.strip()}\n```{more}")
    return "\n\n".join(parts)


def python() -> str:
    """Return directives for mkdocstrings: the names that `imdbcls` exports, functions first."""
    places = dict(sorted(exported().items(), key=lambda item: (item[0][0].isupper(), item[0])))
    return "\n\n".join(f"::: {module}.{name}" for name, module in places.items())


def exported() -> dict[str, str]:
    """Return the module of each name in `imdbcls.__all__`."""
    tree = ast.parse((ROOT / "imdbcls" / "__init__.py").read_text(encoding="utf-8"))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
    found = {alias.name: str(node.module) for node in imports for alias in node.names}
    import imdbcls

    return {name: found[name] for name in imdbcls.__all__}


WRITERS = {"configuration": configuration, "commands": commands, "python": python}
