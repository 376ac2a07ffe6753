"""The reference page of the configuration, rendered from the declarations.

The one idea: the page is never edited; ``make docs`` writes it and a test compares it.
"""

from __future__ import annotations

from pghaven.config.loading import FILE_VARIABLE, LOCAL_FILE, SYSTEM_FILE, environment_name
from pghaven.config.schema import Option, Section
from pghaven.config.values import SECTIONS

_HEAD = f"""# Configuration

<!-- Generated from src/pghaven/config/values.py by "make docs"; do not edit. -->

pghaven reads one TOML file, the first of these that is there:

1. the file named by `--config FILE`
2. the file named by `${FILE_VARIABLE}`
3. `./{LOCAL_FILE}`
4. `{SYSTEM_FILE}`

A file that was named must exist. A file that is there but cannot be read is an error; no other file is tried instead.
Unknown sections, unknown options and invalid values stop every command; all problems are listed at once, each with
its line.

Any option of a configured section can be overridden by an environment variable made of the section, its name and the
option, joined by two underscores, in capitals, with `-` written as `_`: for example
`{environment_name("cluster", "main", "processes")}=4`. A list is written with commas between its names.
Other variables with two underscores that begin with `PGHAVEN_` are errors, so that a misspelt one is not overlooked.

```toml
[repository.main]
url = "file:///var/lib/pghaven"

[cluster.main]
data_directory = "/var/lib/postgresql/17/main"
conninfo = "host=/var/run/postgresql dbname=postgres"
repositories = ["main"]

[cluster.main.retention]
window = "7d"
```
"""


def render_reference() -> str:
    """The whole page, Markdown."""
    return _HEAD + "".join(_render_section(section, f"{section.name}.NAME") for section in SECTIONS)


def _render_section(section: Section, title: str, heading: str | None = None) -> str:
    parts = [f"\n## {heading or f'[{title}]'}\n\n{section.doc}\n"]
    parts.extend(_render_option(option) for option in section.options.values())
    parts.extend(_render_section(part, f"{title}.{part.name}") for part in section.parts)
    parts.extend(_render_section(one, "", f"[[{title}.{one.name}]]") for one in section.repeated)
    return "".join(parts)


def _render_option(option: Option) -> str:
    if option.required:
        default = "none: the option is required"
    elif option.default not in (None, ""):
        default = f'`"{option.default}"`' if isinstance(option.default, str) else f"`{option.default}`"
    else:
        default = option.default_words
    schemes = f"- For: {', '.join(f'`{scheme}://`' for scheme in option.schemes)}\n" if option.schemes else ""
    return (
        f"\n### {option.name}\n\n{option.doc}\n\n{schemes}"
        f"- Written as: {option.kind.written}\n"
        f"- Default: {default}\n"
        f"- Example: `{option.name} = {option.example}`\n"
        f"- Since: {option.since}\n"
    )
